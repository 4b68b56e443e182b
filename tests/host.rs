//! `pathlab host` as a user meets it: with and without rights, live and from a capture, and what it says to wrong wishes.

use std::process::Command;

use pathlab_guard::privilege::root_or_skip;
use serde_json::Value;

#[path = "support/nobody.rs"]
mod nobody;

use nobody::as_nobody;

fn pathlab() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pathlab"))
}

#[test]
fn without_rights_what_can_be_read_is_read_and_the_rest_says_why() {
    if !root_or_skip("without_rights_what_can_be_read_is_read_and_the_rest_says_why") {
        return;
    }
    let ran = as_nobody(&["host", "audit", "--iface", "lo", "--window", "10ms", "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let audit: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(audit["schema"], "pathlab.host/1");
    let entries = audit["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 24);
    let judged = entries.iter().filter(|entry| ["ok", "finding"].contains(&entry["state"].as_str().unwrap())).count();
    assert!(judged > 5, "only {judged} of 24 rules could be judged: {audit:#}");
    for entry in entries {
        assert!(!entry["because"].as_str().unwrap().is_empty(), "{entry}");
    }
}

#[test]
fn a_capture_is_written_once_and_audited_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("capture");
    let capture =
        |to| pathlab().args(["host", "capture", "--iface", "lo", "--window", "10ms"]).arg(to).output().unwrap();
    let ran = capture(&tree);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("files of lo"));
    let again = capture(&tree);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists: name a new folder"));
    let audit = pathlab().args(["host", "audit", "--explain", "--root"]).arg(&tree).output().unwrap();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stderr));
    let text = String::from_utf8_lossy(&audit.stdout);
    assert!(text.contains("softnet") && text.contains("read proc/net/softnet_stat"), "{text}");
}

#[test]
fn wrong_wishes_are_one_sentence() {
    let empty = tempfile::tempdir().unwrap();
    let root = empty.path().to_str().unwrap();
    for (arguments, words) in [
        (vec!["audit", "--iface", "nowhere0"], "interface nowhere0: no such interface"),
        (vec!["audit", "--root", root], "this is no capture"),
        (vec!["audit", "--cpus", "a-b"], "is no list of CPUs"),
    ] {
        let ran = pathlab().arg("host").args(&arguments).output().unwrap();
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(said.contains(words), "{said}");
    }
}
