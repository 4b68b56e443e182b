//! What packets meet in the lab: the delay of a full queue, and an evening on one transit while the other is clear.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pathlab_guard::privilege::{root_or_skip, skip};
use pathlab_netlab::{
    lab::Lab,
    link::Route,
    netlink::Netlink,
    netns::Namespace,
    scenario::{Scenario, Session},
};

/// A pair of nodes with a bottleneck of 10 Mbit/s and 50 packets, under twice that load.
const FULL_QUEUE: &str = r#"
name = "full-queue"
summary = "a queue that is always full"
seed = 1
needs = ["tbf"]

[[node]]
name = "sender"

[[node]]
name = "receiver"
black_hole = ["198.51.100.0/24"]

[[link]]
ends = [
  { node = "sender", dev = "out", addresses = ["192.0.2.1/30"], rate = "10mbit", queue = "50 packets" },
  { node = "receiver", dev = "in", addresses = ["192.0.2.2/30"] },
]

[[window]]
name = "all"
kind = "evening"
start = "0s"
end = "10min"

[[load]]
node = "sender"
to = "192.0.2.2"
payload = 1452
rate = "20mbit"
wobble = "0%"
period = "1s"
during = ["all"]
"#;

fn lab(scenario: &Scenario, test: &str) -> Lab {
    Lab::up(scenario, &format!("plnl-{test}-{}", std::process::id()), scenario.seed).expect("up")
}

fn bind(namespace: &Namespace, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().expect("address");
    let socket = namespace.run(|| UdpSocket::bind(address)).expect("enter").expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("settable");
    socket
}

/// One packet's fate: when it was sent, whom to, and how long it took, if it arrived.
#[derive(Clone, Debug)]
struct Fate {
    sent: Duration,
    to: SocketAddr,
    delay: Option<Duration>,
}

/// Returns when every packet that waits in a queue of the lab now has left it.
fn drained(lab: &Lab) {
    let queues = || lab.queues().expect("statistics").into_iter().map(|(_, _, queue)| queue);
    let marks: Vec<u32> = queues().map(|queue| queue.packets + queue.queued).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !queues().zip(&marks).all(|(queue, mark)| queue.packets >= *mark) {
        assert!(Instant::now() < deadline, "the queues stand still");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends to each of `targets` in turn, one datagram of `size` bytes every `interval`, and hears them at `ears`, which are bound to the targets' ports.
#[allow(clippy::too_many_arguments, reason = "one experiment, called twice")]
fn measure(
    lab: &Lab,
    mouth: &[UdpSocket; 2],
    ears: Vec<UdpSocket>,
    targets: &[SocketAddr],
    size: usize,
    interval: Duration,
    start: Instant,
    end: Duration,
) -> Vec<Fate> {
    let over = Arc::new(AtomicBool::new(false));
    let listeners: Vec<_> = ears
        .into_iter()
        .map(|ear| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut heard = Vec::new();
                let mut buffer = [0; 2048];
                loop {
                    // Looked at before the socket: what was sent is in it by then.
                    let last = over.load(Ordering::Relaxed);
                    if last {
                        ear.set_nonblocking(true).expect("settable");
                    }
                    let length = match ear.recv(&mut buffer) {
                        Ok(length) => length,
                        Err(_) if last => break,
                        Err(_) => continue,
                    };
                    let now = start.elapsed();
                    // The background load has another size.
                    if length == size {
                        let number = buffer.first_chunk().expect("8 bytes");
                        heard.push((u64::from_be_bytes(*number) as usize, now));
                    }
                }
                heard
            })
        })
        .collect();
    let mut fates: Vec<Fate> = Vec::new();
    let mut slot = start.elapsed();
    while slot < end {
        thread::sleep(slot.saturating_sub(start.elapsed()));
        let to = targets[fates.len() % targets.len()];
        let mut packet = vec![0; size];
        packet[..8].copy_from_slice(&(fates.len() as u64).to_be_bytes());
        fates.push(Fate { sent: start.elapsed(), to, delay: None });
        mouth[usize::from(to.is_ipv6())].send_to(&packet, to).expect("send");
        slot += interval;
    }
    drained(lab);
    over.store(true, Ordering::Relaxed);
    for (number, heard) in listeners.into_iter().flat_map(|listener| listener.join().expect("listener")) {
        fates[number].delay = Some(heard - fates[number].sent);
    }
    fates
}

