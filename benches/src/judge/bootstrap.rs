//! The bootstrap of a p95 difference, three ways that must give the same numbers: ours, and two that anybody would write first.

use std::time::Instant;

use anyhow::{Result, ensure};
use pathlab_canary::{KeyFrom, bucket};
use pathlab_record::{SessionBin, SparseHistogram};
use pathlab_stats::{LANES, Level, Listener, Near, Sessions, generator, replicate_together, resample, resample_lane};

use super::world::{Fleet, SEED};

/// Ours, and what it is held against.
pub const NAMES: [&str; 3] = [
    "ours, 2 processors",
    "plain: sort once, walk all values, one thread",
    "plain: pool the drawn sessions, sort, one thread",
];
/// Replicates of each way in a round: as many as take about a second.
const REPLICATES: [usize; 3] = [400, 4, 2];

/// Seed and number of replicates to seconds and the replicates.
type Way = fn(&Ways, u64, usize) -> (f64, Vec<f64>);

/// The stratum: the sessions of each arm.
pub struct Ways {
    sessions: Vec<SparseHistogram>,
    arms: [Vec<u32>; 2],
}

impl Ways {
    /// All sessions of a fleet as one stratum.
    ///
    /// # Errors
    /// A fleet that cannot be read back.
    pub fn new(fleet: Fleet) -> Result<Self> {
        let mut bytes = Vec::new();
        fleet.write(&mut bytes)?;
        let mut sessions: std::collections::BTreeMap<String, (SparseHistogram, bool)> = Default::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let bin: SessionBin = serde_json::from_slice(line)?;
            let bucket = bin.key.and_then(|key| bucket(SEED, &key, KeyFrom::ClientAddrPort));
            let (seen, canary) = sessions.entry(bin.session).or_default();
            *canary = bucket.is_some_and(|bucket| bucket < 1_500);
            bin.rtt.iter().for_each(|rtt| seen.merge(rtt));
        }
        let (sessions, canary): (Vec<_>, Vec<bool>) = sessions.into_values().unzip();
        let arm = |wanted: bool| -> Vec<u32> {
            (0..sessions.len() as u32).filter(|unit| canary[*unit as usize] == wanted).collect()
        };
        let arms = [arm(false), arm(true)];
        Ok(Self { sessions, arms })
    }

    /// Seconds a replicate of each way.
    ///
    /// # Errors
    /// Ways that differ in a single number.
    pub fn round(&self, round: usize) -> Result<[f64; 3]> {
        let seed = round as u64;
        let ways: [Way; 3] = [Self::ours, Self::sorted_once, Self::pooled];
        let mut times = [0.0; 3];
        let mut reference = Vec::new();
        for ((time, way), replicates) in times.iter_mut().zip(ways).zip(REPLICATES) {
            let (seconds, rows) = way(self, seed, replicates);
            *time = seconds / replicates as f64;
            if reference.is_empty() {
                reference = rows;
            } else {
                ensure!(
                    reference.starts_with(&rows),
                    "the bootstraps differ: {:?} and {rows:?}",
                    &reference[..rows.len()]
                );
            }
        }
        Ok(times)
    }

    fn ours(&self, seed: u64, replicates: usize) -> (f64, Vec<f64>) {
        let units = self.sessions.len();
        let canary = |arm: usize| vec![arm == 1; units];
        let near = [0, 1].map(|arm| {
            Near::new(Arm { ways: self, units: &self.arms[arm] }, &[Level::P95], &vec![1; units], &canary(arm))
        });
        let started = Instant::now();
        let scratch = || vec![[0_u32; LANES]; units];
        let rows =
            replicate_together(seed, "bootstrap", 0..replicates, 1, LANES, scratch, |generators, counts, rows| {
                for units in &self.arms {
                    for (lane, generator) in generators.iter_mut().enumerate() {
                        resample_lane(generator, units, counts, lane);
                    }
                }
                let mut out = [[[0.0; LANES]]; 2];
                near.iter().zip(&mut out).for_each(|(near, out)| near.quantiles(counts, out));
                let [[control], [canary]] = out;
                rows.iter_mut()
                    .zip(canary.iter().zip(control))
                    .for_each(|(row, (canary, control))| *row = canary - control);
            });
        (started.elapsed().as_secs_f64(), rows.column(0).collect())
    }

    /// All values of an arm with their session and its mass at each, ascending.
    fn sorted(&self, arm: usize) -> Vec<(u64, u32, u64)> {
        let mut entries = Vec::new();
        for &unit in &self.arms[arm] {
            entries.extend(masses(&self.sessions[unit as usize]).map(|(value, mass)| (value, unit, mass)));
        }
        entries.sort_unstable();
        entries
    }

    fn sorted_once(&self, seed: u64, replicates: usize) -> (f64, Vec<f64>) {
        let entries = [self.sorted(0), self.sorted(1)];
        let started = Instant::now();
        let mut counts = vec![0_u32; self.sessions.len()];
        let rows = (0..replicates).map(|replicate| {
            let mut generator = generator(seed, "bootstrap", replicate as u64);
            self.arms.iter().for_each(|units| resample(&mut generator, units, &mut counts));
            let of = |arm: usize| {
                let weighed =
                    entries[arm].iter().map(|(value, unit, mass)| (*value, mass * u64::from(counts[*unit as usize])));
                p95(weighed, self.arms[arm].len() as u64)
            };
            of(1) - of(0)
        });
        let rows = rows.collect();
        (started.elapsed().as_secs_f64(), rows)
    }

    fn pooled(&self, seed: u64, replicates: usize) -> (f64, Vec<f64>) {
        let started = Instant::now();
        let mut counts = vec![0_u32; self.sessions.len()];
        let rows = (0..replicates).map(|replicate| {
            let mut generator = generator(seed, "bootstrap", replicate as u64);
            self.arms.iter().for_each(|units| resample(&mut generator, units, &mut counts));
            let of = |arm: usize| {
                let drawn = self.arms[arm].iter().flat_map(|unit| (0..counts[*unit as usize]).map(move |_| *unit));
                let mut pooled: Vec<_> = drawn.flat_map(|unit| masses(&self.sessions[unit as usize])).collect();
                pooled.sort_unstable();
                p95(pooled.into_iter(), self.arms[arm].len() as u64)
            };
            of(1) - of(0)
        });
        let rows = rows.collect();
        (started.elapsed().as_secs_f64(), rows)
    }
}

