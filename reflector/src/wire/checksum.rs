//! The Internet checksum, mended for what changes alone (RFC 1624): what was right stays right and what was wrong stays wrong, so that
//! a datagram damaged on its way here is still noticed by its sender.

/// The one's complement sum of 16-bit words in network byte order; an odd octet at the end counts as the upper half of a word.
pub(crate) fn sum(octets: &[u8]) -> u32 {
    let (words, rest) = octets.as_chunks::<4>();
    let sum = words.iter().fold(0_u64, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    let last = match *rest {
        [] => 0,
        [a] => u32::from_ne_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
        [a, b, c, ..] => u32::from_ne_bytes([a, b, c, 0]),
    };
    // summed as this machine has the octets, which gives the same sum with its octets as this machine has them (RFC 1071, section 2)
    u32::from(u16::from_be(fold(sum + u64::from(last))))
}

/// RFC 1624, equation 3: `checksum` with 16-bit words of sum `old` replaced by words of sum `new`.
pub(crate) fn replace(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!fold(old.into())) + u64::from(new))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1624() {
        // section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn a_mended_checksum_is_that_of_the_new_octets(old in proptest::collection::vec(any::<u8>(), 0..100), new in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mended = replace(!fold(u64::from(sum(&old))), sum(&old), sum(&new));
            let whole = pnet_packet::util::checksum(&new, usize::MAX);
            // zero has two faces in one's complement
            prop_assert!(mended == whole || mended == !whole && (mended == 0 || whole == 0), "{mended:#x} {whole:#x}");
        }
    }
}
