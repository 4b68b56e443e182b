//! Reflector Stages, a TLV of our own (type 250, of those that RFC 8972 §5.1 leaves to experiments): where in the reflector's host the
//! time went.
//!
//! A sender sends it with its identifier and zeroes. A reflector that does not know it sends it back with flag U, as any other, and
//! nobody is harmed; so does ours where the identifier is another's.

use pathlab_record::{ClockId, Interval, Plane, Stamp};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{I64, U16, U32},
};

use super::ErrorEstimate;

/// Its type.
pub const REFLECTOR_STAGES: u8 = 250;

/// What it begins with, because others may use the type for something else. The last octet is its version.
const IDENTIFIER: [u8; 4] = *b"PLS\x02";

/// Its value, 100 octets.
///
/// ```text
///   0 identifier "PLS", version 2     4 Session-Sender Sequence Number of the reply that the last two stamps are of
///   8 B2 nic    20 B2 xdp    32 B2 kernel    44 B2 app    56 B3 app        of this very reply
///  68 B3 kernel    80 B3 nic                                               of an earlier reply, mostly the previous one
///  92 plane of T2    93 plane of T3    94 the card's fit    96 how long ago the card was confirmed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReflectorStages {
    identifier: [u8; 4],
    /// Number of the request whose reply the stamps of [`departed_kernel`](Self::departed_kernel) and
    /// [`departed_nic`](Self::departed_nic) are of. Means nothing where both are absent.
    pub departed: U32,
    /// The card took the request off the wire.
    pub received_nic: WireStamp,
    /// An XDP program saw it.
    pub received_xdp: WireStamp,
    /// The stack took it from the driver.
    pub received_kernel: WireStamp,
    /// The reflector had it in user space.
    pub received_app: WireStamp,
    /// The reflector gave the reply to the kernel.
    pub sent_app: WireStamp,
    /// The kernel gave an earlier reply to the driver.
    pub departed_kernel: WireStamp,
    /// The card put it on the wire.
    pub departed_nic: WireStamp,
    received_plane: u8,
    sent_plane: u8,
    fit: U16,
    confirmed: U32,
}

/// How far the stamps of a reflector's card are confirmed, at the time of a reply. What it has stamped under a fit is true if a later word
/// of the same fit confirms the card beyond that instant; a word of another fit makes void what was not confirmed by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardWord {
    /// Which fit of the card's clock, from anywhere: another one begins where a clock has stepped.
    pub fit: u16,
    /// How long before the request was read the last good cross-stamp was; `None` before the first of the fit.
    pub confirmed: Option<Interval>,
}

/// No cross-stamp of this fit, or none within an hour.
const NEVER: u32 = u32::MAX;

/// Planes by number; 0 is not told.
const PLANES: [Plane; 5] = [Plane::App, Plane::Sched, Plane::Kernel, Plane::Xdp, Plane::Nic];

impl ReflectorStages {
    /// What a sender sends, and what a reflector begins with.
    pub fn empty() -> Self {
        let none = WireStamp::default();
        Self {
            identifier: IDENTIFIER,
            departed: U32::ZERO,
            received_nic: none,
            received_xdp: none,
            received_kernel: none,
            received_app: none,
            sent_app: none,
            departed_kernel: none,
            departed_nic: none,
            received_plane: 0,
            sent_plane: 0,
            fit: U16::ZERO,
            confirmed: NEVER.into(),
        }
    }

    /// Names the planes of Receive Timestamp and Timestamp of the base packet.
    pub fn set_planes(&mut self, received: Plane, sent: Plane) {
        let number = |plane| PLANES.iter().position(|known| *known == plane).map_or(0, |place| place as u8 + 1);
        (self.received_plane, self.sent_plane) = (number(received), number(sent));
    }

    /// The planes of Receive Timestamp and Timestamp of the base packet; `None` where not told, or of a number that we do not know.
    pub fn planes(&self) -> [Option<Plane>; 2] {
        [self.received_plane, self.sent_plane].map(|number| PLANES.get(usize::from(number).checked_sub(1)?).copied())
    }

    /// Says how far the card is confirmed, in whole microseconds, rounded up.
    pub fn set_card_word(&mut self, word: CardWord) {
        let micros =
            |ago: Interval| u32::try_from(ago.as_nanos().max(0).unsigned_abs().div_ceil(1000)).unwrap_or(NEVER);
        self.fit = word.fit.into();
        self.confirmed = word.confirmed.map_or(NEVER, micros).into();
    }

    /// How far the card is confirmed.
    pub fn card_word(&self) -> CardWord {
        let confirmed = Some(self.confirmed.get()).filter(|micros| *micros != NEVER);
        let interval = |micros| Interval::from_nanos(i64::from(micros) * 1000);
        CardWord { fit: self.fit.get(), confirmed: confirmed.map(interval) }
    }

    /// Whether it is ours, and of the version that we know.
    pub fn is_ours(&self) -> bool {
        self.identifier == IDENTIFIER
    }
}

