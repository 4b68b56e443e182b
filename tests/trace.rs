//! `pathlab trace` with real packets: a diamond of two parallel branches, of which one loses, in namespaces.
//!
//! ```text
//!   client ── r1 ──┬── a ──┬── r3 ── server        r1 and r3 choose the branch by addresses and ports
//!                  └── b ──┘
//! ```

use std::{
    collections::BTreeSet,
    io::Read,
    net::{IpAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

#[path = "support/diamond.rs"]
mod diamond;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;
#[path = "trace/mtu.rs"]
mod mtu;
#[path = "support/patience.rs"]
mod patience;
#[path = "trace/peers.rs"]
mod peers;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/realtime.rs"]
mod realtime;
#[path = "trace/reverse.rs"]
mod reverse;
#[path = "trace/truth.rs"]
mod truth;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/verbs.rs"]
mod verbs;

use diamond::{B, Diamond, R3, TARGETS, flows, loss, names_no_other, patience};
use isolation::isolated;
use verbs::Reflector;

const GUIDE: &str = include_str!("../docs/which-link-is-it.md");
/// One losing branch: its link is named by its flows together, each with 30 % in its interval. A flow by itself names it or a stretch around it, or says
/// that it is unsure, as one of some 200 is by chance; none names another link. The flows through the other branch lose nothing. Returns, by branch, the sent and lost of each flow.
fn names_the_link(diamond: &mut Diamond, family: usize, ports: u16) -> [Vec<(u64, u64)>; 2] {
    let report =
        diamond.trace(&format!("{} --flows 10 --source-port {ports} --count 250 --interval 20ms", TARGETS[family]));
    let named = |verdict: &Value, of: &Value| {
        let named = (&verdict["from"]["address"], &verdict["to"]["address"], &verdict["direction"]);
        assert_eq!(named, (&B[family].into(), &R3[family].into(), &"forward".into()), "{of:#}");
    };
    let mut went = [Vec::new(), Vec::new()];
    for flow in flows(&report) {
        assert_eq!(
            (&flow["destination"]["distance"], &flow["destination"]["answers"]),
            (&4.into(), &"reflector".into()),
            "{flow:#}"
        );
        let by_b = flow["hops"][1]["addresses"][0] == B[family];
        let (sent, lost) = loss(&flow["destination"]["loss"]);
        assert_eq!(sent, 250, "one a round: {flow:#}");
        let told = ["lost_forward", "lost_return"].map(|leg| flow["destination"][leg].as_u64().expect("a count"));
        assert!(told[0] + told[1] <= lost, "the reflector counts the same packets: {flow:#}");
        went[usize::from(by_b)].push((sent, lost));
        if by_b {
            names_no_other(&flow["verdict"], [2, 3]);
            covers(sent, lost);
        } else {
            assert_eq!((&flow["verdict"]["kind"], lost), (&"none".into(), 0), "{flow:#}");
        }
    }
    for path in report["paths"].as_array().expect("paths") {
        assert_eq!(path["alike"], true, "{path:#}");
        if path["addresses"][1] == B[family] {
            named(&path["verdict"], path);
            let (sent, lost) = loss(&path["loss"]);
            covers(sent, lost);
        } else {
            assert_eq!((&path["verdict"]["kind"], &path["loss"]["lost"]), (&"none".into(), &0.into()), "{path:#}");
        }
    }
    went
}

/// Three in ten lie in Wilson's interval, at one in 100,000 instead of one in 20: of the hundreds of flows of a soak none may miss by chance.
fn covers(sent: u64, lost: u64) {
    const Z: f64 = 4.417;
    let (n, p) = (sent as f64, lost as f64 / sent as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    assert!((middle - 0.3).abs() <= half, "{lost} of {sent}: {} to {}", middle - half, middle + half);
}

#[test]
fn the_losing_branch_is_named_and_never_the_healthy_one() {
    if !isolated("the_losing_branch_is_named_and_never_the_healthy_one") {
        return;
    }
    let mut diamond = Diamond::up(false);
    diamond.lose("b", 30, "meta l4proto udp udp dport 862");
    let went = [0, 1].map(|family| names_the_link(&mut diamond, family, 41_000).map(|flows| flows.len()));
    eprintln!("flows by a and b: IPv4 {:?}, IPv6 {:?}", went[0], went[1]);
    // Which flow goes where is the kernel's to choose for each socket: all twenty on one branch is one case of 500,000.
    assert!((0..2).all(|branch| went[0][branch] + went[1][branch] > 0), "both branches carry flows: {went:?}");
}

/// Twenty traces of each family, and what all their flows lost held against the dice that were set: in all, and flow by flow.
#[test]
#[ignore = "forty traces, for the soak"]
fn the_losing_branch_is_named_twenty_times_of_twenty() {
    if !isolated("the_losing_branch_is_named_twenty_times_of_twenty") {
        return;
    }
    let mut diamond = Diamond::up(false);
    diamond.lose("b", 30, "meta l4proto udp udp dport 862");
    let (mut healthy, mut lossy) = (0, Vec::new());
    for seed in 0..20 {
        for family in [0, 1] {
            let [a, b] = names_the_link(&mut diamond, family, 41_000 + 100 * seed);
            eprintln!("ports from {}, family {family}: {} by a, b: {b:?}", 41_000 + 100 * seed, a.len());
            healthy += a.len();
            lossy.extend(b);
        }
    }
    eprintln!("{healthy} flows by a");
    assert!(healthy > 20 && lossy.len() > 20);
    fair(&lossy);
}

/// Whether what flows lost is as of 30 % by chance: Pearson's statistic is near its degrees of freedom, and the sum within four standard deviations.
fn fair(lossy: &[(u64, u64)]) {
    let (sent, lost) = lossy.iter().fold((0, 0), |sum, flow| (sum.0 + flow.0, sum.1 + flow.1));
    let deviation = |(sent, lost): (u64, u64)| (lost as f64 - 0.3 * sent as f64) / (0.21 * sent as f64).sqrt();
    let freedom = lossy.len() as f64;
    let spread: f64 = lossy.iter().map(|flow| deviation(*flow).powi(2)).sum();
    let most = lossy.iter().map(|flow| deviation(*flow)).fold(0.0_f64, |most, one| most.max(one.abs()));
    eprintln!(
        "{freedom} counts: {lost} of {sent} lost, {:.2} standard deviations; chi-squared {spread:.1}, most {most:.2}",
        deviation((sent, lost))
    );
    assert!(deviation((sent, lost)).abs() < 4.0);
    assert!((spread - freedom).abs() < 4.0 * (2.0 * freedom).sqrt(), "chi-squared {spread} of {freedom}");
}

/// The dice by themselves: 200,000 packets of one sender through the rule, in blocks of 250, against the binomial.
#[test]
#[ignore = "what the other tests take for granted, for the soak"]
fn the_losing_branch_loses_by_fair_dice() {
    const BLOCK: usize = 250;
    if !isolated("the_losing_branch_loses_by_fair_dice") {
        return;
    }
    let mut diamond = Diamond::up(false);
    drop(diamond.reflector.take());
    diamond.lose("r3", 30, "meta l4proto udp udp dport 862");
    let bind = |node: &str, address: &'static str| {
        let bind = move || UdpSocket::bind(address);
        diamond.lab.namespace(node).expect("a node").run(bind).expect("entered").expect("a socket")
    };
    let (sender, receiver) = (bind("client", "0.0.0.0:41000"), bind("server", "203.0.113.10:862"));
    receiver.set_nonblocking(true).expect("a setting");
    sender.connect("203.0.113.10:862").expect("connected");
    let mut lossy = Vec::new();
    for _ in 0..200_000 / BLOCK {
        (0..BLOCK).for_each(|_| assert_eq!(sender.send(&[0; 44]).expect("sent"), 44));
        // A packet through veth is there when its send returns, or as soon as its softirq has run: until nothing comes for a moment.
        let (mut arrived, mut quiet, mut bytes) = (0, Instant::now(), [0; 64]);
        while quiet.elapsed() < Duration::from_millis(5) {
            if receiver.recv(&mut bytes).is_ok() {
                (arrived, quiet) = (arrived + 1, Instant::now());
            }
        }
        lossy.push((BLOCK as u64, BLOCK as u64 - arrived));
    }
    fair(&lossy);
}

/// No loss anywhere, and routers with the kernel's own limits of ICMP, which fake it.
fn blames_nothing(diamond: &mut Diamond, target: &str) {
    let report = diamond.trace(&format!("{target} --flows 4 --count 60 --interval 50ms"));
    for flow in flows(&report) {
        let lost = &flow["destination"]["loss"]["lost"];
        assert_eq!((&flow["verdict"]["kind"], lost), (&"none".into(), &0.into()), "{flow:#}");
    }
    let hops = || flows(&report).iter().flat_map(|flow| flow["hops"].as_array().expect("hops"));
    assert!(hops().any(|hop| hop["loss"]["share"].as_f64().is_some_and(|share| share > 0.5)), "{report:#}");
}

#[test]
fn routers_that_answer_seldom_are_not_blamed() {
    if !isolated("routers_that_answer_seldom_are_not_blamed") {
        return;
    }
    let mut diamond = Diamond::up(true);
    TARGETS.iter().for_each(|target| blames_nothing(&mut diamond, target));
}

#[test]
#[ignore = "forty traces, for the soak"]
fn routers_that_answer_seldom_are_not_blamed_twenty_times_of_twenty() {
    if !isolated("routers_that_answer_seldom_are_not_blamed_twenty_times_of_twenty") {
        return;
    }
    let mut diamond = Diamond::up(true);
    (0..20).for_each(|_| TARGETS.iter().for_each(|target| blames_nothing(&mut diamond, target)));
}

#[test]
fn loss_on_the_way_back_is_told_from_loss_on_the_way_there() {
    if !isolated("loss_on_the_way_back_is_told_from_loss_on_the_way_there") {
        return;
    }
    let mut diamond = Diamond::up(false);
    // Everything that r1 forwards towards the client: replies and ICMP errors.
    diamond.lose("r1", 30, "oifname client");
    for target in TARGETS {
        let report = diamond.trace(&format!("{target} --flows 2 --count 250 --interval 20ms"));
        for flow in flows(&report) {
            let verdict = &flow["verdict"];
            if names_no_other(verdict, [1, 2]) {
                assert_eq!(verdict["direction"], "return", "{flow:#}");
            }
            assert_eq!(flow["destination"]["lost_forward"], 0, "{flow:#}");
        }
        assert!(flows(&report).iter().any(|flow| names_no_other(&flow["verdict"], [1, 2])), "{report:#}");
    }
}

/// Without CAP_NET_RAW errors come by the sockets' own queues, and say the same where routers quote enough.
#[test]
fn without_a_raw_socket_the_error_queue_tells_the_path() {
    if !isolated("without_a_raw_socket_the_error_queue_tells_the_path") {
        return;
    }
    let diamond = Diamond::up(false);
    diamond.lose("r1", 30, "meta l4proto udp udp dport 862");
    for (family, target) in TARGETS.into_iter().enumerate() {
        let out = diamond.place.path().join(format!("queue-{family}"));
        let mut command = diamond.lab.command("client", "setpriv").expect("a node");
        command.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw", env!("CARGO_BIN_EXE_pathlab")]);
        command.args(["trace", "--json", "--out"]).arg(&out).arg(target);
        command.args("--flows 2 --count 250 --interval 20ms --patience".split(' ')).arg(patience());
        let output = command.env("PATHLAB_LOG", "warn").output().expect("setpriv of util-linux");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let about: Value =
            serde_json::from_slice(&std::fs::read(out.join("run.json")).expect("written")).expect("JSON");
        assert_eq!(about["options"]["raw_icmp"], false, "{about:#}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for flow in flows(&report) {
            assert_eq!(flow["unmatched"], 0, "{flow:#}");
            names_no_other(&flow["verdict"], [1, 2]);
            assert_eq!(flow["destination"]["lost_return"], 0, "{flow:#}");
        }
        assert!(flows(&report).iter().any(|flow| names_no_other(&flow["verdict"], [1, 2])), "{report:#}");
    }
}

/// The guide does what it says: every trace of its console blocks runs here.
#[test]
fn every_trace_of_the_guide_runs() {
    if !isolated("every_trace_of_the_guide_runs") {
        return;
    }
    let diamond = Diamond::up(false);
    diamond.lose("b", 30, "meta l4proto udp udp dport 862");
    let networks = "192.0.2.0/26\t64500\tTransit A\n203.0.113.0/24\t64501\tGame\n";
    std::fs::write(diamond.place.path().join("networks.tsv"), networks).expect("a table");
    let key = diamond.place.path().join("trace.key");
    std::fs::write(&key, format!("default = \"{}\"\n", "5a".repeat(32))).expect("a key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let traced_back =
        format!("--listen 203.0.113.10:8862 --stateful --allow-reverse-trace --auth-key-file {}", key.display());
    let keyed = Reflector::start(diamond.lab.namespace("server").expect("a node"), &traced_back);
    let traces: Vec<&str> = GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("$ pathlab "))
        .filter(|line| line.starts_with("trace"))
        .collect();
    assert!(traces.len() >= 5, "{traces:?}");
    for args in traces {
        // The trace of long packets meets a link that does not take them.
        let long = args.contains("--size");
        diamond.mtu("r3", "server", if long { 1_300 } else { 1_500 });
        let mut command = diamond.lab.command("client", env!("CARGO_BIN_EXE_pathlab")).expect("a node");
        let output = command
            .args(args.split_whitespace())
            .current_dir(diamond.place.path())
            .output()
            .expect("pathlab was built");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args}: {said}{}", String::from_utf8_lossy(&output.stderr));
        if long {
            assert!(said.contains("answers Fragmentation Needed, MTU 1300, to 1472 octets of payload"), "{said}");
        } else if args.contains("mtr") {
            let mtr: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(mtr["report"]["hubs"].as_array().map(Vec::len), Some(4), "{mtr:#}");
        } else if args.contains("--reverse") {
            assert!(
                said.contains("way back of flow") && said.contains("back") && said.contains("192.0.2.101"),
                "{said}"
            );
        } else if !args.contains("json") {
            eprintln!("$ pathlab {args}\n{said}");
            let lost = "packets are lost between hop 2 (192.0.2.18) and hop 3 (192.0.2.22), on the way there";
            assert!(said.contains(lost) && said.contains("no loss") && said.contains("sealed"), "{said}");
            assert_eq!(args.contains("--networks"), said.contains("AS64500 Transit A"), "{said}");
        }
    }
    drop(keyed);
}

#[test]
fn what_other_tools_told_is_kept_as_it_came() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let hub = |count: u64, host: &str, loss: f64| serde_json::json!({ "count": count, "host": host, "Loss%": loss, "Snt": 200, "Avg": 1.0 });
    let hubs = [hub(1, "192.0.2.1", 89.0), hub(2, "203.0.113.10", 12.0)];
    let document = serde_json::json!({ "report": { "mtr": { "src": "us", "dst": "203.0.113.10" }, "hubs": hubs } });
    let bytes = serde_json::to_vec(&document).expect("JSON");
    std::fs::write(place.path().join("theirs.json"), &bytes).expect("a file");
    std::fs::write(place.path().join("other.json"), "{}").expect("a file");

    let output =
        isolation::pathlab(place.path(), "import path theirs.json --out run").output().expect("pathlab was built");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("this is not one path") && said.contains("sealed"), "{said}");
    assert_eq!(std::fs::read(place.path().join("run/foreign-1-mtr.json")).expect("kept"), bytes);
    assert!(pathlab_record::verify(&place.path().join("run")).is_ok());
    let read: Value =
        serde_json::from_slice(&std::fs::read(place.path().join("run/foreign.json")).expect("written")).expect("JSON");
    assert_eq!(read["documents"][0]["read"]["paths"][0]["end"]["lost"], 24, "{read:#}");

    let output =
        isolation::pathlab(place.path(), "import path other.json --out none").output().expect("pathlab was built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("other.json: neither mtr's JSON"), "{said}");
    assert!(!place.path().join("none").exists());
}

