//! Return Trace, a TLV of our own (type 251, of those that RFC 8972 §5.1 leaves to experiments): which routers a reply meets on its way back.
//!
//! The sender asks that its reply leave with so small a Hop Limit that it ends at a router on the way; that router's ICMP error comes to the reflector,
//! which tells of it in later replies. No packet is sent that would not be sent anyway. A reflector that does not know the TLV, or does not allow it,
//! sends it back with flag U.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

/// Its type.
pub const RETURN_TRACE: u8 = 251;

/// What it begins with, because others may use the type for something else. The last octet is its version.
const IDENTIFIER: [u8; 4] = *b"PLR\x01";

/// The most reports of one TLV.
pub const MOST_REPORTS: usize = 16;

/// The head of its value, 16 octets; reports follow, as many as the sender has left room for.
///
/// ```text
///  0 identifier "PLR", version 1
///  4 Hop Limit asked for   5 Hop Limit of this reply   6 how many reports follow that say something
///  8 replies of the session so far with a Hop Limit asked for     12 those that left with the usual one instead, for there were too many
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReturnTrace {
    identifier: [u8; 4],
    /// TTL or Hop Limit that the reply shall leave with; 0: the usual one.
    pub asked: u8,
    /// What it leaves with; 0: the usual one.
    pub given: u8,
    /// Reports that say something; those after them are zero.
    pub reports: U16,
    /// Replies of this session that left with what was asked for, this one among them.
    pub limited: U32,
    /// Replies of this session that were to and did not, because there have been too many of late.
    pub refused: U32,
}

impl ReturnTrace {
    /// What a sender sends before its empty reports.
    pub fn asking(hop_limit: u8) -> Self {
        let none = U32::ZERO;
        Self { identifier: IDENTIFIER, asked: hop_limit, given: 0, reports: U16::ZERO, limited: none, refused: none }
    }

    /// Octets of a value with room for so many reports.
    pub const fn len_with(reports: usize) -> usize {
        size_of::<Self>() + reports * size_of::<ReturnReport>()
    }

    /// Head and room for reports of a value; `None` where it is another's, of another version, or of a length that it cannot have.
    pub fn split(value: &mut [u8]) -> Option<(&mut Self, &mut [ReturnReport])> {
        let (head, rest) = Self::mut_from_prefix(value).ok()?;
        let reports = <[ReturnReport]>::mut_from_bytes(rest).ok()?;
        (head.identifier == IDENTIFIER && (1..=MOST_REPORTS).contains(&reports.len())).then_some((head, reports))
    }

    /// The same to read; of the reports those that say something.
    pub fn read(value: &[u8]) -> Option<(&Self, &[ReturnReport])> {
        let (head, rest) = Self::ref_from_prefix(value).ok()?;
        let reports = <[ReturnReport]>::ref_from_bytes(rest).ok()?;
        let ours = head.identifier == IDENTIFIER && (1..=MOST_REPORTS).contains(&reports.len());
        let said = reports.get(..usize::from(head.reports.get()))?;
        ours.then_some((head, said))
    }
}

/// What became of one reply that left with a Hop Limit that was asked for, 28 octets.
///
/// ```text
///  0 Session-Sender Sequence Number of the request      4 microseconds from B3 in user space to the ICMP error, all ones: none came
///  8 ICMP type   9 code   10 family of the address: 4, 6, or 0 for none   11 zero   12 who sent the error, IPv4 in the first four octets
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReturnReport {
    /// Of the request that it answered.
    pub sender_sequence: U32,
    micros: U32,
    /// Type of the ICMP or ICMPv6 error.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    family: u8,
    zero: u8,
    address: [u8; 16],
}

const NEVER: u32 = u32::MAX;

impl ReturnReport {
    /// No error came in time: the reply went through, or it or the error was lost, or the router sends none.
    pub fn silent(sender_sequence: u32) -> Self {
        let (sender_sequence, micros) = (sender_sequence.into(), NEVER.into());
        Self { sender_sequence, micros, kind: 0, code: 0, family: 0, zero: 0, address: [0; 16] }
    }

    /// This router sent an error of `kind` and `code`, so long after the reply had left.
    pub fn answered(sender_sequence: u32, from: IpAddr, (kind, code): (u8, u8), after: Duration) -> Self {
        let micros = u32::try_from(after.as_micros()).unwrap_or(NEVER - 1).min(NEVER - 1);
        let mut report = Self { micros: micros.into(), kind, code, ..Self::silent(sender_sequence) };
        match from {
            IpAddr::V4(v4) => {
                report.family = 4;
                report.address[..4].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                report.family = 6;
                report.address = v6.octets();
            }
        }
        report
    }

    /// Who sent the error, and after how long; `None` where nobody did, or of a family that we do not know.
    pub fn answer(&self) -> Option<(IpAddr, Duration)> {
        let [a, b, c, d, ..] = self.address;
        let from = match self.family {
            4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            6 => IpAddr::V6(Ipv6Addr::from(self.address)),
            _ => return None,
        };
        let after = Duration::from_micros(self.micros.get().into());
        (self.micros.get() != NEVER).then_some((from, after))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_document() {
        let mut value = vec![0; ReturnTrace::len_with(2)];
        assert_eq!(value.len(), 72);
        assert!(ReturnTrace::split(&mut value).is_none(), "another's");
        value[..16].copy_from_slice(ReturnTrace::asking(3).as_bytes());
        let (head, reports) = ReturnTrace::split(&mut value).expect("ours");
        (head.given, head.reports, head.limited, head.refused) = (3, 1.into(), 0x0102_0304.into(), 5.into());
        let from = [192, 0, 2, 9].into();
        reports[0] = ReturnReport::answered(0x0a0b_0c0d, from, (11, 0), Duration::from_nanos(1_234_567));
        assert_eq!(value[..16], *b"PLR\x01\x03\x03\x00\x01\x01\x02\x03\x04\x00\x00\x00\x05");
        assert_eq!(value[16..32], [0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 4, 0xd2, 11, 0, 4, 0, 192, 0, 2, 9]);
        let (head, reports) = ReturnTrace::read(&value).expect("ours");
        assert_eq!((head.limited.get(), reports.len()), (0x0102_0304, 1));
        assert_eq!(reports[0].answer(), Some((from, Duration::from_micros(1234))));
        value[3] = 2;
        assert!(ReturnTrace::read(&value).is_none() && ReturnTrace::split(&mut value).is_none(), "another version");
        assert_eq!(ReturnReport::silent(7).answer(), None);
        let late = ReturnReport::answered(1, [0; 16].into(), (3, 0), Duration::MAX);
        assert_eq!(late.answer().map(|(_, after)| after.as_micros()), Some(u128::from(u32::MAX - 1)));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..520), ours: bool) {
            if let (true, Some(head)) = (ours, bytes.get_mut(..4)) {
                head.copy_from_slice(&IDENTIFIER);
            }
            let length = bytes.len();
            let fits = length >= 16 && (length - 16) % 28 == 0 && (1..=MOST_REPORTS).contains(&((length - 16) / 28));
            prop_assert_eq!(ReturnTrace::split(&mut bytes).is_some(), ours && fits);
            if let Some((head, reports)) = ReturnTrace::read(&bytes) {
                prop_assert!(ours && fits && reports.len() == usize::from(head.reports.get()));
                for report in reports {
                    let _ = report.answer();
                }
            }
        }
    }
}
