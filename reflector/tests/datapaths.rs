//! One conversation, held over every datapath: socket, AF_XDP and the driver, native and generic, in both families. And what AF_XDP
//! alone has: workers by queue, hand-over, overflow, stamps by plane.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/veth.rs"]
mod veth;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroU32,
    process::Command,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use namespace::in_private_namespace;
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::{Outcome, Plane, Term};
use pathlab_reflector::{
    Reflector, ReflectorConfig, ReflectorReport,
    clock::realtime_now,
    datapath::{AfXdpConfig, AfXdpReflector, DriverReflector, SocketOptions},
    prober::{Fan, Kept, ProbeOptions, probe},
    session::{Limiter, Limits, RateLimit, Rules},
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket, WireTime},
};
use pathlab_xdp::{
    AttachedMode, Counter, XdpMode, XdpReflectorConfig,
    xsk::{BusyPoll, CopyMode, NicStamps, XskOptions},
};
use veth::{ADDRESSES, serve_on_veth, with_client};
use zerocopy::IntoBytes;

const PORT: u16 = 862;
const REQUESTS: u32 = 1000;
const PROBES: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Datapath {
    Socket,
    AfXdp(XdpMode),
    Driver(XdpMode),
    Hybrid(XdpMode),
}

fn copy() -> XskOptions {
    XskOptions { copy: CopyMode::Copy, ..XskOptions::default() }
}

fn attached(mode: XdpMode) -> AttachedMode {
    if mode == XdpMode::Generic { AttachedMode::Generic } else { AttachedMode::Native }
}

/// Runs the reflector of `datapath` while `talk` is held in the client's namespace.
fn hold(datapath: Datapath, talk: impl FnOnce() + Send) -> ReflectorReport {
    in_private_namespace(|server| {
        serve_on_veth(1);
        match datapath {
            Datapath::Socket => {
                let listen = ADDRESSES.map(|address| SocketAddr::new(address.parse().expect("an address"), PORT));
                let config = ReflectorConfig {
                    listen: listen.into(),
                    socket: SocketOptions::stamped(),
                    ..ReflectorConfig::default()
                };
                let mut reflector = Reflector::new(config).expect("free ports");
                with_client(server, |stop| reflector.run(stop).expect("a sound socket"), talk);
                reflector.report()
            }
            Datapath::Driver(mode) => {
                let config = XdpReflectorConfig { mode, ..XdpReflectorConfig::new(PORT) };
                let mut reflector = DriverReflector::attach("s0", &config).expect("attached");
                assert_eq!(reflector.mode(), attached(mode));
                with_client(server, |stop| reflector.run(stop).expect("maps and lists"), talk);
                reflector.report().expect("counters")
            }
            Datapath::AfXdp(mode) | Datapath::Hybrid(mode) => {
                let hybrid = matches!(datapath, Datapath::Hybrid(_));
                serve_af_xdp(server, &AfXdpConfig { mode, hybrid, xsk: copy(), ..AfXdpConfig::new(PORT) }, talk)
            }
        }
    })
}

/// The same over AF_XDP, with its accounts held against the program's.
fn serve_af_xdp(server: &str, config: &AfXdpConfig, talk: impl FnOnce() + Send) -> ReflectorReport {
    let mut reflector = AfXdpReflector::attach("s0", config).expect("attached");
    assert_eq!(reflector.mode(), attached(config.mode));
    if config.mode == XdpMode::Native && config.nic_stamps == NicStamps::Auto {
        // veth has the kernel's function, and so must take the program that calls it, hybrid or not
        match reflector.nic_stamps_refused().map(ToString::to_string) {
            Some(why) if !kernel::knows("bpf_xdp_metadata_rx_timestamp") => {
                assert!(why.contains("the kernel has no such functions (Linux 6.3)"), "{why}");
            }
            refused => assert_eq!(refused, None),
        }
    }
    with_client(server, |stop| reflector.run(stop).expect("an interface that is up"), talk);
    let (report, counters) = (reflector.report().expect("statistics"), reflector.counters().expect("counters"));
    let through_sockets: u64 = report.queues.iter().map(|queue| queue.received).sum();
    assert_eq!(counters[Counter::HandedToXsk], through_sockets + report.kernel_drops, "{counters}");
    assert!(report.queues.iter().all(|queue| queue.strays == 0 && queue.invalid_descriptors == 0), "{report:?}");
    report
}

