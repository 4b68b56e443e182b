//! What the command makes of cards that QEMU emulates, which are real drivers' cards: `scripts/vm-test 6.12 cards`, `scripts/vm-test newest cards`.
//!
//! Two of igb (82576) lie on one wire, the second at a port of NUMA node 1, and two of virtio on another. QEMU's igb stamps what leaves and no UDP
//! that comes.

mod knobs;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use pathlab_guard::HwtstampConfig;
use pathlab_netlab::netns::Namespace;
use pathlab_reflector::datapath::{SentStamp, SocketOptions, StampedSocket, TransmitSlots};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// By their addresses: names depend on the order in which they are found.
const NEAR: &str = "02:00:00:00:00:01";
const FAR: &str = "02:00:00:00:00:02";
const VIRTIO: &str = "02:00:00:00:00:03";
const FAR_VIRTIO: &str = "02:00:00:00:00:04";

/// One test at a time: the cards are the guest's.
static ALONE: Mutex<()> = Mutex::new(());

/// A port that was in a namespace comes back when that is gone, a little later.
fn port(address: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for port in fs::read_dir("/sys/class/net").expect("sysfs").flatten() {
            if fs::read_to_string(port.path().join("address")).is_ok_and(|read| read.trim() == address) {
                return port.file_name().into_string().expect("ASCII");
            }
        }
        assert!(Instant::now() < deadline, "no port {address}: run it with scripts/vm-test");
        thread::sleep(Duration::from_millis(10));
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The two ends of a wire as two hosts, 192.0.2.1 and 192.0.2.2, between which packets come through.
fn hosts(ends: [&str; 2]) -> [(Namespace, String); 2] {
    let mut numbers = 1..;
    let hosts = ends.map(|address| {
        let (port, number) = (port(address), numbers.next().expect("a number"));
        let host = Namespace::create(&format!("plt-card-{number}")).expect("a free name");
        let name = host.name();
        ip(&format!("link set {port} netns {name}"));
        ip(&format!("-n {name} address add 192.0.2.{number}/24 dev {port}"));
        ip(&format!("-n {name} link set {port} up"));
        (host, port)
    });
    // Its link takes some seconds.
    for (host, port) in &hosts {
        let deadline = Instant::now() + PATIENCE;
        let up = || {
            let output = host.command("ip").expect("a descriptor").args(["link", "show", port]).output();
            String::from_utf8_lossy(&output.expect("iproute2").stdout).contains("LOWER_UP")
        };
        while !up() {
            assert!(Instant::now() < deadline, "{port} has no link");
            thread::sleep(Duration::from_millis(50));
        }
    }
    hosts
}

fn pathlab(host: &Namespace, args: &str) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_pathlab")).expect("a descriptor");
    command.args(args.split_whitespace()).env("PATHLAB_LOG", "warn").stdin(Stdio::null());
    command
}

fn json(output: &Output) -> Value {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

#[test]
#[ignore = "needs QEMU's igb: scripts/vm-test 6.12 cards"]
fn all_that_leaves_an_igb_has_its_stamp() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let [(near, port), (far, _)] = hosts([NEAR, FAR]);
    let told = near.run(|| HwtstampConfig { flags: 0, tx_type: 1, rx_filter: 0 }.write(&port)).expect("inside");
    assert_eq!(told.expect("what the card can").tx_type, 1);
    let slots = TransmitSlots::new(Some(1));
    let options = SocketOptions { nic_transmit_stamps: Some(slots.clone()), ..SocketOptions::stamped() };
    let bind = |host: &Namespace, address: [u8; 4], options: &SocketOptions| {
        host.run(|| StampedSocket::bind((address, 0).into(), options)).expect("inside").expect("a free port")
    };
    let mut from = bind(&near, [192, 0, 2, 1], &options);
    let to = bind(&far, [192, 0, 2, 2], &SocketOptions::default());
    let mut stamps: Vec<i64> = Vec::new();
    for sent in 1..=100 {
        from.send(to.local_addr(), None, &[0; 44]).expect("sent");
        let deadline = Instant::now() + Duration::from_secs(5);
        while stamps.len() < sent && Instant::now() < deadline {
            let note = |_, stamp| {
                if let SentStamp::Nic(nanos) = stamp {
                    stamps.push(nanos)
                }
            };
            from.sent_stamps(note).expect("a socket");
            thread::sleep(Duration::from_millis(1));
        }
    }
    eprintln!("igb: {} of 100 have left with the card's stamp; {:?}", stamps.len(), slots.counts());
    assert_eq!(stamps.len(), 100);
    assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "the card's clock goes on: {stamps:?}");

    let doctor = json(&pathlab(&near, &format!("doctor --iface {port} --json")).output().expect("pathlab was built"));
    let doctor = &doctor["ports"][0];
    let fit = &doctor["card_clock"]["fit"];
    eprintln!("igb: rule {}, clock {:#}", doctor["rule"]["id"], doctor["card_clock"]);
    assert_eq!(doctor["rule"]["id"], "igb-82576");
    assert!(fit["residual"].is_number() && fit["cross_stamps"].as_u64() >= Some(2), "{doctor:#}");
}

