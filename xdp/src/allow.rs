//! The allowlist in the driver: the prefixes of `bpf/allow.h`, checked before the kernel is asked.

use aya::{
    Ebpf,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};

use pathlab_record::Prefix;

use crate::{Error, abi, maps};

/// `PREFIXES_MAX`.
const PREFIXES_MAX: usize = 1024;

/// # Errors
/// [`Error::TooManyPrefixes`].
pub(crate) fn check(prefixes: &[Prefix]) -> Result<(), Error> {
    let wanted = prefixes.len();
    if wanted > PREFIXES_MAX { Err(Error::TooManyPrefixes { wanted, limit: PREFIXES_MAX }) } else { Ok(()) }
}

/// `struct prefix`, the key of the trie.
fn key(prefix: &Prefix) -> Key<abi::AddressKey> {
    let mapped = if prefix.address().is_ipv4() { 96 } else { 0 };
    Key::new(mapped + u32::from(prefix.length()), abi::address_key(prefix.address()))
}

/// The map `ALLOWED`.
pub(crate) struct Allowed(LpmTrie<MapData, abi::AddressKey, u32>);

impl Allowed {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        maps::typed(ebpf, "ALLOWED").map(Self)
    }

    pub(crate) fn add(&mut self, prefixes: &[Prefix]) -> Result<(), Error> {
        let mut insert = |prefix| self.0.insert(&key(prefix), 1, 0).map_err(|source| maps::failed("ALLOWED", source));
        prefixes.iter().try_for_each(&mut insert)
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

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_prefix_is_one_of_the_mapped_addresses() {
        let v4 = key(&prefix("192.0.2.0/24"));
        assert_eq!((v4.prefix_len(), v4.data()[10..14].to_vec()), (120, vec![0xff, 0xff, 192, 0]));
        assert_eq!(key(&prefix("::/0")).prefix_len(), 0);
        assert_eq!(key(&prefix("2001:db8::1")).prefix_len(), 128);
    }

    #[test]
    fn too_many_are_refused() {
        assert_eq!(
            check(&vec![prefix("192.0.2.0/24"); 1025]).unwrap_err().to_string(),
            "1025 prefixes in the allowlist, and the XDP reflector takes 1024; name fewer, or wider ones"
        );
    }
}
