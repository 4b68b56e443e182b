//! Steering and measuring a game's own traffic, as an operator does: `canary start` and `canary measure` beside a game server with two
//! transits, then the judge. What is recovered is held against what both ends of each session saw.

#[path = "support/isolation.rs"]
mod isolation;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use isolation::{host, isolated, pathlab};
use pathlab_canary::{KeyFrom, Share, arm, bucket};
use pathlab_guard::in_netns;
use pathlab_record::{Arm, SessionBin, SessionKey};
use serde_json::Value;

const SEED: u32 = 7;
const SHARE: &str = "50%";
const SERVER: [&str; 2] = ["203.0.113.10:7777", "[2001:db8:f::10]:7777"];
const CLIENT: [&str; 2] = ["198.18.0.5", "2001:db8:c::5"];
/// Of the server.
const TICK: Duration = Duration::from_millis(5);
const PACKETS: u32 = 200;

/// The experiment; its evening is the whole day, so that the data of a test are of one.
const EXPERIMENT: &str = r#"
[experiment]
name = "game"
seed_file = "seed"
share = "50%"
cap_share = "50%"
[steer]
mode = "host"
lease = "5s"
mark_mask = "0x00ff0000"
priority = 10000
server_port = 7777
[steer.canary]
v4 = { via = "10.2.0.1", dev = "d1" }
v6 = { via = "2001:db8:2::1", dev = "d1" }
[passive]
sequence = { offset = 0, bytes = 4, order = "big" }
acknowledgement = { offset = 8, bytes = 4, order = "big" }
[windows]
evening = "00:00-24:00"
zone = "Asia/Tokyo"
evenings = 2
bin = "10min"
[policy]
metric = "rtt.p95"
margin = "2ms"
target = { isp = ["aoba"] }
"#;

/// What befalls a session's packets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Every seventh packet never reaches the client, every fifth echo never the server.
    Lossy,
    /// Every tenth echo is overtaken by those after it.
    Reordered,
}

impl Fault {
    fn reaches_client(self, sequence: u32) -> bool {
        self != Self::Lossy || sequence % 7 != 3
    }

    fn reaches_server(self, sequence: u32) -> bool {
        self != Self::Lossy || sequence % 5 != 1
    }

    fn held(self, sequence: u32, delay: Duration) -> Duration {
        if self == Self::Reordered && sequence % 10 == 3 { delay + 3 * TICK + TICK / 2 } else { delay }
    }
}

/// One session, and what both ends saw of it by sequence number.
struct Session {
    client: SocketAddr,
    arm: Arm,
    delay: Duration,
    fault: Fault,
    /// Just before the server's packet was sent.
    sent: Mutex<BTreeMap<u32, Instant>>,
    /// How long the client had it, at least.
    held: Mutex<BTreeMap<u32, Duration>>,
    /// When its echo was with the server, at the latest.
    echoed: Mutex<BTreeMap<u32, Instant>>,
}

impl Session {
    fn echoes(&self) -> usize {
        (0..PACKETS).filter(|n| self.fault.reaches_client(*n) && self.fault.reaches_server(*n)).count()
    }

    /// The least and the most that its round trips can have been, in nanoseconds, each sorted.
    fn truth(&self) -> [Vec<u64>; 2] {
        let (sent, held, echoed) = (self.sent.lock().unwrap(), self.held.lock().unwrap(), self.echoed.lock().unwrap());
        let mut bounds = [Vec::new(), Vec::new()];
        for (sequence, at) in echoed.iter() {
            bounds[0].push(held[sequence].as_nanos() as u64);
            bounds[1].push(at.duration_since(sent[sequence]).as_nanos() as u64);
        }
        bounds.iter_mut().for_each(|bound| bound.sort_unstable());
        bounds
    }
}

