//! The reflector on a real interface: a veth between two namespaces, real sockets at the far end.

mod namespace;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use namespace::{Veth, inside, ip};
use pathlab_guard::privilege::root_or_skip;
use pathlab_xdp::{
    AttachedMode, Counter, Error, XdpMode, XdpPass, XdpReflector, XdpReflectorConfig,
    offload::{set_tx_checksum, tx_checksum},
};

const WIRE: &str = "wire0";
const PORT: u16 = 862;
const SECONDS: Duration = Duration::from_secs(5);

fn attach(veth: &Veth, mode: XdpMode) -> Result<XdpReflector, Error> {
    inside(&veth.reflector, || {
        XdpReflector::attach(WIRE, &XdpReflectorConfig { mode, ..XdpReflectorConfig::new(PORT) })
    })
}

/// What the probe's end of the veth needs.
fn prepare_probe(veth: &Veth) -> XdpPass {
    inside(&veth.probe, || {
        set_tx_checksum(WIRE, false).expect("offload off");
        XdpPass::attach(WIRE, XdpMode::Native).expect("a pass program")
    })
}

fn client(veth: &Veth, local: &str, target: &str) -> UdpSocket {
    inside(&veth.probe, || {
        let socket = UdpSocket::bind(local).expect("bind");
        socket.set_read_timeout(Some(SECONDS)).expect("timeout");
        socket.connect(target).expect("connect");
        socket
    })
}

/// Sends `count` requests one after the other; every one must come back right.
fn converse(client: &UdpSocket, count: u32) {
    let mut request = [0_u8; 172];
    request[44..].fill(0xa5);
    let mut reply = [0_u8; 2000];
    for sequence in 0..count {
        request[..4].copy_from_slice(&sequence.to_be_bytes());
        client.send(&request).expect("send");
        let length = client.recv(&mut reply).unwrap_or_else(|error| panic!("no reply to {sequence}: {error}"));
        assert_eq!(length, request.len());
        assert_eq!(reply[..4], request[..4], "sequence number");
        assert_eq!(reply[24..28], request[..4], "sender's sequence number");
        assert_eq!(reply[40], 64, "sender's TTL");
        assert!(reply[16..24] <= reply[4..12], "T2 after T3");
        assert_eq!(reply[44..length], request[44..], "padding");
    }
}

/// Counts of datagrams that a namespace discarded for their checksum, both families.
fn checksum_errors(namespace: &str) -> u64 {
    inside(namespace, || {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
        let mut udp = v4.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
        let (names, values) = (udp.next().expect("names"), udp.next().expect("values"));
        let v4 = names.zip(values).find(|(name, _)| *name == "InCsumErrors").expect("InCsumErrors").1;
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6");
        let v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6InCsumErrors")).expect("Udp6InCsumErrors");
        [v4, v6].into_iter().map(|count| count.trim().parse::<u64>().expect("a number")).sum()
    })
}

fn shows_xdp(veth: &Veth) -> bool {
    ip(&format!("-n {} -d link show dev {WIRE}", veth.reflector)).contains("prog/xdp")
}

fn every_request_is_answered(mode: XdpMode, runs_in: AttachedMode) {
    let veth = Veth::new();
    let _pass = prepare_probe(&veth);
    let reflector = attach(&veth, mode).expect("attaches");
    assert_eq!(reflector.mode(), runs_in);
    assert!(reflector.native_refused().is_none());

    for (local, target) in [("10.77.0.2:0", "10.77.0.1:862"), ("[fd77::2]:0", "[fd77::1]:862")] {
        converse(&client(&veth, local, target), 1000);
    }
    let counters = reflector.counters().expect("counters");
    assert_eq!(counters[Counter::Received], 2000, "{counters}");
    assert_eq!(counters[Counter::Replied], 2000, "{counters}");
    assert_eq!(checksum_errors(&veth.probe) + checksum_errors(&veth.reflector), 0);

    assert!(shows_xdp(&veth));
    drop(reflector);
    assert!(!shows_xdp(&veth), "the program has outlived its guard");
}

#[test]
fn a_thousand_of_a_thousand_in_native_mode() {
    if root_or_skip("a_thousand_of_a_thousand_in_native_mode") {
        every_request_is_answered(XdpMode::Native, AttachedMode::Native);
    }
}

