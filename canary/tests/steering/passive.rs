//! Round trips of the game's own packets, held against what both ends saw: clients answer after a known time, out of order,
//! with packets missing each way.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use pathlab_canary::{
    Experiment, Ingest, Key, KeyFrom, Mode,
    passive::{Field, Order, Passive, Port, Watch},
};
use pathlab_guard::{in_netns, privilege::root_or_skip};
use pathlab_record::{Arm, AsnTable, SessionBin};

use crate::{
    SEED, assigned, experiment,
    network::{DELIVERED, Network, OWN_V4, OWN_V6, PORT, listener, session, sh},
    options,
    process::within,
    share, start,
};

/// Of the server.
const TICK: Duration = Duration::from_millis(5);
const PACKETS: u32 = 200;
/// The first sequence number: it wraps on the way.
const FIRST: u32 = 0xffff_ff80;

/// What befalls a session's packets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Every seventh packet never reaches the client, every fifth echo never the server.
    Lossy,
    /// Every tenth echo is overtaken by those after it.
    Reordered,
    /// The client sends four times as often as the server, what it has newest; of every third sequence number the first echo is lost.
    Repeated,
}

impl Fault {
    fn reaches_client(self, sequence: u32) -> bool {
        self != Self::Lossy || sequence % 7 != 3
    }

    /// Whether the first echo of it reaches the server.
    fn reaches_server(self, sequence: u32) -> bool {
        match self {
            Self::Lossy => sequence % 5 != 1,
            Self::Repeated => sequence % 3 != 1,
            Self::None | Self::Reordered => true,
        }
    }
}

fn sequences() -> impl Iterator<Item = u32> {
    (0..PACKETS).map(|n| FIRST.wrapping_add(n))
}

/// Both ends' view of one session, by sequence number.
#[derive(Default)]
struct Seen {
    /// Just before the server's packet was sent.
    sent: BTreeMap<u32, Instant>,
    /// How long the client held it, at least: from its receipt to just before an echo was sent, by that echo's own number.
    held: BTreeMap<u32, Vec<(u32, Duration)>>,
    /// Echoes as they came to the server's socket, with the client's own numbers.
    echoes: Vec<(u32, u32, Instant)>,
}

struct Session {
    client: SocketAddr,
    fault: Fault,
    seen: Mutex<Seen>,
}

impl Session {
    /// The sequence numbers whose echo reaches the server at once.
    fn echoed(&self) -> impl Iterator<Item = u32> {
        sequences().filter(|sequence| self.fault.reaches_client(*sequence) && self.fault.reaches_server(*sequence))
    }

    fn is_over(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let came = |sequence| seen.echoes.iter().any(|(echo, ..)| *echo == sequence);
        match self.fault {
            Fault::Repeated => sequences().last().is_some_and(came),
            _ => seen.echoes.len() == self.echoed().count(),
        }
    }
}

/// Where transits have a way back to the server and to the game host behind it.
fn ways_back(network: &Network) {
    for (ns, n) in [(&network.transit_a, 1), (&network.transit_b, 2)] {
        sh(&format!(
            "ip -n {ns} route add {OWN_V4} via 10.{n}.0.2; ip -n {ns} route add 10.3.0.0/24 via 10.{n}.0.2
             ip -n {ns} -6 route add {OWN_V6} via 2001:db8:{n}::2; ip -n {ns} -6 route add 2001:db8:3::/64 via 2001:db8:{n}::2"
        ));
    }
}

/// The client's payload: its own number, two bytes, little-endian; nothing; the echo, four bytes, big-endian.
fn answer(own: u32, echo: u32) -> Vec<u8> {
    let mut payload = (own as u16).to_le_bytes().to_vec();
    payload.extend([0; 6]);
    payload.extend(echo.to_be_bytes());
    payload
}

