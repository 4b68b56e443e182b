//! The two authenticated base packets of STAMP (RFC 8762 §4.2.2, §4.3.2), 112 octets each way, of which the last 16 are the HMAC of the
//! others.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{ErrorEstimate, MalformedPacket, NtpTimestamp, ReflectedPacket, SenderPacket};

/// Length of an authenticated base packet in octets, either way.
pub const AUTHENTICATED_LEN: usize = 112;

/// Octets at its head that the HMAC covers; the HMAC follows them.
pub const AUTHENTICATED_PART: usize = 96;

/// Session-Sender test packet, authenticated mode (RFC 8762 figure 4; SSID as in RFC 8972 figure 3).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Sequence Number                          |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         MBZ (12 octets)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                     Timestamp (8 octets)                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |        Error Estimate         |             SSID              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         MBZ (68 octets)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        HMAC (16 octets)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AuthenticatedSenderPacket {
    /// Number of this packet within its session, from zero.
    pub sequence: U32,
    /// Zero when sending, ignored when receiving.
    pub mbz: [u8; 12],
    /// When it was sent (A1), by the sender's clock.
    pub timestamp: NtpTimestamp,
    /// The sender's word on that clock.
    pub error_estimate: ErrorEstimate,
    /// STAMP Session Identifier, zero for none.
    pub ssid: U16,
    /// Zero when sending, ignored when receiving.
    pub mbz_tail: [u8; 68],
    /// Of the 96 octets before.
    pub hmac: [u8; 16],
}

/// Session-Reflector test packet, authenticated mode (RFC 8762 figure 7; SSID as in RFC 8972 figure 4).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        Sequence Number                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        MBZ (12 octets)                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Timestamp (8 octets)                     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Error Estimate        |             SSID              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        MBZ (4 octets)                         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                  Receive Timestamp (8 octets)                 |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        MBZ (8 octets)                         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                 Session-Sender Sequence Number                |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        MBZ (12 octets)                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |              Session-Sender Timestamp (8 octets)              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Session-Sender Error Estimate |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+       MBZ (6 octets)          |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Ses-Sender TTL |                                               |
/// +-+-+-+-+-+-+-+-+                                               |
/// |                        MBZ (15 octets)                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        HMAC (16 octets)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AuthenticatedReflectedPacket {
    /// As in [`ReflectedPacket`], and so all others but the MBZ fields.
    pub sequence: U32,
    mbz_sequence: [u8; 12],
    /// B3.
    pub timestamp: NtpTimestamp,
    /// The reflector's word on its clock.
    pub error_estimate: ErrorEstimate,
    /// STAMP Session Identifier as it came.
    pub ssid: U16,
    mbz_ssid: [u8; 4],
    /// B2.
    pub receive_timestamp: NtpTimestamp,
    mbz_receive: [u8; 8],
    /// Sequence number of the request.
    pub sender_sequence: U32,
    mbz_sender_sequence: [u8; 12],
    /// Timestamp of the request (A1).
    pub sender_timestamp: NtpTimestamp,
    /// Error Estimate of the request.
    pub sender_error_estimate: ErrorEstimate,
    mbz_sender_error_estimate: [u8; 6],
    /// TTL or Hop Limit with which the request arrived.
    pub sender_ttl: u8,
    mbz_ttl: [u8; 15],
    /// Of the 96 octets before.
    pub hmac: [u8; 16],
}

impl AuthenticatedSenderPacket {
    /// The base packet at the head of a datagram, and what follows it. Whether its HMAC is right is for the owner of the key to say.
    ///
    /// # Errors
    /// The datagram is shorter than [`AUTHENTICATED_LEN`].
    pub fn parse(datagram: &[u8]) -> Result<(&Self, &[u8]), MalformedPacket> {
        Self::ref_from_prefix(datagram).map_err(|_| short(datagram))
    }

    /// The same fields in unauthenticated form.
    pub fn plain(&self) -> SenderPacket {
        let Self { sequence, timestamp, error_estimate, ssid, .. } = *self;
        SenderPacket { sequence, timestamp, error_estimate, ssid, mbz: [0; 28] }
    }
}

