//! Limits on replies by source, by network and in all, in memory that no number of sources can make grow.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicI64, Ordering},
};

use pathlab_record::{Monotonic, Time};

pub use pathlab_xdp::{Limits, RateLimit};

use super::Reason;

/// Buckets. A source is hashed to one by a key that is drawn when the limiter is made, so that none can aim at another's.
const BUCKETS: usize = 1 << 16;

/// [`Limits`] with what is left of them. Reflectors that share one, as the workers of several queues do, share what it admits.
pub struct Limiter {
    limits: Limits,
    source: Option<Buckets>,
    prefix: Option<Buckets>,
    total: Option<Buckets>,
}

impl Limiter {
    /// Every bucket full.
    pub fn new(limits: Limits) -> Self {
        let many = |limit| Buckets::new(limit, BUCKETS);
        Self {
            limits,
            source: limits.source.map(many),
            prefix: limits.prefix.map(many),
            total: limits.total.map(|limit| Buckets::new(limit, 1)),
        }
    }

    /// What it was made from.
    pub fn limits(&self) -> &Limits {
        &self.limits
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
        Self {
            cost: limit.cost(),
            depth: limit.depth(),
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
    use std::num::NonZeroU32;

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

    /// The driver's program plays the same.
    #[test]
    fn shared_vectors_are_admitted_as_they_say() {
        let mut conversations = 0;
        for line in include_str!("../../../xdp/tests/vectors/rate-limits.txt").lines() {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [name, limits, steps @ ..] = &fields[..] else { continue };
            if name.starts_with('#') {
                continue;
            }
            let limits: Vec<_> = limits.split_whitespace().map(limit).collect();
            let [source, prefix, total] = limits[..] else { panic!("not three limits: {line}") };
            let limiter = Limiter::new(Limits { source, prefix, total });
            for step in steps {
                let (time, step) = step.split_once(':').expect("a time");
                let (sources, verdicts) = step.split_once('=').expect("verdicts");
                let now = millis(time.parse().expect("milliseconds"));
                let admitted: String = expand(sources).map(|source| letter(limiter.admit(source, now))).collect();
                assert_eq!(admitted, verdicts.trim(), "{name} at {time}");
            }
            conversations += 1;
        }
        assert!(conversations >= 8, "{conversations}");
    }

    fn limit(text: &str) -> Option<RateLimit> {
        let (per_second, burst) = text.split_once('/').expect("a rate and a burst");
        (text != "-/-").then(|| rate(per_second.parse().expect("a rate"), burst.parse().expect("a burst"))).flatten()
    }

    /// `2 x 192.0.2.1 ::1`: the first twice.
    fn expand(sources: &str) -> impl Iterator<Item = IpAddr> {
        let mut words = sources.split_whitespace().peekable();
        let mut all = Vec::new();
        while let Some(word) = words.next() {
            let count = if words.next_if_eq(&"x").is_some() { word.parse().expect("a count") } else { 1 };
            let source = if count > 1 { words.next().expect("a source") } else { word };
            all.extend(std::iter::repeat_n(source.parse::<IpAddr>().expect("an address"), count));
        }
        all.into_iter()
    }

    fn letter(verdict: Result<(), Reason>) -> char {
        match verdict {
            Ok(()) => '+',
            Err(Reason::RateLimited) => 's',
            Err(Reason::PrefixRateLimited) => 'n',
            Err(Reason::TotalRateLimited) => 'a',
            Err(other) => panic!("{other}"),
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
