//! Every packet that was sent was received or has a reason why not.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use pathlab_host::watch::{Dropped, Watch, WatchOptions};

use super::support::{isolated, sh, wire};

const PACKETS: u64 = 200_000;

#[test]
fn sent_is_received_and_dropped_by_reason() {
    if !isolated("drops::sent_is_received_and_dropped_by_reason") {
        return;
    }
    let far = wire();
    let receiver = UdpSocket::bind("192.0.2.1:27015").expect("a socket");
    // Another namespace drops as well, which is no business of ours.
    let elsewhere = far.run(|| (UdpSocket::bind("192.0.2.2:27015"), UdpSocket::bind("192.0.2.2:0"))).expect("inside");
    let (_deaf, sender) = (elsewhere.0.expect("a socket"), elsewhere.1.expect("a socket"));
    let near = UdpSocket::bind("192.0.2.1:0").expect("a socket");

    let options = WatchOptions { interfaces: vec!["near".into()], ..WatchOptions::default() };
    let watches = [options, WatchOptions::default()].map(|options| Watch::begin(&options).expect("a watch"));
    for watch in &watches {
        assert_eq!(watch.lacks(), [""; 0]);
    }
    let first = watches.each_ref().map(|watch| watch.read().expect("a reading"));
    // Nobody reads meanwhile: the socket overflows. Of every hundredth packet the port is nobody's.
    for number in 0..PACKETS {
        let port = if number % 100 == 0 { 9 } else { 27_015 };
        // A port that nobody has answers with an ICMP error, which the next send on this socket would tell.
        while sender.send_to(&[0; 64], ("192.0.2.1", port)).is_err() {}
    }
    for _ in 0..20_000 {
        near.send_to(&[0; 64], "192.0.2.2:27015").expect("sent");
    }
    // Packets are given up in the sender's own call or in a softirq right behind it; what is counted then stands still.
    let mut last = watches.each_ref().map(|watch| watch.read().expect("a reading"));
    receiver.set_nonblocking(true).expect("a socket");
    let mut received = 0;
    let mut octets = [0; 64];
    loop {
        while receiver.recv(&mut octets).is_ok() {
            received += 1;
        }
        let now = watches.each_ref().map(|watch| watch.read().expect("a reading"));
        let moved = now.iter().zip(&last).any(|(now, last)| now.since(last).drops != last.since(last).drops);
        last = now;
        if !moved && receiver.peek(&mut octets).is_err() {
            break;
        }
    }
    for (last, first) in last.iter().zip(&first) {
        let report = last.since(first);
        let drops = report.drops.expect("watched");
        eprintln!("received {received}, {drops:?}, {:?}", report.counters);
        let dropped: u64 = drops.reasons.iter().map(|dropped| dropped.packets).sum();
        assert_eq!(PACKETS, received + dropped, "{:?}", report.overhead);
        let of =
            |reason: &str| drops.reasons.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum();
        let (full, nobody): (u64, u64) = (of("SOCKET_RCVBUFF"), of("NO_SOCKET"));
        assert_eq!(nobody, PACKETS / 100);
        assert!(full > PACKETS / 2, "the socket did not overflow: {drops:?}");
        let socket = &drops.sockets[0];
        assert_eq!((socket.socket, socket.buffer_full), (receiver.local_addr().expect("bound"), full));
        assert_eq!(report.counters["UdpRcvbufErrors"], full);
        assert_eq!((drops.uncounted, report.overhead.iter().map(|cost| cost.missed).sum::<u64>()), (0, 0));
        assert!(drops.reasons.iter().all(|drop| drop.interface.as_deref() == Some("near")), "{drops:?}");
    }
}

#[test]
fn a_full_socket_of_ipv6_is_told_too() {
    if !isolated("drops::a_full_socket_of_ipv6_is_told_too") {
        return;
    }
    let far = wire();
    for (enter, device, own, other, mac) in [("", "near", 1, 2, 2), ("ip netns exec far ", "far", 2, 1, 1)] {
        sh(&format!(
            "{enter}sh -ec 'echo 0 >/proc/sys/net/ipv6/conf/{device}/disable_ipv6
             ip address add 2001:db8::{own}/64 dev {device} nodad
             ip neighbour replace 2001:db8::{other} lladdr 02:00:00:00:00:0{mac} nud permanent dev {device}'"
        ));
    }
    let receiver = UdpSocket::bind("[2001:db8::1]:27015").expect("a socket");
    let sender = far.run(|| UdpSocket::bind("[2001:db8::2]:0")).expect("inside").expect("a socket");
    let options = WatchOptions { interfaces: vec!["near".into()], ..WatchOptions::default() };
    let watch = Watch::begin(&options).expect("a watch");
    let first = watch.read().expect("a reading");
    for _ in 0..PACKETS / 10 {
        sender.send_to(&[0; 64], "[2001:db8::1]:27015").expect("sent");
    }
    receiver.set_nonblocking(true).expect("a socket");
    let mut received = 0;
    let of =
        |drops: &[Dropped]| drops.iter().find(|drop| drop.reason == "SOCKET_RCVBUFF").map_or(0, |drop| drop.packets);
    let deadline = Instant::now() + Duration::from_secs(60);
    let drops = loop {
        while receiver.recv(&mut [0; 64]).is_ok() {
            received += 1;
        }
        let drops = watch.read().expect("a reading").since(&first).drops.expect("watched");
        if received + of(&drops.reasons) >= PACKETS / 10 || Instant::now() > deadline {
            break drops;
        }
    };
    let full = of(&drops.reasons);
    eprintln!("received {received}, {drops:?}");
    assert_eq!((received + full, drops.uncounted), (PACKETS / 10, 0), "{drops:?}");
    assert!(full > 0 && drops.reasons.iter().all(|drop| drop.interface.as_deref() == Some("near")), "{drops:?}");
    // Which socket it was, sockets of IPv6 tell since Linux 6.6.
    assert!(drops.sockets.first().is_none_or(|socket| socket.buffer_full == full), "{drops:?}");
}
