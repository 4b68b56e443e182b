//! Polls that use their whole budget are told from those that do not.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use pathlab_host::watch::{Reading, Watch, WatchOptions};
use pathlab_netlab::netns::Namespace;

use super::support::{isolated, sleepy_receiver, wire};

/// Fewer than a veth holds for its NAPI.
const PACKETS: u64 = 200;
/// `NAPI_POLL_WEIGHT`.
const BUDGET: u64 = 64;

#[test]
fn polls_that_used_their_budget_are_counted() {
    if !isolated("napi::polls_that_used_their_budget_are_counted") {
        return;
    }
    let far = wire();
    let receiver = far.run(|| UdpSocket::bind("192.0.2.2:27015")).expect("inside").expect("a socket");
    sleepy_receiver(2_000);
    let options = WatchOptions { interfaces: vec!["far".into()], ..WatchOptions::default() };
    let watch = far.run(|| Watch::begin(&options)).expect("inside").expect("a watch");
    assert_eq!(watch.lacks(), [""; 0]);
    let before = read(&far, &watch);
    let sender = UdpSocket::bind("192.0.2.1:0").expect("a socket");
    sender.send_to(&[0; 64], "192.0.2.2:27015").expect("sent");
    receiver.recv(&mut [0; 64]).expect("received");
    // After this poll it sleeps, and what comes then is there all together when it wakes.
    let first = until(&far, &watch, &before, 1);
    for _ in 0..PACKETS {
        sender.send_to(&[0; 64], "192.0.2.2:27015").expect("sent");
    }
    let report = until(&far, &watch, &first, PACKETS).since(&first);
    let [napi] = report.napi.as_ref().expect("watched").napis.as_slice() else { panic!("{:?}", report.napi) };
    eprintln!("{napi:?}");
    assert_eq!(napi.interface, "far");
    assert_ne!(napi.id, 0);
    assert_eq!((napi.packets, napi.exhausted, napi.polls), (PACKETS, PACKETS / BUDGET, PACKETS / BUDGET + 1));
    let mut by_packets = [0; 9];
    (by_packets[4], by_packets[7]) = (1, PACKETS / BUDGET);
    assert_eq!(napi.by_packets, by_packets);
}

fn read(far: &Namespace, watch: &Watch) -> Reading {
    far.run(|| watch.read()).expect("inside").expect("a reading")
}

/// Waits until so many packets more were taken.
fn until(far: &Namespace, watch: &Watch, since: &Reading, packets: u64) -> Reading {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = read(far, watch);
        let report = now.since(since);
        let taken: u64 = report.napi.iter().flat_map(|napi| &napi.napis).map(|napi| napi.packets).sum();
        if taken >= packets {
            return now;
        }
        assert!(Instant::now() < deadline, "{taken} of {packets} packets after a minute");
        thread::sleep(Duration::from_millis(10));
    }
}
