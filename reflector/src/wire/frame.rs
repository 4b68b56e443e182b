//! A UDP datagram in an Ethernet frame, found without copying and turned round in place.
//!
//! Taken is what the program in the driver takes (`xdp/bpf/parse.h`): up to two VLAN tags, IPv4 without options and not fragmented, IPv6
//! without extension headers, lengths that agree. Octets after the datagram (padding, a card's own stamp) are no part of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{
    checksum,
    ethernet::{EthernetHeader, VlanTag, ether_type},
    ip::{Ipv4Header, Ipv6Header, PROTOCOL_UDP},
    udp::UdpHeader,
};

/// TTL and hop limit of a fresh packet (RFC 8762 §4.3.1, Session-Sender TTL).
const TTL: u8 = 255;

/// What a frame lacks to carry a UDP datagram that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct MalformedFrame {
    /// The field at fault.
    pub field: &'static str,
    /// What is taken.
    pub expected: &'static str,
    /// What came.
    pub arrived: u64,
}

impl fmt::Display for MalformedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, expected, arrived } = self;
        write!(f, "no UDP datagram to answer: {field}: expected {expected}, arrived {arrived}")
    }
}

/// Where the parts of one frame lie, and what its headers say. Meant for the frame that it was read from; with another nothing panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFrame {
    /// Where the IP header begins.
    network: usize,
    /// Where the UDP header begins.
    transport: usize,
    /// Where the datagram ends.
    end: usize,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Whom it is for.
    pub local: SocketAddr,
    /// Hops left.
    pub ttl: u8,
    /// Six bits DSCP, two bits ECN.
    pub traffic_class: u8,
}

impl UdpFrame {
    /// Finds the datagram.
    ///
    /// # Errors
    /// The first field that is not as the module says.
    pub fn parse(frame: &[u8]) -> Result<Self, MalformedFrame> {
        let (ethernet, _) = header::<EthernetHeader>(frame, 0)?;
        let (mut network, mut kind) = (size_of::<EthernetHeader>(), ethernet.ether_type.get());
        for _ in 0..2 {
            if kind == ether_type::VLAN || kind == ether_type::QINQ {
                let (tag, _) = header::<VlanTag>(frame, network)?;
                network += size_of::<VlanTag>();
                kind = tag.ether_type.get();
            }
        }
        match kind {
            ether_type::IPV4 => Self::parse_v4(frame, network),
            ether_type::IPV6 => Self::parse_v6(frame, network),
            other => Err(wrong("EtherType", "IPv4 or IPv6 after at most two tags", other)),
        }
    }

    fn parse_v4(frame: &[u8], network: usize) -> Result<Self, MalformedFrame> {
        const FRAGMENT: u16 = 0x3fff;
        let (ip, rest) = header::<Ipv4Header>(frame, network)?;
        let (total, fragment) = (ip.total_length.get(), ip.fragment.get() & FRAGMENT);
        check(ip.version_and_length == 0x45, "IPv4 version and header length", "0x45", ip.version_and_length)?;
        check(ip.protocol == PROTOCOL_UDP, "IPv4 protocol", "17", ip.protocol)?;
        check(fragment == 0, "IPv4 fragment", "a whole packet", fragment)?;
        let length = usize::from(total).checked_sub(size_of::<Ipv4Header>()).filter(|length| *length <= rest.len());
        let Some(length) = length else { return Err(wrong("IPv4 total length", "one that fits the frame", total)) };
        let addresses = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
        Self::parse_udp(frame, network, network + size_of::<Ipv4Header>(), length, addresses, ip.ttl, ip.tos)
    }

    fn parse_v6(frame: &[u8], network: usize) -> Result<Self, MalformedFrame> {
        let (ip, rest) = header::<Ipv6Header>(frame, network)?;
        let (first, length) = (ip.version_class_flow.get(), ip.payload_length.get());
        check(first >> 28 == 6, "IP version", "6", first >> 28)?;
        check(ip.next_header == PROTOCOL_UDP, "IPv6 next header", "17", ip.next_header)?;
        check(usize::from(length) <= rest.len(), "IPv6 payload length", "one that fits the frame", length)?;
        let addresses = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
        let class = (first >> 20) as u8;
        Self::parse_udp(
            frame,
            network,
            network + size_of::<Ipv6Header>(),
            length.into(),
            addresses,
            ip.hop_limit,
            class,
        )
    }

    fn parse_udp(
        frame: &[u8],
        network: usize,
        transport: usize,
        length: usize,
        (source, destination): (IpAddr, IpAddr),
        ttl: u8,
        traffic_class: u8,
    ) -> Result<Self, MalformedFrame> {
        let (udp, _) = header::<UdpHeader>(frame, transport)?;
        let agrees = usize::from(udp.length.get()) == length && length >= size_of::<UdpHeader>();
        check(agrees, "UDP length", "that of the IP header", udp.length.get())?;
        check(udp.checksum.get() != 0 || source.is_ipv4(), "UDP checksum", "not zero over IPv6", 0_u8)?;
        Ok(Self {
            network,
            transport,
            end: transport + length,
            peer: (source, udp.source.get()).into(),
            local: (destination, udp.destination.get()).into(),
            ttl,
            traffic_class,
        })
    }

