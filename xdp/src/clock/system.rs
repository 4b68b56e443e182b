//! What the kernel says of its own clock, and when that was set: software stamps are read off it, and cards are compared with it.

use std::io;

use pathlab_record::{Interval, Monotonic, Realtime, Time};

use super::{Void, sys};

/// The kernel's word on `CLOCK_REALTIME`, as `adjtimex` gives it (`man 2 adjtimex`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Discipline {
    /// `STA_UNSYNC` is clear: some daemon holds the clock to a reference.
    pub synchronised: bool,
    /// `maxerror` in nanoseconds: the bound on the distance from UTC. Grows by 500 ppm while nobody corrects, up to 16 s.
    pub max_error: u64,
    /// `esterror` in nanoseconds: the daemon's guess, no bound.
    pub estimated_error: u64,
    /// `freq`: the correction of the clock's rate, in parts per million.
    pub frequency_ppm: f64,
    /// TAI minus UTC in seconds: 37 since 2017, but 0 where nobody has told the kernel.
    pub tai_minus_utc: i32,
    /// A leap second comes at the end of this UTC day, or runs now (`STA_INS`, `STA_DEL`).
    pub leap_pending: bool,
    /// All bits of `status`, `STA_*`.
    pub status: i32,
}

impl Discipline {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `adjtimex` as the kernel gave it; a sandbox may forbid it.
    pub fn measure() -> io::Result<Self> {
        sys::read_timex().map(|timex| Self::read(&timex))
    }

    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // the fields are narrower on 32-bit machines
    fn read(timex: &libc::timex) -> Self {
        let nanos = |micros: i64| u64::try_from(micros).unwrap_or(0).saturating_mul(1000);
        Self {
            synchronised: timex.status & libc::STA_UNSYNC == 0,
            max_error: nanos(timex.maxerror.into()),
            estimated_error: nanos(timex.esterror.into()),
            // ppm with 16 bits of fraction
            frequency_ppm: timex.freq as f64 / 65_536.0,
            tai_minus_utc: timex.tai,
            leap_pending: timex.status & (libc::STA_INS | libc::STA_DEL) != 0,
            status: timex.status,
        }
    }
}

/// Both system clocks at once, and the kernel's TAI offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemLook {
    /// The middle of the two readings around the other one.
    pub monotonic: Time<Monotonic>,
    /// What `CLOCK_REALTIME` showed between them.
    pub realtime: Time<Realtime>,
    /// Half of what lies between them, in nanoseconds, rounded up.
    pub half_width: u64,
    /// TAI minus UTC in seconds; `None` where a sandbox forbids to ask.
    pub tai_minus_utc: Option<i32>,
}

impl SystemLook {
    /// Reads the clocks: the narrowest of a few attempts. Takes about a microsecond.
    pub fn take() -> Self {
        let tai_minus_utc = Discipline::measure().ok().map(|discipline| discipline.tai_minus_utc);
        let attempt = || {
            let before = sys::clock_nanos(libc::CLOCK_MONOTONIC);
            let realtime = sys::clock_nanos(libc::CLOCK_REALTIME);
            (before, realtime, sys::clock_nanos(libc::CLOCK_MONOTONIC))
        };
        let attempts = [(); 5].map(|()| attempt());
        let (before, realtime, after) =
            attempts.into_iter().min_by_key(|(before, _, after)| after - before).unwrap_or_else(attempt);
        let width = after - before;
        Self {
            monotonic: Time::from_nanos(before + width / 2),
            realtime: Time::from_nanos(realtime),
            half_width: width.unsigned_abs().div_ceil(2),
            tai_minus_utc,
        }
    }
}

/// `CLOCK_REALTIME` was set, or the kernel was told another TAI offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemStep {
    /// By how much REALTIME went forwards, give or take the width of both looks; zero where the offset alone has changed.
    pub by: Interval,
    /// TAI minus UTC in seconds, before and after: both differ by a leap second where REALTIME leapt by one, too. `None` where it is not known.
    pub tai_minus_utc: Option<(i32, i32)>,
    /// Stamps of REALTIME, and stamps of TAI told in UTC, that were taken in between are void.
    pub void: Void,
}

impl SystemStep {
    /// The clock went by a leap second, as it should: TAI did not step.
    pub fn is_leap_second(&self) -> bool {
        let Some((before, after)) = self.tai_minus_utc else { return false };
        let leapt = i64::from(before - after) * 1_000_000_000;
        leapt != 0 && (self.by.as_nanos() - leapt).abs() < 10_000_000
    }
}

