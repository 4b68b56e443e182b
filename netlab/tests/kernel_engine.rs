//! The same queues by three players under the same load: the model in logical time, the wire engine, and this kernel's own qdiscs where it has them.
//!
//! A thin flow shares a link of 10 Mbit/s with more load than it carries; how long its packets take is what a queue is about. The stated tolerance is a
//! tenth of the model's median and 3 ms, which is two bursts of the load's sender and a frame.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pathlab_guard::privilege::skip;
use pathlab_netlab::{
    engine::{
        kernel::{Played, Player},
        line::Line,
        wire::Tolerance,
    },
    lab::Lab,
    netlink::Netlink,
    netns::Namespace,
    qdisc::{Has, Limit},
    queue::{Codel, CodelParameters, DropTail, Flavour, FqCodel, FqCodelParameters, Packet, Queue},
    scenario::Scenario,
};
use support::isolated;

const RATE: u64 = 10_000_000;
/// Payload of the load: 1,242 bytes on the link.
const PAYLOAD: u16 = 1200;
const FRAME: u32 = 1242;
/// The thin flow: 44 bytes, 86 on the link, as often as this.
const THIN: Duration = Duration::from_millis(20);
const THIN_FRAME: u32 = 86;
/// From the start of the load.
const FROM: Duration = Duration::from_secs(1);
const UNTIL: Duration = Duration::from_millis(3000);

fn scenario(queue: &str, load: u64) -> Scenario {
    let text = format!(
        r#"
name = "bottleneck"
summary = "a thin flow under load"
seed = 1
needs = ["tbf"]

[[node]]
name = "left"
routes = [{{ to = "198.51.100.0/24", via = "192.0.2.2", dev = "out" }}]

[[node]]
name = "right"
black_hole = ["198.51.100.0/24"]

[[link]]
ends = [
  {{ node = "left", dev = "out", addresses = ["192.0.2.1/30"], rate = "{RATE}bit", queue = "{queue}" }},
  {{ node = "right", dev = "in", addresses = ["192.0.2.2/30"] }},
]

[[window]]
name = "all"
kind = "evening"
start = "0s"
end = "1min"

[[load]]
node = "left"
to = "198.51.100.1"
payload = {PAYLOAD}
rate = "{load}bit"
wobble = "0%"
period = "1s"
during = ["all"]
"#
    );
    Scenario::parse("bottleneck.toml", &text, None).expect("a sound scenario")
}

/// Delays of the thin flow's packets sent after [`FROM`] that arrive at all, through the pure queue.
fn modelled(queue: Box<dyn Queue>, load: u64) -> Vec<Duration> {
    let mut line = Line::new(Some(RATE), queue);
    let gap = Duration::from_nanos(u64::from(FRAME) * 8 * 1_000_000_000 / load);
    let mut arrivals: Vec<(Duration, Packet)> = Vec::new();
    let bulk = Packet { id: 0, bytes: FRAME, flow: 1, ecn_capable: false };
    arrivals.extend((0..).map(|number| gap * number).take_while(|at| *at < UNTIL).map(|at| (at, bulk)));
    let thin = |number: u32| (THIN * number, Packet { id: 1, bytes: THIN_FRAME, flow: 1 << 31, ecn_capable: false });
    // A packet's number says when it was sent.
    arrivals.extend((0..).map(thin).take_while(|(at, _)| *at < UNTIL));
    arrivals.sort_by_key(|(at, packet)| (*at, packet.id));
    for (number, (_, packet)) in arrivals.iter_mut().enumerate() {
        packet.id = number as u64;
    }
    let mut delays = Vec::new();
    let mut depart = |line: &mut Line, to| {
        while let Some(departure) = line.depart(to, &mut Vec::new()) {
            let sent = arrivals[departure.packet.id as usize].0;
            if departure.packet.bytes == THIN_FRAME && sent >= FROM {
                delays.push(departure.end - sent);
            }
        }
    };
    for (at, packet) in &arrivals {
        depart(&mut line, *at);
        line.arrive(*at, *packet, &mut Vec::new());
    }
    depart(&mut line, Duration::MAX);
    delays
}