/// Quantile of the delays in milliseconds, and the share that is lost.
fn summary(fates: &[&Fate]) -> (f64, f64, f64, f64) {
    let mut delays: Vec<f64> =
        fates.iter().filter_map(|fate| fate.delay).map(|delay| delay.as_secs_f64() * 1e3).collect();
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    let lost = fates.iter().filter(|fate| fate.delay.is_none()).count() as f64 / fates.len() as f64;
    (at(0.05), at(0.5), at(0.95), lost)
}

#[test]
fn a_full_queue_delays_by_its_length_over_its_rate() {
    if !root_or_skip("a_full_queue_delays_by_its_length_over_its_rate") {
        return;
    }
    let scenario = Scenario::parse("full-queue.toml", FULL_QUEUE, None).expect("sound");
    let lab = lab(&scenario, "full");
    let sender = lab.namespace("sender").expect("node");
    let mouths = [bind(sender, "192.0.2.1:0"), bind(sender, "[::1]:0")];
    let ear = bind(lab.namespace("receiver").expect("node"), "192.0.2.2:9");
    let start = Instant::now();
    let shapers = lab.watch_shapers().expect("watched");
    let loads = lab.start_loads(start).expect("loads");
    let target = ["192.0.2.2:9".parse().expect("address")];
    let fates =
        measure(&lab, &mouths, vec![ear], &target, 1451, Duration::from_millis(10), start, Duration::from_secs(4));
    let objection = shapers.stop().expect("still there").iter().find_map(|shaper| shaper.objection());
    let sent: Vec<_> = loads.into_iter().map(|load| load.stop()).collect();
    let error = sent[0].sent as f64 * sent[0].frame as f64 * 8.0 / 20e6 / 4.3 - 1.0;

    let steady: Vec<_> = fates.iter().filter(|fate| fate.sent > Duration::from_millis(500)).collect();
    let (low, median, high, lost) = summary(&steady);
    // 49 full frames ahead of it, and one being sent on average half way.
    let expected = 49.5 * (1452.0 + 42.0) * 8.0 / 10e6 * 1e3;
    eprintln!(
        "full queue: p5 {low:.2} p50 {median:.2} p95 {high:.2} ms, {expected:.2} expected; lost {lost:.2}; {sent:?}, {error:+.3}"
    );
    if let Some(objection) = objection {
        return skip("a_full_queue_delays_by_its_length_over_its_rate", &objection);
    }
    assert!((median / expected - 1.0).abs() < 0.05, "{median} ms, expected {expected}");
    assert!(lost > 0.0, "half of what comes is too much");
}

#[test]
fn in_the_evening_transit_a_is_slow_and_transit_b_is_not() {
    if root_or_skip("in_the_evening_transit_a_is_slow_and_transit_b_is_not") {
        evening(None);
    }
}

#[test]
fn in_the_worse_evening_transit_b_is_slow_and_transit_a_is_not() {
    if root_or_skip("in_the_worse_evening_transit_b_is_slow_and_transit_a_is_not") {
        evening(Some("worse"));
    }
}

