//! The test NIC's two ports as two hosts, with the command on each, and what stands in for ptp4l.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pathlab_guard::HwtstampConfig;
use pathlab_netlab::netns::Namespace;
use pathlab_reflector::datapath::{SentStamp, SocketOptions, StampedSocket, TransmitSlots};
use serde_json::Value;

use super::realtime;

pub(crate) const PORTS: [&str; 2] = ["test0", "test1"];
/// From the probe's port to the reflector's, and back.
pub(crate) const THERE: i64 = 1_500_000;
pub(crate) const BACK: i64 = 2_500_000;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the module has when it is loaded.
pub(crate) const KNOBS: [(&str, i64); 11] = [
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

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A port that was in a namespace comes back when that is gone, a little later.
pub(crate) fn await_ports() {
    let deadline = Instant::now() + PATIENCE;
    while !PORTS.iter().all(|port| Path::new("/sys/class/net").join(port).exists()) {
        assert!(Instant::now() < deadline, "no {PORTS:?}: is the module of tests/nic loaded?");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The probe's host with `test0`, 192.0.2.1, and the reflector's with `test1`, 192.0.2.2.
pub(crate) struct Hosts {
    pub(crate) probe: Namespace,
    pub(crate) reflector: Namespace,
    _alone: MutexGuard<'static, ()>,
}

impl Hosts {
    /// With what both ports have beside their wires and oscillators, 100 ppm apart.
    pub(crate) fn joined(both: &[(&str, i64)]) -> Self {
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
            // Nothing speaks by itself, so that what is counted is what a test sends.
            host.run(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))
                .expect("inside")
                .expect("a setting");
            ip(&format!("link set {port} netns {name}"));
            ip(&format!("-n {name} address add 192.0.2.{}/24 dev {port}", number + 1));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set {port} up"));
        }
        let [probe, reflector] = hosts;
        Self { probe, reflector, _alone: alone }
    }

    /// A counter of a port, as `ethtool -S` has it: 0 the probe's, 1 the reflector's.
    pub(crate) fn counter(&self, port: usize, name: &str) -> u64 {
        let mut ethtool = [&self.probe, &self.reflector][port].command("ethtool").expect("a descriptor");
        let output = ethtool.args(["-S", PORTS[port]]).output().expect("ethtool");
        let text = String::from_utf8_lossy(&output.stdout);
        let of = |line: &str| line.trim().strip_prefix(name)?.strip_prefix(": ")?.parse().ok();
        text.lines().find_map(of).unwrap_or_else(|| panic!("{name}: {text}"))
    }

    /// Octets that the probe's port has sent and received, frames of 14 octets of Ethernet included.
    pub(crate) fn octets(&self) -> [u64; 2] {
        let output = Command::new("ip").args(["-n", self.probe.name(), "-s", "-j", "link", "show", PORTS[0]]).output();
        let link: Value = serde_json::from_slice(&output.expect("iproute2").stdout).expect("JSON");
        ["tx", "rx"].map(|way| link[0]["stats64"][way]["bytes"].as_u64().unwrap_or_else(|| panic!("{link:#}")))
    }

    /// What the ports are told to stamp now.
    pub(crate) fn settings(&self) -> [HwtstampConfig; 2] {
        let read =
            |host: &Namespace, port: &str| host.run(|| HwtstampConfig::read(port)).expect("inside").expect("read");
        [read(&self.probe, PORTS[0]), read(&self.reflector, PORTS[1])]
    }
}

pub(crate) fn pathlab(host: &Namespace, profile: &str, args: &str) -> Command {
    let mut command = realtime::command(host, env!("CARGO_BIN_EXE_pathlab"));
    command.args(args.split_whitespace()).env("PATHLAB_LOG", "warn").stdin(Stdio::null());
    command.env("PATHLAB_TEST_DRIVER_PROFILE", profile);
    command
}

/// A running `pathlab reflect`, killed when dropped.
pub(crate) struct Reflector(pub(crate) Child);

impl Drop for Reflector {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Reflector {
    pub(crate) fn start(hosts: &Hosts, profile: &str, args: &str) -> Self {
        Self::start_on(862, hosts, profile, args)
    }

    pub(crate) fn start_on(listen: u16, hosts: &Hosts, profile: &str, args: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ready");
        let ready = UnixDatagram::bind(&path).expect("a socket");
        ready.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut command = pathlab(&hosts.reflector, profile, "reflect --json --iface test1 --listen");
        command.arg(format!("192.0.2.2:{listen}"));
        let child = command.args(args.split_whitespace()).env("NOTIFY_SOCKET", &path).stdout(Stdio::piped()).spawn();
        let reflector = Self(child.expect("pathlab was built"));
        ready.recv(&mut [0; 64]).unwrap_or_else(|error| panic!("pathlab reflect {args}: not ready: {error}"));
        reflector
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.0.id())]).status().expect("a shell");
        assert!(kill.success(), "pathlab reflect had ended by itself");
    }

    /// Stops it as Ctrl-C would, and takes its account.
    pub(crate) fn stop(mut self) -> Value {
        self.signal("INT");
        let stdout = self.0.stdout.take().expect("piped");
        let account = serde_json::from_reader(stdout).expect("one JSON document");
        assert!(self.0.wait().expect("a child").success());
        account
    }
}

