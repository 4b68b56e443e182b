//! Whole hosts, captured or built, with what is to be found on each.
//!
//! A tree is kept as one text: `path = value`, or `path:` and its lines indented by a tab; a value of `!reason` could not be read. Beside
//! it stands what the audit says of it. `PATHLAB_BLESS=1 cargo test -p pathlab-host` writes that anew.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use pathlab_host::{Audit, Capture, Expectation, Live, State, Tree};

fn trees() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees");
    let mut trees: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tree"))
        .collect();
    trees.sort();
    trees
}

/// The files of a tree that is kept as one text.
fn files(text: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        if let Some((path, value)) = line.split_once(" = ") {
            match value.strip_prefix('!') {
                Some(reason) => files.insert(format!("{path}.unread"), format!("{reason}\n")),
                None => files.insert(path.to_owned(), format!("{value}\n")),
            };
            continue;
        }
        let path = line.strip_suffix(':').unwrap_or_else(|| panic!("{line:?} is neither a value nor a heading"));
        let mut content = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
            content += &line[1..];
            content += "\n";
        }
        files.insert(path.to_owned(), content);
    }
    files
}

fn lay_out(files: &BTreeMap<String, String>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let place = folder.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }
    folder
}

/// As it is compared: a line for each answer, its commands below.
fn told(audit: &Audit) -> String {
    let mut told = String::new();
    for entry in &audit.entries {
        let state = match entry.state {
            State::Ok => "ok",
            State::Finding => "finding",
            State::NotApplicable => "not applicable",
            State::CannotRead => "cannot read",
        };
        told += &format!("{} {} {}: {state}: {}\n", entry.rule, entry.subject, entry.name, entry.because);
        if let Some(change) = &entry.change {
            change.fix().iter().for_each(|command| told += &format!("\t-> {command}\n"));
            change.undo().iter().for_each(|command| told += &format!("\t<- {command}\n"));
        }
    }
    told
}

/// The text may name what the service needs: `# burst 1024`, `# budget_us 50`, `# cpus 8-15`.
fn expectation(text: &str) -> Expectation {
    let mut expectation = Expectation::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
        match line.split_once(' ') {
            Some(("burst", packets)) => expectation.burst = packets.parse().ok(),
            Some(("budget_us", span)) => expectation.budget_us = span.parse().unwrap(),
            Some(("cpus", cpus)) => expectation.cpus = pathlab_host::Cpus::list(cpus),
            _ => {}
        }
    }
    expectation
}

#[test]
fn every_host_has_its_findings() {
    let trees = trees();
    assert!(trees.len() >= 12, "only {} trees", trees.len());
    let mut wrong = Vec::new();
    for tree in trees {
        let text = fs::read_to_string(&tree).unwrap();
        let folder = lay_out(&files(&text));
        let ports = Capture::open(folder.path()).unwrap().ports;
        let audit = told(&Audit::new(&Tree::new(folder.path()), &ports, &expectation(&text)));
        let golden = tree.with_extension("audit");
        if env::var_os("PATHLAB_BLESS").is_some() {
            fs::write(&golden, &audit).unwrap();
        }
        let wanted = fs::read_to_string(&golden).unwrap_or_default();
        if audit != wanted {
            let differs = audit.lines().zip(wanted.lines()).find(|(is, was)| is != was);
            wrong.push(format!("{}: {differs:?}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every rule finds something somewhere and is content somewhere else: none of them only nods.
#[test]
fn every_rule_is_met_both_ways() {
    let mut states: BTreeMap<(u8, State), usize> = BTreeMap::new();
    for tree in trees() {
        let text = fs::read_to_string(&tree).unwrap();
        let folder = lay_out(&files(&text));
        let ports = Capture::open(folder.path()).unwrap().ports;
        for entry in Audit::new(&Tree::new(folder.path()), &ports, &expectation(&text)).entries {
            *states.entry((entry.rule, entry.state)).or_default() += 1;
        }
    }
    for rule in 1..=24 {
        for state in [State::Ok, State::Finding] {
            assert!(states.contains_key(&(rule, state)), "rule {rule} is never {state:?} on any tree");
        }
    }
}

/// Each step has its inverse, by the same program.
#[test]
fn every_command_has_its_way_back() {
    for tree in trees() {
        let text = fs::read_to_string(&tree).unwrap();
        let folder = lay_out(&files(&text));
        let ports = Capture::open(folder.path()).unwrap().ports;
        for entry in Audit::new(&Tree::new(folder.path()), &ports, &expectation(&text)).entries {
            let Some(change) = entry.change else { continue };
            assert!(!change.steps.is_empty(), "{}: rule {}", tree.display(), entry.rule);
            for step in &change.steps {
                let (fix, undo) = (step.fix(), step.undo());
                assert_ne!(fix, undo, "{}: rule {}", tree.display(), entry.rule);
                let first = |commands: &[String]| commands[0].split_whitespace().next().map(str::to_owned);
                assert_eq!(first(&fix), first(&undo), "{}: rule {}", tree.display(), entry.rule);
            }
        }
    }
}

#[test]
fn a_capture_of_this_host_is_audited_to_the_same_bytes() {
    let ports: Vec<String> = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(&format!("/sys/class/net/{name}/queues")).exists())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("capture");
    let expectation = Expectation { burst: Some(300), budget_us: 100, cpus: None };
    let (live, files) = Capture::new(ports.clone(), 0).write(Live::begin(&ports), &expectation, &root).unwrap();
    assert!(files > 20, "a capture of {files} files");
    let again = Capture::open(&root).unwrap();
    assert_eq!(again.ports, ports);
    let offline = Audit::new(&Tree::new(&root), &again.ports, &expectation);
    assert_eq!(serde_json::to_string(&live).unwrap(), serde_json::to_string(&offline).unwrap());
    assert!(live.count(State::Ok) > 5, "{}", told(&live));
    assert!(Capture::new(ports.clone(), 0).write(Live::begin(&ports), &expectation, &root).is_err(), "written over");
}
