//! The in-memory twin of the host: a network and a reflector under virtual time, which know the truth that the probe must find.

mod accounts;
mod cards;
mod clocks;
mod hosts;
mod waits;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pathlab_record::{ClockId, Interval, Outcome, Realtime, Stamp, Term, Time};
use pathlab_xdp::clock::SystemLook;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zerocopy::{FromZeros, IntoBytes, byteorder::network_endian::U32};

use super::{
    engine::{End, Engine, Now, Ready, Terms, Until, World},
    matching::{Counts, Patience},
    one_way::OneWayRow,
    output::Kept,
    packet::Shape,
    recorder::{Recorder, Recording},
    schedule::Schedule,
    sessions::{SessionSpec, SocketPlan},
    summary::{Quantiles, Row},
};
use crate::{
    clock::ClockQuality,
    datapath::{Datagram, SendId, SentStamp},
    wire::{ErrorEstimate, NtpTimestamp, ReflectedPacket, SenderPacket},
};

const US: i64 = 1_000;
const MS: i64 = 1_000_000;
const EPOCH: i64 = 1_792_000_000_000_000_000;
const TIMEOUT: i64 = 200 * MS;

/// What the network and both hosts do, in nanoseconds and shares.
#[derive(Clone, Debug)]
struct Nature {
    wake_late: i64,
    probe_tx: i64,
    forward: i64,
    residence: i64,
    back: i64,
    probe_rx: i64,
    /// From the hand-over to the driver until its stamp can be read.
    stamp_after: i64,
    /// Up to so much is added to the way forward, anew for each packet.
    spread: i64,
    lose_forward: f64,
    lose_return: f64,
    duplicate: f64,
    /// Replies that are held back beyond the timeout.
    late: f64,
    /// The host stalls for so long, now and then.
    stall: i64,
    /// What a packet's sending takes of the probe's own time.
    send_takes: i64,
    refuse: f64,
    stateful: bool,
    seed: u64,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            wake_late: 3 * US,
            probe_tx: 9 * US,
            forward: 7 * MS,
            residence: 20 * US,
            back: 8 * MS,
            probe_rx: 15 * US,
            stamp_after: 0,
            spread: 0,
            lose_forward: 0.0,
            lose_return: 0.0,
            duplicate: 0.0,
            late: 0.0,
            stall: 0,
            send_takes: 0,
            refuse: 0.0,
            stateful: false,
            seed: 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Late,
    LostForward,
    LostReturn,
}

#[derive(Clone, Debug)]
enum Event {
    Reply { peer: SocketAddr, local: IpAddr, kernel: i64, packet: ReflectedPacket },
    Stamp { id: u32, kernel: i64 },
}

/// One socket, any number of sessions.
struct Simulation {
    nature: Nature,
    dice: ChaCha8Rng,
    now: i64,
    events: BTreeMap<(i64, u64), Event>,
    serial: u64,
    next_id: u32,
    reflected: HashMap<(IpAddr, SocketAddr), u32>,
    fates: HashMap<(IpAddr, u32), Fate>,
    duplicates: u64,
}

impl Simulation {
    fn new(nature: Nature) -> Self {
        Self {
            dice: ChaCha8Rng::seed_from_u64(nature.seed),
            nature,
            now: 0,
            events: BTreeMap::new(),
            serial: 0,
            next_id: 0,
            reflected: HashMap::new(),
            fates: HashMap::new(),
            duplicates: 0,
        }
    }

    fn at(&mut self, time: i64, event: Event) {
        self.serial += 1;
        self.events.insert((time, self.serial), event);
    }

    fn due(&mut self, wanted: fn(&Event) -> bool) -> Vec<Event> {
        let now = self.now;
        let keys: Vec<_> =
            self.events.range(..=(now, u64::MAX)).filter(|(_, event)| wanted(event)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.events.remove(key)).collect()
    }
}

fn real(nanoseconds: i64) -> Time<Realtime> {
    Time::from_nanos(EPOCH + nanoseconds)
}

/// The reflector's clock is seven seconds ahead.
fn far(nanoseconds: i64) -> NtpTimestamp {
    real(nanoseconds + 7_000 * MS).into()
}

impl World for Simulation {
    fn now(&mut self) -> Now {
        Now { monotonic: Time::from_nanos(self.now), realtime: real(self.now) }
    }

