//! What some rounds of one figure say: the middle, the ends, and how far the rounds lie from the middle.

/// Rounds of one figure, none of them infinite or NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle; of an even number the mean of both.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
    /// Median absolute deviation from the median: how much one round differs from the next.
    pub mad: f64,
}

impl Summary {
    /// `None` of no rounds.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let middle = median(rounds)?;
        let deviations: Vec<f64> = rounds.iter().map(|figure| (figure - middle).abs()).collect();
        Some(Self {
            median: middle,
            min: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            max: rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mad: median(&deviations)?,
        })
    }
}

fn median(figures: &[f64]) -> Option<f64> {
    let sorted = sorted(figures);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// The value that `share` of the figures do not exceed (nearest rank); `None` of none.
pub fn quantile(figures: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(figures);
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_the_ends_and_the_deviation() {
        assert_eq!(Summary::of(&[]), None);
        let odd = Summary::of(&[10.0, 1.0, 2.0]).expect("three rounds");
        assert_eq!(odd, Summary { median: 2.0, min: 1.0, max: 10.0, mad: 1.0 });
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).map(|summary| summary.median), Some(2.5));
    }

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&figures, 0.5), Some(100.0));
        assert_eq!(quantile(&figures, 0.99), Some(198.0));
        assert_eq!(quantile(&figures, 1.0), Some(200.0));
        assert_eq!(quantile(&[7.0], 0.0), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
