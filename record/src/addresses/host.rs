//! Pseudonyms of hosts' names, which the key leads back as well: a name is not mapped, as an address is, but sealed.
//!
//! A synthetic initialisation vector (after P. Rogaway, T. Shrimpton, "A Provable-Security Treatment of the Key-Wrap Problem", EUROCRYPT 2006): a tag of name and key is the
//! beginning of the pseudonym and what its other letters are hidden by, so that one name has one pseudonym and nobody else can make or read one.

use hmac::Mac;

use super::AddressKey;

/// How a pseudonym begins, so that a reader sees what it stands for.
const PREFIX: &str = "host-";
/// Octets of the tag, and the step in which lengths are told: eight letters.
const STEP: usize = 5;
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl AddressKey {
    /// The pseudonym of a host's name, letters of either case alike: `host-` and 16 letters and digits or more.
    pub fn host(&self, name: &str) -> String {
        let mut octets = name.to_ascii_lowercase().into_bytes();
        let tag = self.tag(&octets);
        octets.resize(octets.len().next_multiple_of(STEP), 0);
        self.hide(tag, &mut octets);
        let letters = tag.into_iter().chain(octets).collect::<Vec<u8>>();
        let letters = letters.chunks(STEP).flat_map(|five| {
            let bits = five.iter().fold(0_u64, |bits, octet| bits << 8 | u64::from(*octet));
            (0..8).rev().map(move |place| char::from(LETTERS[(bits >> (5 * place) & 31) as usize]))
        });
        PREFIX.chars().chain(letters).collect()
    }

    /// The name behind a pseudonym; `None` for one that this key did not make.
    pub fn reveal_host(&self, pseudonym: &str) -> Option<String> {
        let letters = pseudonym.strip_prefix(PREFIX)?.as_bytes();
        let mut octets = Vec::new();
        for eight in letters.chunks(8) {
            let place = |letter: &u8| LETTERS.iter().position(|known| known == letter);
            let bits = eight.iter().try_fold(0_u64, |bits, letter| Some(bits << 5 | place(letter)? as u64))?;
            octets.extend_from_slice(&bits.to_be_bytes()[8 - STEP..]);
        }
        let tag = *octets.first_chunk::<STEP>().filter(|_| letters.len() % 8 == 0)?;
        let mut name = octets.split_off(STEP);
        self.hide(tag, &mut name);
        name.truncate(name.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1));
        (self.tag(&name) == tag).then(|| String::from_utf8(name).ok()).flatten()
    }

    /// What addresses ask of the HMAC begins with their width, at most 128.
    fn tag(&self, name: &[u8]) -> [u8; STEP] {
        let mut mac = self.0.clone();
        mac.update(&[0xfe]);
        mac.update(name);
        std::array::from_fn({
            let octets = mac.finalize().into_bytes();
            move |place| octets[place]
        })
    }

    /// There and back.
    fn hide(&self, tag: [u8; STEP], octets: &mut [u8]) {
        for (number, block) in (0_u8..).zip(octets.chunks_mut(32)) {
            let mut mac = self.0.clone();
            mac.update(&[0xff, number]);
            mac.update(&tag);
            block.iter_mut().zip(mac.finalize().into_bytes()).for_each(|(octet, by)| *octet ^= by);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_key_leads_back_and_another_does_not(octets: [u8; 32], name in "[a-z0-9][a-z0-9.-]{0,80}") {
            let key = AddressKey::new(&octets);
            let pseudonym = key.host(&name);
            prop_assert_eq!(&key.host(&name.to_uppercase()), &pseudonym);
            prop_assert_eq!(key.reveal_host(&pseudonym), Some(name.clone()));
            prop_assert!(crate::directory::is_plain_name(&key.host(&name[..name.len().min(60)])));
            let mut others = octets;
            others[0] ^= 1;
            prop_assert_eq!(AddressKey::new(&others).reveal_host(&pseudonym), None);
        }
    }

    #[test]
    fn what_is_no_pseudonym_is_none_and_none_tells_a_length() {
        let key = AddressKey::new(&[7; 32]);
        for text in ["host-", "host-abc", "host-aaaaaaaabbbbbbbb", "tyo-game-1", "host-Ä"] {
            assert_eq!(key.reveal_host(text), None, "{text}");
        }
        assert_eq!(key.host("tyo1").len(), key.host("tyo-1").len());
        assert_ne!(key.host("tyo1"), key.host("tyo2"));
    }
}
