//! Quantiles in which every session weighs the same, fast enough to be taken some thousand times over resampled weights.
//!
//! A session's packets share a mass of one; the p-quantile is the smallest value at which the sessions' summed distributions reach p. A dead
//! session has no round trip and counts as infinite, so that losing the worst sessions cannot improve a percentile (survivorship).
//!
//! All values are sorted once. A quantile for given session weights then needs one walk from the largest value down, which for p95 ends
//! after about a twentieth of the list. Masses are integers: the sum does not depend on the order, and ties are exact.

use std::fmt;

use crate::{Error, masses::Masses};

/// Mass of one session, in integer units.
pub(crate) const SESSION: u32 = 1 << 30;
pub(crate) const DEAD: u64 = u64::MAX;

/// A quantile level in hundredths of a percent, 1 to 9,999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u16);

impl Level {
    /// The median.
    pub const P50: Self = Self(5_000);
    /// The 95th percentile.
    pub const P95: Self = Self(9_500);
    /// The 99th percentile.
    pub const P99: Self = Self(9_900);

    /// The level nearest to `p`.
    ///
    /// # Errors
    /// Outside 0.0001 to 0.9999.
    pub fn new(p: f64) -> Result<Self, Error> {
        let scaled = (p * 10_000.0).round();
        if !(1.0..=9_999.0).contains(&scaled) {
            return Err(Error::Level(p));
        }
        Ok(Self(scaled as u16))
    }

    /// The fewest independent values whose largest is an upper limit of the quantile at one-sided `confidence`: `pⁿ ≤ 1 − confidence`.
    /// Below it no upper limit exists without assumptions on the distribution.
    pub fn fewest(self, confidence: f64) -> u32 {
        ((1.0 - confidence).ln() / self.fraction().ln()).ceil() as u32
    }

    /// The level as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// The most mass that may lie strictly above the quantile, out of `total`.
    pub(crate) fn mass_above(self, total: u64) -> u64 {
        (u128::from(total) * u128::from(10_000 - self.0) / 10_000) as u64
    }
}

/// `p95`, `p99.9`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", f64::from(self.0) / 100.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    value: u64,
    unit: u32,
    mass: u32,
}

/// Sessions on their way into a [`Pool`].
#[derive(Clone, Debug)]
pub struct PoolBuilder(Pool);

/// The sessions of one stratum: who saw which value how much.
///
/// Sessions belong to *units*, numbered from zero: what is resampled or assigned together. A unit is one session, or all sessions of one
/// client where the assignment is by client.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Descending by value.
    entries: Vec<Entry>,
    /// Sessions of each unit.
    sessions: Vec<u32>,
}

impl Pool {
    /// An empty pool of `units` units.
    #[allow(clippy::new_ret_no_self)] // the pool exists once it is sorted
    pub fn new(units: usize) -> PoolBuilder {
        PoolBuilder(Self { entries: Vec::new(), sessions: vec![0; units] })
    }

    /// Number of sessions of `unit`.
    pub fn sessions(&self, unit: usize) -> u32 {
        self.sessions[unit]
    }

    /// Number of units, present or not.
    pub fn units(&self) -> usize {
        self.sessions.len()
    }

    /// The quantile when unit `u` counts `weights[u]` times; `None` where no session has weight. A dead session's value is infinite.
    pub fn quantile(&self, level: Level, weights: &[u32]) -> Option<f64> {
        let mut out = [f64::NAN];
        self.quantiles(&[level], weights, &mut out).then_some(out[0])
    }

    /// Several quantiles in one walk. `levels` must descend and `out` be as long; `false`, with `out` untouched, where no session has weight.
    pub fn quantiles(&self, levels: &[Level], weights: &[u32], out: &mut [f64]) -> bool {
        debug_assert!(levels.is_sorted_by(|a, b| a > b));
        let total = self.sessions.iter().zip(weights).map(|(&n, &w)| u64::from(n) * u64::from(w)).sum::<u64>();
        let total = total * u64::from(SESSION);
        if total == 0 {
            return false;
        }
        let mut above = 0;
        let mut wanted = levels.iter().map(|level| level.mass_above(total)).zip(out).peekable();
        for entry in &self.entries {
            above += u64::from(entry.mass) * u64::from(weights[entry.unit as usize]);
            while let Some((_, out)) = wanted.next_if(|(allowed, _)| above > *allowed) {
                *out = as_number(entry.value);
            }
            if wanted.peek().is_none() {
                break;
            }
        }
        true
    }

