//! A flow: the addresses and ports by which routers choose among parallel links.

use std::net::{IpAddr, SocketAddr};

/// Source and destination of every packet of a flow; the protocol is UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// This host's address and port.
    pub source: SocketAddr,
    /// The destination's; of the same family.
    pub target: SocketAddr,
}

impl Flow {
    /// The one's complement sum of what a UDP checksum covers beside the payload: pseudo-header and header (RFC 768, RFC 8200 section 8.1).
    pub(crate) fn sum(&self, payload: usize) -> u64 {
        let length = payload as u64 + 8;
        address(self.source.ip())
            + address(self.target.ip())
            + 17
            + 2 * length
            + u64::from(self.source.port())
            + u64::from(self.target.port())
    }
}

fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    }
}

/// The sum of 16-bit words; an odd octet at the end is the upper half of one.
pub(crate) fn words(octets: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    octets.chunks(2).map(word).sum()
}

/// The sum with its carries added.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
