//! Finds addresses in text, whatever the format around them, and puts pseudonyms in their places.
//!
//! Rather too much than too little: four numbers up to 255 with dots between are an address, though they may be a version. An IPv6 address is one
//! in any spelling (RFC 4291 section 2.2), between characters that are part of no word.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{AddressKey, is_nobodys};

/// Longest text of an address: `0000:0000:0000:0000:0000:ffff:255.255.255.255`.
const LONGEST: usize = 45;

/// The pseudonyms of everything that was met.
#[derive(Debug)]
pub struct Pseudonyms<'k> {
    key: &'k AddressKey,
    known: HashMap<IpAddr, IpAddr>,
    replaced: u64,
}

impl<'k> Pseudonyms<'k> {
    /// None met yet.
    pub fn new(key: &'k AddressKey) -> Self {
        Self { key, known: HashMap::new(), replaced: 0 }
    }

    /// How many addresses there were, and in how many places.
    pub fn met(&self) -> (usize, u64) {
        (self.known.len(), self.replaced)
    }

    /// The same text about pseudonyms. A prefix `ADDRESS/LENGTH` of which no more bits are set is that of the pseudonyms of its addresses.
    pub fn text<'t>(&mut self, text: &'t str) -> Cow<'t, str> {
        let bytes = text.as_bytes();
        let (mut out, mut kept, mut at) = (String::new(), 0, 0);
        while at < bytes.len() {
            let Some((address, length)) = found(bytes, at) else {
                at += 1;
                continue;
            };
            if !is_nobodys(address) {
                out.push_str(&text[kept..at]);
                out.push_str(&self.of(address, prefix_after(&bytes[at + length..], address)).to_string());
                kept = at + length;
                self.replaced += 1;
            }
            at += length;
        }
        if kept == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[kept..]);
        Cow::Owned(out)
    }

    fn of(&mut self, address: IpAddr, prefix: Option<u32>) -> IpAddr {
        // One client, whichever way it is written.
        if let Some(mapped) = mapped(address) {
            let IpAddr::V4(pseudonym) = self.of(mapped.into(), None) else { return address };
            return pseudonym.to_ipv6_mapped().into();
        }
        let key = self.key;
        let pseudonym = *self.known.entry(address).or_insert_with(|| key.pseudonym(address));
        match (prefix, pseudonym) {
            (None, pseudonym) => pseudonym,
            (Some(length), IpAddr::V4(of)) => {
                Ipv4Addr::from_bits(of.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0)).into()
            }
            (Some(length), IpAddr::V6(of)) => {
                Ipv6Addr::from_bits(of.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0)).into()
            }
        }
    }
}

fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V6(address) = address { address.to_ipv4_mapped() } else { None }
}

/// The length behind an address, where the address has no bits beyond it.
fn prefix_after(rest: &[u8], address: IpAddr) -> Option<u32> {
    let digits = rest.strip_prefix(b"/")?;
    let digits = &digits[..digits.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count()];
    let length: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let clear = match address {
        IpAddr::V4(address) => length <= 32 && address.to_bits().checked_shl(length).unwrap_or(0) == 0,
        IpAddr::V6(address) => length <= 128 && address.to_bits().checked_shl(length).unwrap_or(0) == 0,
    };
    clear.then_some(length)
}