    /// [`skewness`] of the influence of units on a quantile.
    pub fn skewness(&self, level: Level, weights: &[u32]) -> f64 {
        let Some(quantile) = self.quantile(level, weights) else { return 0.0 };
        let mut above = vec![0.0; self.sessions.len()];
        for entry in self.entries.iter().take_while(|entry| as_number(entry.value) > quantile) {
            above[entry.unit as usize] += f64::from(entry.mass) / f64::from(SESSION);
        }
        let units = self.sessions.iter().zip(weights).zip(above);
        skewness(units.map(|((&sessions, &weight), above)| (f64::from(sessions), f64::from(weight), above)))
    }

    /// The quantiles of both arms of an assignment in one walk: `canary[u]` says where unit `u` goes, `weights[u]` how often it counts.
    /// `[control, canary]` for each level; `None` where an arm is empty. `levels` must descend.
    pub fn quantiles_by_arm(&self, levels: &[Level], weights: &[u32], canary: &[bool]) -> Option<Vec<[f64; 2]>> {
        let mut totals = [0_u64; 2];
        for ((&sessions, &weight), &canary) in self.sessions.iter().zip(weights).zip(canary) {
            totals[usize::from(canary)] += u64::from(sessions) * u64::from(weight) * u64::from(SESSION);
        }
        if totals.contains(&0) {
            return None;
        }
        let mut out = vec![[f64::NAN; 2]; levels.len()];
        let allowed: Vec<_> = levels.iter().map(|level| totals.map(|total| level.mass_above(total))).collect();
        let mut above = [0_u64; 2];
        let mut done = [0_usize; 2];
        for entry in &self.entries {
            let arm = usize::from(canary[entry.unit as usize]);
            above[arm] += u64::from(entry.mass) * u64::from(weights[entry.unit as usize]);
            while done[arm] < levels.len() && above[arm] > allowed[done[arm]][arm] {
                out[done[arm]][arm] = as_number(entry.value);
                done[arm] += 1;
            }
            if done == [levels.len(); 2] {
                break;
            }
        }
        Some(out)
    }
}

/// `Σ l³ / (Σ l²)^{3/2}` of the units' influences `l` on a quantile (F. R. Hampel, J. Amer. Statist. Assoc. 69 (1974)): the mass that a unit has above the
/// quantile, less the mean, as often as it counts. Each unit is (sessions, weight, mass above the quantile). Six times the acceleration of
/// [`Interval::bca`](crate::Interval::bca); zero where no unit differs from the others.
pub fn skewness(units: impl Iterator<Item = (f64, f64, f64)> + Clone) -> f64 {
    let (mass, all) = units.clone().fold((0.0, 0.0), |(m, a), (n, weight, above)| (m + weight * above, a + weight * n));
    let (mut second, mut third) = (0.0, 0.0);
    for (sessions, weight, above) in units {
        let influence = weight * (above - sessions * mass / all);
        second += influence * influence;
        third += influence.powi(3);
    }
    if second > 0.0 { third / second.powf(1.5) } else { 0.0 }
}

/// Sessions of one arm and stratum by value, every session weighing the same: all quantiles, without keeping who saw what.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    masses: Masses,
    sessions: u64,
}

impl Distribution {
    /// Adds a session as (value, count) pairs; without a packet it adds nothing.
    pub fn add(&mut self, values: impl Iterator<Item = (u64, u64)> + Clone) {
        let whole = values.clone().fold(0_u64, |sum, (_, packets)| sum.saturating_add(packets));
        if whole == 0 {
            return;
        }
        let (mut seen, mut before) = (0_u64, 0);
        for (value, packets) in values {
            seen = seen.saturating_add(packets);
            let up_to = share(seen, whole);
            if up_to > before {
                self.masses.add(value.min(DEAD - 1), u64::from(up_to - before));
            }
            before = up_to;
        }
        self.sessions += 1;
    }

