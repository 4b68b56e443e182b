//! On a real kernel: what a journal names is taken back, by its owner or by the guardian, and nothing else is touched.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pathlab_guard::{
    Error, Family, Guardian, Journal, Leftover, Object, Process, Route, Rtnetlink, Rule, Sysctl,
    privilege::root_or_skip,
};

/// A namespace that goes away with the test, also when it panics.
struct Netns(String);

impl Netns {
    fn new(name: &str) -> Self {
        let name = format!("plgd-{name}-{}", std::process::id());
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Self(name)
    }

    /// All that the tests may change in it, as text.
    fn state(&self) -> String {
        let ns = &self.0;
        sh(&format!(
            "for f in -4 -6; do ip -n {ns} $f rule; ip -n {ns} $f route show table all; done; ip -n {ns} -br link; \
             nsenter --net=/run/netns/{ns} cat /proc/sys/net/ipv4/fwmark_reflect"
        ))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status());
    }
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Puts one of everything into `ns`, and back to where it can be found: the journal.
fn build(journal: &mut Journal, ns: &str, file: &Path) -> Process {
    let netns = Some(ns.to_owned());
    journal.record(Object::Link { netns: netns.clone(), name: "pl0".into() }).unwrap();
    sh(&format!(
        "ip -n {ns} link add pl0 type veth peer pl1; ip -n {ns} link set pl0 up; \
         ip -n {ns} addr add 192.0.2.2/24 dev pl0; ip -n {ns} addr add 2001:db8::2/64 dev pl0 nodad"
    ));
    let sysctl = Sysctl::read(Some(ns), "net/ipv4/fwmark_reflect").unwrap();
    journal.record(sysctl.clone()).unwrap();
    sysctl.write("1").unwrap();
    let mut rtnetlink = Rtnetlink::open(Some(ns)).unwrap();
    for (family, to, via) in [(Family::V4, "0.0.0.0", "192.0.2.1"), (Family::V6, "::", "2001:db8::1")] {
        let route = Route {
            netns: netns.clone(),
            to: to.parse().unwrap(),
            prefix: 0,
            via: via.parse().ok(),
            dev: "pl0".into(),
            source: None,
            table: 22_200,
        };
        let rule = Rule {
            netns: netns.clone(),
            family,
            priority: 10_000,
            fwmark: 0x1_0000,
            mask: 0xff_0000,
            udp_source_port: None,
            to: None,
            table: 22_200,
        };
        journal.record_all([route.clone().into(), rule.clone().into()]).unwrap();
        route.add(&mut rtnetlink).unwrap();
        rule.add(&mut rtnetlink).unwrap();
    }
    journal.record(Object::File { path: file.to_owned() }).unwrap();
    fs::write(file, "").unwrap();
    let pid = sh("sleep 600 >/dev/null 2>&1 & echo $!").trim().parse().unwrap();
    let process = Process::of(pid).unwrap();
    journal.record(Object::Process(process)).unwrap();
    process
}

#[test]
fn one_of_everything_is_taken_back_and_twice_is_once() {
    if !root_or_skip("one_of_everything_is_taken_back_and_twice_is_once") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = Netns::new("all");
    let before = ns.state();
    let mut journal = Journal::create_in(dir.path(), "test", "all").unwrap();
    let file = dir.path().join("socket");
    let process = build(&mut journal, &ns.0, &file);
    let during = ns.state();
    for line in [
        "from all fwmark 0x10000/0xff0000 lookup 22200 proto 222",
        "default via 2001:db8::1 dev pl0 table 22200 proto 222",
    ] {
        assert!(during.contains(line), "{during}");
    }
    let copy = fs::read(journal.path()).unwrap();
    let path = journal.path().to_owned();
    let undone = journal.undo().unwrap();
    assert_eq!((undone.removed.len(), undone.gone.len()), (8, 0));
    assert_eq!(ns.state(), before);
    assert!(!process.is_alive() && !file.exists());

    fs::write(&path, copy).unwrap();
    let again = Leftover::read(&path).unwrap().undo().unwrap();
    assert_eq!((again.removed.len(), again.gone.len()), (0, 8));
}

#[test]
fn a_like_rule_of_somebody_else_stays() {
    if !root_or_skip("a_like_rule_of_somebody_else_stays") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = Netns::new("other");
    sh(&format!(
        "ip -n {0} rule add fwmark 0x10000/0xff0000 lookup 222 priority 10000; \
         ip -n {0} route add default dev lo table 222 proto static",
        ns.0
    ));
    let before = ns.state();
    let netns = Some(ns.0.clone());
    let rule = Rule {
        netns: netns.clone(),
        family: Family::V4,
        priority: 10_000,
        fwmark: 0x1_0000,
        mask: 0xff_0000,
        udp_source_port: None,
        to: None,
        table: 222,
    };
    let route = Route {
        netns,
        to: "0.0.0.0".parse().unwrap(),
        prefix: 0,
        via: None,
        dev: "lo".into(),
        source: None,
        table: 222,
    };
    let mut journal = Journal::create_in(dir.path(), "test", "other").unwrap();
    journal.record_all([rule.into(), route.into()]).unwrap();
    assert_eq!(journal.undo().unwrap().gone.len(), 2);
    assert_eq!(ns.state(), before);
}

