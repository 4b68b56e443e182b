//! Looking before the end costs confidence; a spending function says how much of it a look may use.
//!
//! K. K. G. Lan and D. L. DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983). `fraction` is the share of the
//! planned information that has been seen, 0 to 1; the result is the probability of a false alarm that may have been spent by then.

use statrs::distribution::ContinuousCDF;

use crate::interval::normal;

/// O'Brien-Fleming type, `2 − 2 Φ(z(1 − α/2) / √t)`: almost nothing early, almost everything at the end. For claims of benefit.
pub fn obrien_fleming(alpha: f64, fraction: f64) -> f64 {
    if fraction <= 0.0 {
        return 0.0;
    }
    let z = normal().inverse_cdf(1.0 - alpha / 2.0);
    2.0 * normal().sf(z / fraction.min(1.0).sqrt())
}

/// Pocock type, `α ln(1 + (e − 1) t)`: spends evenly, so that harm can be called early.
pub fn pocock(alpha: f64, fraction: f64) -> f64 {
    alpha * (1.0 + (std::f64::consts::E - 1.0) * fraction.clamp(0.0, 1.0)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_spent_at_the_end_and_nothing_before_the_start() {
        for spend in [obrien_fleming, pocock] {
            assert!((spend(0.05, 1.0) - 0.05).abs() < 1e-9);
            assert_eq!(spend(0.05, 0.0), 0.0);
            assert_eq!(spend(0.05, 2.0), spend(0.05, 1.0));
        }
    }

    #[test]
    fn the_halves_are_those_of_the_tables() {
        // Lan and DeMets 1983, alpha 0.05 two-sided: 0.0056 by O'Brien-Fleming and 0.0310 by Pocock at half the information.
        assert!((obrien_fleming(0.05, 0.5) - 0.00557).abs() < 1e-4);
        assert!((pocock(0.05, 0.5) - 0.0310).abs() < 1e-4);
    }
}
