//! Nothing stays in the kernel of a watch that was killed, no program and no map.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, stdin},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aya::{maps::loaded_maps, programs::loaded_programs};
use pathlab_guard::privilege::root_or_skip;
use pathlab_host::watch::{Tick, Watch, WatchOptions};

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
    let theirs = KINDS.map(|kind| ids_of(child.id(), kind));
    let there = loaded();
    child.kill().expect("a child");
    child.wait().expect("a child");
    assert!(told, "the watch did not begin");
    let [programs, maps] = &theirs;
    assert!(programs.len() >= 10 && maps.len() >= 6, "those of every part: {theirs:?}");
    assert!(programs.is_subset(&there[0]) && maps.is_subset(&there[1]), "{theirs:?} of {there:?}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while theirs.iter().zip(loaded()).any(|(theirs, loaded)| !theirs.is_disjoint(&loaded)) {
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
    let options = WatchOptions {
        processes: vec![std::process::id()],
        tick: Some(Tick { hertz: 60.0, stall: Tick::STALL, port: None }),
        ..WatchOptions::default()
    };
    let watch = Watch::begin(&options).expect("a watch");
    // in a PID namespace threads are not watched
    assert!(watch.lacks().iter().all(|lack| lack.starts_with("threads: ")), "{:?}", watch.lacks());
    println!("{WATCHING}");
    stdin().read_line(&mut String::new()).expect("an end of the input");
}

/// What the kernel numbers, as fdinfo calls the number.
const KINDS: [&str; 2] = ["prog_id:", "map_id:"];

/// The kernel's numbers of what a process has a descriptor of.
fn ids_of(process: u32, kind: &str) -> BTreeSet<u32> {
    let infos = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("a process").flatten();
    let texts = infos.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix(kind)?.trim().parse().ok())).collect()
}

/// Programs and maps.
fn loaded() -> [BTreeSet<u32>; 2] {
    // one that goes while the list is read is not among them any more
    let programs = loaded_programs().filter_map(Result::ok).map(|info| info.id()).collect();
    [programs, loaded_maps().filter_map(Result::ok).map(|info| info.id()).collect()]
}