fn adds_up(report: &ReflectorReport) -> bool {
    report.received == report.replied + report.refused.values().sum::<u64>() + report.kernel_drops
}

/// One datagram too short, then requests that are all answered; each reply is held against its request.
fn converse(reflector: SocketAddr, lengths: &[usize], count: u32) {
    let any = if reflector.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.send_to(&[0; 43], reflector).expect("send");
    for sequence in 0..count {
        let sent = realtime_now();
        let request = SenderPacket::new(sequence, sent.into(), ErrorEstimate::from_nanos(1000, false));
        let mut bytes = request.as_bytes().to_vec();
        let length = lengths[sequence as usize % lengths.len()];
        if let Some(padding) = length.checked_sub(48) {
            // Extra Padding: RFC 8972 §4.1
            bytes.extend([0, 1, (padding >> 8) as u8, padding as u8]);
        }
        bytes.resize(length, 0);
        socket.send_to(&bytes, reflector).expect("send");
        let mut buffer = [0; 2000];
        let (len, from) = socket.recv_from(&mut buffer).expect("a reply");
        let back = realtime_now();
        assert_eq!((len, from), (bytes.len(), reflector));
        let (reply, rest) = ReflectedPacket::parse(&buffer[..len]).expect("a reply");
        assert_eq!((reply.sequence.get(), reply.sender_sequence.get()), (sequence, sequence));
        assert_eq!((reply.sender_timestamp, reply.sender_error_estimate), (request.timestamp, request.error_estimate));
        assert_eq!((reply.sender_ttl, rest), (64, &bytes[44..]));
        assert!(reply.error_estimate.nanos().is_some());
        let (Some(WireTime::Ntp(received)), Some(WireTime::Ntp(replied))) = (reply.received_at(), reply.sent_at())
        else {
            panic!("two NTP times: {reply:?}")
        };
        assert!(
            sent <= received && received <= replied && replied <= back,
            "{sent:?} {received:?} {replied:?} {back:?}"
        );
    }
}

/// The product's own probe: every packet back, every term of every ledger a span of time, and no longer than the whole.
fn measure(reflector: SocketAddr) {
    let sessions = Fan { targets: vec![reflector], count: 1, ..Fan::default() }.sessions().expect("a session");
    let options = ProbeOptions {
        interval: Duration::from_millis(1),
        count: Some(PROBES),
        timeout: Duration::from_secs(2),
        skip_after: Some(PATIENCE),
        ..ProbeOptions::default()
    };
    let mut kept = Kept::default();
    let report = probe(&sessions, &options, &AtomicBool::new(false), &mut kept).expect("the probe runs");
    assert_eq!((report.total.counts.sent, report.total.counts.received), (PROBES, PROBES));
    for sample in &kept.samples {
        assert_eq!(sample.outcome, Outcome::Received);
        // no driver here has a card's stamp: the sample says absent, on both hosts, and never zero
        let stamps = serde_json::to_value(sample.stamps).expect("JSON");
        let places = stamps.as_object().expect("stamps by place");
        assert!(places.len() == 5 && places.values().all(|planes| planes.get("nic").is_none()), "{stamps}");
        let ledger = sample.ledger.as_ref().expect("a reply, a ledger");
        let terms: Vec<i64> =
            Term::ALL.iter().filter_map(|term| ledger.term(*term)).map(|span| span.as_nanos()).collect();
        assert!(terms.iter().all(|span| *span >= 0), "{ledger:?}");
    }
}

/// The conversation, and its account on `plane`.
fn the_same_conversation(datapath: Datapath, plane: Plane) -> ReflectorReport {
    let targets = ADDRESSES.map(|address| SocketAddr::new(address.parse::<IpAddr>().expect("an address"), PORT));
    let report = hold(datapath, || {
        for target in targets {
            converse(target, &[44], REQUESTS);
            measure(target);
        }
    });
    let answered = 2 * (u64::from(REQUESTS) + PROBES);
    assert_eq!((report.replied, report.refused["short"], report.kernel_drops), (answered, 2, 0), "{report:?}");
    assert!(adds_up(&report), "{report:?}");
    assert_eq!(report.received_on.get(&plane), Some(&answered), "{report:?}");
    assert_eq!((report.clock_steps, report.nic_received, report.handed_to_stack), (0, 0, 0));
    report
}

