//! Keys of the authenticated mode (RFC 8762 §4.4) and of the HMAC TLV (RFC 8972 §4.8), by SSID: HMAC-SHA-256 cut to 128 bits.
//!
//! A key is kept as the state of a hash that has taken it in, is wiped when dropped, and is printed nowhere.

mod error;
mod file;

use std::{collections::HashMap, fmt};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use error::KeyError;

/// Octets of an HMAC on the wire.
pub const HMAC_LEN: usize = 16;

/// The fewest octets of a key: as many as its HMAC has.
pub const SHORTEST_KEY: usize = 16;

/// One shared secret.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// The key of these octets, [`SHORTEST_KEY`] or more; 32 that nobody can guess are best.
    ///
    /// # Errors
    /// [`KeyError::Short`].
    pub fn new(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SHORTEST_KEY {
            return Err(KeyError::Short { octets: secret.len() });
        }
        Hmac::new_from_slice(secret).map(Self).map_err(|_| KeyError::Short { octets: secret.len() })
    }

    /// The HMAC over `parts`, one after the other.
    pub fn hmac(&self, parts: &[&[u8]]) -> [u8; HMAC_LEN] {
        let digest = self.over(parts).finalize().into_bytes();
        std::array::from_fn(|place| digest[place])
    }

    /// Whether `tag` is that HMAC; takes as long whether or not.
    pub fn verifies(&self, parts: &[&[u8]], tag: &[u8; HMAC_LEN]) -> bool {
        self.over(parts).verify_truncated_left(tag).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut state = self.0.clone();
        parts.iter().for_each(|part| state.update(part));
        state
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What the keys protect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// Authenticated mode: base packets of 112 octets with an HMAC, and TLVs by an HMAC TLV. What is not authenticated is refused.
    #[default]
    Authenticated,
    /// Unauthenticated mode, in which TLVs alone carry an HMAC (RFC 8972 §4.8).
    Extensions,
}

/// The keys of all sessions.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    protection: Protection,
    default: Option<Key>,
    by_ssid: HashMap<u16, Key>,
}

impl Keys {
    /// One key for every session.
    pub fn of(protection: Protection, default: Key) -> Self {
        Self { protection, default: Some(default), by_ssid: HashMap::new() }
    }

    /// The same with a key of its own for the sessions of `ssid`.
    pub fn with(mut self, ssid: u16, key: Key) -> Self {
        self.by_ssid.insert(ssid, key);
        self
    }

    /// The key of the sessions of `ssid`: their own, else the default.
    pub fn find(&self, ssid: u16) -> Option<&Key> {
        self.by_ssid.get(&ssid).or(self.default.as_ref())
    }

    /// Whether base packets carry an HMAC.
    pub fn authenticate(&self) -> bool {
        self.protection == Protection::Authenticated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hmac_is_that_of_rfc_4231_cut_to_its_first_half() {
        // test case 3: twenty octets 0xaa, fifty octets 0xdd
        let key = Key::new(&[0xaa; 20]).expect("long enough");
        let wanted = [0x77, 0x3e, 0xa9, 0x1e, 0x36, 0x80, 0x0e, 0x46, 0x85, 0x4d, 0xb8, 0xeb, 0xd0, 0x91, 0x81, 0xa7];
        assert_eq!(key.hmac(&[&[0xdd; 30], &[0xdd; 20]]), wanted);
        assert!(key.verifies(&[&[0xdd; 50]], &wanted));
        let mut other = wanted;
        other[15] ^= 1;
        assert!(!key.verifies(&[&[0xdd; 50]], &other));
        assert!(!key.verifies(&[&[0xdd; 49]], &wanted));
    }

    #[test]
    fn a_session_has_its_own_key_or_the_default() {
        let key = |octet| Key::new(&[octet; 16]).expect("long enough");
        let keys = Keys::of(Protection::Authenticated, key(1)).with(7, key(2));
        let tag = |keys: &Keys, ssid| keys.find(ssid).map(|key| key.hmac(&[b"x"]));
        assert_eq!(tag(&keys, 7), Some(key(2).hmac(&[b"x"])));
        assert_eq!(tag(&keys, 8), Some(key(1).hmac(&[b"x"])));
        assert_eq!(tag(&Keys::default().with(7, key(2)), 8), None);
    }

    #[test]
    fn no_key_is_printed() {
        let keys = Keys::of(Protection::Extensions, Key::new(&[0x5a; 16]).expect("long enough"));
        let printed = format!("{keys:?} {:#?}", keys.find(1));
        assert!(
            printed.contains("Key(..)") && !printed.contains("90") && !printed.to_lowercase().contains("5a"),
            "{printed}"
        );
        assert!(matches!(Key::new(&[0; 15]), Err(KeyError::Short { octets: 15 })));
    }
}