/// The same with real packets.
fn measured(lab: &Lab) -> Vec<Duration> {
    let bind = |node: &str, address: &str| {
        let socket = lab.namespace(node).expect("node").run(|| UdpSocket::bind(address)).expect("enter").expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("deadline");
        socket
    };
    let (mouth, ear) = (bind("left", "192.0.2.1:0"), bind("right", "192.0.2.2:7"));
    mouth.connect("192.0.2.2:7").expect("connected");
    let start = Instant::now();
    let _loads = lab.start_loads(start).expect("loads");
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let listener = std::thread::spawn(move || {
        let (mut delays, mut buffer) = (Vec::new(), [0; 64]);
        // Until nothing has come for a while: what still waits in the queue is to be heard, too.
        let mut last = Instant::now();
        while !stop.load(Ordering::Relaxed) || last.elapsed() < Duration::from_millis(500) {
            if ear.recv(&mut buffer).is_err() {
                continue;
            }
            last = Instant::now();
            let sent = Duration::from_nanos(u64::from_le_bytes(*buffer.first_chunk().expect("eight bytes")));
            if sent >= FROM {
                delays.push(start.elapsed() - sent);
            }
        }
        delays
    });
    for number in 0.. {
        let slot = THIN * number;
        if slot >= UNTIL {
            break;
        }
        std::thread::sleep(slot.saturating_sub(start.elapsed()));
        let mut packet = [0; 44];
        packet[..8].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_le_bytes());
        mouth.send(&packet).expect("send");
    }
    over.store(true, Ordering::Relaxed);
    listener.join().expect("listener")
}

fn median(mut delays: Vec<Duration>) -> Duration {
    assert!(delays.len() >= 10, "{} packets came", delays.len());
    delays.sort();
    delays[delays.len() / 2]
}

/// A queue as a scenario names it, the model of it, and the load under which it is tried.
struct Case {
    queue: &'static str,
    model: fn() -> Box<dyn Queue>,
    load: u64,
}

const CASES: [Case; 5] = [
    Case { queue: "150 packets", model: || Box::new(DropTail::new(Limit::Packets(150))), load: 2 * RATE },
    Case { queue: "codel", model: || codel(Flavour::Linux), load: RATE * 12 / 10 },
    Case { queue: "codel rfc8289", model: || codel(Flavour::Rfc8289), load: RATE * 12 / 10 },
    Case { queue: "fq_codel", model: || fq_codel(Flavour::Linux), load: 2 * RATE },
    Case { queue: "fq_codel rfc8290", model: || fq_codel(Flavour::Rfc8289), load: 2 * RATE },
];

fn codel(flavour: Flavour) -> Box<dyn Queue> {
    Box::new(Codel::new(flavour, CodelParameters::default()))
}

fn fq_codel(flavour: Flavour) -> Box<dyn Queue> {
    Box::new(FqCodel::new(flavour, FqCodelParameters::default()))
}

impl Case {
    fn modelled(&self) -> Duration {
        median(modelled((self.model)(), self.load))
    }

    fn check(&self, player: &str, measured: Duration) {
        let model = self.modelled();
        let tolerance = model / 10 + Duration::from_millis(3);
        eprintln!("{}: model {model:?}, {player} {measured:?}, tolerated {tolerance:?}", self.queue);
        assert!(measured.abs_diff(model) <= tolerance, "{} by {player}: {measured:?}, model {model:?}", self.queue);
    }
}

#[test]
fn the_model_is_as_theory_says() {
    let [pfifo, _, _, linux, rfc] = CASES.map(|case| case.modelled());
    // 150 frames of 1,242 bytes at 10 Mbit/s take 149.04 ms; one or two of those that wait are of the thin flow.
    assert!(pfifo.abs_diff(Duration::from_micros(149_040)) < Duration::from_millis(3), "{pfifo:?}");
    assert!(linux < Duration::from_millis(20) && rfc < Duration::from_millis(20), "{linux:?} {rfc:?}");
}

#[test]
fn the_wire_engine_is_the_model() {
    if !isolated("the_wire_engine_is_the_model") {
        return;
    }
    for case in &CASES {
        let mut lab = Lab::up_played(&scenario(case.queue, case.load), "wire", 1, None, Player::Wire).expect("up");
        let delays = measured(&lab);
        let grade = lab.stop_wire().expect("played on").expect("a wire");
        let objections = grade.objections(Tolerance { release: Duration::from_millis(2), steal: 0.1 });
        if objections.is_empty() {
            case.check("wire", median(delays));
        } else {
            skip(&format!("the wire engine's {}", case.queue), &objections.join("; "));
        }
    }
}

