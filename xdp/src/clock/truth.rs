//! Made-up clocks whose truth is known: what is stated covers it for every stamp that is not void, and is not much wider than it must be.
//!
//! The fixture is a card's clock that is up to seconds off and up to 100 ppm fast or slow, whose rate wanders as far as [`Wander`] lets
//! it, and a bus that takes its time. Its cross-stamps are the kernel's structures, as the `ioctl`s would fill them.
//!
//! *What the fixture allows* for a stamp: the narrowest bound that any one cross-stamp before it permits to somebody who must take the
//! error of each reading for anything within its half-width. From a cross-stamp *i*, a distance *d* back, of half-width *hᵢ*, that is
//! `hᵢ + (r + jump) · d + per_second · d² / 2`, where *r*, the least error of a rate out of two readings of the narrowest half-width *h*,
//! is the minimum over the spans *T* that there were of `(2h + jump · T + per_second · T² / 2) / T`.

use pathlab_record::{Reading, Realtime, Time};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    CrossStamp, Observation, Track, Vouch, Wander,
    cross_stamp::{PRECISE_HALF_WIDTH, SAMPLES, from_basic, from_extended, from_precise},
    tracker::ATTEMPTS,
};

const UTC: i64 = 1_792_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;
const CASES: u64 = 2000;
/// How much wider than the fixture allows.
const FACTOR: f64 = 4.0;
/// The grid on which the card's rate changes.
const GRAIN: i64 = 10_000_000;

/// How the bus delays the two readings around the card's, in nanoseconds.
#[derive(Clone, Copy, Debug)]
enum Bus {
    /// Both alike: a least delay and an exponential on top; one in `outliers` takes a hundred times as long.
    Noisy { least: f64, mean: f64, outliers: u32 },
    /// All of the delay on one side, the same every time: nothing narrows it.
    OneSided { delay: i64, before: bool },
    /// The hardware latches both, off by up to what is stated for it.
    Precise,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Card(i64),
    System(i64),
    /// A leap second: the system goes back by one.
    Leap,
}

struct World {
    rng: ChaCha8Rng,
    wander: Wander,
    bus: Bus,
    basic: bool,
    /// True time since the start, in nanoseconds; MONOTONIC shows it.
    now: i64,
    /// The card's clock: whole nanoseconds and the rest.
    card: (i64, f64),
    rate: f64,
    slope: f64,
    hop: f64,
    system: i64,
    steps: Vec<(i64, Step)>,
}

impl World {
    fn new(seed: u64, steps: usize, seconds: i64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bus = match rng.random_range(0..4) {
            0 => Bus::OneSided { delay: rng.random_range(20..5000), before: rng.random() },
            1 => Bus::Precise,
            _ => Bus::Noisy {
                least: rng.random_range(50.0..2000.0),
                mean: rng.random_range(1.0..1000.0),
                outliers: rng.random_range(2..100),
            },
        };
        let mut moments: Vec<i64> = (0..steps).map(|_| rng.random_range(0..seconds * SECOND)).collect();
        moments.sort_unstable();
        // two within one span between cross-stamps may cancel out, and nobody could tell
        moments.dedup_by(|later, earlier| *later - *earlier < SECOND);
        let steps = moments.into_iter().map(|at| (at, any_step(&mut rng))).collect();
        Self {
            bus,
            basic: rng.random(),
            wander: Wander::default(),
            now: 0,
            card: (UTC + rng.random_range(-5 * SECOND..5 * SECOND) + rng.random_range(0..2) * 37 * SECOND, 0.0),
            rate: rng.random_range(-100e-6..100e-6),
            slope: 0.0,
            hop: 0.0,
            system: UTC,
            steps,
            rng,
        }
    }