#[test]
fn over_a_socket() {
    if root_or_skip("over_a_socket") {
        the_same_conversation(Datapath::Socket, Plane::Kernel);
    }
}

/// Of replies that left through an AF_XDP socket, those with a stamp: every one, from Linux 6.8 on, and none before.
fn stamped(sent: u64) -> BTreeMap<Plane, u64> {
    kernel::knows("xsk_tx_metadata").then_some((Plane::Kernel, sent)).into_iter().collect()
}

/// Copy mode: every reply has come back with a stamp, and the stamp is software's; veth's driver has none of a card's.
fn over_af_xdp(mode: XdpMode) {
    let report = the_same_conversation(Datapath::AfXdp(mode), Plane::Xdp);
    assert_eq!((report.datapath, report.queues.len()), ("afxdp", 1));
    assert_eq!(report.queues[0].bind_mode, "copy");
    assert_eq!(report.sent_on, stamped(report.replied));
    assert_eq!(report.residence.map(|residence| residence.count), Some(report.replied));
    assert_eq!(report.departure.map(|departure| departure.count), stamped(report.replied).get(&Plane::Kernel).copied());
}

#[test]
fn over_af_xdp_native() {
    if root_or_skip("over_af_xdp_native") {
        over_af_xdp(XdpMode::Native);
    }
}

#[test]
fn over_af_xdp_generic() {
    if root_or_skip("over_af_xdp_generic") {
        over_af_xdp(XdpMode::Generic);
    }
}

#[test]
fn in_the_driver_native() {
    if root_or_skip("in_the_driver_native") {
        the_same_conversation(Datapath::Driver(XdpMode::Native), Plane::Xdp);
    }
}

#[test]
fn in_the_driver_generic() {
    if root_or_skip("in_the_driver_generic") {
        the_same_conversation(Datapath::Driver(XdpMode::Generic), Plane::Xdp);
    }
}

#[test]
fn the_hybrid_answers_base_packets_in_the_driver_and_longer_ones_over_af_xdp() {
    if !root_or_skip("the_hybrid_answers_base_packets_in_the_driver_and_longer_ones_over_af_xdp") {
        return;
    }
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let report = hold(Datapath::Hybrid(mode), || {
            for address in ADDRESSES {
                converse(SocketAddr::new(address.parse().expect("an address"), PORT), &[44, 48, 200, 1400], 400);
            }
        });
        assert_eq!((report.datapath, report.replied, report.refused["short"]), ("xdp", 800, 2));
        assert_eq!((report.queues[0].replied, report.sent_on.clone()), (600, stamped(600)), "three lengths of four");
        assert!(adds_up(&report), "{report:?}");
    }
}

#[test]
fn past_the_stack_each_source_has_its_rate_whoever_makes_the_reply() {
    if !root_or_skip("past_the_stack_each_source_has_its_rate_whoever_makes_the_reply") {
        return;
    }
    // nothing comes back into a bucket while the test runs
    let limit = RateLimit { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(6).expect("not zero") };
    let limits = Limits { source: Some(limit), ..Limits::default() };
    for hybrid in [true, false] {
        in_private_namespace(|server| {
            serve_on_veth(1);
            let rules = Rules { limiter: Some(Limiter::new(limits).into()), ..Rules::default() };
            let config = AfXdpConfig { mode: XdpMode::Native, hybrid, rules, xsk: copy(), ..AfXdpConfig::new(PORT) };
            let report = serve_af_xdp(server, &config, || {
                for address in ADDRESSES {
                    converse(SocketAddr::new(address.parse().expect("an address"), PORT), &[44, 48], 6);
                    let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                    let socket = UdpSocket::bind(any).expect("a free port");
                    for length in [44, 48] {
                        socket.send_to(&[7; 48][..length], (address, PORT)).expect("send");
                    }
                }
            });
            assert_eq!(
                (report.replied, report.refused["rate_limited"], report.refused["short"]),
                (12, 4, 2),
                "{report:?}"
            );
            assert!(adds_up(&report), "{report:?}");
        });
    }
}