impl From<SenderPacket> for AuthenticatedSenderPacket {
    /// Without its HMAC.
    fn from(plain: SenderPacket) -> Self {
        let SenderPacket { sequence, timestamp, error_estimate, ssid, .. } = plain;
        Self { sequence, mbz: [0; 12], timestamp, error_estimate, ssid, mbz_tail: [0; 68], hmac: [0; 16] }
    }
}

impl AuthenticatedReflectedPacket {
    /// The base packet at the head of a datagram, and what follows it. Whether its HMAC is right is for the owner of the key to say.
    ///
    /// # Errors
    /// The datagram is shorter than [`AUTHENTICATED_LEN`].
    pub fn parse(datagram: &[u8]) -> Result<(&Self, &[u8]), MalformedPacket> {
        Self::ref_from_prefix(datagram).map_err(|_| short(datagram))
    }

    /// The same fields in unauthenticated form.
    pub fn plain(&self) -> ReflectedPacket {
        ReflectedPacket {
            sequence: self.sequence,
            timestamp: self.timestamp,
            error_estimate: self.error_estimate,
            ssid: self.ssid,
            receive_timestamp: self.receive_timestamp,
            sender_sequence: self.sender_sequence,
            sender_timestamp: self.sender_timestamp,
            sender_error_estimate: self.sender_error_estimate,
            mbz: [0; 2],
            sender_ttl: self.sender_ttl,
            mbz_tail: [0; 3],
        }
    }
}

impl From<ReflectedPacket> for AuthenticatedReflectedPacket {
    /// Without its HMAC.
    fn from(plain: ReflectedPacket) -> Self {
        Self {
            sequence: plain.sequence,
            mbz_sequence: [0; 12],
            timestamp: plain.timestamp,
            error_estimate: plain.error_estimate,
            ssid: plain.ssid,
            mbz_ssid: [0; 4],
            receive_timestamp: plain.receive_timestamp,
            mbz_receive: [0; 8],
            sender_sequence: plain.sender_sequence,
            mbz_sender_sequence: [0; 12],
            sender_timestamp: plain.sender_timestamp,
            sender_error_estimate: plain.sender_error_estimate,
            mbz_sender_error_estimate: [0; 6],
            sender_ttl: plain.sender_ttl,
            mbz_ttl: [0; 15],
            hmac: [0; 16],
        }
    }
}

fn short(datagram: &[u8]) -> MalformedPacket {
    MalformedPacket {
        field: "length",
        expected: "112 octets or more in authenticated mode",
        arrived: datagram.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::transmute;

    use super::*;

    #[test]
    fn both_packets_are_112_octets_with_the_fields_where_the_rfc_has_them() {
        let counting: [u8; AUTHENTICATED_LEN] = std::array::from_fn(|place| place as u8);
        let sender: AuthenticatedSenderPacket = transmute!(counting);
        assert_eq!((sender.sequence.get(), sender.timestamp.bits()), (0x0001_0203, 0x1011_1213_1415_1617));
        assert_eq!((sender.error_estimate.bits(), sender.ssid.get(), sender.hmac[0]), (0x1819, 0x1a1b, 96));
        let reflected: AuthenticatedReflectedPacket = transmute!(counting);
        assert_eq!(reflected.receive_timestamp.bits(), 0x2021_2223_2425_2627);
        assert_eq!(reflected.sender_sequence.get(), 0x3031_3233);
        assert_eq!(reflected.sender_timestamp.bits(), 0x4041_4243_4445_4647);
        assert_eq!((reflected.sender_error_estimate.bits(), reflected.sender_ttl), (0x4849, 80));
        assert_eq!((reflected.hmac[0], AUTHENTICATED_PART), (96, 96));
    }

    #[test]
    fn the_fields_are_those_of_the_other_form() {
        let plain: SenderPacket =
            transmute!(std::array::from_fn::<u8, 44, _>(|place| if place < 16 { place as u8 } else { 0 }));
        assert_eq!(AuthenticatedSenderPacket::from(plain).plain(), plain);
        let mut counting: [u8; 44] = std::array::from_fn(|place| place as u8);
        counting[38..40].fill(0);
        counting[41..].fill(0);
        let plain: ReflectedPacket = transmute!(counting);
        assert_eq!(AuthenticatedReflectedPacket::from(plain).plain(), plain);
        assert_eq!(AuthenticatedReflectedPacket::parse(&[0; 111]).expect_err("111 octets").arrived, 111);
    }
}
