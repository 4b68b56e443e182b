//! Finds addresses in text, whatever the format around them, and puts pseudonyms in their places; hardware addresses and hosts' names as well.
//!
//! Rather too much than too little: four numbers up to 255 with dots between are an address, though they may be a version. An IPv6 address is one
//! in any spelling (RFC 4291 section 2.2), between characters that are part of no word. A host's name, which somebody has to tell, is hidden wherever it
//! is a word, but as a name of a field of JSON.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{AddressKey, hardware_address, hardware_text, is_nobodys};

/// Longest text of an address: `0000:0000:0000:0000:0000:ffff:255.255.255.255`.
const LONGEST: usize = 45;

/// The pseudonyms of everything that was met.
#[derive(Debug)]
pub struct Pseudonyms<'k> {
    key: &'k AddressKey,
    known: HashMap<IpAddr, IpAddr>,
    hardware: BTreeSet<Vec<u8>>,
    /// By the name in small letters, the longest first to be tried; and whether it was met.
    hosts: BTreeMap<String, (String, bool)>,
    replaced: u64,
}

/// What was hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// Addresses of IP.
    pub addresses: usize,
    /// Hardware addresses.
    pub hardware: usize,
    /// Names of hosts.
    pub hosts: usize,
    /// In how many places they stood.
    pub places: u64,
}

impl<'k> Pseudonyms<'k> {
    /// None met yet.
    pub fn new(key: &'k AddressKey) -> Self {
        Self { key, known: HashMap::new(), hardware: BTreeSet::new(), hosts: BTreeMap::new(), replaced: 0 }
    }

    /// What there was, and in how many places.
    pub fn met(&self) -> Met {
        Met {
            addresses: self.known.len(),
            hardware: self.hardware.len(),
            hosts: self.hosts.values().filter(|(_, met)| *met).count(),
            places: self.replaced,
        }
    }

    /// From now on this host's name is hidden, and the first part of it where it has a domain. Names that every host has are not.
    pub fn hide_host(&mut self, name: &str) {
        let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
        let first = name.split('.').next().unwrap_or_default().to_owned();
        for name in [first, name] {
            if name.parse::<IpAddr>().is_err()
                && !["", "localhost", "localhost.localdomain", "(none)"].contains(&name.as_str())
            {
                let pseudonym = self.key.host(&name);
                self.hosts.insert(name, (pseudonym, false));
            }
        }
    }