/// A client of its own address that holds each packet for `delay` and answers. Ends with the flag.
fn client(socket: &UdpSocket, delay: Duration, fault: Fault, seen: &Mutex<Seen>, running: &AtomicBool) {
    let (received, due) = mpsc::channel();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut payload = [0; 64];
            while running.load(Ordering::Relaxed) {
                let Ok((_, from)) = socket.recv_from(&mut payload) else { continue };
                let sequence = u32::from_be_bytes(payload[..4].try_into().unwrap());
                if fault.reaches_client(sequence) {
                    received.send((sequence, Instant::now(), from)).unwrap();
                }
            }
        });
        let mut own = 0;
        let echo = |own: u32, sequence: u32, came: Instant, to: SocketAddr| {
            seen.lock().unwrap().held.entry(sequence).or_default().push((own, came.elapsed()));
            socket.send_to(&answer(own, sequence), to).unwrap();
        };
        if fault == Fault::Repeated {
            let mut newest: Option<(u32, Instant, SocketAddr)> = None;
            while running.load(Ordering::Relaxed) {
                thread::sleep(TICK / 4);
                let mut first = false;
                while let Ok(packet) = due.try_recv() {
                    (newest, first) = (Some(packet), true);
                }
                let Some((sequence, came, to)) = newest else { continue };
                own += 1;
                if !first || fault.reaches_server(sequence) {
                    echo(own, sequence, came, to);
                }
            }
            return;
        }
        let mut waiting: BinaryHeap<Reverse<(Instant, u32, Instant, SocketAddr)>> = BinaryHeap::new();
        loop {
            let next = waiting.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
            match due.recv_timeout(next.unwrap_or(Duration::from_millis(100))) {
                Ok((sequence, came, from)) => {
                    let overtaken = fault == Fault::Reordered && sequence % 10 == 3;
                    let extra = if overtaken { 3 * TICK + TICK / 2 } else { Duration::ZERO };
                    waiting.push(Reverse((came + delay + extra, sequence, came, from)));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            while let Some(Reverse((at, sequence, came, to))) = waiting.peek().copied() {
                if Instant::now() < at {
                    break;
                }
                waiting.pop();
                own += 1;
                if fault.reaches_server(sequence) {
                    echo(own, sequence, came, to);
                }
            }
        }
    });
}

/// Receives for the server until nothing has come for a while.
fn receive(socket: &UdpSocket, sessions: &[Session], running: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut payload = [0; 64];
    while running.load(Ordering::Relaxed) {
        let Ok((_, from)) = socket.recv_from(&mut payload) else { continue };
        let now = Instant::now();
        let Some(session) = sessions.iter().find(|session| session.client == from) else { continue };
        let own = u16::from_le_bytes(payload[..2].try_into().unwrap());
        let echo = u32::from_be_bytes(payload[8..12].try_into().unwrap());
        session.seen.lock().unwrap().echoes.push((echo, own.into(), now));
    }
}

/// Plays a session for each arm, family, fault and delay in milliseconds, from where the packets of `mode` come.
fn play(network: &Network, experiment: &Experiment, arms: &[Arm], faults: &[(Fault, u64)]) -> Vec<Session> {
    let running = AtomicBool::new(true);
    let (mut sessions, mut clients) = (Vec::new(), Vec::new());
    let mut port = DELIVERED;
    for v6 in [false, true] {
        for (arm, (fault, delay)) in arms.iter().flat_map(|arm| faults.iter().map(move |fault| (arm, fault))) {
            let at = |port| SocketAddr::new(listener(v6), port);
            while assigned(experiment, share("50%"), &at(port)) != *arm {
                port += 1;
            }
            let ns = if *arm == Arm::Canary { &network.transit_b } else { &network.transit_a };
            clients.push((in_netns(Some(ns), || Ok(UdpSocket::bind(at(port)).unwrap())).unwrap(), *delay));
            sessions.push(Session { client: at(port), fault: *fault, seen: Mutex::default() });
            port += 1;
        }
    }
    let sockets = network.sockets(network.sender(experiment.steer.mode), PORT);
    thread::scope(|scope| {
        let (sessions, running) = (&sessions, &running);
        for (session, (socket, delay)) in sessions.iter().zip(&clients) {
            let delay = Duration::from_millis(*delay);
            scope.spawn(move || client(socket, delay, session.fault, &session.seen, running));
        }
        for socket in &sockets {
            scope.spawn(move || receive(socket, sessions, running));
        }
        let begin = Instant::now();
        for (n, sequence) in sequences().enumerate() {
            thread::sleep((begin + TICK * n as u32).saturating_duration_since(Instant::now()));
            for session in sessions {
                session.seen.lock().unwrap().sent.insert(sequence, Instant::now());
                let socket = &sockets[usize::from(session.client.is_ipv6())];
                socket.send_to(&sequence.to_be_bytes(), session.client).unwrap();
            }
        }
        // Every echo that is to come has come; of those that are repeated, the newest.
        within(Duration::from_secs(20), || sessions.iter().all(Session::is_over));
        running.store(false, Ordering::Relaxed);
    });
    sessions
}

