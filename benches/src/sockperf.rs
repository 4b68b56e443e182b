//! What sockperf says of a ping-pong, read from its report for people: it has no other.

use anyhow::{Context, Result};

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundTrips {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Of the output of `sockperf ping-pong --full-rtt`.
///
/// # Errors
/// A line that should be there is not.
pub fn round_trips(report: &str) -> Result<RoundTrips> {
    let percentile = |which: &str| {
        let line = report.lines().find(|line| line.contains(&format!("percentile {which} =")));
        let figure = line.and_then(|line| line.rsplit('=').next()).map(str::trim);
        figure.and_then(|figure| figure.parse().ok()).with_context(|| format!("sockperf said no percentile {which}"))
    };
    anyhow::ensure!(report.contains("Round trip is"), "sockperf did not report full round trips");
    Ok(RoundTrips { p50: percentile("50.000")?, p99: percentile("99.000")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
sockperf: Summary: Round trip is 533.640 usec
sockperf: ---> percentile 99.990 = 8842.411
sockperf: ---> percentile 99.900 = 5887.272
sockperf: ---> percentile 99.000 = 5843.728
sockperf: ---> percentile 50.000 =   13.860
";

    #[test]
    fn a_report_of_sockperf_3_7() {
        assert_eq!(round_trips(REPORT).expect("complete"), RoundTrips { p50: 13.860, p99: 5843.728 });
    }

    #[test]
    fn half_round_trips_and_broken_reports_are_refused() {
        assert!(round_trips(&REPORT.replace("Round trip is", "Latency is")).is_err());
        assert!(round_trips(&REPORT.replace("99.000", "98.000")).is_err());
        assert!(round_trips("").is_err());
    }
}
