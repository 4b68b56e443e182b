//! Limits on replies, as the reflector's rules and the program in the driver have them, and the program's part of them: `bpf/rates.h`.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
};

use aya::EbpfLoader;

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

    /// Nanoseconds that one reply takes from a bucket.
    pub fn cost(self) -> i64 {
        1_000_000_000 / i64::from(self.per_second.get())
    }

    /// Nanoseconds that a full bucket holds.
    pub fn depth(self) -> i64 {
        self.cost().saturating_mul(i64::from(self.burst.get()))
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

/// `RATE_BUCKETS`.
const RATE_BUCKETS: u32 = 1 << 16;

/// What the program's read-only globals are to be.
pub(crate) struct Globals {
    /// Whether there is any limit.
    limited: u8,
    cost: [i64; 3],
    depth: [i64; 3],
    secret: u64,
    /// For test vectors: time stands still but for what is written to the map `RATE_CLOCK`.
    fixed_clock: u8,
    buckets: [u32; 2],
}

impl Globals {
    pub(crate) fn new(limits: &Limits, fixed_clock: bool) -> Self {
        let all = [limits.source, limits.prefix, limits.total];
        let buckets = |limit: Option<RateLimit>| if limit.is_some() { RATE_BUCKETS } else { 1 };
        Self {
            limited: u8::from(all.iter().any(Option::is_some)),
            cost: all.map(|limit| limit.map_or(0, RateLimit::cost)),
            depth: all.map(|limit| limit.map_or(0, RateLimit::depth)),
            // keyed by the kernel's randomness, and nobody is told
            secret: RandomState::new().hash_one("rates"),
            fixed_clock: fixed_clock.into(),
            buckets: [limits.source, limits.prefix].map(buckets),
        }
    }

    pub(crate) fn apply<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("LIMITED", &self.limited, true)
            .override_global("RATE_COST", &self.cost[..], true)
            .override_global("RATE_DEPTH", &self.depth[..], true)
            .override_global("RATE_SECRET", &self.secret, true)
            .override_global("FIXED_RATE_CLOCK", &self.fixed_clock, true)
            .map_max_entries("RATE_SOURCE", self.buckets[0])
            .map_max_entries("RATE_PREFIX", self.buckets[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_globals_are_those_of_the_header() {
        let header = include_str!("../bpf/abi.h");
        assert!(header.contains("#define RATE_BUCKETS 65536\n") && RATE_BUCKETS == 65_536);
        assert!(header.contains("RATE_OF_SOURCE,") && header.contains("RATE_LIMITS,"));
        let hundred = RateLimit::per_second(NonZeroU32::new(100).expect("not zero"));
        let globals = Globals::new(&Limits { prefix: Some(hundred), ..Limits::default() }, false);
        assert_eq!((globals.cost, globals.depth), ([0, 10_000_000, 0], [0, 1_000_000_000, 0]));
        assert_eq!(globals.buckets, [1, RATE_BUCKETS]);
        let none = Globals::new(&Limits::default(), false);
        assert_eq!((globals.limited, none.limited, none.cost), (1, 0, [0; 3]));
        let slowest = RateLimit { per_second: NonZeroU32::MIN, burst: NonZeroU32::MAX };
        assert_eq!(slowest.depth(), 4_294_967_295_000_000_000, "no more than a signed word holds");
    }
}
