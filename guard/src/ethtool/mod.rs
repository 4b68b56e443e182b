//! A port by ethtool netlink, asked and told on one blocking socket: a table of attributes for each message instead of a type for each. What netlink
//! does not tell on every kernel goes by ioctl, in [`sys`].

mod flow;
mod parameters;
pub mod sys;

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

pub use flow::Flow;
pub use parameters::{Group, Numbers};

/// linux/netlink.h, linux/genetlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE: u16 = (1 << 14) - 1;

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
pub struct Ethtool {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Ethtool {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EOPNOTSUPP` before Linux 5.6; a socket that the kernel does not give.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Why a request is refused, in words, and not the request itself again. Kernels before 4.12 cannot.
        drop(socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)));
        let mut this = Self { socket, family: GENL_ID_CTRL, sequence: 0 };
        let answer = this.ask(CTRL_CMD_GETFAMILY, &attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0"))?;
        this.family = attributes(&answer)
            .find_map(|(kind, payload)| (kind == CTRL_ATTR_FAMILY_ID).then(|| payload.try_into().ok()))
            .flatten()
            .map(u16::from_ne_bytes)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(this)
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
        self.ask(group.tell(), &request).map(drop)
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
        self.ask(FEATURES_SET, &request).map(drop)
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
        self.ask(command, &header(interface))
    }

    /// One request; the attributes of its answer.
    fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::with_capacity(20 + attributes.len());
        request.extend(u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX).to_ne_bytes());
        request.extend(self.family.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([command, 1, 0, 0]);
        request.extend(attributes);
        self.socket.send(&request, 0)?;
        let mut answer = Vec::new();
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            // The kernel answers inside send(2).
            self.socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
            for message in messages(&buffer) {
                match message {
                    (_, _, sequence) if sequence != self.sequence => {}
                    (NLMSG_ERROR, payload, _) => {
                        let code = payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(answer) } else { Err(refusal(code.saturating_neg(), payload)) };
                    }
                    (_, payload, _) => answer = payload.get(4..).unwrap_or_default().to_vec(),
                }
            }
        }
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

/// What the kernel says to a wrong wish, in its own words where it has some (`NLMSGERR_ATTR_MSG`). Of what is not there or not allowed, the code
/// is the answer, and is kept.
fn refusal(code: i32, payload: &[u8]) -> io::Error {
    let error = io::Error::from_raw_os_error(code);
    if !matches!(code, libc::EINVAL | libc::ERANGE | libc::EBUSY) {
        return error;
    }
    // struct nlmsgerr, capped: the code and the header of the request; then attributes.
    let words = attributes(payload.get(20..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
    match words {
        None => error,
        Some((_, words)) => {
            let words = String::from_utf8_lossy(words.strip_suffix(&[0]).unwrap_or(words)).into_owned();
            io::Error::new(error.kind(), words)
        }
    }
}

/// The name of a port, as every request begins.
fn header(interface: &str) -> Vec<u8> {
    attribute(HEADER | NLA_F_NESTED, &attribute(HEADER_DEV_NAME, &[interface.as_bytes(), &[0]].concat()))
}

/// Whole messages of a datagram: type, payload, sequence. A length that does not fit ends them.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], u32)> {
    std::iter::from_fn(move || {
        let header: &[u8; 16] = rest.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        Some((kind, payload, u32::from_ne_bytes([header[8], header[9], header[10], header[11]])))
    })
}

/// Attributes: type without its flags, payload. A length that does not fit ends them.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE, payload))
    })
}

/// One attribute, padded.
fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
    let mut octets = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    octets.extend(payload);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
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
    fn a_refusal_is_told_in_the_kernels_words() {
        let payload =
            [(-libc::EINVAL).to_ne_bytes().to_vec(), vec![0; 16], attribute(1, b"ring size too large\0")].concat();
        assert_eq!(refusal(libc::EINVAL, &payload).to_string(), "ring size too large");
        assert_eq!(refusal(libc::EINVAL, &payload[..20]).raw_os_error(), Some(libc::EINVAL));
        assert_eq!(refusal(libc::EOPNOTSUPP, &payload).raw_os_error(), Some(libc::EOPNOTSUPP));
    }

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