/// The sessions of one arm.
struct Arm<'a> {
    ways: &'a Ways,
    units: &'a [u32],
}

impl Sessions for Arm<'_> {
    fn units(&self) -> usize {
        self.ways.sessions.len()
    }

    fn tell(&self, to: &mut impl Listener) {
        self.units.iter().for_each(|unit| to.session(*unit as usize, self.ways.sessions[*unit as usize].iter()));
    }
}

/// Mass of one session in integers, as `pathlab_stats` has it.
const SESSION: u64 = 1 << 30;

/// The values of a session, ascending, and its mass at each; they sum to [`SESSION`].
fn masses(session: &SparseHistogram) -> impl Iterator<Item = (u64, u64)> + '_ {
    let packets = u128::from(session.count());
    let up_to = move |seen: u64| (u128::from(seen) * u128::from(SESSION) / packets) as u64;
    session.iter().scan(0, move |seen, (value, count)| {
        let before = up_to(*seen);
        *seen += count;
        Some((value, up_to(*seen) - before))
    })
}

/// The value at which ascending masses reach 95 % of those of all sessions.
fn p95(ascending: impl Iterator<Item = (u64, u64)>, sessions: u64) -> f64 {
    let total = sessions * SESSION;
    let reached = total - (u128::from(total) * 500 / 10_000) as u64;
    let mut sum = 0;
    let mut at = ascending.skip_while(|(_, mass)| {
        sum += mass;
        sum < reached
    });
    at.next().map_or(f64::NAN, |(value, _)| value as f64)
}

/// What was done, for the table.
pub fn method(stratum: Fleet) -> String {
    format!(
        "The bootstrap: p95 of the round trip, canary less control, of {} sessions in one stratum with {} samples each, sessions drawn whole; {} replicates a round of ours, {} and {} \
         of the plain ones. What is done once before (sorting) is not counted. The same seeds; every replicate of all three is the same number.",
        stratum.sessions, stratum.packets, REPLICATES[0], REPLICATES[1], REPLICATES[2]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_give_the_same_numbers() {
        let ways = Ways::new(Fleet { sessions: 400, packets: 10, faster: 5.0 }).expect("a fleet");
        assert!(ways.round(3).expect("no way differs").iter().all(|seconds| *seconds > 0.0));
    }
}
