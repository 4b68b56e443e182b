//! The in-memory twin of the host: a network and a reflector under virtual time, which know the truth that the probe must find.

mod cards;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pathlab_record::{ClockId, Interval, Outcome, Realtime, Stamp, Term, Time};
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

    fn clock_quality(&mut self) -> ClockQuality {
        ClockQuality { synchronised: false, max_error: 1000, reading_cost: 0 }
    }

    fn send(&mut self, _: usize, to: SocketAddr, from: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId> {
        let nature = self.nature.clone();
        if self.dice.random_bool(nature.refuse) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let (request, _) = SenderPacket::parse(payload).expect("a test packet");
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
        match first.filter(|time| *time <= until.as_nanos()) {
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

#[test]
fn ten_thousand_packets_are_all_accounted_for() {
    let nature = Nature {
        spread: 25 * MS,
        lose_forward: 0.02,
        lose_return: 0.03,
        duplicate: 0.01,
        late: 0.01,
        stamp_after: 5 * MS,
        ..Nature::default()
    };
    let played = play(nature, 20, 500);
    played.check_accounts(20, 500);
    let counts = played.counts;
    assert_eq!(counts.sent, 10_000);
    assert_eq!(counts.received, played.fates(Fate::Answered));
    for sample in played.kept.samples.iter().filter(|sample| sample.outcome != Outcome::Duplicate) {
        let (fate, outcome) = (played.fate(sample), sample.outcome);
        let right = match fate {
            Fate::Answered => outcome == Outcome::Received,
            // The run ends one timeout after its last packet, and then late is lost.
            Fate::Late => outcome == Outcome::Late || outcome == Outcome::Lost && sample.seq >= 478,
            Fate::LostForward | Fate::LostReturn => outcome == Outcome::Lost,
        };
        assert!(right, "{fate:?} came out as {outcome:?}, packet {}", sample.seq);
    }
    assert_eq!(counts.lost_unknown, counts.lost(), "a stateless reflector says nothing of the direction");
    assert_eq!(counts.duplicates, played.world.duplicates);
    assert!(counts.reordered > 1000, "a spread of 25 ms reorders packets 10 ms apart: {}", counts.reordered);
    assert_eq!((counts.stale, counts.mismatched), (0, 0));
    assert_eq!(played.row.kernel_sent_coverage, 1.0);
    assert_eq!(played.end, End::Done);
}

#[test]
fn a_stamp_after_the_reply_is_waited_for_and_beyond_the_wait_gone_without() {
    for (stamp_after, coverage) in [(16 * MS, 1.0), (60 * MS, 0.0)] {
        let played = play(Nature { stamp_after, ..Nature::default() }, 2, 50);
        played.check_accounts(2, 50);
        assert_eq!(played.counts.received, 100);
        assert_eq!(played.row.kernel_sent_coverage, coverage);
        let merged = played.row.split.parts.contains_key("probe_tx+wire");
        assert_eq!(merged, coverage == 0.0, "{:?}", played.row.split.parts.keys());
    }
}

#[test]
fn a_stateful_reflector_tells_the_direction() {
    let nature = Nature { lose_forward: 0.03, lose_return: 0.03, stateful: true, ..Nature::default() };
    let played = play(nature, 20, 500);
    played.check_accounts(20, 500);
    let mut told = 0;
    for sample in &played.kept.samples {
        match sample.outcome {
            Outcome::LostForward => assert_eq!(played.fate(sample), Fate::LostForward),
            Outcome::LostReturn => assert_eq!(played.fate(sample), Fate::LostReturn),
            _ => continue,
        }
        told += 1;
    }
    let counts = played.counts;
    assert!(told * 10 > counts.lost() * 8, "{told} of {}", counts.lost());
    // Beyond what each packet shows, the numbers of a burst show how many: nearly all of both legs are accounted for.
    let forward = counts.lost_forward + counts.unknown_forward;
    let back = counts.lost_return + counts.unknown_return;
    assert!(forward <= played.fates(Fate::LostForward) && back <= played.fates(Fate::LostReturn));
    assert!((forward + back) * 10 > counts.lost() * 9, "{forward} and {back} of {}", counts.lost());
}

#[test]
fn a_delay_in_one_stage_moves_its_term_and_no_other() {
    type Stage = fn(&mut Nature) -> &mut i64;
    let stages: [(Stage, Term); 6] = [
        (|nature| &mut nature.wake_late, Term::SchedLate),
        (|nature| &mut nature.probe_tx, Term::ProbeTx),
        (|nature| &mut nature.forward, Term::Wire),
        (|nature| &mut nature.residence, Term::Residence),
        (|nature| &mut nature.back, Term::Wire),
        (|nature| &mut nature.probe_rx, Term::ProbeRx),
    ];
    // Replies come well before the next slot: a host that sleeps too long there would read them late, and rightly say so.
    let base = Nature { forward: MS, back: MS, ..Nature::default() };
    let medians = |nature: Nature| {
        let played = play(nature, 1, 200);
        Term::ALL.map(|term| played.row.split.parts[term.name()].p50 as i64)
    };
    let before = medians(base.clone());
    for (stage, moved) in stages {
        let mut nature = base.clone();
        *stage(&mut nature) += 5 * MS;
        let after = medians(nature);
        for ((term, before), after) in Term::ALL.into_iter().zip(before).zip(after) {
            let by = after - before;
            let expected = if term == moved { 5 * MS } else { 0 };
            assert!((by - expected).abs() < 20 * US, "{moved}: {term} moved by {by} ns");
        }
    }
}

#[test]
fn delays_one_way_are_bounded_without_synchronised_clocks() {
    let nature = Nature { spread: 5 * MS, probe_tx: 0, ..Nature::default() };
    let played = play(nature.clone(), 4, 500);
    let [host] = &played.one_way[..] else { panic!("one reflector: {:?}", played.one_way) };
    assert_eq!((host.forward.at_least.count, host.void), (2000, 0));
    for segment in &host.segments {
        // Seven seconds ahead, as `far` has it.
        assert!((segment.offset_least..=segment.offset_most).contains(&(7_000 * MS)), "{segment:?}");
        assert!(segment.offset_most - segment.offset_least <= nature.forward + nature.back + MS);
    }
    let within = |quantiles: super::OneWayQuantiles, least: i64, most: i64| {
        assert!(quantiles.at_least.max as i64 <= most && quantiles.at_most.min as i64 >= least, "{quantiles:?}");
    };
    within(host.forward, nature.forward, nature.forward + nature.spread);
    within(host.back, nature.back, nature.back + MS);
}

#[test]
fn silence_ends_the_run_early() {
    let played = play(Nature { lose_forward: 1.0, ..Nature::default() }, 2, 100_000);
    assert_eq!(played.end, End::Silence);
    assert!(played.counts.sent <= 2 * (TIMEOUT / (10 * MS) + 2) as u64, "{}", played.counts.sent);
    assert_eq!(played.counts.sent, played.counts.lost());
}

#[test]
fn delay_variation_is_that_of_consecutive_packets_each_way() {
    // Forward delays alternate in no way that the return sees: with a spread only forward, the return's variation is zero.
    let played = play(Nature { spread: 2 * MS, ..Nature::default() }, 1, 300);
    assert_eq!(played.row.ipdv_return.unwrap().max, 0);
    let forward = played.row.ipdv_forward.unwrap();
    assert_eq!(forward.count, 299);
    assert!(forward.max > MS as u64 && forward.max < 2_010_000, "{forward:?}");
    assert_eq!(played.row.ipdv_round_trip.unwrap().p95, forward.p95);

    // Each lost packet takes both of its pairs away.
    let lossy = play(Nature { lose_return: 0.1, ..Nature::default() }, 1, 300);
    let received: std::collections::HashSet<u32> = lossy
        .kept
        .samples
        .iter()
        .filter(|sample| sample.outcome == Outcome::Received)
        .map(|sample| sample.seq)
        .collect();
    let pairs = received.iter().filter(|seq| received.contains(&(*seq + 1))).count() as u64;
    assert_eq!(lossy.row.ipdv_round_trip.unwrap().count, pairs);
}

#[test]
fn a_stalled_host_skips_what_would_burst_and_says_so() {
    let played = play(Nature { stall: 80 * MS, ..Nature::default() }, 4, 400);
    played.check_accounts(4, 400);
    assert!(played.row.schedule.skipped > 0);
    let lateness = played.row.schedule.lateness.unwrap();
    assert!(lateness.max <= 31 * MS as u64, "what is sent is at most 30 ms late: {lateness:?}");
    assert!(played.kept.samples.iter().all(|sample| sample.ledger.is_some()));
}

#[test]
fn a_reply_waits_for_what_the_next_tells_of_it_and_then_goes_without() {
    let patience = Patience {
        timeout: Duration::from_millis(200),
        stamp: Duration::ZERO,
        nic: false,
        follow_up: Duration::from_millis(30),
    };
    let begun = Simulation::new(Nature::default()).now();
    let stamp = |nanos: i64| Some(pathlab_record::Stamp::from(begun.realtime + Interval::from_nanos(nanos)));
    let planes = pathlab_record::Planes::default();
    let b3 = pathlab_record::Planes { app: stamp(10), ..planes };
    let inside = super::Inside { b2: pathlab_record::Planes { app: stamp(5), ..planes }, b3 };
    let tells = |seq| super::FollowUp {
        reply: super::Earlier::Ours(seq),
        stamps: pathlab_record::Planes { kernel: stamp(12), ..planes },
    };
    let reply = |seq| super::Reply {
        seq,
        reflector_seq: seq,
        echo: 6,
        b2: stamp(5),
        b3: stamp(10),
        synchronised: None,
        a4_kernel: None,
        a4_nic: None,
        a4_app: begun.realtime,
    };
    let mut matching = super::Matching::new(2, patience);
    for session in [0, 1] {
        for _ in 0..3 {
            matching.sent(session, begun.monotonic, departure(begun), 6);
        }
    }
    // Session 0 tells of each reply with the next, and nobody of the last.
    let mut sink = Vec::new();
    assert!(matching.reply_inside(0, begun.monotonic, reply(0), Some(inside), None, &mut sink));
    assert_eq!(sink.len(), 0, "it waits");
    for seq in [1, 2] {
        assert!(matching.reply_inside(0, begun.monotonic, reply(seq), Some(inside), Some(tells(seq - 1)), &mut sink));
        assert_eq!(sink.len() as u32, seq);
        let (_, settled) = sink.last().expect("settled");
        assert_eq!((settled.seq, settled.stamps.b3.kernel), (seq - 1, stamp(12)));
    }
    matching.expire(begun.monotonic + Interval::from_nanos(29 * MS), &mut sink);
    assert_eq!(sink.len(), 2, "it waits still");
    matching.expire(begun.monotonic + Interval::from_nanos(30 * MS), &mut sink);
    let (_, last) = sink.last().expect("settled");
    assert_eq!((sink.len(), last.seq, last.stamps.b3), (3, 2, b3), "without");
    assert_eq!((matching.counts(0).followed_up, matching.counts(0).received), (2, 3));

    // Session 1 tells nothing: by its second reply nobody waits any more.
    let mut sink = Vec::new();
    for (seq, settled) in [(0, 0), (1, 2), (2, 3)] {
        assert!(matching.reply_inside(1, begun.monotonic, reply(seq), Some(inside), None, &mut sink));
        assert_eq!(sink.len(), settled);
    }
    assert_eq!(matching.counts(1).followed_up, 0);
}

#[test]
fn a_reply_that_fits_nothing_is_counted_and_changes_nothing() {
    let patience =
        Patience { timeout: Duration::from_millis(200), stamp: Duration::ZERO, nic: false, follow_up: Duration::ZERO };
    let mut matching = super::Matching::new(1, patience);
    let now = Simulation::new(Nature::default()).now();
    let mut sink = Vec::new();
    let reply = super::Reply {
        seq: 0,
        reflector_seq: 0,
        echo: 5,
        b2: None,
        b3: None,
        synchronised: None,
        a4_kernel: None,
        a4_nic: None,
        a4_app: now.realtime,
    };
    assert!(!matching.reply(0, now.monotonic, reply, &mut sink), "nothing was sent");
    let departure = departure(now);
    matching.sent(0, now.monotonic, departure, 6);
    assert!(!matching.reply(0, now.monotonic, reply, &mut sink), "the timestamp is not what was sent");
    for _ in 0..3 {
        assert!(matching.reply(0, now.monotonic, super::Reply { echo: 6, ..reply }, &mut sink));
    }
    let counts = matching.counts(0);
    assert_eq!((counts.stale, counts.mismatched, counts.received, counts.duplicates), (1, 1, 1, 2));
    assert_eq!(sink.len(), 2, "one sample for the packet, one for all its duplicates");
}

fn departure(now: Now) -> super::Departure {
    super::Departure {
        a0: now.realtime,
        a1_app: now.realtime,
        a1_sched: None,
        a1_kernel: None,
        a1_nic: None,
        uncertainty: 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_the_accounts_close(
        sessions in 1usize..9, count in 1u64..60, seed: u64, stateful: bool,
        shares in prop::array::uniform5(0.0..0.5f64),
        (spread, stall, stamp_after) in (0..400 * MS, 0..200 * MS, 0..100 * MS),
    ) {
        let [lose_forward, lose_return, duplicate, late, refuse] = shares;
        let nature = Nature {
            lose_forward, lose_return, duplicate, late, refuse, spread, stall, stamp_after, stateful, seed,
            ..Nature::default()
        };
        let played = play(nature, sessions, count);
        if played.end == End::Done {
            played.check_accounts(sessions, count);
        }
        let rtt = played.row.rtt.map_or(0, |rtt| rtt.count);
        prop_assert_eq!(rtt, played.counts.received);
        let lateness = played.row.schedule.lateness.map_or(0, |late| late.count);
        prop_assert_eq!(lateness, played.counts.sent);
        let pairs = played.row.ipdv_round_trip.map_or(0, |pairs| pairs.count);
        prop_assert!(pairs <= played.counts.received);
        for ledger in played.kept.samples.iter().filter_map(|sample| sample.ledger.as_ref()) {
            prop_assert!(ledger.total() >= Interval::ZERO);
        }
    }
}
