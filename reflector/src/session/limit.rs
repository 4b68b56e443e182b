//! Limits on replies by source, by network and in all, in memory that no number of sources can make grow.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicI64, Ordering},
};

use pathlab_record::{Monotonic, Time};

use super::Reason;

/// Buckets. A source is hashed to one by a key that is drawn when the limiter is made, so that none can aim at another's.
const BUCKETS: usize = 1 << 16;

/// How much may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Replies a second in the long run.
    pub per_second: NonZeroU32,
    /// Replies at once after a pause.
    pub burst: NonZeroU32,
}

impl RateLimit {
    /// So many a second, and as many at once.
    pub fn per_second(per_second: NonZeroU32) -> Self {
        Self { per_second, burst: per_second }
    }
}

/// How many replies there may be; no limit where one is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// To one source: an IPv4 address or an IPv6 /64, within which addresses cost nothing.
    pub source: Option<RateLimit>,
    /// To one network: an IPv4 /24 or an IPv6 /48, what one site usually has. It holds when a sender has many addresses, or claims
    /// them.
    pub prefix: Option<RateLimit>,
    /// To everybody.
    pub total: Option<RateLimit>,
}

/// [`Limits`] with what is left of them. Reflectors that share one, as the workers of several queues do, share what it admits.
pub struct Limiter {
    source: Option<Buckets>,
    prefix: Option<Buckets>,
    total: Option<Buckets>,
}

impl Limiter {
    /// Every bucket full.
    pub fn new(limits: Limits) -> Self {
        let many = |limit| Buckets::new(limit, BUCKETS);
        Self {
            source: limits.source.map(many),
            prefix: limits.prefix.map(many),
            total: limits.total.map(|limit| Buckets::new(limit, 1)),
        }
    }

    /// Takes a token of every limit, or says which has none. The narrowest is asked first, so that a source that is refused for its
    /// own rate takes nothing from others.
    pub(super) fn admit(&self, source: IpAddr, now: Time<Monotonic>) -> Result<(), Reason> {
        let (v4, bits) = match source {
            IpAddr::V4(v4) => (true, u64::from(v4.to_bits())),
            IpAddr::V6(v6) => (false, (v6.to_bits() >> 64) as u64),
        };
        let network = if v4 { bits >> 8 } else { bits >> 16 };
        for (buckets, key, reason) in [
            (&self.source, bits, Reason::RateLimited),
            (&self.prefix, network, Reason::PrefixRateLimited),
            (&self.total, 0, Reason::TotalRateLimited),
        ] {
            if buckets.as_ref().is_some_and(|buckets| !buckets.admits((v4, key), now)) {
                return Err(reason);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive() // a hundred thousand buckets tell nothing
    }
}

/// Token buckets, each kept as the time at which it is full again (GCRA). Keys that hash to the same bucket share it.
struct Buckets {
    /// Nanoseconds that one reply costs.
    cost: i64,
    /// Nanoseconds that a bucket may be in debt.
    depth: i64,
    full_at: Box<[AtomicI64]>,
    hasher: RandomState,
}

impl Buckets {
    fn new(limit: RateLimit, count: usize) -> Self {
        let cost = 1_000_000_000 / i64::from(limit.per_second.get());
        Self {
            cost,
            depth: cost.saturating_mul(i64::from(limit.burst.get())),
            full_at: (0..count).map(|_| AtomicI64::new(i64::MIN)).collect(),
            hasher: RandomState::new(),
        }
    }

    fn admits(&self, key: (bool, u64), now: Time<Monotonic>) -> bool {
        let now = now.as_nanos();
        let bucket = &self.full_at[self.hasher.hash_one(key) as usize % self.full_at.len()];
        // A bucket is a number of its own and guards nothing else: no ordering is needed.
        let taken = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = full_at.max(now).saturating_add(self.cost);
            (full_at.saturating_sub(now) <= self.depth).then_some(full_at)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Option<RateLimit> {
        let nonzero = |n| NonZeroU32::new(n).expect("not zero");
        Some(RateLimit { per_second: nonzero(per_second), burst: nonzero(burst) })
    }

    const fn millis(n: i64) -> Time<Monotonic> {
        Time::from_nanos(n * 1_000_000)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limiter = Limiter::new(Limits { source: rate(100, 5), ..Limits::default() });
        let source = IpAddr::from([192, 0, 2, 1]);
        let admitted = |at: i64, tries: usize| (0..tries).filter(|_| limiter.admit(source, millis(at)).is_ok()).count();
        assert_eq!(admitted(1000, 20), 5);
        assert_eq!(admitted(1009, 20), 0);
        assert_eq!(admitted(1010, 20), 1);
        assert_eq!(admitted(1030, 20), 2);
        assert_eq!(admitted(60_000, 20), 5, "a pause fills the bucket and no more");
        let second: usize = (60_001..61_001).map(|at| admitted(at, 3)).sum();
        assert_eq!(second, 100);
    }

    #[test]
    fn an_ipv6_source_is_its_64_bit_network() {
        let limiter = Limiter::new(Limits { source: rate(1, 1), ..Limits::default() });
        let admit = |address: &str| limiter.admit(address.parse().expect("an address"), millis(0));
        assert_eq!(admit("2001:db8::1"), Ok(()));
        assert_eq!(admit("2001:db8::ffff:2"), Err(Reason::RateLimited));
    }

    #[test]
    fn a_network_and_all_have_limits_of_their_own() {
        let limits = Limits { source: rate(10, 2), prefix: rate(10, 4), total: rate(10, 7) };
        let limiter = Limiter::new(limits);
        let admit = |address: &str| limiter.admit(address.parse().expect("an address"), millis(0)).err();
        let (source, prefix, total) =
            (Some(Reason::RateLimited), Some(Reason::PrefixRateLimited), Some(Reason::TotalRateLimited));
        assert_eq!(["192.0.2.1"; 3].map(admit), [None, None, source]);
        assert_eq!(["192.0.2.2"; 2].map(admit), [None, None]);
        assert_eq!(admit("192.0.2.3"), prefix, "five of one /24");
        assert_eq!(["192.0.3.1"; 2].map(admit), [None, None]);
        assert_eq!(["2001:db8::1", "2001:db9::1"].map(admit), [None, total]);
    }

    #[test]
    fn networks_are_24_and_48_bits_wide() {
        let limiter = || Limiter::new(Limits { prefix: rate(1, 1), ..Limits::default() });
        for (one, same, other) in
            [("192.0.2.1", "192.0.2.254", "192.0.3.1"), ("2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:2::1")]
        {
            let limiter = limiter();
            let admit = |address: &str| limiter.admit(address.parse().expect("an address"), millis(0)).is_ok();
            assert_eq!([one, same, other].map(admit), [true, false, true]);
        }
    }

    #[test]
    fn workers_that_share_a_limiter_share_its_rate() {
        let limiter = Limiter::new(Limits { total: rate(1, 1000), ..Limits::default() });
        let admitted = std::thread::scope(|scope| {
            let work = |worker: u8| {
                let limiter = &limiter;
                let source = IpAddr::from([192, 0, 2, worker]);
                scope.spawn(move || (0..1000).filter(|_| limiter.admit(source, millis(0)).is_ok()).count())
            };
            let workers: Vec<_> = (0..4).map(work).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum::<usize>()
        });
        assert_eq!(admitted, 1000);
    }
}
