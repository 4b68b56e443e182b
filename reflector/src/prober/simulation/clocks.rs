//! What a run states of the wire is true within its uncertainty, whatever the clocks of both hosts do meanwhile.

use pathlab_record::{Planes, Sample, Stamp};
use pathlab_xdp::NicClock;

use super::{
    hosts::{BEGIN, Card, Clock, Host, Truth, TwoHosts},
    *,
};
use crate::prober::packet::Question;

/// Seconds of a run.
const LENGTH: i64 = 12;

/// Which clocks are set during a run.
#[derive(Clone, Copy, Debug)]
struct Set {
    system: [usize; 2],
    card: [usize; 2],
    cards: bool,
    /// Between two packets.
    interval: i64,
    /// The first instant of a step.
    from: i64,
    /// The thread that compares the reflector's clocks gets no processor after this.
    starved: i64,
}

impl Default for Set {
    fn default() -> Self {
        Self { system: [0; 2], card: [0; 2], cards: false, interval: 10 * MS, from: 0, starved: i64::MAX }
    }
}

struct Run {
    row: Row,
    samples: Vec<Sample>,
    truth: Vec<Truth>,
    hosts: [Host; 2],
    steps: crate::clock::Steps,
}

fn run(seed: u64, set: Set) -> Run {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut clock = |steps: usize, ppm: f64| {
        let step = |dice: &mut ChaCha8Rng| {
            // 1 µs to a second, every decade as often
            let by = 10_f64.powf(dice.random_range(3.0..9.0)) as i64;
            (dice.random_range(set.from..LENGTH * 1000 * MS), if dice.random() { by } else { -by })
        };
        let steps = (0..steps).map(|_| step(&mut dice)).collect();
        Clock { offset: dice.random_range(-5_000 * MS..5_000 * MS), ppm: dice.random_range(-1.0..=1.0) * ppm, steps }
    };
    let hosts = [0, 1].map(|host| {
        let system = clock(set.system[host], 0.0);
        let card = set
            .cards
            .then(|| Card::new(clock(set.card[host], 100.0), seed * 2 + host as u64, [i64::MAX, set.starved][host]));
        Host { system, card }
    });
    let specs = specs(1);
    let patience = Patience {
        timeout: Duration::from_millis(200),
        stamp: Duration::from_millis(20),
        nic: set.cards,
        follow_up: Duration::from_nanos((set.interval + 100 * MS) as u64),
        confirm: Duration::from_secs(2),
    };
    let schedule = Schedule::new(
        Time::from_nanos(BEGIN + MS),
        Duration::from_nanos(set.interval as u64),
        1,
        Duration::from_millis(30),
    )
    .until_count(((LENGTH * 1000 * MS - BEGIN) / set.interval) as u64);
    let terms = Terms {
        patience,
        shape: Shape { questions: vec![Question::Stages], ..Shape::default() },
        ssid: None,
        coalesce: Interval::ZERO,
        give_up_on_silence: true,
        first_sequence: 0,
    };
    let recording = Recording { bin: Duration::from_secs(1), zone: "UTC".into(), salt: None };
    let mut kept = Kept::default();
    let mut recorder = Recorder::new(&specs, &[specs[0].source], patience, recording, &mut kept);
    let nic_clock = hosts[0].card.clone().map(|card| card as std::sync::Arc<dyn NicClock>);
    let world = TwoHosts::new(hosts, seed, &specs[0]);
    let mut engine = Engine::new(world, &specs, &SocketPlan::new(&specs), schedule, terms).with_nic_clock(nic_clock);
    assert_eq!(engine.run(&mut recorder).expect("no failing system calls"), End::Done);
    recorder.close();
    let (row, ..) = recorder.rows(engine.matching());
    let steps = engine.steps();
    let TwoHosts { truth, hosts, .. } = engine.into_world();
    Run { row, samples: kept.samples, truth, hosts, steps }
}

/// What came of many runs.
#[derive(Debug, Default)]
struct Sum {
    samples: u64,
    /// The wire stands alone.
    told: u64,
    /// Bounded by the cards of both hosts.
    by_cards: u64,
    wrong: u64,
    widest: u64,
    first: Option<String>,
}

impl Sum {
    fn add(&mut self, seed: u64, run: &Run) {
        for sample in &run.samples {
            let Some(ledger) = &sample.ledger else { continue };
            self.samples += 1;
            let Some(wire) = ledger.wire() else { continue };
            self.told += 1;
            let truth = &run.truth[sample.seq as usize];
            let stamps = &sample.stamps;
            let near = outermost(&stamps.a4, &stamps.a1, 2).expect("the wire stands alone");
            let far = outermost(&stamps.b3, &stamps.b2, 3).expect("the wire stands alone");
            let away = truth.a4[near.0] - truth.a1[near.1];
            let there = truth.b3[far.0] - truth.b2[far.1];
            let off = (wire.as_nanos() - (away - there)).unsigned_abs();
            self.by_cards += u64::from((near, far) == ((0, 0), (0, 0)));
            self.widest = self.widest.max(ledger.uncertainty);
            if off > ledger.uncertainty {
                self.wrong += 1;
                self.first.get_or_insert_with(|| {
                    format!(
                        "seed {seed}, packet {}: off by {off}, stated {}; {truth:?} {sample:?} {:?}",
                        sample.seq,
                        ledger.uncertainty,
                        run.hosts.each_ref().map(|host| (&host.system, host.card.as_ref().map(|card| &card.clock)))
                    )
                });
            }
        }
    }
}

