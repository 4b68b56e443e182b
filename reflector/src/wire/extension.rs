//! The values of the TLVs that we speak (RFC 8972 §4.3 to §4.7), as they stand on the wire.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::NtpTimestamp;

/// Where a clock gets its time from (RFC 8972 §5.4).
pub mod sync_source {
    #![allow(missing_docs)] // the names of the registry
    pub const NTP: u8 = 1;
    pub const PTP: u8 = 2;
    pub const SSU_BITS: u8 = 3;
    pub const SATELLITES: u8 = 4;
    pub const LOCAL: u8 = 5;
}

/// How a timestamp was taken (RFC 8972 §5.5).
pub mod timestamp_method {
    /// By the card.
    pub const HW_ASSIST: u8 = 1;
    /// By software of the host, kernel or user space.
    pub const SW_LOCAL: u8 = 2;
    /// By the control plane.
    pub const CONTROL_PLANE: u8 = 3;
}

/// Timestamp Information (RFC 8972 §4.3). Sub-TLVs may follow; none is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TimestampInformation {
    /// [`sync_source`] of T2.
    pub sync_source_in: u8,
    /// [`timestamp_method`] of T2.
    pub method_in: u8,
    /// [`sync_source`] of T3.
    pub sync_source_out: u8,
    /// [`timestamp_method`] of T3.
    pub method_out: u8,
}

/// Class of Service (RFC 8972 §4.4).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   DSCP1   |   DSCP2   |ECN| RP|          Reserved             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ClassOfService {
    bits: U16,
    reserved: U16,
}

impl ClassOfService {
    /// What a sender asks: that the reply have the DSCP `dscp1`, 0 to 63.
    pub fn request(dscp1: u8) -> Self {
        Self { bits: U16::new(u16::from(dscp1 & 0x3f) << 10), reserved: U16::ZERO }
    }

    /// The same as answered: the traffic class with which the request came, and whether `dscp1` was refused.
    pub fn answered(self, traffic_class: u8, refused: bool) -> Self {
        let bits = self.bits.get() & 0xfc00 | u16::from(traffic_class) << 2 | u16::from(refused);
        Self { bits: U16::new(bits), reserved: U16::ZERO }
    }

    /// The DSCP that the sender wants for the reply.
    pub fn dscp1(self) -> u8 {
        (self.bits.get() >> 10) as u8
    }

    /// The DSCP with which the request reached the reflector.
    pub fn dscp2(self) -> u8 {
        (self.bits.get() >> 4 & 0x3f) as u8
    }

    /// The ECN bits with which the request reached the reflector.
    pub fn ecn(self) -> u8 {
        (self.bits.get() >> 2 & 3) as u8
    }

    /// RP, Reverse Path: 1 where the reflector did not allow `dscp1`.
    pub fn reverse_path(self) -> u8 {
        (self.bits.get() & 3) as u8
    }
}

/// Direct Measurement (RFC 8972 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirectMeasurement {
    /// S_TxC: packets that the sender has sent.
    pub sender_sent: U32,
    /// R_RxC: packets that the reflector has received.
    pub reflector_received: U32,
    /// R_TxC: packets that the reflector has sent.
    pub reflector_sent: U32,
}

/// Follow-Up Telemetry (RFC 8972 §4.7): when the previous reply left. All zero where that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FollowUpTelemetry {
    /// The reflector's own number of that reply.
    pub sequence: U32,
    /// When it left, in the format of the base packet's timestamps.
    pub timestamp: NtpTimestamp,
    /// [`timestamp_method`] of that.
    pub method: u8,
    /// Zero when sending, ignored when receiving.
    pub reserved: [u8; 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_have_the_lengths_of_the_rfc() {
        assert_eq!(size_of::<TimestampInformation>(), 4);
        assert_eq!(size_of::<ClassOfService>(), 4);
        assert_eq!(size_of::<DirectMeasurement>(), 12);
        assert_eq!(size_of::<FollowUpTelemetry>(), 16);
    }

    #[test]
    fn class_of_service_has_its_bits_where_the_rfc_has_them() {
        let asked = ClassOfService::request(0b101110);
        assert_eq!(asked.as_bytes(), [0b1011_1000, 0, 0, 0]);
        // DSCP 10 (AF11) and ECN 3 (CE) came in
        let answered = asked.answered(0b0010_1011, true);
        assert_eq!(answered.as_bytes(), [0b1011_1000, 0b1010_1101, 0, 0]);
        assert_eq!((answered.dscp1(), answered.dscp2(), answered.ecn(), answered.reverse_path()), (46, 10, 3, 1));
    }
}