#[test]
fn a_thousand_of_a_thousand_in_generic_mode() {
    if root_or_skip("a_thousand_of_a_thousand_in_generic_mode") {
        every_request_is_answered(XdpMode::Generic, AttachedMode::Generic);
    }
}

#[test]
fn other_traffic_reaches_its_socket_and_short_datagrams_reach_nobody() {
    if !root_or_skip("other_traffic_reaches_its_socket_and_short_datagrams_reach_nobody") {
        return;
    }
    let veth = Veth::new();
    let _pass = prepare_probe(&veth);
    let reflector = attach(&veth, XdpMode::Auto).expect("attaches");
    let (echo, sink) = inside(&veth.reflector, || {
        (UdpSocket::bind("10.77.0.1:7").expect("bind"), UdpSocket::bind(("10.77.0.1", PORT)).expect("bind"))
    });
    echo.set_read_timeout(Some(SECONDS)).expect("timeout");

    let stamp = client(&veth, "10.77.0.2:40000", "10.77.0.1:862");
    stamp.send(&[0; 43]).expect("send");
    stamp.send(&[0; 44]).expect("send");
    assert_eq!(stamp.recv(&mut [0; 100]).expect("the second is answered"), 44);

    let client = client(&veth, "10.77.0.2:40001", "10.77.0.1:7");
    let mut data = [0; 2000];
    for length in [0, 1, 43, 44, 1472] {
        client.send(&vec![0x5a; length]).expect("send");
        let (received, from) = echo.recv_from(&mut data).expect("passed");
        assert_eq!((&data[..received], from), (&vec![0x5a; length][..], SocketAddr::from(([10, 77, 0, 2], 40001))));
    }
    sink.set_nonblocking(true).expect("nonblocking");
    assert!(sink.recv(&mut data).is_err(), "a datagram to our port reached the stack");
    let counters = reflector.counters().expect("counters");
    let of = |counter| counters[counter];
    assert_eq!((of(Counter::Received), of(Counter::Replied), of(Counter::Short)), (2, 1, 1), "{counters}");
    assert!(of(Counter::Passed) >= 5, "{counters}");
}

#[test]
fn addresses_follow_the_interface_when_told() {
    if !root_or_skip("addresses_follow_the_interface_when_told") {
        return;
    }
    let veth = Veth::new();
    let _pass = prepare_probe(&veth);
    let mut reflector = attach(&veth, XdpMode::Auto).expect("attaches");
    ip(&format!("-n {} address add 10.77.0.9/24 dev {WIRE}", veth.reflector));
    inside(&veth.reflector, || reflector.update_addresses()).expect("addresses");
    reflector.update_clock(0x8a01).expect("clock");
    converse(&client(&veth, "10.77.0.2:0", "10.77.0.9:862"), 10);
    assert_eq!(reflector.counters().expect("counters")[Counter::Replied], 10);
}

#[test]
fn the_broadcast_address_of_the_network_is_not_answered() {
    if !root_or_skip("the_broadcast_address_of_the_network_is_not_answered") {
        return;
    }
    let veth = Veth::new();
    let _pass = prepare_probe(&veth);
    let reflector = attach(&veth, XdpMode::Auto).expect("attaches");
    let Veth { reflector: ours, probe } = &veth;
    // In a wider network of the probe it is a host like any other.
    ip(&format!("-n {probe} address flush dev {WIRE}"));
    ip(&format!("-n {probe} address add 10.77.0.255/16 dev {WIRE}"));
    let link = ip(&format!("-n {ours} -o link show dev {WIRE}"));
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC");
    ip(&format!("-n {probe} neighbour replace 10.77.0.1 lladdr {mac} dev {WIRE}"));

    client(&veth, "10.77.0.255:0", "10.77.0.1:862").send(&[0; 44]).expect("send");
    let deadline = Instant::now() + SECONDS;
    let mut counters = reflector.counters().expect("counters");
    while counters[Counter::Replied] + counters.refused() == 0 {
        assert!(Instant::now() < deadline, "nothing arrived");
        thread::yield_now();
        counters = reflector.counters().expect("counters");
    }
    assert_eq!((counters[Counter::SourceBroadcast], counters[Counter::Replied]), (1, 0), "{counters}");
}

