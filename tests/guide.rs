//! The guide does what it says: every command of its console blocks runs, in order, in one directory.

use std::fs;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;

const GUIDE: &str = include_str!("../docs/reproduce-a-bad-evening.md");

/// The lines with a `$` of the blocks that are marked as console.
fn commands() -> Vec<Vec<String>> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in GUIDE.lines() {
        match line.strip_prefix("```") {
            Some(mark) => inside = mark == "console",
            None if inside => commands.extend(line.strip_prefix("$ pathlab ").map(words)),
            None => {}
        }
    }
    commands
}

/// Words parted by spaces, those between quotes together.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[test]
fn every_command_of_the_guide_runs() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for args in commands {
        let output = isolation::pathlab(place.path(), "").args(&args).output().expect("pathlab was built");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "pathlab {args:?}: {}\n{said}", output.status);
        match args[1].as_str() {
            "run" => {
                assert!(said.contains("holds") && !said.contains("FAILS"), "{said}");
                let directory =
                    place.path().join(&args[args.iter().position(|arg| arg == "--out").expect("given") + 1]);
                let truth = fs::read_to_string(directory.join("truth.json")).expect("written");
                assert!(truth.contains("\"schema\": \"pathlab.truth/1\""), "{truth}");
            }
            "compare" => assert!(said.contains("B − A"), "{said}"),
            _ => {}
        }
    }
}

/// Every scenario that is shipped has its place in the guide, and the guide names no other.
#[test]
fn the_guide_knows_every_scenario() {
    for name in pathlab_netlab::scenario::Scenario::shipped().filter(|name| !["demo", "baseline"].contains(name)) {
        assert!(GUIDE.contains(&format!("`{name}`")), "{name}");
    }
}
