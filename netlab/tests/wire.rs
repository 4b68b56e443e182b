//! The wire engine with real packets: delays of both families, a queue as the virtual engine has it, and what it says of itself.
//!
//! Whether a figure counts is decided by the engine's own grade: on a machine that was too busy to keep the times, the run says that it is invalid, and nothing
//! is concluded from it.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use pathlab_netlab::{
    engine::{
        kernel::{Played, Player},
        wire::{Tolerance, WireGrade},
    },
    lab::Lab,
    scenario::Scenario,
};
use support::isolated;

/// Two nodes; `out` is what the left one's sending meets, `back` the right one's.
fn pair(out: &str, back: &str) -> Scenario {
    let text = format!(
        r#"
name = "pair"
summary = "two nodes"
seed = 1
needs = ["tbf"]

[[node]]
name = "left"

[[node]]
name = "right"

[[link]]
ends = [
  {{ node = "left", dev = "wire", addresses = ["192.0.2.1/30", "2001:db8::1/64"]{out} }},
  {{ node = "right", dev = "wire", addresses = ["192.0.2.2/30", "2001:db8::2/64"]{back} }},
]
"#
    );
    Scenario::parse("pair.toml", &text, None).expect("a sound scenario")
}

fn bind(lab: &Lab, node: &str, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().expect("address");
    let namespace = lab.namespace(node).expect("node");
    let socket = namespace.run(|| UdpSocket::bind(address)).expect("enter").expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("deadline");
    socket
}

/// What of a grade says that nothing can be concluded from the run.
fn invalid(grade: &WireGrade) -> bool {
    let objections = grade.objections(Tolerance { release: Duration::from_micros(500), steal: 1.0 });
    objections.iter().for_each(|objection| eprintln!("invalid: {objection}"));
    !objections.is_empty()
}

fn median(mut delays: Vec<Duration>) -> Duration {
    delays.sort();
    delays[delays.len() / 2]
}

