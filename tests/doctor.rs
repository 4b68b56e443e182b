//! `pathlab doctor` end to end: on a veth with a reflector behind it, without any right, and what it refuses.

#[path = "support/isolation.rs"]
mod isolation;
#[path = "../reflector/tests/support/kernel.rs"]
mod kernel;

use std::{
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use isolation::{host, isolated, pathlab};
use serde_json::Value;

/// Killed when dropped.
struct Reflector(Child);

impl Drop for Reflector {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `near` here, 192.0.2.2, and 192.0.2.1 in a namespace behind it.
fn two_hosts() {
    ip("netns add far");
    ip("link add near type veth peer name far netns far");
    ip("address add 192.0.2.2/24 dev near");
    ip("-n far address add 192.0.2.1/24 dev far");
    // a link-local address would come when its duplicate address detection is over, and look like something left behind
    ip("link set near addrgenmode none");
    ip("link set near up");
    ip("-n far link set far up");
}

/// A reflector on the far host.
fn reflector(directory: &Path, arguments: &str) -> Reflector {
    let path = directory.join("ready");
    let ready = UnixDatagram::bind(&path).expect("a socket");
    ready.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let child = Command::new("nsenter")
        .args(["--net=/run/netns/far", env!("CARGO_BIN_EXE_pathlab"), "reflect"])
        .args(arguments.split(' '))
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nsenter(1) of util-linux");
    let reflector = Reflector(child);
    ready.recv(&mut [0; 64]).expect("the reflector is ready");
    std::fs::remove_file(&path).expect("the socket");
    reflector
}

fn examined(mut command: Command) -> Value {
    let output = command.output().expect("pathlab was built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["schema"], "pathlab.doctor/1");
    document
}

/// The answer to a question, and why; every no and cannot tell of an examination has to have a remedy.
fn answer<'a>(checks: &'a Value, what: &str) -> (&'a str, &'a str) {
    let checks = checks.as_array().expect("a list");
    let check = checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("{what}: {checks:#?}"));
    (check["answer"].as_str().expect("an answer"), check["because"].as_str().expect("a reason"))
}

#[test]
fn a_veth_is_examined_by_real_packets_and_nothing_is_left() {
    if !isolated("a_veth_is_examined_by_real_packets_and_nothing_is_left") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    two_hosts();
    let _reflector = reflector(directory.path(), "--listen 192.0.2.1:862");
    let before = host();
    let document = examined(pathlab(directory.path(), "doctor --iface near --target 192.0.2.1 --json"));
    assert_eq!(host(), before, "namespaces, programs and processes of the examination are gone");

    for what in ["IPv4 send, plane sched", "IPv4 send, plane kernel", "IPv4 receive, plane kernel"] {
        assert_eq!(answer(&document["loopback"], what), ("yes", "10 of 10 packets"), "{what}");
    }
    for mode in ["native", "generic"] {
        let what = format!("AF_XDP over {mode} XDP");
        assert_eq!(answer(&document["veth"], &format!("{what}, veth")), ("yes", "10 of 10 requests answered"));
        assert_eq!(answer(&document["veth"], &format!("{what}, receive, plane xdp")), ("yes", "10 of 10 packets"));
        // AF_XDP's transmit metadata is of Linux 6.8, which the remedy says.
        let told =
            if kernel::knows("xsk_tx_metadata") { ("yes", "10 of 10 packets") } else { ("no", "0 of 10 packets") };
        assert_eq!(answer(&document["veth"], &format!("{what}, send, plane kernel (completion)")), told);
    }
    assert_eq!(answer(&document["veth"], "XDP_TX, veth").0, "yes");

    let port = &document["ports"][0];
    assert_eq!((&port["driver"], &port["rule"]["id"]), (&"veth".into(), &"veth".into()));
    let checks = &port["checks"];
    for what in ["A1, plane sched", "A1, plane kernel", "B2 and B3 in the replies", "A4, plane kernel"] {
        assert_eq!(answer(checks, what), ("yes", "10 of 10 packets"), "{what}");
    }
    for what in ["A1, plane nic", "A4, plane nic", "what a NIC would add", "clock of the card", "AF_XDP, zero-copy"] {
        assert_eq!(answer(checks, what).0, "no", "{what}");
    }
    for what in ["native XDP", "generic XDP", "AF_XDP, copy", "queues", "port free of ptp4l"] {
        assert_eq!(answer(checks, what).0, "yes", "{what}");
    }
    let (no, because) = answer(checks, "the card stamps now");
    assert!(no == "no" && because.contains("EOPNOTSUPP"), "{because}");
}

#[test]
fn without_rights_it_says_what_it_cannot_tell_and_what_would_help() {
    if !isolated("without_rights_it_says_what_it_cannot_tell_and_what_would_help") {
        return;
    }
    ip("link add near type veth peer name far");
    // A copy: nobody may not be able to reach the built one.
    let binary = Path::new("/run/pathlab");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_pathlab")).arg(binary).status().expect("cp(1)");
    assert!(copied.success());
    let before = host();
    let mut command = Command::new(binary);
    command.args(["doctor", "--iface", "near", "--json"]).current_dir("/").uid(65_534).gid(65_534);
    let document = examined(command);
    assert_eq!(host(), before);
    for what in ["IPv4 send, plane sched", "IPv4 receive, plane kernel"] {
        assert_eq!(answer(&document["loopback"], what).0, "yes", "{what} needs no right");
    }
    for what in ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_NET_RAW"] {
        assert_eq!(answer(&document["host"], what).0, "no", "{what}");
    }
    let checks = &document["ports"][0]["checks"];
    for what in ["native XDP", "generic XDP", "AF_XDP, copy", "AF_XDP, zero-copy"] {
        assert_eq!(answer(checks, what).0, "cannot_tell", "{what}");
    }
    assert_eq!(answer(&document["veth"], "XDP and AF_XDP on a veth").0, "cannot_tell");
    for checks in [&document["host"], &document["loopback"], &document["veth"], checks] {
        for check in checks.as_array().expect("a list").iter().filter(|check| check["answer"] != "yes") {
            assert!(check["remedy"].is_string() && check["because"].is_string(), "{check:#}");
        }
    }
    // and as a page: answers in one column
    let mut command = Command::new(binary);
    command.args(["doctor", "--iface", "near"]).current_dir("/").uid(65_534).gid(65_534);
    let page = String::from_utf8(command.output().expect("runs").stdout).expect("text");
    let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
    let lines = page.lines().filter(|line| line.starts_with("  ") && !line.trim_start().starts_with('→'));
    let columns: std::collections::BTreeSet<_> = lines
        .filter_map(|line| ["  yes  ", "  no  ", "  cannot tell  "].iter().filter_map(|word| column(line, word)).min())
        .collect();
    assert_eq!(columns.len(), 1, "{page}");
}

