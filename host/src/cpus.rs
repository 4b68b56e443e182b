//! Sets of CPUs as the kernel writes them: lists (`0-3,8`) and masks (`00000000,0000010f`).

use std::{collections::BTreeSet, fmt};

/// A set of CPU numbers; shown as the kernel's list.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(pub BTreeSet<u32>);

/// The kernel's largest `CONFIG_NR_CPUS`.
const MOST: u32 = 8192;

impl Cpus {
    /// A list as in `local_cpulist`; an empty text is the empty set. `None` when it is no list.
    pub fn list(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first > last || last >= MOST {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus))
    }

    /// A mask as in `rps_cpus`: groups of 32 bits in hexadecimal, the highest first. `None` when it is no mask.
    pub fn mask(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for (group, word) in text.trim().rsplit(',').enumerate() {
            let word = u32::from_str_radix(word, 16).ok()?;
            let base = u32::try_from(group).ok()?.checked_mul(32).filter(|base| *base < MOST)?;
            cpus.extend((0..32).filter(|bit| word >> bit & 1 == 1).map(|bit| base + bit));
        }
        Some(Self(cpus))
    }

    /// The mask that `rps_cpus` and `xps_cpus` take.
    pub fn to_mask(&self) -> String {
        let groups = self.0.last().map_or(1, |last| last / 32 + 1);
        let word = |group: u32| {
            (0..32).filter(|bit| self.0.contains(&(group * 32 + bit))).fold(0_u32, |word, bit| word | 1 << bit)
        };
        let words: Vec<String> = (0..groups)
            .rev()
            .enumerate()
            .map(
                |(place, group)| if place == 0 { format!("{:x}", word(group)) } else { format!("{:08x}", word(group)) },
            )
            .collect();
        words.join(",")
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of its CPUs are in `other`.
    pub fn within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// What both have.
    pub fn shared(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?
            } else {
                write!(f, "{separator}{first}-{last}")?
            }
            separator = ",";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_masks_are_read_as_the_kernel_writes_them() {
        assert_eq!(Cpus::list("0-2,8\n").unwrap().to_string(), "0-2,8");
        assert_eq!(Cpus::list("\n"), Some(Cpus::default()));
        assert_eq!(Cpus::list("3-1"), None);
        assert_eq!(Cpus::list("0-4000000000"), None);
        assert_eq!(Cpus::mask("00000001,0000010f\n").unwrap().to_string(), "0-3,8,32");
        assert_eq!(Cpus::mask("f\n").unwrap().to_string(), "0-3");
        assert_eq!(Cpus::mask("g"), None);
        assert_eq!(Cpus::default().to_mask(), "0");
    }

    proptest! {
        #[test]
        fn masks_and_lists_go_there_and_back(cpus: BTreeSet<u16>) {
            let cpus = Cpus(cpus.into_iter().map(|cpu| u32::from(cpu) % MOST).collect());
            prop_assert_eq!(Cpus::mask(&cpus.to_mask()), Some(cpus.clone()));
            if !cpus.is_empty() {
                prop_assert_eq!(Cpus::list(&cpus.to_string()), Some(cpus));
            }
        }

        #[test]
        fn any_text_is_refused_or_read(text: String) {
            let _ = (Cpus::list(&text), Cpus::mask(&text));
        }
    }
}
