//! Pseudonyms of hardware addresses (IEEE 802): of a card's 6 octets, of EUI-64's 8, of the 20 of IP over InfiniBand.
//!
//! By the same construction as addresses of IP, so that cards of one maker share the front of their pseudonyms. The bits that say "group" and
//! "locally administered" stay: what was one host's is one host's.

use super::{AddressKey, walk};

/// The two bits of the first octet that stay.
const KEPT: u8 = 0b11;

impl AddressKey {
    /// The pseudonym of a hardware address; all zeros and all ones, which are nobody's, stay. Of the 20 octets of IP over InfiniBand (RFC 4391 section 9.1) the
    /// first four, a number of a queue, stay as well.
    pub fn hardware(&self, octets: &[u8]) -> Vec<u8> {
        self.pieces(octets, |truth, _| truth)
    }

    /// The hardware address behind a pseudonym.
    pub fn reveal_hardware(&self, octets: &[u8]) -> Vec<u8> {
        self.pieces(octets, |_, found| found)
    }

    fn pieces(&self, octets: &[u8], before: impl Fn(u128, u128) -> u128 + Copy) -> Vec<u8> {
        let (stays, pieces) = octets.split_at(if octets.len() > 8 { octets.len() % 8 } else { 0 });
        let mut out = stays.to_vec();
        for piece in pieces.chunks(8) {
            let bits = piece.iter().fold(0, |bits, octet| bits << 8 | u64::from(*octet));
            let width = 8 * piece.len() as u32;
            let ones = u64::MAX >> (64 - width);
            let kept = u128::from(KEPT) << 120;
            let step = |bits: u64| {
                let aligned = u128::from(bits) << (128 - width);
                (self.permuted(aligned, width, kept, before) >> (128 - width)) as u64
            };
            let pseudonym = walk(bits, |bits| bits == 0 || bits == ones, step);
            out.extend_from_slice(&pseudonym.to_be_bytes()[8 - piece.len()..]);
        }
        out
    }
}

/// Pairs of hexadecimal digits between colons, or between hyphens: 6, 8 or 20 of them, with what parts them.
pub fn hardware_address(text: &str) -> Option<(Vec<u8>, char)> {
    let part = text.chars().nth(2).filter(|part| [':', '-'].contains(part))?;
    let octet = |pair: &str| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok()).flatten();
    let octets: Vec<u8> = text.split(part).map(octet).collect::<Option<_>>()?;
    [6, 8, 20].contains(&octets.len()).then_some((octets, part))
}

/// The pairs with `part` between them.
pub fn hardware_text(octets: &[u8], part: char) -> String {
    let pairs: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    pairs.join(part.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_maker_is_kept_together_and_the_key_leads_back(octets: [u8; 32], a: [u8; 6], tail: [u8; 3], port: [u8; 20]) {
            let key = AddressKey::new(&octets);
            let b = [a[0], a[1], a[2], tail[0], tail[1], tail[2]];
            let (x, y) = (key.hardware(&a), key.hardware(&b));
            prop_assert_eq!((key.reveal_hardware(&x), key.reveal_hardware(&y)), (a.to_vec(), b.to_vec()));
            prop_assert_eq!((x[..3] == y[..3], x[0] & KEPT, x == y), (true, a[0] & KEPT, a == b));
            let hidden = key.hardware(&port);
            prop_assert_eq!((&hidden[..4], key.reveal_hardware(&hidden)), (&port[..4], port.to_vec()));
        }
    }

    /// Taken by another implementation of HMAC.
    #[test]
    fn pseudonyms_do_not_change_between_versions() {
        let key = AddressKey::new(&[0; 32]);
        let of = |text: &str| {
            let (octets, part) = hardware_address(text).unwrap();
            hardware_text(&key.hardware(&octets), part)
        };
        assert_eq!(of("02:42:ac:11:00:02"), "82:6d:94:6b:45:da");
        assert_eq!(
            (of("ff-ff-ff-ff-ff-ff"), of("00:00:00:00:00:00")),
            ("ff-ff-ff-ff-ff-ff".to_owned(), "00:00:00:00:00:00".to_owned())
        );
        for wrong in ["02:42:ac:11:00", "02:42:ac:11:00:0g", "02:42-ac:11:00:02", "0242ac110002", ""] {
            assert!(hardware_address(wrong).is_none(), "{wrong}");
        }
    }
}
