//! Rates that are counted by session: loss, dead sessions, sessions in the far tail.
//!
//! Packets are lost in bursts, so a thousand packets say less than a thousand coins. How much less is the design effect; a rate then gets
//! the interval of that many fewer packets. E. B. Wilson, J. Amer. Statist. Assoc. 22 (1927) for one rate, R. G. Newcombe, Statist. Med. 17
//! (1998), method 10, for a difference, and G. Zou and A. Donner, Statist. Med. 27 (2008) for a weighted sum over strata. None of the three
//! collapses to a point when no event was seen.

use statrs::distribution::{Binomial, DiscreteCDF};

use crate::{Confidence, Interval};

/// A rate seen on one arm of one stratum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The rate, 0 to 1.
    pub rate: f64,
    /// Trials that it is worth: packets over the design effect, or sessions.
    pub trials: f64,
}

/// Wilson's interval of one rate; without a trial, everything from 0 to 1.
pub fn wilson(rate: Rate, confidence: Confidence) -> Interval {
    let Rate { rate: p, trials: n } = rate;
    if n <= 0.0 {
        return Interval { estimate: p, low: 0.0, high: 1.0 };
    }
    let z2 = confidence.z().powi(2);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let reach = confidence.z() * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt() / (1.0 + z2 / n);
    Interval { estimate: p, low: (centre - reach).clamp(0.0, p), high: (centre + reach).clamp(p, 1.0) }
}

/// `Σ weight · (canary − control)` over strata given as (weight, control, canary), weights summing to one.
pub fn rate_difference(strata: &[(f64, Rate, Rate)], confidence: Confidence) -> Interval {
    let (mut estimate, mut below, mut above) = (0.0, 0.0, 0.0);
    for &(weight, control, canary) in strata {
        let (control, canary) = (wilson(control, confidence), wilson(canary, confidence));
        estimate += weight * (canary.estimate - control.estimate);
        below += weight.powi(2) * ((canary.estimate - canary.low).powi(2) + (control.high - control.estimate).powi(2));
        above += weight.powi(2) * ((canary.high - canary.estimate).powi(2) + (control.estimate - control.low).powi(2));
    }
    Interval { estimate, low: estimate - below.sqrt(), high: estimate + above.sqrt() }
}

/// How many times more a rate scatters between sessions than independent packets would (L. Kish, *Survey Sampling*, 1965; the ratio form of
/// J. N. K. Rao and A. J. Scott, Biometrics 48 (1992)). `sessions` are (events, packets) of one arm of one stratum; at least 1, and `None`
/// where no event or fewer than two sessions were seen.
pub fn design_effect(sessions: &[(u64, u64)]) -> Option<f64> {
    let (events, packets) = sessions.iter().fold((0, 0), |(e, n), &(events, packets)| (e + events, n + packets));
    if events == 0 || events == packets || sessions.len() < 2 {
        return None;
    }
    let p = events as f64 / packets as f64;
    let scatter: f64 = sessions.iter().map(|&(events, packets)| (events as f64 - p * packets as f64).powi(2)).sum();
    let count = sessions.len() as f64;
    let variance = count / (count - 1.0) * scatter / (packets as f64).powi(2);
    Some((variance / (p * (1.0 - p) / packets as f64)).max(1.0))
}

/// Probability that at least `seen` of `trials` coins that show heads with probability `p` do: the exact one-sided test of one rate.
pub fn binomial_tail(seen: u64, trials: u64, p: f64) -> f64 {
    match (seen, Binomial::new(p, trials)) {
        (0, _) => 1.0,
        (_, Ok(coins)) => coins.sf(seen - 1),
        (_, Err(_)) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_and_newcombe_give_the_published_examples() {
        // Newcombe 1998, one rate: 81/263 gives 0.2553 to 0.3662; 0/20 gives 0 to 0.1611.
        let one = wilson(Rate { rate: 81.0 / 263.0, trials: 263.0 }, Confidence::P95);
        assert!((one.low - 0.2553).abs() < 1e-4 && (one.high - 0.3662).abs() < 1e-4, "{one:?}");
        let none = wilson(Rate { rate: 0.0, trials: 20.0 }, Confidence::P95);
        assert!(none.low == 0.0 && (none.high - 0.1611).abs() < 1e-4, "{none:?}");
        // Difference, method 10: 56/70 - 48/80 gives 0.0524 to 0.3339.
        let two = rate_difference(
            &[(1.0, Rate { rate: 48.0 / 80.0, trials: 80.0 }, Rate { rate: 56.0 / 70.0, trials: 70.0 })],
            Confidence::P95,
        );
        assert!((two.low - 0.0524).abs() < 1e-4 && (two.high - 0.3339).abs() < 1e-4, "{two:?}");
    }

    #[test]
    fn ten_heads_of_ten_are_one_in_1024() {
        assert!((binomial_tail(10, 10, 0.5) - 1.0 / 1024.0).abs() < 1e-12);
        assert!((binomial_tail(8, 10, 0.5) - 56.0 / 1024.0).abs() < 1e-12);
        assert_eq!(binomial_tail(0, 10, 0.5), 1.0);
    }

    #[test]
    fn bursts_of_ten_are_worth_a_tenth() {
        // Every lossy session loses a burst of ten of its ten packets.
        let sessions: Vec<(u64, u64)> = (0..1_000).map(|i| (if i % 50 == 0 { 10 } else { 0 }, 10)).collect();
        let effect = design_effect(&sessions).unwrap();
        assert!((effect - 10.0).abs() < 0.1, "{effect}");
        assert_eq!(design_effect(&[(0, 10), (0, 10)]), None);
    }
}