    fn look(&mut self) -> SystemLook {
        let Now { monotonic, realtime } = self.now();
        SystemLook { monotonic, realtime, half_width: 20, tai_minus_utc: None }
    }

    fn clock_quality(&mut self) -> ClockQuality {
        ClockQuality { synchronised: false, max_error: 1000, reading_cost: 0 }
    }

    fn send(&mut self, _: usize, to: SocketAddr, from: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId> {
        let nature = self.nature.clone();
        if self.dice.random_bool(nature.refuse) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let (request, _) = SenderPacket::parse(payload).expect("a test packet");
        self.now += nature.send_takes;
        let local = from.expect("sessions of the simulation have sources");
        let id = self.next_id;
        self.next_id += 1;
        let kernel = self.now + nature.probe_tx;
        self.at(kernel + nature.stamp_after, Event::Stamp { id, kernel });

        let key = (local, request.sequence.get());
        let mut fate = Fate::Answered;
        if self.dice.random_bool(nature.lose_forward) {
            self.fates.insert(key, Fate::LostForward);
            return Ok(SendId(id));
        }
        let received = kernel + nature.forward + self.dice.random_range(0..=nature.spread);
        let counter = self.reflected.entry((local, to)).or_insert(0);
        let mut packet = ReflectedPacket::new_zeroed();
        packet.sequence = if nature.stateful { U32::new(*counter) } else { request.sequence };
        *counter += 1;
        packet.receive_timestamp = far(received);
        packet.timestamp = far(received + nature.residence);
        packet.error_estimate = ErrorEstimate::from_nanos(1000, false);
        packet.sender_sequence = request.sequence;
        packet.sender_timestamp = request.timestamp;
        let mut arrived = received + nature.residence + nature.back;
        if self.dice.random_bool(nature.lose_return) {
            fate = Fate::LostReturn;
        } else {
            if self.dice.random_bool(nature.late) {
                fate = Fate::Late;
                arrived = arrived.max(self.now + TIMEOUT) + 20 * MS;
            }
            let event = Event::Reply { peer: to, local, kernel: arrived, packet };
            if self.dice.random_bool(nature.duplicate) {
                self.duplicates += 1;
                self.at(arrived + nature.probe_rx + MS, event.clone());
            }
            self.at(arrived + nature.probe_rx, event);
        }
        self.fates.insert(key, fate);
        Ok(SendId(id))
    }

    fn receive(&mut self, _: usize, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let due = self.due(|event| matches!(event, Event::Reply { .. }));
        for event in &due {
            let Event::Reply { peer, local, kernel, packet } = event else { continue };
            each(Datagram {
                peer: *peer,
                local: Some(*local),
                unicast: true,
                ifindex: None,
                ttl: None,
                traffic_class: None,
                kernel: Some(real(*kernel)),
                nic: None,
                app: real(self.now),
                payload: packet.as_bytes(),
            });
        }
        Ok(due.len())
    }

    fn sent_stamps(&mut self, _: usize, mut each: impl FnMut(SendId, SentStamp)) -> io::Result<usize> {
        let due = self.due(|event| matches!(event, Event::Stamp { .. }));
        for event in &due {
            let Event::Stamp { id, kernel } = event else { continue };
            each(SendId(*id), SentStamp::Kernel(real(*kernel)));
        }
        Ok(due.len())
    }

    fn wait(&mut self, until: Until, ready: &mut Vec<Ready>) -> io::Result<()> {
        let until = until.at();
        let first = self.events.first_key_value().map(|((time, _), _)| *time);
        match first.filter(|time| *time <= until.as_nanos().max(self.now)) {
            Some(time) => {
                self.now = self.now.max(time);
                ready.push(Ready { socket: 0, datagrams: true, stamps: true });
            }
            None => {
                self.now = self.now.max(until.as_nanos() + self.nature.wake_late);
                if self.nature.stall > 0 && self.dice.random_bool(0.01) {
                    self.now += self.nature.stall;
                }
            }
        }
        Ok(())
    }

    fn stop_requested(&mut self) -> bool {
        false
    }
}

struct Played {
    row: Row,
    counts: Counts,
    kept: Kept,
    one_way: Vec<OneWayRow>,
    world: Simulation,
    end: End,
}

fn specs(sessions: usize) -> Vec<SessionSpec> {
    (0..sessions)
        .map(|index| SessionSpec {
            source: Some(SocketAddr::from(([10, 1, (index >> 8) as u8, index as u8 + 1], 40_000))),
            labels: [("isp".to_owned(), ["NTT", "KDDI"][index % 2].into())].into(),
            ..SessionSpec::new("10.9.0.2:862".parse().unwrap())
        })
        .collect()
}

fn play(nature: Nature, sessions: usize, count: u64) -> Played {
    let specs = specs(sessions);
    let plan = SocketPlan::new(&specs);
    let patience = Patience {
        timeout: Duration::from_nanos(TIMEOUT as u64),
        stamp: Duration::from_millis(20),
        nic: false,
        follow_up: Duration::ZERO,
        confirm: Duration::ZERO,
    };
    let schedule = Schedule::new(Time::from_nanos(MS), Duration::from_millis(10), sessions, Duration::from_millis(30))
        .until_count(count);
    let terms = Terms {
        patience,
        shape: Shape::default(),
        ssid: None,
        coalesce: Interval::ZERO,
        give_up_on_silence: true,
        first_sequence: 0,
    };
    let recording = Recording { bin: Duration::from_secs(1), zone: "UTC".into(), salt: None };
    let keys: Vec<_> = specs.iter().map(|spec| spec.source).collect();
    let mut kept = Kept::default();
    let mut recorder = Recorder::new(&specs, &keys, patience, recording, &mut kept);
    let mut engine = Engine::new(Simulation::new(nature), &specs, &plan, schedule, terms);
    let end = engine.run(&mut recorder).expect("a simulation has no failing system calls");
    recorder.close();
    let (row, groups, _) = recorder.rows(engine.matching());
    assert_eq!(groups.iter().map(|group| group.row.counts.sent).sum::<u64>(), row.counts.sent);
    let counts = row.counts;
    let one_way = recorder.one_way();
    Played { one_way, row, counts, kept, world: engine.into_world(), end }
}

impl Played {
    fn fates(&self, fate: Fate) -> u64 {
        self.world.fates.values().filter(|known| **known == fate).count() as u64
    }

