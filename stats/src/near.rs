//! Quantiles of some thousand resamples of a million sessions: only what lies near the quantile is walked, eight replicates at a time.
//!
//! A resample moves a quantile by little: of `n` sessions, the mass above a value moves by about `√(q/n)` where `q` lies above. So a survey says
//! between which two values a level can come to lie (six standard deviations), and what lies outside is kept as one sum for each unit:
//!
//! ```text
//!   sum of each unit │ values of p99's window │ sum of each unit │ values of p95's window │ left out
//!   ◄──────────────── descending ────────────────────────────────────────────────────────►
//! ```
//!
//! Where a replicate's quantile comes to lie outside after all, it is taken from all values ([`Pool`]): the answer is always the exact one.

use std::{cmp::Reverse, ops::Range, sync::OnceLock};

use crate::{
    Level, Pool,
    masses::Masses,
    quantile::{DEAD, PoolBuilder, SESSION, as_number, share},
};

/// Replicates that are walked at once.
pub const LANES: usize = 8;

/// Standard deviations by which a window is wider than its quantile.
const REACH: f64 = 6.0;
/// Entries between looks at who is done.
const STRIDE: usize = 64;

/// The sessions of one stratum, told as often as they are asked for, always the same ones.
pub trait Sessions: Sync {
    /// Number of units, whether they have a session or not.
    fn units(&self) -> usize;
    /// Tells every session.
    fn tell(&self, to: &mut impl Listener);
}

/// Who is told of sessions.
pub trait Listener {
    /// A session of `unit` as (value, count) pairs, ascending; one without a single packet is nothing.
    fn session(&mut self, unit: usize, values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone);
    /// A session of `unit` that never heard back.
    fn dead(&mut self, unit: usize);
}

impl Listener for PoolBuilder {
    fn session(&mut self, unit: usize, values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone) {
        self.add(unit, values);
    }

    fn dead(&mut self, unit: usize) {
        self.add_dead(unit);
    }
}

/// The sessions near some quantiles.
#[derive(Debug)]
pub struct Near<S> {
    sessions: S,
    /// Sessions of each unit.
    counts: Vec<u32>,
    levels: Vec<Level>,
    /// Descending; a window's upper end stands for all that lies between it and the window above. Where nothing is cut off above, that end
    /// is the value of the dead, who are then within.
    values: Vec<u64>,
    entries: Vec<Entry>,
    windows: Vec<Range<u64>>,
    /// All sessions, once a replicate asked for a value outside the windows.
    whole: OnceLock<Pool>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    unit: u32,
    mass: u32,
}

impl<S: Sessions> Near<S> {
    /// Near these levels, which must descend, when unit `u` counts about `weights[u]` times and is on the arm that `canary[u]` says: what is
    /// asked for later must be about one of these arms, or a like share of both.
    pub fn new(sessions: S, levels: &[Level], weights: &[u32], canary: &[bool]) -> Self {
        debug_assert!(levels.is_sorted_by(|a, b| a > b));
        let counts = vec![0; sessions.units()];
        let mut survey = Survey { counts, weights, canary, arms: Default::default() };
        sessions.tell(&mut survey);
        let windows = survey.windows(levels);
        let counts = survey.counts;
        let mut kept = Kept { windows: &windows, entries: Vec::new() };
        sessions.tell(&mut kept);
        let mut all = kept.entries;
        all.sort_unstable_by_key(|(value, _)| Reverse(*value));
        let (values, entries) = all.into_iter().unzip();
        Self { sessions, counts, levels: levels.to_vec(), values, entries, windows, whole: OnceLock::new() }
    }

