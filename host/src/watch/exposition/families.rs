//! How a number becomes a metric: one name, one unit, some labels.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::watch::{Bucket, Histogram};

/// Limits of a histogram: powers of two from 1.024 µs to 1.07 s, which are edges of the kernel's buckets, so that nothing is split.
const LIMITS: std::ops::RangeInclusive<u32> = 10..=30;

/// Values of one metric have these.
pub(super) type Labels<const N: usize> = [(&'static str, String); N];

/// A unit that OpenMetrics does not name.
pub(super) fn other(unit: &str) -> Unit {
    Unit::Other(unit.into())
}

/// What a label has where there is nothing to name.
pub(super) fn named(name: Option<impl ToString>) -> String {
    name.map(|name| name.to_string()).unwrap_or_default()
}

/// A count, whole or not.
pub(super) trait Count {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result;
}

impl Count for u64 {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self, None)
    }
}

impl Count for u32 {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        u64::from(self).encode(encoder)
    }
}

impl Count for f64 {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self, None)
    }
}

/// Where they are written.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    pub(super) fn counter<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        counts: impl IntoIterator<Item = (Labels<N>, impl Count)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(unit), MetricType::Counter)?;
        for (labels, count) in counts {
            count.encode(&mut family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub(super) fn gauge<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels<N>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Of durations.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (Labels<N>, Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, histogram) in histograms {
            let buckets = limited(histogram.buckets());
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                seconds(histogram.sum()),
                histogram.count(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Counts by the least limit that none of them exceeds.
fn limited(buckets: impl Iterator<Item = (Bucket, u64)>) -> Vec<(f64, u64)> {
    let edges: Vec<u64> = LIMITS.map(|power| 1 << power).collect();
    let mut counts = vec![0; edges.len() + 1];
    for (bucket, count) in buckets {
        let end = bucket.range().end;
        counts[edges.iter().position(|edge| end <= *edge).unwrap_or(edges.len())] += count;
    }
    edges.into_iter().map(seconds).chain([f64::INFINITY]).zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_exceeds_the_limit_that_it_is_counted_under() {
        for nanoseconds in [0, 1, 1_023, 1_024, 5_000, 999_999_999, 1 << 30, u64::MAX] {
            let counted = limited([(Bucket::holding(nanoseconds), 1)].into_iter());
            let at = counted.iter().position(|(_, count)| *count == 1).expect("counted");
            assert!(seconds(nanoseconds) <= counted[at].0, "{nanoseconds}: {counted:?}");
            assert!(at == 0 || seconds(nanoseconds) >= counted[at - 1].0, "{nanoseconds}: {counted:?}");
        }
    }
}
