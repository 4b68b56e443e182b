//! What a card's stamps are worth, on cards that are known to the nanosecond: `scripts/vm-test 6.12 nic`, on the test NIC of `tests/nic`.
//!
//! Its two ports have clocks of their own that start anywhere and run as wrongly as they are told, and the wire between them takes as long as
//! it is told. Each is a host of its own here.

#[path = "support/realtime.rs"]
mod realtime;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pathlab_guard::HwtstampConfig;
use pathlab_netlab::netns::Namespace;
use serde_json::Value;

const PORTS: [&str; 2] = ["test0", "test1"];
/// From the probe's port to the reflector's, and back.
const THERE: i64 = 1_500_000;
const BACK: i64 = 2_500_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the module has when it is loaded.
const KNOBS: [(&str, i64); 11] = [
    ("wire_delay_ns", 0),
    ("oscillator_ppb", 0),
    ("receive_all", 1),
    ("transmit_all", 1),
    ("kfunc", 1),
    ("tail", 0),
    ("latches", 0),
    ("slots", 0),
    ("stamp_latency_ns", 20_000),
    ("lose_transmit", 0),
    ("lose_receive", 0),
];

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A port that was in a namespace comes back when that is gone, a little later.
fn await_ports() {
    let deadline = Instant::now() + PATIENCE;
    while !PORTS.iter().all(|port| Path::new("/sys/class/net").join(port).exists()) {
        assert!(Instant::now() < deadline, "no {PORTS:?}: is the module of tests/nic loaded?");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The probe's host with `test0`, 192.0.2.1, and the reflector's with `test1`, 192.0.2.2.
struct Hosts {
    probe: Namespace,
    reflector: Namespace,
    _alone: MutexGuard<'static, ()>,
}

impl Hosts {
    /// With what both ports have beside their wires and oscillators, 100 ppm apart.
    fn joined(both: &[(&str, i64)]) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        await_ports();
        let own = [
            [("wire_delay_ns", THERE), ("oscillator_ppb", -60_000)],
            [("wire_delay_ns", BACK), ("oscillator_ppb", 40_000)],
        ];
        for (port, own) in PORTS.iter().zip(own) {
            for (knob, value) in KNOBS.iter().chain(&own).chain(both) {
                fs::write(format!("/sys/class/net/{port}/testnic/{knob}"), value.to_string()).expect("a knob");
            }
        }
        let hosts = PORTS.map(|port| Namespace::create(&format!("plt-nic-{port}")).expect("a free name"));
        for (number, (port, host)) in PORTS.iter().zip(&hosts).enumerate() {
            let name = host.name();
            ip(&format!("link set {port} netns {name}"));
            ip(&format!("-n {name} address add 192.0.2.{}/24 dev {port}", number + 1));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set {port} up"));
        }
        let [probe, reflector] = hosts;
        Self { probe, reflector, _alone: alone }
    }

    /// What the ports are told to stamp now.
    fn settings(&self) -> [HwtstampConfig; 2] {
        let read =
            |host: &Namespace, port: &str| host.run(|| HwtstampConfig::read(port)).expect("inside").expect("read");
        [read(&self.probe, PORTS[0]), read(&self.reflector, PORTS[1])]
    }
}

fn pathlab(host: &Namespace, profile: &str, args: &str) -> Command {
    let mut command = realtime::command(host, env!("CARGO_BIN_EXE_pathlab"));
    command.args(args.split_whitespace()).env("PATHLAB_LOG", "warn").stdin(Stdio::null());
    command.env("PATHLAB_TEST_DRIVER_PROFILE", profile);
    command
}

/// A running `pathlab reflect`, killed when dropped.
struct Reflector(Child);

impl Drop for Reflector {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Reflector {
    fn start(hosts: &Hosts, profile: &str, args: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ready");
        let ready = UnixDatagram::bind(&path).expect("a socket");
        ready.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut command = pathlab(&hosts.reflector, profile, "reflect --json --listen 192.0.2.2:862 --iface test1");
        let child = command.args(args.split_whitespace()).env("NOTIFY_SOCKET", &path).stdout(Stdio::piped()).spawn();
        let reflector = Self(child.expect("pathlab was built"));
        ready.recv(&mut [0; 64]).unwrap_or_else(|error| panic!("pathlab reflect {args}: not ready: {error}"));
        reflector
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.0.id())]).status().expect("a shell");
        assert!(kill.success(), "pathlab reflect had ended by itself");
    }

    /// Stops it as Ctrl-C would, and takes its account.
    fn stop(mut self) -> Value {
        self.signal("INT");
        let stdout = self.0.stdout.take().expect("piped");
        let account = serde_json::from_reader(stdout).expect("one JSON document");
        assert!(self.0.wait().expect("a child").success());
        account
    }
}