/// The least and the most that each round trip can have been, in nanoseconds, sorted; of the echoes that tell one.
fn truth(session: &Session, numbered: bool) -> [Vec<u64>; 2] {
    let seen = session.seen.lock().unwrap();
    let (mut told, mut came) = (BTreeMap::new(), BTreeSet::new());
    for (echo, own, at) in &seen.echoes {
        came.insert(*own);
        // A packet of the client before which one is missing may not be the first to say it.
        let may_be_first = !numbered || came.contains(&own.wrapping_sub(1));
        told.entry(*echo).or_insert(may_be_first.then_some((*own, *at)));
    }
    let (mut least, mut most) = (Vec::new(), Vec::new());
    for (echo, own, at) in told.iter().filter_map(|(echo, told)| told.map(|(own, at)| (echo, own, at))) {
        let held = seen.held[echo].iter().find(|(by, _)| *by == own).expect("an echo that was sent");
        least.push(held.1.as_nanos() as u64);
        most.push(at.duration_since(seen.sent[echo]).as_nanos() as u64);
    }
    least.sort_unstable();
    most.sort_unstable();
    [least, most]
}

fn ranked(sorted: &[u64], share: f64) -> u64 {
    sorted[((share * sorted.len() as f64).ceil() as usize).max(1) - 1]
}

/// A bucket's middle is within 1.6 %, a stamp is cut to 1.024 µs, and three digits are kept of the result.
fn around(nanoseconds: u64) -> [f64; 2] {
    let error = nanoseconds as f64 * 0.0176 + 3_000.0;
    [nanoseconds as f64 - error, nanoseconds as f64 + error]
}

/// Every quantile of what was recorded lies between the quantiles of what it can have been.
fn holds(line: &SessionBin, session: &Session, numbered: bool) {
    let [least, most] = truth(session, numbered);
    let rtt = line.rtt.as_ref().expect("round trips");
    assert_eq!(rtt.count(), least.len() as u64, "{} {:?}", session.client, session.fault);
    for share in [0.05, 0.25, 0.5, 0.75, 0.95, 1.0] {
        let found = rtt.quantile(share).unwrap() as f64;
        let [low, high] = [around(ranked(&least, share))[0], around(ranked(&most, share))[1]];
        assert!(
            (low..=high).contains(&found),
            "{} {:?} p{share}: {found} in {low} to {high}",
            session.client,
            session.fault
        );
    }
    eprintln!(
        "{} {:?}: {} round trips, p50 {:.3} ms, between {:.3} and {:.3} ms",
        session.client,
        session.fault,
        rtt.count(),
        rtt.quantile(0.5).unwrap() as f64 / 1e6,
        ranked(&least, 0.5) as f64 / 1e6,
        ranked(&most, 0.5) as f64 / 1e6,
    );
}

/// An experiment that measures; `numbered` tells that clients number their packets.
fn measured(mode: Mode, numbered: bool) -> Experiment {
    let mut experiment = experiment("50%");
    experiment.steer.mode = mode;
    experiment.steer.lease = jiff::SignedDuration::from_secs(10);
    experiment.passive = Some(Passive {
        sequence: Some(Field { offset: 0, bytes: 4, order: Order::Big }),
        acknowledgement: Some(Field { offset: 8, bytes: 4, order: Order::Big }),
        client_sequence: numbered.then_some(Field { offset: 0, bytes: 2, order: Order::Little }),
        max_sessions: 1_000,
        ..Passive::default()
    });
    experiment
}

fn watch(network: &Network, experiment: &Experiment) -> Watch {
    let labels = [("isp".to_owned(), "NTT".into()), ("window".to_owned(), "2026-11-21".into())].into();
    in_netns(Some(&network.server), || {
        Ok(Watch::attach(experiment, SEED, AsnTable::default(), labels, Timestamp::now()).unwrap())
    })
    .unwrap()
}

fn lines(network: &Network, watch: &mut Watch) -> Vec<SessionBin> {
    in_netns(Some(&network.server), || Ok(watch.close_bin(Timestamp::now()).unwrap())).unwrap()
}