/// A stamp: nanoseconds since the epoch of its clock, the clock, the uncertainty.
///
/// Clock: 0 no stamp, 1 `CLOCK_REALTIME`, 2 `CLOCK_TAI`, 3 `CLOCK_MONOTONIC`, 0x8000 + N `/dev/ptpN`. Uncertainty: as an Error Estimate
/// (RFC 4656 §4.1.2) with S and Z clear, rounded up; 0 where none is stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct WireStamp {
    nanos: I64,
    clock: U16,
    uncertainty: U16,
}

const PHC: u16 = 0x8000;

impl WireStamp {
    /// The stamp; `None` where there is none, or a clock that we do not know.
    pub fn stamp(self) -> Option<Stamp> {
        let clock = match self.clock.get() {
            1 => ClockId::Realtime,
            2 => ClockId::Tai,
            3 => ClockId::Monotonic,
            phc if phc >= PHC => ClockId::Phc(u32::from(phc - PHC)),
            _ => return None,
        };
        let uncertainty = ErrorEstimate::from_bits(self.uncertainty.get()).nanos().unwrap_or(0);
        Stamp::new(self.nanos.get(), clock, uncertainty)
    }
}

impl From<Option<Stamp>> for WireStamp {
    /// A card's clock beyond `/dev/ptp32767` has no place: its stamp is left out.
    fn from(stamp: Option<Stamp>) -> Self {
        let Some(stamp) = stamp else { return Self::default() };
        let clock = match stamp.clock() {
            ClockId::Realtime => 1,
            ClockId::Tai => 2,
            ClockId::Monotonic => 3,
            ClockId::Phc(index) => match u16::try_from(index).ok().filter(|index| *index < PHC) {
                Some(index) => PHC + index,
                None => return Self::default(),
            },
        };
        let uncertainty = match stamp.uncertainty() {
            0 => 0,
            nanos => ErrorEstimate::from_nanos(nanos, false).bits(),
        };
        Self { nanos: stamp.nanos().into(), clock: clock.into(), uncertainty: uncertainty.into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_document() {
        let mut stages = ReflectorStages::empty();
        stages.received_xdp = Stamp::new(0x0102_0304_0506_0708, ClockId::Tai, 0).into();
        stages.departed_nic = Stamp::new(-1, ClockId::Phc(3), 1000).into();
        stages.set_planes(Plane::Nic, Plane::App);
        let word = CardWord { fit: 0x1234, confirmed: Some(Interval::from_nanos(249_000_001)) };
        stages.set_card_word(word);
        let bytes = stages.as_bytes();
        assert_eq!((bytes.len(), &bytes[..4]), (100, &b"PLS\x02"[..]));
        assert_eq!(bytes[92..], [5, 1, 0x12, 0x34, 0, 3, 0xcc, 0xa9], "249,001 µs: rounded up");
        assert_eq!(bytes[20..32], [1, 2, 3, 4, 5, 6, 7, 8, 0, 2, 0, 0]);
        // 1000 ns are 4294.97 units of 2⁻³² s: 135 · 2⁵
        assert_eq!(bytes[80..92], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x80, 3, 5, 135]);
        assert!(stages.is_ours() && !ReflectorStages::read_from_bytes(&[0; 100]).expect("100 octets").is_ours());
        assert_eq!(WireStamp::from(Stamp::new(1, ClockId::Phc(0x8000), 0)).stamp(), None);
        assert_eq!(stages.planes(), [Some(Plane::Nic), Some(Plane::App)]);
        assert_eq!(stages.card_word(), CardWord { confirmed: Some(Interval::from_nanos(249_001_000)), ..word });
        let empty = ReflectorStages::empty();
        assert_eq!((empty.planes(), empty.card_word()), ([None; 2], CardWord { fit: 0, confirmed: None }));
        (stages.received_plane, stages.sent_plane) = (6, 255);
        stages.set_card_word(CardWord { confirmed: Some(Interval::from_nanos(i64::MAX)), ..word });
        assert_eq!((stages.planes(), stages.card_word().confirmed), ([None; 2], None));
    }

    proptest! {
        #[test]
        fn a_stamp_survives_and_its_uncertainty_never_shrinks(nanos: i64, clock in 0..6_u32, uncertainty in 0..u64::MAX / 2) {
            let clock = match clock { 0 => ClockId::Realtime, 1 => ClockId::Tai, 2 => ClockId::Monotonic, n => ClockId::Phc(n * 9) };
            let stamp = Stamp::new(nanos, clock, uncertainty);
            let read = WireStamp::from(stamp).stamp();
            prop_assert_eq!(read.map(|read| (read.nanos(), read.clock())), stamp.map(|stamp| (stamp.nanos(), stamp.clock())));
            if let (Some(read), Some(stamp)) = (read, stamp) {
                prop_assert!(read.uncertainty() >= stamp.uncertainty());
                prop_assert!(read.uncertainty() <= stamp.uncertainty() + stamp.uncertainty() / 127 + 1);
            }
        }

        #[test]
        fn any_octets_are_read(bytes in proptest::array::uniform12(any::<u8>())) {
            let wire = WireStamp::read_from_bytes(&bytes).expect("12 octets");
            let _ = wire.stamp();
        }
    }
}