#[test]
fn every_queue_has_a_worker() {
    if !root_or_skip("every_queue_has_a_worker") {
        return;
    }
    for busy_poll in [None, Some(BusyPoll::default())] {
        in_private_namespace(|server| {
            serve_on_veth(2);
            let xsk = XskOptions { busy_poll, ..copy() };
            let config = AfXdpConfig { mode: XdpMode::Native, xsk, ..AfXdpConfig::new(PORT) };
            let report = serve_af_xdp(server, &config, || {
                // each socket is a flow, and the stack spreads flows over queues
                for _ in 0..64 {
                    converse((ADDRESSES[0].parse::<IpAddr>().expect("an address"), PORT).into(), &[44], 2);
                }
            });
            assert_eq!((report.replied, report.refused["short"], report.queues.len()), (128, 64, 2));
            assert!(report.queues.iter().all(|queue| queue.replied > 0), "{report:?}");
            assert!(adds_up(&report), "{report:?}");
        });
    }
}

#[test]
fn what_overflows_is_in_the_account() {
    if !root_or_skip("what_overflows_is_in_the_account") {
        return;
    }
    const FLOOD: u64 = 2000;
    for mode in [XdpMode::Native, XdpMode::Generic] {
        in_private_namespace(|server| {
            serve_on_veth(1);
            let xsk = XskOptions { frames: 64, fill_ring: 16, rx_ring: 16, tx_ring: 16, completion_ring: 16, ..copy() };
            // a reply takes so long that the rings must run over
            let delay_before_send = Some(Duration::from_micros(200));
            let config = AfXdpConfig { mode, xsk, delay_before_send, ..AfXdpConfig::new(PORT) };
            let report = serve_af_xdp(server, &config, || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
                for _ in 0..FLOOD {
                    socket.send_to(&[0; 44], (ADDRESSES[0], PORT)).expect("send");
                }
            });
            assert_eq!(report.received, FLOOD, "{report:?}");
            assert!(report.kernel_drops > 0 && report.replied > 0 && adds_up(&report), "{report:?}");
        });
    }
}

#[test]
fn an_interface_that_goes_down_and_up_is_answered_again() {
    if !root_or_skip("an_interface_that_goes_down_and_up_is_answered_again") {
        return;
    }
    for busy_poll in [None, Some(BusyPoll::default())] {
        in_private_namespace(|server| {
            serve_on_veth(1);
            let config = AfXdpConfig { xsk: XskOptions { busy_poll, ..copy() }, ..AfXdpConfig::new(PORT) };
            let target = (ADDRESSES[0].parse::<IpAddr>().expect("an address"), PORT).into();
            let report = serve_af_xdp(server, &config, || {
                converse(target, &[44], 10);
                let inside = format!("--net={server}");
                for state in ["down", "up"] {
                    let arguments = [&inside, "ip", "link", "set", "s0", state];
                    assert!(Command::new("nsenter").args(arguments).status().expect("util-linux").success());
                }
                converse(target, &[44], 10);
            });
            assert_eq!((report.replied, report.refused["short"]), (20, 2));
        });
    }
}

#[test]
fn without_a_socket_on_its_queue_a_request_is_left_to_the_stack_and_counted() {
    if !root_or_skip("without_a_socket_on_its_queue_a_request_is_left_to_the_stack_and_counted") {
        return;
    }
    in_private_namespace(|server| {
        serve_on_veth(2);
        let stack = UdpSocket::bind((ADDRESSES[0], PORT)).expect("a free port");
        stack.set_nonblocking(true).expect("an option");
        let config = AfXdpConfig { mode: XdpMode::Native, queues: vec![1], xsk: copy(), ..AfXdpConfig::new(PORT) };
        let mut reflector = AfXdpReflector::attach("s0", &config).expect("attached");
        let talk = || {
            let mut answered = 0;
            for _ in 0..64 {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
                socket.connect((ADDRESSES[0], PORT)).expect("a route");
                socket.set_nonblocking(true).expect("an option");
                socket.send(&[0; 44]).expect("send");
                let deadline = Instant::now() + PATIENCE;
                // answered over queue 1, or come to the stack by queue 0
                loop {
                    if socket.recv(&mut [0; 100]).is_ok() {
                        answered += 1;
                        break;
                    }
                    if stack.recv(&mut [0; 100]).is_ok() {
                        break;
                    }
                    assert!(Instant::now() < deadline, "neither answered nor passed");
                }
            }
            answered
        };
        let answered = with_client(server, |stop| reflector.run(stop).expect("an interface that is up"), talk);
        let report = reflector.report().expect("statistics");
        assert_eq!((report.replied, report.handed_to_stack), (answered, 64 - answered), "{report:?}");
        assert!(answered > 0 && answered < 64, "flows on both queues");
    });
}
