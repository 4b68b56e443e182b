//! Two things measured by turns: the difference of each pair, so that what drifts hits both.

use statrs::distribution::{Binomial, DiscreteCDF};

use crate::{Confidence, Interval, interval::sorted};

/// Median of the paired differences `after − before`, with the distribution-free interval of the sign test (order statistics of the
/// differences; W. J. Conover, *Practical Nonparametric Statistics*, section 3.2). The limits are infinite below the number of pairs that the
/// confidence takes (six for 95 %); `None` without a pair.
pub fn paired_median(pairs: &[(f64, f64)], confidence: Confidence) -> Option<Interval> {
    let differences = sorted(pairs.iter().map(|(before, after)| after - before));
    let n = differences.len();
    let middle = n.checked_sub(1)? / 2;
    let estimate = if n % 2 == 1 { differences[middle] } else { (differences[middle] + differences[middle + 1]) / 2.0 };
    // The k-th smallest is a lower limit when fewer than k of n fair coins show heads with at most the tail's probability.
    let coins = Binomial::new(0.5, n as u64).ok()?;
    let rank = (0..n as u64 / 2).take_while(|&k| coins.cdf(k) <= confidence.tail()).count();
    Some(match rank {
        0 => Interval { estimate, low: f64::NEG_INFINITY, high: f64::INFINITY },
        rank => Interval { estimate, low: differences[rank - 1], high: differences[n - rank] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_ranks_of_the_sign_test() {
        // n = 10: P(Bin <= 1) = 0.0107 and P(Bin <= 2) = 0.0547, so ranks 2 and 9.
        let pairs: Vec<_> = (1..=10).map(|i| (100.0, 100.0 + f64::from(i))).collect();
        assert_eq!(paired_median(&pairs, Confidence::P95), Some(Interval { estimate: 5.5, low: 2.0, high: 9.0 }));
    }

    #[test]
    fn too_few_pairs_bound_nothing() {
        let interval = paired_median(&[(1.0, 2.0); 5], Confidence::P95).unwrap();
        assert_eq!((interval.estimate, interval.low, interval.high), (1.0, f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!(paired_median(&[], Confidence::P95), None);
    }
}
