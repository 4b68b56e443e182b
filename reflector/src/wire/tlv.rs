//! Where each extension of a STAMP packet lies (RFC 8972 §4), found in place: types, flags, lengths, and nothing of what they mean.

use std::ops::Range;

/// Length of a TLV without its value: flags, type, length.
pub const TLV_HEADER_LEN: usize = 4;

/// Types of TLVs (RFC 8972 §5.1).
pub mod tlv_type {
    #![allow(missing_docs)] // the names of the registry
    pub const EXTRA_PADDING: u8 = 1;
    pub const LOCATION: u8 = 2;
    pub const TIMESTAMP_INFORMATION: u8 = 3;
    pub const CLASS_OF_SERVICE: u8 = 4;
    pub const DIRECT_MEASUREMENT: u8 = 5;
    pub const ACCESS_REPORT: u8 = 6;
    pub const FOLLOW_UP_TELEMETRY: u8 = 7;
    pub const HMAC: u8 = 8;
}

/// STAMP TLV Flags (RFC 8972 §5.2), as bits of the TLV's first octet. The others are zero when sending and ignored when receiving.
pub mod tlv_flag {
    /// The reflector does not know the type. A sender sets it, so that a reflector that knows no TLVs at all leaves it set.
    pub const UNRECOGNIZED: u8 = 0x80;
    /// The length is not one of the type, or beyond the packet.
    pub const MALFORMED: u8 = 0x40;
    /// The extensions failed the check of their HMAC.
    pub const INTEGRITY_FAILED: u8 = 0x20;
    /// All that have a meaning.
    pub const ALL: u8 = UNRECOGNIZED | MALFORMED | INTEGRITY_FAILED;
}

/// One TLV, as a place among the extensions that it was read from.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |STAMP TLV Flags|     Type      |           Length              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                            Value                              ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// Where it begins.
    pub at: usize,
    /// Its flags as they came.
    pub flags: u8,
    /// Its type; absent where not even a header fits into what is left.
    pub kind: Option<u8>,
    /// Where it ends; the end of all where it is cut.
    pub end: usize,
    /// Its length says that it goes on beyond the packet.
    pub cut: bool,
}

impl Tlv {
    /// The TLV that begins `at`; `None` where the extensions end.
    pub fn read(extensions: &[u8], at: usize) -> Option<Self> {
        let rest = extensions.get(at..).filter(|rest| !rest.is_empty())?;
        let &[flags, kind, high, low] = rest.first_chunk().unwrap_or(&[rest[0], 0, 0xff, 0xff]);
        let whole = rest.len() >= TLV_HEADER_LEN;
        let length = TLV_HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
        let cut = !whole || length > rest.len();
        let end = if cut { extensions.len() } else { at + length };
        Some(Self { at, flags, kind: whole.then_some(kind), end, cut })
    }

    /// Where its value lies; empty where there is none.
    pub fn value(&self) -> Range<usize> {
        (self.at + TLV_HEADER_LEN).min(self.end)..self.end
    }

    /// Every TLV up to the end, or up to one that is cut.
    pub fn all(extensions: &[u8]) -> impl Iterator<Item = Self> + '_ {
        std::iter::successors(Self::read(extensions, 0), |tlv| Self::read(extensions, tlv.end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tlvs_follow_each_other_and_a_cut_one_is_the_last() {
        let bytes = [0x80, 1, 0, 2, 7, 7, 0, 9, 0, 0, 0x40, 4, 0, 5, 1, 2];
        let found: Vec<_> = Tlv::all(&bytes).collect();
        assert_eq!(found[0], Tlv { at: 0, flags: 0x80, kind: Some(1), end: 6, cut: false });
        assert_eq!((found[1].value(), found[1].kind), (10..10, Some(9)));
        assert_eq!(found[2], Tlv { at: 10, flags: 0x40, kind: Some(4), end: 16, cut: true });
        assert_eq!((found.len(), found[2].value()), (3, 14..16));
        let stub = Tlv::read(&[9, 1, 0], 0).expect("three octets");
        assert_eq!((stub.kind, stub.cut, stub.value()), (None, true, 3..3));
        assert_eq!(Tlv::read(&[], 0), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_covered_once(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut at = 0;
            for tlv in Tlv::all(&bytes) {
                prop_assert_eq!(tlv.at, at);
                prop_assert!(tlv.end > tlv.at && tlv.end <= bytes.len());
                prop_assert!(bytes.get(tlv.value()).is_some());
                prop_assert!(!tlv.cut || tlv.end == bytes.len());
                at = tlv.end;
            }
            prop_assert_eq!(at, bytes.len());
        }
    }
}
