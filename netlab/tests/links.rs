//! veth pairs, AnyIP prefixes and token buckets in the real kernel.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use pathlab_guard::privilege::root_or_skip;
use pathlab_netlab::{
    Error,
    link::{self, End, Route},
    netlink::Netlink,
    netns::Namespace,
    qdisc::{Limit, TokenBucket},
    sysctl,
};

/// Two namespaces joined by one link: `left` 192.0.2.1, 2001:db8::1 and `right` 192.0.2.2, 2001:db8::2.
struct Pair {
    left: Namespace,
    right: Namespace,
}

impl Pair {
    fn new(test: &str) -> Self {
        let create =
            |side: &str| Namespace::create(&format!("plnl-{test}-{side}-{}", std::process::id())).expect("create");
        let pair = Self { left: create("l"), right: create("r") };
        let end = |namespace| End { namespace, interface: "wire", mac: None };
        link::veth(end(&pair.left), end(&pair.right), 1500).expect("veth");
        for (namespace, host) in [(&pair.left, 1), (&pair.right, 2)] {
            let mut netlink = Netlink::open(namespace).expect("netlink");
            netlink.up("lo").expect("lo");
            netlink.add_address("wire", format!("192.0.2.{host}/30").parse().expect("prefix")).expect("v4");
            netlink.add_address("wire", format!("2001:db8::{host}/64").parse().expect("prefix")).expect("v6");
        }
        pair
    }
}

fn bind(namespace: &Namespace, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().expect("address");
    let socket = namespace.run(|| UdpSocket::bind(address)).expect("enter").expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("deadline");
    socket
}

fn round_trip(client: &UdpSocket, server: &UdpSocket) {
    let mut buffer = [0; 64];
    client.send_to(b"there", server.local_addr().expect("bound")).expect("send");
    let (length, from) = server.recv_from(&mut buffer).expect("request");
    assert_eq!((&buffer[..length], from), (&b"there"[..], client.local_addr().expect("bound")));
    server.send_to(b"back", from).expect("reply");
    let (length, _) = client.recv_from(&mut buffer).expect("reply");
    assert_eq!(&buffer[..length], b"back");
}

#[test]
fn a_pair_carries_both_families_and_shows_nothing_outside() {
    if !root_or_skip("a_pair_carries_both_families_and_shows_nothing_outside") {
        return;
    }
    let pair = Pair::new("pair");
    round_trip(&bind(&pair.left, "192.0.2.1:0"), &bind(&pair.right, "192.0.2.2:0"));
    round_trip(&bind(&pair.left, "[2001:db8::1]:0"), &bind(&pair.right, "[2001:db8::2]:0"));
    let outside = std::fs::read_to_string("/proc/self/net/dev").expect("readable");
    assert!(!outside.contains("wire"), "{outside}");
}

#[test]
fn every_address_of_a_local_prefix_is_a_source() {
    if !root_or_skip("every_address_of_a_local_prefix_is_a_source") {
        return;
    }
    let pair = Pair::new("anyip");
    sysctl::set(&pair.left, "net.ipv6.ip_nonlocal_bind", "1").expect("sysctl");
    let mut left = Netlink::open(&pair.left).expect("netlink");
    let mut right = Netlink::open(&pair.right).expect("netlink");
    for (prefix, via) in [("198.18.0.0/16", "192.0.2.1"), ("2001:2:0:1::/64", "2001:db8::1")] {
        let prefix = prefix.parse().expect("prefix");
        left.add_route(&Route::local(prefix)).expect("local");
        right.add_route(&Route::via(prefix, via.parse::<IpAddr>().expect("address"), "wire")).expect("route");
    }
    for source in ["198.18.0.1:0", "198.18.200.77:40000"] {
        round_trip(&bind(&pair.left, source), &bind(&pair.right, "192.0.2.2:0"));
    }
    for source in ["[2001:2:0:1::1]:0", "[2001:2:0:1:1234::77]:40000"] {
        round_trip(&bind(&pair.left, source), &bind(&pair.right, "[2001:db8::2]:0"));
    }
}