/// What a probe left: its report and its samples.
fn probe(hosts: &Hosts, profile: &str, args: &str) -> (Value, Vec<Value>) {
    let out = tempfile::tempdir().expect("a temporary directory");
    let run = out.path().join("run");
    let mut command = pathlab(&hosts.probe, profile, "probe 192.0.2.2 --timestamps nic --tlv stages,follow-up --out");
    let output = command.arg(&run).args(args.split_whitespace()).output().expect("pathlab was built");
    assert!(output.status.success(), "{}", told(&output));
    let read = |file: &str| fs::read_to_string(run.join(file)).expect("of a run directory");
    let samples = read("samples.jsonl").lines().map(|line| serde_json::from_str(line).expect("a sample")).collect();
    (serde_json::from_str(&read("probe.json")).expect("a report"), samples)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Packets, those that the card was asked to stamp, and those that it did.
fn coverage(report: &Value, point: &str) -> [u64; 3] {
    ["packets", "asked", "stamped"]
        .map(|key| report["hw_coverage"][point][key].as_u64().unwrap_or_else(|| panic!("{point}: {report:#}")))
}

/// The samples with stamps of both cards all round.
fn stamped_all_round(samples: &[Value]) -> Vec<&Value> {
    let all = |sample: &&Value| ["A1", "B2", "B3", "A4"].iter().all(|point| sample["stamps"][point]["nic"].is_array());
    samples.iter().filter(all).collect()
}

/// How many wires of how many are what the wire is, within what the sample states.
fn wires_found(samples: &[&Value]) -> (usize, usize) {
    let found = samples.iter().filter(|sample| {
        let ledger = &sample["ledger"];
        let (Some(wire), Some(u)) = (ledger["wire"].as_i64(), ledger["u"].as_i64()) else { return false };
        (wire - THERE - BACK).abs() <= u
    });
    (found.count(), samples.len())
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn every_packet_is_stamped_by_both_cards_and_the_wire_is_as_long_as_it_is() {
    let hosts = Hosts::joined(&[]);
    let reflector = Reflector::start(&hosts, "mlx5", "--datapath socket --timestamps nic --stateful");
    // The first seconds are those of the clocks, which are told in UTC once they are known well enough.
    let (report, samples) = probe(&hosts, "mlx5", "--interval 50ms --count 500");
    let account = reflector.stop();
    let received = samples.iter().filter(|sample| sample["outcome"] == "received").count() as u64;
    for (point, [packets, asked, stamped]) in [
        ("A1", coverage(&report, "A1")),
        ("A4", coverage(&report, "A4")),
        ("B2", coverage(&account, "B2")),
        ("B3", coverage(&account, "B3")),
    ] {
        eprintln!("{point}: {packets} packets, {asked} asked, {stamped} stamped");
        assert!(packets >= received.max(200) && asked == packets && stamped == packets, "{point}");
    }
    let whole = stamped_all_round(&samples);
    let (found, of) = wires_found(&whole);
    let widths: Vec<i64> = whole.iter().filter_map(|sample| sample["ledger"]["u"].as_i64()).collect();
    eprintln!("the wire of 4 ms: {found} of {of} within what they state, {:?} ns at most", widths.iter().max());
    assert!(of >= 200 && found * 1000 >= of * 999, "{found} of {of}: {:#}", whole[0]);
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn a_delay_in_a_host_is_that_hosts_alone() {
    let hosts = Hosts::joined(&[]);
    let median = |samples: &[&Value], term: &str| {
        let mut terms: Vec<i64> = samples.iter().filter_map(|sample| sample["ledger"][term].as_i64()).collect();
        terms.sort_unstable();
        terms[terms.len() / 2]
    };
    for (of_reflector, of_probe, term) in
        [("--fault-delay-tx 20ms", "", "residence"), ("", "--fault-delay-rx 20ms", "probe_rx")]
    {
        let reflector =
            Reflector::start(&hosts, "mlx5", &format!("--datapath socket --timestamps nic --stateful {of_reflector}"));
        let (_, samples) = probe(&hosts, "mlx5", &format!("--interval 50ms --count 300 {of_probe}"));
        reflector.stop();
        let whole = stamped_all_round(&samples);
        let (found, of) = wires_found(&whole);
        assert!(of >= 100 && found * 1000 >= of * 999, "{term}: {found} of {of}: {:#}", whole[0]);
        // On the probe's own card, what is before and after the wire cannot be parted unless its clock is told in UTC.
        let delayed = median(&whole, term);
        eprintln!("{of_reflector}{of_probe}: {term} {delayed} ns");
        assert!(delayed >= 20_000_000, "{term}: {delayed}: {:#}", whole[0]);
    }
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn a_reply_whose_stamp_was_lost_says_so() {
    let hosts = Hosts::joined(&[("lose_transmit", 5)]);
    let reflector = Reflector::start(&hosts, "mlx5", "--datapath socket --timestamps nic --stateful");
    let (report, samples) = probe(&hosts, "mlx5", "--interval 50ms --count 300");
    let account = reflector.stop();
    for (point, [packets, asked, stamped]) in [("A1", coverage(&report, "A1")), ("B3", coverage(&account, "B3"))] {
        eprintln!("{point}: {packets} packets, {asked} asked, {stamped} stamped");
        assert!(asked == packets && stamped.abs_diff(packets * 4 / 5) <= 2, "{point}");
    }
    let lost =
        samples.iter().filter(|sample| sample["outcome"] == "received" && sample["stamps"]["A1"]["nic"].is_null());
    assert!(lost.count() > 10, "a stamp that did not come is absent");
    let (found, of) = wires_found(&stamped_all_round(&samples));
    assert!(of >= 50 && found * 1000 >= of * 999, "{found} of {of}");
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn what_the_cards_stamp_is_put_back_however_it_ends() {
    let hosts = Hosts::joined(&[]);
    let before = hosts.settings();
    for end in ["INT", "TERM", "KILL"] {
        let mut reflector = Reflector::start(&hosts, "mlx5", "--datapath socket --timestamps nic");
        let during = hosts.settings();
        assert_ne!(during[1], before[1], "{end}: told to stamp");
        assert_eq!(during[0], before[0], "{end}: the other port is another's");
        reflector.signal(end);
        reflector.0.wait().expect("a child");
        let deadline = Instant::now() + PATIENCE;
        while hosts.settings() != before {
            assert!(Instant::now() < deadline, "after {end}: {:?}, before {before:?}", hosts.settings());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A card as its driver has it.
struct Card {
    /// The row of the driver table.
    name: &'static str,
    /// What the test NIC is told, to be like it.
    knobs: &'static [(&'static str, i64)],
    /// Packets that are not PTP are stamped, too.
    stamps_all: bool,
}

const CARDS: [Card; 5] = [
    Card { name: "mlx5", knobs: &[], stamps_all: true },
    Card { name: "ixgbe-x550", knobs: &[("tail", 1), ("slots", 1), ("kfunc", 0)], stamps_all: true },
    Card {
        name: "ixgbe-82599",
        knobs: &[("receive_all", 0), ("transmit_all", 0), ("latches", 1), ("slots", 1), ("kfunc", 0)],
        stamps_all: false,
    },
    Card {
        name: "i40e",
        knobs: &[("receive_all", 0), ("transmit_all", 0), ("latches", 4), ("slots", 1), ("kfunc", 0)],
        stamps_all: false,
    },
    Card { name: "bnxt", knobs: &[("slots", 4), ("kfunc", 0)], stamps_all: true },
];

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn each_card_does_what_it_can_and_is_refused_what_it_cannot() {
    for Card { name: card, knobs, stamps_all } in CARDS {
        let hosts = Hosts::joined(knobs);
        let doctor =
            pathlab(&hosts.reflector, card, "doctor --iface test1 --json").output().expect("pathlab was built");
        assert!(doctor.status.success(), "{card}: {}", told(&doctor));
        let doctor: Value = serde_json::from_slice(&doctor.stdout).expect("one JSON document");
        assert_eq!(doctor["ports"][0]["rule"]["id"], card);
        let args = "--datapath socket --timestamps nic --stateful";
        if stamps_all {
            let reflector = Reflector::start(&hosts, card, args);
            let (report, samples) = probe(&hosts, card, "--interval 50ms --count 300");
            let account = reflector.stop();
            let counted: BTreeMap<_, _> = [("A1", &report), ("A4", &report), ("B2", &account), ("B3", &account)]
                .map(|(point, report)| (point, coverage(report, point)))
                .into();
            eprintln!("{card}: packets, asked, stamped: {counted:?}");
            for (point, [packets, asked, stamped]) in counted {
                assert!(stamped == asked && asked > 0, "{card} {point}: {packets} {asked} {stamped}");
            }
            let (found, of) = wires_found(&stamped_all_round(&samples));
            assert!(of >= 50 && found * 1000 >= of * 999, "{card}: {found} of {of}");
        } else {
            let refused =
                pathlab(&hosts.reflector, card, &format!("reflect --listen 192.0.2.2:862 --iface test1 {args}"))
                    .output()
                    .expect("pathlab was built");
            let told = told(&refused);
            assert!(!refused.status.success() && told.contains("--ptp-shaped"), "{card}: {told}");
        }
    }
}
