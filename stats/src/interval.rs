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
