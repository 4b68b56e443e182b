//! What the clocks of this host say, and how far they may be from the truth: by each other, and from UTC.
//!
//! A stamp's own uncertainty, such as [`software`] states it, is by the clock that it was read off: it enters every difference of two
//! stamps. How far that clock is from UTC enters one-way delay alone, by way of the [`ErrorEstimate`] in each packet.

mod steps;
mod unconfirmed;

use std::{io, sync::OnceLock};

use pathlab_record::{Clock, Interval, Monotonic, Reading, Realtime, Stamp, Time};
use pathlab_xdp::{
    NicClock,
    clock::{Discipline, reading_cost},
};
use serde::Serialize;

pub use self::steps::Steps;
pub(crate) use self::{
    steps::{StepWatch, is_in_doubt, nothing_known},
    unconfirmed::Unconfirmed,
};
use crate::{
    sys,
    wire::{ErrorEstimate, WireTime},
};

/// `CLOCK_REALTIME` now.
pub fn realtime_now() -> Time<Realtime> {
    Time::from_nanos(sys::clock_nanos(libc::CLOCK_REALTIME))
}

/// `CLOCK_MONOTONIC` now.
pub fn monotonic_now() -> Time<Monotonic> {
    Time::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC))
}

/// What reading a clock costs on this host, in nanoseconds, measured once: the uncertainty of a stamp by software.
pub fn software_uncertainty() -> u64 {
    static COST: OnceLock<u64> = OnceLock::new();
    *COST.get_or_init(reading_cost)
}

/// What software of this host has read, with its uncertainty.
pub fn software<C: Clock>(time: Time<C>) -> Reading<C> {
    Reading::new(time, software_uncertainty())
}

/// A stamp out of a packet, by the sender's own clock. The field resolves a nanosecond or less; how surely it was read there, the packet
/// does not say.
pub fn from_wire(time: WireTime) -> Stamp {
    const RESOLUTION: u64 = 1;
    match time {
        WireTime::Ntp(time) => Reading::new(time, RESOLUTION).into(),
        WireTime::Ptp(time) => Reading::new(time, RESOLUTION).into(),
    }
}

/// How far `CLOCK_REALTIME` may be from UTC, as `adjtimex` tells, and what reading it adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClockQuality {
    /// `STA_UNSYNC` is clear: some daemon holds the clock to a reference.
    pub synchronised: bool,
    /// `maxerror` in nanoseconds: the bound, not the guess `esterror`. Grows by 500 ppm while nobody corrects, up to 16 s.
    pub max_error: u64,
    /// What reading the clock costs, in nanoseconds.
    pub reading_cost: u64,
}

impl ClockQuality {
    /// Where the kernel does not tell: its own worst case, 16 s.
    pub const UNKNOWN: Self = Self { synchronised: false, max_error: 16_000_000_000, reading_cost: 0 };

    /// Asks the kernel.
    ///
    /// # Errors
    /// `adjtimex` as the kernel gave it; a sandbox may forbid it.
    pub fn measure() -> io::Result<Self> {
        let Discipline { synchronised, max_error, .. } = Discipline::measure()?;
        Ok(Self { synchronised, max_error, reading_cost: software_uncertainty() })
    }

    /// How long the estimates hold, before the kernel is to be asked again: until its bound, which grows by 500 ppm, has doubled; 10 ms to 1 s.
    pub fn holds(self) -> Interval {
        Interval::from_nanos((self.max_error.saturating_mul(2000)).clamp(10_000_000, 1_000_000_000) as i64)
    }

    /// For the wire, of software stamps: rounded up, bit S only where it is earned. [Holds](Self::holds) a while.
    pub fn error_estimate(self) -> ErrorEstimate {
        self.with(self.reading_cost, self.synchronised)
    }

    /// The same where stamps may be a card's: those are off by what telling them in UTC adds, and S asks that this be known.
    pub fn error_estimate_of(self, nic_clock: Option<&dyn NicClock>) -> ErrorEstimate {
        match nic_clock.map(NicClock::uncertainty) {
            None => self.error_estimate(),
            Some(Some(told)) => self.with(self.reading_cost.max(told), self.synchronised),
            Some(None) => self.with(self.reading_cost, false),
        }
    }

    fn with(self, stamp: u64, synchronised: bool) -> ErrorEstimate {
        // whoever asks again is late by a fifth at most, or by a scheduler's whim that no bound covers
        let growth = self.holds().as_nanos().unsigned_abs() * 12 / 10 / 2000;
        let error = self.max_error.saturating_add(growth).saturating_add(stamp);
        ErrorEstimate::from_nanos(error, synchronised)
    }
}

#[cfg(test)]
mod tests;