#[test]
fn a_token_bucket_sends_at_its_rate_and_counts_what_it_drops() {
    if !root_or_skip("a_token_bucket_sends_at_its_rate_and_counts_what_it_drops") {
        return;
    }
    const RATE: u64 = 20_000_000;
    const PAYLOAD: usize = 1458;
    let pair = Pair::new("tbf");
    for side in [&pair.left, &pair.right] {
        // Multicast listener reports would be counted too.
        sysctl::set(side, "net.ipv6.conf.wire.disable_ipv6", "1").expect("sysctl");
    }
    let mut netlink = Netlink::open(&pair.left).expect("netlink");
    let bucket = TokenBucket { rate: RATE, burst: 6000, limit: Limit::Packets(50) };
    netlink.add_token_bucket("wire", &bucket).expect("tbf");
    let sender = bind(&pair.left, "192.0.2.1:0");
    let receiver = bind(&pair.right, "192.0.2.2:9");
    round_trip(&sender, &receiver);
    let sink = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        let mut received = 0u32;
        while receiver.recv(&mut buffer).is_ok() {
            received += 1;
        }
        received
    });

    let payload = [0; PAYLOAD];
    let (mut sent, mut first) = (0u32, None);
    let begin = Instant::now();
    let last = loop {
        // Twice the rate, so that the queue is never empty.
        let due = begin.elapsed().as_micros() as u64 * (2 * RATE) / 8 / 1_000_000 / (PAYLOAD as u64 + 42);
        while u64::from(sent) < due {
            sender.send_to(&payload, "192.0.2.2:9").expect("send");
            sent += 1;
        }
        let now = (Instant::now(), netlink.qdisc_statistics("wire").expect("statistics"));
        if first.is_none() && begin.elapsed() > Duration::from_millis(500) {
            first = Some(now);
        }
        if begin.elapsed() > Duration::from_millis(3500) {
            break now;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let first = first.expect("warmed up");
    let rate = (last.1.bytes - first.1.bytes) as f64 * 8.0 / (last.0 - first.0).as_secs_f64();
    let error = rate / RATE as f64 - 1.0;
    eprintln!("tbf: {rate:.0} bit/s, {:+.2} %", error * 100.0);
    assert!(error.abs() < 0.05, "{rate} bit/s");
    assert!((49..=50).contains(&last.1.queued), "{:?}", last.1);

    let received = sink.join().expect("sink");
    let end = netlink.qdisc_statistics("wire").expect("statistics");
    assert_eq!(sent, received + end.drops, "{end:?}");
}

#[test]
fn refusals_name_the_namespace_and_the_request() {
    if !root_or_skip("refusals_name_the_namespace_and_the_request") {
        return;
    }
    let pair = Pair::new("refuse");
    let name = pair.left.name().to_owned();
    let mut netlink = Netlink::open(&pair.left).expect("netlink");
    let error = netlink.up("eth7").expect_err("absent");
    assert_eq!(error.to_string(), format!("namespace {name}: no interface eth7"));
    let error = netlink.add_address("wire", "192.0.2.1/30".parse().expect("prefix")).expect_err("twice");
    assert!(
        error.to_string().starts_with(&format!("namespace {name}: cannot add address 192.0.2.1/30 to wire: ")),
        "{error}"
    );
    let route = Route::via("198.51.100.0/24".parse().expect("prefix"), "203.0.113.1".parse().expect("address"), "wire");
    let error = netlink.add_route(&route).expect_err("gateway out of reach");
    assert!(matches!(error, Error::Netlink { .. }), "{error}");
    let error = sysctl::set(&pair.left, "net.ipv4.no_such_key", "1").expect_err("absent");
    assert!(error.to_string().contains("net.ipv4.no_such_key"), "{error}");
}
