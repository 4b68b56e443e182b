//! `pathlab host ab` on real packets: two settings that are alike show no difference; a delay that a setting makes is found, its stage is named, and the
//! change stays only where it helps. `scripts/soak host` asks the first twenty times at the default length.

#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/realtime.rs"]
mod realtime;
#[path = "support/verbs.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod verbs;
#[path = "support/waiting.rs"]
mod waiting;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pathlab_guard::privilege::root_or_skip;
use pathlab_netlab::netns::Namespace;
use serde_json::Value;
use verbs::{Process, Reflector};
use waiting::within;

/// Interrupts deferred, and packets held until a timer: what coalescing is on a card.
const HOLD: [&str; 2] =
    ["echo 2000000 > /sys/class/net/right/gro_flush_timeout", "echo 1 > /sys/class/net/right/napi_defer_hard_irqs"];
const LET_GO: [&str; 2] =
    ["echo 0 > /sys/class/net/right/gro_flush_timeout", "echo 0 > /sys/class/net/right/napi_defer_hard_irqs"];
/// Short blocks: a pair takes 0.2 s.
const SHORT: &str = "--blocks 20 --block 100ms --interval 2ms";

/// Two measurements at a time are what two cores can do.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host that is tuned, and the far one that answers it.
struct Pair {
    near: Namespace,
    /// Only while it is held.
    _far: Namespace,
    reflector: Option<Reflector>,
    place: tempfile::TempDir,
}

impl Pair {
    fn new(test: &str) -> Self {
        let [near, far] = hosts::in_a_row(test);
        let reflector = Reflector::start(&far, "--listen 192.0.2.2:862");
        let pair = Self { near, _far: far, reflector: Some(reflector), place: tempfile::tempdir().unwrap() };
        // A veth polls by NAPI what GRO may join, as a card does with everything.
        pair.near("ethtool -K right rx-gro on rx-udp-gro-forwarding on");
        pair
    }

    /// A script on the near host, where /sys shows its ports.
    fn near(&self, script: &str) -> String {
        let mut command = self.near.command("unshare").unwrap();
        let output =
            command.args(["--mount", "sh", "-ec", &format!("mount -t sysfs none /sys; {script}")]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the changes change, and the two features.
    fn state(&self) -> String {
        self.near("cd /sys/class/net/right; cat gro_flush_timeout napi_defer_hard_irqs threaded; ethtool -k right")
    }

    fn undo_dir(&self) -> PathBuf {
        self.place.path().join("undo")
    }

    fn command(&self, words: &[&str], changes: &[&str]) -> Command {
        let mut command = self.near.command(env!("CARGO_BIN_EXE_pathlab")).unwrap();
        command.arg("host").args(words.iter().flat_map(|words| words.split_whitespace()));
        command.args(changes.iter().flat_map(|change| ["--change", change]));
        command.current_dir(self.place.path()).env("PATHLAB_UNDO_DIR", self.undo_dir()).stdin(Stdio::null());
        command
    }

    /// Compares; the exit code and the document.
    fn ab(&self, how: &str, changes: &[&str]) -> (i32, Value) {
        let output = self.command(&["ab --json --yes --probe 192.0.2.2", how], changes).output().unwrap();
        let document = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), document)
    }

    fn journals(&self) -> usize {
        fs::read_dir(self.undo_dir()).into_iter().flatten().count()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.reflector.take());
    }
}

/// Figures that moved, the ledger's among them.
fn moved(document: &Value) -> Vec<(String, String)> {
    let figures = document["figures"].as_array().unwrap();
    let moved = figures
        .iter()
        .filter_map(|figure| Some((figure["figure"].as_str()?.to_owned(), figure["moved"].as_str()?.to_owned())));
    moved.collect()
}

fn alike(runs: usize, how: &str) {
    let pair = Pair::new("alike");
    for run in 0..runs {
        let (code, document) = pair.ab(how, &["as-is"]);
        let sentence = &document["sentence"];
        assert_eq!((code, &document["verdict"]), (3, &Value::from("no_difference")), "run {run}: {sentence}");
        println!("run {run}: {sentence}");
        assert_eq!(document["level"], 0.999);
        let figures = document["figures"].as_array().unwrap();
        assert_eq!(figures.len(), 8, "rtt, its tail, loss and five terms: {figures:?}");
    }
}

#[test]
fn two_that_are_alike_show_no_difference() {
    if !root_or_skip("two_that_are_alike_show_no_difference") {
        return;
    }
    let _alone = alone();
    alike(2, SHORT);
}

#[test]
#[ignore = "ten minutes: scripts/soak host"]
fn twenty_of_twenty_that_are_alike_show_no_difference() {
    if !root_or_skip("twenty_of_twenty_that_are_alike_show_no_difference") {
        return;
    }
    let _alone = alone();
    alike(20, "");
}

