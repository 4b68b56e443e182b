//! The arithmetic of CoDel's two versions: how they count time, and how far apart they space their drops.

use std::time::Duration;

use super::Flavour;

/// An instant in the units of the law: nanoseconds for the RFC, 32 bits of 1,024 ns that wrap for Linux.
pub(super) type Instant = u64;

/// The arithmetic in which the two versions differ.
#[derive(Clone, Copy, Debug)]
pub(super) enum Law {
    Rfc8289,
    Linux {
        /// 1/√count as a fraction of 2^16.
        reciprocal_root: u16,
    },
}

impl Law {
    pub(super) fn of(flavour: Flavour) -> Self {
        match flavour {
            Flavour::Rfc8289 => Self::Rfc8289,
            Flavour::Linux => Self::Linux { reciprocal_root: 0 },
        }
    }

    /// A length of time in the law's units.
    pub(super) fn units(self, time: Duration) -> u64 {
        let nanoseconds = time.as_nanos() as u64;
        match self {
            Self::Rfc8289 => nanoseconds,
            Self::Linux { .. } => nanoseconds >> 10,
        }
    }

    pub(super) fn instant(self, time: Duration) -> Instant {
        match self {
            Self::Rfc8289 => self.units(time),
            Self::Linux { .. } => u64::from(self.units(time) as u32),
        }
    }

    pub(super) fn later(self, from: Instant, by: u64) -> Instant {
        match self {
            Self::Rfc8289 => from + by,
            Self::Linux { .. } => u64::from((from as u32).wrapping_add(by as u32)),
        }
    }

    /// From `then` to `now`; zero when `then` is still to come.
    pub(super) fn span(self, now: Instant, then: Instant) -> u64 {
        match self {
            Self::Rfc8289 => now.saturating_sub(then),
            Self::Linux { .. } => (now as u32).wrapping_sub(then as u32).cast_signed().max(0) as u64,
        }
    }

    /// Whether the interval that ends at `end` is over: reached for the RFC, passed for Linux.
    pub(super) fn is_over(self, now: Instant, end: Instant) -> bool {
        match self {
            Self::Rfc8289 => now >= end,
            Self::Linux { .. } => (now as u32).wrapping_sub(end as u32).cast_signed() > 0,
        }
    }

    pub(super) fn is_due(self, now: Instant, due: Instant) -> bool {
        match self {
            Self::Rfc8289 => now >= due,
            Self::Linux { .. } => (now as u32).wrapping_sub(due as u32).cast_signed() >= 0,
        }
    }

    /// The count is 1 again.
    pub(super) fn reset(&mut self) {
        if let Self::Linux { reciprocal_root } = self {
            *reciprocal_root = u16::MAX;
        }
    }

    /// The count has changed to `count`: one step of Newton's method for 1/√count, x(3 - count·x²)/2, in 32-bit fixed point.
    pub(super) fn step(&mut self, count: u32) {
        let Self::Linux { reciprocal_root } = self else { return };
        let root = u64::from(*reciprocal_root) << 16;
        let square = (root * root) >> 32;
        let factor = (3u64 << 32).wrapping_sub(u64::from(count) * square) >> 2;
        *reciprocal_root = (factor.wrapping_mul(root) >> 31 >> 16) as u16;
    }

    /// interval / √count.
    pub(super) fn spacing(self, interval: u64, count: u32) -> u64 {
        match self {
            Self::Rfc8289 => (interval as f64 / f64::from(count).sqrt()) as u64,
            Self::Linux { reciprocal_root } => (interval * (u64::from(reciprocal_root) << 16)) >> 32,
        }
    }
}
