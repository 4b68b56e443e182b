//! Packets pooled by cohort: every quantile with the width of the bucket that holds it, and half-hour blocks to compare the arms by.

use std::collections::{BTreeMap, HashSet};

use pathlab_record::{Arm, Window};

use super::CohortBin;
use crate::stratum::Cell;

/// Length of a block in microseconds: half an hour, so that what congests a path is mostly over within one.
const BLOCK: i64 = 30 * 60 * 1_000_000;

/// What a cohort saw in one block of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Block {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// By lower and upper limit in nanoseconds.
    pub(crate) buckets: BTreeMap<(u64, u64), u64>,
}

impl Block {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.lost = self.lost.saturating_add(other.lost);
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }
}

/// Blocks of one cohort by their first instant in microseconds.
pub(crate) type Blocks = BTreeMap<i64, Block>;

/// All pooled data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pooled {
    pub(crate) cohorts: BTreeMap<(Cell, Window, Arm), Blocks>,
    bins: HashSet<(Cell, Window, Arm, i64, i64, String)>,
}

impl Pooled {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cohorts.is_empty()
    }

    /// Adds a bin; `false` where the same source told of the same bin before.
    pub(crate) fn add(
        &mut self,
        cell: Cell,
        arm: Option<Arm>,
        window: Window,
        bin: &CohortBin,
        counts: &[(u64, u64, u64)],
    ) -> bool {
        let Some(arm) = arm else { return false };
        let (start, end) = (bin.start.as_microsecond(), bin.end.as_microsecond());
        if !self.bins.insert((cell.clone(), window, arm, start, end, bin.source.clone())) {
            return false;
        }
        let block = Block {
            sent: bin.sent,
            lost: bin.lost,
            buckets: counts.iter().map(|&(lower, upper, count)| ((lower, upper), count)).collect(),
        };
        let blocks = self.cohorts.entry((cell, window, arm)).or_default();
        blocks.entry(start.div_euclid(BLOCK) * BLOCK).or_default().merge(&block);
        true
    }
}

/// The packet-weighted quantile `p` in nanoseconds: an estimate within the bucket, and the limits between which it lies for certain. Lost
/// packets count as infinite. `None` without a packet.
pub(crate) fn quantile(block: &Block, p: f64) -> Option<[f64; 3]> {
    let answered: u64 = block.buckets.values().sum();
    let total = answered + block.lost;
    if total == 0 {
        return None;
    }
    let rank = ((p * total as f64).ceil() as u64).max(1);
    if rank > answered {
        return Some([f64::INFINITY; 3]);
    }
    let number = |limit: u64| if limit == u64::MAX { f64::INFINITY } else { limit as f64 };
    let limit = |edge: &dyn Fn(&(u64, u64)) -> u64| {
        let mut by_edge: Vec<(u64, u64)> = block.buckets.iter().map(|(bucket, count)| (edge(bucket), *count)).collect();
        by_edge.sort_unstable();
        let mut seen = 0;
        by_edge.into_iter().find_map(|(edge, count)| {
            seen += count;
            (seen >= rank).then(|| number(edge))
        })
    };
    let (low, high) = (limit(&|bucket| bucket.0)?, limit(&|bucket| bucket.1)?);
    // Within the bucket as if its packets were spread evenly.
    let mut by_upper: Vec<_> = block.buckets.iter().map(|((lower, upper), count)| (*upper, *lower, *count)).collect();
    by_upper.sort_unstable();
    let mut before = 0;
    for (upper, lower, count) in by_upper {
        if before + count >= rank {
            let width = if upper == u64::MAX { 0.0 } else { (upper - lower) as f64 };
            let estimate = lower as f64 + width * (rank - before) as f64 / count as f64;
            return Some([estimate.clamp(low, high), low, high]);
        }
        before += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(buckets: &[(u64, u64, u64)], lost: u64) -> Block {
        let sent = lost + buckets.iter().map(|(.., count)| count).sum::<u64>();
        Block { sent, lost, buckets: buckets.iter().map(|&(lower, upper, count)| ((lower, upper), count)).collect() }
    }

    #[test]
    fn lost_packets_are_infinite_and_an_open_bucket_has_no_upper_limit() {
        let lossy = block(&[(0, 10, 94)], 6);
        assert_eq!(quantile(&lossy, 0.95), Some([f64::INFINITY; 3]));
        assert_eq!(quantile(&lossy, 0.5), Some([10.0 * 50.0 / 94.0, 0.0, 10.0]));
        let open = block(&[(0, 10, 90), (10, u64::MAX, 10)], 0);
        assert_eq!(quantile(&open, 0.95), Some([10.0, 10.0, f64::INFINITY]));
        assert_eq!(quantile(&Block::default(), 0.5), None);
    }

    proptest::proptest! {
        /// Whatever the layouts that are mixed, the packet of that rank lies between the limits.
        #[test]
        fn the_limits_hold(values in proptest::collection::vec((0_u64..1_000, 1_u64..200), 1..60), p in 0.01..0.99_f64) {
            let mut mixed = Block::default();
            for &(value, width) in &values {
                let lower = value / width * width;
                mixed.merge(&block(&[(lower, lower + width, 1)], 0));
            }
            let mut sorted: Vec<u64> = values.iter().map(|(value, _)| *value).collect();
            sorted.sort_unstable();
            let truth = sorted[((p * sorted.len() as f64).ceil() as usize).max(1) - 1] as f64;
            let [estimate, low, high] = quantile(&mixed, p).unwrap();
            proptest::prop_assert!(low <= truth && truth <= high, "{} in {} to {}", truth, low, high);
            proptest::prop_assert!(low <= estimate && estimate <= high);
        }
    }
}