#[test]
fn a_delay_is_found_its_stage_is_named_and_it_does_not_stay() {
    if !root_or_skip("a_delay_is_found_its_stage_is_named_and_it_does_not_stay") {
        return;
    }
    let _alone = alone();
    let pair = Pair::new("delay");
    let before = pair.state();
    let (code, document) = pair.ab(SHORT, &HOLD);
    assert_eq!((code, &document["verdict"]), (4, &Value::from("worse")), "{}", document["sentence"]);
    let up = moved(&document);
    for figure in ["rtt", "wire"] {
        assert!(up.contains(&(figure.into(), "up".into())), "{figure}: {up:?}");
    }
    let sentence = document["sentence"].as_str().unwrap();
    assert!(sentence.contains("what moved of the ledger: wire by +"), "{sentence}");
    assert_eq!(document["blocks"].as_array().unwrap().len(), 40);
    assert_eq!((pair.state(), pair.journals()), (before, 0));
}

#[test]
fn a_change_that_helps_stays_until_it_is_taken_back() {
    if !root_or_skip("a_change_that_helps_stays_until_it_is_taken_back") {
        return;
    }
    let _alone = alone();
    let pair = Pair::new("helps");
    pair.near(&HOLD.join("; "));
    let before = pair.state();
    let (code, document) = pair.ab(&format!("{SHORT} --seed 7"), &LET_GO);
    assert_eq!((code, &document["verdict"]), (0, &Value::from("better")), "{}", document["sentence"]);
    assert!(moved(&document).contains(&("wire".into(), "down".into())));
    assert_eq!(document["seed"], 7);
    assert!(pair.state().starts_with("0\n0\n"), "{}", pair.state());
    let kept = document["kept"].as_str().unwrap();
    let undone = pair.command(&["undo", kept], &[]).output().unwrap();
    assert!(undone.status.success(), "{}", String::from_utf8_lossy(&undone.stderr));
    assert_eq!(pair.state(), before);
    // The record is sealed, and says what was done and concluded.
    let runs: Vec<_> = fs::read_dir(pair.place.path().join("runs")).unwrap().map(|run| run.unwrap().path()).collect();
    let ab = runs.iter().find(|run| run.join("ab.json").exists()).unwrap();
    let verified = Command::new(env!("CARGO_BIN_EXE_pathlab")).args(["evidence", "verify"]).arg(ab).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let chain = fs::read_to_string(ab.join("evidence.jsonl")).unwrap();
    assert!(chain.contains("20 times to and fro") && chain.contains("ab: better"), "{chain}");
}

#[test]
fn a_busy_loop_on_the_receive_cpu_is_wire() {
    if !root_or_skip("a_busy_loop_on_the_receive_cpu_is_wire") {
        return;
    }
    let _alone = alone();
    let pair = Pair::new("busy");
    let before = pair.state();
    // Whichever CPU receives is busy; a thread of its own has to wait for it where a softirq does not.
    let cpus = std::thread::available_parallelism().unwrap().get();
    let _loops: Vec<Process> = (0..cpus)
        .map(|cpu| {
            let mut busy = Command::new("taskset");
            busy.args(["-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"]);
            Process(busy.spawn().unwrap())
        })
        .collect();
    let (code, document) =
        pair.ab("--blocks 30 --block 100ms --interval 2ms", &["echo 1 > /sys/class/net/right/threaded"]);
    let up = moved(&document);
    assert!(up.contains(&("wire".into(), "up".into())), "{code}: {}", document["sentence"]);
    // The reflector has to wait for its processor as well, since the thread of NAPI is one more that wants it: the wire holds the most.
    let figures = document["figures"].as_array().unwrap();
    let rise = |name: &str| figures.iter().find(|of| of["figure"] == name).and_then(|of| of["difference"].as_f64());
    let terms = ["wire", "residence", "probe_tx", "probe_rx"].map(|name| (name, rise(name)));
    let most = terms.iter().filter_map(|(name, rise)| Some((name, (*rise)?))).max_by(|a, b| a.1.total_cmp(&b.1));
    assert_eq!(most.map(|(name, _)| *name), Some("wire"), "{terms:?}");
    assert_eq!(pair.state(), before);
}

#[test]
fn killed_in_the_middle_it_is_as_before() {
    if !root_or_skip("killed_in_the_middle_it_is_as_before") {
        return;
    }
    let _alone = alone();
    let pair = Pair::new("killed");
    let before = pair.state();
    let mut command = pair.command(&["ab --yes --probe 192.0.2.2 --blocks 1000 --block 50ms -v"], &HOLD);
    let mut child = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    // The plan is told first; the change is on the host soon after.
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("2 changes")));
    within(Duration::from_secs(20), || pair.state() != before);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    within(Duration::from_secs(10), || pair.journals() == 0);
    assert_eq!(pair.state(), before);
}

#[test]
fn wrong_wishes_are_one_sentence() {
    for (arguments, code, words) in [
        (vec!["ab", "--probe", "127.0.0.1"], 2, "name what to compare"),
        (vec!["ab", "--probe", "127.0.0.1", "--change", "reboot"], 2, "write it as an audit does"),
        (vec!["ab", "--probe", "127.0.0.1", "--change", "as-is", "--level", "2"], 2, "is no level"),
        (
            vec!["ab", "--probe", "127.0.0.1", "--change", "as-is", "--", "--count", "3"],
            2,
            "--count is this verb's own",
        ),
        (
            vec!["ab", "--probe", "127.0.0.1", "--change", "as-is", "--", "--nonsense"],
            2,
            "unexpected argument '--nonsense'",
        ),
        (vec!["ab", "--change", "as-is"], 2, "--probe"),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_pathlab")).arg("host").args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
}
