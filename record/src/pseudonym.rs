//! Short names for sessions, so that a run can be handed on without its clients' addresses.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::SessionKey;

/// The secret that turns session keys into pseudonyms. The same salt gives the same pseudonym in every run, so runs can be joined;
/// without it nobody can try addresses until one fits. Keep it out of the run directory.
#[derive(Clone)]
pub struct Salt([u8; 32]);

impl Salt {
    /// A salt from 32 secret random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Twelve letters and digits (60 bits of a salted SHA-256): a million sessions collide with probability 4 in 10 million.
    /// An IPv4-mapped IPv6 address is the same client as the IPv4 address.
    pub fn pseudonym(&self, key: &SessionKey) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut hash = Sha256::new();
        hash.update(self.0);
        match key.0.ip().to_canonical() {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
        hash.update(key.0.port().to_be_bytes());
        let digest = hash.finalize();
        let bits = digest[..8].iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        (0..12).map(|place| char::from(ALPHABET[(bits >> (59 - 5 * place) & 31) as usize])).collect()
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(secret)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(text: &str) -> SessionKey {
        text.parse().unwrap()
    }

    #[test]
    fn the_salt_and_every_part_of_the_key_matter() {
        let (one, other) = (Salt::new([1; 32]), Salt::new([2; 32]));
        let names: HashSet<String> = [
            one.pseudonym(&key("192.0.2.1:7000")),
            one.pseudonym(&key("192.0.2.1:7001")),
            one.pseudonym(&key("192.0.2.2:7000")),
            one.pseudonym(&key("[2001:db8::1]:7000")),
            other.pseudonym(&key("192.0.2.1:7000")),
        ]
        .into();
        assert_eq!(names.len(), 5);
        assert!(names.iter().all(|name| name.len() == 12));
        assert_eq!(one.pseudonym(&key("[::ffff:192.0.2.1]:7000")), one.pseudonym(&key("192.0.2.1:7000")));
    }

    #[test]
    fn pseudonyms_do_not_change_between_versions() {
        // First 60 bits of SHA-256(32 zero bytes, c0 00 02 01, 1b 58) in base32.
        assert_eq!(Salt::new([0; 32]).pseudonym(&key("192.0.2.1:7000")), "4qkmiicihuzw");
    }

    #[test]
    fn a_hundred_thousand_sessions_do_not_collide() {
        let salt = Salt::new([7; 32]);
        let names: HashSet<String> = (0..100_000_u32)
            .map(|n| salt.pseudonym(&SessionKey((std::net::Ipv4Addr::from(n >> 8), n as u16 & 255).into())))
            .collect();
        assert_eq!(names.len(), 100_000);
    }
}
