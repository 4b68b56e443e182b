//! The Debian package: installed into an empty root it runs from there, brings its pages and units, and goes without a trace.

use std::{fs, path::Path, process::Command};

use pathlab_guard::privilege::{root_or_skip, skip};

fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[test]
fn it_installs_into_an_empty_root_runs_there_and_is_removed_whole() {
    let name = "it_installs_into_an_empty_root_runs_there_and_is_removed_whole";
    if !root_or_skip(name) {
        return;
    }
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return skip(name, "needs dpkg-deb: a Debian or Ubuntu host");
    }
    let place = tempfile::tempdir().unwrap();
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    output(
        Command::new(tree.join("scripts/deb"))
            .env("BINARY", env!("CARGO_BIN_EXE_pathlab"))
            .env("OUT", place.path())
            .env("COMPRESS", "none")
            .current_dir(tree),
    );
    let package = fs::read_dir(place.path()).unwrap().next().unwrap().unwrap().path();
    let root = place.path().join("root");
    for folder in ["updates", "info"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = || {
        let mut dpkg = Command::new("dpkg");
        // The libraries that it depends on are not in an empty root, and are taken from this host.
        dpkg.arg(format!("--root={}", root.display())).arg("--force-depends");
        dpkg
    };
    output(dpkg().arg("-i").arg(&package));
    let program = root.join("usr/bin/pathlab");
    assert!(output(Command::new(&program).arg("--version")).starts_with("pathlab "));
    output(Command::new(&program).args(["lab", "run", "evening", "--out"]).arg(place.path().join("run")));
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/pathlab-canary@.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/pathlab ") && !unit.contains("/usr/local/"), "{unit}");
    for file in [
        "usr/share/man/man1/pathlab-report.1.gz",
        "usr/share/bash-completion/completions/pathlab",
        "usr/share/pathlab/provider-pack",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    output(dpkg().args(["--purge", "pathlab"]));
    assert!(!root.join("usr/bin/pathlab").exists() && !root.join("usr/share/pathlab").exists());
}