    fn fate(&self, sample: &pathlab_record::Sample) -> Fate {
        let source: SocketAddr = sample.session.parse().unwrap();
        self.world.fates[&(source.ip(), sample.seq)]
    }

    /// Every slot, packet and bin adds up, whatever happened.
    fn check_accounts(&self, sessions: usize, count: u64) {
        let (counts, schedule) = (&self.counts, &self.row.schedule);
        assert_eq!(schedule.slots, sessions as u64 * count);
        assert_eq!(schedule.slots, schedule.sent + schedule.skipped + schedule.refused);
        assert_eq!(schedule.sent, counts.sent);
        assert_eq!(counts.sent, counts.received + counts.late + counts.lost());
        let mut seen = HashMap::new();
        for sample in self.kept.samples.iter().filter(|sample| sample.outcome != Outcome::Duplicate) {
            *seen.entry((sample.session.clone(), sample.seq)).or_insert(0) += 1;
        }
        assert_eq!(seen.len() as u64, counts.sent);
        assert!(seen.values().all(|&times| times == 1), "each packet is settled once");
        let sum = |of: fn(&pathlab_record::SessionBin) -> u64| self.kept.bins.iter().map(of).sum::<u64>();
        assert_eq!(sum(|bin| bin.sent), counts.sent);
        assert_eq!(sum(|bin| bin.received), counts.received);
        assert_eq!(sum(|bin| bin.late), counts.late);
        assert_eq!(sum(|bin| bin.lost), counts.lost() + counts.late);
        let logged = |wanted: &str| {
            let of = self.kept.intervals.iter().filter(|(log, _)| log == wanted);
            of.map(|(_, interval)| interval.histogram.count()).sum::<u64>()
        };
        assert_eq!((logged("rtt"), logged("lateness")), (counts.received, counts.sent));
        let pairs = |of: &Option<Quantiles>| of.map_or(0, |of| of.count);
        assert_eq!(logged("ipdv_forward"), pairs(&self.row.ipdv_forward));
        assert_eq!(logged("ipdv_return"), pairs(&self.row.ipdv_return));
        for (part, quantiles) in &self.row.split.parts {
            assert_eq!(logged(&part.replace('+', "-")), quantiles.count, "{part}");
        }
        let mut bins = std::collections::HashSet::new();
        for bin in &self.kept.bins {
            bin.check().expect("a bin that does not contradict itself");
            assert!(bins.insert((bin.session.clone(), bin.start)), "one line a session and bin");
        }
    }
}
