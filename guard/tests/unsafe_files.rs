//! `unsafe` lives where ARCHITECTURE.md says, and nowhere else: the tree against the document's table, in both directions.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate of the workspace").to_owned()
}

/// Every Rust file under `folder`, by its path from the root.
fn sources(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && name != "runs" && !name.starts_with('.') {
            sources(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.strip_prefix(root).expect("below the root").to_str().expect("a name in ASCII").to_owned());
        }
    }
}

/// The words of a source without comments and string literals, roughly: enough to know `unsafe {` from talk about it.
fn code(source: &str) -> String {
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

fn is_unsafe(source: &str) -> bool {
    let code = code(source);
    ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern "].iter().any(|word| code.contains(word))
}

fn allows(source: &str) -> bool {
    let code = code(source);
    code.contains("allow(unsafe_code)") || code.contains("expect(unsafe_code)")
}

/// The paths in the first column of the table, with `{a,b}` written out; the row of the tests' support files is a rule, not a path.
fn documented(document: &str) -> BTreeSet<String> {
    let chapter = document.split("## Where `unsafe` lives").nth(1).expect("the chapter");
    let chapter = chapter.split("\n## ").next().expect("its text");
    let rows = chapter.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').nth(1).expect("a first column"));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .flat_map(written_out)
        .collect()
}

fn written_out(path: String) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path] };
    let (names, after) = rest.split_once('}').expect("a closing brace");
    names.split(',').map(|name| format!("{before}{name}{after}")).collect()
}

/// `CRATE/tests/...`, which the table allows as a whole.
fn is_of_tests(path: &str) -> bool {
    path.split('/').any(|part| part == "tests")
}

#[test]
fn unsafe_is_where_the_architecture_says() {
    let root = root();
    let document = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the document");
    let (rules, named): (BTreeSet<_>, BTreeSet<_>) =
        documented(&document).into_iter().partition(|path| path.contains('*'));
    assert_eq!(rules, BTreeSet::from(["*/tests/**".to_owned()]), "the one rule among the paths");
    let mut all = Vec::new();
    sources(&root, &root, &mut all);
    assert!(all.len() > 300, "{} files: the tree is not where it is looked for", all.len());
    let mut found = BTreeSet::new();
    for path in all.iter().filter(|path| !path.ends_with("unsafe_files.rs")) {
        let source = fs::read_to_string(root.join(path)).expect("a source");
        if allows(&source) && !is_of_tests(path) {
            found.insert(path.clone());
        }
        assert!(allows(&source) || !is_unsafe(&source), "{path}: unsafe without `allow(unsafe_code)`");
    }
    let undocumented: Vec<_> = found.difference(&named).collect();
    let gone: Vec<_> = named.difference(&found).collect();
    assert!(undocumented.is_empty(), "not in the table of ARCHITECTURE.md: {undocumented:?}");
    assert!(gone.is_empty(), "in the table of ARCHITECTURE.md, but without unsafe code: {gone:?}");
}

#[test]
fn every_unsafe_block_has_its_argument() {
    let root = root();
    let mut all = Vec::new();
    sources(&root, &root, &mut all);
    for path in all.iter().filter(|path| !path.ends_with("unsafe_files.rs")) {
        let source = fs::read_to_string(root.join(path)).expect("a source");
        let lines: Vec<&str> = source.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let begins = line.contains("unsafe {") && !line.trim_start().starts_with("//") && !line.contains("extern");
            let before = &lines[at.saturating_sub(12)..=at];
            let argued = before.iter().any(|line| line.contains("SAFETY:"));
            assert!(!begins || argued, "{path}:{}: an unsafe block without SAFETY", at + 1);
        }
    }
}

#[test]
fn the_check_sees_what_it_is_to_see() {
    assert!(is_unsafe("let a = unsafe { b() };") && is_unsafe("unsafe impl Send for Ring {}"));
    assert!(!is_unsafe("// unsafe { }\n/// unsafe fn x") && !is_unsafe("#![deny(unsafe_code)]"));
    assert!(allows("#![allow(unsafe_code)]") && !allows("// #![allow(unsafe_code)]"));
    let document = "## Where `unsafe` lives\n| file | for |\n|---|---|\n| `a/{b,c}.rs`, and one call in `d.rs` | x `y.rs` |\n## Next\n| `e.rs` | |";
    assert_eq!(documented(document), ["a/b.rs", "a/c.rs", "d.rs"].map(str::to_owned).into());
}
