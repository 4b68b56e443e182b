//! Compiles a crate's `bpf/*.bpf.c` with the distribution's clang, so that a kernel program is built like any other source.
//!
//! ```text
//! build.rs ── compile(&["bpf/reflector.bpf.c"]) ──► clang -target bpf ──► $OUT_DIR/reflector.bpf.o
//!                                                                               │
//! src/ ── aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reflector.bpf.o"))
//! ```
//!
//! A `build.rs` is one line:
//!
//! ```no_run
//! pathlab_bpf_build::compile(&["bpf/reflector.bpf.c"]);
//! ```
//!
//! The object depends on the source and on the compiler, not on where the tree lies. It does not load, verify or strip anything.

mod clang;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

pub use clang::{Clang, Missing};

/// Compiles each of `sources`, relative to the crate's folder, to `$OUT_DIR/<file name with .o for .c>`.
///
/// Cargo runs the build script again when a source or a header that it includes has changed. A missing clang ends the build
/// with one sentence that names the package, an error in a source with what clang says of it.
///
/// # Panics
/// When not called from a build script: `OUT_DIR` and `CARGO_MANIFEST_DIR` are missing then.
pub fn compile(sources: &[&str]) {
    let crate_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR: call this from build.rs"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR: call this from build.rs"));
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = match Clang::find(env::var_os("CLANG").as_deref(), env::var_os("PATH").as_deref()) {
        Ok(clang) => clang,
        // cargo fails the build for an error told so, without a backtrace of the build script
        Err(missing) => return println!("cargo::error={missing}"),
    };
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
        match compile_in(&clang, &crate_dir, source, &out_dir) {
            Ok(Built { dependencies, warnings }) => {
                dependencies.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
                warnings.lines().for_each(|line| println!("cargo::warning={line}"));
            }
            Err(message) => message.lines().for_each(|line| println!("cargo::error={line}")),
        }
    }
}

struct Built {
    /// The source and every header that it includes, relative to the crate.
    dependencies: Vec<String>,
    warnings: String,
}

fn compile_in(clang: &Clang, crate_dir: &Path, source: &str, out_dir: &Path) -> Result<Built, String> {
    let name = Path::new(source).file_stem().ok_or_else(|| format!("{source}: not a file name"))?;
    let object = out_dir.join(name).with_added_extension("o");
    let listing = out_dir.join(name).with_added_extension("d");

    let output = Command::new(clang.path())
        .current_dir(crate_dir)
        // v3: 32-bit jumps and arithmetic, in every kernel since 5.1
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-fno-strict-aliasing", "-nostdinc"])
        .args(["-Wall", "-Wextra", "-Wno-unused-function"])
        // no path of this machine goes into the object
        .arg(format!("-ffile-prefix-map={}=.", crate_dir.display()))
        .arg("-fdebug-compilation-dir=.")
        .arg("-MD")
        .arg("-MF")
        .arg(&listing)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object)
        .output()
        .map_err(|error| format!("{}: {error}", clang.path().display()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{} cannot compile {source} for the bpf target:\n{said}", clang.path().display()));
    }
    let listing = fs::read_to_string(&listing).map_err(|error| format!("{}: {error}", listing.display()))?;
    Ok(Built { dependencies: prerequisites(&listing), warnings: said })
}

/// What stands right of the colon in a make rule.
fn prerequisites(rule: &str) -> Vec<String> {
    let rule = rule.replace("\\\n", " ");
    let (_, list) = rule.split_once(": ").unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "#include \"answer.h\"\n\
        __attribute__((section(\"xdp\"), used)) int program(void *context) { (void)context; return ANSWER; }\n";

    fn tree(program: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("bpf")).expect("bpf/");
        fs::write(dir.path().join("bpf/answer.h"), "enum { ANSWER = 2 };\n").expect("header");
        fs::write(dir.path().join("bpf/program.bpf.c"), program).expect("source");
        dir
    }

    fn clang() -> Clang {
        Clang::find(env::var_os("CLANG").as_deref(), env::var_os("PATH").as_deref()).expect("clang")
    }

    #[test]
    fn the_object_does_not_depend_on_where_the_tree_lies() {
        let objects = [tree(PROGRAM), tree(PROGRAM)].map(|dir| {
            let built = compile_in(&clang(), dir.path(), "bpf/program.bpf.c", dir.path()).expect("compiles");
            assert_eq!(built.dependencies, ["bpf/program.bpf.c", "bpf/answer.h"]);
            assert_eq!(built.warnings, "");
            fs::read(dir.path().join("program.bpf.o")).expect("object")
        });
        assert!(objects[0] == objects[1]);
        assert!(objects[0].starts_with(b"\x7fELF"));
    }

    #[test]
    fn an_error_in_the_source_is_told_with_its_line() {
        let dir = tree("int program(void) { return nothing; }\n");
        let error = compile_in(&clang(), dir.path(), "bpf/program.bpf.c", dir.path()).err().expect("an error");
        assert!(error.contains("bpf/program.bpf.c:1:28: error:"), "{error}");
    }

    #[test]
    fn prerequisites_of_a_rule() {
        assert_eq!(
            prerequisites("/out/a.o: bpf/a.c \\\n  bpf/b.h \\\n  ../x/c.h\n"),
            ["bpf/a.c", "bpf/b.h", "../x/c.h"]
        );
        assert!(prerequisites("").is_empty());
    }
}