    /// Lets time pass until `until`.
    fn advance(&mut self, until: i64) {
        while self.now < until {
            if self.now % GRAIN == 0 {
                // the rate hops within `jump` and drifts by at most `per_second`, a hair less for its being a rate of the other clock
                self.hop = self.wander.jump * self.rng.random_range(-0.49..0.49);
                if self.rng.random_ratio(1, 50) {
                    self.slope = self.wander.per_second * self.rng.random_range(-0.99..0.99);
                }
            }
            if let Some(&(at, step)) = self.steps.first()
                && at == self.now
            {
                self.steps.remove(0);
                match step {
                    Step::Card(by) => self.card.0 += by,
                    Step::System(by) => self.system += by,
                    Step::Leap => self.system -= SECOND,
                }
            }
            let next_step = self.steps.first().map_or(i64::MAX, |(at, _)| *at);
            let next = until.min(next_step).min((self.now / GRAIN + 1) * GRAIN);
            let span = next - self.now;
            let gained = (self.rate + self.hop) * span as f64 + self.card.1;
            self.card = (self.card.0 + span + gained.floor() as i64, gained - gained.floor());
            self.rate += self.slope * span as f64 / 1e9;
            self.now = next;
        }
    }

    fn realtime(&self) -> i64 {
        self.system + self.now
    }

    /// What the kernel answers, and what is read out of it.
    fn cross_stamp(&mut self) -> CrossStamp {
        let began = Time::from_nanos(self.now);
        let time = |nanos: i64| libc::ptp_clock_time {
            sec: nanos.div_euclid(SECOND),
            nsec: nanos.rem_euclid(SECOND) as u32,
            reserved: 0,
        };
        if matches!(self.bus, Bus::Precise) {
            let half_width = PRECISE_HALF_WIDTH as i64;
            let error = self.rng.random_range(-half_width..half_width);
            let (device, sys_realtime) = (time(self.card.0), time(self.realtime() + error));
            let answer = libc::ptp_sys_offset_precise { device, sys_realtime, sys_monoraw: time(1), rsv: [0; 4] };
            return from_precise(&answer, (began, began));
        }
        let mut extended = libc::ptp_sys_offset_extended {
            n_samples: SAMPLES as u32,
            clockid: 0,
            rsv: [0; 2],
            ts: [[time(0); 3]; SAMPLES],
        };
        let mut basic = libc::ptp_sys_offset { n_samples: SAMPLES as u32, rsv: [0; 3], ts: [time(0); 51] };
        for sample in 0..SAMPLES {
            let (before, after) = self.delays();
            let first = self.realtime();
            self.advance(self.now + before);
            let card = self.card.0;
            self.advance(self.now + after);
            let last = self.realtime();
            extended.ts[sample] = [first, card, last].map(time);
            if sample == 0 {
                basic.ts[0] = time(first);
            }
            basic.ts[2 * sample + 1] = time(card);
            basic.ts[2 * sample + 2] = time(last);
        }
        let span = (began, Time::from_nanos(self.now));
        let stamp = if self.basic { from_basic(&basic, span) } else { from_extended(&extended, span) };
        stamp.expect("the system's clock ran forwards in one sample of 25")
    }

    fn delays(&mut self) -> (i64, i64) {
        match self.bus {
            Bus::OneSided { delay, before } => {
                if before {
                    (delay, 0)
                } else {
                    (0, delay)
                }
            }
            Bus::Precise => (0, 0),
            Bus::Noisy { least, mean, outliers } => {
                let mut delay = || {
                    let delay = least - mean * (1.0 - self.rng.random::<f64>()).ln();
                    let factor = if self.rng.random_ratio(1, outliers) { 100.0 } else { 1.0 };
                    (delay * factor) as i64
                };
                (delay(), delay())
            }
        }
    }
}

fn any_step(rng: &mut impl Rng) -> Step {
    // 10 ns to 5 s, every decade as often
    let size = 10_f64.powf(rng.random_range(1.0..9.7)) as i64;
    let by = if rng.random() { size } else { -size };
    match rng.random_range(0..5) {
        0 | 1 => Step::Card(by),
        2 | 3 => Step::System(by),
        _ => Step::Leap,
    }
}

