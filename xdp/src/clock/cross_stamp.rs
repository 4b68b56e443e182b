//! One look at a card's clock and at the system's at once, out of what the kernel's `PTP_SYS_OFFSET` calls give.

use std::fmt;

use pathlab_record::{Monotonic, Realtime, Time};
use serde::Serialize;

/// A card's clock showed `phc` while `CLOCK_REALTIME` was at `realtime`, give or take `half_width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossStamp {
    /// Nanoseconds of the card's clock.
    pub phc: i64,
    /// The middle of the two system readings around it.
    pub realtime: Time<Realtime>,
    /// Half of what lies between them, in nanoseconds, rounded up.
    pub half_width: u64,
    /// When it was begun: places it in time where one of the two clocks has stepped.
    pub began: Time<Monotonic>,
    /// When it was there.
    pub ended: Time<Monotonic>,
}

/// When the call that gave a cross-stamp was begun, and when it came back.
pub(super) type Span = (Time<Monotonic>, Time<Monotonic>);

/// How a driver lets its clock be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossStampMethod {
    /// `PTP_SYS_OFFSET_PRECISE`: the hardware latches both clocks at once.
    Precise,
    /// `PTP_SYS_OFFSET_EXTENDED`: the driver reads the system's clock right before and after its own register.
    Extended,
    /// `PTP_SYS_OFFSET`: the kernel reads the system's clock around the driver's whole function.
    Basic,
}

impl fmt::Display for CrossStampMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Precise => "PTP_SYS_OFFSET_PRECISE",
            Self::Extended => "PTP_SYS_OFFSET_EXTENDED",
            Self::Basic => "PTP_SYS_OFFSET",
        })
    }
}

/// What is said of a hardware cross-stamp, whose error no reading shows: PCIe Precision Time Measurement leaves the asymmetry of
/// the link, and the always running timer is told in REALTIME by the kernel's own scale. Tens of nanoseconds together.
pub(super) const PRECISE_HALF_WIDTH: u64 = 100;

/// Samples of one call: as many as the kernel takes.
pub(super) const SAMPLES: usize = libc::PTP_MAX_SAMPLES as usize;

fn nanos(time: &libc::ptp_clock_time) -> i64 {
    time.sec.wrapping_mul(1_000_000_000).wrapping_add(time.nsec.into())
}

/// The narrowest of some (before, card, after); `None` where the system's clock went backwards in all of them.
fn narrowest(samples: impl Iterator<Item = [i64; 3]>, span: Span) -> Option<CrossStamp> {
    let width = |[before, _, after]: &[i64; 3]| after.wrapping_sub(*before);
    let [before, phc, after] = samples.filter(|sample| width(sample) >= 0).min_by_key(width)?;
    let width = after - before;
    let realtime = Time::from_nanos(before + width / 2);
    Some(CrossStamp { phc, realtime, half_width: (width as u64).div_ceil(2), began: span.0, ended: span.1 })
}

/// Reads a `struct ptp_sys_offset_extended`.
pub(super) fn from_extended(answer: &libc::ptp_sys_offset_extended, span: Span) -> Option<CrossStamp> {
    let samples = answer.ts.iter().take(answer.n_samples as usize);
    narrowest(samples.map(|sample| [0, 1, 2].map(|place| nanos(&sample[place]))), span)
}

/// Reads a `struct ptp_sys_offset`: system, card, system, card, …, system.
pub(super) fn from_basic(answer: &libc::ptp_sys_offset, span: Span) -> Option<CrossStamp> {
    let places = (0..SAMPLES.min(answer.n_samples as usize)).map(|sample| 2 * sample);
    narrowest(places.map(|place| [place, place + 1, place + 2].map(|place| nanos(&answer.ts[place]))), span)
}

