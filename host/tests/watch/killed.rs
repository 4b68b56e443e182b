//! Nothing stays in the kernel of a watch that was killed.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, stdin},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use pathlab_guard::privilege::root_or_skip;
use pathlab_host::watch::{Watch, WatchOptions};

const WATCHING: &str = "the programs are in the kernel";

#[test]
fn kill_minus_nine_takes_the_programs_along() {
    if !root_or_skip("killed::kill_minus_nine_takes_the_programs_along") {
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "killed::watches_until_it_is_told", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let told = lines.map_while(Result::ok).any(|line| line.contains(WATCHING));
    let theirs = programs_of(child.id());
    let there = loaded();
    child.kill().expect("a child");
    child.wait().expect("a child");
    assert!(told, "the watch did not begin");
    assert!(theirs.len() >= 5, "the programs of drops and softirqs, and what else needs no option: {theirs:?}");
    assert!(theirs.is_subset(&there), "{theirs:?} of {there:?}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !theirs.is_disjoint(&loaded()) {
        assert!(Instant::now() < deadline, "still loaded after 10 s: {theirs:?}");
        std::thread::yield_now();
    }
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "started by kill_minus_nine_takes_the_programs_along"]
fn watches_until_it_is_told() {
    if !root_or_skip("killed::watches_until_it_is_told") {
        return;
    }
    let watch = Watch::begin(&WatchOptions::default()).expect("a watch");
    assert_eq!(watch.lacks(), [""; 0]);
    println!("{WATCHING}");
    stdin().read_line(&mut String::new()).expect("an end of the input");
}

/// The kernel's numbers of the programs to which a process has a descriptor.
fn programs_of(process: u32) -> BTreeSet<u32> {
    let infos = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("a process").flatten();
    let texts = infos.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())).collect()
}

fn loaded() -> BTreeSet<u32> {
    // one that goes while the list is read is not among them any more
    loaded_programs().filter_map(Result::ok).map(|info| info.id()).collect()
}
