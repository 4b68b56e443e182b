//! Which sequence numbers were seen: a set that stays small while they come nearly in order.

/// A set of numbers as sorted, disjoint, inclusive ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a number; `false` where it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        // The first range that ends at or after the number, or just before it.
        let at = self.0.partition_point(|&(_, last)| last.saturating_add(1) < number);
        match self.0.get_mut(at) {
            Some((first, last)) if *first <= number && number <= *last => false,
            Some((_, last)) if last.checked_add(1) == Some(number) => {
                *last = number;
                if self.0.get(at + 1).is_some_and(|(next, _)| *next == number.saturating_add(1)) {
                    let (_, end) = self.0.remove(at + 1);
                    self.0[at].1 = end;
                }
                true
            }
            Some((first, _)) if number.checked_add(1) == Some(*first) => {
                *first = number;
                true
            }
            _ => {
                self.0.insert(at, (number, number));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0_u64..40, 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for number in numbers {
                proptest::prop_assert_eq!(ranges.insert(number), set.insert(number));
            }
            let gaps = set.iter().filter(|number| !set.contains(&(**number + 1))).count();
            proptest::prop_assert_eq!(ranges.0.len(), gaps, "no two ranges touch");
        }
    }

    #[test]
    fn a_million_in_order_are_one_range() {
        let mut ranges = Ranges::default();
        (0..1_000_000).for_each(|number| assert!(ranges.insert(number)));
        assert_eq!(ranges.0, [(0, 999_999)]);
        assert!(ranges.insert(u64::MAX) && !ranges.insert(u64::MAX));
    }
}
