//! What this process may do, asked before anything is touched, so that a missing right is one sentence and not a
//! half-done change.

use std::{env, fs::OpenOptions, io::Write};

/// Effective user id 0.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("Uid:"))?;
            line.split_whitespace().nth(2).map(|effective| effective == "0")
        })
        .unwrap_or(false)
}

/// For the head of a privileged test: `true` to go on, `false` to return at once because the privilege is missing.
///
/// A skip is counted: its line goes to stderr and to the file that `PATHLAB_SKIPPED` names.
///
/// # Panics
/// When `PATHLAB_REQUIRE` contains `root` and the privilege is missing: then a skip would be a lie.
pub fn root_or_skip(test: &str) -> bool {
    if is_root() {
        return true;
    }
    assert!(!required("root"), "{test}: needs root, and PATHLAB_REQUIRE=root forbids to skip it");
    skip(test, "needs root");
    false
}

/// Whether `PATHLAB_REQUIRE`, a list with commas, contains `need`: then a test that cannot run for want of it has to fail.
pub fn required(need: &str) -> bool {
    env::var("PATHLAB_REQUIRE").is_ok_and(|list| list.split(',').any(|listed| listed == need))
}

/// Counts a test that cannot run here, with the reason.
pub fn skip(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}");
    eprintln!("{line}");
    let Ok(path) = env::var("PATHLAB_SKIPPED") else { return };
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        let _ = writeln!(file, "{line}");
    }
}