/// The address that begins at a place, and its length.
fn found(bytes: &[u8], at: usize) -> Option<(IpAddr, usize)> {
    let before = at.checked_sub(1).map(|before| bytes[before]);
    let first = bytes[at];
    if first == b':' || first.is_ascii_hexdigit() {
        let of_a_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !before.is_some_and(|byte| of_a_word(byte) || byte == b':')
            && let Some(found) = longest(bytes, at, |end| !bytes.get(end).is_some_and(|byte| of_a_word(*byte)))
        {
            return Some(found);
        }
    }
    if !first.is_ascii_digit() || before.is_some_and(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length = bytes[at..].iter().take(15).take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let all = (7..=length).rev();
    all.filter(|length| !bytes.get(at + length).is_some_and(u8::is_ascii_digit)).find_map(|length| {
        let address: Ipv4Addr = std::str::from_utf8(&bytes[at..at + length]).ok()?.parse().ok()?;
        Some((address.into(), length))
    })
}

/// The longest IPv6 address from a place on, where it may end.
fn longest(bytes: &[u8], at: usize, may_end: impl Fn(usize) -> bool) -> Option<(IpAddr, usize)> {
    let of_it = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let length = bytes[at..].iter().take(LONGEST).take_while(of_it).count();
    if !bytes[at..at + length].contains(&b':') {
        return None;
    }
    (2..=length).rev().filter(|length| may_end(at + length)).find_map(|length| {
        let address: Ipv6Addr = std::str::from_utf8(&bytes[at..at + length]).ok()?.parse().ok()?;
        Some((address.into(), length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AddressKey {
        AddressKey::new(&[7; 32])
    }

    #[test]
    fn every_spelling_of_an_address_has_the_same_pseudonym() {
        let key = key();
        let mut pseudonyms = Pseudonyms::new(&key);
        let of = |address: &str| key.pseudonym(address.parse().unwrap()).to_string();
        let (v4, v6) = (of("192.0.2.7"), of("2001:db8::a"));
        for (text, expected) in [
            ("{\"from\":\"192.0.2.7:40000\"}".to_owned(), format!("{{\"from\":\"{v4}:40000\"}}")),
            ("192.0.2.7, 192.0.2.7. (192.0.2.7)x".to_owned(), format!("{v4}, {v4}. ({v4})x")),
            ("from192.0.2.7to".to_owned(), format!("from{v4}to")),
            ("Tag=key=[2001:DB8::A]:7000;x,1.5".to_owned(), format!("Tag=key=[{v6}]:7000;x,1.5")),
            ("2001:db8:0:0:0:0:0:a 2001:0db8::000A%eth0".to_owned(), format!("{v6} {v6}%eth0")),
            ("2001:db8::a: no route".to_owned(), format!("{v6}: no route")),
            ("::ffff:192.0.2.7 ::ffff:c000:207".to_owned(), format!("::ffff:{v4} ::ffff:{v4}")),
            ("<td>2001:db8::a</td>".to_owned(), format!("<td>{v6}</td>")),
        ] {
            assert_eq!(pseudonyms.text(&text), expected, "{text}");
        }
        assert_eq!(pseudonyms.met().0, 2, "{pseudonyms:?}");
    }

    #[test]
    fn a_prefix_is_that_of_its_addresses() {
        let key = key();
        let mut pseudonyms = Pseudonyms::new(&key);
        let mut prefix = |text: &str| pseudonyms.text(text).parse::<crate::Prefix>().unwrap();
        let (v4, v6) = (prefix("192.0.2.0/24"), prefix("2001:db8::/32"));
        assert!(v4.contains(key.pseudonym("192.0.2.200".parse().unwrap())) && v4.length() == 24);
        assert!(v6.contains(key.pseudonym("2001:db8:ffff::1".parse().unwrap())) && v6.length() == 32);
        assert_eq!(pseudonyms.text("0.0.0.0/0 ::/0"), "0.0.0.0/0 ::/0");
        // An interface's address has bits beyond its length, and keeps them hidden.
        let interface = format!("{}/24", key.pseudonym("192.0.2.7".parse().unwrap()));
        assert_eq!(pseudonyms.text("192.0.2.7/24"), interface);
    }

    #[test]
    fn what_is_no_address_or_nobodys_stays() {
        let key = key();
        for text in [
            "2026-11-21T10:00:00Z 19:00-24:00 1.25.3 6.1.0-13-amd64",
            "std::fade cafe::babes :: ::1 127.0.0.1:8620",
            "HISTEwAAAAkAAAAAAAAAAwAAAAAAAAABAAAADfhHWAA/8AAAAAAAAKf+AQIEDwJ9Ag==",
            "3f5a0c:dead 256.1.1.1 1.2.3",
            "übrigens: größer",
            "",
        ] {
            let mut pseudonyms = Pseudonyms::new(&key);
            assert_eq!(pseudonyms.text(text), text);
            assert_eq!(pseudonyms.met(), (0, 0), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_else_changes_and_the_key_leads_back(text in ".{0,20}( |=|\\[)(([0-9]{1,3}\\.){3}[0-9]{1,3}|[0-9a-f:]{2,20})(\\]|:| ).{0,20}") {
            let key = key();
            let mut pseudonyms = Pseudonyms::new(&key);
            let hidden = pseudonyms.text(&text).into_owned();
            // Once more with the way back: the same words, the spelling of addresses aside.
            let all: Vec<(IpAddr, IpAddr)> = pseudonyms.known.iter().map(|(of, pseudonym)| (*of, *pseudonym)).collect();
            for (truth, pseudonym) in all {
                proptest::prop_assert!(is_nobodys(pseudonym) || key.reveal(pseudonym) == truth);
            }
            if pseudonyms.replaced == 0 {
                proptest::prop_assert_eq!(hidden, text);
            }
        }
    }
}
