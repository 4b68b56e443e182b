//! The pure functions of the hot path, without a system call: what a packet costs a processor in the rules and the codec alone.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pathlab_record::{SparseHistogram, Time};
use pathlab_reflector::{
    session::{Request, Rules, SessionReflector, Verdict},
    wire::{ErrorEstimate, NtpTimestamp, ReflectedPacket, SenderPacket, UdpFrame},
};
use zerocopy::IntoBytes;

const NOW: Time<pathlab_record::Realtime> = Time::from_nanos(1_795_255_200_410_000_000);

fn request() -> SenderPacket {
    SenderPacket::new(41, NtpTimestamp::from(NOW), ErrorEstimate::from_nanos(1000, true))
}

fn codec(criterion: &mut Criterion) {
    let packet = request();
    let bytes = packet.as_bytes();
    criterion.bench_function("codec/make a request", |bench| bench.iter(|| black_box(request())));
    criterion.bench_function("codec/read a reply", |bench| {
        bench.iter(|| {
            let (packet, _) = ReflectedPacket::parse(black_box(bytes)).expect("44 octets");
            (packet.received_at(), packet.sent_at())
        });
    });
}

fn respond(criterion: &mut Criterion) {
    let packet = request();
    for (name, sessions) in [("stateless", None), ("stateful", Some(1024))] {
        let rules = Rules { sessions, ..Rules::default() };
        let mut reflector = SessionReflector::new(rules, ErrorEstimate::from_nanos(1000, true));
        let mut reply = [0; 44];
        let request = Request {
            peer: "192.0.2.7:40000".parse().expect("an address"),
            local: None,
            local_port: 862,
            unicast: true,
            ttl: Some(255),
            traffic_class: Some(0),
            arrival: NOW.into(),
            payload: packet.as_bytes(),
        };
        criterion.bench_function(&format!("session/respond and finish, {name}"), |bench| {
            bench.iter(|| {
                let verdict = reflector.respond(black_box(&request), Time::from_nanos(1), &mut reply);
                let Verdict::Reply(unfinished) = verdict else { panic!("{verdict:?}") };
                reflector.finish(&unfinished, NOW, &mut reply);
            });
        });
    }
}

fn frame(criterion: &mut Criterion) {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0];
    frame.extend([0x45, 0, 0, 72, 0, 1, 0x40, 0, 64, 17, 0x9a, 0xbc, 198, 51, 100, 7, 192, 0, 2, 1]);
    frame.extend([0x9c, 0x40, 0x03, 0x5e, 0, 52, 0x12, 0x34]);
    frame.extend([7; 44]);
    let reply = [9; 44];
    criterion.bench_function("frame/parse and turn round", |bench| {
        bench.iter(|| {
            let mut parsed = UdpFrame::parse(black_box(&frame)).expect("a datagram");
            parsed.turn_round(&mut frame, black_box(&reply))
        });
    });
}

fn histogram(criterion: &mut Criterion) {
    let mut histogram = SparseHistogram::default();
    let mut value = 1;
    criterion.bench_function("histogram/record", |bench| {
        bench.iter(|| {
            value = value * 31 % 1_000_003;
            histogram.record(black_box(value));
        });
    });
}

criterion_group!(benches, codec, respond, frame, histogram);
criterion_main!(benches);