    /// The same text about pseudonyms. A prefix `ADDRESS/LENGTH` of which no more bits are set is that of the pseudonyms of its addresses.
    pub fn text<'t>(&mut self, text: &'t str) -> Cow<'t, str> {
        let bytes = text.as_bytes();
        let (mut out, mut kept, mut at) = (String::new(), 0, 0);
        while at < bytes.len() {
            let Some((pseudonym, length)) = self.at(bytes, at) else {
                at += 1;
                continue;
            };
            if let Some(pseudonym) = pseudonym {
                out.push_str(&text[kept..at]);
                out.push_str(&pseudonym);
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

    /// What begins at a place, its pseudonym unless it is nobody's, and its length.
    fn at(&mut self, bytes: &[u8], at: usize) -> Option<(Option<String>, usize)> {
        if let Some((pseudonym, length)) = self.host(bytes, at) {
            return Some((Some(pseudonym), length));
        }
        if let Some((before, octets, part, length)) = hardware(bytes, at) {
            let pseudonym = self.key.hardware(&octets);
            if pseudonym == octets {
                return Some((None, length));
            }
            let written = part.map_or_else(
                || hardware_text(&pseudonym, '-').replace('-', ""),
                |part| hardware_text(&pseudonym, part),
            );
            self.hardware.insert(octets);
            return Some((Some(format!("{before}{written}")), length));
        }
        if let Some((address, length)) = of_the_kernel(bytes, at) {
            return Some(((!is_nobodys(address)).then(|| kernels(self.of(address, None))), length));
        }
        let (address, length) = found(bytes, at)?;
        let prefix = prefix_after(&bytes[at + length..], address);
        Some(((!is_nobodys(address)).then(|| self.of(address, prefix).to_string()), length))
    }

    fn host(&mut self, bytes: &[u8], at: usize) -> Option<(String, usize)> {
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if self.hosts.is_empty() || at.checked_sub(1).is_some_and(|before| of_a_name(bytes[before])) {
            return None;
        }
        let is_here = |name: &str| {
            let end = at + name.len();
            bytes.get(at..end).is_some_and(|here| here.eq_ignore_ascii_case(name.as_bytes()))
                && !bytes.get(end).is_some_and(|byte| of_a_name(*byte))
                && !is_field(bytes, at, end)
        };
        let here = self.hosts.iter_mut().filter(|(name, _)| is_here(name)).max_by_key(|(name, _)| name.len());
        here.map(|(name, (pseudonym, met))| {
            *met = true;
            (pseudonym.clone(), name.len())
        })
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

/// The name of a field of JSON.
fn is_field(bytes: &[u8], at: usize, end: usize) -> bool {
    let Some(rest) = bytes[end..].strip_prefix(b"\"") else { return false };
    at > 0 && bytes[at - 1] == b'"' && rest.trim_ascii_start().first() == Some(&b':')
}

/// A hardware address: what stands before its digits and stays, its octets, what parts them, and the length of all. Also the name that systemd gives a port by its address
/// (systemd.net-naming-scheme(7)): `enx` and the digits.
fn hardware(bytes: &[u8], at: usize) -> Option<(&'static str, Vec<u8>, Option<char>, usize)> {
    let of_a_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let before = at.checked_sub(1).map(|before| bytes[before]);
    if before.is_some_and(of_a_word) {
        return None;
    }
    let rest = &bytes[at..];
    for name in ["enx", "wlx", "wwx"] {
        if let Some(digits) = rest.strip_prefix(name.as_bytes()).and_then(|rest| rest.first_chunk::<12>())
            && !rest.get(15).is_some_and(|byte| of_a_word(*byte))
            && let Some(octets) = octets(digits.chunks(2))
        {
            return Some((name, octets, None, 15));
        }
    }
    let part = rest.get(2).copied().filter(|part| matches!(part, b':' | b'-') && before != Some(*part))?;
    let more = |three: &&[u8]| three.len() == 3 && three[0] == part && three[1..].iter().all(u8::is_ascii_hexdigit);
    let pairs = 1 + rest[2..].chunks(3).take(20).take_while(more).count();
    let length = 3 * pairs - 1;
    let text = std::str::from_utf8(rest.get(..length)?).ok()?;
    // With colons between, eight are an address of IPv6 in some spelling.
    let (octets, part) = hardware_address(text).filter(|(octets, part)| octets.len() != 8 || *part == '-')?;
    (!rest.get(length).is_some_and(|byte| of_a_word(*byte))).then_some(("", octets, Some(part), length))
}

fn octets<'b>(pairs: impl Iterator<Item = &'b [u8]>) -> Option<Vec<u8>> {
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// As `/proc/net/udp` and `udp6` write an address before its port: words of 32 bits in the order of the machine, which is the little-endian one where pathlab runs.
fn of_the_kernel(bytes: &[u8], at: usize) -> Option<(IpAddr, usize)> {
    if at.checked_sub(1).is_some_and(|before| bytes[before] != b' ') {
        return None;
    }
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    let length = bytes[at..].iter().take(33).take_while(|byte| is_digit(byte)).count();
    let port = bytes.get(at + length..at + length + 6)?;
    if ![8, 32].contains(&length) || port[0] != b':' || !port[1..5].iter().all(is_digit) || port[5] != b' ' {
        return None;
    }
    let words = bytes[at..at + length].chunks(8);
    let words: Option<Vec<u32>> =
        words.map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::swap_bytes)).collect();
    let address = match words?[..] {
        [v4] => Ipv4Addr::from_bits(v4).into(),
        [a, b, c, d] => {
            Ipv6Addr::from_bits([a, b, c, d].into_iter().fold(0, |bits, word| bits << 32 | u128::from(word))).into()
        }
        _ => return None,
    };
    Some((address, length))
}

/// The same way back.
fn kernels(address: IpAddr) -> String {
    let words: Vec<u32> = match address {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => (0..4).rev().map(|word| (address.to_bits() >> (32 * word)) as u32).collect(),
    };
    words.into_iter().map(|word| format!("{:08X}", word.swap_bytes())).collect()
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
        assert_eq!(pseudonyms.met().addresses, 2, "{pseudonyms:?}");
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
    fn hardware_addresses_are_hidden_in_every_spelling() {
        let key = key();
        let mut pseudonyms = Pseudonyms::new(&key);
        let hidden = key.hardware(&[0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        let [colons, hyphens] = [':', '-'].map(|part| hardware_text(&hidden, part));
        let digits = colons.replace(':', "");
        for (text, expected) in [
            (
                "link/ether 02:42:AC:11:00:02 brd ff:ff:ff:ff:ff:ff",
                format!("link/ether {colons} brd ff:ff:ff:ff:ff:ff"),
            ),
            ("\"mac\":\"02-42-ac-11-00-02\"", format!("\"mac\":\"{hyphens}\"")),
            ("dev enx0242ac110002.7 02:42:ac:11:00:02", format!("dev enx{digits}.7 {colons}")),
            ("02:42:ac:11:00:02: link", format!("{colons}: link")),
        ] {
            assert_eq!(pseudonyms.text(text), expected, "{text}");
        }
        let infiniband = "80:00:02:08:fe:80:00:00:00:00:00:00:02:42:ac:ff:fe:11:00:02";
        let text = pseudonyms.text(infiniband).into_owned();
        assert!(
            text.starts_with("80:00:02:08:") && text.len() == infiniband.len() && !text.contains("42:ac"),
            "{text}"
        );
        assert_eq!(pseudonyms.met().hardware, 2);
        for text in ["2026-11-29-10-11-12", "02:42:ac:11:00", "02:42:ac:11:00:0211", "sha 0242ac110002", "0000:02:00.0"]
        {
            assert_eq!(pseudonyms.text(text), text);
        }
    }

    #[test]
    fn addresses_as_the_kernel_writes_them_are_hidden() {
        let key = key();
        let mut pseudonyms = Pseudonyms::new(&key);
        let line = "  12: 0702 0100007F:0035 070200C0:1F40 00000000:00000000 00:00000000\n";
        let text = pseudonyms.text(line).into_owned();
        assert!(
            text.contains(" 0100007F:0035 ") && text.contains(":1F40 00000000:00000000 ") && text.len() == line.len()
        );
        let v4 = key.pseudonym("192.0.2.7".parse().unwrap());
        assert!(text.contains(&format!(" {}:1F40", kernels(v4))) && !text.contains("070200C0"), "{text}");
        let line = " 1: B80D0120000000000000000001000000:035E 00000000000000000000000000000000:0000 07";
        let text = pseudonyms.text(line).into_owned();
        let v6 = key.pseudonym("2001:db8::1".parse().unwrap());
        assert!(
            text.contains(&format!(" {}:035E", kernels(v6)))
                && text.ends_with(" 00000000000000000000000000000000:0000 07"),
            "{text}"
        );
    }

    #[test]
    fn hosts_that_are_told_are_hidden_where_they_are_words() {
        let key = key();
        let mut pseudonyms = Pseudonyms::new(&key);
        pseudonyms.hide_host("tyo-game-1.example.net");
        pseudonyms.hide_host("probe");
        pseudonyms.hide_host("localhost");
        let [short, long, probe] = ["tyo-game-1", "tyo-game-1.example.net", "probe"].map(|name| key.host(name));
        for (text, expected) in [
            ("noc@TYO-game-1: up", format!("noc@{short}: up")),
            ("at tyo-game-1.example.net.", format!("at {long}.")),
            (
                "{\"probe\":1,\"name\":\"probe\",\"probe\" : 2}",
                format!("{{\"probe\":1,\"name\":\"{probe}\",\"probe\" : 2}}"),
            ),
            ("xtyo-game-1 tyo-game-12 probes localhost", "xtyo-game-1 tyo-game-12 probes localhost".to_owned()),
        ] {
            assert_eq!(pseudonyms.text(text), expected, "{text}");
        }
        assert_eq!(pseudonyms.met().hosts, 3);
        assert_eq!(key.reveal_host(&long).as_deref(), Some("tyo-game-1.example.net"));
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
            assert_eq!(pseudonyms.met().places, 0, "{text}");
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