#[test]
fn an_interface_that_is_taken_or_unfit_is_refused_with_the_reason() {
    if !root_or_skip("an_interface_that_is_taken_or_unfit_is_refused_with_the_reason") {
        return;
    }
    let veth = Veth::new();
    let first = attach(&veth, XdpMode::Generic).expect("attaches");
    for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
        let error = attach(&veth, mode).expect_err("taken").to_string();
        assert!(error.starts_with("wire0 already runs the XDP program \"reflector\" (id "), "{error}");
        assert!(error.contains(", generic)"), "{error}");
    }
    assert!(matches!(
        inside(&veth.reflector, || XdpPass::attach(WIRE, XdpMode::Auto)),
        Err(Error::AlreadyAttached { .. })
    ));
    drop(first);
    ip(&format!("-n {} address flush dev {WIRE}", veth.reflector));
    let error = attach(&veth, XdpMode::Auto).expect_err("no address").to_string();
    assert_eq!(error, "wire0 has no IP address to answer for; give it one, or name the addresses");

    // loopback has no native XDP
    let on_lo = |mode| {
        let local = vec!["10.77.0.1".parse().expect("an address")];
        let config = XdpReflectorConfig { mode, local, ..XdpReflectorConfig::new(PORT) };
        inside(&veth.reflector, || XdpReflector::attach("lo", &config))
    };
    let error = on_lo(XdpMode::Native).expect_err("refused").to_string();
    assert!(error.starts_with("lo cannot run XDP in native mode: its driver has no XDP"), "{error}");
    let auto = on_lo(XdpMode::Auto).expect("generic");
    assert_eq!(auto.mode(), AttachedMode::Generic);
    assert!(matches!(auto.native_refused(), Some(Error::NativeRefused { .. })));

    ip(&format!("-n {} tuntap add dev tun0 mode tun", veth.reflector));
    let tun = inside(&veth.reflector, || XdpReflector::attach("tun0", &XdpReflectorConfig::new(PORT)));
    assert!(matches!(tun, Err(Error::NotEthernet { .. })));
    let missing = inside(&veth.reflector, || XdpReflector::attach("eth9", &XdpReflectorConfig::new(PORT)));
    assert_eq!(
        missing.expect_err("missing").to_string(),
        "no interface \"eth9\" in this network namespace; see `ip link`"
    );
}

#[test]
fn checksum_offload_is_read_and_set() {
    if !root_or_skip("checksum_offload_is_read_and_set") {
        return;
    }
    let veth = Veth::new();
    inside(&veth.probe, || {
        for on in [false, true] {
            set_tx_checksum(WIRE, on).expect("set");
            assert_eq!(tx_checksum(WIRE).expect("read"), on);
        }
    });
}

#[test]
fn kill_minus_nine_takes_the_program_off() {
    if !root_or_skip("kill_minus_nine_takes_the_program_off") {
        return;
    }
    let veth = Veth::new();
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", veth.reflector))
        .arg(env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "--nocapture", "attach_until_killed"])
        .env("XDP_TEST_INTERFACE", WIRE)
        .stdout(Stdio::piped())
        .spawn()
        .expect("nsenter");
    let output = BufReader::new(child.stdout.take().expect("stdout"));
    let attached = output.lines().map_while(Result::ok).any(|line| line.contains("attached until killed"));
    let shown = attached && shows_xdp(&veth);
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(shown, "the child has not attached");

    let deadline = Instant::now() + SECONDS;
    while shows_xdp(&veth) {
        assert!(Instant::now() < deadline, "the program has outlived its process");
        thread::yield_now();
    }
}

/// The victim of `kill_minus_nine_takes_the_program_off`.
#[test]
#[ignore = "started by kill_minus_nine_takes_the_program_off"]
fn attach_until_killed() {
    let interface = env::var("XDP_TEST_INTERFACE").expect("XDP_TEST_INTERFACE");
    let reflector = XdpReflector::attach(&interface, &XdpReflectorConfig::new(PORT)).expect("attaches");
    println!("attached until killed, in {} mode", reflector.mode());
    thread::park();
    panic!("nobody unparks this thread");
}