fn line<'a>(lines: &'a [SessionBin], session: &Session) -> &'a SessionBin {
    lines.iter().find(|line| line.key.is_some_and(|key| key.0 == session.client)).expect("a line of each session")
}

#[test]
fn a_known_round_trip_is_recovered_per_session_whatever_is_lost_or_overtaken() {
    if !root_or_skip("a_known_round_trip_is_recovered_per_session_whatever_is_lost_or_overtaken") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    ways_back(&network);
    for mode in [Mode::Host, Mode::Router] {
        let experiment = measured(mode, false);
        let mut steering = start(&network, &experiment, &options(&dir));
        let mut watch = watch(&network, &experiment);
        steering.renew().unwrap();
        let faults = [(Fault::None, 1), (Fault::None, 40), (Fault::Lossy, 40), (Fault::Reordered, 40)];
        let sessions = play(&network, &experiment, &[Arm::Control, Arm::Canary], &faults);
        let lines = lines(&network, &mut watch);
        for session in &sessions {
            let line = line(&lines, session);
            line.check().unwrap();
            assert_eq!(line.arm_assigned, Some(assigned(&experiment, share("50%"), &session.client)));
            assert_eq!((line.arm_seen, line.sent, line.loss_unmeasured), (line.arm_assigned, u64::from(PACKETS), true));
            assert_eq!(line.labels["server"], PORT.to_string());
            let echoed = session.echoed().count() as u64;
            assert_eq!(line.rtt.as_ref().unwrap().count(), echoed, "every echo that came tells its round trip");
            holds(line, session, false);
        }
        let account = watch.account();
        assert!(account.steered && account.counted.evicted == 0 && account.counted.short == 0, "{:?}", account.counted);
        assert!(account.openmetrics().contains("pathlab_canary_rtt_seconds_bucket"));
        // The judge takes every line.
        let mut ingest = Ingest::new(&experiment).unwrap();
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        ingest.lines("sessions.jsonl", text.as_bytes()).unwrap();
        let ingested = ingest.finish();
        assert_eq!(
            (ingested.judged_lines(), ingested.remarks().len()),
            (lines.len() as u64, 0),
            "{:?}",
            ingested.remarks()
        );
        drop(watch);
        // A process that another test has just forked may hold the links for a moment.
        within(Duration::from_secs(5), || network.programs() == [1, 1]);
        steering.rollback().unwrap();
    }
}

#[test]
fn an_echo_said_again_does_not_pass_for_the_first_where_clients_number_their_packets() {
    if !root_or_skip("an_echo_said_again_does_not_pass_for_the_first_where_clients_number_their_packets") {
        return;
    }
    let network = Network::new();
    ways_back(&network);
    for numbered in [true, false] {
        let experiment = measured(Mode::Host, numbered);
        let mut watch = watch(&network, &experiment);
        // Nothing steers, as before an experiment.
        let sessions = play(&network, &experiment, &[Arm::Control], &[(Fault::Repeated, 0)]);
        let lines = lines(&network, &mut watch);
        for session in &sessions {
            let line = line(&lines, session);
            holds(line, session, numbered);
            let seen = session.seen.lock().unwrap();
            let late = |sequence: &&u32| !session.fault.reaches_server(**sequence);
            let told = seen.echoes.iter().map(|(echo, ..)| *echo).collect::<BTreeSet<_>>();
            let (all, late) = (told.len() as u64, told.iter().filter(late).count() as u64);
            let found = line.rtt.as_ref().unwrap().count();
            eprintln!("numbered {numbered}: {found} round trips of {all} echoes, {late} without their first");
            assert!(late > 0);
            // The very first packet of a client has none before it, and a new echo may be right behind a lost one.
            let first = u64::from(session.fault.reaches_server(seen.echoes[0].0));
            if numbered {
                assert!(found > 0 && found <= all - late - first);
            } else {
                assert_eq!(found, all);
            }
        }
        assert!(!watch.account().steered);
    }
}