/// Reads a `struct ptp_sys_offset_precise`.
pub(super) fn from_precise(answer: &libc::ptp_sys_offset_precise, span: Span) -> CrossStamp {
    let (phc, realtime) = (nanos(&answer.device), Time::from_nanos(nanos(&answer.sys_realtime)));
    CrossStamp { phc, realtime, half_width: PRECISE_HALF_WIDTH, began: span.0, ended: span.1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = (Time::from_nanos(1), Time::from_nanos(2));

    fn time(sec: i64, nsec: u32) -> libc::ptp_clock_time {
        libc::ptp_clock_time { sec, nsec, reserved: 0 }
    }

    fn extended(samples: &[[(i64, u32); 3]]) -> libc::ptp_sys_offset_extended {
        let mut ts = [[time(0, 0); 3]; SAMPLES];
        for (to, from) in ts.iter_mut().zip(samples) {
            *to = from.map(|(sec, nsec)| time(sec, nsec));
        }
        libc::ptp_sys_offset_extended { n_samples: samples.len() as u32, clockid: 0, rsv: [0; 2], ts }
    }

    #[test]
    fn the_narrowest_sample_is_kept_and_its_half_width_rounded_up() {
        let answer = extended(&[
            [(1_792_000_000, 100), (1_792_000_037, 600), (1_792_000_000, 1_300)],
            [(1_792_000_000, 999_999_900), (1_792_000_038, 400), (1_792_000_001, 701)],
            // the system's clock was set back in the middle: no interval at all
            [(1_792_000_002, 0), (1_792_000_039, 0), (1_792_000_001, 0)],
        ]);
        let stamp = from_extended(&answer, SPAN).expect("samples");
        assert_eq!(stamp.phc, 1_792_000_038_000_000_400);
        assert_eq!(stamp.realtime, Time::from_nanos(1_792_000_000_999_999_900 + 400));
        assert_eq!((stamp.half_width, stamp.began, stamp.ended), (401, SPAN.0, SPAN.1));
    }

    #[test]
    fn clocks_before_their_epoch_are_read() {
        // the sign is that of the seconds; nanoseconds count forwards
        let stamp = from_extended(&extended(&[[(5, 0), (-1, 999_999_999), (5, 10)]]), SPAN).expect("a sample");
        assert_eq!(stamp.phc, -1);
    }

    #[test]
    fn the_interleaved_answer_shares_its_system_readings() {
        let mut ts = [time(0, 0); 51];
        for (place, nsec) in [1000, 5, 2000, 6, 2600, 7, 3900].into_iter().enumerate() {
            ts[place] = time(9, nsec);
        }
        let stamp = from_basic(&libc::ptp_sys_offset { n_samples: 3, rsv: [0; 3], ts }, SPAN).expect("samples");
        assert_eq!((stamp.phc, stamp.realtime.as_nanos(), stamp.half_width), (9_000_000_006, 9_000_002_300, 300));
    }

    #[test]
    fn a_hardware_cross_stamp_is_not_called_exact() {
        let answer = libc::ptp_sys_offset_precise {
            device: time(3, 1),
            sys_realtime: time(9, 2),
            sys_monoraw: time(1, 3),
            rsv: [0; 4],
        };
        let stamp = from_precise(&answer, SPAN);
        assert_eq!((stamp.phc, stamp.realtime.as_nanos()), (3_000_000_001, 9_000_000_002));
        assert_eq!(stamp.half_width, PRECISE_HALF_WIDTH);
    }

    #[test]
    fn no_sample_is_no_cross_stamp() {
        assert_eq!(from_extended(&extended(&[]), SPAN), None);
        assert_eq!(from_basic(&libc::ptp_sys_offset { n_samples: 0, rsv: [0; 3], ts: [time(0, 0); 51] }, SPAN), None);
        let absurd = libc::ptp_sys_offset_extended { n_samples: u32::MAX, ..extended(&[[(0, 1), (0, 2), (0, 3)]; 25]) };
        assert!(from_extended(&absurd, SPAN).is_some(), "a count beyond the array reads the array");
    }
}
