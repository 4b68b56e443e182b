//! How a share rises with a dose: the probit line, for finding the size at which experiments succeed often enough.
//!
//! D. J. Finney, *Probit Analysis* (1971): `P(success) = Φ(a + b x)`, fitted by maximum likelihood (Fisher scoring).

use statrs::distribution::{Continuous, ContinuousCDF};

use crate::interval::normal;

/// A fitted line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probit {
    /// `a`.
    intercept: f64,
    /// `b`.
    slope: f64,
}

impl Probit {
    /// Fits (x, successes, trials). `None` where the points do not say how the share rises: fewer than two different x, or no rise.
    pub fn fit(points: &[(f64, u32, u32)]) -> Option<Self> {
        let trials: f64 = points.iter().map(|(.., trials)| f64::from(*trials)).sum();
        let mean = points.iter().map(|(x, _, trials)| x * f64::from(*trials)).sum::<f64>() / trials;
        let spread = points.iter().map(|(x, ..)| (x - mean).abs()).fold(0.0, f64::max);
        if spread <= 0.0 || spread.is_nan() {
            return None;
        }
        // Half a success and half a failure at each point keep the line finite where all succeeded or all failed.
        let points = points
            .iter()
            .map(|&(x, successes, trials)| ((x - mean) / spread, f64::from(successes) + 0.5, f64::from(trials) + 1.0));
        let points: Vec<_> = points.collect();
        let (mut a, mut b) = (0.0_f64, 1.0_f64);
        for _ in 0..100 {
            let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for &(x, successes, trials) in &points {
                let at = (a + b * x).clamp(-6.0, 6.0);
                let (p, density) = (normal().cdf(at), normal().pdf(at));
                let weight = density / (p * (1.0 - p));
                let score = weight * (successes - trials * p);
                let information = trials * density * weight;
                ga += score;
                gb += score * x;
                haa += information;
                hab += information * x;
                hbb += information * x * x;
            }
            let determinant = haa * hbb - hab * hab;
            if determinant <= 1e-12 {
                return None;
            }
            let step = [(hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant];
            let step = step.map(|step: f64| step.clamp(-2.0, 2.0));
            a += step[0];
            b += step[1];
            if step[0].abs() + step[1].abs() < 1e-10 {
                break;
            }
        }
        (b > 0.0).then(|| Self { intercept: a - b * mean / spread, slope: b / spread })
    }

    /// The x at which the share is `p`, between 0 and 1, exclusive; `None` outside.
    pub fn reaches(&self, p: f64) -> Option<f64> {
        (p > 0.0 && p < 1.0).then(|| (normal().inverse_cdf(p) - self.intercept) / self.slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let share = |x: f64| (normal().cdf(-2.0 + 0.5 * x) * 1e6).round() as u32;
        let points: Vec<_> = [1.0, 3.0, 4.0, 5.0, 8.0].map(|x| (x, share(x), 1_000_000)).to_vec();
        let line = Probit::fit(&points).unwrap();
        assert!((line.reaches(0.5).unwrap() - 4.0).abs() < 1e-3, "{line:?}");
        assert!((line.reaches(0.85).unwrap() - (2.0 + 1.0364) / 0.5).abs() < 2e-3, "{line:?}");
    }

    #[test]
    fn what_does_not_rise_has_no_line() {
        assert_eq!(Probit::fit(&[]), None);
        assert_eq!(Probit::fit(&[(1.0, 5, 10)]), None);
        assert_eq!(Probit::fit(&[(1.0, 90, 100), (2.0, 10, 100)]), None);
        let all = Probit::fit(&[(1.0, 0, 24), (2.0, 24, 24)]).unwrap();
        assert!((all.reaches(0.5).unwrap() - 1.5).abs() < 1e-6);
        assert_eq!(all.reaches(1.0), None);
    }
}
