//! Did the assignment put as many sessions on each arm as it should have?
//!
//! A ratio that is off says that sessions went missing or were counted by arm, and then no difference between the arms can be believed
//! (A. Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019).

use statrs::distribution::{ChiSquared, ContinuousCDF};

/// The answer of one check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRatio {
    /// Share of sessions seen on the canary, 0 to 1.
    pub seen: f64,
    /// Pearson's statistic with one degree of freedom.
    pub chi_squared: f64,
    /// Probability of a ratio at least this far off when the assignment works.
    pub p: f64,
}

/// Pearson's chi-squared test of `control` and `canary` sessions against the configured canary `share` (between 0 and 1, exclusive).
/// `None` where it means nothing: fewer than five sessions expected on an arm.
pub fn sample_ratio(control: u64, canary: u64, share: f64) -> Option<SampleRatio> {
    let total = (control + canary) as f64;
    let (expected_canary, expected_control) = (total * share, total * (1.0 - share));
    if expected_canary.min(expected_control).is_nan() || expected_canary.min(expected_control) < 5.0 {
        return None;
    }
    let off = canary as f64 - expected_canary;
    let chi_squared = off * off / expected_canary + off * off / expected_control;
    let p = ChiSquared::new(1.0).map_or(f64::NAN, |distribution| distribution.sf(chi_squared));
    Some(SampleRatio { seen: canary as f64 / total, chi_squared, p })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistic_is_the_textbook_one() {
        // 821 against 779 where half and half was meant: chi-squared 1.1025, p 0.2937.
        let answer = sample_ratio(821, 779, 0.5).unwrap();
        assert!((answer.chi_squared - 1.1025).abs() < 1e-9);
        assert!((answer.p - 0.2937).abs() < 1e-4);
    }

    #[test]
    fn a_lost_tenth_of_the_canary_is_noticed_and_a_sound_ratio_is_not() {
        assert!(sample_ratio(8_500, 1_350, 0.15).unwrap().p < 0.001);
        assert!(sample_ratio(8_500, 1_490, 0.15).unwrap().p > 0.5);
    }

    #[test]
    fn a_handful_of_sessions_says_nothing() {
        assert_eq!(sample_ratio(20, 3, 0.15), None);
        assert_eq!(sample_ratio(0, 0, 0.15), None);
        assert_eq!(sample_ratio(100, 100, 0.0), None);
    }
}
