//! Looking before the end costs confidence; a spending function says how much of it a look may use.
//!
//! K. K. G. Lan and D. L. DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983). `fraction` is the share of the
//! planned information that has been seen, 0 to 1; the result is the probability of a false alarm that may have been spent by then.
//! The boundaries follow from it by the recursion of P. Armitage, C. K. McPherson and B. C. Rowe, J. R. Statist. Soc. A 132 (1969).

use statrs::distribution::{Continuous, ContinuousCDF};

use crate::interval::normal;

/// Steps of the numerical integration.
const STEPS: usize = 600;

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

/// The one-sided p that each look must reach, looks given as ascending fractions of the information: however often it is looked at, the
/// probability of ever reaching one by chance is what `spending` gives for the last.
///
/// # Panics
/// When the fractions do not ascend from above zero.
pub fn nominal(spending: impl Fn(f64) -> f64, looks: &[f64]) -> Vec<f64> {
    assert!(looks.windows(2).all(|pair| pair[0] < pair[1]) && looks.first().is_none_or(|first| *first > 0.0));
    let mut out = Vec::with_capacity(looks.len());
    // Density of the Brownian motion at the look before, on a grid up to that look's limit.
    let mut grid: Vec<(f64, f64)> = vec![(0.0, 1.0)];
    let (mut before, mut spent) = (0.0, 0.0);
    for &look in looks {
        let wanted = (spending(look) - spent).max(f64::MIN_POSITIVE);
        let step = (look - before).sqrt();
        let beyond = |limit: f64| grid.iter().map(|(at, mass)| mass * normal().sf((limit - at) / step)).sum::<f64>();
        let (mut low, mut high) = (-8.0 * look.sqrt(), 40.0 * look.sqrt());
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            *(if beyond(middle) > wanted { &mut low } else { &mut high }) = middle;
        }
        let limit = (low + high) / 2.0;
        out.push(normal().sf(limit / look.sqrt()));
        if out.len() == looks.len() {
            break;
        }
        let lowest = -8.0 * look.sqrt();
        let width = (limit.min(8.0 * look.sqrt()) - lowest) / STEPS as f64;
        let density = |x: f64| grid.iter().map(|(at, mass)| mass * normal().pdf((x - at) / step) / step).sum::<f64>();
        // The midpoint rule: the density is smooth and the grid fine.
        let next = (0..STEPS).map(|place| lowest + (place as f64 + 0.5) * width).map(|x| (x, density(x) * width));
        grid = next.collect();
        (before, spent) = (look, spending(look));
    }
    out
}

/// Probability that the last look would reach one-sided `p` if things go on as they did: `z` is the standardised effect at `fraction` of the
/// information. Below a tenth, going on is hardly worth it (the current trend; K. K. G. Lan and J. Wittes, Biometrics 44 (1988)).
pub fn conditional_power(z: f64, fraction: f64, p: f64) -> f64 {
    let wanted = normal().inverse_cdf(1.0 - p);
    if fraction >= 1.0 {
        return f64::from(u8::from(z >= wanted));
    }
    let (seen, left) = (z * fraction.sqrt(), 1.0 - fraction);
    let drift = z / fraction.sqrt();
    normal().cdf((seen + drift * left - wanted) / left.sqrt())
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

    #[test]
    fn five_looks_have_the_published_boundaries() {
        // C. Jennison and B. W. Turnbull, Group Sequential Methods (2000); one-sided 0.025, five equal looks.
        let looks = [0.2, 0.4, 0.6, 0.8, 1.0];
        for (spend, published) in [
            (obrien_fleming as fn(f64, f64) -> f64, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
            (pocock, [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
        ] {
            for (p, z) in nominal(|fraction| spend(0.025, fraction), &looks).into_iter().zip(published) {
                let ours = normal().inverse_cdf(1.0 - p);
                assert!((ours - z).abs() < 0.002, "{ours} {z}");
            }
        }
        assert!((nominal(|fraction| obrien_fleming(0.01, fraction), &[1.0])[0] - 0.01).abs() < 1e-6);
    }

    #[test]
    fn conditional_power_goes_with_the_trend() {
        // Halfway with z = 2 and 1.96 wanted: B = 1.414, drift 2.828, so (1.414 + 1.414 - 1.96) / 0.7071 = 1.228.
        assert!((conditional_power(2.0, 0.5, 0.025) - 0.8902).abs() < 1e-3);
        assert!(conditional_power(0.0, 0.5, 0.025) < 0.01);
        assert_eq!(conditional_power(2.0, 1.0, 0.025), 1.0);
    }
}