/// A stamp that was told, and what is true of it.
struct Told {
    at: i64,
    truth: i64,
    reading: Reading<Realtime>,
    allowed: f64,
}

/// Two stamps that are left on the card's own clock.
struct Pair {
    from: i64,
    to: i64,
    /// What the card gained on REALTIME in between.
    gained: i64,
}

/// What came of one case.
#[derive(Default)]
struct Outcome {
    stamps: usize,
    absent: usize,
    void: usize,
    pairs: usize,
    bounded: usize,
    wrong: Vec<String>,
    widest: f64,
    ratios: f64,
    measured: usize,
    restarts: u64,
}

impl Outcome {
    /// For those who run it with `--nocapture`.
    fn show(&self) {
        let Self { stamps, absent, void, pairs, bounded, widest, .. } = self;
        let average = self.ratios / self.measured as f64;
        println!(
            "{stamps} stamps, {absent} absent, {void} void; {widest:.2} of what is allowed at most, {average:.2} on average; \
             {bounded} of {pairs} pairs bounded",
        );
    }
}

impl Outcome {
    /// A pair after the next cross-stamps: what is said to bound its drift does.
    fn paired(&mut self, vouch: Vouch, pair: &Pair) {
        self.pairs += 1;
        let Vouch::True { drift: Some(drift) } = vouch else { return };
        self.bounded += 1;
        if pair.gained.unsigned_abs() > drift {
            self.wrong.push(format!("{} to {} ns: {} gained, bounded by {drift}", pair.from, pair.to, pair.gained));
        }
    }
}

impl World {
    fn allowed(&self, past: &[(i64, CrossStamp)], at: i64) -> f64 {
        let narrowest = past.iter().map(|(_, stamp)| stamp.half_width).min().expect("cross-stamps") as f64;
        let had = (at - past[0].0) as f64;
        let rate = (1..=64).map(|part| had * f64::from(part) / 64.0);
        let rate = rate.map(|span| (2.0 * narrowest + self.wander.over(span)) / span).fold(f64::INFINITY, f64::min);
        let bound = |(taken, stamp): &(i64, CrossStamp)| {
            let distance = (at - taken) as f64;
            stamp.half_width as f64 + rate * distance + self.wander.over(distance)
        };
        past.iter().map(bound).fold(f64::INFINITY, f64::min)
    }