    /// Adds a session that never heard back.
    pub fn add_dead(&mut self) {
        self.masses.add(DEAD, u64::from(SESSION));
        self.sessions += 1;
    }

    /// Sessions that weigh.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// The same as [`Pool::quantile`] with every session counted once.
    pub fn quantile(&self, level: Level) -> Option<f64> {
        let allowed = level.mass_above(self.sessions * u64::from(SESSION));
        let mut above = 0;
        self.masses.ascending().into_iter().rev().find_map(|(value, mass)| {
            above += mass;
            (above > allowed).then(|| as_number(value))
        })
    }
}

/// The mass of `packets` out of a session's `seen`.
pub(crate) fn share(packets: u64, seen: u64) -> u32 {
    (u128::from(packets) * u128::from(SESSION) / u128::from(seen)) as u32
}

impl PoolBuilder {
    /// Adds a session of `unit` as (value, count) pairs in any order. A session without a single packet adds nothing and `false` is returned.
    ///
    /// # Panics
    /// When the pool has no such unit.
    pub fn add(&mut self, unit: usize, values: impl IntoIterator<Item = (u64, u64)>) -> bool {
        let first = self.0.entries.len();
        let (mut seen, mut counts) = (0_u64, Vec::new());
        for (value, packets) in values {
            seen = seen.saturating_add(packets);
            counts.push(seen);
            self.0.entries.push(Entry { value: value.min(DEAD - 1), unit: unit as u32, mass: 0 });
        }
        if seen == 0 {
            self.0.entries.truncate(first);
            return false;
        }
        let mut before = 0;
        for (entry, up_to) in self.0.entries[first..].iter_mut().zip(counts) {
            entry.mass = share(up_to, seen) - before;
            before = share(up_to, seen);
        }
        self.0.sessions[unit] += 1;
        true
    }

    /// Adds a session of `unit` that never heard back.
    ///
    /// # Panics
    /// When the pool has no such unit.
    pub fn add_dead(&mut self, unit: usize) {
        self.0.entries.push(Entry { value: DEAD, unit: unit as u32, mass: SESSION });
        self.0.sessions[unit] += 1;
    }

    /// The finished pool.
    pub fn sorted(mut self) -> Pool {
        self.0.entries.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.value), entry.unit, entry.mass));
        self.0
    }
}

