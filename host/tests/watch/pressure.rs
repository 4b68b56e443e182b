//! A ring that overflows is counted, has a meaning and raises an alert.

use std::net::UdpSocket;

use pathlab_host::{
    Meaning,
    watch::{Alert, Watch, WatchOptions},
};

use super::support::{isolated, sleepy_receiver, wire};

/// Packets that a veth holds for its NAPI at least: `VETH_RING_SIZE`, less a batch of places that are given back later (`ptr_ring`).
const RING: u64 = 256 - 16;
const SENT: u64 = 400;
/// What lies in the ring is still charged to its socket, and no single one could fill it on every kernel.
const SENDERS: u64 = 4;

#[test]
fn a_full_ring_is_an_alert() {
    if !isolated("pressure::a_full_ring_is_an_alert") {
        return;
    }
    let far = wire();
    let receiver = far.run(|| UdpSocket::bind("192.0.2.2:27015")).expect("inside").expect("a socket");
    sleepy_receiver(100_000);
    let watch = Watch::begin(&WatchOptions::default()).expect("a watch");
    let senders: Vec<UdpSocket> = (0..SENDERS).map(|_| UdpSocket::bind("192.0.2.1:0").expect("a socket")).collect();
    senders[0].send_to(&[0; 64], "192.0.2.2:27015").expect("sent");
    receiver.recv(&mut [0; 64]).expect("received");
    let first = watch.read().expect("a reading");
    for number in 0..SENT {
        senders[(number % SENDERS) as usize].send_to(&[0; 64], "192.0.2.2:27015").expect("sent");
    }
    let report = watch.read().expect("a reading").since(&first);
    let port = report.rings.iter().find(|port| port.interface == "near").expect("told");
    assert_eq!(port.driver.as_deref(), Some("veth"));
    let [loss] = port.losses.as_slice() else { panic!("{port:?}") };
    assert_eq!((loss.counter.as_str(), loss.meaning, loss.queue), ("tx_dropped", Some(Meaning::Transmit), None));
    // What came while the first packet's poll still ran has found a place as well.
    assert!(loss.packets > 0 && loss.packets <= SENT - RING, "{loss:?}");
    let rate = loss.packets as f64 / report.seconds;
    assert!((loss.rate - rate).abs() < rate * 1e-9, "{loss:?} in {} s", report.seconds);
    let wanted = Alert::Losses {
        interface: "near".into(),
        queue: None,
        counter: "tx_dropped".into(),
        meaning: Meaning::Transmit,
        rate: loss.rate,
        threshold: 1.0,
    };
    assert_eq!(report.alerts, [wanted]);
}
