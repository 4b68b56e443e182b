//! Resampling units whole: the cluster bootstrap.
//!
//! B. Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979); for clusters A. C. Davison and D. V. Hinkley,
//! *Bootstrap Methods and their Application* (1997), section 3.8: draw the clusters with replacement, keep what is inside them.

use rand::Rng;

use crate::Generator;

/// Draws as many of `units` as there are, with replacement, and leaves in `weights[u]` how often unit `u` came up; the weights of other
/// units are left alone. Call it once for each arm, so that each keeps its size.
///
/// The index is `⌊random · n / 2³²⌋`: its bias is below n / 2³², far under what some thousand replicates can show.
///
/// # Panics
/// When a unit has no weight.
pub fn resample(generator: &mut Generator, units: &[u32], weights: &mut [u32]) {
    let (weights, _) = weights.as_chunks_mut::<1>();
    resample_lane(generator, units, weights, 0);
}

/// [`resample`] into one lane of weights that lie side by side.
///
/// # Panics
/// When a unit has no weight, and beyond the last lane.
pub fn resample_lane<const N: usize>(generator: &mut Generator, units: &[u32], weights: &mut [[u32; N]], lane: usize) {
    for &unit in units {
        weights[unit as usize][lane] = 0;
    }
    for _ in units {
        let drawn = (u64::from(generator.next_u32()) * units.len() as u64) >> 32;
        weights[units[drawn as usize] as usize][lane] += 1;
    }
}

/// Standard deviation of the replicates that are numbers; infinite where any is infinite, zero below two.
pub fn standard_error(replicates: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = replicates.filter(|value| !value.is_nan()).collect();
    if values.iter().any(|value| value.is_infinite()) {
        return f64::INFINITY;
    }
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// The acceleration of a sum of independent estimates, for [`Interval::bca`](crate::Interval::bca): each given as its standard error with the sign with
/// which it enters, and the skewness of its units' influence. Third moments add up as variances do (Davison and Hinkley, section 5.3.2).
pub fn acceleration(terms: impl Iterator<Item = (f64, f64)>, standard_error: f64) -> f64 {
    terms.map(|(error, skewness)| error.powi(3) * skewness).sum::<f64>() / (6.0 * standard_error.powi(3))
}