/// Stamps of both cards, and the reflector's stages.
pub(crate) const ALL: &str = "--timestamps nic --tlv stages,follow-up";

/// What a probe left: its report and its samples.
pub(crate) fn probe(hosts: &Hosts, profile: &str, args: &str) -> (Value, Vec<Value>) {
    let out = tempfile::tempdir().expect("a temporary directory");
    let run = out.path().join("run");
    let mut command = pathlab(&hosts.probe, profile, "probe 192.0.2.2 --out");
    let output = command.arg(&run).args(args.split_whitespace()).output().expect("pathlab was built");
    assert!(output.status.success(), "{}", told(&output));
    let read = |file: &str| fs::read_to_string(run.join(file)).expect("of a run directory");
    let samples = read("samples.jsonl").lines().map(|line| serde_json::from_str(line).expect("a sample")).collect();
    (serde_json::from_str(&read("probe.json")).expect("a report"), samples)
}

pub(crate) fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Packets, those that the card was asked to stamp, and those that it did.
pub(crate) fn coverage(report: &Value, point: &str) -> [u64; 3] {
    ["packets", "asked", "stamped"]
        .map(|key| report["hw_coverage"][point][key].as_u64().unwrap_or_else(|| panic!("{point}: {report:#}")))
}

/// The samples with stamps of both cards all round.
pub(crate) fn stamped_all_round(samples: &[Value]) -> Vec<&Value> {
    let all = |sample: &&Value| ["A1", "B2", "B3", "A4"].iter().all(|point| sample["stamps"][point]["nic"].is_array());
    samples.iter().filter(all).collect()
}

/// How many wires of how many are what the wire is, within what the sample states.
pub(crate) fn wires_found(samples: &[&Value]) -> (usize, usize) {
    let found = samples.iter().filter(|sample| {
        let ledger = &sample["ledger"];
        let (Some(wire), Some(u)) = (ledger["wire"].as_i64(), ledger["u"].as_i64()) else { return false };
        (wire - THERE - BACK).abs() <= u
    });
    (found.count(), samples.len())
}

/// `struct hwtstamp_config` of a ptp4l on UDP: transmit stamps on, `HWTSTAMP_FILTER_PTP_V2_EVENT`.
const FOR_PTP: HwtstampConfig = HwtstampConfig { flags: 0, tx_type: 1, rx_filter: 12 };
/// How long a message of PTP and its stamps are waited for.
const MESSAGE: Duration = Duration::from_millis(1500);

/// What stands in for ptp4l on the reflector's port: a process of that name, so that it is noticed, and here in its stead UDP 319 and messages
/// of PTP, whose stamps it wants. The port is told to stamp them, as ptp4l would tell it.
pub(crate) struct Ptp<'a> {
    hosts: &'a Hosts,
    process: Child,
    master: StampedSocket,
    socket: StampedSocket,
}

