//! A port by ethtool netlink, asked and told on one blocking socket: a table of attributes for each message instead of a type for each. What netlink
//! does not tell on every kernel goes by ioctl, in [`sys`].

mod flow;
mod parameters;
pub mod sys;

use std::io;

pub use flow::Flow;
pub use parameters::{Group, Numbers};

#[cfg(any(test, fuzzing))]
use crate::genetlink::messages;
use crate::genetlink::{Genetlink, attribute, attributes};

/// linux/netlink.h
const NLA_F_NESTED: u16 = 1 << 15;

/// linux/ethtool_netlink.h
const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const RSS_GET: u8 = 38;
const FEATURES_WANTED: u16 = 3;
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// A generic netlink socket that speaks to the `ethtool` family.
#[derive(Debug)]
pub struct Ethtool(Genetlink);

impl Ethtool {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// `ENOENT` before Linux 5.6; a socket that the kernel does not give.
    pub fn open() -> io::Result<Self> {
        Genetlink::open("ethtool").map(Self)
    }

    /// What the driver tells of a group of parameters.
    ///
    /// # Errors
    /// As the kernel gave it: `EOPNOTSUPP` where the driver has none of the group, `ENODEV`.
    pub fn numbers(&mut self, group: Group, interface: &str) -> io::Result<Numbers> {
        Ok(Numbers::of(group, &self.get(group.ask(), interface)?))
    }

    /// Sets those parameters of a group that are named; the others stay.
    ///
    /// # Errors
    /// As the kernel gave it: `EINVAL` for a name that the group has not or a value that the driver refuses, `EOPNOTSUPP`, `EPERM`, `ENODEV`.
    pub fn set_numbers(&mut self, group: Group, interface: &str, values: &[(&str, u32)]) -> io::Result<()> {
        let mut request = header(interface);
        for (name, value) in values {
            request.extend(group.attribute(name, *value).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?);
        }
        self.0.ask(group.tell(), &request).map(drop)
    }

    /// `ethtool -k`, by the kernel's names.
    ///
    /// # Errors
    /// As the kernel gave it: `ENODEV`.
    pub fn features(&mut self, interface: &str) -> io::Result<Features> {
        let answer = self.get(FEATURES_GET, interface)?;
        let set = |wanted: u16| {
            attributes(&answer).find(|(kind, _)| *kind == wanted).map(|(_, bitset)| names(bitset)).unwrap_or_default()
        };
        Ok(Features { changeable: set(2), wanted: set(FEATURES_WANTED), active: set(4), fixed: set(5) })
    }

    /// Wishes a feature on or off. What comes of the wish is in [`Ethtool::features`]: another feature may stand in its way.
    ///
    /// # Errors
    /// As the kernel gave it: `EINVAL` for an unknown name, `EPERM`, `ENODEV`.
    pub fn set_feature(&mut self, interface: &str, name: &str, on: bool) -> io::Result<()> {
        let mut bit = attribute(BIT_NAME, &[name.as_bytes(), &[0]].concat());
        if on {
            bit.extend(attribute(BIT_VALUE, &[]));
        }
        let bits = attribute(BITSET_BITS | NLA_F_NESTED, &attribute(BITSET_BIT | NLA_F_NESTED, &bit));
        let mut request = header(interface);
        request.extend(attribute(FEATURES_WANTED | NLA_F_NESTED, &bits));
        self.0.ask(FEATURES_SET, &request).map(drop)
    }

    /// `ethtool -x`: the receive queue of each entry. Kernels before 6.3 do not know the message, and some drivers tell by ioctl alone.
    ///
    /// # Errors
    /// As the kernel gave it: `EOPNOTSUPP` where the driver has no table, `ENODEV`.
    pub fn rss(&mut self, interface: &str) -> io::Result<Vec<u32>> {
        let told = self.get(RSS_GET, interface).map(|answer| {
            let table = attributes(&answer).find(|(kind, _)| *kind == 4).map(|(_, table)| table).unwrap_or_default();
            table.chunks_exact(4).map(|entry| u32::from_ne_bytes(entry.try_into().unwrap_or_default())).collect()
        });
        match told {
            Ok(table) if !Vec::is_empty(&table) => Ok(table),
            _ => sys::indirection(interface),
        }
    }

    fn get(&mut self, command: u8, interface: &str) -> io::Result<Vec<u8>> {
        self.0.ask(command, &header(interface))
    }
}

/// `ethtool -k`, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Those that the driver lets be switched.
    pub changeable: Vec<String>,
    /// Those that are wished on; what is put back is this.
    pub wanted: Vec<String>,
    /// Those that are on.
    pub active: Vec<String>,
    /// Those that nobody can switch.
    pub fixed: Vec<String>,
}

/// The name of a port, as every request begins.
fn header(interface: &str) -> Vec<u8> {
    attribute(HEADER | NLA_F_NESTED, &attribute(HEADER_DEV_NAME, &[interface.as_bytes(), &[0]].concat()))
}

/// The names in a verbose bitset (`ETHTOOL_A_BITSET_BITS`): all of a list, of a set with a mask those that have a value.
fn names(bitset: &[u8]) -> Vec<String> {
    let bits = attributes(bitset).find(|(kind, _)| *kind == BITSET_BITS).map(|(_, bits)| bits).unwrap_or_default();
    let is_list = attributes(bitset).any(|(kind, _)| kind == BITSET_NOMASK);
    let name = |bit: &[u8]| {
        let name = attributes(bit).find(|(kind, _)| *kind == BIT_NAME)?.1;
        let set = is_list || attributes(bit).any(|(kind, _)| kind == BIT_VALUE);
        set.then(|| String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned())
    };
    let mut names: Vec<String> = attributes(bits).filter_map(|(_, bit)| name(bit)).collect();
    names.sort();
    names
}

/// For the fuzz target: what is read out of any octets lies within them.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_octets(octets: &[u8]) {
    let payloads: usize = messages(octets).map(|(_, payload, _)| 16 + payload.len()).sum();
    assert!(payloads <= octets.len(), "{payloads} of {} octets", octets.len());
    let values: usize = attributes(octets).map(|(_, value)| 4 + value.len()).sum();
    assert!(values <= octets.len(), "{values} of {} octets", octets.len());
    assert!(names(octets).len() <= octets.len() / 4);
    for group in Group::ALL {
        assert!(Numbers::of(group, octets).told().count() <= octets.len() / 4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bitset_names_its_bits() {
        let bit = |name: &[u8]| attribute(1 | NLA_F_NESTED, &attribute(2, name));
        let bitset = attribute(3 | NLA_F_NESTED, &[bit(b"rx-gro\0"), bit(b"rx-lro\0")].concat());
        let list = [attribute(BITSET_NOMASK, &[]), bitset.clone()].concat();
        assert_eq!(names(&list), ["rx-gro", "rx-lro"]);
        // With a mask, which names what there is, a bit is set where it has a value.
        assert_eq!(names(&bitset), [""; 0]);
        let set = attribute(1 | NLA_F_NESTED, &[attribute(2, b"tx-lro\0"), attribute(BIT_VALUE, &[])].concat());
        let bitset = attribute(3 | NLA_F_NESTED, &[bit(b"rx-gro\0"), set].concat());
        assert_eq!(names(&bitset), ["tx-lro"]);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(octets: Vec<u8>) {
            any_octets(&octets);
        }
    }
}
