use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// A client and a server with a router between them, 10 Mbit/s towards the client behind `queue`, 5 ms each way, `load` from the router.
fn line(queue: &str, load: &str) -> Scenario {
    let text = format!(
        r#"
name = "line"
summary = "a line"
seed = 1
needs = ["tbf"]

[[node]]
name = "client"
any_address = ["198.18.0.0/16", "2001:2:0:1::/64"]
black_hole = ["198.51.100.0/24"]
routes = [
  {{ to = "203.0.113.0/24", via = "192.0.2.1", dev = "r" }},
  {{ to = "2001:db8:1::/64", via = "2001:db8:a::1", dev = "r" }},
]

[[node]]
name = "router"
forward = true
routes = [
  {{ to = "203.0.113.0/24", via = "192.0.2.6", dev = "s" }},
  {{ to = "2001:db8:1::/64", via = "2001:db8:b::2", dev = "s" }},
  {{ to = "198.18.0.0/16", via = "192.0.2.2", dev = "c" }},
  {{ to = "2001:2:0:1::/64", via = "2001:db8:a::2", dev = "c" }},
  {{ to = "198.51.100.0/24", via = "192.0.2.2", dev = "c" }},
]

[[node]]
name = "server"
addresses = ["203.0.113.10/32", "2001:db8:1::10/128"]
routes = [
  {{ to = "0.0.0.0/0", via = "192.0.2.5", dev = "r" }},
  {{ to = "::/0", via = "2001:db8:b::1", dev = "r" }},
]

[[link]]
ends = [
  {{ node = "router", dev = "c", addresses = ["192.0.2.1/30", "2001:db8:a::1/64"], rate = "10mbit", queue = "{queue}", delay = "5ms" }},
  {{ node = "client", dev = "r", addresses = ["192.0.2.2/30", "2001:db8:a::2/64"], delay = "5ms" }},
]

[[link]]
ends = [
  {{ node = "router", dev = "s", addresses = ["192.0.2.5/30", "2001:db8:b::1/64"] }},
  {{ node = "server", dev = "r", addresses = ["192.0.2.6/30", "2001:db8:b::2/64"] }},
]

[[isp]]
name = "aoba"
asn = 64496
prefixes = ["198.18.0.0/16", "2001:2:0:1::/64"]

[probe]
from = "client"
to = ["203.0.113.10", "2001:db8:1::10"]
port = 862
client_ports = [40000, 40003]
sessions = 5
interval = "50ms"

[[window]]
name = "evening"
kind = "evening"
start = "0s"
end = "20s"
{load}"#
    );
    Scenario::parse("line.toml", &text, None).expect("a sound scenario")
}

const OVERLOAD: &str = r#"
[[load]]
node = "router"
to = "198.51.100.1"
payload = 1452
rate = "20mbit"
wobble = "0%"
period = "1s"
during = ["evening"]
"#;

fn rtts(outcome: &Outcome, from: Duration) -> Vec<Duration> {
    let mut rtts: Vec<Duration> =
        outcome.probes.iter().filter(|probe| probe.sent >= from).filter_map(|probe| probe.rtt).collect();
    rtts.sort();
    rtts
}

#[test]
fn an_empty_line_takes_its_delay_and_one_transmission() {
    let scenario = line("50 packets", "");
    let outcome = play(&scenario, 1, |_| false);
    // 10 sessions, every 50 ms for 20 s
    assert_eq!((outcome.probes.len(), outcome.unroutable), (4000, 0));
    let sessions = scenario.sessions(1);
    for probe in &outcome.probes {
        // 86 or 106 octets at 10 Mbit/s; slots 5 ms apart never meet in the queue
        let octets = if sessions[probe.session].family() == 4 { 86 } else { 106 };
        assert_eq!(probe.rtt, Some(10 * MILLISECOND + Duration::from_nanos(octets * 800)));
    }
}

#[test]
fn tail_drop_delays_by_the_whole_queue() {
    let outcome = play(&line("50 packets", OVERLOAD), 1, |_| false);
    let rtts = rtts(&outcome, Duration::from_secs(2));
    // 50 packets of 1500 octets before it and one on the link, 1.2 ms each; some of the 50 are test packets.
    let (p50, longest) = (rtts[rtts.len() / 2], rtts[rtts.len() - 1]);
    assert!((55 * MILLISECOND..72 * MILLISECOND).contains(&p50), "{p50:?}");
    assert!(longest <= 10 * MILLISECOND + 51 * Duration::from_micros(1200) + MILLISECOND, "{longest:?}");
    let count = outcome.links[&("router".into(), "c".into())];
    let offered = outcome.load_packets + outcome.probes.len() as u64;
    assert!(count.overflowed > offered / 3 && count.dropped == 0, "{count:?} of {offered}");
    assert!(count.sent + count.overflowed == offered, "every packet has one fate: {count:?} of {offered}");
}

#[test]
fn fq_codel_spares_the_thin_flows_and_codel_does_not() {
    let [fq, codel] = ["fq_codel", "codel"].map(|queue| play(&line(queue, OVERLOAD), 1, |_| false));
    let late = Duration::from_secs(2);
    let (fq_rtts, codel_rtts) = (rtts(&fq, late), rtts(&codel, late));
    assert!(fq_rtts[fq_rtts.len() - 1] < 20 * MILLISECOND, "{:?}", fq_rtts.last());
    assert!(fq.probes.iter().all(|probe| probe.rtt.is_some()), "nothing of a thin flow is dropped");
    // Nobody slows down, so that CoDel alone does not get the queue under its target.
    assert!(codel_rtts[codel_rtts.len() / 2] > 50 * MILLISECOND);
}

#[test]
fn the_canary_arm_is_another_way() {
    let demo = Scenario::load("demo", None).expect("sound");
    let canary = |session: &Session| session.source.port() == 40_000;
    let outcome = play(&demo, demo.seed, canary);
    let sessions = demo.sessions(demo.seed);
    let evening = demo.windows[1].start + Duration::from_secs(3)..demo.windows[1].end;
    let p95 = |arm: bool| {
        let of_arm = outcome
            .probes
            .iter()
            .filter(|probe| evening.contains(&probe.sent) && canary(&sessions[probe.session]) == arm);
        let mut rtts: Vec<Duration> = of_arm.filter_map(|probe| probe.rtt).collect();
        rtts.sort();
        rtts[rtts.len() * 95 / 100]
    };
    assert_eq!(outcome.unroutable, 0);
    assert!(p95(true) < MILLISECOND, "{:?}", p95(true));
    assert!(p95(false) > 10 * MILLISECOND, "{:?}", p95(false));
}

/// The same figures on every machine: integers alone, but for the load's rate, which is IEEE 754.
#[test]
fn same_file_and_seed_same_bits() {
    let run = |seed| {
        let outcome = play(&line("fq_codel", OVERLOAD), seed, |_| false);
        pathlab_record::Digest::of(outcome.to_text().as_bytes()).to_string()
    };
    assert_eq!(run(1), run(1));
    assert_eq!(run(1), GOLDEN, "the engine plays otherwise than it did: if that is meant, say so in CHANGELOG.md");
}

const GOLDEN: &str = "074c543001ba0fbb5c81564a27465a9892266fbd06bad3e4f2c5b0b0c11823ae";