#[test]
fn a_namespace_is_deleted_with_all_that_is_in_it() {
    if !root_or_skip("a_namespace_is_deleted_with_all_that_is_in_it") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = Netns::new("gone");
    let mut journal = Journal::create_in(dir.path(), "test", "gone").unwrap();
    journal.record(Object::Netns { name: ns.0.clone() }).unwrap();
    build(&mut journal, &ns.0, &dir.path().join("socket"));
    let path = journal.path().to_owned();
    let copy = fs::read(&path).unwrap();
    assert_eq!(journal.undo().unwrap().removed.len(), 9);
    assert!(!sh("ip netns list").contains(&ns.0));
    fs::write(&path, copy).unwrap();
    assert_eq!(Leftover::read(&path).unwrap().undo().unwrap().gone.len(), 9);
}

/// Not a test of its own: the guardian's entry point, as the hidden verb of the command is.
#[test]
#[ignore = "started by the other tests"]
fn guardian_entry() {
    let journal = std::env::args().next_back().unwrap();
    pathlab_guard::watch(Path::new(&journal)).unwrap();
}

const GUARDIAN: [&str; 4] = ["--ignored", "--exact", "guardian_entry", "--nocapture"];

/// Not a test of its own: a controller to be killed. Prints its guardian's id when all is built, and waits.
#[test]
#[ignore = "started by the other tests"]
fn controller_entry() {
    let dir = PathBuf::from(std::env::var("PLGD_DIR").unwrap());
    let ns = std::env::var("PLGD_NETNS").unwrap();
    let mut journal = Journal::create_in(&dir, "test", "killed").unwrap();
    let guardian = Guardian::spawn(&journal, GUARDIAN.map(AsRef::as_ref)).unwrap();
    build(&mut journal, &ns, &dir.join("socket"));
    println!("built {}", guardian.pid());
    match std::env::var("PLGD_END").unwrap().as_str() {
        "wait" => drop(std::io::stdin().read_line(&mut String::new())),
        "undo" => drop(journal.undo().unwrap()),
        "keep" => drop(journal.keep().unwrap()),
        other => panic!("{other}"),
    }
    drop(guardian);
    println!("done");
    drop(std::io::stdin().read_line(&mut String::new()));
}

struct Controller {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    guardian: Process,
}

impl Controller {
    fn start(dir: &Path, ns: &Netns, end: &str) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["--ignored", "--exact", "controller_entry", "--nocapture"])
            .envs([("PLGD_NETNS", ns.0.as_str()), ("PLGD_DIR", dir.to_str().unwrap()), ("PLGD_END", end)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let guardian = lines.by_ref().find_map(|line| line.unwrap().strip_prefix("built ")?.parse().ok()).unwrap();
        Self { child, lines, guardian: Process::of(guardian).unwrap() }
    }

    fn wait_done(&mut self) {
        assert!(self.lines.by_ref().any(|line| line.unwrap() == "done"));
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits for an event, up to a limit.
fn within(limit: Duration, mut event: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !event() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        std::thread::yield_now();
    }
    start.elapsed()
}

#[test]
fn after_kill_9_the_guardian_takes_everything_back_within_a_second() {
    if !root_or_skip("after_kill_9_the_guardian_takes_everything_back_within_a_second") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = Netns::new("kill");
    let before = ns.state();
    let mut controller = Controller::start(dir.path(), &ns, "wait");
    assert_ne!(ns.state(), before);
    // Ctrl-C reaches the whole process group, a service manager's stop every process.
    for signal in ["INT", "TERM", "HUP"] {
        sh(&format!("kill -{signal} {}", controller.guardian.pid));
    }
    controller.child.kill().unwrap();
    let took = within(Duration::from_secs(1), || !dir.path().join("test-killed.jsonl").exists());
    eprintln!("undone {took:?} after kill -9");
    assert_eq!(ns.state(), before);
    within(Duration::from_secs(1), || !controller.guardian.is_alive());
}

#[test]
fn the_guardian_goes_with_a_controller_that_ends_cleanly() {
    if !root_or_skip("the_guardian_goes_with_a_controller_that_ends_cleanly") {
        return;
    }
    for end in ["undo", "keep"] {
        let dir = tempfile::tempdir().unwrap();
        let ns = Netns::new(end);
        let mut controller = Controller::start(dir.path(), &ns, end);
        controller.wait_done();
        assert!(!controller.guardian.is_alive(), "the handle's drop waits for it");
        controller.child.kill().unwrap();
        controller.child.wait().unwrap();
        let path = dir.path().join("test-killed.jsonl");
        assert_eq!(path.exists(), end == "keep");
        if end == "keep" {
            assert_eq!(Leftover::read(&path).unwrap().undo().unwrap().removed.len(), 8);
        }
    }
}

#[test]
fn with_the_guardian_killed_too_the_journal_is_left_and_lists_what_is_there() {
    if !root_or_skip("with_the_guardian_killed_too_the_journal_is_left_and_lists_what_is_there") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = Netns::new("both");
    let before = ns.state();
    let mut controller = Controller::start(dir.path(), &ns, "wait");
    let path = dir.path().join("test-killed.jsonl");
    assert!(!Leftover::read(&path).unwrap().is_orphan());
    sh(&format!("kill -KILL {}", controller.guardian.pid));
    controller.child.kill().unwrap();
    controller.child.wait().unwrap();
    let left = Leftover::read(&path).unwrap();
    assert!(left.is_orphan() && !left.kept && left.objects.len() == 8);
    assert!(matches!(Journal::create_in(dir.path(), "test", "killed"), Err(Error::JournalExists { .. })));
    left.undo().unwrap();
    assert_eq!(ns.state(), before);
}