#[test]
fn kernel_engine() {
    if !isolated("kernel_engine") {
        return;
    }
    for case in &CASES {
        let lab = match Lab::up_played(&scenario(case.queue, case.load), "kernel", 1, None, Player::Kernel) {
            Ok(lab) => lab,
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("left:out: the kernel engine cannot play it: "), "{error}");
                assert!(error.ends_with("; use --engine wire, or auto"), "{error}");
                assert!(!case.queue.ends_with("packets"), "every kernel that we support has tbf: {error}");
                if !case.queue.contains("rfc") {
                    skip(&format!("kernel_engine with {}", case.queue), &error);
                }
                continue;
            }
        };
        assert_eq!(lab.played().next().expect("one link").1, &Played::Kernel);
        assert!(!case.queue.contains("rfc"), "no kernel has {}", case.queue);
        let shapers = lab.watch_shapers().expect("watched");
        let delays = measured(&lab);
        let grades = shapers.stop().expect("they are still there");
        eprintln!("{}: {grades:?}", case.queue);
        let [grade] = &grades[..] else { panic!("one end has a rate") };
        assert!(grade.kept().is_some(), "there is always a queue: {grade:?}");
        match grade.objection() {
            Some(objection) => skip(&format!("the kernel's {}", case.queue), &objection),
            None => case.check("kernel", median(delays)),
        }
    }
}

/// netem of this kernel delays as it is told, and loses as much.
#[test]
fn kernel_engine_netem() {
    if !isolated("kernel_engine_netem") {
        return;
    }
    let text = r#"
name = "late"
summary = "a delay"
seed = 1

[[node]]
name = "left"

[[node]]
name = "right"

[[link]]
ends = [
  { node = "left", dev = "out", addresses = ["192.0.2.1/30"], delay = "25ms" },
  { node = "right", dev = "in", addresses = ["192.0.2.2/30"] },
]
"#;
    let scenario = Scenario::parse("late.toml", text, None).expect("a sound scenario");
    let lab = match Lab::up_played(&scenario, "netem", 1, None, Player::Kernel) {
        Ok(lab) => lab,
        Err(error) => return skip("kernel_engine_netem", &error.to_string()),
    };
    let bind = |node: &str, address: &str| {
        let socket = lab.namespace(node).expect("node").run(|| UdpSocket::bind(address)).expect("enter").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("deadline");
        socket
    };
    let (mouth, ear) = (bind("left", "192.0.2.1:0"), bind("right", "192.0.2.2:7"));
    let took = (0..20).map(|_| {
        let start = Instant::now();
        mouth.send_to(&[0; 44], "192.0.2.2:7").expect("send");
        ear.recv(&mut [0; 64]).expect("it comes");
        start.elapsed()
    });
    let took = median(took.collect());
    eprintln!("netem: 25 ms set, {took:?} measured");
    assert!(took >= Duration::from_millis(25) && took < Duration::from_millis(35), "{took:?}");
}

#[test]
fn qdiscs_are_looked_for_and_nothing_is_left_of_it() {
    if !isolated("qdiscs_are_looked_for_and_nothing_is_left_of_it") {
        return;
    }
    let namespace = Namespace::create("plnl-qdiscs").expect("create");
    let mut netlink = Netlink::open(&namespace).expect("netlink");
    netlink.up("lo").expect("lo");
    let shown = || {
        let tc = namespace.command("tc").expect("command").args(["qdisc", "show", "dev", "lo"]).output().expect("tc");
        String::from_utf8_lossy(&tc.stdout).into_owned()
    };
    let before = shown();
    for (kind, known) in [("tbf", Some(Has::Yes)), ("nonesuch", Some(Has::No)), ("fq_codel", None), ("netem", None)] {
        let has = netlink.has_qdisc(kind).expect("asked");
        eprintln!("{kind}: {has:?}");
        assert!(known.is_none_or(|known| has == known), "{kind}: {has:?}");
        assert!(!matches!(has, Has::CannotTell(_)), "{kind}: {has:?}");
        assert_eq!(shown(), before, "after {kind}");
    }
}
