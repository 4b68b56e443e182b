//! When a shaped link may send its next packet: tokens come at the rate and are kept up to the burst.

use std::time::Duration;

/// A token bucket, in exact arithmetic: tokens are counted in bits times nanoseconds per second, so nothing is rounded away.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: u64,
    /// Bits times 10^9.
    depth: u128,
    tokens: u128,
    filled_at: Duration,
}

const NANOSECONDS: u128 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket of `burst` bytes, filled at `rate` bits per second.
    ///
    /// # Panics
    /// When the rate is zero: nothing would ever be sent.
    pub fn new(rate: u64, burst: u32) -> Self {
        assert!(rate > 0, "a token bucket needs a rate");
        let depth = u128::from(burst) * 8 * NANOSECONDS;
        Self { rate, depth, tokens: depth, filled_at: Duration::ZERO }
    }

    /// Takes what a packet of `bytes` costs at `now`, or says when there will be enough; `None` when the bucket can never hold that much.
    pub fn take(&mut self, now: Duration, bytes: u32) -> Option<Result<(), Duration>> {
        let elapsed = now.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        self.tokens = self.depth.min(self.tokens + elapsed.as_nanos() * u128::from(self.rate));
        let cost = u128::from(bytes) * 8 * NANOSECONDS;
        if cost > self.depth {
            return None;
        }
        if cost <= self.tokens {
            self.tokens -= cost;
            return Some(Ok(()));
        }
        let wait = (cost - self.tokens).div_ceil(u128::from(self.rate));
        Some(Err(self.filled_at + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_bucket_lets_its_burst_through_and_then_the_rate() {
        let mut bucket = TokenBucket::new(10_000_000, 3000);
        assert_eq!(bucket.take(Duration::ZERO, 1500), Some(Ok(())));
        assert_eq!(bucket.take(Duration::ZERO, 1500), Some(Ok(())));
        let next = Duration::from_micros(1200);
        assert_eq!(bucket.take(Duration::ZERO, 1500), Some(Err(next)));
        assert_eq!(bucket.take(next, 1500), Some(Ok(())));
        assert_eq!(bucket.take(next, 3001), None);
    }

    proptest! {
        #[test]
        fn what_passes_is_the_rate_and_one_burst_at_most(rate in 8_000u64..1_000_000_000, sizes in prop::collection::vec(60u32..1500, 1..200)) {
            let mut bucket = TokenBucket::new(rate, 3000);
            let (mut now, mut bits) = (Duration::ZERO, 0u128);
            for bytes in sizes {
                while let Some(Err(later)) = bucket.take(now, bytes) {
                    prop_assert!(later > now);
                    now = later;
                }
                bits += u128::from(bytes) * 8;
                prop_assert!(bits * NANOSECONDS <= 3000 * 8 * NANOSECONDS + now.as_nanos() * u128::from(rate));
            }
        }
    }
}
