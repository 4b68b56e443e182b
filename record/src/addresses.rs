//! Addresses that others may see instead of the true ones: consistent over runs, the same prefix where the true ones have one, and back again for
//! whoever has the key.
//!
//! The construction is that of Crypto-PAn (J. Xu, J. Fan, M. H. Ammar, S. B. Moon, "Prefix-preserving IP address anonymization", ICNP 2002), with
//! HMAC-SHA-256 as its pseudorandom function: each bit is flipped or not by a bit that follows from the key and from the bits before it. So two
//! addresses share as many leading bits as their pseudonyms, and the key alone is the map, in both directions. It hides who somebody is, not what
//! nets look like: who knows some of the addresses behind a bundle learns the prefixes that others share with them.

mod hardware;
mod host;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use hardware::{hardware_address, hardware_text};
pub use text::{Met, Pseudonyms};

/// The secret between addresses and their pseudonyms: 32 octets, 64 hexadecimal digits as text. Never beside what it was used on.
#[derive(Clone)]
pub struct AddressKey(Hmac<Sha256>);

impl AddressKey {
    /// A key from 32 secret random octets.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    pub fn new(octets: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(octets).expect("any length will do"))
    }

    /// The pseudonym of an address; loopback and the unspecified address, which are nobody's, stay.
    pub fn pseudonym(&self, address: IpAddr) -> IpAddr {
        self.walk(address, |truth, _| truth)
    }

    /// The address behind a pseudonym.
    pub fn reveal(&self, pseudonym: IpAddr) -> IpAddr {
        self.walk(pseudonym, |_, found| found)
    }

    fn walk(&self, address: IpAddr, before: impl Fn(u128, u128) -> u128 + Copy) -> IpAddr {
        walk(address, is_nobodys, |address| self.map(address, before))
    }

    fn map(&self, address: IpAddr, before: impl Fn(u128, u128) -> u128) -> IpAddr {
        match address {
            IpAddr::V4(address) => {
                let out = self.permuted(u128::from(address.to_bits()) << 96, 32, 0, before);
                Ipv4Addr::from_bits((out >> 96) as u32).into()
            }
            IpAddr::V6(address) => Ipv6Addr::from_bits(self.permuted(address.to_bits(), 128, 0, before)).into(),
        }
    }

    /// Bit by bit from the top, but for those that are `kept`: the bits before it are those of the address itself, which `before` chooses among what
    /// goes in and what comes out.
    fn permuted(&self, bits: u128, width: u32, kept: u128, before: impl Fn(u128, u128) -> u128) -> u128 {
        let mut out = 0;
        for place in 0..width {
            let known = u128::MAX.checked_shl(128 - place).unwrap_or(0);
            let flips = kept >> (127 - place) & 1 == 0;
            let flipped = flips && self.bit(width as u8, place as u8, before(bits, out) & known);
            let bit = bits >> (127 - place) & 1;
            out |= (bit ^ u128::from(flipped)) << (127 - place);
        }
        out
    }

    /// Whether the bit after `place` bits is flipped: the first bit of the HMAC over width, place and the bits before it, zeros behind them.
    fn bit(&self, width: u8, place: u8, before: u128) -> bool {
        let mut mac = self.0.clone();
        mac.update(&[width, place]);
        mac.update(&before.to_be_bytes());
        mac.finalize().into_bytes()[0] & 0x80 != 0
    }
}

/// On, where somebody would come out as nobody: of IPv4 one /8 in 256 goes that way twice. Within it prefixes are kept as everywhere.
fn walk<T: Copy>(of: T, nobodys: impl Fn(T) -> bool, step: impl Fn(T) -> T) -> T {
    let mut out = of;
    while !nobodys(of) {
        out = step(out);
        if !nobodys(out) {
            break;
        }
    }
    out
}

/// Loopback and the unspecified address: they say nothing of anybody.
fn is_nobodys(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

impl std::str::FromStr for AddressKey {
    type Err = String;
    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, String> {
        let octets: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let octets = octets.and_then(|octets| <[u8; 32]>::try_from(octets).ok());
        octets.map(|octets| Self::new(&octets)).ok_or_else(|| "is no key of 64 hexadecimal digits".to_owned())
    }
}

impl std::fmt::Debug for AddressKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddressKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Leading bits that two addresses share.
    fn shared(a: IpAddr, b: IpAddr) -> u32 {
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => panic!("{a} and {b} are of two families"),
        }
    }

    proptest! {
        #[test]
        fn prefixes_are_kept_and_the_key_leads_back(octets: [u8; 32], a: u32, b: u32, c: u128, d: u128, keep in 0_u32..128) {
            let key = AddressKey::new(&octets);
            let mask = u128::MAX.checked_shl(128 - keep).unwrap_or(0);
            let near = (c & mask) | (d & !mask);
            let pairs: [(IpAddr, IpAddr); 3] = [
                (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into()),
                (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(a & !0xffff | b & 0xffff).into()),
                (Ipv6Addr::from_bits(c).into(), Ipv6Addr::from_bits(near).into()),
            ];
            for (a, b) in pairs {
                let (x, y) = (key.pseudonym(a), key.pseudonym(b));
                prop_assert_eq!((key.reveal(x), key.reveal(y)), (a, b));
                prop_assert!(is_nobodys(x) == is_nobodys(a) && is_nobodys(y) == is_nobodys(b));
                // Where one went twice, what they share in the first octet may differ.
                let kept = shared(x, y) == shared(a, b);
                prop_assert!(kept || is_nobodys(a) || is_nobodys(b) || a.is_ipv4() && shared(a, b) < 8, "{} {} to {} {}", a, b, x, y);
            }
        }
    }

    /// Taken by another implementation of HMAC, so that versions of ours agree with each other and with what is written above.
    #[test]
    fn pseudonyms_do_not_change_between_versions() {
        let key: AddressKey = "00".repeat(32).parse().unwrap();
        for (address, pseudonym) in [
            ("192.0.2.1", "227.150.235.112"),
            ("2001:db8::1", "f01:de6:5f20:dcd5:a824:3c2a:8294:5e8d"),
            ("127.0.0.1", "127.0.0.1"),
            ("::", "::"),
        ] {
            assert_eq!(key.pseudonym(address.parse().unwrap()).to_string(), pseudonym, "{address}");
        }
        assert_ne!(AddressKey::new(&[1; 32]).pseudonym("192.0.2.1".parse().unwrap()).to_string(), "227.150.235.112");
        assert!("00".parse::<AddressKey>().is_err() && "zz".repeat(32).parse::<AddressKey>().is_err());
    }
}
