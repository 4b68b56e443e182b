//! Socket addresses and control messages as the bytes that the kernel reads, in safe code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::sys::NAME_SPACE;

const V4_LEN: usize = size_of::<libc::sockaddr_in>();

/// A `sockaddr_in` or `sockaddr_in6`.
pub(super) struct SocketName {
    bytes: [u8; NAME_SPACE],
    len: usize,
}

impl SocketName {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl From<SocketAddr> for SocketName {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; NAME_SPACE];
        bytes[..2].copy_from_slice(&(domain(&address) as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let len = match address {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                V4_LEN
            }
            SocketAddr::V6(v6) => {
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                NAME_SPACE
            }
        };
        Self { bytes, len }
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn domain(address: &SocketAddr) -> libc::c_int {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// Reads a socket address; `None` for a family other than the two.
pub(super) fn socket_address(bytes: &[u8; NAME_SPACE]) -> Option<SocketAddr> {
    let part = |at: usize| -> [u8; 4] { [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] };
    let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    match family {
        libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(part(4)), port).into()),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*bytes[8..].first_chunk::<16>()?);
            let (flow, scope) = (u32::from_be_bytes(part(4)), u32::from_ne_bytes(part(24)));
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// `SCM_TS_OPT_ID` (Linux 6.13, `include/uapi/asm-generic/socket.h`): the number that stamps of this send shall carry.
const SCM_TS_OPT_ID: libc::c_int = 81;

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

/// The control messages of one send: at most a packet info, a stamp number, a wish for stamps, a traffic class and a TTL.
pub(super) struct SendControl {
    bytes: [u8; 5 * HEADER + 24 + 4 * 8],
    len: usize,
}

impl SendControl {
    pub(super) fn new() -> Self {
        Self { bytes: [0; _], len: 0 }
    }

    /// `IP_PKTINFO`, `IPV6_PKTINFO`: leave from `address`. The interface stays for the routing table to pick.
    pub(super) fn source(&mut self, address: IpAddr) {
        let mut info = [0; 20];
        match address {
            IpAddr::V4(v4) => {
                // struct in_pktinfo: ifindex, spec_dst, addr
                info[4..8].copy_from_slice(&v4.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info[..12]);
            }
            IpAddr::V6(v6) => {
                // struct in6_pktinfo: addr, ifindex
                info[..16].copy_from_slice(&v6.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// `SCM_TS_OPT_ID`.
    pub(super) fn stamp_id(&mut self, id: u32) {
        self.push(libc::SOL_SOCKET, SCM_TS_OPT_ID, &id.to_ne_bytes());
    }

    /// `SO_TIMESTAMPING`: the stamps that this send asks for, instead of what its socket does.
    pub(super) fn stamps(&mut self, request: u32) {
        self.push(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &request.to_ne_bytes());
    }

    /// `IP_TOS`, `IPV6_TCLASS`: this DSCP, and no ECN.
    pub(super) fn dscp(&mut self, v6: bool, dscp: u8) {
        let class = (libc::c_int::from(dscp & 0x3f) << 2).to_ne_bytes();
        let (level, kind) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
        self.push(level, kind, &class);
    }

    /// `IP_TTL`, `IPV6_HOPLIMIT`.
    pub(super) fn hop_limit(&mut self, v6: bool, hops: u8) {
        let (level, kind) =
            if v6 { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) } else { (libc::IPPROTO_IP, libc::IP_TTL) };
        self.push(level, kind, &libc::c_int::from(hops).to_ne_bytes());
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let message = &mut self.bytes[self.len..];
        message[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[WORD..][..4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..][..data.len()].copy_from_slice(data);
        self.len += (HEADER + data.len()).next_multiple_of(WORD);
    }
}

#[cfg(test)]
mod tests {
    use pathlab_xdp::timestamping::Control;

    use super::*;

    #[test]
    fn addresses_round_trip_through_the_kernels_bytes() {
        for text in ["192.0.2.1:862", "[2001:db8::1]:862", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(socket_address(&SocketName::from(address).bytes), Some(address));
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().expect("an address"), 862, 7, 3);
        assert_eq!(socket_address(&SocketName::from(SocketAddr::V6(scoped)).bytes), Some(scoped.into()));
        assert_eq!(socket_address(&[0; NAME_SPACE]), None);
    }

    #[test]
    fn all_messages_of_a_send_fit() {
        let mut control = SendControl::new();
        control.source("2001:db8::1".parse().expect("an address"));
        control.stamp_id(1);
        control.stamps(2);
        control.dscp(true, 3);
        control.hop_limit(true, 4);
        let read = Control::parse(control.as_bytes());
        assert_eq!((read.traffic_class, read.hop_limit), (Some(12), Some(4)));
        assert_eq!(control.as_bytes().len(), control.bytes.len());
    }

    #[test]
    fn both_messages_of_a_send_fit_and_parse() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let mut control = SendControl::new();
            control.source(address.parse().expect("an address"));
            let one = control.as_bytes().len();
            control.stamp_id(0x0102_0304);
            assert_eq!(control.as_bytes().len() - one, 24);
            assert_eq!(one, if address.contains(':') { 40 } else { 32 });
            let local = Control::parse(control.as_bytes()).local.expect("packet info");
            assert_eq!(local.source_for_reply.to_string(), address);
        }
    }
}
