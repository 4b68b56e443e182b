//! `pathlab host plan`, `apply` and `undo` on real kernel objects: a veth with four queues in a namespace of the test. What is changed comes back to
//! the octet, wherever a kill hits; what is somebody else's stays.

#[path = "support/isolation.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod isolation;
#[path = "support/nobody.rs"]
mod nobody;
#[path = "support/waiting.rs"]
mod waiting;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use isolation::isolated;
use nobody::as_nobody;
use pathlab_guard::privilege::{root_or_skip, skip};
use serde_json::Value;
use waiting::within;

/// One change of each kind that a veth in a namespace has.
const CHANGES: [&str; 6] = [
    "ethtool -L v0 rx 2 tx 1",
    "ethtool -K v0 rx-gro on",
    "echo 20000 > /sys/class/net/v0/gro_flush_timeout",
    "echo 2 > /sys/class/net/v0/napi_defer_hard_irqs",
    "sysctl -w net.ipv4.udp_rmem_min=16384",
    "sysctl -w net.ipv4.fib_multipath_hash_policy=1",
];

/// And of each queue; a plan with other queues would refuse them.
const CHANGES_OF_QUEUES: [&str; 4] = [
    "tc qdisc replace dev v0 root pfifo",
    "echo 2 > /sys/class/net/v0/queues/rx-3/rps_cpus",
    "echo 3000 > /sys/class/net/v0/queues/rx-1/rps_flow_cnt",
    "echo 2 > /sys/class/net/v0/queues/tx-2/xps_cpus",
];

/// A port of the test, with settings of somebody who tuned it before.
struct Port {
    place: tempfile::TempDir,
}

impl Port {
    fn new() -> Self {
        sh("ip link add v0 numrxqueues 4 numtxqueues 4 type veth peer name v1 numrxqueues 4 numtxqueues 4; \
            ip link set v0 up; ip link set v1 up");
        let port = Self { place: tempfile::tempdir().unwrap() };
        port.shell(
            "cd /sys/class/net/v0/queues; echo 3 > rx-3/rps_cpus; echo 5000 > rx-3/rps_flow_cnt; echo 1 > tx-2/xps_cpus; \
             echo 2 > tx-3/xps_rxqs; echo 1 > rx-0/rps_cpus",
        );
        port
    }

    /// Runs a script where /sys shows the namespace; the test itself, as after `nsenter --net`, still sees another.
    fn shell(&self, script: &str) -> String {
        sh(&format!("unshare --mount sh -ec 'mount -t sysfs none /sys; {script}'"))
    }

    /// Everything that can be set on it and beside it.
    fn state(&self) -> String {
        self.shell(
            "cd /sys/class/net/v0; for f in $(find queues/ -type f | sort) gro_flush_timeout napi_defer_hard_irqs threaded tx_queue_len mtu; do \
             echo $f $(cat $f 2>&1); done; ethtool -l v0; ethtool -k v0; tc qdisc show dev v0; cd /proc/sys/net/ipv4; \
             tail udp_rmem_min fib_multipath_hash_policy udp_early_demux",
        )
    }

    fn host(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pathlab"));
        command.arg("host").args(arguments).current_dir(self.place.path()).stdin(Stdio::null());
        command
    }

    fn told(&self, arguments: &[&str]) -> Output {
        self.host(arguments).output().unwrap()
    }

