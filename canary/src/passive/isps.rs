//! Which ISP a client is of, by a list of prefixes that the operator keeps: no look-up leaves the host.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::IpAddr,
    path::Path,
};

use pathlab_record::Prefix;

use crate::Error;

/// The label of clients that no prefix holds.
pub const UNLISTED: &str = "unlisted";

/// Longest prefix first.
#[derive(Clone, Debug, Default)]
pub struct Isps {
    /// Names by family and length of the prefix, within it by its bits.
    by_length: BTreeMap<(bool, u8), HashMap<u128, String>>,
}

impl Isps {
    /// Reads lines of `PREFIX,ISP`; blank ones and those that begin with `#` are comments.
    ///
    /// # Errors
    /// [`Error::Input`] when it cannot be read, [`Error::Columns`] with the line that is wrong.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Input { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, why)| Error::Columns { at: format!("{}:{line}", path.display()), why })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut isps = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: String| (at + 1, why);
            let (prefix, name) =
                line.split_once(',').ok_or_else(|| wrong("write PREFIX,ISP, such as 203.0.113.0/24,NTT".into()))?;
            let prefix: Prefix = prefix.trim().parse().map_err(|error| wrong(format!("{error}")))?;
            if name.trim().is_empty() {
                return Err(wrong(format!("{prefix} has no ISP")));
            }
            let place = (prefix.address().is_ipv6(), prefix.length());
            isps.by_length.entry(place).or_default().insert(prefix.bits(), name.trim().to_owned());
        }
        Ok(isps)
    }

    /// The ISP of an address, [`UNLISTED`] where no prefix holds it.
    pub fn of(&self, address: IpAddr) -> &str {
        let address = address.to_canonical();
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let lengths = self.by_length.iter().rev().filter(|((is_ipv6, _), _)| *is_ipv6 == address.is_ipv6());
        let mut held = lengths.filter_map(|((_, length), names)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
            names.get(&(bits & mask))
        });
        held.next().map_or(UNLISTED, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_names_the_isp() {
        let isps = Isps::parse("# ours\n198.18.0.0/15, NTT\n\n198.18.1.0/24,KDDI\n2001:db8::/32,NTT\n").unwrap();
        let of = |address: &str| isps.of(address.parse().unwrap()).to_owned();
        assert_eq!(of("198.19.0.1"), "NTT");
        assert_eq!(of("198.18.1.9"), "KDDI");
        assert_eq!(of("::ffff:198.18.1.9"), "KDDI");
        assert_eq!(of("2001:db8:9::1"), "NTT");
        assert_eq!(of("203.0.113.1"), UNLISTED);
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(Isps::parse("198.18.0.0/15").unwrap_err().0, 1);
        assert!(Isps::parse("\n198.18.0.0/33,x").unwrap_err().1.contains("33"));
        assert!(Isps::parse("198.18.0.0/15, ").unwrap_err().1.contains("no ISP"));
    }
}