    /// The UDP payload.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.transport + size_of::<UdpHeader>()..self.end).unwrap_or_default()
    }

    /// Makes the frame the answer to itself with `reply` for its payload: both ends change places on every layer, a fresh TTL,
    /// checksums mended. The frame's new length, without what came after the datagram; `None`, and nothing written, where `reply` is
    /// longer than the payload. VLAN tags and traffic class stay.
    pub fn turn_round(&mut self, frame: &mut [u8], reply: &[u8]) -> Option<usize> {
        let saved = self.payload(frame).len().checked_sub(reply.len())?;
        let length = self.end - self.transport - saved;
        let (ethernet, _) = EthernetHeader::mut_from_prefix(frame).ok()?;
        (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
        match self.peer.ip() {
            IpAddr::V4(_) => {
                let (ip, _) = Ipv4Header::mut_from_prefix(frame.get_mut(self.network..)?).ok()?;
                let changing = |ip: &Ipv4Header| u32::from(ip.total_length.get()) + (u32::from(ip.ttl) << 8);
                let old = changing(ip);
                (ip.source, ip.destination) = (ip.destination, ip.source);
                ip.ttl = TTL;
                ip.total_length = ((size_of::<Ipv4Header>() + length) as u16).into();
                ip.checksum = checksum::replace(ip.checksum.get(), old, changing(ip)).into();
            }
            IpAddr::V6(_) => {
                let (ip, _) = Ipv6Header::mut_from_prefix(frame.get_mut(self.network..)?).ok()?;
                (ip.source, ip.destination) = (ip.destination, ip.source);
                ip.hop_limit = TTL;
                ip.payload_length = (length as u16).into();
            }
        }
        let (udp, payload) = UdpHeader::mut_from_prefix(frame.get_mut(self.transport..self.end)?).ok()?;
        // the length stands in the header and in the pseudo-header
        let old = checksum::sum(payload) + 2 * u32::from(udp.length.get());
        (udp.source, udp.destination) = (udp.destination, udp.source);
        udp.length = (length as u16).into();
        payload[..reply.len()].copy_from_slice(reply);
        mend(udp, old, checksum::sum(reply) + 2 * length as u32);
        (self.peer, self.local) = (self.local, self.peer);
        (self.end, self.ttl) = (self.end - saved, TTL);
        Some(self.end)
    }

    /// Gives the frame this DSCP, 0 to 63, and mends the header's checksum. ECN stays.
    pub fn set_dscp(&mut self, frame: &mut [u8], dscp: u8) {
        let class = dscp << 2 | self.traffic_class & 3;
        let Some(network) = frame.get_mut(self.network..) else { return };
        match self.peer.ip() {
            IpAddr::V4(_) => {
                let Ok((ip, _)) = Ipv4Header::mut_from_prefix(network) else { return };
                let (old, new) = (u32::from(ip.tos), u32::from(class));
                ip.tos = class;
                ip.checksum = checksum::replace(ip.checksum.get(), old, new).into();
            }
            IpAddr::V6(_) => {
                let Ok((ip, _)) = Ipv6Header::mut_from_prefix(network) else { return };
                let others = ip.version_class_flow.get() & !(0xff << 20);
                ip.version_class_flow = (others | u32::from(class) << 20).into();
            }
        }
        self.traffic_class = class;
    }

    /// Lets `edit` change the payload, and mends the checksum.
    pub fn edit(&self, frame: &mut [u8], edit: impl FnOnce(&mut [u8])) {
        let Some(datagram) = frame.get_mut(self.transport..self.end) else { return };
        let Ok((udp, payload)) = UdpHeader::mut_from_prefix(datagram) else { return };
        let old = checksum::sum(payload);
        edit(payload);
        mend(udp, old, checksum::sum(payload));
    }
}

/// A checksum that was not there is not made; one that comes out as zero is written as 0xffff (RFC 768).
fn mend(udp: &mut UdpHeader, old: u32, new: u32) {
    if udp.checksum.get() != 0 {
        udp.checksum = match checksum::replace(udp.checksum.get(), old, new) {
            0 => 0xffff,
            sum => sum,
        }
        .into();
    }
}

fn header<T: FromBytes + KnownLayout + Immutable + zerocopy::Unaligned>(
    frame: &[u8],
    at: usize,
) -> Result<(&T, &[u8]), MalformedFrame> {
    T::ref_from_prefix(frame.get(at..).unwrap_or_default())
        .map_err(|_| wrong("frame", "whole headers", frame.len() as u64))
}

fn check(
    holds: bool,
    field: &'static str,
    expected: &'static str,
    arrived: impl Into<u64>,
) -> Result<(), MalformedFrame> {
    if holds { Ok(()) } else { Err(wrong(field, expected, arrived)) }
}

fn wrong(field: &'static str, expected: &'static str, arrived: impl Into<u64>) -> MalformedFrame {
    MalformedFrame { field, expected, arrived: arrived.into() }
}

#[cfg(test)]
mod tests;
