//! What the clocks of this host say, and how far the kernel believes its own UTC to be from the truth.

use std::io;

use pathlab_record::{Monotonic, Realtime, Time};
use serde::Serialize;

use crate::{sys, wire::ErrorEstimate};

/// `CLOCK_REALTIME` now.
pub fn realtime_now() -> Time<Realtime> {
    Time::from_nanos(sys::clock_nanos(libc::CLOCK_REALTIME))
}

/// `CLOCK_MONOTONIC` now.
pub fn monotonic_now() -> Time<Monotonic> {
    Time::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC))
}

/// The kernel's word on its own `CLOCK_REALTIME`, as `adjtimex` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClockQuality {
    /// `STA_UNSYNC` is clear: some daemon holds the clock to a reference.
    pub synchronised: bool,
    /// `maxerror` in nanoseconds: the bound, not the guess `esterror`. Grows by 500 ppm while nobody corrects, up to 16 s.
    pub max_error: u64,
}

impl ClockQuality {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `adjtimex` as the kernel gave it; a sandbox may forbid it.
    pub fn measure() -> io::Result<Self> {
        let (status, max_error) = sys::clock_discipline()?;
        Ok(Self {
            synchronised: status & libc::STA_UNSYNC == 0,
            max_error: u64::try_from(max_error).unwrap_or(0).saturating_mul(1000),
        })
    }

    /// The same for the wire: rounded up, bit S only where it is earned.
    pub fn error_estimate(self) -> ErrorEstimate {
        ErrorEstimate::from_nanos(self.max_error, self.synchronised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsynchronised_kernel_earns_no_s_bit() {
        let quality = ClockQuality { synchronised: false, max_error: 16_000_000_000 };
        assert!(!quality.error_estimate().is_synchronised());
        assert_eq!(quality.error_estimate().nanos(), Some(16_000_000_000));
    }

    #[test]
    fn this_kernel_answers() {
        let quality = ClockQuality::measure().expect("adjtimex without modes needs no privilege");
        assert!(quality.error_estimate().nanos() >= Some(quality.max_error));
        assert!(monotonic_now() <= monotonic_now());
    }
}