/// Messages and what became of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Messages {
    /// Sync messages that came.
    pub(crate) received: u32,
    /// Those with the card's stamp.
    pub(crate) receive_stamps: u32,
    /// Delay_Req messages that were sent.
    pub(crate) sent: u32,
    /// Those with the card's stamp.
    pub(crate) transmit_stamps: u32,
}

impl Messages {
    /// So many, and all have their stamps.
    pub(crate) fn all(count: u32) -> Self {
        Self { received: count, receive_stamps: count, sent: count, transmit_stamps: count }
    }
}

/// `messageType` 0 is Sync, 1 Delay_Req (IEEE 1588, 13.3.2); version 2.
fn ptp_message(kind: u8) -> [u8; 44] {
    let mut message = [0; 44];
    (message[0], message[1], message[3]) = (kind, 2, 44);
    message
}

impl<'a> Ptp<'a> {
    pub(crate) fn start(hosts: &'a Hosts) -> Self {
        let mut shell = hosts.reflector.command("sh").expect("a descriptor");
        // It reads until its standard input is closed.
        let process = shell.arg0("ptp4l").args(["-c", "read line", "-i", PORTS[1]]).stdin(Stdio::piped()).spawn();
        hosts.reflector.run(|| FOR_PTP.write(PORTS[1])).expect("inside").expect("what the card can");
        let at = |host: &Namespace, address: &str, options: &SocketOptions| {
            let address: SocketAddr = address.parse().expect("an address");
            host.run(|| StampedSocket::bind(address, options)).expect("inside").expect("a free port")
        };
        let stamped = SocketOptions {
            nic_receive_stamps: true,
            nic_transmit_stamps: Some(TransmitSlots::new(None)),
            ..SocketOptions::stamped()
        };
        Self {
            hosts,
            process: process.expect("a shell"),
            master: at(&hosts.probe, "192.0.2.1:319", &SocketOptions::default()),
            socket: at(&hosts.reflector, "192.0.2.2:319", &stamped),
        }
    }

    /// A Sync to it, and when that has come a Delay_Req from it.
    pub(crate) fn exchange(&mut self, messages: &mut Messages) {
        self.master.send(self.socket.local_addr(), None, &ptp_message(0)).expect("a message");
        let deadline = Instant::now() + MESSAGE;
        let mut come = false;
        while !come && Instant::now() < deadline {
            self.socket
                .receive(|datagram| {
                    come = true;
                    messages.received += 1;
                    messages.receive_stamps += u32::from(datagram.nic.is_some());
                })
                .expect("a socket");
            thread::sleep(Duration::from_millis(1));
        }
        if !come {
            return;
        }
        self.socket.send(self.master.local_addr(), None, &ptp_message(1)).expect("a message");
        messages.sent += 1;
        let deadline = Instant::now() + MESSAGE;
        let mut stamped = false;
        while !stamped && Instant::now() < deadline {
            self.socket.sent_stamps(|_, stamp| stamped |= matches!(stamp, SentStamp::Nic(_))).expect("a socket");
            thread::sleep(Duration::from_millis(1));
        }
        messages.transmit_stamps += u32::from(stamped);
    }

    pub(crate) fn exchanges(&mut self, count: u32) -> Messages {
        let mut messages = Messages::default();
        (0..count).for_each(|_| self.exchange(&mut messages));
        messages
    }

    /// Goes on while `work` is done, and for some messages at least.
    pub(crate) fn during<T>(&mut self, work: impl FnOnce() -> T) -> (T, Messages) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let talk = scope.spawn(|| {
                let mut messages = Messages::default();
                while messages.sent < 10 || !done.load(Ordering::Relaxed) {
                    self.exchange(&mut messages);
                    thread::sleep(Duration::from_millis(50));
                    assert!(messages.received > 0, "no message of PTP comes through");
                }
                messages
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            (result, talk.join().expect("the stand-in"))
        })
    }

    /// What it told the port.
    pub(crate) fn setting(&self) -> HwtstampConfig {
        self.hosts.settings()[1]
    }
}

impl Drop for Ptp<'_> {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let off = HwtstampConfig { flags: 0, tx_type: 0, rx_filter: 0 };
        // The port is the test's own, and a test that fails by this has failed before.
        let _ = self.hosts.reflector.run(|| off.write(PORTS[1]));
    }
}
