//! How much mass lies at each value, exact for any values and fast for those of histogram buckets, of which there are few.

use std::collections::BTreeMap;

/// Leading bits that tell values of a row apart: the buckets of an HdrHistogram with 3 digits have one more than they need.
const BITS: u32 = 11;
const SLOTS: usize = 1 << BITS;

/// Value and mass; no mass where nothing was added yet.
type Slot = (u64, u64);

/// Masses by value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masses {
    /// By the number of bits below the leading ones.
    rows: Vec<Vec<Slot>>,
    /// Values whose slot another value took first.
    rest: BTreeMap<u64, u64>,
}

impl Masses {
    /// Adds mass above zero at a value.
    pub(crate) fn add(&mut self, value: u64, mass: u64) {
        let row = (u64::BITS - value.leading_zeros()).saturating_sub(BITS) as usize;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
        let slots = &mut self.rows[row];
        if slots.is_empty() {
            slots.resize(SLOTS, (0, 0));
        }
        match &mut slots[(value >> row) as usize % SLOTS] {
            (own, sum) if *own == value || *sum == 0 => (*own, *sum) = (value, *sum + mass),
            _ => *self.rest.entry(value).or_default() += mass,
        }
    }

    /// All values with their mass, ascending.
    pub(crate) fn ascending(&self) -> Vec<(u64, u64)> {
        let slots = self.rows.iter().flatten().copied().filter(|(_, mass)| *mass > 0);
        let mut all: Vec<_> = slots.chain(self.rest.iter().map(|(value, mass)| (*value, *mass))).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_a_map(values in proptest::collection::vec((0_u64..9_000, 0_u32..50, 1_u64..9), 0..200)) {
            let (mut masses, mut map) = (Masses::default(), BTreeMap::new());
            for (value, shift, mass) in values {
                masses.add(value << shift, mass);
                *map.entry(value << shift).or_insert(0) += mass;
            }
            proptest::prop_assert_eq!(masses.ascending(), map.into_iter().collect::<Vec<_>>());
        }
    }
}