#[test]
#[ignore = "needs QEMU's igb and virtio: scripts/vm-test 6.12 cards"]
fn an_audit_reads_drivers_of_real_cards() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let here = Path::new(env!("CARGO_BIN_EXE_pathlab"));
    for address in [NEAR, VIRTIO] {
        let port = port(address);
        ip(&format!("link set {port} up"));
        let output = Command::new(here).args(["host", "audit", "--json", "--iface", &port]).output();
        let audit = json(&output.expect("pathlab was built"));
        let entries = audit["entries"].as_array().unwrap_or_else(|| panic!("{audit:#}"));
        for entry in entries.iter().filter(|entry| entry["subject"].as_str().is_some_and(|of| of.contains(&port))) {
            eprintln!("{port} {}: {}, {}", entry["name"], entry["state"], entry["because"]);
        }
        // Judged from what was read, one way or the other; what a card has not is said so, not passed over.
        for (rule, states) in [
            ("ring size", &["ok", "finding"][..]),
            ("irq placement", &["ok", "finding"]),
            ("xps", &["ok", "finding", "not_applicable"]),
            ("rss", &["ok", "finding", "not_applicable"]),
            ("coalescing", &["ok", "finding", "not_applicable"]),
            ("pcie and numa", &["ok", "finding", "not_applicable"]),
        ] {
            let entry = entries.iter().find(|entry| entry["name"] == rule && entry["subject"] == port.as_str());
            let entry = entry.unwrap_or_else(|| panic!("{port} {rule}: {audit:#}"));
            assert!(states.contains(&entry["state"].as_str().unwrap_or("")), "{port} {rule}: {entry:#}");
        }
    }
}

#[test]
#[ignore = "needs QEMU's igb and Linux 6.14: scripts/vm-test newest cards"]
fn zero_copy_on_an_igb_is_the_same_conversation() {
    the_same_conversation([NEAR, FAR]);
}

#[test]
#[ignore = "needs QEMU's virtio and Linux 6.14: scripts/vm-test newest cards"]
fn zero_copy_on_a_virtio_is_the_same_conversation() {
    the_same_conversation([VIRTIO, FAR_VIRTIO]);
}

/// A reflector over zero-copy AF_XDP on the second of these.
fn the_same_conversation(ends: [&str; 2]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let [(near, _), (far, port)] = hosts(ends);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ready");
    let ready = UnixDatagram::bind(&path).expect("a socket");
    ready.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let args = format!("reflect --json --listen 192.0.2.2:862 --iface {port} --datapath afxdp --xdp-mode native");
    let mut reflect = pathlab(&far, &args);
    let child = reflect.env("NOTIFY_SOCKET", &path).stdout(Stdio::piped()).spawn().expect("pathlab was built");
    ready.recv(&mut [0; 64]).expect("ready");
    let probe = || {
        let out = tempfile::tempdir().expect("a temporary directory");
        let args = "probe 192.0.2.2 --json --interval 20ms --timestamps software --count";
        let mut command = pathlab(&near, args);
        command.args(["100", "--out"]).arg(out.path().join("run"));
        // It fails where nothing comes back.
        let output = command.output().expect("pathlab was built");
        output.status.success().then(|| json(&output)["total"]["counts"]["received"].as_u64()).flatten()
    };
    // The link goes down and up as sockets are put on the rings; a first conversation waits for it.
    let deadline = Instant::now() + PATIENCE;
    while probe() < Some(50) {
        assert!(Instant::now() < deadline, "nothing comes back");
    }
    let received = probe();
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().expect("a shell");
    assert!(kill.success(), "it had ended by itself");
    let account = json(&child.wait_with_output().expect("a child"));
    let modes: Vec<&str> =
        account["queues"].as_array().into_iter().flatten().filter_map(|q| q["bind_mode"].as_str()).collect();
    eprintln!("{port}: {modes:?}, received {received:?}, left by plane {}", account["sent_on"]);
    assert!(received >= Some(90) && !modes.is_empty() && modes.iter().all(|mode| *mode == "zero_copy"), "{account:#}");
    assert_eq!(account["received"], account["replied"], "{account:#}");
    // A stamp that was asked for and left at 0 is none.
    assert!(account["sent_on"].as_object().is_none_or(serde_json::Map::is_empty), "{account:#}");
}
