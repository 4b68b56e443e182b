//! The two unauthenticated base packets of STAMP (RFC 8762 §4.2.1, §4.3.1), 44 octets each way.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{ErrorEstimate, NtpTimestamp, WireTime};

/// The UDP port that IANA gives to STAMP (RFC 8762 §4.1).
pub const STAMP_PORT: u16 = 862;

/// Length of a base packet in octets, either way: what is shorter is no test packet.
pub const BASE_LEN: usize = 44;

/// What a datagram lacks to be a STAMP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct MalformedPacket {
    /// The field at fault.
    pub field: &'static str,
    /// What the RFC asks for.
    pub expected: &'static str,
    /// What came.
    pub arrived: u64,
}

impl fmt::Display for MalformedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, expected, arrived } = self;
        write!(f, "not a STAMP packet: {field}: expected {expected}, arrived {arrived} (the peer's fault)")
    }
}

/// Session-Sender test packet, unauthenticated mode (RFC 8762 figure 2; SSID as in RFC 8972 figure 1).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        Sequence Number                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                          Timestamp                            |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Error Estimate        |             SSID              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                                                               |
/// |                                                               |
/// |                         MBZ (28 octets)                       |
/// ...                                                           ...
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// RFC 8762 has MBZ where the SSID stands: zero is "no SSID", and both readings are the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SenderPacket {
    /// Number of this packet within its session, from zero.
    pub sequence: U32,
    /// When it was sent (A1), by the sender's clock.
    pub timestamp: NtpTimestamp,
    /// The sender's word on that clock.
    pub error_estimate: ErrorEstimate,
    /// STAMP Session Identifier, zero for none.
    pub ssid: U16,
    /// Zero when sending, ignored when receiving.
    pub mbz: [u8; 28],
}

impl SenderPacket {
    /// A base packet without SSID.
    pub fn new(sequence: u32, timestamp: NtpTimestamp, error_estimate: ErrorEstimate) -> Self {
        Self { sequence: U32::new(sequence), timestamp, error_estimate, ssid: U16::ZERO, mbz: [0; 28] }
    }

    /// The base packet at the head of a datagram, and what follows it (padding or TLVs).
    ///
    /// # Errors
    /// The datagram is shorter than [`BASE_LEN`].
    pub fn parse(datagram: &[u8]) -> Result<(&Self, &[u8]), MalformedPacket> {
        Self::ref_from_prefix(datagram).map_err(|_| short(datagram))
    }
}

/// Session-Reflector test packet, unauthenticated mode (RFC 8762 figure 5; SSID as in RFC 8972 figure 2).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        Sequence Number                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                          Timestamp                            |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Error Estimate        |             SSID              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       Receive Timestamp                       |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                 Session-Sender Sequence Number                |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                  Session-Sender Timestamp                     |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Session-Sender Error Estimate |              MBZ              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Ses-Sender TTL |                      MBZ                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReflectedPacket {
    /// Stateless: the sender's number again. Stateful: the number of this reply within the session, from zero.
    pub sequence: U32,
    /// When the reply was sent (B3), by the reflector's clock.
    pub timestamp: NtpTimestamp,
    /// The reflector's word on its clock, for both of its timestamps.
    pub error_estimate: ErrorEstimate,
    /// STAMP Session Identifier as it came.
    pub ssid: U16,
    /// When the request arrived (B2), by the reflector's clock.
    pub receive_timestamp: NtpTimestamp,
    /// Sequence number of the request.
    pub sender_sequence: U32,
    /// Timestamp of the request (A1).
    pub sender_timestamp: NtpTimestamp,
    /// Error Estimate of the request.
    pub sender_error_estimate: ErrorEstimate,
    /// Zero when sending, ignored when receiving.
    pub mbz: [u8; 2],
    /// TTL or Hop Limit with which the request arrived.
    pub sender_ttl: u8,
    /// Zero when sending, ignored when receiving.
    pub mbz_tail: [u8; 3],
}

impl ReflectedPacket {
    /// The base packet at the head of a datagram, and what follows it (padding or TLVs).
    ///
    /// # Errors
    /// The datagram is shorter than [`BASE_LEN`].
    pub fn parse(datagram: &[u8]) -> Result<(&Self, &[u8]), MalformedPacket> {
        Self::ref_from_prefix(datagram).map_err(|_| short(datagram))
    }

    /// B2 in the format that the reflector chose; `None` where it left the field empty.
    pub fn received_at(&self) -> Option<WireTime> {
        WireTime::read(self.receive_timestamp, self.error_estimate)
    }

    /// B3 in the format that the reflector chose; `None` where it left the field empty.
    pub fn sent_at(&self) -> Option<WireTime> {
        WireTime::read(self.timestamp, self.error_estimate)
    }
}

fn short(datagram: &[u8]) -> MalformedPacket {
    MalformedPacket { field: "length", expected: "44 octets or more", arrived: datagram.len() as u64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::transmute;

    use super::*;

    #[test]
    fn both_packets_are_44_octets_with_the_fields_where_the_rfc_has_them() {
        assert_eq!(size_of::<SenderPacket>(), BASE_LEN);
        assert_eq!(size_of::<ReflectedPacket>(), BASE_LEN);
        let counting: [u8; BASE_LEN] = std::array::from_fn(|i| i as u8);
        let sender: SenderPacket = transmute!(counting);
        assert_eq!(sender.timestamp.bits(), 0x0405_0607_0809_0a0b);
        assert_eq!((sender.error_estimate.bits(), sender.ssid.get()), (0x0c0d, 0x0e0f));
        let reflected: ReflectedPacket = transmute!(counting);
        assert_eq!(reflected.receive_timestamp.bits(), 0x1011_1213_1415_1617);
        assert_eq!(reflected.sender_sequence.get(), 0x1819_1a1b);
        assert_eq!(reflected.sender_timestamp.bits(), 0x1c1d_1e1f_2021_2223);
        assert_eq!((reflected.sender_error_estimate.bits(), reflected.sender_ttl), (0x2425, 40));
    }

    #[test]
    fn a_short_datagram_is_named() {
        let error = SenderPacket::parse(&[0; 43]).expect_err("43 octets");
        assert_eq!(
            error.to_string(),
            "not a STAMP packet: length: expected 44 octets or more, arrived 43 (the peer's fault)"
        );
        assert_eq!(ReflectedPacket::parse(&[]).expect_err("empty").arrived, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_short_and_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            match (SenderPacket::parse(&bytes), ReflectedPacket::parse(&bytes)) {
                (Ok((sender, rest)), Ok((reflected, _))) => {
                    prop_assert_eq!(sender.as_bytes(), &bytes[..BASE_LEN]);
                    prop_assert_eq!(reflected.as_bytes(), &bytes[..BASE_LEN]);
                    prop_assert_eq!(rest, &bytes[BASE_LEN..]);
                    let _ = (reflected.received_at(), reflected.sent_at());
                }
                (Err(_), Err(_)) => prop_assert!(bytes.len() < BASE_LEN),
                _ => prop_assert!(false, "both packets have the same length"),
            }
        }
    }
}