    /// Sessions of each unit.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// The levels, in order.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The quantile of each level and lane, where unit `u` counts `weights[u][lane]` times in a lane; no number where no session has weight.
    ///
    /// # Panics
    /// When `out` is not as long as there are levels.
    pub fn quantiles(&self, weights: &[[u32; LANES]], out: &mut [[f64; LANES]]) {
        if !self.walk(weights, out) {
            let whole = self.whole.get_or_init(|| {
                let mut pool = Pool::new(self.sessions.units());
                self.sessions.tell(&mut pool);
                pool.sorted()
            });
            let mut one = vec![f64::NAN; self.levels.len()];
            for lane in 0..LANES {
                let of_lane: Vec<u32> = weights.iter().map(|weights| weights[lane]).collect();
                one.fill(f64::NAN);
                whole.quantiles(&self.levels, &of_lane, &mut one);
                out.iter_mut().zip(&one).for_each(|(out, one)| out[lane] = *one);
            }
        }
    }

    /// `false` where a quantile lies outside the windows.
    fn walk(&self, weights: &[[u32; LANES]], out: &mut [[f64; LANES]]) -> bool {
        assert_eq!(out.len(), self.levels.len(), "one row of quantiles a level");
        let mut totals = [0_u64; LANES];
        for (&sessions, weights) in self.counts.iter().zip(weights) {
            (0..LANES).for_each(|lane| totals[lane] += u64::from(sessions) * u64::from(weights[lane]));
        }
        out.fill([f64::NAN; LANES]);
        // What may lie above the level that a lane looks for next; a lane that is done looks for nothing.
        let allowed = |place: usize, lane: usize| {
            let total = totals[lane] * u64::from(SESSION);
            self.levels.get(place).filter(|_| total > 0).map_or(u64::MAX, |level| level.mass_above(total))
        };
        let mut next = [0_usize; LANES];
        let mut limits: [u64; LANES] = std::array::from_fn(|lane| allowed(0, lane));
        let mut above = [0_u64; LANES];
        for (entries, values) in self.entries.chunks(STRIDE).zip(self.values.chunks(STRIDE)) {
            if limits == [u64::MAX; LANES] {
                break;
            }
            let before = above;
            for entry in entries {
                let (mass, weights) = (u64::from(entry.mass), &weights[entry.unit as usize]);
                (0..LANES).for_each(|lane| above[lane] += mass * u64::from(weights[lane]));
            }
            for lane in 0..LANES {
                if above[lane] <= limits[lane] {
                    continue;
                }
                let mut sum = before[lane];
                for (entry, value) in entries.iter().zip(values) {
                    sum += u64::from(entry.mass) * u64::from(weights[entry.unit as usize][lane]);
                    while sum > limits[lane] {
                        if *value != DEAD && self.windows.iter().any(|window| window.end == *value) {
                            return false;
                        }
                        out[next[lane]][lane] = as_number(*value);
                        next[lane] += 1;
                        limits[lane] = allowed(next[lane], lane);
                    }
                }
            }
        }
        limits == [u64::MAX; LANES]
    }
}

/// Where the quantiles lie.
struct Survey<'a> {
    counts: Vec<u32>,
    weights: &'a [u32],
    canary: &'a [bool],
    arms: [Masses; 2],
}

impl Listener for Survey<'_> {
    fn session(&mut self, unit: usize, values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone) {
        let weight = u64::from(self.weights[unit]);
        let arm = &mut self.arms[usize::from(self.canary[unit])];
        self.counts[unit] += u32::from(descend(values, |value, mass| {
            if weight > 0 && mass > 0 {
                arm.add(value, u64::from(mass) * weight);
            }
            true
        }));
    }

    fn dead(&mut self, unit: usize) {
        self.counts[unit] += 1;
        let weight = u64::from(self.weights[unit]);
        if weight > 0 {
            self.arms[usize::from(self.canary[unit])].add(DEAD, u64::from(SESSION) * weight);
        }
    }
}