/// Plays the demo with its evenings cut short, or in full when `PATHLAB_FULL_EVENING` is set, and prints what each transit did.
fn evening(variant: Option<&str>) {
    let text = include_str!("../scenarios/demo.toml");
    let full = std::env::var_os("PATHLAB_FULL_EVENING").is_some();
    let short = [
        ("\"5s\"", "\"1s\""),
        ("\"6s\"", "\"1s\""),
        ("\"20s\"", "\"3s\""),
        ("\"22s\"", "\"4s\""),
        ("\"36s\"", "\"6s\""),
    ];
    let text = if full {
        text.to_owned()
    } else {
        short.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let scenario = Scenario::parse("demo.toml", &text, variant).expect("sound");
    let lab = lab(&scenario, variant.unwrap_or("evening"));
    let server = lab.namespace("server").expect("node");
    let canary = &scenario.arms.as_ref().expect("has arms").canary;
    let sessions: Vec<Session> = scenario.sessions(1).into_iter().take(80).collect();
    let mut netlink = Netlink::open(server).expect("netlink");
    // Every seventh session is answered by transit B.
    let by_b = |index: usize| index.is_multiple_of(7);
    for (_, session) in sessions.iter().enumerate().filter(|(index, _)| by_b(*index)) {
        let (hop, length) = if session.family() == 6 { (&canary.v6, 128) } else { (&canary.v4, 32) };
        let hop = hop.as_ref().expect("both families");
        let only = pathlab_netlab::cidr::IpCidr::new(session.source.ip(), length).expect("in range");
        netlink.add_route(&Route::via(only, hop.via, &hop.dev)).expect("route");
    }
    let clients = lab.namespace("clients").expect("node");
    let ears = (40000..=40003).flat_map(|port| [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    let ears = ears
        .map(|address| if address.starts_with('[') { v6_only(clients, &address) } else { bind(clients, &address) })
        .collect();
    let mouths = [bind(server, "203.0.113.10:862"), bind(server, "[2001:db8:1::10]:862")];
    let targets: Vec<SocketAddr> = sessions.iter().map(|session| session.source).collect();
    let start = Instant::now();
    let loads = lab.start_loads(start).expect("loads");
    let fates = measure(&lab, &mouths, ears, &targets, 44, Duration::from_micros(200), start, scenario.duration());
    let sent: Vec<_> = loads.into_iter().map(|load| load.stop()).collect();

    let slow: Vec<usize> = (0..sessions.len()).filter(|index| !by_b(*index)).collect();
    let mut medians = Vec::new();
    for window in &scenario.windows {
        for family in [4, 6] {
            for (transit, wanted) in [("A", true), ("B", false)] {
                let chosen: Vec<&Fate> = fates
                    .iter()
                    .enumerate()
                    .filter(|(number, fate)| {
                        slow.contains(&(number % targets.len())) == wanted
                            && fate.to.is_ipv6() == (family == 6)
                            && (window.start + Duration::from_millis(300)..window.end).contains(&fate.sent)
                    })
                    .map(|(_, fate)| fate)
                    .collect();
                let (low, median, high, lost) = summary(&chosen);
                eprintln!(
                    "{:<10} IPv{family} by {transit}: {:5} packets, p5 {low:6.2} p50 {median:6.2} p95 {high:6.2} ms, lost {:.2} %",
                    window.name,
                    chosen.len(),
                    lost * 100.0
                );
                medians.push((window.name.clone(), transit, median, lost));
            }
        }
    }
    eprintln!("{sent:?} {:?}", lab.queues().expect("statistics"));
    for pair in medians.chunks_exact(2) {
        let [a, b] = pair else { unreachable!("chunks of two") };
        let ((window, _, slow, slow_lost), (_, _, clear, clear_lost)) = if variant.is_none() { (a, b) } else { (b, a) };
        if window == "prelude" {
            assert!((slow - clear).abs() < 2.0, "{pair:?}");
        } else {
            assert!(*slow > clear + 5.0 && slow_lost > clear_lost, "{pair:?}");
        }
    }
}

/// An IPv6 socket that leaves IPv4 to its neighbour.
fn v6_only(namespace: &Namespace, address: &str) -> UdpSocket {
    pathlab_netlab::sysctl::set(namespace, "net.ipv6.bindv6only", "1").expect("sysctl");
    bind(namespace, address)
}
