//! Short blocks, two and two: one with the change and one without, in an order that a seed decides for each pair, so that nothing that drifts
//! or comes back in time can side with one of them.

use std::time::Duration;

use pathlab_stats::generator;
use rand::RngExt;
use serde::Serialize;

/// One block as it was played, in nanoseconds of `CLOCK_REALTIME`: what was sent from `begin` to `end` belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Block {
    pub(super) pair: u32,
    pub(super) with: bool,
    pub(super) begin: i64,
    pub(super) end: i64,
}

/// Which block of each pair has the change: `true` stands for the first.
pub(super) fn orders(seed: u64, pairs: u32) -> Vec<bool> {
    let mut generator = generator(seed, "host ab", 0);
    (0..pairs).map(|_| generator.random()).collect()
}

/// What is left out at both ends of a block: a change takes a moment to be felt, and a packet on its way belongs to neither.
pub(super) fn margin(block: Duration) -> Duration {
    (block / 5).clamp(Duration::from_millis(10), Duration::from_millis(200)).min(block / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_seeds_and_fair() {
        let orders_of_7 = orders(7, 1000);
        assert_eq!(orders_of_7, orders(7, 1000));
        assert_ne!(orders_of_7, orders(8, 1000));
        let first = orders_of_7.iter().filter(|with_first| **with_first).count();
        assert!((420..580).contains(&first), "{first} of 1000");
        assert_eq!(orders(7, 10), orders_of_7[..10], "more pairs go on where fewer end");
    }

    #[test]
    fn most_of_a_block_counts() {
        for block in [30, 100, 500, 10_000].map(Duration::from_millis) {
            assert!(2 * margin(block) < block, "{block:?}");
        }
    }
}
