//! Which clock a stamp was read off, and how it is told in UTC: cards and XDP programs count by clocks of their own.

use pathlab_record::{Interval, Reading, Realtime};

use crate::{Error, sys};

/// Tells a card's stamps in UTC: a fit of its clock (PHC) against this host's `CLOCK_REALTIME`. Shared by all who get such stamps.
pub trait NicClock: Send + Sync {
    /// N of `/dev/ptpN`: stamps that are left on the card's own clock are named by it, [`ClockId::Phc`](pathlab_record::ClockId::Phc).
    fn phc(&self) -> u32;

    /// What `CLOCK_REALTIME` showed when the card stamped `nic`, in nanoseconds of its own clock; ask within a second of the stamp.
    /// `None` while that cannot be told: the fit is young, or one of the two clocks has stepped.
    fn utc(&self, nic: i64) -> Option<Reading<Realtime>>;

    /// How surely a stamp of this moment can be told, in nanoseconds: what it adds to the error of `CLOCK_REALTIME` itself. `None`
    /// while it cannot.
    fn uncertainty(&self) -> Option<u64>;
}

/// TAI minus UTC as the kernel knows it: 37 s since 2017, but 0 on a host where no time daemon has set it, whose `CLOCK_TAI` then shows UTC.
///
/// # Errors
/// [`Error::Clock`], where a sandbox forbids `adjtimex`.
pub fn tai_minus_utc() -> Result<Interval, Error> {
    let seconds = sys::tai_offset().map_err(|source| Error::Clock { source })?;
    Ok(Interval::from_nanos(i64::from(seconds) * 1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_one_that_history_allows() {
        let seconds = tai_minus_utc().expect("adjtimex").as_nanos() / 1_000_000_000;
        assert!((0..100).contains(&seconds), "{seconds} s");
    }
}
