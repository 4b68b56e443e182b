//! One figure of two settings that were measured by turns: the median of each, and the median of the differences of each pair. For `lab compare`
//! and `host ab`.

use pathlab_stats::{Confidence, Interval, paired_median};
use serde::Serialize;

/// In the figure's own unit; the limits are absent where so few pairs bound nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Paired {
    pub(crate) a: Option<f64>,
    pub(crate) b: Option<f64>,
    pub(crate) difference: Option<f64>,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
}

impl Paired {
    pub(crate) fn of(pairs: &[(f64, f64)], confidence: Confidence) -> Self {
        let difference = paired_median(pairs, confidence);
        let limit = |of: fn(&Interval) -> f64| difference.as_ref().map(of).filter(|limit| limit.is_finite());
        Self {
            a: median(pairs.iter().map(|pair| pair.0)),
            b: median(pairs.iter().map(|pair| pair.1)),
            difference: difference.map(|interval| interval.estimate),
            low: limit(|interval| interval.low),
            high: limit(|interval| interval.high),
        }
    }

    /// A, B, B − A and the interval, as cells of a table.
    pub(crate) fn cells(&self, words: impl Fn(f64) -> String) -> [String; 4] {
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), &words);
        let interval = match (self.low, self.high) {
            // A model without noise: an interval would pretend that there was some.
            (Some(low), Some(high)) if low == high => "the same in every pair".to_owned(),
            (Some(low), Some(high)) => format!("{} to {}", words(low), words(high)),
            _ => "too few pairs".to_owned(),
        };
        [cell(self.a), cell(self.b), cell(self.difference), interval]
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    Some(if values.len() % 2 == 1 { values[middle] } else { (values[middle] + values[middle + 1]) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_without_noise_have_no_interval() {
        let cells = |pairs: &[(f64, f64)]| Paired::of(pairs, Confidence::P95).cells(|value| format!("{value:.0}"));
        assert_eq!(cells(&[(12.0, 2.0); 11]), ["12", "2", "-10", "the same in every pair"]);
        let noisy: Vec<_> = (0..11).map(|number| (12.0, 2.0 + f64::from(number))).collect();
        assert!(cells(&noisy)[3].contains(" to "), "{:?}", cells(&noisy));
    }
}