/// The places among card, kernel and user space of the two outermost stamps on one clock.
fn outermost(later: &Planes, earlier: &Planes, planes: usize) -> Option<(usize, usize)> {
    let all = |of: &Planes| -> Vec<Option<Stamp>> { vec![of.nic, of.kernel, of.app][..planes].to_vec() };
    let (later, earlier) = (all(later), all(earlier));
    (0..planes).find_map(|place| {
        let clock = later[place]?.clock();
        let other = (0..planes).find(|other| earlier[*other].is_some_and(|stamp| stamp.clock() == clock))?;
        Some((place, other))
    })
}

fn runs(seeds: std::ops::Range<u64>, set: Set) -> (Sum, Counts) {
    let (mut sum, mut counts) = (Sum::default(), Counts::default());
    for seed in seeds {
        let run = run(seed, set);
        sum.add(seed, &run);
        counts.add(&run.row.counts);
        assert_eq!(run.row.counts.sent, run.row.counts.received, "nothing is lost, nothing late, whatever was set");
        assert_eq!(run.row.rtt.map_or(0, |rtt| rtt.count), run.row.counts.received - run.row.counts.clock_steps);
        assert!(run.steps.system <= set.system[0] as u64);
    }
    println!("{set:?}: {sum:?} {counts:?}");
    (sum, counts)
}

const SEEDS: u64 = 16;

#[test]
fn without_steps_the_cards_of_both_hosts_bound_the_wire_and_it_is_true() {
    let (sum, counts) = runs(0..SEEDS, Set { cards: true, ..Set::default() });
    assert_eq!((sum.wrong, &sum.first), (0, &None));
    assert_eq!(counts.nic_void + counts.nic_unconfirmed + counts.clock_steps, 0);
    assert!(sum.by_cards * 100 > sum.samples * 95, "{sum:?}");
}

#[test]
fn whatever_is_set_at_the_probe_the_wire_is_true() {
    let (sum, counts) = runs(1000..1000 + SEEDS, Set { cards: true, system: [2, 0], card: [2, 0], ..Set::default() });
    assert!(sum.wrong * 1000 <= sum.told, "{sum:?}");
    assert!(counts.nic_void > 0 && counts.clock_steps > 0, "{counts:?}");
    assert!(sum.by_cards * 2 > sum.samples, "{sum:?}");
}

#[test]
fn whatever_is_set_at_either_host_the_wire_is_true() {
    let (sum, counts) = runs(3000..3000 + SEEDS, Set { cards: true, system: [1, 1], card: [1, 1], ..Set::default() });
    assert!(sum.wrong * 1000 <= sum.told, "{sum:?}");
    assert!(counts.nic_void > 0 && counts.reflector_nic_void > 0, "{counts:?}");
    assert!(sum.by_cards * 2 > sum.samples, "{sum:?}");
}

#[test]
fn without_cards_only_packets_that_were_away_during_a_step_are_spoilt() {
    let (sum, counts) = runs(2000..2000 + SEEDS, Set { system: [5, 0], ..Set::default() });
    assert_eq!((sum.wrong, &sum.first), (0, &None));
    assert!((1..SEEDS * 5 * 8).contains(&counts.clock_steps), "{counts:?}");
    assert_eq!(sum.samples, counts.received - counts.clock_steps);
    assert_eq!(sum.told, sum.samples);
}

/// Nobody is left to take back what the reflector's card stamped in the last half second: it is left out.
#[test]
fn a_step_in_the_last_half_second_spoils_nothing() {
    let from = LENGTH * 1000 * MS - 500 * MS;
    let (sum, counts) = runs(4000..4000 + SEEDS, Set { cards: true, card: [0, 1], from, ..Set::default() });
    assert_eq!((sum.wrong, &sum.first), (0, &None));
    assert!(counts.reflector_nic_unconfirmed > 0, "{counts:?}");
    assert!(sum.by_cards * 100 > sum.samples * 90, "{sum:?}");
}

/// A reflector whose thread of clocks starves has nothing to confirm its card with, and never learns of the step.
#[test]
fn a_reflector_that_does_not_look_is_not_believed() {
    let (starved, from) = (6_000 * MS, 6_100 * MS);
    let (sum, counts) = runs(5000..5000 + SEEDS, Set { cards: true, card: [0, 1], starved, from, ..Set::default() });
    assert_eq!((sum.wrong, &sum.first), (0, &None));
    // Beyond that its stamps are not told in UTC at all.
    assert!(counts.reflector_nic_unconfirmed * 10 > counts.received, "{counts:?}");
    assert!(sum.by_cards > 0, "{sum:?}");
}

/// The Error Estimate falls back for two seconds alone, which no packet may meet.
#[test]
fn packets_that_are_two_seconds_apart_hear_of_a_step() {
    for interval in [1_900 * MS, 2_000 * MS, 2_100 * MS] {
        let (sum, counts) = runs(6000..6000 + 4 * SEEDS, Set { cards: true, card: [0, 1], interval, ..Set::default() });
        assert_eq!((sum.wrong, &sum.first), (0, &None));
        assert!(counts.reflector_nic_void > 0 && sum.by_cards > 0, "{counts:?} {sum:?}");
    }
}
