//! An address with its prefix length, because links, routes and labels are all written as one.

use std::{fmt, net::IpAddr, str::FromStr};

/// `192.0.2.1/30` or `2001:db8::1/64`; the host bits are kept, so that it can also be an interface address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpCidr {
    address: IpAddr,
    length: u8,
}

impl IpCidr {
    /// The prefix of `length` bits around `address`; `None` when `length` exceeds the family's 32 or 128.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= bits(address)).then_some(Self { address, length })
    }

    /// The address as written.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Number of leading bits that the prefix fixes.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether the family is IPv6.
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The prefix with its host bits cleared.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & mask(self.length, 32) as u32).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & mask(self.length, 128)).into()),
        };
        Self { address, length: self.length }
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.length)
            .is_some_and(|other| other.is_ipv6() == self.is_ipv6() && other.network() == self.network())
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) && self.length <= other.length
            || other.contains(self.address) && other.length <= self.length
    }

    /// Number of addresses, at most `u64::MAX`.
    pub fn size(self) -> u64 {
        1u64.checked_shl(u32::from(bits(self.address) - self.length)).unwrap_or(u64::MAX)
    }

    /// The address `offset` places after the first one; `None` beyond the last.
    pub fn nth(self, offset: u64) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        Some(match self.network().address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + offset as u32).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(offset)).into()),
        })
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// The low `width` bits hold a mask of `length` leading ones.
fn mask(length: u8, width: u8) -> u128 {
    match width - length {
        128 => 0,
        host => !0 << host,
    }
}

impl fmt::Display for IpCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address with a prefix length, such as 192.0.2.1/30 or 2001:db8::1/64")]
pub struct NotACidr(String);

impl FromStr for IpCidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let wrong = || NotACidr(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        let length = length.parse().map_err(|_| wrong())?;
        Self::new(address, length).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> IpCidr {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_text_with_too_many_bits_or_none_is_refused() {
        for text in ["192.0.2.1", "192.0.2.1/33", "2001:db8::/129", "x/8", "192.0.2.1/-1", "192.0.2.1/8/8"] {
            assert_eq!(text.parse::<IpCidr>(), Err(NotACidr(text.to_owned())));
        }
    }

    #[test]
    fn overlap_is_containment_of_either_in_the_other() {
        assert!(prefix("10.0.0.0/8").overlaps(prefix("10.1.0.0/16")));
        assert!(prefix("10.1.0.0/16").overlaps(prefix("10.0.0.0/8")));
        assert!(!prefix("10.1.0.0/16").overlaps(prefix("10.2.0.0/16")));
        assert!(!prefix("0.0.0.0/0").overlaps(prefix("::/0")));
        assert!(prefix("::/0").contains("2001:db8::1".parse().expect("address")));
    }

    #[test]
    fn the_nth_address_stays_inside() {
        assert_eq!(prefix("198.18.3.7/16").nth(258), Some("198.18.1.2".parse().expect("address")));
        assert_eq!(prefix("192.0.2.0/30").nth(4), None);
        assert_eq!(prefix("0.0.0.0/0").size(), 1 << 32);
        assert_eq!(prefix("::/0").size(), u64::MAX);
    }

    proptest! {
        #[test]
        fn text_round_trips(address: std::net::Ipv6Addr, length in 0u8..=128) {
            let made = IpCidr::new(address.into(), length).expect("in range");
            prop_assert_eq!(made.to_string().parse(), Ok(made));
            prop_assert!(made.contains(made.network().address()));
        }
    }
}
