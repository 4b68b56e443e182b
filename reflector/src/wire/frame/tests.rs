//! Frames built and read by etherparse, which knows nothing of the code under test.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId};
use proptest::prelude::*;

use super::*;

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

fn frame(vlans: &[u16], v6: bool, ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(MACS[0], MACS[1]);
    let id = |at: usize| VlanId::try_new(vlans[at]).expect("a VLAN id");
    let (a4, b4, a6, b6) = ([198, 51, 100, 7], [192, 0, 2, 1], [7; 16], [1; 16]);
    let builder = match (vlans.len(), v6) {
        (0, false) => link.ipv4(a4, b4, ttl),
        (0, true) => link.ipv6(a6, b6, ttl),
        (1, false) => link.single_vlan(id(0)).ipv4(a4, b4, ttl),
        (1, true) => link.single_vlan(id(0)).ipv6(a6, b6, ttl),
        (_, false) => link.double_vlan(id(0), id(1)).ipv4(a4, b4, ttl),
        (_, true) => link.double_vlan(id(0), id(1)).ipv6(a6, b6, ttl),
    };
    let mut bytes = Vec::new();
    builder.udp(ports.0, ports.1).write(&mut bytes, payload).expect("a packet");
    bytes
}

/// Ports, TTL and payload; panics unless every checksum and length is right.
fn read(bytes: &[u8]) -> ((u16, u16), u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a packet");
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP: {packet:?}") };
    let header = udp.to_header();
    let (ttl, sum) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header();
            assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            (ip.ttl(), header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload()))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header();
            (ip.hop_limit(), header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload()))
        }
        other => panic!("no IP: {other:?}"),
    };
    assert_eq!(header.checksum, sum.expect("a checksum"));
    ((header.source_port, header.destination_port), ttl, udp.payload().to_vec())
}

#[test]
fn what_the_driver_leaves_to_the_stack_is_refused_by_field() {
    let refuse = |v6: bool, at: usize, octet: u8| {
        let mut bytes = frame(&[], v6, (40_000, 862), 64, &[0; 44]);
        bytes[at] = octet;
        UdpFrame::parse(&bytes).expect_err("refused").field
    };
    for (at, octet, field) in [
        (13, 6, "EtherType"),
        (14, 0x46, "IPv4 version and header length"),
        (16, 0xff, "IPv4 total length"),
        (17, 19, "IPv4 total length"),
        (20, 0x20, "IPv4 fragment"),
        (21, 1, "IPv4 fragment"),
        (23, 6, "IPv4 protocol"),
        (39, 51, "UDP length"),
        (39, 53, "UDP length"),
    ] {
        assert_eq!(refuse(false, at, octet), field, "{at} {octet}");
    }
    for (at, octet, field) in [
        (14, 0x40, "IP version"),
        (18, 0xff, "IPv6 payload length"),
        (20, 0, "IPv6 next header"),
        (20, 44, "IPv6 next header"),
        (59, 7, "UDP length"),
    ] {
        assert_eq!(refuse(true, at, octet), field, "{at} {octet}");
    }
    let mut unsummed = frame(&[], true, (40_000, 862), 64, &[0; 44]);
    unsummed[60..62].fill(0);
    assert_eq!(UdpFrame::parse(&unsummed).expect_err("refused").field, "UDP checksum");
    let mut tagged = frame(&[100, 7], false, (40_000, 862), 64, &[0; 44]);
    tagged.splice(12..12, [0x88, 0xa8, 0, 5]);
    assert_eq!(UdpFrame::parse(&tagged).expect_err("three tags").field, "EtherType");
}

#[test]
fn a_frame_takes_another_dscp_and_keeps_its_ecn() {
    for v6 in [false, true] {
        let mut bytes = frame(&[5], v6, (40_000, 862), 64, &[1; 44]);
        let mut datagram = UdpFrame::parse(&bytes).expect("a datagram");
        datagram.traffic_class = 3;
        datagram.set_dscp(&mut bytes, 46);
        read(&bytes);
        assert_eq!(UdpFrame::parse(&bytes).expect("a datagram").traffic_class, 46 << 2 | 3);
    }
}

#[test]
fn a_missing_checksum_stays_missing() {
    let mut bytes = frame(&[], false, (40_000, 862), 64, &[1; 44]);
    bytes[40..42].fill(0);
    let mut datagram = UdpFrame::parse(&bytes).expect("a datagram");
    assert_eq!(datagram.turn_round(&mut bytes, &[2; 44]), Some(86));
    datagram.edit(&mut bytes, |payload| payload.fill(3));
    assert_eq!(bytes[40..42], [0, 0]);
}

#[test]
fn a_damaged_request_stays_damaged() {
    let mut bytes = frame(&[], true, (40_000, 862), 64, &[1; 44]);
    *bytes.last_mut().expect("octets") ^= 1;
    let mut datagram = UdpFrame::parse(&bytes).expect("a datagram");
    datagram.turn_round(&mut bytes, &[2; 44]);
    assert!(std::panic::catch_unwind(|| read(&bytes)).is_err(), "the damage has been covered up");
}

proptest! {
    #[test]
    fn a_reply_is_what_etherparse_reads(
        vlans in proptest::collection::vec(0..4095_u16, 0..3),
        v6: bool,
        ports: (u16, u16),
        ttl: u8,
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        reply in proptest::collection::vec(any::<u8>(), 0..200),
        trailer in proptest::collection::vec(any::<u8>(), 0..9),
        last: [u8; 4],
    ) {
        let mut bytes = frame(&vlans, v6, ports, ttl, &payload);
        let whole = bytes.len();
        bytes.extend(&trailer);
        let mut datagram = UdpFrame::parse(&bytes).expect("a datagram");
        prop_assert_eq!(datagram.payload(&bytes), &payload);
        prop_assert_eq!((datagram.peer.port(), datagram.local.port(), datagram.ttl), (ports.0, ports.1, ttl));
        let before = bytes.clone();
        let Some(length) = datagram.turn_round(&mut bytes, &reply) else {
            prop_assert!(reply.len() > payload.len() && bytes == before);
            return Ok(());
        };
        prop_assert_eq!(length, whole - payload.len() + reply.len());
        bytes.truncate(length);
        prop_assert_eq!(read(&bytes), ((ports.1, ports.0), 255, reply.clone()));
        prop_assert_eq!((&bytes[..6], &bytes[6..12]), (&MACS[0][..], &MACS[1][..]));

        let mut edited = reply;
        let count = edited.len().min(4);
        edited[..count].copy_from_slice(&last[..count]);
        datagram.edit(&mut bytes, |payload| payload[..count].copy_from_slice(&last[..count]));
        prop_assert_eq!(read(&bytes), ((ports.1, ports.0), 255, edited));
        prop_assert_eq!(UdpFrame::parse(&bytes), Ok(datagram));
    }

    #[test]
    fn any_octets_parse_or_are_refused_and_no_other_frame_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        mut other in proptest::collection::vec(any::<u8>(), 0..200),
        v6: bool,
    ) {
        if let Some(kind) = bytes.get_mut(12..15) {
            kind.copy_from_slice(if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
        }
        let valid = frame(&[], v6, (1, 2), 3, &[0; 60]);
        for frame in [&bytes, &valid] {
            if let Ok(mut datagram) = UdpFrame::parse(frame) {
                let _ = datagram.payload(&other);
                datagram.edit(&mut other, |payload| payload.fill(0));
                datagram.set_dscp(&mut other, 46);
                let _ = datagram.turn_round(&mut other, &[]);
            }
        }
    }
}
