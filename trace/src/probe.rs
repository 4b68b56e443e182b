//! Probes: STAMP packets of one flow that are told apart by what every router quotes, without a byte of the 5-tuple changing.
//!
//! A router must quote eight octets of a UDP datagram, which are ports, length and checksum; many quote more. The number of a probe is the STAMP
//! sequence number, the first thing of the payload, and also its UDP checksum: the lowest 16 bits of the timestamp, 15 µs of the second's
//! fraction, are chosen so that the checksum comes out as wanted. No field has a value that STAMP does not allow.

use pathlab_record::{Realtime, Time};
use pathlab_reflector::{
    keys::{HMAC_LEN, Key},
    wire::{
        AUTHENTICATED_LEN, AUTHENTICATED_PART, AuthenticatedSenderPacket, ErrorEstimate, MOST_REPORTS, RETURN_TRACE,
        ReturnTrace, SenderPacket, TLV_HEADER_LEN, tlv_flag, tlv_type,
    },
};
use zerocopy::IntoBytes;

use crate::flow::{Flow, fold, words};

/// Octets of a base packet, the shortest probe.
pub const LEAST_SIZE: usize = pathlab_reflector::wire::BASE_LEN;

/// The lowest 16 bits of an NTP fraction are 15.3 µs.
const CHOSEN_BITS_NANOS: u64 = 15_260;

/// Octets 10 and 11 of a base packet are the lowest of the timestamp.
const CHOSEN: std::ops::Range<usize> = 10..12;

/// What a probe is beside its number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape<'a> {
    /// Octets of the payload, at least [`least`](Self::least).
    pub size: usize,
    /// The key of authenticated mode.
    pub key: Option<&'a Key>,
    /// The Hop Limit that the reply shall leave with, 0 for the usual one; absent where the way back is not asked for. Needs a key.
    pub ask: Option<u8>,
}

impl Shape<'_> {
    /// The fewest octets that hold all of it.
    pub fn least(&self) -> usize {
        if self.key.is_none() {
            return LEAST_SIZE;
        }
        let asking = TLV_HEADER_LEN + ReturnTrace::len_with(MOST_REPORTS) + TLV_HEADER_LEN + HMAC_LEN;
        // The last two octets are those that are chosen.
        AUTHENTICATED_LEN + self.ask.map_or(0, |_| asking) + TLV_HEADER_LEN + 2
    }
}

/// The payload of probe `number`. A base packet of between 45 and 47 octets there is not: it has 48.
pub fn payload(flow: &Flow, number: u32, now: Time<Realtime>, shape: &Shape<'_>) -> Vec<u8> {
    let packet = SenderPacket::new(number, now.into(), ErrorEstimate::from_nanos(2 * CHOSEN_BITS_NANOS, false));
    let (mut octets, chosen) = match shape.key {
        Some(key) => signed(packet, key, shape),
        None => (packet.as_bytes().to_vec(), CHOSEN),
    };
    if shape.size > octets.len() && shape.key.is_none() {
        pad(&mut octets, shape.size);
    }
    octets[chosen.clone()].fill(0);
    let rest = fold(flow.sum(octets.len()) + words(&octets));
    let wanted = fold(u64::from(!checksum(number)) + u64::from(!rest));
    octets[chosen].copy_from_slice(&wanted.to_be_bytes());
    octets
}

/// In authenticated mode the timestamp is under an HMAC. What is chosen there stands in Extra Padding behind it, which alone no HMAC covers (RFC 8972
/// section 4.8).
fn signed(plain: SenderPacket, key: &Key, shape: &Shape<'_>) -> (Vec<u8>, std::ops::Range<usize>) {
    let sequence = plain.sequence;
    let mut packet = AuthenticatedSenderPacket::from(plain);
    packet.hmac = key.hmac(&[&packet.as_bytes()[..AUTHENTICATED_PART]]);
    let mut octets = packet.as_bytes().to_vec();
    if let Some(hop_limit) = shape.ask {
        let length = ReturnTrace::len_with(MOST_REPORTS);
        head(&mut octets, RETURN_TRACE, length);
        octets.extend(ReturnTrace::asking(hop_limit).as_bytes());
        octets.resize(AUTHENTICATED_LEN + TLV_HEADER_LEN + length, 0);
        let tag = key.hmac(&[sequence.as_bytes(), &octets[AUTHENTICATED_LEN..]]);
        head(&mut octets, tlv_type::HMAC, HMAC_LEN);
        octets.extend(tag);
    }
    let chosen = octets.len() + TLV_HEADER_LEN;
    pad(&mut octets, shape.size.max(chosen + 2));
    (octets, chosen..chosen + 2)
}

/// Extra Padding (RFC 8972 section 4.1) up to `size`.
fn pad(octets: &mut Vec<u8>, size: usize) {
    let padding = size.saturating_sub(octets.len() + TLV_HEADER_LEN).min(usize::from(u16::MAX));
    head(octets, tlv_type::EXTRA_PADDING, padding);
    octets.resize(octets.len() + padding, 0);
}

/// The head of a TLV, flagged unrecognised as a sender has to.
fn head(octets: &mut Vec<u8>, kind: u8, length: usize) {
    octets.extend([tlv_flag::UNRECOGNIZED, kind]);
    octets.extend((length as u16).to_be_bytes());
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
    use pathlab_reflector::session::Integrity;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// By another codec than ours: the checksum is the number, in both families and any size.
        #[test]
        fn the_checksum_carries_the_number(
            number: u32, v6: bool, from in 1_u16.., now in 0_i64..4_000_000_000_000_000_000, size in 44_usize..1400, keyed: bool, ask in proptest::option::of(0_u8..64),
        ) {
            let (source, target) = if v6 { ("2001:db8::7", "2001:db8:1::10") } else { ("192.0.2.7", "203.0.113.10") };
            let flow = Flow {
                source: SocketAddr::new(source.parse().unwrap(), from),
                target: SocketAddr::new(target.parse().unwrap(), 862),
            };
            let key = Key::new(&[9; 32]).unwrap();
            let shape = Shape { size, key: keyed.then_some(&key), ask: ask.filter(|_| keyed) };
            let payload = payload(&flow, number, Time::from_nanos(now), &shape);
            prop_assert!(payload.len() == size.max(shape.least()) || !keyed && (45..48).contains(&size) && payload.len() == 48);
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
            let told = if keyed {
                let (packet, rest) = AuthenticatedSenderPacket::parse(&payload).unwrap();
                prop_assert!(key.verifies(&[&payload[..AUTHENTICATED_PART]], &packet.hmac));
                let integrity = Integrity::of(rest, packet.sequence.as_bytes(), Some(&key), true);
                prop_assert_eq!(integrity, if shape.ask.is_some() { Integrity::Verified } else { Integrity::Unprotected });
                packet.timestamp.time().unwrap()
            } else {
                SenderPacket::parse(&payload).unwrap().0.timestamp.time().unwrap()
            };
            prop_assert!((told.as_nanos() - now).abs() < 2 * CHOSEN_BITS_NANOS as i64 + 1);
        }
    }

    fn ip4(source: [u8; 4], destination: [u8; 4]) -> etherparse::Ipv4Header {
        etherparse::Ipv4Header { source, destination, protocol: etherparse::IpNumber::UDP, ..Default::default() }
    }
}