pub(crate) fn as_number(value: u64) -> f64 {
    if value == DEAD { f64::INFINITY } else { value as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool_of(sessions: &[Vec<u64>]) -> Pool {
        let mut pool = Pool::new(sessions.len());
        for (unit, session) in sessions.iter().enumerate() {
            pool.add(unit, session.iter().map(|&value| (value, 1)));
        }
        pool.sorted()
    }

    #[test]
    fn a_chatty_session_weighs_no_more_than_a_quiet_one() {
        let mut pool = Pool::new(2);
        pool.add(0, [(5, 1_000_000)]);
        pool.add(1, [(9, 1)]);
        let pool = pool.sorted();
        assert_eq!(pool.quantile(Level::P50, &[1, 1]), Some(5.0));
        assert_eq!(pool.quantile(Level::new(0.51).unwrap(), &[1, 1]), Some(9.0));
    }

    #[test]
    fn a_limit_of_p95_takes_72_sessions() {
        assert_eq!(Level::P95.fewest(0.975), 72);
        assert_eq!(Level::P95.fewest(0.95), 59);
        assert_eq!(Level::P99.fewest(0.95), 299);
    }

    #[test]
    fn skewness_is_that_of_the_share_above() {
        // Of 20 one-packet sessions, one lies above the p95: influences 0.95 once and -0.05 nineteen times.
        let sessions: Vec<Vec<u64>> = (0..20).map(|value| vec![value]).collect();
        let expected =
            (0.95_f64.powi(3) - 19.0 * 0.05_f64.powi(3)) / (0.95_f64.powi(2) + 19.0 * 0.05_f64.powi(2)).powf(1.5);
        let got = pool_of(&sessions).skewness(Level::new(0.95).unwrap(), &[1; 20]);
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        assert_eq!(pool_of(&[vec![1], vec![1]]).skewness(Level::P95, &[1, 1]), 0.0);
    }

    #[test]
    fn an_empty_arm_has_no_quantile() {
        let pool = pool_of(&[vec![1, 2], vec![3]]);
        assert_eq!(pool.quantile(Level::P95, &[0, 0]), None);
        assert_eq!(pool.quantiles_by_arm(&[Level::P95], &[1, 1], &[false, false]), None);
    }

    #[test]
    fn dead_sessions_are_infinite_and_take_over_the_quantile_at_their_share() {
        let mut pool = Pool::new(20);
        (0..18).for_each(|unit| assert!(pool.add(unit, [(7, 3)])));
        pool.add_dead(18);
        let pool_one = pool.clone().sorted();
        let mut ones = vec![1; 20];
        ones[19] = 0;
        assert_eq!(pool_one.quantile(Level::P50, &ones), Some(7.0));
        pool.add_dead(19);
        assert_eq!(pool.sorted().quantile(Level::P95, &[1; 20]), Some(f64::INFINITY));
    }

    proptest! {
        #[test]
        fn a_distribution_has_the_quantiles_of_the_pool(
            sessions in proptest::collection::vec(proptest::collection::vec((0_u64..50, 1_u64..5), 0..8), 1..12),
            level in 1_u16..10_000,
        ) {
            let (mut pool, mut distribution) = (Pool::new(sessions.len() + 1), Distribution::default());
            for (unit, session) in sessions.iter().enumerate() {
                pool.add(unit, session.iter().copied());
                distribution.add(session.iter().copied());
            }
            pool.add_dead(sessions.len());
            distribution.add_dead();
            let expected = pool.sorted().quantile(Level(level), &vec![1; sessions.len() + 1]);
            prop_assert_eq!(distribution.quantile(Level(level)), expected);
        }

        /// Against the definition, computed the slow way with rational arithmetic.
        #[test]
        fn it_is_the_smallest_value_at_which_the_weighted_distribution_reaches_the_level(
            sessions in proptest::collection::vec((proptest::collection::vec(0_u64..50, 1..=8), 0_u32..4), 1..12),
            level in 1_u16..10_000,
        ) {
            let (values, weights): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
            // Powers of two divide the mass of a session without remainder.
            let values: Vec<Vec<u64>> = values.into_iter().map(|mut v| { v.truncate(1 << v.len().ilog2()); v }).collect();
            let level = Level(level);
            let got = pool_of(&values).quantile(level, &weights);
            let total: u64 = weights.iter().map(|&w| 8 * u64::from(w)).sum();
            let reached = |x: u64| -> u64 {
                values.iter().zip(&weights)
                    .map(|(v, &w)| u64::from(w) * 8 / v.len() as u64 * v.iter().filter(|&&y| y <= x).count() as u64).sum()
            };
            let expected = (total > 0).then(|| (0..50).find(|&x| reached(x) * 10_000 >= total * u64::from(level.0)).unwrap() as f64);
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn both_arms_in_one_walk_are_the_arms_one_by_one(
            sessions in proptest::collection::vec((proptest::collection::vec(0_u64..1000, 1..9), any::<bool>()), 2..30),
        ) {
            let (values, canary): (Vec<_>, Vec<bool>) = sessions.into_iter().unzip();
            let pool = pool_of(&values);
            let levels = [Level::P99, Level::P95, Level::P50];
            let arm = |wanted: bool| -> Vec<u32> { canary.iter().map(|&c| u32::from(c == wanted)).collect() };
            let expected: Option<Vec<[f64; 2]>> = levels
                .iter()
                .map(|&level| Some([pool.quantile(level, &arm(false))?, pool.quantile(level, &arm(true))?]))
                .collect();
            prop_assert_eq!(pool.quantiles_by_arm(&levels, &vec![1; canary.len()], &canary), expected);
        }
    }
}
