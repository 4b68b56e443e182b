//! The help of every verb, byte for byte as `tests/help/` has it: a flag that comes, goes or changes is seen in a review.
//! `PATHLAB_BLESS=1 cargo test --test help` rewrites the files.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

#[test]
fn every_verb_explains_itself_as_reviewed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let bless = env::var_os("PATHLAB_BLESS").is_some();
    let mut stale: BTreeSet<String> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut todo = vec![Vec::<String>::new()];
    while let Some(verb) = todo.pop() {
        let output = Command::new(env!("CARGO_BIN_EXE_pathlab")).args(&verb).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{verb:?}");
        let name = [&["pathlab".to_owned()], verb.as_slice()].concat().join("-") + ".txt";
        stale.remove(&name);
        if bless {
            fs::write(directory.join(&name), &help).unwrap();
        }
        let reviewed = fs::read_to_string(directory.join(&name)).unwrap_or_default();
        assert_eq!(help, reviewed, "{name}; PATHLAB_BLESS=1 takes the new text over");
        todo.extend(actions(&help).map(|action| [verb.as_slice(), &[action]].concat()));
    }
    if bless {
        stale.iter().for_each(|name| fs::remove_file(directory.join(name)).unwrap());
    } else {
        assert!(stale.is_empty(), "help of verbs that are no more: {stale:?}");
    }
}

/// What stands under `Commands:`.
fn actions(help: &str) -> impl Iterator<Item = String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned)
}

/// One page a verb, in which every option of its help stands, and completions for three shells.
#[test]
fn every_verb_has_a_man_page_with_all_its_options() {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pathlab")).arg("manual").arg(place.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let man = place.path().join("man1");
    let mut pages: BTreeSet<String> =
        fs::read_dir(&man).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{}.1", path.file_stem().unwrap().to_string_lossy());
        let page = fs::read_to_string(man.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let page = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "");
        let help = fs::read_to_string(&path).unwrap();
        let options = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
        for option in options.map(|word| word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric())) {
            assert!(page.contains(option.split(['=', '[']).next().unwrap_or(option)), "{name}: {option}");
        }
        pages.remove(&name);
    }
    assert!(pages.is_empty(), "pages of what has no help: {pages:?}");
    for name in ["pathlab.bash", "_pathlab", "pathlab.fish"] {
        let completion = fs::read_to_string(place.path().join("completions").join(name)).unwrap();
        assert!(completion.contains("reflect") && completion.contains("datapath"), "{name}");
    }
}