/// Finds steps of `CLOCK_REALTIME` by its distance from `CLOCK_MONOTONIC`, which corrections of the rate move alike. Pure: looks are arguments.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWatch {
    last: Option<SystemLook>,
}

impl SystemWatch {
    /// Takes a look, in the order of their taking; says whether the clock was set since the last.
    pub fn observe(&mut self, look: SystemLook) -> Option<SystemStep> {
        let last = self.last.replace(look)?;
        let by = (look.realtime - last.realtime) - (look.monotonic - last.monotonic);
        let stepped = by.as_nanos().unsigned_abs() > look.half_width + last.half_width + 1;
        let tai_minus_utc = last.tai_minus_utc.zip(look.tai_minus_utc);
        let told = tai_minus_utc.is_some_and(|(before, after)| before != after);
        (stepped || told).then_some(SystemStep {
            by: if stepped { by } else { Interval::ZERO },
            tai_minus_utc,
            void: Void { from: last.monotonic, to: look.monotonic },
        })
    }
}

/// What a reading of `CLOCK_REALTIME` costs here, in nanoseconds: the median of many, at least the clock's resolution. The instant
/// that is read lies somewhere within, so that this is the uncertainty of every software stamp, by its own clock.
pub fn reading_cost() -> u64 {
    let mut costs = [0; 101];
    for cost in &mut costs {
        let before = sys::clock_nanos(libc::CLOCK_MONOTONIC);
        let _ = std::hint::black_box(sys::clock_nanos(libc::CLOCK_REALTIME));
        // two calls lie between the instants that are read before and after, one of them whole
        *cost = (sys::clock_nanos(libc::CLOCK_MONOTONIC) - before).unsigned_abs().div_ceil(2);
    }
    costs.sort_unstable();
    costs[costs.len() / 2].max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTC: i64 = 1_792_000_000_000_000_000;

    fn look(monotonic: i64, stepped: i64, tai_minus_utc: impl Into<Option<i32>>) -> SystemLook {
        SystemLook {
            monotonic: Time::from_nanos(monotonic),
            realtime: Time::from_nanos(UTC + monotonic + stepped),
            half_width: 30,
            tai_minus_utc: tai_minus_utc.into(),
        }
    }

    fn watch(looks: &[SystemLook]) -> Option<SystemStep> {
        let mut watch = SystemWatch::default();
        let (last, before) = looks.split_last().expect("looks");
        for look in before {
            assert_eq!(watch.observe(*look), None);
        }
        watch.observe(*last)
    }

    #[test]
    fn a_step_is_seen_beyond_the_width_of_the_looks() {
        assert_eq!(watch(&[look(0, 0, 37), look(5, 61, 37)]), None, "the looks themselves may lie so far apart");
        let step = watch(&[look(0, 0, 37), look(5, 20, 37), look(9, -80, 37)]).expect("a step");
        assert_eq!((step.by.as_nanos(), step.is_leap_second()), (-100, false));
        assert!(step.void.covers(Time::from_nanos(5)) && !step.void.covers(Time::from_nanos(4)));
    }

    #[test]
    fn a_leap_second_and_a_new_offset_are_told_apart() {
        let leap = watch(&[look(0, 0, 37), look(5, -1_000_000_000, 38)]).expect("a step");
        assert!(leap.is_leap_second());
        let told = watch(&[look(0, 0, 0), look(5, 0, 37)]).expect("the first word of a daemon");
        assert_eq!((told.by, told.is_leap_second()), (Interval::ZERO, false));
        assert_eq!(watch(&[look(0, 0, None), look(5, 0, 37)]), None, "nothing is known of a change");
        let step = watch(&[look(0, 0, None), look(5, -1_000_000_000, None)]).expect("REALTIME is seen all the same");
        assert!(!step.is_leap_second());
    }

    #[test]
    fn the_kernels_word_is_read_in_its_units() {
        let mut timex = sys::read_timex().expect("adjtimex");
        (timex.status, timex.maxerror, timex.esterror) = (libc::STA_PLL | libc::STA_INS, 1500, 20);
        (timex.freq, timex.tai) = (-65_536 * 3 / 2, 37);
        let read = Discipline::read(&timex);
        assert_eq!((read.max_error, read.estimated_error, read.frequency_ppm), (1_500_000, 20_000, -1.5));
        assert!(read.synchronised && read.leap_pending && read.tai_minus_utc == 37);
        timex.status |= libc::STA_UNSYNC;
        assert!(!Discipline::read(&timex).synchronised);
    }

    #[test]
    fn this_host_is_looked_at() {
        let (first, second) = (SystemLook::take(), SystemLook::take());
        assert!(first.monotonic <= second.monotonic);
        assert!(reading_cost() >= 1);
    }
}
