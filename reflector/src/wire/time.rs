//! Time as STAMP writes it: 64 bits of NTP or truncated PTPv2 format, and how far it may be from the truth.

use pathlab_record::{Realtime, Tai, Time};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Seconds from 1900-01-01, where NTP era 0 begins, to 1970-01-01.
const UNIX_EPOCH_IN_NTP: i64 = 2_208_988_800;

/// NTP 64-bit timestamp format (RFC 5905 §6): seconds of an era since 1900, and a fraction in units of 2⁻³² s.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                            Seconds                            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                            Fraction                           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// 32 bits of seconds are ambiguous by an era of 136 years. As RFC 4330 §3 advises, the top bit decides: set, the time is in
/// era 0 (1968-01-20 03:14:08 to 2036-02-07 06:28:15 UTC); clear, it is in era 1 (from there to 2104-02-26 09:42:23 UTC). A
/// [`Time`] within those bounds survives the way there and back to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NtpTimestamp {
    seconds: U32,
    fraction: U32,
}

impl NtpTimestamp {
    /// The timestamp from its 64 bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self { seconds: U32::new((bits >> 32) as u32), fraction: U32::new(bits as u32) }
    }

    /// Seconds in the upper 32 bits, fraction in the lower.
    pub const fn bits(self) -> u64 {
        (self.seconds.get() as u64) << 32 | self.fraction.get() as u64
    }

    /// All bits zero: "unknown or unsynchronised" (RFC 5905 §6), never a time.
    pub const fn is_zero(self) -> bool {
        self.bits() == 0
    }

    /// The instant, by the top-bit rule; `None` where the field is zero.
    pub fn time(self) -> Option<Time<Realtime>> {
        if self.is_zero() {
            return None;
        }
        let seconds = i64::from(self.seconds.get());
        let era = if self.seconds.get() & 0x8000_0000 == 0 { 1 << 32 } else { 0 };
        // To the nearest nanosecond: the truncation of `from` lost less than a quarter of one.
        let nanos = (u64::from(self.fraction.get()) * NANOS_PER_SECOND as u64 + (1 << 31)) >> 32;
        Some(Time::from_nanos((seconds + era - UNIX_EPOCH_IN_NTP) * NANOS_PER_SECOND + nanos as i64))
    }
}

impl From<Time<Realtime>> for NtpTimestamp {
    /// Truncates to the unit below, as a clock does; the seconds wrap into the next era in 2036.
    fn from(time: Time<Realtime>) -> Self {
        let seconds = time.as_nanos().div_euclid(NANOS_PER_SECOND) + UNIX_EPOCH_IN_NTP;
        let nanos = time.as_nanos().rem_euclid(NANOS_PER_SECOND) as u64;
        Self { seconds: U32::new(seconds as u32), fraction: U32::new(((nanos << 32) / NANOS_PER_SECOND as u64) as u32) }
    }
}

/// Truncated PTPv2 format (RFC 8186 §3.1): 32 bits of seconds since 1970 in TAI, 32 bits of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PtpTimestamp {
    /// Seconds since 1970-01-01 TAI, modulo 2³²; wraps in 2106.
    pub seconds: u32,
    /// Nanoseconds of the second, below 1 000 000 000 in a valid timestamp.
    pub nanoseconds: u32,
}

impl PtpTimestamp {
    /// The instant in the first 2³² seconds of TAI; `None` where the field is zero or the nanoseconds exceed a second.
    pub fn time(self) -> Option<Time<Tai>> {
        let zero = self.seconds == 0 && self.nanoseconds == 0;
        let valid = !zero && i64::from(self.nanoseconds) < NANOS_PER_SECOND;
        valid.then(|| Time::from_nanos(i64::from(self.seconds) * NANOS_PER_SECOND + i64::from(self.nanoseconds)))
    }
}

impl From<NtpTimestamp> for PtpTimestamp {
    /// The same 64 bits read as the other format, as bit Z of the Error Estimate asks.
    fn from(field: NtpTimestamp) -> Self {
        Self { seconds: field.seconds.get(), nanoseconds: field.fraction.get() }
    }
}

/// A timestamp field in the format that bit Z of its Error Estimate names; the two count different clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireTime {
    /// Z = 0: NTP format, UTC.
    Ntp(Time<Realtime>),
    /// Z = 1: truncated PTPv2 format, TAI.
    Ptp(Time<Tai>),
}

impl WireTime {
    /// Reads `field` in the format of `estimate`; `None` where the field holds no time.
    pub fn read(field: NtpTimestamp, estimate: ErrorEstimate) -> Option<Self> {
        if estimate.is_ptp() { PtpTimestamp::from(field).time().map(Self::Ptp) } else { field.time().map(Self::Ntp) }
    }
}

/// Error Estimate (RFC 4656 §4.1.2; bit Z of RFC 8186): the sender's own word on its clock.
///
/// ```text
///  0                   1
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |S|Z|   Scale   |   Multiplier  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// The error is `Multiplier · 2⁻³² · 2^Scale` seconds. S: synchronised to UTC by an external source. A Multiplier of zero is
/// forbidden on the wire, and read as "no estimate".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct ErrorEstimate(U16);

impl ErrorEstimate {
    const SYNCHRONISED: u16 = 1 << 15;
    const PTP: u16 = 1 << 14;

    /// The smallest estimate in NTP format that is not below `error` nanoseconds: rounded up, never down.
    pub fn from_nanos(error: u64, synchronised: bool) -> Self {
        let mut units = (u128::from(error) << 32).div_ceil(NANOS_PER_SECOND as u128).max(1);
        let mut scale = 0;
        while units > 0xff {
            units = units.div_ceil(2);
            scale += 1;
        }
        let flag = if synchronised { Self::SYNCHRONISED } else { 0 };
        Self(U16::new(flag | scale << 8 | units as u16))
    }