/// A session of each family, arm and kind of fault.
fn sessions() -> Vec<Session> {
    let share: Share = SHARE.parse().unwrap();
    let mut ports = 40_000_u16..;
    let mut sessions = Vec::new();
    for address in CLIENT {
        for wanted in [Arm::Control, Arm::Canary] {
            for (fault, delay) in [(Fault::None, 5), (Fault::None, 40), (Fault::Lossy, 40), (Fault::Reordered, 40)] {
                let of_arm = |client: &SocketAddr| {
                    arm(bucket(SEED, &SessionKey(*client), KeyFrom::ClientAddrPort).unwrap(), share) == wanted
                };
                let client = ports.by_ref().map(|port| SocketAddr::new(address.parse().unwrap(), port)).find(of_arm);
                sessions.push(Session {
                    client: client.unwrap(),
                    arm: wanted,
                    delay: Duration::from_millis(delay),
                    fault,
                    sent: Mutex::default(),
                    held: Mutex::default(),
                    echoed: Mutex::default(),
                });
            }
        }
    }
    sessions
}

/// This namespace is the server's; transits `a`, the default route, and `b` play the clients.
/// Without duplicate address detection: until it is done a host cannot ask for its neighbours.
fn network() {
    sh("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
        ip addr add 203.0.113.10/32 dev lo; ip addr add 2001:db8:f::10/128 dev lo nodad");
    for (ns, dev, n) in [("a", "d0", 1), ("b", "d1", 2)] {
        let [v4, v6] = CLIENT;
        sh(&format!(
            "ip netns add {ns}
             nsenter --net=/run/netns/{ns} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
             ip link add {dev} type veth peer name s netns {ns}
             sysctl -qw net.ipv4.conf.{dev}.rp_filter=0 net.ipv4.conf.all.rp_filter=0
             ip addr add 10.{n}.0.2/24 dev {dev}; ip addr add 2001:db8:{n}::2/64 dev {dev} nodad; ip link set {dev} up
             ip -n {ns} link set lo up; ip -n {ns} link set s up
             ip -n {ns} addr add 10.{n}.0.1/24 dev s; ip -n {ns} addr add 2001:db8:{n}::1/64 dev s nodad
             ip -n {ns} addr add {v4}/32 dev lo; ip -n {ns} addr add {v6}/128 dev lo nodad
             ip -n {ns} route add 203.0.113.10 via 10.{n}.0.2
             ip -n {ns} -6 route add 2001:db8:f::10 via 2001:db8:{n}::2"
        ));
    }
    sh("ip route add default via 10.1.0.1 src 203.0.113.10
        ip -6 route add default via 2001:db8:1::1 src 2001:db8:f::10");
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

/// A verb that serves; killed when dropped.
struct Serving(Child);

impl Serving {
    /// Returns when it says that it is ready.
    fn start(place: &Path, args: &str) -> Self {
        let path = place.join("ready");
        drop(fs::remove_file(&path));
        let ready = UnixDatagram::bind(&path).unwrap();
        ready.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut command = pathlab(place, args);
        let child = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut serving = Self(child);
        let mut word = [0; 16];
        match ready.recv(&mut word) {
            Ok(length) => assert_eq!(&word[..length], b"READY=1"),
            Err(error) => {
                drop(serving.0.kill());
                panic!("pathlab {args}: not ready: {error}: {}", String::from_utf8_lossy(&serving.ended().stderr));
            }
        }
        serving
    }

    fn stop(self) -> Output {
        sh(&format!("kill -INT {}", self.0.id()));
        self.ended()
    }

    fn ended(mut self) -> Output {
        use std::io::Read;

        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn document(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Holds each packet for the session's delay and answers it. Ends with the flag.
fn client(socket: &UdpSocket, session: &Session, running: &AtomicBool) {
    let mut waiting: BinaryHeap<Reverse<(Instant, u32, Instant, SocketAddr)>> = BinaryHeap::new();
    let mut payload = [0; 64];
    while running.load(Ordering::Relaxed) {
        while let Some(Reverse((due, sequence, came, to))) = waiting.peek().copied()
            && due <= Instant::now()
        {
            waiting.pop();
            if session.fault.reaches_server(sequence) {
                let mut answer = [0; 12];
                answer[8..].copy_from_slice(&sequence.to_be_bytes());
                session.held.lock().unwrap().insert(sequence, came.elapsed());
                socket.send_to(&answer, to).unwrap();
            }
        }
        let next = waiting.peek().map(|Reverse((due, ..))| due.saturating_duration_since(Instant::now()));
        let wait = next.unwrap_or(Duration::from_millis(50)).max(Duration::from_micros(1));
        socket.set_read_timeout(Some(wait)).unwrap();
        let Ok((_, from)) = socket.recv_from(&mut payload) else { continue };
        let (came, sequence) = (Instant::now(), u32::from_be_bytes(payload[..4].try_into().unwrap()));
        if session.fault.reaches_client(sequence) {
            waiting.push(Reverse((came + session.fault.held(sequence, session.delay), sequence, came, from)));
        }
    }
}

/// The server's receiving half, until the flag.
fn receive(socket: &UdpSocket, sessions: &[Session], running: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut payload = [0; 64];
    while running.load(Ordering::Relaxed) {
        match socket.recv_from(&mut payload) {
            Ok((_, from)) => {
                let now = Instant::now();
                let session = sessions.iter().find(|session| session.client == from).expect("one of ours");
                let echo = u32::from_be_bytes(payload[8..12].try_into().unwrap());
                session.echoed.lock().unwrap().insert(echo, now);
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}"),
        }
    }
}

/// The game, until every echo that is to come has come.
fn play(sessions: &[Session]) {
    let running = &AtomicBool::new(true);
    let servers = SERVER.map(|address| UdpSocket::bind(address).unwrap());
    let clients: Vec<UdpSocket> = sessions
        .iter()
        .map(|session| {
            // A packet that takes the other arm's transit finds nobody there, and its echo is missed.
            let ns = if session.arm == Arm::Canary { "b" } else { "a" };
            in_netns(Some(ns), || Ok(UdpSocket::bind(session.client).unwrap())).unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for (socket, session) in clients.iter().zip(sessions) {
            scope.spawn(move || client(socket, session, running));
        }
        for socket in &servers {
            scope.spawn(move || receive(socket, sessions, running));
        }
        let begin = Instant::now();
        for sequence in 0..PACKETS {
            thread::sleep((begin + TICK * sequence).saturating_duration_since(Instant::now()));
            for session in sessions {
                session.sent.lock().unwrap().insert(sequence, Instant::now());
                let socket = &servers[usize::from(session.client.is_ipv6())];
                socket.send_to(&sequence.to_be_bytes(), session.client).unwrap();
            }
        }
        let over = |session: &Session| session.echoed.lock().unwrap().len() == session.echoes();
        while !sessions.iter().all(over) && begin.elapsed() < Duration::from_secs(30) {
            thread::sleep(TICK);
        }
        running.store(false, Ordering::Relaxed);
    });
    for session in sessions {
        let echoed = session.echoed.lock().unwrap().len();
        assert_eq!(echoed, session.echoes(), "{} {:?} {:?}", session.client, session.arm, session.fault);
    }
}

/// The lines of each session: one, or two where a bin ended in between.
fn measured(place: &Path) -> BTreeMap<SocketAddr, Vec<SessionBin>> {
    let mut sessions: BTreeMap<SocketAddr, Vec<SessionBin>> = BTreeMap::new();
    for line in fs::read_to_string(place.join("measured/sessions.jsonl")).unwrap().lines() {
        let line: SessionBin = serde_json::from_str(line).unwrap();
        line.check().unwrap();
        sessions.entry(line.key.unwrap().0).or_default().push(line);
    }
    sessions
}

/// Every quantile of what was measured lies between those of the least and the most that it can have been: a bucket's middle is within
/// 1.6 %, a stamp is cut to 1.024 µs, and three digits are kept of the result.
fn recovered(session: &Session, lines: &[SessionBin]) {
    let mut rtt = pathlab_record::SparseHistogram::new();
    lines.iter().filter_map(|line| line.rtt.as_ref()).for_each(|bin| rtt.merge(bin));
    let named = format!("{} {:?} {:?}", session.client, session.arm, session.fault);
    assert_eq!(rtt.count(), session.echoes() as u64, "{named}: every echo tells one round trip");
    let [least, most] = session.truth();
    let ranked = |sorted: &[u64], share: f64| sorted[((share * sorted.len() as f64).ceil() as usize).max(1) - 1] as f64;
    for share in [0.05, 0.25, 0.5, 0.75, 0.95, 1.0] {
        let found = rtt.quantile(share).unwrap() as f64;
        let (low, high) = (ranked(&least, share), ranked(&most, share));
        let (low, high) = (low - low * 0.0176 - 3_000.0, high + high * 0.0176 + 3_000.0);
        assert!((low..=high).contains(&found), "{named} p{share}: {found} in {low} to {high}");
    }
    let p50 = rtt.quantile(0.5).unwrap() as f64;
    assert!(p50 > session.delay.as_nanos() as f64 * 0.98, "{named}: {p50} ns is less than the client held it");
    eprintln!("{named}: p50 {:.2} ms of {:?} and the way", p50 / 1e6, session.delay);
}

#[test]
fn a_games_own_round_trips_are_recovered_by_session_and_go_to_the_judge() {
    if !isolated("a_games_own_round_trips_are_recovered_by_session_and_go_to_the_judge") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    fs::write(place.join("canary.toml"), EXPERIMENT).unwrap();
    fs::write(place.join("seed"), format!("{SEED}\n")).unwrap();
    network();
    let before = host();
    let sessions = sessions();
    let steerer = Serving::start(place, "canary start --json --out steering");
    let meter = Serving::start(place, "canary measure --json --out measured --label isp=aoba");
    play(&sessions);
    let told = document(&meter.stop(), 0);
    assert_eq!(
        (&told["sessions"]["began"], &told["sessions"]["evicted"]),
        (&sessions.len().into(), &0.into()),
        "{told}"
    );
    let steered = document(&steerer.stop(), 0);
    assert_eq!(host(), before);

    let lines = measured(place);
    assert_eq!(lines.len(), sessions.len());
    for session in &sessions {
        let lines = &lines[&session.client];
        for line in lines {
            assert_eq!((line.arm_assigned, &line.labels["isp"]), (Some(session.arm), &"aoba".into()));
            assert!(line.arm_seen.is_none_or(|seen| seen == session.arm) && line.loss_unmeasured);
        }
        recovered(session, lines);
    }

    let judged = pathlab(place, "canary judge measured steering/plan --json --out verdict").output().unwrap();
    let verdict = document(&judged, 3);
    let inputs: Vec<_> = verdict["inputs"].as_array().unwrap().iter().map(|input| input["name"].as_str()).collect();
    assert_eq!(inputs, [Some("measured/sessions.jsonl"), Some("plan/plan.json")]);
    assert_eq!(verdict["inputs"][0]["lines"], lines.values().map(Vec::len).sum::<usize>());
    // Registered by `start`, before there was anything to measure, and judged as registered.
    assert_eq!(verdict["plan_sha256"], steered["plan_sha256"]);
    assert_eq!(verdict["registered"]["before_the_evenings"], true, "{}", verdict["registered"]);
    assert!(verdict["remarks"].as_object().unwrap().is_empty(), "{}", verdict["remarks"]);
    for sealed in ["measured", "steering", "steering/plan", "verdict"] {
        let verified = pathlab(place, &format!("evidence verify {sealed}")).output().unwrap();
        assert!(verified.status.success(), "{sealed}: {}", String::from_utf8_lossy(&verified.stderr));
    }
    let replayed = pathlab(place, "canary replay verdict measured steering/plan").output().unwrap();
    assert_eq!(replayed.status.code(), Some(3), "{}", String::from_utf8_lossy(&replayed.stderr));
}