#[test]
fn both_families_are_late_by_the_delay_each_way() {
    if !isolated("both_families_are_late_by_the_delay_each_way") {
        return;
    }
    let scenario = pair(r#", delay = "10ms""#, r#", delay = "3ms""#);
    let mut lab = Lab::up_played(&scenario, "delay", 1, None, Player::Wire).expect("up");
    let (ends, played) = lab.played().next().expect("one link");
    assert_eq!((ends, played), (["left:wire".to_owned(), "right:wire".to_owned()], &Played::Wire("asked for".into())));
    let mut took = Vec::new();
    for (left, right) in [("192.0.2.1:0", "192.0.2.2:7"), ("[2001:db8::1]:0", "[2001:db8::2]:7")] {
        let (client, server) = (bind(&lab, "left", left), bind(&lab, "right", right));
        client.connect(right).expect("connected");
        let mut buffer = [0; 64];
        let mut round_trips = Vec::new();
        for number in 0..50_u8 {
            let start = Instant::now();
            client.send(&[number; 44]).expect("send");
            let (length, from) = server.recv_from(&mut buffer).expect("request");
            assert_eq!((length, buffer[0]), (44, number));
            let there = start.elapsed();
            server.send_to(&buffer[..length], from).expect("reply");
            client.recv(&mut buffer).expect("reply");
            round_trips.push(start.elapsed());
            assert!(there >= Duration::from_millis(10), "never early: {there:?}");
        }
        assert!(round_trips.iter().all(|took| *took >= Duration::from_millis(13)));
        took.push(median(round_trips));
    }
    let grade = lab.stop_wire().expect("played on").expect("a wire");
    let [left, right] = &grade.directions[..] else { panic!("two directions: {grade:?}") };
    // Neighbour discovery and its like come on top.
    assert!(left.count.sent >= 100 && right.count.sent >= 100, "{grade:?}");
    assert_eq!((left.missed, left.cut, left.refused), (0, 0, 0));
    eprintln!("{took:?}; release error p50 {:?} p99 {:?} ns", left.error.quantile(0.5), left.error.quantile(0.99));
    if !invalid(&grade) {
        assert!(took.iter().all(|took| *took < Duration::from_millis(15)), "{took:?}");
    }
}

/// The closed form: twenty packets at once through a queue of ten. One is sent, ten wait, nine are dropped; each takes 1.2 ms.
#[test]
fn a_burst_is_queued_dropped_and_paced_exactly() {
    if !isolated("a_burst_is_queued_dropped_and_paced_exactly") {
        return;
    }
    let scenario = pair(r#", rate = "10mbit", queue = "10 packets""#, "");
    let mut lab = Lab::up_played(&scenario, "burst", 1, None, Player::Wire).expect("up");
    let (client, server) = (bind(&lab, "left", "192.0.2.1:0"), bind(&lab, "right", "192.0.2.2:7"));
    client.connect("192.0.2.2:7").expect("connected");
    // 1,500 bytes with their headers
    let begun = Instant::now();
    for number in 0..20_u8 {
        client.send(&[number; 1458]).expect("send");
    }
    let mut buffer = [0; 2048];
    let mut came = Vec::new();
    while came.last().is_none_or(|(number, _)| *number < 10) {
        server.recv(&mut buffer).expect("eleven of them");
        came.push((buffer[0], Instant::now()));
    }
    // Where the sender was held up there are more: one every 1.2 ms.
    server.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
    while server.recv(&mut buffer).is_ok() {
        came.push((buffer[0], Instant::now()));
    }
    let numbers: Vec<u8> = came.iter().map(|(number, _)| *number).collect();
    let grade = lab.stop_wire().expect("played on").expect("a wire");
    let left = grade.directions.iter().find(|direction| direction.node == "left").expect("its direction");
    // All twenty came within a fraction of the 1.2 ms that one takes, or the sender was held up.
    if left.count.overflowed == 9 {
        assert_eq!(numbers, (0..11).collect::<Vec<u8>>());
        let span = came[10].1 - begun;
        eprintln!("eleven packets in {span:?}, 13.2 ms expected");
        // Whoever is held up sees a packet late, and none early.
        assert!(span > Duration::from_millis(13), "{span:?}");
        if !invalid(&grade) {
            assert!(came[10].1 - came[0].1 < Duration::from_millis(14), "{came:?}");
        }
    } else {
        eprintln!("the sender was held up: {:?}", left.count);
    }
    // Router solicitations and their like may come on top.
    let (arrived, lost) = (came.len() as u64, 20 - came.len() as u64);
    assert!(left.count.sent >= arrived && left.count.overflowed >= lost, "every packet has one fate: {left:?}");
}

#[test]
fn auto_says_why_the_kernel_does_not_play() {
    if !isolated("auto_says_why_the_kernel_does_not_play") {
        return;
    }
    // No kernel has it.
    let scenario = pair(r#", rate = "10mbit", queue = "codel rfc8289""#, "");
    let lab = Lab::up(&scenario, "auto", 1).expect("up");
    let (_, played) = lab.played().next().expect("one link");
    assert_eq!(played.to_string(), "wire: no kernel has CoDel as in RFC 8289");
    let error = lab.keep().expect_err("ends with this process").to_string();
    assert_eq!(
        error,
        "lab auto: left:wire is played by the wire engine, which ends with this process: no kernel has CoDel as in RFC 8289; use `lab run`"
    );
    let error = Lab::up_played(&scenario, "kernel", 1, None, Player::Kernel).expect_err("no kernel").to_string();
    assert_eq!(
        error,
        "left:wire: the kernel engine cannot play it: no kernel has CoDel as in RFC 8289; use --engine wire, or auto"
    );
    let scenario = pair(r#", rate = "10mbit", queue = "10 packets""#, "");
    let lab = Lab::up(&scenario, "tbf", 1).expect("up");
    assert_eq!(lab.played().next().expect("one link").1, &Played::Kernel);
}
