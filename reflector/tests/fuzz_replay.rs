//! The bodies of the fuzz targets on generated input: what `cargo fuzz` would run for hours, bounded, and on any toolchain.

#[path = "../fuzz/src/lib.rs"]
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
}
