//! Quantities with as many digits as a reader can use.

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
        assert_eq!(
            (percent(0.0), percent(0.000_01), percent(0.0052)),
            ("0 %".into(), "<0.01 %".into(), "0.52 %".into())
        );
    }
}
