//! Which clock a stamp was read off, and how it is told in UTC: cards and XDP programs count by clocks of their own.
//!
//! ```text
//!  /dev/ptpN ── PTP_SYS_OFFSET_* ──► CrossStamp ──► Track: lines, steps, voids ──► Teller ──► UTC ± uncertainty
//!  (Phc, ClockDevice)                                (pure)                        (NicClock, PhcTracker)
//! ```
//!
//! Two errors are kept apart. The *uncertainty of a stamp* says how surely the stamp tells what `CLOCK_REALTIME` of this host showed
//! at the event: it is all that matters to differences within one host. How far `CLOCK_REALTIME` is from UTC is [`Discipline`]'s
//! to say: it cancels out of such differences, belongs to one-way delay alone, and travels in the STAMP Error Estimate.
//!
//! ```no_run
//! use pathlab_xdp::clock::{NicClock, Phc, PhcTracker};
//!
//! if let Some(phc) = Phc::of("eth1")? {
//!     let clock = PhcTracker::start(phc)?;
//!     clock.wait(std::time::Duration::from_secs(5));
//!     let stamp_of_the_card = 1_792_000_000_000_000_000;
//!     match clock.utc(stamp_of_the_card) {
//!         Some(utc) => println!("{:?} ± {} ns", utc.time, utc.uncertainty),
//!         None => println!("not to be told in UTC"),
//!     }
//! }
//! # Ok::<(), pathlab_xdp::Error>(())
//! ```

mod cross_stamp;
mod device;
mod fit;
mod sys;
mod system;
mod track;
mod tracker;
#[cfg(test)]
mod truth;

use pathlab_record::{Interval, Monotonic, Reading, Realtime, Time};

pub use cross_stamp::{CrossStamp, CrossStampMethod};
pub use device::{ClockDevice, Phc};
pub use fit::Wander;
pub use system::{Discipline, SystemLook, SystemStep, SystemWatch, reading_cost};
pub use track::{FitFacts, Observation, Teller, Track, Void, Vouch};
pub use tracker::{ClockFacts, PhcTracker};

use crate::Error;

/// Tells a card's stamps in UTC: a fit of its clock (PHC) against this host's `CLOCK_REALTIME`. Shared by all who get such stamps.
pub trait NicClock: Send + Sync {
    /// N of `/dev/ptpN`: stamps that are left on the card's own clock are named by it, [`ClockId::Phc`](pathlab_record::ClockId::Phc).
    fn phc(&self) -> u32;

    /// What `CLOCK_REALTIME` showed when the card stamped `nic`, in nanoseconds of its own clock; ask within a second of the stamp.
    /// `None` while that cannot be told: the fit is young, or one of the two clocks has stepped.
    fn utc(&self, nic: i64) -> Option<Reading<Realtime>>;

    /// How surely any stamp of this moment can be told, in nanoseconds: what it adds to the error of `CLOCK_REALTIME` itself. `None`
    /// while it cannot.
    fn uncertainty(&self) -> Option<u64>;

    /// Whether what the card stamped between `from` and `to` is true: what [`utc`](Self::utc) has told may be taken back by the next
    /// comparison of the clocks, a quarter of a second later at most. Ask before 2 s have passed.
    fn vouch(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Vouch;

    /// How far its stamps are confirmed at this moment.
    fn assurance(&self) -> Assurance;

    /// What is known of it, for people; `None` where nobody keeps account.
    fn facts(&self) -> Option<ClockFacts> {
        None
    }
}

/// How far a card's stamps are confirmed. What it stamped at an instant was told truly if a later assurance of the same fit is confirmed
/// beyond it; the host at the other end of a path learns no more of our clocks than this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assurance {
    /// Counts the fits, from anywhere: another one has begun where this has changed.
    pub fit: u32,
    /// How often one of the clocks has stepped since they are compared.
    pub steps: u64,
    /// The last good cross-stamp; `None` before the first of this fit.
    pub confirmed: Option<Time<Monotonic>>,
}

/// TAI minus UTC as the kernel knows it: 37 s since 2017, but 0 on a host where no time daemon has set it, whose `CLOCK_TAI` then shows UTC.
///
/// # Errors
/// [`Error::Clock`], where a sandbox forbids `adjtimex`.
pub fn tai_minus_utc() -> Result<Interval, Error> {
    let discipline = Discipline::measure().map_err(|source| Error::Clock { source })?;
    Ok(Interval::from_nanos(i64::from(discipline.tai_minus_utc) * 1_000_000_000))
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