/// What left the client, read off the wire: each flow has one 5-tuple and one flow label, whatever the TTL.
#[test]
fn a_flow_is_one_flow_on_the_wire() {
    if !isolated("a_flow_is_one_flow_on_the_wire") {
        return;
    }
    let mut diamond = Diamond::up(false);
    let every_protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let open = || Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol));
    let mut capture =
        diamond.lab.namespace("client").expect("a node").run(open).expect("entered").expect("a packet socket");
    capture.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let (over, deadline) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(300));
    let (mut tuples, mut ttls, mut packets) = (BTreeSet::new(), BTreeSet::new(), 0);
    thread::scope(|scope| {
        // Read meanwhile: not every kernel lets a socket hold all of them.
        scope.spawn(|| {
            let mut frame = [0; 2048];
            loop {
                let last = over.load(Ordering::Relaxed) || Instant::now() > deadline;
                while let Ok(length) = capture.read(&mut frame) {
                    if let Some((tuple, ttl)) = probe(&frame[..length]) {
                        ttls.insert((tuple.2, ttl));
                        tuples.insert(tuple);
                        packets += 1;
                    }
                }
                if last {
                    return;
                }
            }
        });
        for target in TARGETS {
            diamond.trace(&format!("{target} --flows 5 --count 25 --interval 40ms"));
        }
        over.store(true, Ordering::Relaxed);
    });
    // 25 rounds of three hops and the destination; the first rounds ask for more, until the distance is known.
    assert!(packets >= 2 * 5 * 25 * 4, "{packets} packets");
    let sources: BTreeSet<(IpAddr, u16)> = tuples.iter().map(|(source, _, port, ..)| (*source, *port)).collect();
    assert_eq!((tuples.len(), sources.len()), (10, 10), "one tuple a flow: {tuples:?}");
    assert!(ttls.len() >= 4 * 10 - 10, "several TTLs a flow: {ttls:?}");
}

/// Source, destination, ports and flow label of a UDP packet to port 862 in an Ethernet frame, with its TTL.
#[allow(clippy::type_complexity, reason = "read at one place")]
fn probe(frame: &[u8]) -> Option<((IpAddr, IpAddr, u16, u16, u32), u8)> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (source, target, label, ttl, protocol, udp): (IpAddr, IpAddr, u32, u8, u8, &[u8]) = match kind {
        [0x08, 0x00] => {
            let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
            (address(12)?, address(16)?, 0, packet[8], packet[9], packet.get(20..)?)
        }
        [0x86, 0xdd] => {
            let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
            let label = u32::from_be_bytes(*packet.first_chunk::<4>()?) & 0xf_ffff;
            (address(8)?, address(24)?, label, packet[7], packet[6], packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk::<2>()?));
    (protocol == 17 && port(2)? == 862).then_some(((source, target, port(0)?, port(2)?, label), ttl))
}
