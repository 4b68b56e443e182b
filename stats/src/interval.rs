//! A number is never shown without the interval that holds the truth.

use statrs::distribution::{ContinuousCDF, Normal};

use crate::Error;

/// How sure an interval is, two-sided, between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Confidence(f64);

impl Confidence {
    /// 95 %, the level of every interval that is shown.
    pub const P95: Self = Self(0.95);
    /// 90 %: each limit on its own is one-sided 95 %.
    pub const P90: Self = Self(0.90);

    /// A two-sided confidence.
    ///
    /// # Errors
    /// Outside 0 to 1, both exclusive.
    pub fn new(level: f64) -> Result<Self, Error> {
        (level > 0.0 && level < 1.0).then_some(Self(level)).ok_or(Error::Confidence(level))
    }

    /// The level, 0 to 1.
    pub fn level(self) -> f64 {
        self.0
    }

    /// Probability left out on each side.
    pub fn tail(self) -> f64 {
        (1.0 - self.0) / 2.0
    }

    /// The standard normal quantile that leaves [`tail`](Self::tail) above it.
    pub fn z(self) -> f64 {
        normal().inverse_cdf(1.0 - self.tail())
    }
}

/// An estimate and the limits around it, in the estimate's own unit. Limits may be infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower limit.
    pub low: f64,
    /// Upper limit.
    pub high: f64,
}

impl Interval {
    /// Whether `truth` lies within, limits included.
    pub fn holds(&self, truth: f64) -> bool {
        self.low <= truth && truth <= self.high
    }

    /// `estimate ± z · se`.
    pub fn normal(estimate: f64, standard_error: f64, confidence: Confidence) -> Self {
        let reach = confidence.z() * standard_error;
        // An infinite estimate minus an infinite reach would be no number at all.
        let low = if reach.is_finite() { estimate - reach } else { f64::NEG_INFINITY };
        let high = if reach.is_finite() { estimate + reach } else { f64::INFINITY };
        Self { estimate, low, high }
    }

    /// The percentile bootstrap (Efron 1979): the middle share of `replicates`.
    ///
    /// Replicates that are no number are left out; without any, the limits are infinite.
    pub fn percentile(estimate: f64, replicates: impl Iterator<Item = f64>, confidence: Confidence) -> Self {
        let sorted = sorted(replicates);
        Self {
            estimate,
            low: at(&sorted, confidence.tail(), f64::NEG_INFINITY),
            high: at(&sorted, 1.0 - confidence.tail(), f64::INFINITY),
        }
    }

    /// The bootstrap interval corrected for bias and for a spread that changes with the truth (BCa; B. Efron, J. Amer. Statist. Assoc. 82
    /// (1987)). `acceleration` is a sixth of the skewness of the units' influence on the estimate ([`Pool::skewness`](crate::Pool::skewness)); no
    /// number counts as zero. Where all replicates lie on one side of the estimate, no correction is known, and it is the percentile interval.
    pub fn bca(
        estimate: f64,
        replicates: impl Iterator<Item = f64>,
        acceleration: f64,
        confidence: Confidence,
    ) -> Self {
        let sorted = sorted(replicates);
        let below = sorted.partition_point(|value| *value < estimate);
        let ties = sorted.partition_point(|value| *value <= estimate) - below;
        let bias = normal().inverse_cdf((below as f64 + ties as f64 / 2.0) / sorted.len().max(1) as f64);
        let acceleration = if acceleration.is_finite() { acceleration } else { 0.0 };
        let corrected = |z: f64| {
            let shifted = bias + z;
            let level = normal().cdf(bias + shifted / (1.0 - acceleration * shifted));
            if bias.is_finite() && acceleration * shifted < 1.0 { level } else { normal().cdf(z) }
        };
        Self {
            estimate,
            low: at(&sorted, corrected(-confidence.z()), f64::NEG_INFINITY),
            high: at(&sorted, corrected(confidence.z()), f64::INFINITY),
        }
    }
}

pub(crate) fn normal() -> Normal {
    Normal::standard()
}

pub(crate) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value at share `p` of a sorted list, by the nearest rank of (n + 1) p; `missing` where the list is empty.
fn at(sorted: &[f64], p: f64, missing: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return missing };
    let rank = ((sorted.len() + 1) as f64 * p).round() as usize;
    sorted[rank.saturating_sub(1).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicates() -> impl Iterator<Item = f64> {
        (1..=999).map(|i| f64::from(i) / 1_000.0)
    }

    #[test]
    fn without_bias_and_acceleration_it_is_the_percentile_interval() {
        let percentile = Interval::percentile(0.5, replicates(), Confidence::P95);
        assert_eq!((percentile.low, percentile.high), (0.025, 0.975));
        assert_eq!(Interval::bca(0.5, replicates(), 0.0, Confidence::P95), percentile);
        let one_sided = Interval::bca(2.0, replicates(), f64::NAN, Confidence::P95);
        assert_eq!((one_sided.low, one_sided.high), (0.025, 0.975));
    }

    #[test]
    fn bias_and_acceleration_move_the_levels_as_the_formula_says() {
        // B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), section 14.3: z0 = 0.146, a = 0.061 turn 5 % and 95 % into
        // 11.0 % and 98.5 %.
        let bias = normal().cdf(0.146);
        let interval = Interval::bca(bias, replicates(), 0.061, Confidence::P90);
        assert!((interval.low - 0.110).abs() < 0.002, "{interval:?}");
        assert!((interval.high - 0.985).abs() < 0.002, "{interval:?}");
    }

    #[test]
    fn infinite_replicates_make_a_limit_infinite() {
        let dead = (0..10).map(|i| if i < 5 { 1.0 } else { f64::INFINITY });
        let interval = Interval::bca(f64::INFINITY, dead, f64::NAN, Confidence::P95);
        assert_eq!((interval.low, interval.high), (1.0, f64::INFINITY));
    }
}
