//! What a link's queue has to know of a frame: its length, its flow, its family, and whether it may be marked.

use crate::{queue::Packet, seeded::SplitMix64};

const ETHERNET: usize = 14;
/// IEEE 802 numbers.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
/// RFC 3168, section 5: the two bits of the ECN field.
const ECN: u8 = 0b11;

/// A frame as a queue sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) packet: Packet,
    pub(super) is_ipv6: bool,
}

/// Looks at an Ethernet frame of any content; what is no IP packet is one flow of its own. `id` is the caller's.
pub(super) fn see(frame: &[u8], id: u64) -> Seen {
    let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let plain = Packet { id, bytes, flow: 0, ecn_capable: false };
    let (kind, ip) = (frame.get(12..14), frame.get(ETHERNET..).unwrap_or_default());
    let (is_ipv6, addresses, traffic_class, protocol, payload) = match kind {
        Some(kind) if kind == IPV4 && ip.len() >= 20 => {
            let header = usize::from(ip[0] & 0xf) * 4;
            // Ports are in the first fragment alone; the others would be another flow.
            let first = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
            (false, &ip[12..20], ip[1], ip[9], ip.get(header..).filter(|_| first))
        }
        Some(kind) if kind == IPV6 && ip.len() >= 40 => {
            let traffic_class = ip[0] << 4 | ip[1] >> 4;
            (true, &ip[8..40], traffic_class, ip[6], ip.get(40..))
        }
        _ => return Seen { packet: plain, is_ipv6: false },
    };
    let ports = payload.filter(|_| matches!(protocol, TCP | UDP)).and_then(|payload| payload.get(..4));
    let mut hash = SplitMix64(u64::from(protocol));
    for chunk in addresses.chunks(4).chain(ports) {
        let word = chunk.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        hash = SplitMix64(hash.next() ^ word);
    }
    let ecn = traffic_class & ECN;
    let packet = Packet { flow: (hash.next() >> 32) as u32, ecn_capable: ecn == 0b01 || ecn == 0b10, ..plain };
    Seen { packet, is_ipv6 }
}

/// Sets the mark "congestion experienced" of an ECN-capable packet, and mends the checksum of an IPv4 header (RFC 1624, equation 3).
pub(super) fn mark(frame: &mut [u8]) {
    let kind = [frame[12], frame[13]];
    let ip = &mut frame[ETHERNET..];
    if kind == IPV6 {
        ip[1] |= ECN << 4;
        return;
    }
    let word = |ip: &[u8], at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
    let before = word(ip, 0);
    ip[1] |= ECN;
    let sum = u32::from(!word(ip, 10)) + u32::from(!before) + u32::from(word(ip, 0));
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram between documentation addresses.
    fn v4(source_port: u16, tos: u8, fragment: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend(IPV4);
        let mut ip = vec![0x45, tos, 0, 32, 0, 1];
        ip.extend(fragment.to_be_bytes());
        ip.extend([64, UDP, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend(source_port.to_be_bytes());
        frame.extend([0, 9, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    fn v6(source_port: u16, traffic_class: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend(IPV6);
        frame.extend([0x60 | traffic_class >> 4, traffic_class << 4, 0, 0, 0, 12, UDP, 64]);
        frame.extend([0x20; 32]);
        frame.extend(source_port.to_be_bytes());
        frame.extend([0, 9, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    /// RFC 1071, over a header whose checksum field is zero.
    fn checksum(header: &[u8]) -> u16 {
        let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn a_flow_is_its_addresses_protocol_and_ports() {
        let flow = |frame: &[u8]| see(frame, 1).packet.flow;
        assert_eq!(flow(&v4(1000, 0, 0)), flow(&v4(1000, 0b10, 0)));
        assert_ne!(flow(&v4(1000, 0, 0)), flow(&v4(1001, 0, 0)));
        assert_ne!(flow(&v6(1000, 0)), flow(&v6(1001, 0)));
        // Later fragments have no ports; what stands there is payload.
        assert_eq!(flow(&v4(1000, 0, 7)), flow(&v4(1001, 0, 7)));
        let mut other = v4(1000, 0, 0);
        other[14 + 19] = 8;
        assert_ne!(flow(&other), flow(&v4(1000, 0, 0)));
    }

    #[test]
    fn family_length_and_ecn_are_read() {
        for ecn in 0..4 {
            for (frame, is_ipv6) in [(v4(1, 0xb8 | ecn, 0), false), (v6(1, 0xb8 | ecn), true)] {
                let seen = see(&frame, 7);
                assert_eq!((seen.packet.id, seen.packet.bytes as usize, seen.is_ipv6), (7, frame.len(), is_ipv6));
                assert_eq!(seen.packet.ecn_capable, ecn == 1 || ecn == 2, "{ecn}");
            }
        }
    }

    #[test]
    fn what_is_cut_short_or_no_ip_is_one_flow() {
        let whole = v6(1, 0);
        for length in 0..54 {
            let seen = see(&whole[..length], 0).packet;
            assert_eq!((seen.flow, seen.ecn_capable), (0, false), "{length}");
        }
        assert_eq!(see(&[0xff; 60], 0).packet.flow, 0);
    }

    #[test]
    fn a_mark_keeps_the_checksum_right() {
        for tos in 0..=255_u8 {
            let mut frame = v4(1, tos, 0);
            mark(&mut frame);
            assert_eq!(frame[15], tos | ECN);
            let mut header = frame[14..34].to_vec();
            let stands = u16::from_be_bytes([header[10], header[11]]);
            header[10..12].fill(0);
            // 0 and 0xffff are the same number in one's complement
            assert_eq!(stands % 0xffff, checksum(&header) % 0xffff, "{tos}");
        }
        let mut frame = v6(1, 0xba);
        mark(&mut frame);
        assert_eq!((frame[14] & 0xf, frame[15] >> 4), (0xb, 0xb));
    }
}