impl Survey<'_> {
    /// The windows of the levels, descending, each with its upper end left out; those that meet are one.
    fn windows(&self, levels: &[Level]) -> Vec<Range<u64>> {
        let arms: Vec<Vec<(u64, u64)>> =
            self.arms.iter().map(Masses::ascending).filter(|masses| !masses.is_empty()).collect();
        let n = self.effective();
        let mut windows: Vec<Range<u64>> = Vec::new();
        for level in levels {
            let q = 1.0 - level.fraction();
            let least = q - REACH * (q / n).sqrt();
            let most = q + REACH * REACH / (2.0 * n) + REACH * (q / n + REACH * REACH / (4.0 * n * n)).sqrt();
            let edges = arms.iter().map(|masses| edges(masses, least, most));
            let edges = edges.reduce(|one, other| one.start.min(other.start)..one.end.max(other.end));
            let Some(edges) = edges else { continue };
            match windows.last_mut() {
                Some(last) if edges.end >= last.start => *last = last.start.min(edges.start)..last.end,
                _ => windows.push(edges),
            }
        }
        windows
    }

    /// How many sessions of like weight the smaller arm is worth.
    fn effective(&self) -> f64 {
        let mut sums = [(0.0, 0.0); 2];
        for ((&count, &weight), &canary) in self.counts.iter().zip(self.weights).zip(self.canary) {
            let worth = f64::from(count) * f64::from(weight);
            let (first, second) = &mut sums[usize::from(canary)];
            *first += worth;
            *second += worth * worth;
        }
        let worth = sums.iter().filter(|(_, second)| *second > 0.0).map(|(first, second)| first * first / second);
        worth.fold(f64::INFINITY, f64::min)
    }
}

/// The values above which shares `most` and `least` of the mass lie: the first within, the second without.
fn edges(ascending: &[(u64, u64)], least: f64, most: f64) -> Range<u64> {
    let total: f64 = ascending.iter().map(|(_, mass)| *mass as f64).sum();
    let (mut above, mut low, mut high) = (0.0, 0, DEAD);
    for (value, mass) in ascending.iter().rev() {
        above += *mass as f64;
        if above <= least * total {
            high = *value;
        }
        if above >= most * total {
            low = *value;
            break;
        }
    }
    low..high
}

/// Keeps what lies in windows, and sums of what lies between.
struct Kept<'a> {
    windows: &'a [Range<u64>],
    entries: Vec<(u64, Entry)>,
}

impl Listener for Kept<'_> {
    fn session(&mut self, unit: usize, values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone) {
        let (windows, entries, unit) = (self.windows, &mut self.entries, unit as u32);
        let (mut place, mut sum) = (0, 0);
        descend(values, |value, mass| {
            while let Some(window) = windows.get(place).filter(|window| value < window.start) {
                flush(entries, window, unit, &mut sum);
                place += 1;
            }
            let Some(window) = windows.get(place) else { return false };
            if value >= window.end {
                sum += mass;
            } else {
                flush(entries, window, unit, &mut sum);
                entries.push((value, Entry { unit, mass }));
            }
            true
        });
        if let Some(window) = windows.get(place) {
            flush(entries, window, unit, &mut sum);
        }
    }

    fn dead(&mut self, unit: usize) {
        if let Some(window) = self.windows.first() {
            // Above every window, or, where none is cut off above, a value like others.
            self.entries.push((window.end, Entry { unit: unit as u32, mass: SESSION }));
        }
    }
}

fn flush(entries: &mut Vec<(u64, Entry)>, window: &Range<u64>, unit: u32, sum: &mut u32) {
    if *sum > 0 {
        entries.push((window.end, Entry { unit, mass: std::mem::take(sum) }));
    }
}

