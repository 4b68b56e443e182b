//! Lists of prefixes as nf_tables keeps them: as the first address of each interval and the first past it.

use std::{fmt, net::IpAddr, str::FromStr};

use pathlab_guard::Family;

use super::nfnetlink::Element;

/// An address prefix. Bits past the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    pub(crate) fn family(self) -> Family {
        Family::of(self.address)
    }

    fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The address as a number, in the upper bits.
    fn bits(self) -> u128 {
        match self.address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        }
    }

    fn contains(self, other: Self) -> bool {
        self.family() == other.family()
            && self.length <= other.length
            && other.bits() & mask(self.length) == self.bits()
    }

    fn bytes(self, bits: u128) -> Vec<u8> {
        bits.to_be_bytes()[..usize::from(self.width() / 8)].to_vec()
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// The prefixes of one family, sorted, without those that lie inside another.
pub(crate) fn disjoint(prefixes: &[Prefix], family: Family) -> Vec<Prefix> {
    let mut sorted: Vec<_> = prefixes.iter().copied().filter(|prefix| prefix.family() == family).collect();
    sorted.sort();
    let mut disjoint: Vec<Prefix> = Vec::new();
    for prefix in sorted {
        if !disjoint.last().is_some_and(|last| last.contains(prefix)) {
            disjoint.push(prefix);
        }
    }
    disjoint
}

/// The elements of an interval set of these disjoint prefixes.
pub(crate) fn elements(prefixes: &[Prefix]) -> Vec<Element> {
    let mut elements = Vec::new();
    for prefix in prefixes {
        elements.push(Element::key(prefix.bytes(prefix.bits())));
        // An interval up to the last address has no end.
        if let Some(past) = (prefix.bits() | !mask(prefix.length)).checked_add(1) {
            elements.push(Element::end(prefix.bytes(past)));
        }
    }
    elements
}

impl FromStr for Prefix {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(drop)?)),
            None => (text, None),
        };
        let mut prefix = Self { address: address.parse().map_err(drop)?, length: 0 };
        prefix.length = length.unwrap_or(prefix.width());
        let fits = prefix.length <= prefix.width() && prefix.bits() & !mask(prefix.length) == 0;
        fits.then_some(prefix).ok_or(())
    }
}

/// As nft writes it: without a length when it is a single address.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.length < self.width() { write!(f, "/{}", self.length) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_prefix_is_an_address_with_zero_host_bits() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1"),
            ("::/0", "::/0"),
            ("2001:db8::1/128", "2001:db8::1"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), shown);
        }
        for text in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "x", "", "2001:db8::/129", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Prefix>(), Err(()), "{text}");
        }
    }

    #[test]
    fn nested_prefixes_become_disjoint_intervals_of_one_family() {
        let all = prefixes(&["10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32", "10.0.0.0/8", "10.0.0.0/8"]);
        let v4 = disjoint(&all, Family::V4);
        assert_eq!(v4, prefixes(&["10.0.0.0/8", "192.0.2.0/24"]));
        let expected = [
            Element::key([10, 0, 0, 0]),
            Element::end([11, 0, 0, 0]),
            Element::key([192, 0, 2, 0]),
            Element::end([192, 0, 3, 0]),
        ];
        assert_eq!(elements(&v4), expected);
    }

    #[test]
    fn an_interval_up_to_the_last_address_is_open() {
        assert_eq!(elements(&prefixes(&["0.0.0.0/0"])), [Element::key([0, 0, 0, 0])]);
        assert_eq!(elements(&prefixes(&["255.255.255.255"])), [Element::key([255; 4])]);
        assert_eq!(elements(&prefixes(&["ffff::/16"]))[0].key[..2], [0xff, 0xff]);
        assert_eq!(elements(&prefixes(&["ffff::/16"])).len(), 1);
    }
}
