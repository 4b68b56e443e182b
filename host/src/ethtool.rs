//! What ethtool netlink tells of a port, asked on one blocking socket: a table of attributes for each message instead of a type for each.

use std::{collections::BTreeMap, io};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::port::{Channels, Coalesce, Features, Rings, Rss};

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
const RINGS_GET: u8 = 15;
const CHANNELS_GET: u8 = 17;
const COALESCE_GET: u8 = 19;
const RSS_GET: u8 = 38;

/// A generic netlink socket that speaks to the `ethtool` family.
#[derive(Debug)]
pub(crate) struct Ethtool {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Ethtool {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut this = Self { socket, family: GENL_ID_CTRL, sequence: 0 };
        let answer = this.ask(CTRL_CMD_GETFAMILY, &attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0"))?;
        this.family = attributes(&answer)
            .find_map(|(kind, payload)| (kind == CTRL_ATTR_FAMILY_ID).then(|| payload.try_into().ok()))
            .flatten()
            .map(u16::from_ne_bytes)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(this)
    }

    /// `ethtool -g`.
    pub(crate) fn rings(&mut self, interface: &str) -> io::Result<Rings> {
        let told = Numbers::of(&self.get(RINGS_GET, interface)?);
        Ok(Rings { rx: told.at(6), rx_max: told.at(2), tx: told.at(9), tx_max: told.at(5) })
    }

    /// `ethtool -l`.
    pub(crate) fn channels(&mut self, interface: &str) -> io::Result<Channels> {
        let told = Numbers::of(&self.get(CHANNELS_GET, interface)?);
        let [rx, tx, combined] = [6, 7, 9].map(|kind| told.at(kind));
        let [rx_max, tx_max, combined_max] = [2, 3, 5].map(|kind| told.at(kind));
        Ok(Channels { rx, rx_max, tx, tx_max, combined, combined_max })
    }

    /// `ethtool -c`.
    pub(crate) fn coalesce(&mut self, interface: &str) -> io::Result<Coalesce> {
        let told = Numbers::of(&self.get(COALESCE_GET, interface)?);
        Ok(Coalesce {
            rx_usecs: told.at(2),
            rx_frames: told.at(3),
            tx_usecs: told.at(6),
            tx_frames: told.at(7),
            adaptive_rx: told.at(11).map(|on| on != 0),
            adaptive_tx: told.at(12).map(|on| on != 0),
        })
    }

    /// `ethtool -k`: what is on, and what cannot be changed.
    pub(crate) fn features(&mut self, interface: &str) -> io::Result<Features> {
        let answer = self.get(FEATURES_GET, interface)?;
        let set = |wanted: u16| {
            attributes(&answer).find(|(kind, _)| *kind == wanted).map(|(_, bitset)| names(bitset)).unwrap_or_default()
        };
        Ok(Features { active: set(4), fixed: set(5) })
    }

    /// `ethtool -x`; kernels before 6.3 do not know the message.
    pub(crate) fn rss(&mut self, interface: &str) -> io::Result<Rss> {
        let answer = self.get(RSS_GET, interface)?;
        let table = attributes(&answer).find(|(kind, _)| *kind == 4).map(|(_, table)| table).unwrap_or_default();
        Ok(Rss {
            table: table
                .chunks_exact(4)
                .map(|entry| u32::from_ne_bytes(entry.try_into().unwrap_or_default()))
                .collect(),
        })
    }

    fn get(&mut self, command: u8, interface: &str) -> io::Result<Vec<u8>> {
        let mut name = interface.as_bytes().to_vec();
        name.push(0);
        self.ask(command, &attribute(HEADER | NLA_F_NESTED, &attribute(HEADER_DEV_NAME, &name)))
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
                        return if code == 0 {
                            Ok(answer)
                        } else {
                            Err(io::Error::from_raw_os_error(code.saturating_neg()))
                        };
                    }
                    (_, payload, _) => answer = payload.get(4..).unwrap_or_default().to_vec(),
                }
            }
        }
    }
}

/// Whole messages of a datagram: type, payload, sequence. A length that does not fit ends them.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], u32)> {
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
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
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

/// The attributes that are numbers of one or four octets.
struct Numbers(BTreeMap<u16, u32>);

impl Numbers {
    fn of(answer: &[u8]) -> Self {
        let number = |payload: &[u8]| match payload {
            [octet] => Some(u32::from(*octet)),
            _ => payload.try_into().ok().map(u32::from_ne_bytes),
        };
        Self(attributes(answer).filter_map(|(kind, payload)| Some((kind, number(payload)?))).collect())
    }

    fn at(&self, kind: u16) -> Option<u32> {
        self.0.get(&kind).copied()
    }
}

/// The names in a verbose bitset (`ETHTOOL_A_BITSET_BITS`).
fn names(bitset: &[u8]) -> Vec<String> {
    let bits = attributes(bitset).find(|(kind, _)| *kind == 3).map(|(_, bits)| bits).unwrap_or_default();
    let name = |bit: &[u8]| {
        let name = attributes(bit).find(|(kind, _)| *kind == 2)?.1;
        Some(String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned())
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
    assert!(Numbers::of(octets).0.len() <= octets.len() / 4);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rings_as_the_kernel_sends_them() {
        let answer = [(2_u16, 4096_u32), (5, 8192), (6, 512), (9, 1024)]
            .map(|(kind, value)| attribute(kind, &value.to_ne_bytes()))
            .concat();
        let told = Numbers::of(&answer);
        assert_eq!([2, 5, 6, 9, 7].map(|kind| told.at(kind)), [Some(4096), Some(8192), Some(512), Some(1024), None]);
    }

    #[test]
    fn a_bitset_names_its_bits() {
        let bit = |name: &[u8]| attribute(1 | NLA_F_NESTED, &attribute(2, name));
        let bitset = attribute(3 | NLA_F_NESTED, &[bit(b"rx-gro\0"), bit(b"rx-lro\0")].concat());
        assert_eq!(names(&bitset), ["rx-gro", "rx-lro"]);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(octets: Vec<u8>) {
            any_octets(&octets);
        }
    }
}
