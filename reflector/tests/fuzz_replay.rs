//! The bodies of the fuzz targets on generated input: what `cargo fuzz` would run for hours, bounded, and on any toolchain.

#[path = "../fuzz/src/packet.rs"]
#[allow(unreachable_pub)] // the file is a crate of its own for cargo-fuzz
mod bodies;

use proptest::{collection::vec, prelude::*};

/// Random octets, and the shapes that random octets rarely have: all alike, and runs of ones and zeroes.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..200),
        1 => (any::<u8>(), 0..200_usize).prop_map(|(octet, len)| vec![octet; len]),
        2 => vec(prop_oneof![Just(0), Just(0xff), Just(0x7f), Just(0x80), Just(0xe0)], 30..120),
    ]
}

/// TLVs of the types that are known and some that are not, of lengths near the right ones; and random octets.
fn any_extensions() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![Just(4_u8), Just(12), Just(16), Just(100), 0..20_u8];
    let tlv =
        (any::<u8>(), prop_oneof![0..10_u8, Just(250)], length, any::<u8>()).prop_map(|(flags, kind, length, fill)| {
            let mut bytes = vec![flags, kind, 0, length];
            bytes.resize(4 + usize::from(length), fill);
            bytes
        });
    let tlvs = (any::<u8>(), vec(tlv, 0..6), 0..4_usize).prop_map(|(head, tlvs, cut)| {
        let mut bytes = [vec![head], tlvs.concat()].concat();
        bytes.truncate(bytes.len().saturating_sub(cut).max(1));
        bytes
    });
    prop_oneof![4 => tlvs, 1 => any_bytes()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn codec(data in any_bytes()) {
        bodies::codec(&data);
    }

    #[test]
    fn respond(data in any_bytes()) {
        bodies::respond(&data);
    }

    #[test]
    fn extensions(data in any_extensions()) {
        bodies::extensions(&data);
    }

    #[test]
    fn frame(data in any_bytes(), v6: bool, length in 8..120_u8) {
        // Random octets are hardly ever a frame: give most of them the headers of one, and lengths that may agree.
        let mut bytes = data;
        if bytes.len() >= 62 && length % 4 != 0 {
            let headers: &[(usize, &[u8])] = if v6 {
                &[(12, &[0x86, 0xdd, 0x60]), (18, &[0, length, 17]), (58, &[0, length])]
            } else {
                &[(12, &[8, 0, 0x45]), (16, &[0, length + 20]), (20, &[0x40, 0]), (23, &[17]), (38, &[0, length])]
            };
            for (at, octets) in headers {
                bytes[*at..][..octets.len()].copy_from_slice(octets);
            }
        }
        bodies::frame(&bytes);
    }
}

proptest! {
    // Three conversations under HMACs each.
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn return_trace(data in vec(any::<u8>(), 0..520), ours: bool, reports in 0..18_usize) {
        let mut data = data;
        if ours {
            data.resize(16 + 28 * reports, 0);
            data[..4].copy_from_slice(b"PLR\x01");
        }
        bodies::return_trace(&data);
    }
}
