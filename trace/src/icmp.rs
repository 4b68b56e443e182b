//! Reads ICMP and ICMPv6 errors and the packet that they quote (RFC 792, RFC 4443). Total: any bytes give a value or the field at fault, never a panic.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::{Flow, probe};

/// What an error says of the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its TTL or Hop Limit ran out.
    TimeExceeded,
    /// It reached a host on which nobody listens.
    PortUnreachable,
    /// It was longer than the next link takes, and must not be cut.
    PacketTooBig {
        /// That link's MTU in octets, zero where the router does not say.
        mtu: u32,
    },
    /// Any other code of Destination Unreachable: no route, or forbidden.
    Unreachable {
        /// The code.
        code: u8,
    },
}

impl Kind {
    /// From type and code of ICMP, or of ICMPv6 with `v6`; `mtu` is what the message has for Packet Too Big.
    pub fn new(v6: bool, kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match (v6, kind, code) {
            (false, 11, 0) | (true, 3, 0) => Some(Self::TimeExceeded),
            (false, 3, 3) | (true, 1, 4) => Some(Self::PortUnreachable),
            (false, 3, 4) | (true, 2, _) => Some(Self::PacketTooBig { mtu }),
            (false, 3, code) | (true, 1, code) => Some(Self::Unreachable { code }),
            _ => None,
        }
    }

    /// As the RFCs call it: RFC 792 and RFC 1812 section 5.2.7.1, or RFC 4443 with `v6`.
    pub fn name(self, v6: bool) -> Cow<'static, str> {
        let name = match (self, v6) {
            (Self::TimeExceeded, _) => "Time Exceeded",
            (Self::PortUnreachable, _) => "Port Unreachable",
            (Self::PacketTooBig { .. }, false) => "Fragmentation Needed",
            (Self::PacketTooBig { .. }, true) => "Packet Too Big",
            (Self::Unreachable { code: 0 }, false) => "Network Unreachable",
            (Self::Unreachable { code: 1 }, false) => "Host Unreachable",
            (Self::Unreachable { code: 2 }, false) => "Protocol Unreachable",
            (Self::Unreachable { code: 9 }, false) => "Network Administratively Prohibited",
            (Self::Unreachable { code: 10 }, false) => "Host Administratively Prohibited",
            (Self::Unreachable { code: 13 }, false) => "Communication Administratively Prohibited",
            (Self::Unreachable { code: 0 }, true) => "No Route to Destination",
            (Self::Unreachable { code: 1 }, true) => "Administratively Prohibited",
            (Self::Unreachable { code: 2 }, true) => "Beyond Scope of Source Address",
            (Self::Unreachable { code: 3 }, true) => "Address Unreachable",
            (Self::Unreachable { code: 5 }, true) => "Source Address Failed Policy",
            (Self::Unreachable { code: 6 }, true) => "Reject Route to Destination",
            (Self::Unreachable { code }, _) => return format!("Destination Unreachable, code {code}").into(),
        };
        name.into()
    }
}

/// An error about a UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What is wrong.
    pub kind: Kind,
    /// The packet's addresses and ports.
    pub flow: Flow,
    /// TTL or Hop Limit that it had left.
    pub hops_left: u8,
    /// Its UDP checksum.
    pub checksum: u16,
    /// The first four octets of its payload, where so much was quoted.
    pub number: Option<u32>,
}

/// Why a message is none of those that are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no ICMP error about a UDP packet: {0}")]
pub struct Unread(pub &'static str);

/// Reads what a raw IPv4 socket hands out: an IPv4 packet with an ICMP message. Returns who sent it, too.
///
/// # Errors
/// [`Unread`] names the field.
pub fn parse_v4(packet: &[u8]) -> Result<(IpAddr, IcmpError), Unread> {
    let (header, message) = ipv4(packet)?;
    if header[9] != 1 {
        return Err(Unread("protocol"));
    }
    let sender = IpAddr::V4(Ipv4Addr::from(four(header, 12)?));
    let (quote, kind) = message_kind(message, false)?;
    let (quoted, udp) = ipv4(quote)?;
    if quoted[9] != 17 || u16::from_be_bytes([quoted[6], quoted[7]]) & 0x1fff != 0 {
        return Err(Unread("quoted protocol"));
    }
    let addresses = [12, 16].map(|at| four(quoted, at).map(|octets| IpAddr::V4(octets.into())));
    Ok((sender, error(kind, addresses, quoted[8], udp)?))
}

/// Reads what a raw ICMPv6 socket hands out: the message alone.
///
/// # Errors
/// [`Unread`] names the field.
pub fn parse_v6(message: &[u8]) -> Result<IcmpError, Unread> {
    let (quote, kind) = message_kind(message, true)?;
    let header = quote.first_chunk::<40>().ok_or(Unread("quoted header"))?;
    // A probe of ours has no extension header.
    if header[0] >> 4 != 6 || header[6] != 17 {
        return Err(Unread("quoted protocol"));
    }
    let address = |at: usize| {
        let octets: Option<&[u8; 16]> = header.get(at..).and_then(|rest| rest.first_chunk());
        octets.map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))).ok_or(Unread("quoted address"))
    };
    error(kind, [address(8), address(24)], header[7], &quote[40..])
}

