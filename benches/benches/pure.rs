//! The pure functions of the hot path, without a system call: what a packet costs a processor in the rules and the codec alone.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pathlab_canary::{KeyFrom, bucket};
use pathlab_netlab::{
    engine::discrete,
    qdisc::Limit,
    queue::{Burst, Codel, CodelParameters, DropTail, Flavour, FqCodel, FqCodelParameters, Packet, Queue, TokenBucket},
    scenario::Scenario,
};
use pathlab_record::{ClockId, Digest, Ledger, Planes, SessionKey, SparseHistogram, Stamp, Stamps, Time};
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

fn ledger(criterion: &mut Criterion) {
    let at = |nanoseconds| Stamp::new(NOW.as_nanos() + nanoseconds, ClockId::Realtime, 90);
    let both = |app, kernel| Planes { app: at(app), kernel: at(kernel), ..Planes::default() };
    let stamps = Stamps {
        a0: Planes { app: at(0), ..Planes::default() },
        a1: both(412, 9_532),
        b2: Planes { kernel: at(7_015_009_532), ..Planes::default() },
        b3: Planes { app: at(7_015_011_742), ..Planes::default() },
        a4: both(31_827_157, 31_812_154),
    };
    criterion.bench_function("ledger/split", |bench| bench.iter(|| Ledger::split(black_box(&stamps)).expect("whole")));
}

/// A packet comes and one leaves, with fifty waiting: four flows, 1.2 ms a packet.
fn queues(criterion: &mut Criterion) {
    let codel = CodelParameters::default();
    let fq_codel = FqCodelParameters::default();
    let queues: [(&str, Box<dyn Queue>); 5] = [
        ("tail drop", Box::new(DropTail::new(Limit::Packets(1000)))),
        ("codel as Linux", Box::new(Codel::new(Flavour::Linux, codel))),
        ("codel as RFC 8289", Box::new(Codel::new(Flavour::Rfc8289, codel))),
        ("fq_codel as Linux", Box::new(FqCodel::new(Flavour::Linux, fq_codel))),
        ("fq_codel as RFC 8290", Box::new(FqCodel::new(Flavour::Rfc8289, fq_codel))),
    ];
    for (name, mut queue) in queues {
        let (mut now, mut id, mut signals) = (Duration::ZERO, 0, Vec::new());
        let mut packet = || {
            id += 1;
            Packet { id, bytes: 1500, flow: (id as u32 % 4) << 20, ecn_capable: false }
        };
        (0..50).for_each(|_| queue.enqueue(now, packet(), &mut signals));
        criterion.bench_function(&format!("queue/{name}, in and out"), |bench| {
            bench.iter(|| {
                now += Duration::from_micros(1200);
                queue.enqueue(now, black_box(packet()), &mut signals);
                // What was dropped is made up for, so that the queue stays as long as it is.
                signals.drain(..).for_each(|_| queue.enqueue(now, packet(), &mut Vec::new()));
                queue.dequeue(now, &mut signals)
            });
        });
    }
    let (mut bucket, mut now) = (TokenBucket::new(10_000_000, 3000), Duration::ZERO);
    criterion.bench_function("queue/token bucket, take", |bench| {
        bench.iter(|| {
            now += Duration::from_micros(1200);
            bucket.take(black_box(now), 1500)
        });
    });
}

fn rings(criterion: &mut Criterion) {
    let (gap, service, wake) = (Duration::from_nanos(67), Duration::from_nanos(500), Duration::from_micros(50));
    let burst = Burst { packets: 4000, gap, service, wake };
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(burst.packets.into()));
    group.bench_function("4,000 packets through 512 descriptors", |bench| bench.iter(|| black_box(burst).through(512)));
    group.finish();
}

/// Elements are test packets; those of loads come on top.
fn virtual_engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtual engine");
    group.sample_size(10);
    for name in ["baseline", "lossy-last-mile"] {
        let scenario = Scenario::load(name, None).expect("shipped");
        let packets = discrete::play(&scenario, scenario.seed, |_| false).probes.len();
        group.throughput(Throughput::Elements(packets as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| discrete::play(black_box(&scenario), scenario.seed, |_| false))
        });
    }
    group.finish();
}

fn hash(criterion: &mut Criterion) {
    for (name, client) in [("IPv4", "198.18.7.9:40000"), ("IPv6", "[2001:2:0:1::7]:40000")] {
        let key = SessionKey(client.parse().expect("an address"));
        criterion.bench_function(&format!("hash/bucket of a session, {name}"), |bench| {
            bench.iter(|| bucket(black_box(0x5eed), black_box(&key), KeyFrom::ClientAddrPort));
        });
    }
    let record = [7; 4096];
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(record.len() as u64));
    group.bench_function("SHA-256 of evidence", |bench| bench.iter(|| Digest::of(black_box(&record))));
    group.finish();
}

criterion_group!(benches, codec, respond, frame, histogram, ledger, queues, rings, virtual_engine, hash);
criterion_main!(benches);
