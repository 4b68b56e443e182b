//! The offset between the clock that XDP programs can read (TAI) and the one that STAMP packets speak of (UTC).

use pathlab_record::Interval;

use crate::{Error, sys};

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