#[test]
fn without_an_echo_residence_is_told_and_never_called_a_round_trip() {
    if !root_or_skip("without_an_echo_residence_is_told_and_never_called_a_round_trip") {
        return;
    }
    let network = Network::new();
    ways_back(&network);
    let mut experiment = measured(Mode::Host, false);
    experiment.passive =
        Some(Passive { servers: [(Port(PORT), "tyo-a".to_owned())].into(), max_sessions: 100, ..Passive::default() });
    let mut watch = watch(&network, &experiment);
    let [server, _] = network.sockets(&network.server, PORT);
    let client = SocketAddr::new(listener(false), DELIVERED);
    let socket = in_netns(Some(&network.transit_a), || Ok(UdpSocket::bind(client).unwrap())).unwrap();
    server.send_to(b"begin", client).unwrap();
    let to = socket.recv_from(&mut [0; 8]).unwrap().1;
    let (mut least, mut most) = (Vec::new(), Vec::new());
    for n in 0..40_u64 {
        let before = Instant::now();
        socket.send_to(b"ask", to).unwrap();
        server.recv_from(&mut [0; 8]).unwrap();
        let came = Instant::now();
        thread::sleep(Duration::from_millis(n % 4));
        least.push(came.elapsed().as_nanos() as u64);
        server.send_to(b"answer", client).unwrap();
        most.push(before.elapsed().as_nanos() as u64);
        socket.recv_from(&mut [0; 8]).unwrap();
    }
    let lines = lines(&network, &mut watch);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line.rtt, line.sent, line.labels["server"].as_str()), (&None, 41, Some("tyo-a")));
    let residence = line.residence.as_ref().unwrap();
    assert_eq!(residence.count(), 40);
    least.sort_unstable();
    most.sort_unstable();
    for share in [0.1, 0.5, 0.9] {
        let found = residence.quantile(share).unwrap() as f64;
        let [low, high] = [around(ranked(&least, share))[0], around(ranked(&most, share))[1]];
        assert!((low..=high).contains(&found), "{found} in {low} to {high}");
    }
    let text = watch.account().openmetrics();
    assert!(text.contains("pathlab_canary_residence_seconds") && !text.contains("rtt"), "{text}");
}

#[test]
fn the_table_is_bounded_and_says_how_many_gave_way_and_strangers_take_no_place() {
    if !root_or_skip("the_table_is_bounded_and_says_how_many_gave_way_and_strangers_take_no_place") {
        return;
    }
    const N: u32 = 5_000;
    let network = Network::new();
    ways_back(&network);
    let mut experiment = measured(Mode::Host, false);
    let length = 6;
    experiment.key = Key { from: KeyFrom::Payload, offset: Some(4), length: Some(length) };
    let mut watch = watch(&network, &experiment);
    // An id of the session in the payload.
    let payload = |client: &SocketAddr| {
        let mut payload = vec![0; 4];
        payload.extend(format!("{:06}", client.port() % 1_000).into_bytes());
        payload
    };
    let sessions: Vec<SocketAddr> = (0..N).map(|i| session(false, i)).collect();
    network.send(&network.server, sessions.iter().copied(), payload);
    let account = |watch: &mut Watch| {
        in_netns(Some(&network.server), || Ok(watch.read())).unwrap().unwrap();
        watch.account()
    };
    let counted = account(&mut watch);
    assert_eq!(counted.counted.began, u64::from(N));
    assert!(counted.sessions <= 1_000, "{}", counted.sessions);
    assert_eq!(counted.counted.evicted, u64::from(N) - counted.sessions);
    // A flood from addresses to which the server sends nothing.
    let socket = in_netns(Some(&network.transit_a), || Ok(UdpSocket::bind((listener(false), 0)).unwrap())).unwrap();
    for _ in 0..100 {
        socket.send_to(&[0; 20], (OWN_V4, PORT)).unwrap();
    }
    within(Duration::from_secs(5), || account(&mut watch).counted.unknown >= 100);
    let after = account(&mut watch).counted;
    assert_eq!((after.began, after.evicted), (counted.counted.began, counted.counted.evicted));
    // Another id from the same address is another session.
    network.send(&network.server, [sessions[N as usize - 1]], |_| vec![7; 12]);
    assert_eq!(account(&mut watch).counted.replaced, 1);
    let lines = lines(&network, &mut watch);
    assert!(lines.iter().all(|line| line.key.is_none() && line.session.len() == 2 * usize::from(length)));
    assert!(lines.len() <= 1_001 && lines.iter().any(|line| line.session == "07".repeat(length.into())));
}
