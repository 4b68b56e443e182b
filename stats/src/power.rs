//! "Too little data" means something only with the effect that could have been seen.

use statrs::distribution::ContinuousCDF;

use crate::{Confidence, interval::normal};

/// The smallest true difference that an interval of this confidence would have told from zero with probability `power`, given the standard
/// error that was reached: `(z(confidence) + z(power)) · se` (J. Cohen, *Statistical Power Analysis*, 1988).
pub fn smallest_detectable(standard_error: f64, confidence: Confidence, power: f64) -> f64 {
    (confidence.z() + normal().inverse_cdf(power)) * standard_error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_percent_power_at_95_takes_2_8_standard_errors() {
        assert!((smallest_detectable(2.0, Confidence::P95, 0.8) - 2.0 * 2.8016).abs() < 1e-3);
    }
}
