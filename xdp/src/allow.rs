//! The allowlist in the driver: the prefixes of `bpf/allow.h`, checked before the kernel is asked.

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};

use crate::{Error, abi, maps};

/// `PREFIXES_MAX`.
const PREFIXES_MAX: usize = 1024;

/// # Errors
/// [`Error::NoPrefix`], [`Error::TooManyPrefixes`].
pub(crate) fn check(prefixes: &[(IpAddr, u8)]) -> Result<(), Error> {
    if prefixes.len() > PREFIXES_MAX {
        return Err(Error::TooManyPrefixes { wanted: prefixes.len(), limit: PREFIXES_MAX });
    }
    let wrong = prefixes.iter().find(|(address, length)| *length > bits(*address));
    wrong.map_or(Ok(()), |(address, length)| Err(Error::NoPrefix { address: *address, length: *length }))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `struct prefix`, the key of the trie. The kernel compares the first `length` bits alone, so that bits beyond do no harm.
fn key((address, length): (IpAddr, u8)) -> Key<abi::AddressKey> {
    let mapped = 128 - bits(address);
    Key::new(u32::from(mapped + length), abi::address_key(address))
}

/// The map `ALLOWED`.
pub(crate) struct Allowed(LpmTrie<MapData, abi::AddressKey, u32>);

impl Allowed {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        maps::typed(ebpf, "ALLOWED").map(Self)
    }

    pub(crate) fn add(&mut self, prefixes: &[(IpAddr, u8)]) -> Result<(), Error> {
        let mut insert = |prefix| self.0.insert(&key(prefix), 1, 0).map_err(|source| maps::failed("ALLOWED", source));
        prefixes.iter().copied().try_for_each(&mut insert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_header() {
        let header = include_str!("../bpf/abi.h");
        assert!(header.contains(&format!("sizeof(struct prefix) == {}", size_of::<Key<abi::AddressKey>>())));
        assert!(header.contains(&format!("#define PREFIXES_MAX {PREFIXES_MAX}\n")));
    }

    #[test]
    fn an_ipv4_prefix_is_one_of_the_mapped_addresses() {
        let v4 = key((IpAddr::from([192, 0, 2, 0]), 24));
        assert_eq!((v4.prefix_len(), v4.data()[10..14].to_vec()), (120, vec![0xff, 0xff, 192, 0]));
        assert_eq!(key(("::".parse().unwrap(), 0)).prefix_len(), 0);
    }

    #[test]
    fn what_is_no_prefix_or_too_many_is_refused() {
        let v4 = IpAddr::from([192, 0, 2, 0]);
        let error = |prefixes: &[(IpAddr, u8)]| check(prefixes).unwrap_err().to_string();
        assert_eq!(error(&[(v4, 33)]), "192.0.2.0/33 is no prefix: the length goes to 32");
        assert_eq!(
            error(&vec![(v4, 24); 1025]),
            "1025 prefixes in the allowlist, and the XDP reflector takes 1024; name fewer, or wider ones"
        );
    }
}
