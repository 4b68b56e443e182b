//! The function that the kernel's rule computes for each packet, computed here for the analysis and for matchmakers.
//!
//! The rule is `jhash <key> mod 10000 seed <seed>`: Jenkins' lookup3 over the bytes of the key as nftables lays them
//! out in its 32-bit registers, then `hash * 10000 >> 32` (Linux `include/linux/jhash.h`, `net/netfilter/nft_hash.c`,
//! `reciprocal_scale`). jhash reads words in the host's byte order; every host that pathlab supports is little-endian,
//! and this function reads them so on any machine.

use std::net::{IpAddr, SocketAddr};

use pathlab_record::SessionKey;

use crate::{KeyFrom, Share};

/// Longest `payload` key, in bytes.
pub const MAX_KEY: usize = 32;

/// The bucket, from 0 to 9,999, of a session; `None` for [`KeyFrom::Payload`], whose key is not the address: use
/// [`bucket_of_bytes`].
///
/// An IPv4-mapped IPv6 address counts as the IPv4 address that is on the wire.
pub fn bucket(seed: u32, key: &SessionKey, from: KeyFrom) -> Option<u16> {
    let SessionKey(client) = key;
    let with_port = match from {
        KeyFrom::ClientAddrPort => true,
        KeyFrom::ClientAddr => false,
        KeyFrom::Payload => return None,
    };
    let (bytes, length) = address_key(*client, with_port);
    Some(bucket_of_bytes(seed, &bytes[..length]))
}

/// The bucket, from 0 to 9,999, of a key given as its bytes on the wire, such as the session id in the payload.
pub fn bucket_of_bytes(seed: u32, key: &[u8]) -> u16 {
    let scaled = (u64::from(jhash(key, seed)) * u64::from(Share::BUCKETS)) >> 32;
    scaled as u16
}

/// The key as nftables concatenates it: each field begins at a 4-byte register, the rest of the register is zero.
fn address_key(client: SocketAddr, with_port: bool) -> ([u8; 20], usize) {
    let mut key = [0; 20];
    let address = match client.ip().to_canonical() {
        IpAddr::V4(address) => {
            key[..4].copy_from_slice(&address.octets());
            4
        }
        IpAddr::V6(address) => {
            key[..16].copy_from_slice(&address.octets());
            16
        }
    };
    if !with_port {
        return (key, address);
    }
    key[address..address + 2].copy_from_slice(&client.port().to_be_bytes());
    (key, address + 4)
}

/// Jenkins' lookup3 as Linux has it.
fn jhash(key: &[u8], seed: u32) -> u32 {
    const INITVAL: u32 = 0xdead_beef;
    let start = INITVAL.wrapping_add(key.len() as u32).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = key;
    while rest.len() > 12 {
        let (block, tail) = rest.split_at(12);
        a = a.wrapping_add(word(block, 0));
        b = b.wrapping_add(word(block, 4));
        c = c.wrapping_add(word(block, 8));
        (a, b, c) = mix(a, b, c);
        rest = tail;
    }
    if rest.is_empty() {
        return c;
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 4));
    c = c.wrapping_add(word(rest, 8));
    last(a, b, c)
}

/// The little-endian word at `at`; bytes past the end count as zero.
fn word(bytes: &[u8], at: usize) -> u32 {
    // Keys of addresses are whole words, and a verdict draws some million of them.
    if let Some(&[a, b, c, d]) = bytes.get(at..at + 4) {
        return u32::from_le_bytes([a, b, c, d]);
    }
    (0..4).map(|i| bytes.get(at + i).map_or(0, |byte| u32::from(*byte) << (8 * i))).sum()
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for [x, y, z] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(x);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(y);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(z);
        b = b.wrapping_add(a);
    }
    (a, b, c)
}

fn last(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Vectors of the author's own self test (lookup3.c, `driver5`): linux's `length + initval` start is his
    /// `hashlittle` with that initval.
    #[test]
    fn jhash_is_lookup3() {
        assert_eq!(jhash(b"", 0), 0xdead_beef);
        assert_eq!(jhash(b"", 0xdead_beef), 0xbd5b_7dde);
        assert_eq!(jhash(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(jhash(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn the_key_is_laid_out_as_nftables_registers() {
        let (key, length) = address_key("192.0.2.1:7777".parse().unwrap(), true);
        assert_eq!(key[..length], [192, 0, 2, 1, 0x1e, 0x61, 0, 0]);
        let (key, length) = address_key("[2001:db8::1]:7777".parse().unwrap(), true);
        assert_eq!(key[..length], *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1e\x61\0\0");
        let mapped = "[::ffff:192.0.2.1]:7777".parse().unwrap();
        assert_eq!(address_key(mapped, false).0[..4], [192, 0, 2, 1]);
    }

    proptest! {
        #[test]
        fn a_bucket_is_below_ten_thousand(seed: u32, key in proptest::collection::vec(any::<u8>(), 0..=MAX_KEY)) {
            prop_assert!(bucket_of_bytes(seed, &key) < Share::BUCKETS);
        }

        #[test]
        fn the_port_does_not_matter_when_it_is_not_in_the_key(seed: u32, address: [u8; 16], a: u16, b: u16) {
            let [a, b] = [a, b].map(|port| SessionKey((IpAddr::from(address), port).into()));
            prop_assert_eq!(bucket(seed, &a, KeyFrom::ClientAddr), bucket(seed, &b, KeyFrom::ClientAddr));
        }
    }
}
