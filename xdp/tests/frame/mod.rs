//! Frames for test runs, built and read by etherparse, which knows nothing of the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId};

pub(crate) const PORT: u16 = 862;
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const OUR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const OUR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub(crate) const THEIR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub(crate) const THEIR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7));

/// A UDP datagram in a frame, by what matters to a reflector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) mac: [[u8; 6]; 2],
    /// VLAN ids, outermost first.
    pub(crate) vlans: Vec<u16>,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A request from `THEIR_V4`:40000 to `OUR_V4`:862.
    pub(crate) fn v4(payload: Vec<u8>) -> Self {
        Self::between(THEIR_V4, OUR_V4, payload)
    }

    /// A request from `THEIR_V6`:40000 to `OUR_V6`:862.
    pub(crate) fn v6(payload: Vec<u8>) -> Self {
        Self::between(THEIR_V6, OUR_V6, payload)
    }

    pub(crate) fn between(source: IpAddr, destination: IpAddr, payload: Vec<u8>) -> Self {
        let (source, destination) = ((source, 40_000).into(), (destination, PORT).into());
        Self { mac: [THEIR_MAC, OUR_MAC], vlans: Vec::new(), source, destination, ttl: 64, payload }
    }

    /// The octets, with right checksums.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.mac[0], self.mac[1]);
        let id = |vlan| VlanId::try_new(vlan).expect("a VLAN id");
        let mut bytes = Vec::new();
        let written = match (self.vlans.as_slice(), self.source.ip(), self.destination.ip()) {
            ([], IpAddr::V4(s), IpAddr::V4(d)) => ethernet.ipv4(s.octets(), d.octets(), self.ttl),
            ([], IpAddr::V6(s), IpAddr::V6(d)) => ethernet.ipv6(s.octets(), d.octets(), self.ttl),
            ([one], IpAddr::V4(s), IpAddr::V4(d)) => {
                ethernet.single_vlan(id(*one)).ipv4(s.octets(), d.octets(), self.ttl)
            }
            ([one], IpAddr::V6(s), IpAddr::V6(d)) => {
                ethernet.single_vlan(id(*one)).ipv6(s.octets(), d.octets(), self.ttl)
            }
            ([one, two], IpAddr::V4(s), IpAddr::V4(d)) => {
                ethernet.double_vlan(id(*one), id(*two)).ipv4(s.octets(), d.octets(), self.ttl)
            }
            ([one, two], IpAddr::V6(s), IpAddr::V6(d)) => {
                ethernet.double_vlan(id(*one), id(*two)).ipv6(s.octets(), d.octets(), self.ttl)
            }
            other => panic!("cannot build {other:?}"),
        }
        .udp(self.source.port(), self.destination.port())
        .write(&mut bytes, &self.payload);
        written.expect("a packet");
        bytes
    }

    /// Reads a frame back; panics unless both checksums are right (a zero UDP checksum over IPv4 passes).
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(bytes).expect("a packet");
        let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else { panic!("no Ethernet: {packet:?}") };
        let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP: {packet:?}") };
        let header = udp.to_header();
        let (source, destination, ttl, sum): (IpAddr, IpAddr, _, _) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum(), "IPv4 header checksum");
                let sum = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload());
                (ip.source_addr().into(), ip.destination_addr().into(), ip.ttl(), sum.expect("a checksum"))
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                let sum = header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload());
                assert_ne!(header.checksum, 0, "zero UDP checksum over IPv6");
                (ip.source_addr().into(), ip.destination_addr().into(), ip.hop_limit(), sum.expect("a checksum"))
            }
            other => panic!("no IP: {other:?}"),
        };
        if header.checksum != 0 {
            assert_eq!(header.checksum, sum, "UDP checksum");
        }
        Self {
            mac: [ethernet.source(), ethernet.destination()],
            vlans: packet.vlan_ids().iter().map(|id| id.value()).collect(),
            source: (source, header.source_port).into(),
            destination: (destination, header.destination_port).into(),
            ttl,
            payload: udp.payload().to_vec(),
        }
    }

    /// The frame that answers this one with `payload`.
    pub(crate) fn answered(&self, payload: Vec<u8>) -> Self {
        Self {
            mac: [self.mac[1], self.mac[0]],
            vlans: self.vlans.clone(),
            source: self.destination,
            destination: self.source,
            ttl: 255,
            payload,
        }
    }

    /// Where the IP header begins.
    pub(crate) fn ip_offset(&self) -> usize {
        14 + 4 * self.vlans.len()
    }

    /// Where the UDP header begins.
    pub(crate) fn udp_offset(&self) -> usize {
        self.ip_offset() + if self.source.is_ipv4() { 20 } else { 40 }
    }
}