fn message_kind(message: &[u8], v6: bool) -> Result<(&[u8], Kind), Unread> {
    let head = message.first_chunk::<8>().ok_or(Unread("length"))?;
    // RFC 1191 has the MTU in the last two octets, RFC 4443 in all four.
    let mtu = if v6 {
        u32::from_be_bytes([head[4], head[5], head[6], head[7]])
    } else {
        u32::from(u16::from_be_bytes([head[6], head[7]]))
    };
    let kind = Kind::new(v6, head[0], head[1], mtu).ok_or(Unread("type"))?;
    Ok((&message[8..], kind))
}

fn ipv4(packet: &[u8]) -> Result<(&[u8], &[u8]), Unread> {
    let first = *packet.first().ok_or(Unread("length"))?;
    let length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < 20 {
        return Err(Unread("version"));
    }
    packet.split_at_checked(length).ok_or(Unread("header length"))
}

fn four(octets: &[u8], at: usize) -> Result<[u8; 4], Unread> {
    octets.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Unread("address"))
}

fn error(kind: Kind, addresses: [Result<IpAddr, Unread>; 2], hops_left: u8, udp: &[u8]) -> Result<IcmpError, Unread> {
    let (header, payload) = udp.split_first_chunk::<8>().ok_or(Unread("quoted UDP header"))?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let [source, target] = addresses;
    let flow = Flow { source: SocketAddr::new(source?, word(0)), target: SocketAddr::new(target?, word(2)) };
    Ok(IcmpError { kind, flow, hops_left, checksum: word(6), number: probe::number(payload) })
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
    use proptest::prelude::*;

    use super::*;

    fn written(builder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        builder(&mut out);
        out
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_v4(&bytes), parse_v6(&bytes));
        }

        /// What another codec writes is read, however short the quotation; shorter than a UDP header is refused.
        #[test]
        fn a_quoted_probe_is_recognised(number: u32, hops in 1_u8..64, ports: (u16, u16), quoted in 0_usize..60) {
            let payload = [&number.to_be_bytes()[..], &[0; 40]].concat();
            let probe = written(|out| PacketBuilder::ipv4([192, 0, 2, 7], [203, 0, 113, 10], hops).udp(ports.0, ports.1).write(out, &payload).unwrap());
            let quote = &probe[..20 + quoted.min(probe.len() - 20)];
            let kind = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
            let packet = written(|out| PacketBuilder::ipv4([198, 51, 100, 1], [192, 0, 2, 7], 60).icmpv4(kind).write(out, quote).unwrap());
            match parse_v4(&packet) {
                Ok((from, error)) => {
                    prop_assert!(quoted >= 8);
                    prop_assert_eq!(from.to_string(), "198.51.100.1");
                    prop_assert_eq!((error.kind, error.hops_left), (Kind::TimeExceeded, hops));
                    prop_assert_eq!((error.flow.source.port(), error.flow.target.port()), ports);
                    prop_assert_eq!(error.number, (quoted >= 12).then_some(number));
                }
                Err(_) => prop_assert!(quoted < 8),
            }

            let probe = written(|out| PacketBuilder::ipv6([1; 16], [2; 16], hops).udp(ports.0, ports.1).write(out, &payload).unwrap());
            let quote = &probe[..40 + quoted.min(probe.len() - 40)];
            let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
            let packet = written(|out| PacketBuilder::ipv6([3; 16], [1; 16], 60).icmpv6(kind).write(out, quote).unwrap());
            match parse_v6(&packet[40..]) {
                Ok(error) => {
                    prop_assert_eq!((error.kind, error.hops_left), (Kind::PacketTooBig { mtu: 1280 }, hops));
                    prop_assert_eq!(error.flow.source.ip(), IpAddr::from([1; 16]));
                    prop_assert_eq!(error.number, (quoted >= 12).then_some(number));
                }
                Err(_) => prop_assert!(quoted < 8),
            }
            let unreachable = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            let packet = written(|out| PacketBuilder::ipv6([2; 16], [1; 16], 60).icmpv6(unreachable).write(out, &probe).unwrap());
            prop_assert_eq!(parse_v6(&packet[40..]).unwrap().kind, Kind::PortUnreachable);
        }
    }

    #[test]
    fn what_is_no_error_about_udp_says_why() {
        assert_eq!(parse_v4(&[]), Err(Unread("length")));
        let echo = written(|out| {
            PacketBuilder::ipv4([1; 4], [2; 4], 9).icmpv4_echo_request(1, 1).write(out, &[0; 60]).unwrap()
        });
        assert_eq!(parse_v4(&echo), Err(Unread("type")));
        let udp = written(|out| PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 1).write(out, &[0; 60]).unwrap());
        assert_eq!(parse_v4(&udp), Err(Unread("protocol")));
    }
}
