//! A conversation over loopback, both families: every request answered, every stamp in order, every datagram accounted for.

#[path = "support/running.rs"]
mod running;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use pathlab_record::{Realtime, Time};
use pathlab_reflector::{
    Error, Reflector, ReflectorConfig, ReflectorReport,
    clock::realtime_now,
    datapath::SocketOptions,
    session::Rules,
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket, WireTime},
};
use running::Running;
use zerocopy::IntoBytes;

fn config(listen: &[&str]) -> ReflectorConfig {
    let listen = listen.iter().map(|address| address.parse().expect("an address")).collect();
    ReflectorConfig { listen, socket: SocketOptions::stamped(), ..ReflectorConfig::default() }
}

fn client(reflector: SocketAddr) -> UdpSocket {
    let any: IpAddr = if reflector.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
    let client = UdpSocket::bind((any, 0)).expect("a free port");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    client
}

fn request(sequence: u32) -> SenderPacket {
    SenderPacket::new(sequence, realtime_now().into(), ErrorEstimate::from_nanos(1000, false))
}

fn ntp(time: Option<WireTime>) -> Time<Realtime> {
    match time {
        Some(WireTime::Ntp(time)) => time,
        other => panic!("an NTP time, not {other:?}"),
    }
}

fn accounts_for(report: &ReflectorReport) -> u64 {
    report.replied + report.refused.values().sum::<u64>() + report.kernel_drops
}

#[test]
fn every_request_is_answered_with_its_stamps_in_order() {
    let running = Running::start(config(&["127.0.0.1:0", "[::1]:0"]));
    for reflector in running.addresses.clone() {
        let client = client(reflector);
        for sequence in 0..100 {
            let sent = realtime_now();
            let mut bytes = request(sequence).as_bytes().to_vec();
            // Extra Padding, as a sender flags it
            bytes.extend_from_slice(b"\x80\x01\x00\x18what follows as it came.");
            client.send_to(&bytes, reflector).expect("send");
            let mut buffer = [0; 200];
            let (len, from) = client.recv_from(&mut buffer).expect("a reply");
            let back = realtime_now();
            assert_eq!((len, from), (bytes.len(), reflector));
            let (reply, rest) = ReflectedPacket::parse(&buffer[..len]).expect("a reply");
            assert_eq!(rest, b"\x00\x01\x00\x18what follows as it came.");
            assert_eq!((reply.sequence.get(), reply.sender_sequence.get()), (sequence, sequence));
            assert_eq!(reply.sender_timestamp.as_bytes(), &bytes[4..12]);
            assert_ne!(reply.sender_ttl, 0);
            let (received, replied) = (ntp(reply.received_at()), ntp(reply.sent_at()));
            assert!(sent <= received && received <= replied && replied <= back);
            assert!(reply.error_estimate.nanos().is_some());
        }
    }
    let report = running.finish();
    assert_eq!((report.received, report.replied, report.kernel_drops), (200, 200, 0));
    assert_eq!(report.received_on.values().sum::<u64>(), 200);
    assert_eq!(accounts_for(&report), 200);
    let departures = report.departure.expect("transmit stamps arrive on loopback");
    assert!(departures.count >= 198 && report.residence.expect("residence").count == 200);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["refused"]["short"], 0);
    assert!(json["residence"]["p99"].is_i64() || json["residence"]["p99"].is_u64());
}

#[test]
fn a_wildcard_reflector_answers_from_the_address_that_was_asked() {
    let running = Running::start(config(&["0.0.0.0:0"]));
    let asked = SocketAddr::from(([127, 3, 2, 1], running.addresses[0].port()));
    let client = client(asked);
    client.send_to(request(1).as_bytes(), asked).expect("send");
    let (_, from) = client.recv_from(&mut [0; 100]).expect("a reply");
    assert_eq!(from, asked);
}

#[test]
fn a_delay_before_the_send_is_residence_and_nothing_else() {
    let delay = Duration::from_millis(5);
    let running = Running::start(ReflectorConfig { delay_before_send: Some(delay), ..config(&["127.0.0.1:0"]) });
    let client = client(running.addresses[0]);
    for sequence in 0..20 {
        client.send_to(request(sequence).as_bytes(), running.addresses[0]).expect("send");
        let mut buffer = [0; 100];
        let (len, _) = client.recv_from(&mut buffer).expect("a reply");
        let (reply, _) = ReflectedPacket::parse(&buffer[..len]).expect("a reply");
        let residence = ntp(reply.sent_at()) - ntp(reply.received_at());
        assert!(residence.as_nanos() >= 5_000_000, "{residence:?}");
    }
    let report = running.finish();
    assert!(report.residence.expect("residence").p50.as_nanos() >= 4_995_000, "three digits of histogram");
    assert!(report.departure.expect("departure").p50.as_nanos() < 5_000_000);
}

#[test]
fn refusals_are_counted_by_name() {
    let rules = Rules { allow: vec!["127.9.0.0/16".parse().expect("a prefix")], ..Rules::default() };
    let running = Running::start(ReflectorConfig { rules, ..config(&["127.0.0.1:0"]) });
    let reflector = running.addresses[0];
    let port = reflector.port();
    let from = |address: [u8; 4], port: u16| UdpSocket::bind((IpAddr::from(address), port)).expect("a free port");
    let allowed = from([127, 9, 0, 1], 0);
    allowed.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");

    from([127, 0, 0, 1], 0).send_to(request(1).as_bytes(), reflector).expect("send");
    allowed.send_to(&[0; 43], reflector).expect("send");
    from([127, 9, 0, 1], port).send_to(request(2).as_bytes(), reflector).expect("send");
    // One socket takes them in order: the reply to the last says that the others have been judged.
    allowed.send_to(request(3).as_bytes(), reflector).expect("send");
    let mut buffer = [0; 100];
    let (len, _) = allowed.recv_from(&mut buffer).expect("a reply");
    assert_eq!(ReflectedPacket::parse(&buffer[..len]).expect("a reply").0.sender_sequence.get(), 3);

    let report = running.finish();
    for reason in ["not_allowed", "short", "source_port_ours"] {
        assert_eq!(report.refused[reason], 1, "{reason}");
    }
    assert_eq!((report.received, report.replied), (4, 1));
    assert_eq!(accounts_for(&report), report.received);
}

#[test]
fn a_port_in_use_is_one_clear_sentence_and_binds_nothing() {
    let running = Running::start(config(&["127.0.0.1:0"]));
    let taken = running.addresses[0];
    let error = Reflector::new(config(&["[::1]:0", &taken.to_string()])).err().expect("the port is taken");
    assert!(matches!(error, Error::PortInUse(address) if address == taken));
    assert!(!error.to_string().contains('\n'));
}