    /// Plays the case: four cross-stamps a second, and stamps at any time, told at once and again after the next cross-stamp.
    fn play(mut self, seconds: i64) -> Outcome {
        let mut track = Track::new(self.wander);
        let mut outcome = Outcome::default();
        let mut told: Vec<Told> = Vec::new();
        let mut late: Vec<(i64, i64, i64, f64)> = Vec::new();
        let mut pairs: Vec<Pair> = Vec::new();
        // the cross-stamps since the last true step
        let mut past: Vec<(i64, CrossStamp)> = Vec::new();
        let mut known_since = None;
        while self.now < seconds * SECOND {
            let steps_left = self.steps.len();
            for _ in 0..ATTEMPTS {
                let stamp = self.cross_stamp();
                past.push((stamp.began.as_nanos(), stamp));
                if track.observe(stamp) != Observation::Wide {
                    break;
                }
            }
            for (at, card, truth, allowed) in late.drain(..) {
                if let Some(reading) = track.teller().tell(card) {
                    told.push(Told { at, truth, reading, allowed });
                }
            }
            for pair in pairs.drain(..) {
                outcome.paired(track.vouch(Time::from_nanos(pair.from), Time::from_nanos(pair.to)), &pair);
            }
            let pause = track.teller().due() + self.rng.random_range(0..5_000_000);
            let mut moments: Vec<i64> = (0..4).map(|_| self.now + self.rng.random_range(1..pause)).collect();
            moments.sort_unstable();
            let end = self.now + pause;
            for at in moments {
                self.advance(at);
                if self.steps.len() != steps_left {
                    // what an observer of one clock had before the step says nothing after it: the void is the test, not the width
                    past.clear();
                }
                let (card, truth) = (self.card.0, self.realtime());
                let allowed = if past.is_empty() { f64::INFINITY } else { self.allowed(&past, at) };
                outcome.stamps += 1;
                match track.teller().tell(card) {
                    Some(reading) => {
                        known_since.get_or_insert(at);
                        told.push(Told { at, truth, reading, allowed });
                    }
                    None => outcome.absent += 1,
                }
                if let Some((from, before, then, _)) = late.last() {
                    pairs.push(Pair { from: *from, to: at, gained: (card - before) - (truth - then) });
                }
                late.push((at, card, truth, allowed));
            }
            self.advance(end);
            if self.steps.len() != steps_left {
                past.clear();
            }
            past.retain(|(taken, _)| self.now - taken < 8 * SECOND);
        }
        // the last stamps want their test, too
        while track.observe(self.cross_stamp()) == Observation::Wide {}
        for Told { at, truth, reading, allowed } in told {
            match track.vouch(Time::from_nanos(at), Time::from_nanos(at)) {
                Vouch::True { .. } => {}
                Vouch::Void => {
                    outcome.void += 1;
                    continue;
                }
                Vouch::NotYet => panic!("{at} ns is before the last cross-stamp"),
            }
            let off = (reading.time.as_nanos() - truth).unsigned_abs();
            if off > reading.uncertainty {
                outcome.wrong.push(format!("{at} ns: off by {off}, stated {}", reading.uncertainty));
            }
            let ratio = reading.uncertainty as f64 / allowed;
            outcome.widest = outcome.widest.max(ratio);
            outcome.ratios += ratio;
            outcome.measured += usize::from(allowed.is_finite());
        }
        outcome.restarts = track.steps();
        assert!(known_since.is_some(), "never told a stamp");
        outcome
    }
}

/// Plays all cases with so many steps each, and returns their sums.
fn play_all(seeds: std::ops::Range<u64>, steps: usize, seconds: i64) -> Outcome {
    let mut sum = Outcome::default();
    for seed in seeds {
        let world = World::new(seed, steps, seconds);
        let case = format!("seed {seed}: {:?}, steps {:?}", world.bus, world.steps);
        let outcome = world.play(seconds);
        assert!(outcome.wrong.is_empty(), "{case}: {:?}", &outcome.wrong[..outcome.wrong.len().min(5)]);
        assert!(outcome.widest <= FACTOR, "{case}: {} times what the fixture allows", outcome.widest);
        sum.stamps += outcome.stamps;
        sum.absent += outcome.absent;
        sum.void += outcome.void;
        sum.pairs += outcome.pairs;
        sum.bounded += outcome.bounded;
        sum.widest = sum.widest.max(outcome.widest);
        sum.ratios += outcome.ratios;
        sum.measured += outcome.measured;
        sum.restarts += outcome.restarts;
    }
    sum
}

#[test]
fn without_steps_every_stamp_is_covered_and_none_is_void() {
    let sum = play_all(0..CASES, 0, 12);
    sum.show();
    assert_eq!((sum.restarts, sum.void), (0, 0));
    // all but those whose next cross-stamps were all too wide
    assert!(sum.bounded * 100 > sum.pairs * 99, "{} of {} pairs bounded", sum.bounded, sum.pairs);
    // the two seconds of getting to know each other, at the beginning of twelve; sampled the more densely then
    assert!(sum.absent * 2 < sum.stamps, "{} of {} absent", sum.absent, sum.stamps);
}

#[test]
fn whatever_steps_every_stamp_that_is_not_void_is_covered() {
    let sum = play_all(10_000..10_000 + CASES, 3, 12);
    sum.show();
    assert!(sum.void > 1000 && sum.restarts > CASES, "{} void, {} steps seen", sum.void, sum.restarts);
    assert!(sum.void * 5 < sum.stamps, "{} of {} void", sum.void, sum.stamps);
    assert!(sum.bounded * 10 > sum.pairs * 8, "{} of {} pairs bounded", sum.bounded, sum.pairs);
}