    /// Runs it, expects that exit code, and gives what it said.
    fn says(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.told(arguments);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    fn apply(&self, changes: &[&str]) -> Vec<String> {
        let mut arguments = vec!["apply".to_owned(), "--yes".into()];
        arguments.extend(changes.iter().flat_map(|change| ["--change".to_owned(), (*change).to_owned()]));
        arguments
    }

    fn applied(&self, changes: &[&str]) -> String {
        let arguments = self.apply(changes);
        self.says(0, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn journals() -> Vec<PathBuf> {
    let entries = fs::read_dir("/run/pathlab/undo").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn what_is_changed_comes_back_to_the_octet() {
    if !isolated("what_is_changed_comes_back_to_the_octet") {
        return;
    }
    let port = Port::new();
    let before = port.state();
    let said = port.applied(&CHANGES);
    assert!(said.contains("→ ethtool -L v0 rx 2 tx 1") && said.contains("← ethtool -L v0 rx 4 tx 4"), "{said}");
    let during = port.state();
    for line in ["gro_flush_timeout 20000", "napi_defer_hard_irqs 2", "16384"] {
        assert!(during.contains(line) && !before.contains(line), "{during}");
    }
    assert!(!during.contains("rx-3"), "the queue is gone, and its masks with it");
    // A queue that stayed, on top of the change that its port has seen.
    let said = port.applied(&[
        "echo 3 > /sys/class/net/v0/queues/rx-0/rps_cpus",
        "echo 3000 > /sys/class/net/v0/queues/rx-1/rps_flow_cnt",
        "tc qdisc replace dev v0 root pfifo",
    ]);
    assert!(said.contains("the driver made 4096 of it"), "{said}");
    assert!(port.state().contains("qdisc pfifo 222:"), "{}", port.state());
    assert!(port.says(0, &["undo", "--list"]).contains("echo 3 > /sys/class/net/v0/queues/rx-0/rps_cpus (was 1)"));
    let said = port.says(0, &["undo"]);
    assert_eq!(said.matches("taken back").count(), 9, "{said}");
    assert_eq!(port.state(), before);
    assert!(journals().is_empty());
    assert!(port.says(0, &["undo"]).contains("nothing is changed"));
    // Both are in sealed run directories.
    let runs: Vec<_> = fs::read_dir(port.place.path().join("runs")).unwrap().map(|run| run.unwrap().path()).collect();
    assert_eq!(runs.len(), 3);
    let mut noted = String::new();
    for run in &runs {
        let verified =
            Command::new(env!("CARGO_BIN_EXE_pathlab")).args(["evidence", "verify"]).arg(run).output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        noted += &fs::read_to_string(run.join("evidence.jsonl")).unwrap();
    }
    for words in [
        "echo 20000 > /sys/class/net/v0/gro_flush_timeout: from `0` to `20000`",
        "taken back: ethtool -L v0 rx 2 tx 1",
        "uid 0",
    ] {
        assert!(noted.contains(words), "{words}: {noted}");
    }
}

/// An apply that stands still at one of its moments.
struct Halted(Child);

impl Halted {
    fn at(port: &Port, changes: &[&str], moment: usize) -> Self {
        let mut command = port.host(&[]);
        let moment = moment.to_string();
        command.args(port.apply(changes)).args(["--fault-hold", &moment]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == format!("held at {moment}")), "it did not come to {moment}");
        Self(child)
    }

    fn guardian(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        fs::read_to_string(children).unwrap().trim().parse().expect("one child, the guardian")
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn killed_at_any_moment_it_is_as_before() {
    if !isolated("killed_at_any_moment_it_is_as_before") {
        return;
    }
    let port = Port::new();
    killed_everywhere(&port, &CHANGES);
    killed_everywhere(&port, &CHANGES_OF_QUEUES);
}

fn killed_everywhere(port: &Port, changes: &[&str]) {
    let before = port.state();
    let mut seen = std::collections::BTreeSet::new();
    for moment in 0..3 * changes.len() {
        // The guardian takes it back by itself.
        let halted = Halted::at(port, changes, moment);
        seen.insert(port.state());
        halted.kill();
        within(Duration::from_secs(10), || journals().is_empty());
        assert_eq!(port.state(), before, "by the guardian, from moment {moment}");
        // Both are killed, and an operator takes it back.
        let halted = Halted::at(port, changes, moment);
        sh(&format!("kill -KILL {}", halted.guardian()));
        halted.kill();
        assert_eq!(journals().len(), 1);
        port.says(0, &["undo"]);
        assert_eq!(port.state(), before, "by undo, from moment {moment}");
    }
    assert_eq!(seen.len(), changes.len() + 1, "each change was on the host at some moment");
}

#[test]
fn a_change_that_fails_takes_those_before_it_back() {
    if !isolated("a_change_that_fails_takes_those_before_it_back") {
        return;
    }
    let port = Port::new();
    let before = port.state();
    let mut changes = vec!["tc qdisc replace dev v0 root nosuchqueue"];
    changes.push("ethtool -K v0 rx-gro on");
    let arguments = port.apply(&changes);
    let said = port.says(1, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("nothing is changed") && said.contains("nosuchqueue: No such file or directory"), "{said}");
    assert_eq!(port.state(), before);
    assert!(journals().is_empty());
}

#[test]
fn what_somebody_else_has_set_since_is_left_unless_forced() {
    if !isolated("what_somebody_else_has_set_since_is_left_unless_forced") {
        return;
    }
    let port = Port::new();
    let before = port.state();
    port.applied(&["echo 20000 > /sys/class/net/v0/gro_flush_timeout", "sysctl -w net.ipv4.udp_rmem_min=16384"]);
    port.shell("echo 7 > /sys/class/net/v0/gro_flush_timeout");
    let said = port.says(1, &["undo"]);
    assert!(said.contains("somebody has set it since, it is 7") && said.contains("taken back"), "{said}");
    assert_eq!(port.shell("cat /sys/class/net/v0/gro_flush_timeout"), "7\n");
    port.says(0, &["undo", "--force"]);
    assert_eq!(port.state(), before);
}

#[test]
fn changes_of_changes_are_taken_back_in_their_order() {
    if !isolated("changes_of_changes_are_taken_back_in_their_order") {
        return;
    }
    let port = Port::new();
    let before = port.state();
    let name = |said: String| said.split("changed as ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let first = name(port.applied(&["echo 10000 > /sys/class/net/v0/gro_flush_timeout"]));
    let second = name(port.applied(&["echo 20000 > /sys/class/net/v0/gro_flush_timeout"]));
    assert_ne!(first, second);
    let said = port.says(1, &["undo", &first]);
    assert!(said.contains("somebody has set it since, it is 20000"), "the later change is in the way: {said}");
    port.says(0, &["undo"]);
    assert_eq!(port.state(), before);
}

#[test]
fn what_a_reboot_or_a_new_port_has_forgotten_is_said_and_nothing_is_written() {
    if !isolated("what_a_reboot_or_a_new_port_has_forgotten_is_said_and_nothing_is_written") {
        return;
    }
    let port = Port::new();
    port.applied(&["echo 20000 > /sys/class/net/v0/gro_flush_timeout"]);
    // A port of the same name, whose settings are its own.
    sh("ip link del v0; ip link add v0 type veth peer name v1");
    port.shell("echo 20000 > /sys/class/net/v0/gro_flush_timeout");
    assert!(port.says(0, &["undo"]).contains("gone        echo 20000"));
    assert_eq!(port.shell("cat /sys/class/net/v0/gro_flush_timeout"), "20000\n");
    // As a journal looks after a reboot.
    port.applied(&["echo 0 > /sys/class/net/v0/gro_flush_timeout"]);
    let journal = journals().pop().unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = fs::read_to_string(&journal).unwrap();
    assert!(text.contains(boot.trim()));
    fs::write(&journal, text.replace(boot.trim(), "11111111-2222-3333-4444-555555555555")).unwrap();
    let said = port.says(0, &["undo"]);
    assert!(said.contains("started anew since") && said.contains("gone        echo 0"), "{said}");
    assert_eq!(port.shell("cat /sys/class/net/v0/gro_flush_timeout"), "0\n");
}

#[test]
fn a_change_is_taken_back_where_it_was_made() {
    if !isolated("a_change_is_taken_back_where_it_was_made") {
        return;
    }
    let port = Port::new();
    // Before Linux 6.15 `ip link add v0 netns other` makes it here first, where there is one of that name.
    sh("ip netns add other; ip -n other link add v0 type veth peer name v1");
    let inside = |script: &str| sh(&format!("ip netns exec other sh -ec '{script}'"));
    let apply = |out: &str| {
        inside(&format!(
            "{} host apply --yes --out {} --change \"echo 20000 > /sys/class/net/v0/gro_flush_timeout\" \
             --change \"sysctl -w net.ipv4.udp_rmem_min=16384\"",
            env!("CARGO_BIN_EXE_pathlab"),
            port.place.path().join(out).display()
        ))
    };
    apply("applied");
    assert_eq!(inside("cat /sys/class/net/v0/gro_flush_timeout"), "20000\n");
    port.shell("echo 20000 > /sys/class/net/v0/gro_flush_timeout");
    port.says(0, &["undo"]);
    assert_eq!(inside("cat /sys/class/net/v0/gro_flush_timeout"), "0\n");
    assert_eq!(port.shell("cat /sys/class/net/v0/gro_flush_timeout"), "20000\n", "a namesake is not touched");
    apply("again");
    sh("ip netns del other");
    let said = port.says(0, &["undo"]);
    assert_eq!(said.matches("  gone  ").count(), 2, "both went with their namespace: {said}");
}

/// Why a setting of the whole machine is not changed here: older kernels do not show it in another network namespace.
fn elsewhere(setting: &str) -> &'static str {
    let shown = fs::exists(format!("/proc/sys/{setting}")).unwrap();
    if shown { "read-only here" } else { "not there, in this network namespace at least" }
}

#[test]
fn what_cannot_be_changed_is_refused_with_the_reason() {
    if !isolated("what_cannot_be_changed_is_refused_with_the_reason") {
        return;
    }
    let port = Port::new();
    sh(
        "ip link add one numrxqueues 1 numtxqueues 1 type veth peer name two; ip link set one up; tc qdisc add dev one root handle 5: pfifo limit 7",
    );
    let before = port.state();
    for (change, reason) in [
        ("ethtool -L v0 rx 9", "the card has at most 4"),
        ("ethtool -L v0 combined 2", "no channels named combined"),
        ("ethtool -G v0 rx 512", "the driver has no rings to set"),
        ("ethtool -C v0 rx-usecs 5", "the driver has no coalesce to set"),
        ("ethtool -X v0 equal 2", "cannot be read"),
        ("ethtool -N v0 rx-flow-hash udp4 sdfn", "does not say how it hashes udp4"),
        ("ethtool -K v0 rx-lro on", "no rx-lro that could be switched"),
        ("ethtool -K v0 no-such-feature on", "no no-such-feature"),
        ("sysctl -w net.core.rmem_max=4194304", elsewhere("net/core/rmem_max")),
        ("sysctl -w net.core.rps_sock_flow_entries=32768", "not there, in this network namespace at least"),
        ("sysctl -w kernel.core_pattern=x", "not among what is tuned here"),
        ("echo 1 > /sys/class/net/one/queues/tx-0/xps_cpus", "one transmit queue: XPS has no effect"),
        ("echo 5 > /sys/class/net/v0/ifindex", "read-only here"),
        ("tc qdisc replace dev one root fq", "was put there by somebody"),
        ("echo 0 > /sys/class/net/v0/gro_flush_timeout", "it is so already"),
    ] {
        let plan: Value = serde_json::from_str(&port.says(0, &["plan", "--json", "--change", change])).unwrap();
        assert_eq!(plan["changes"].as_array().unwrap().len(), 0, "{change}");
        let because = plan["refused"][0]["because"].as_str().unwrap();
        assert!(because.contains(reason), "{change}: {because}");
        if !reason.contains("so already") {
            assert!(port.says(1, &["apply", "--yes", "--change", change]).contains(reason));
        }
    }
    // Whose mode says that it is the kernel's: of a disk, where there is one. Older kernels say so to who writes, be it what stands there.
    let files = fs::read_dir("/proc/irq").unwrap().flatten().map(|irq| irq.path().join("smp_affinity_list"));
    let files: Vec<_> = files.filter(|file| file.exists()).collect();
    let by_mode = |file: &&PathBuf| fs::metadata(file).unwrap().permissions().readonly();
    let by_word = |file: &&PathBuf| {
        fs::write(file, fs::read(file).unwrap()).is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
    };
    let managed = files.iter().find(by_mode).or_else(|| files.iter().find(by_word));
    match managed {
        None => skip("a managed interrupt is refused", "no interrupt of this machine is managed by the kernel"),
        Some(file) => {
            let change = format!("echo 0 > {}", file.display());
            let said = port.says(1, &["apply", "--yes", "--change", &change]);
            assert!(said.contains("the kernel manages this interrupt itself: it cannot be moved"), "{said}");
        }
    }
    let said = port.says(2, &["plan", "--change", "rm -rf /"]);
    assert!(said.contains("write it as an audit does"), "{said}");
    assert!(port.says(2, &["apply"]).contains("name what to apply"));
    assert_eq!(port.state(), before);
}

#[test]
fn a_plan_is_carried_out_as_it_was_written_and_only_while_it_holds() {
    if !isolated("a_plan_is_carried_out_as_it_was_written_and_only_while_it_holds") {
        return;
    }
    let port = Port::new();
    let before = port.state();
    // As a rule finds it: RPS with four queues, more than this machine has processors.
    let plan = port.told(&["plan", "--iface", "v0", "--window", "10ms", "--rule", "rps", "--json"]);
    let document: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(document["schema"], "pathlab.host.plan/1");
    assert_eq!(document["changes"][0]["rule"], "rps", "{document}");
    let file = port.place.path().join("plan.json");
    fs::write(&file, &plan.stdout).unwrap();
    let file = file.to_str().unwrap();
    assert!(port.says(0, &["apply", "--plan", file]).contains("nothing was changed"));
    assert_eq!(port.state(), before);
    port.says(0, &["apply", "--plan", file, "--yes"]);
    assert_ne!(port.state(), before);
    let said = port.says(1, &["apply", "--plan", file, "--yes"]);
    assert!(said.contains("when this was planned and is"), "{said}");
    port.says(0, &["undo"]);
    assert_eq!(port.state(), before);
}

#[test]
fn without_rights_it_plans_and_changes_nothing() {
    if !root_or_skip("without_rights_it_plans_and_changes_nothing") {
        return;
    }
    let ran = |arguments: &[&str]| {
        let ran = as_nobody(&[&["host"], arguments].concat());
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let change = "echo 12345 > /sys/class/net/lo/gro_flush_timeout";
    let (code, stdout, _) = ran(&["plan", "--change", change]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains(&format!("→ {change}")), "{stdout}");
    for arguments in [vec!["apply", "--yes", "--change", change], vec!["undo"]] {
        let (code, _, stderr) = ran(&arguments);
        assert_eq!(code, Some(1));
        assert!(stderr.contains("run it as root") && stderr.lines().count() == 1, "{stderr}");
    }
}
