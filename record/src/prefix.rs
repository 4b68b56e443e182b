//! Address prefixes as operators write them, in allowlists, source ranges and the lists of who is steered.

use std::{fmt, net::IpAddr, str::FromStr};

/// An IPv4 or IPv6 prefix such as `192.0.2.0/24`; a bare address is a prefix of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of an address; `None` where `length` is more than its family has bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (length <= width).then(|| Self { address: of_bits(network(address, length), address), length })
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits of the address belong to it.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` is inside; never for the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && network(address, self.length) == self.bits()
    }

    /// Whether every address of `other` is inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Its first address as a number, in the upper bits.
    pub fn bits(&self) -> u128 {
        network(self.address, self.length)
    }
}

/// The first `length` bits, at the top.
fn network(address: IpAddr, length: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length.min(width))).unwrap_or(0);
    bits & mask
}

/// The address of bits at the top, of the family of `like`.
pub(crate) fn of_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(((bits >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    }
}

/// As nft and iproute2 write it: a single address without a length.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        if self.length < width { write!(f, "/{}", self.length) } else { Ok(()) }
    }
}

/// Text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither an address nor an address and a length.
    #[error("`{0}` is no address prefix; write 192.0.2.0/24 or 2001:db8::/32")]
    Syntax(String),
    /// Longer than the family has bits.
    #[error("`{0}`: the length goes to {1}")]
    Length(String, u8),
    /// Bits beyond the length are set: a typing error as likely as not.
    #[error("`{0}`: bits are set beyond the length; did you mean {1}?")]
    HostBits(String, Prefix),
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(|_| syntax())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(most);
        if length > most {
            return Err(PrefixError::Length(text.to_owned(), most));
        }
        let bits = network(address, length);
        if bits != network(address, most) {
            return Err(PrefixError::HostBits(text.to_owned(), Self { address: of_bits(bits, address), length }));
        }
        Ok(Self { address, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_by_family_and_length() {
        let contains = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().expect("a prefix").contains(address.parse().expect("an address"))
        };
        assert!(contains("192.0.2.0/24", "192.0.2.255") && !contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "2001:db8::1") && !contains("::/0", "192.0.2.1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1") && !contains("2001:db8::/32", "2001:db9::"));
        assert!(contains("192.0.2.7", "192.0.2.7") && !contains("192.0.2.7", "192.0.2.6"));
    }

    #[test]
    fn shown_as_read_and_nested_by_length() {
        for text in ["10.0.0.0/8", "192.0.2.1", "::/0", "2001:db8::1"] {
            assert_eq!(text.parse::<Prefix>().expect("a prefix").to_string(), text);
        }
        let covers = |outer: &str, inner: &str| {
            outer.parse::<Prefix>().expect("a prefix").covers(&inner.parse().expect("a prefix"))
        };
        assert!(covers("10.0.0.0/8", "10.1.0.0/16") && covers("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!covers("10.0.0.0/16", "10.0.0.0/8") && !covers("::/0", "10.0.0.0/8"));
    }

    #[test]
    fn errors_say_what_would_do() {
        let error = |text: &str| text.parse::<Prefix>().expect_err("no prefix").to_string();
        assert_eq!(error("192.0.2.7/24"), "`192.0.2.7/24`: bits are set beyond the length; did you mean 192.0.2.0/24?");
        assert_eq!(
            error("2001:db8::1/64"),
            "`2001:db8::1/64`: bits are set beyond the length; did you mean 2001:db8::/64?"
        );
        assert_eq!(error("192.0.2.0/33"), "`192.0.2.0/33`: the length goes to 32");
        assert_eq!(error("office"), "`office` is no address prefix; write 192.0.2.0/24 or 2001:db8::/32");
        assert!(error("192.0.2.0/-1").contains("no address prefix"));
    }
}
