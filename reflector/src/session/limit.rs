//! A rate limit per source in memory that no number of sources can make grow.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
};

use pathlab_record::{Monotonic, Time};

/// Buckets. A source is hashed to one by a key that is drawn when the limiter is made, so that none can aim at another's.
const BUCKETS: usize = 1 << 16;

/// How much one source may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Replies a second in the long run.
    pub per_second: NonZeroU32,
    /// Replies at once after a pause.
    pub burst: NonZeroU32,
}

/// Token buckets, kept as the time at which each is full again (GCRA). Sources that hash to the same bucket share it; a source is
/// an IPv4 address or an IPv6 /64, within which addresses cost nothing.
pub(super) struct RateLimiter {
    /// Nanoseconds that one reply costs.
    cost: i64,
    /// Nanoseconds that a bucket may be in debt.
    depth: i64,
    full_at: Box<[i64]>,
    hasher: RandomState,
}

impl RateLimiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        let cost = 1_000_000_000 / i64::from(limit.per_second.get());
        Self {
            cost,
            depth: cost.saturating_mul(i64::from(limit.burst.get())),
            full_at: vec![i64::MIN; BUCKETS].into(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one token of `source`, or says that there is none.
    pub(super) fn admits(&mut self, source: IpAddr, now: Time<Monotonic>) -> bool {
        let key = match source {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let bucket = &mut self.full_at[self.hasher.hash_one((source.is_ipv4(), key)) as usize % BUCKETS];
        let full_at = (*bucket).max(now.as_nanos()).saturating_add(self.cost);
        let admitted = full_at.saturating_sub(now.as_nanos()) <= self.depth;
        if admitted {
            *bucket = full_at;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32, burst: u32) -> RateLimiter {
        let nonzero = |n| NonZeroU32::new(n).expect("not zero");
        RateLimiter::new(RateLimit { per_second: nonzero(per_second), burst: nonzero(burst) })
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut limiter = limiter(100, 5);
        let source = IpAddr::from([192, 0, 2, 1]);
        let admitted = |limiter: &mut RateLimiter, millis: i64, tries: usize| {
            (0..tries).filter(|_| limiter.admits(source, Time::from_nanos(millis * 1_000_000))).count()
        };
        assert_eq!(admitted(&mut limiter, 1000, 20), 5);
        assert_eq!(admitted(&mut limiter, 1009, 20), 0);
        assert_eq!(admitted(&mut limiter, 1010, 20), 1);
        assert_eq!(admitted(&mut limiter, 1030, 20), 2);
        assert_eq!(admitted(&mut limiter, 60_000, 20), 5, "a pause fills the bucket and no more");
        let second: usize = (60_001..61_001).map(|millis| admitted(&mut limiter, millis, 3)).sum();
        assert_eq!(second, 100);
    }

    #[test]
    fn an_ipv6_source_is_its_64_bit_network() {
        let mut limiter = limiter(1, 1);
        let now = Time::from_nanos(0);
        assert!(limiter.admits("2001:db8::1".parse().expect("an address"), now));
        assert!(!limiter.admits("2001:db8::ffff:2".parse().expect("an address"), now));
    }
}
