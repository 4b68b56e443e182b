//! How long a packet waits is what its queue says, and no packet has the time of another.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use pathlab_host::watch::{Watch, WatchOptions};

use super::{
    support::{isolated, sh, wire},
    sys::cut_into,
};

/// With the headers of UDP, IPv4 and Ethernet 1,000 octets.
const PAYLOAD: [u8; 958] = [0; 958];
const FRAME: f64 = 1_000.0;
/// Octets a second: a packet each 5 ms.
const RATE: f64 = 200_000.0;
/// Octets: so much lateness of the kernel's timer is made good.
const BUCKET: f64 = 20.0 * FRAME;
const PACKETS: u64 = 220;
/// Socket buffers hold about 90 of these packets.
const SENDERS: usize = 5;

fn near() -> WatchOptions {
    WatchOptions { interfaces: vec!["near".into()], ..WatchOptions::default() }
}

/// Seconds that each of the packets waits which come to a full token bucket at `arrivals`.
fn computed(arrivals: &[f64]) -> Vec<f64> {
    let (mut tokens, mut at) = (BUCKET, arrivals[0]);
    let mut wait = |arrival: &f64| {
        let begins = arrival.max(at);
        tokens = (tokens + (begins - at) * RATE).min(BUCKET);
        let lacks = (FRAME - tokens).max(0.0) / RATE;
        tokens += lacks * RATE - FRAME;
        at = begins + lacks;
        at - arrival
    };
    arrivals.iter().map(&mut wait).collect()
}

#[test]
fn a_burst_waits_as_long_as_its_token_bucket_says() {
    if !isolated("sojourn::a_burst_waits_as_long_as_its_token_bucket_says") {
        return;
    }
    let far = wire();
    sh("tc qdisc add dev near root tbf rate 1600kbit burst 20000 limit 1000000");
    let receiver = far.run(|| UdpSocket::bind("192.0.2.2:27015")).expect("inside").expect("a socket");
    receiver.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let senders: Vec<UdpSocket> = (0..SENDERS).map(|_| UdpSocket::bind("192.0.2.1:0").expect("a socket")).collect();
    let watch = Watch::begin(&near()).expect("a watch");
    assert_eq!(watch.lacks(), [""; 0]);
    let first = watch.read().expect("a reading");
    let begun = Instant::now();
    let arrivals: Vec<f64> = (0..PACKETS)
        .map(|number| {
            let at = begun.elapsed().as_secs_f64();
            senders[number as usize % SENDERS].send_to(&PAYLOAD, "192.0.2.2:27015").expect("sent");
            at
        })
        .collect();
    for _ in 0..PACKETS {
        receiver.recv(&mut [0; 1_000]).expect("received");
    }
    let report = watch.read().expect("a reading").since(&first);
    let sojourn = report.sojourn.expect("watched");
    let [queue] = sojourn.queues.as_slice() else { panic!("{sojourn:?}") };
    assert_eq!((queue.interface.as_str(), queue.queue), ("near", 0));
    assert_eq!((queue.unmatched, sojourn.untracked, sojourn.uncounted), (0, 0, 0));
    // Kernels of some sandboxes hand over no event whose interrupt fell into a process of their own: one of some hundred packets that a timer lets go.
    let counted = queue.nanoseconds.count();
    assert!(counted <= PACKETS && counted * 50 >= PACKETS * 49, "{counted} of {PACKETS}");

    let mut waits = computed(&arrivals);
    waits.sort_by(f64::total_cmp);
    let mean = waits.iter().sum::<f64>() / PACKETS as f64;
    let (half, longest) = (waits[waits.len().div_ceil(2) - 1], waits[waits.len() - 1]);
    let told = [
        ("mean", queue.nanoseconds.mean().expect("counted"), mean),
        ("p50", queue.nanoseconds.quantile(0.5).expect("counted").middle() as f64, half),
        ("max", queue.nanoseconds.max().expect("counted").middle() as f64, longest),
    ];
    for (what, measured, computed) in told {
        let off = measured / 1e9 / computed - 1.0;
        eprintln!(
            "{what}: {:.1} ms measured, {:.1} ms computed, {:+.2} %",
            measured / 1e6,
            computed * 1e3,
            off * 100.0
        );
        assert!(off.abs() < 0.05, "{what}: {measured} ns, computed {computed} s");
    }
}

/// Segments are cut behind the queue out of a packet that is freed then, and its address soon is another's.
#[test]
fn segments_do_not_have_the_time_of_others() {
    if !isolated("sojourn::segments_do_not_have_the_time_of_others") {
        return;
    }
    let _far = wire();
    sh("ethtool -K near tx-udp-segmentation off");
    let sender = UdpSocket::bind("192.0.2.1:0").expect("a socket");
    let watch = Watch::begin(&near()).expect("a watch");
    let first = watch.read().expect("a reading");
    cut_into(&sender, 100).expect("UDP_SEGMENT");
    for _ in 0..5_000 {
        sender.send_to(&[0; 400], "192.0.2.2:27015").expect("sent");
    }
    cut_into(&sender, 0).expect("UDP_SEGMENT");
    for _ in 0..100 {
        sender.send_to(&[0; 400], "192.0.2.2:27015").expect("sent");
    }
    let report = watch.read().expect("a reading").since(&first);
    let sojourn = report.sojourn.expect("watched");
    let [queue] = sojourn.queues.as_slice() else { panic!("{sojourn:?}") };
    let told = (queue.nanoseconds.count(), queue.unmatched, sojourn.untracked, sojourn.uncounted);
    assert_eq!(told, (100, 4 * 5_000, 0, 0));
}

/// What a full queue gives up never starts.
#[test]
fn what_is_dropped_is_not_timed() {
    if !isolated("sojourn::what_is_dropped_is_not_timed") {
        return;
    }
    let _far = wire();
    // two packets have tokens, ten wait for 4 s each, and their queue is then taken away
    sh("tc qdisc add dev near root tbf rate 2kbit burst 2000 limit 10000");
    let sender = UdpSocket::bind("192.0.2.1:0").expect("a socket");
    let watch = Watch::begin(&near()).expect("a watch");
    let first = watch.read().expect("a reading");
    for _ in 0..50 {
        sender.send_to(&PAYLOAD, "192.0.2.2:27015").expect("sent");
    }
    sh("tc qdisc del dev near root");
    for _ in 0..1_000 {
        sender.send_to(&PAYLOAD, "192.0.2.2:27015").expect("sent");
    }
    let report = watch.read().expect("a reading").since(&first);
    let sojourn = report.sojourn.expect("watched");
    let [queue] = sojourn.queues.as_slice() else { panic!("{sojourn:?}") };
    assert_eq!((queue.nanoseconds.count(), queue.unmatched), (1_002, 0));
    // Who got the address of one that was dropped did not wait since then.
    let longest = queue.nanoseconds.max().expect("counted").middle();
    assert!(longest < 1_000_000_000, "{longest} ns");
}