/// Experimental: what cards take for PTP goes through and comes back, between listed peers alone.
#[test]
fn packets_shaped_like_ptp_are_answered_to_a_listed_peer() {
    if !isolated("packets_shaped_like_ptp_are_answered_to_a_listed_peer") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    two_hosts();
    for (allowed, code) in [("192.0.2.2/32", 0), ("192.0.2.3/32", 1)] {
        let arguments = format!("--ptp-shaped --listen 192.0.2.1:319 --allow {allowed}");
        let _reflector = reflector(directory.path(), &arguments);
        let probe = &format!("probe 192.0.2.1 --ptp-shaped --count 20 --interval 2ms --json --out run-{code}");
        let output = pathlab(directory.path(), probe).output().expect("pathlab was built");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        if code == 0 {
            let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
            // A busy machine skips slots.
            let counts = &report["total"]["counts"];
            assert!(counts["received"] == counts["sent"] && counts["received"].as_u64() >= Some(10), "{report:#}");
        }
    }
}

#[test]
fn what_cannot_be_examined_or_stamped_is_refused_in_one_sentence() {
    for (arguments, code, words) in [
        ("doctor --iface nowhere0", 2, "nowhere0"),
        ("doctor --target 192.0.2.1", 2, "--iface"),
        ("reflect --ptp-shaped --listen 127.0.0.1:319", 2, "--allow"),
        ("reflect --ptp-shaped --listen 127.0.0.1:862 --allow 127.0.0.2/32", 2, "port 319"),
        ("probe 127.0.0.1 --ptp-shaped --count 65537", 2, "65536"),
        ("reflect --timestamps nic", 2, "which card?"),
        ("reflect --timestamps nic --listen 127.0.0.1:0", 1, "no stamps by the card of lo"),
        ("probe 127.0.0.1 --count 1 --timestamps nic", 1, "no stamps by the card of lo"),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let output =
            pathlab(directory.path(), arguments).env("PATHLAB_LOG", "off").output().expect("pathlab was built");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.starts_with("pathlab: ") && said.contains(words) && said.lines().count() == 1, "{said}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0, "no run without a result");
    }
}
