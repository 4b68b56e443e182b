//! Probes: STAMP packets of one flow that are told apart by what every router quotes, without a byte of the 5-tuple changing.
//!
//! A router must quote eight octets of a UDP datagram, which are ports, length and checksum; many quote more. The number of a probe is the STAMP
//! sequence number, the first thing of the payload, and also its UDP checksum: the lowest 16 bits of the timestamp, 15 µs of the second's
//! fraction, are chosen so that the checksum comes out as wanted. No field has a value that STAMP does not allow.

use pathlab_record::{Realtime, Time};
use pathlab_reflector::wire::{ErrorEstimate, SenderPacket};
use zerocopy::IntoBytes;

use crate::flow::{Flow, fold, words};

/// Octets of a base packet, the shortest probe.
pub const LEAST_SIZE: usize = pathlab_reflector::wire::BASE_LEN;

/// The lowest 16 bits of an NTP fraction are 15.3 µs.
const CHOSEN_BITS_NANOS: u64 = 15_260;

/// Octets 10 and 11 of a base packet are the lowest of the timestamp.
const CHOSEN: std::ops::Range<usize> = 10..12;

/// Octets of a TLV's head (RFC 8972 section 4).
const TLV_HEAD: usize = 4;
/// Extra Padding (RFC 8972 section 4.1), flagged unrecognised as a sender has to.
const EXTRA_PADDING: [u8; 2] = [0x80, 1];

/// The payload of probe `number`, `size` octets long (at least [`LEAST_SIZE`]; between 45 and 47 there is no packet, and it is 48).
pub fn payload(flow: &Flow, number: u32, now: Time<Realtime>, size: usize) -> Vec<u8> {
    let packet = SenderPacket::new(number, now.into(), ErrorEstimate::from_nanos(2 * CHOSEN_BITS_NANOS, false));
    let mut octets = packet.as_bytes().to_vec();
    if size > octets.len() {
        let padding = size.saturating_sub(octets.len() + TLV_HEAD).min(usize::from(u16::MAX));
        octets.extend(EXTRA_PADDING);
        octets.extend((padding as u16).to_be_bytes());
        octets.resize(octets.len() + padding, 0);
    }
    octets[CHOSEN].fill(0);
    let rest = fold(flow.sum(octets.len()) + words(&octets));
    let chosen = fold(u64::from(!checksum(number)) + u64::from(!rest));
    octets[CHOSEN].copy_from_slice(&chosen.to_be_bytes());
    octets
}

/// The UDP checksum of probe `number`; repeats after 65,534 probes and is never 0 nor 0xffff, which are one number to UDP.
pub fn checksum(number: u32) -> u16 {
    (number % 65_534) as u16 + 1
}

/// The number in a quoted payload, if so much was quoted.
pub fn number(quoted: &[u8]) -> Option<u32> {
    quoted.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use etherparse::UdpHeader;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// By another codec than ours: the checksum is the number, in both families and any size.
        #[test]
        fn the_checksum_carries_the_number(number: u32, v6: bool, from in 1_u16.., now in 0_i64..4_000_000_000_000_000_000, size in 44_usize..1400) {
            let (source, target) = if v6 { ("2001:db8::7", "2001:db8:1::10") } else { ("192.0.2.7", "203.0.113.10") };
            let flow = Flow {
                source: SocketAddr::new(source.parse().unwrap(), from),
                target: SocketAddr::new(target.parse().unwrap(), 862),
            };
            let payload = payload(&flow, number, Time::from_nanos(now), size);
            prop_assert!(payload.len() == size || (45..48).contains(&size) && payload.len() == 48);
            let sum = match (flow.source, flow.target) {
                (SocketAddr::V4(a), SocketAddr::V4(b)) => {
                    UdpHeader::with_ipv4_checksum(from, 862, &ip4(a.ip().octets(), b.ip().octets()), &payload).unwrap().checksum
                }
                (SocketAddr::V6(a), SocketAddr::V6(b)) => {
                    let header = etherparse::Ipv6Header { source: a.ip().octets(), destination: b.ip().octets(), ..Default::default() };
                    UdpHeader::with_ipv6_checksum(from, 862, &header, &payload).unwrap().checksum
                }
                _ => unreachable!(),
            };
            prop_assert_eq!(sum, checksum(number));
            prop_assert_eq!(super::number(&payload), Some(number));
            let (packet, _) = SenderPacket::parse(&payload).unwrap();
            let told = packet.timestamp.time().unwrap();
            prop_assert!((told.as_nanos() - now).abs() < 2 * CHOSEN_BITS_NANOS as i64 + 1);
        }
    }

    fn ip4(source: [u8; 4], destination: [u8; 4]) -> etherparse::Ipv4Header {
        etherparse::Ipv4Header { source, destination, protocol: etherparse::IpNumber::UDP, ..Default::default() }
    }
}
