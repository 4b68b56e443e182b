//! Every packet that was sent was received or has a reason why not.

use std::net::UdpSocket;

use pathlab_host::watch::{Watch, WatchOptions};

use super::support::{isolated, wire};

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
