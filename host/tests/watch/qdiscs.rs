//! Every qdisc of a tree is told, with what waits in it and what it gave up.

use std::net::UdpSocket;

use pathlab_host::watch::{Alert, Thresholds, Watch, WatchOptions};

use super::support::{isolated, sh, wire};

#[test]
fn a_queue_that_stands_is_told_with_its_parents() {
    if !isolated("qdiscs::a_queue_that_stands_is_told_with_its_parents") {
        return;
    }
    let _far = wire();
    // 1,042 octets a frame: two have tokens, the next comes 8 s later.
    sh("tc qdisc add dev near root handle 1: tbf rate 1kbit burst 2100 limit 20000 && \
        tc qdisc add dev near parent 1:1 handle 2: pfifo limit 10");
    let options = WatchOptions {
        interfaces: vec!["near".into()],
        thresholds: Thresholds { waiting: 10, ..Thresholds::default() },
        ..WatchOptions::default()
    };
    let watch = Watch::begin(&options).expect("a watch");
    let first = watch.read().expect("a reading");
    let sender = UdpSocket::bind("192.0.2.1:0").expect("a socket");
    for _ in 0..20 {
        sender.send_to(&[0; 1_000], "192.0.2.2:27015").expect("sent");
    }
    let report = watch.read().expect("a reading").since(&first);
    assert!(report.qdiscs.iter().all(|qdisc| qdisc.interface == "near"), "{:?}", report.qdiscs);
    let told: Vec<_> = report
        .qdiscs
        .iter()
        .map(|qdisc| (qdisc.kind.as_str(), qdisc.handle.as_str(), qdisc.parent.as_str(), qdisc.waiting, qdisc.drops))
        .collect();
    assert_eq!(told, [("tbf", "1:", "root", 10, 8), ("pfifo", "2:", "1:1", 10, 8)]);
    let tbf = &report.qdiscs[0];
    assert_eq!((tbf.packets, tbf.octets, tbf.waiting_octets), (2, 2 * 1_042, 10 * 1_042));
    assert!(tbf.overlimits > 0, "{tbf:?}");
    let standing: Vec<_> = report
        .alerts
        .iter()
        .filter_map(|alert| match alert {
            Alert::Waiting { handle, packets, threshold, .. } => Some((handle.as_str(), *packets, *threshold)),
            _ => None,
        })
        .collect();
    assert_eq!(standing, [("1:", 10, 10), ("2:", 10, 10)]);
}
