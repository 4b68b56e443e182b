//! The function that the kernel's rule computes for each packet, computed here for the analysis and for matchmakers.
//!
//! The rule is `jhash <key> mod 10000 seed <seed>`: Jenkins' lookup3 over the bytes of the key as nftables lays them
//! out in its 32-bit registers, then `hash * 10000 >> 32` (Linux `include/linux/jhash.h`, `net/netfilter/nft_hash.c`,
//! `reciprocal_scale`). jhash reads words in the host's byte order; every host that pathlab supports is little-endian,
//! and this function reads them so on any machine.

use std::net::IpAddr;

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
    let port = u32::from(u16::from_le_bytes(client.port().to_be_bytes()));
    // By length, so that the compiler knows each: a verdict draws some thousand million of them.
    let hash = match client.ip().to_canonical() {
        IpAddr::V4(address) => {
            let [address] = words(&address.octets());
            if with_port { jhash(&[address, port], 8, seed) } else { jhash(&[address], 4, seed) }
        }
        IpAddr::V6(address) => {
            let [a, b, c, d] = words(&address.octets());
            if with_port { jhash(&[a, b, c, d, port], 20, seed) } else { jhash(&[a, b, c, d], 16, seed) }
        }
    };
    Some(scaled(hash))
}

/// The bucket, from 0 to 9,999, of a key given as its bytes on the wire, such as the session id in the payload.
pub fn bucket_of_bytes(seed: u32, key: &[u8]) -> u16 {
    let words: Vec<u32> = key.chunks(4).map(|bytes| words::<1>(bytes)[0]).collect();
    scaled(jhash(&words, key.len() as u32, seed))
}

fn scaled(hash: u32) -> u16 {
    ((u64::from(hash) * u64::from(Share::BUCKETS)) >> 32) as u16
}

/// The key's bytes as the little-endian words of nftables' registers: each field begins at one, the rest of it is zero.
#[inline]
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    std::array::from_fn(|word| {
        let bytes = &bytes[bytes.len().min(4 * word)..bytes.len().min(4 * word + 4)];
        bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    })
}

/// Jenkins' lookup3 as Linux has it, of a key of `length` bytes.
#[inline]
fn jhash(key: &[u32], length: u32, seed: u32) -> u32 {
    const INITVAL: u32 = 0xdead_beef;
    let start = INITVAL.wrapping_add(length).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = key;
    while let [x, y, z, tail @ ..] = rest
        && !tail.is_empty()
    {
        (a, b, c) = mix(a.wrapping_add(*x), b.wrapping_add(*y), c.wrapping_add(*z));
        rest = tail;
    }
    let word = |place: usize| rest.get(place).copied().unwrap_or(0);
    if rest.is_empty() {
        return c;
    }
    last(a.wrapping_add(word(0)), b.wrapping_add(word(1)), c.wrapping_add(word(2)))
}

#[inline]
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

#[inline]
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

    fn of_bytes(key: &[u8], seed: u32) -> u32 {
        let words: Vec<u32> = key.chunks(4).map(|bytes| words::<1>(bytes)[0]).collect();
        jhash(&words, key.len() as u32, seed)
    }

    /// Vectors of the author's own self test (lookup3.c, `driver5`): linux's `length + initval` start is his
    /// `hashlittle` with that initval.
    #[test]
    fn jhash_is_lookup3() {
        assert_eq!(of_bytes(b"", 0), 0xdead_beef);
        assert_eq!(of_bytes(b"", 0xdead_beef), 0xbd5b_7dde);
        assert_eq!(of_bytes(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(of_bytes(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn the_key_is_laid_out_as_nftables_registers() {
        let v6 = b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1e\x61\0\0";
        for (client, registers) in [
            ("192.0.2.1:7777", &[192, 0, 2, 1, 0x1e, 0x61, 0, 0][..]),
            ("[::ffff:192.0.2.1]:7777", &[192, 0, 2, 1, 0x1e, 0x61, 0, 0]),
            ("[2001:db8::1]:7777", v6),
        ] {
            let key: SessionKey = client.parse().unwrap();
            let address = registers.len() - 4;
            for seed in [0, 1, 0x5eed_0005, u32::MAX] {
                let of = |from| bucket(seed, &key, from);
                assert_eq!(of(KeyFrom::ClientAddrPort), Some(bucket_of_bytes(seed, registers)), "{client}");
                assert_eq!(of(KeyFrom::ClientAddr), Some(bucket_of_bytes(seed, &registers[..address])), "{client}");
            }
        }
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