    /// The estimate from its 16 bits, whatever they hold.
    pub const fn from_bits(bits: u16) -> Self {
        Self(U16::new(bits))
    }

    /// The 16 bits.
    pub const fn bits(self) -> u16 {
        self.0.get()
    }

    /// Bit S: the clock is synchronised to UTC by an external source.
    pub const fn is_synchronised(self) -> bool {
        self.bits() & Self::SYNCHRONISED != 0
    }

    /// Bit Z: the timestamps beside it are in truncated PTPv2 format.
    pub const fn is_ptp(self) -> bool {
        self.bits() & Self::PTP != 0
    }

    /// The error in nanoseconds, rounded up and saturating; `None` where the Multiplier is zero.
    pub fn nanos(self) -> Option<u64> {
        let multiplier = u128::from(self.bits() & 0xff);
        let scale = u32::from(self.bits() >> 8 & 0x3f);
        let error = ((multiplier << scale) * NANOS_PER_SECOND as u128).div_ceil(1 << 32);
        (multiplier != 0).then(|| u64::try_from(error).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1968-01-20 03:14:08 UTC, the first instant that the top-bit rule can name.
    const FIRST: i64 = ((1 << 31) - UNIX_EPOCH_IN_NTP) * NANOS_PER_SECOND;
    /// 2104-02-26 09:42:24 UTC, one past the last.
    const END: i64 = ((3 << 31) - UNIX_EPOCH_IN_NTP) * NANOS_PER_SECOND;

    #[test]
    fn unix_epoch_is_2208988800_seconds_into_era_0() {
        let epoch = NtpTimestamp::from(Time::from_nanos(500_000_000));
        assert_eq!(epoch.bits(), 0x83aa_7e80_8000_0000);
        assert_eq!(epoch.time(), Some(Time::from_nanos(500_000_000)));
    }

    #[test]
    fn era_1_begins_on_2036_02_07() {
        let wrap = Time::from_nanos(2_085_978_496 * NANOS_PER_SECOND);
        assert_eq!(NtpTimestamp::from(wrap).bits(), 0);
        assert_eq!(NtpTimestamp::from(wrap).time(), None, "the one instant of the era that means unknown");
        for nanos in [-1, 1, NANOS_PER_SECOND] {
            let near = Time::from_nanos(wrap.as_nanos() + nanos);
            assert_eq!(NtpTimestamp::from(near).time(), Some(near));
        }
    }

    #[test]
    fn ptp_format_counts_nanoseconds_and_refuses_more_than_a_second() {
        let estimate = ErrorEstimate::from_bits(0x4001);
        let good = NtpTimestamp::from_bits(5 << 32 | 999_999_999);
        assert_eq!(WireTime::read(good, estimate), Some(WireTime::Ptp(Time::from_nanos(5_999_999_999))));
        assert_eq!(WireTime::read(NtpTimestamp::from_bits(5 << 32 | 1_000_000_000), estimate), None);
        assert_eq!(WireTime::read(NtpTimestamp::default(), estimate), None);
    }

    #[test]
    fn error_estimate_known_values() {
        assert_eq!(ErrorEstimate::from_nanos(0, true).bits(), 0x8001, "never a Multiplier of zero");
        // 1 ms = 4 294 967.296 units of 2⁻³² s, by scale 15: 131.07
        assert_eq!(ErrorEstimate::from_nanos(1_000_000, true).bits(), 0x8000 | 15 << 8 | 132);
        // 16 s, what an unsynchronised kernel states: 2³⁶ units
        assert_eq!(ErrorEstimate::from_nanos(16_000_000_000, false).bits(), 29 << 8 | 128);
        assert_eq!(ErrorEstimate::from_bits(0x3f00).nanos(), None);
        assert_eq!(ErrorEstimate::from_bits(0x3fff).nanos(), Some(u64::MAX));
        assert_eq!(ErrorEstimate::from_bits(0x0001).nanos(), Some(1));
    }

    proptest! {
        #[test]
        fn time_survives_to_the_nanosecond(nanos in FIRST..END) {
            let time = Time::from_nanos(nanos);
            let wire = NtpTimestamp::from(time);
            prop_assume!(!wire.is_zero());
            prop_assert_eq!(wire.time(), Some(time));
        }

        #[test]
        fn any_time_encodes_and_any_bits_decode(nanos: i64, bits: u64, estimate: u16) {
            let _ = NtpTimestamp::from(Time::from_nanos(nanos));
            let field = NtpTimestamp::from_bits(bits);
            prop_assert_eq!(field.bits(), bits);
            prop_assert_eq!(NtpTimestamp::read_from_bytes(field.as_bytes()), Ok(field));
            let _ = WireTime::read(field, ErrorEstimate::from_bits(estimate));
            let _ = ErrorEstimate::from_bits(estimate).nanos();
        }

        #[test]
        fn the_estimate_is_never_below_the_error_and_tight(error: u64, synchronised: bool) {
            let estimate = ErrorEstimate::from_nanos(error, synchronised);
            let stated = estimate.nanos().expect("the encoder never writes a Multiplier of zero");
            prop_assert!(stated >= error);
            prop_assert!(u128::from(stated) <= u128::from(error) + u128::from(error) / 127 + 1);
            prop_assert_eq!(estimate.is_synchronised(), synchronised);
            prop_assert!(!estimate.is_ptp());
        }
    }
}
