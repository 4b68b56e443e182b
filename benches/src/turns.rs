//! Who comes when: every contestant once a round, each round in another order, the same order for the same seed.

/// The order of `count` contestants in `round`: a Fisher-Yates shuffle by splitmix64.
pub fn order(count: usize, round: usize) -> Vec<usize> {
    let mut state = 0x7061_7468_6c61_6200_u64.wrapping_add(round as u64);
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, (next() % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_once_and_not_always_in_the_same_order() {
        let rounds: Vec<_> = (0..5).map(|round| order(7, round)).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert!(rounds.iter().any(|round| *round != rounds[0]));
        assert_eq!(order(7, 3), rounds[3]);
        assert_eq!(order(0, 0), Vec::<usize>::new());
    }
}
