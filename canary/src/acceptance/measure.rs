//! A level of one cohort, or its distance from a baseline, with an interval that takes clients whole.

use pathlab_stats::{
    Interval, Level, Pool, Rate, acceleration, design_effect, generator, rate_difference, resample, standard_error,
    wilson,
};

use super::{CONFIDENCE, Cohort};
use crate::{Metric, Series, difference::is_dead, ingest::Seen, judge::rates::EPISODE};

/// One cohort in one window, as units of one client or session each.
pub(super) struct Sample<'a>(Vec<&'a [&'a Seen]>);

impl<'a> Sample<'a> {
    pub(super) fn new(cohort: Option<&'a Cohort<'a>>) -> Self {
        Self(cohort.map_or_else(Vec::new, |cohort| cohort.values().map(Vec::as_slice).collect()))
    }

    pub(super) fn sessions(&self) -> u64 {
        self.0.iter().map(|unit| unit.len() as u64).sum()
    }

    fn pool(&self, series: Series) -> Pool {
        let mut pool = Pool::new(self.0.len());
        for (unit, seen) in self.0.iter().enumerate().flat_map(|(unit, all)| all.iter().map(move |seen| (unit, seen))) {
            if is_dead(seen) {
                pool.add_dead(unit);
            } else {
                pool.add(unit, seen.series[series as usize].iter());
            }
        }
        pool.sorted()
    }

    /// The mean of the sessions' shares of packets lost, worth its packets over the design effect.
    fn loss(&self) -> Option<Rate> {
        let sessions: Vec<(u64, u64)> = self.0.iter().copied().flatten().map(|seen| (seen.lost, seen.sent)).collect();
        let sessions: Vec<_> = sessions.into_iter().filter(|(_, sent)| *sent > 0).collect();
        let packets: u64 = sessions.iter().map(|(_, sent)| sent).sum();
        let share = |(lost, sent): &(u64, u64)| *lost as f64 / *sent as f64;
        let rate = sessions.iter().map(share).sum::<f64>() / sessions.len() as f64;
        let effect = design_effect(&sessions).unwrap_or(1.0).max(EPISODE);
        (packets > 0).then_some(Rate { rate, trials: packets as f64 / effect })
    }
}

/// A quantile, its replicates, and how skewed the influence of units on it is.
struct Resampled {
    estimate: f64,
    replicates: Vec<f64>,
    skewness: f64,
}

/// How to measure: the same seed, the same limits.
pub(super) struct Measure {
    pub(super) seed: u64,
    pub(super) replicates: usize,
}

impl Measure {
    /// The level itself; `None` where the sessions do not have it.
    pub(super) fn level(&self, metric: Metric, sample: &Sample<'_>) -> Option<Interval> {
        let Metric::Quantile { series, level } = metric else { return Some(wilson(sample.loss()?, CONFIDENCE)) };
        let of = self.resampled("level", series, level, sample)?;
        Some(Interval::bca(of.estimate, of.replicates.into_iter(), of.skewness / 6.0, CONFIDENCE))
    }

    /// How far it is above the mean of the baseline's windows; `None` without one.
    pub(super) fn distance(&self, metric: Metric, sample: &Sample<'_>, before: &[Sample<'_>]) -> Option<Interval> {
        if before.is_empty() {
            return None;
        }
        let weight = 1.0 / before.len() as f64;
        let Metric::Quantile { series, level } = metric else {
            let here = sample.loss()?;
            let strata: Option<Vec<_>> = before.iter().map(|before| Some((weight, before.loss()?, here))).collect();
            return Some(rate_difference(&strata?, CONFIDENCE));
        };
        let here = self.resampled("level", series, level, sample)?;
        let baseline: Option<Vec<_>> = (0..before.len())
            .map(|place| self.resampled(&format!("baseline {place}"), series, level, &before[place]))
            .collect();
        let baseline = baseline?;
        let mean = |value: &dyn Fn(&Resampled) -> f64| baseline.iter().map(value).sum::<f64>() * weight;
        let estimate = here.estimate - mean(&|of| of.estimate);
        let replicates: Vec<f64> =
            (0..self.replicates).map(|row| here.replicates[row] - mean(&|of| of.replicates[row])).collect();
        let spread = |of: &Resampled| standard_error(of.replicates.iter().copied());
        let terms =
            baseline.iter().map(|of| (-weight * spread(of), of.skewness)).chain([(spread(&here), here.skewness)]);
        let acceleration = acceleration(terms, standard_error(replicates.iter().copied()));
        Some(Interval::bca(estimate, replicates.into_iter(), acceleration, CONFIDENCE))
    }

    fn resampled(&self, purpose: &str, series: Series, level: Level, sample: &Sample<'_>) -> Option<Resampled> {
        let pool = sample.pool(series);
        let units: Vec<u32> = (0..pool.units() as u32).collect();
        let mut weights = vec![1; units.len()];
        let estimate = pool.quantile(level, &weights)?;
        let skewness = pool.skewness(level, &weights);
        let replicate = |row: usize| {
            resample(&mut generator(self.seed, purpose, row as u64), &units, &mut weights);
            pool.quantile(level, &weights).unwrap_or(f64::NAN)
        };
        let replicates = (0..self.replicates).map(replicate).collect();
        Some(Resampled { estimate, replicates, skewness })
    }
}
