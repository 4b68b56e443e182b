//! Other people's STAMP, run as processes on a host of the test: stamp-suite, and scapy's dissector.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use pathlab_guard::privilege::{required, skip};
use pathlab_netlab::netns::Namespace;
use serde_json::Value;

use super::verbs::{PATIENCE, Process};

/// For the head of a test: where stamp-suite is; `None`, and a counted skip, where it is not.
pub(crate) fn stamp_suite_or_skip(test: &str) -> Option<PathBuf> {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin");
    let program = env::var_os("PATHLAB_PEERS").map_or_else(built, PathBuf::from).join("stamp-suite");
    present_or_skip(program.exists(), test, "needs stamp-suite: scripts/peers builds it").then_some(program)
}

/// For the head of a test: whether the distribution's Python has scapy's STAMP; if not, the skip is counted.
pub(crate) fn scapy_or_skip(test: &str) -> bool {
    let import = Command::new(PYTHON).args(["-c", "import scapy.contrib.stamp"]).stderr(Stdio::null()).status();
    present_or_skip(import.is_ok_and(|status| status.success()), test, "needs scapy: apt-get install python3-scapy")
}

fn present_or_skip(present: bool, test: &str, reason: &str) -> bool {
    if !present {
        assert!(!required("peers"), "{test}: {reason}, and PATHLAB_REQUIRE=peers forbids to skip it");
        skip(test, reason);
    }
    present
}

/// For the head of a test: whether tshark is there; if not, the skip is counted.
pub(crate) fn tshark_or_skip(test: &str) -> bool {
    let version = Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    present_or_skip(version.is_ok_and(|status| status.success()), test, "needs tshark: apt-get install tshark")
}

/// stamp-suite as a Session-Sender of `count` packets to `target`: its account.
pub(crate) fn stamp_suite_sends(program: &Path, host: &Namespace, target: SocketAddr, count: u32) -> Value {
    stamp_suite_sends_with(program, host, target, count, "")
}

/// The same with more options.
pub(crate) fn stamp_suite_sends_with(
    program: &Path,
    host: &Namespace,
    target: SocketAddr,
    count: u32,
    options: &str,
) -> Value {
    let any = if target.is_ipv4() { "0.0.0.0" } else { "::" };
    let mut command = host.command(program).expect("a descriptor");
    command.args(["--remote-addr", &target.ip().to_string(), "--remote-port", &target.port().to_string()]);
    command.args(["--local-addr", any, "--count", &count.to_string(), "--send-delay", "5ms", "--timeout", "2"]);
    command.args(["--output-format", "json"]).args(options.split_whitespace());
    command.env("RUST_LOG", "warn").stdin(Stdio::null());
    let output = command.output().expect("stamp-suite starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "stamp-suite: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON")
}

/// stamp-suite as a Session-Reflector; ready when this returns.
pub(crate) fn stamp_suite_reflects(program: &Path, host: &Namespace, listen: SocketAddr) -> Process {
    stamp_suite_reflects_with(program, host, listen, "")
}

/// The same with more options.
pub(crate) fn stamp_suite_reflects_with(
    program: &Path,
    host: &Namespace,
    listen: SocketAddr,
    options: &str,
) -> Process {
    let mut command = host.command(program).expect("a descriptor");
    command.args(["--is-reflector", "--local-addr", &listen.ip().to_string()]);
    command.args(["--local-port", &listen.port().to_string()]).args(options.split_whitespace());
    command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process(command.spawn().expect("stamp-suite starts"));
    let deadline = Instant::now() + PATIENCE;
    while !is_bound(&process.0, listen) {
        assert!(process.0.try_wait().expect("a child").is_none(), "stamp-suite ended by itself");
        assert!(Instant::now() < deadline, "stamp-suite did not bind to {listen}");
        thread::sleep(Duration::from_millis(10));
    }
    process
}

/// Whether a UDP socket in the child's namespace has the port of `address` (proc_net_udp: `local_address` is hexadecimal `IP:PORT`).
fn is_bound(child: &Child, address: SocketAddr) -> bool {
    let table = if address.is_ipv4() { "udp" } else { "udp6" };
    let sockets = fs::read_to_string(format!("/proc/{}/net/{table}", child.id())).unwrap_or_default();
    let port = format!(":{:04X}", address.port());
    sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).any(|local| local.ends_with(&port))
}

/// The distribution's, whatever else there is.
const PYTHON: &str = "/usr/bin/python3";

/// What scapy reads in UDP datagrams, each with its source and destination port: one object of fields a datagram.
pub(crate) fn scapy_reads(datagrams: &[(u16, u16, &[u8])]) -> Vec<Value> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String = datagrams.iter().map(|(from, to, bytes)| format!("{from} {to} {}\n", hex(bytes))).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/scapy_reads.py");
    let child = Command::new(PYTHON).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut process = Process(child.expect("Python starts"));
    process.0.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("Python reads");
    serde_json::from_reader(process.0.stdout.take().expect("piped")).expect("JSON, or a complaint above")
}

/// What tshark reads in UDP datagrams, each with its source and destination port: the fields of `twamp.test` by name.
pub(crate) fn tshark_reads(datagrams: &[(u16, u16, Vec<u8>)]) -> Vec<BTreeMap<String, String>> {
    const FIELDS: [&str; 14] = [
        "twamp.test.seq_number",
        "twamp.test.timestamp",
        "twamp.test.error_estimate",
        "twamp.test.error_estimate.s",
        "twamp.test.error_estimate.z",
        "twamp.test.error_estimate.scale",
        "twamp.test.error_estimate.multiplier",
        "twamp.test.mbz1",
        "twamp.test.receive_timestamp",
        "twamp.test.sender_seq_number",
        "twamp.test.sender_timestamp",
        "twamp.test.sender_error_estimate",
        "twamp.test.mbz2",
        "twamp.test.sender_ttl",
    ];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (hex, pcap) = (directory.path().join("hex"), directory.path().join("pcap"));
    datagrams
        .iter()
        .map(|(from, to, bytes)| {
            let octets: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
            fs::write(&hex, format!("000000{octets}\n")).expect("written");
            let ports = format!("{from},{to}");
            run(Command::new("text2pcap").args(["-q", "-u", &ports]).arg(&hex).arg(&pcap));
            let mut tshark = Command::new("tshark");
            tshark.env("TZ", "UTC");
            tshark.args(["-d", "udp.port==862,twamp.test", "-T", "fields", "-E", "occurrence=f", "-r"]).arg(&pcap);
            tshark.args(FIELDS.iter().flat_map(|field| ["-e", field]));
            let text = run(&mut tshark);
            let values = text.trim_end_matches('\n').split('\t').map(str::to_owned);
            FIELDS.iter().map(|field| (*field).to_owned()).zip(values).collect()
        })
        .collect()
}

/// What a command prints; panics where it fails.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
