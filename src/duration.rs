//! Durations on the command line, written `10ms`, `1.5s`, `2min`.

use std::time::Duration;

use jiff::SignedDuration;

/// For clap's `value_parser`: a positive duration.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write a number with a unit, such as `10ms`, `30s` or `2min`");
    let signed: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(signed).ok().filter(|span| !span.is_zero()).ok_or_else(wrong)
}
