//! Quantities with as many digits as a reader can use.

use std::time::Duration;

use pathlab_canary::Share;
use pathlab_netlab::scenario::Quantity;

/// Nanoseconds as `412 ns`, `21.3 µs`, `38.2 ms` or `1.25 s`.
pub(crate) fn span(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        1_000..1_000_000 => (value / 1e3, "µs"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// The same for a duration.
pub(crate) fn lasting(duration: Duration) -> String {
    span(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// A figure of a scenario, or a difference of two.
pub(crate) fn measured(quantity: Quantity, value: f64) -> String {
    let size = value.abs();
    let words = match quantity {
        Quantity::Time => span(size.round() as u64),
        Quantity::Share => percent(size),
        Quantity::Rate => format!("{:.2} Mbit/s", size / 1e6),
        Quantity::Count => format!("{size:.0} packets"),
    };
    if value < 0.0 { format!("−{words}") } else { words }
}

/// A share of an experiment, which is written `15%` in its file, as `15 %`.
pub(crate) fn spaced(share: Share) -> String {
    share.to_string().replace('%', " %")
}

/// A share from 0 to 1 as `0.52 %`.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".into(),
        percent if percent < 0.01 => "<0.01 %".into(),
        percent => format!("{percent:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        for (nanoseconds, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (21_340, "21.3 µs"),
            (9_876_000, "9.88 ms"),
            (412_000_000, "412 ms"),
            (1_250_000_000, "1.25 s"),
        ] {
            assert_eq!(span(nanoseconds), text);
        }
        assert_eq!(lasting(Duration::from_nanos(44_786)), "44.8 µs");
        assert_eq!(measured(Quantity::Time, -1_051_000.0), "−1.05 ms");
        assert_eq!(measured(Quantity::Count, 300.0), "300 packets");
        assert_eq!(spaced("15%".parse().unwrap()), "15 %");
        assert_eq!(
            (percent(0.0), percent(0.000_01), percent(0.0052)),
            ("0 %".into(), "<0.01 %".into(), "0.52 %".into())
        );
    }
}