/// Gives the values of a session with their masses, descending, for as long as they are wanted; `false` where it has no packet.
fn descend(
    values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone,
    mut take: impl FnMut(u64, u32) -> bool,
) -> bool {
    let packets = values.clone().fold(0_u64, |sum, (_, packets)| sum.saturating_add(packets));
    if packets == 0 {
        return false;
    }
    let mut below = packets;
    let mut up_to = SESSION;
    for (value, count) in values.rev() {
        below = below.saturating_sub(count);
        let before = share(below, packets);
        if !take(value.min(DEAD - 1), up_to - before) {
            break;
        }
        up_to = before;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{generator, resample};

    /// Sessions as lists of values; an empty one is dead.
    #[derive(Clone, Debug)]
    struct Listed(Vec<Vec<u64>>);

    impl Sessions for Listed {
        fn units(&self) -> usize {
            self.0.len()
        }

        fn tell(&self, to: &mut impl Listener) {
            for (unit, values) in self.0.iter().enumerate() {
                match values.is_empty() {
                    true => to.dead(unit),
                    false => to.session(unit, values.iter().map(|value| (*value, 1))),
                }
            }
        }
    }

    fn lanes(weights: &[Vec<u32>]) -> Vec<[u32; LANES]> {
        (0..weights[0].len()).map(|unit| std::array::from_fn(|lane| weights[lane % weights.len()][unit])).collect()
    }

    const LEVELS: [Level; 3] = [Level::P99, Level::P95, Level::P50];

    /// What is near against all values: lane by lane, level by level.
    fn assert_exact(listed: &Listed, near: &Near<Listed>, weights: &[Vec<u32>]) {
        let mut pool = Pool::new(listed.units());
        listed.tell(&mut pool);
        let pool = pool.sorted();
        let mut out = vec![[0.0; LANES]; near.levels().len()];
        near.quantiles(&lanes(weights), &mut out);
        for (level, row) in near.levels().iter().zip(&out) {
            for (lane, got) in row.iter().enumerate() {
                let expected = pool.quantile(*level, &weights[lane % weights.len()]).unwrap_or(f64::NAN);
                assert!(expected == *got || expected.is_nan() && got.is_nan(), "{level} lane {lane}: {expected} {got}");
            }
        }
    }

    #[test]
    fn of_many_sessions_little_is_kept_and_resamples_are_exact() {
        let mut rng = generator(1, "near", 0);
        let draw = |rng: &mut crate::Generator| 2_048 + u64::from(rand::Rng::next_u32(rng)) % 100_000;
        let listed = Listed((0..6_000).map(|_| (0..10).map(|_| draw(&mut rng)).collect()).collect());
        let sorted = Listed(
            listed
                .0
                .into_iter()
                .map(|mut values| {
                    values.sort_unstable();
                    values
                })
                .collect(),
        );
        let near = Near::new(sorted.clone(), &LEVELS[..2], &[1; 6_000], &[false; 6_000]);
        assert_eq!(near.windows.len(), 2, "{:?}", near.windows);
        assert!(near.entries.len() < 60_000 / 8, "{}", near.entries.len());
        let units: Vec<u32> = (0..6_000).collect();
        let resampled: Vec<Vec<u32>> = (0..LANES)
            .map(|_| {
                let mut weights = vec![0; 6_000];
                resample(&mut rng, &units, &mut weights);
                weights
            })
            .collect();
        assert_exact(&sorted, &near, &resampled);
        assert!(near.whole.get().is_none(), "no replicate left the windows");
        // Weights that nobody expected are answered all the same.
        let skewed = (0..6_000).map(|unit| u32::from(sorted.0[unit][9] < 60_000)).collect();
        assert_exact(&sorted, &near, &[skewed]);
        assert!(near.whole.get().is_some());
    }

    proptest! {
        #[test]
        fn it_is_the_pool(
            sessions in prop::collection::vec((prop::collection::vec(0_u64..40, 0..6), 0_u32..3, any::<bool>()), 1..400),
            weights in prop::collection::vec(prop::collection::vec(0_u32..4, 400), 1..=LANES),
            first in 0_usize..3,
        ) {
            let mut listed = Listed(Vec::new());
            let (mut base, mut canary) = (Vec::new(), Vec::new());
            for (mut values, weight, arm) in sessions {
                values.sort_unstable();
                listed.0.push(values);
                base.push(weight);
                canary.push(arm);
            }
            let near = Near::new(listed.clone(), &LEVELS[first..], &base, &canary);
            let weights: Vec<Vec<u32>> = weights.into_iter().map(|all| all[..listed.units()].to_vec()).collect();
            assert_exact(&listed, &near, &weights);
        }
    }
}
