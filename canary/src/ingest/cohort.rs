//! Pooled input: what one cohort saw in one bin, for fleets whose telemetry knows no sessions. `cohorts.jsonl` is one of these a line.

use jiff::Timestamp;
use pathlab_record::{Arm, Labels, SparseHistogram};
use serde::{Deserialize, Serialize};

/// Name of the file in a run directory.
pub const COHORTS: &str = "cohorts.jsonl";

/// One bucket of another histogram: lower limit, upper limit (none: unbounded), both in nanoseconds, and count.
///
/// Its values lie above the lower limit and at or below the upper one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bucket(pub u64, pub Option<u64>, pub u64);

/// One line of `cohorts.jsonl`: all packets of one arm, ISP and address family over one bin.
///
/// Exactly one of `rtt` and `buckets` is given. An unknown field is an error, never ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortBin {
    /// The arm.
    #[serde(default)]
    pub arm: Option<Arm>,
    /// `isp` or `asn`, `family`, and `window` where it is not to be told by the clock.
    #[serde(default)]
    pub labels: Labels,
    /// First instant of the bin (UTC).
    pub start: Timestamp,
    /// First instant after the bin (UTC).
    pub end: Timestamp,
    /// Packets sent, the lost ones among them.
    pub sent: u64,
    /// Packets not answered in time.
    #[serde(default)]
    pub lost: u64,
    /// Round-trip times in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<SparseHistogram>,
    /// Round-trip times by other buckets, such as those of Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<Bucket>>,
    /// What made this line.
    pub source: String,
}

impl CohortBin {
    /// The packets by bucket: lower and upper limit in nanoseconds, count.
    pub(crate) fn counts(&self) -> Result<Vec<(u64, u64, u64)>, String> {
        if self.start >= self.end {
            return Err(format!("end {} is not after start {}", self.end, self.start));
        }
        if self.arm.is_none() {
            return Err("a cohort without an arm".to_owned());
        }
        let counts: Vec<_> = match (&self.rtt, &self.buckets) {
            (Some(rtt), None) => rtt.ranges().collect(),
            (None, Some(buckets)) => {
                buckets.iter().map(|Bucket(lower, upper, count)| (*lower, upper.unwrap_or(u64::MAX), *count)).collect()
            }
            _ => return Err("exactly one of rtt and buckets is needed".to_owned()),
        };
        if let Some((lower, upper, _)) = counts.iter().find(|(lower, upper, _)| lower > upper) {
            return Err(format!("a bucket from {lower} to {upper}"));
        }
        let counted = counts.iter().fold(0_u64, |sum, (.., count)| sum.saturating_add(*count));
        if counted.checked_add(self.lost) != Some(self.sent) {
            return Err(format!("sent {} is not counted {counted} + lost {}", self.sent, self.lost));
        }
        Ok(counts)
    }
}
