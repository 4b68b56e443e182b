//! Lists of prefixes as nf_tables keeps them: as the first address of each interval and the first past it.

use pathlab_guard::Family;
use pathlab_record::Prefix;

use super::nfnetlink::Element;

/// The prefixes of one family, sorted, without those that lie inside another.
pub(crate) fn disjoint(prefixes: &[Prefix], family: Family) -> Vec<Prefix> {
    let mut sorted: Vec<_> = prefixes.iter().copied().filter(|prefix| Family::of(prefix.address()) == family).collect();
    sorted.sort();
    let mut disjoint: Vec<Prefix> = Vec::new();
    for prefix in sorted {
        if !disjoint.last().is_some_and(|last| last.covers(&prefix)) {
            disjoint.push(prefix);
        }
    }
    disjoint
}

/// The elements of an interval set of these disjoint prefixes.
pub(crate) fn elements(prefixes: &[Prefix]) -> Vec<Element> {
    let mut elements = Vec::new();
    for prefix in prefixes {
        let first = prefix.bits();
        elements.push(Element::key(octets(prefix, first)));
        // An interval up to the last address has no end.
        let size = 1_u128.checked_shl(128 - u32::from(prefix.length()));
        if let Some(past) = size.and_then(|size| first.checked_add(size)) {
            elements.push(Element::end(octets(prefix, past)));
        }
    }
    elements
}

/// The leading octets of a number in the upper bits, as many as an address of the prefix's family has.
fn octets(prefix: &Prefix, bits: u128) -> Vec<u8> {
    let width = if prefix.address().is_ipv4() { 4 } else { 16 };
    bits.to_be_bytes()[..width].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nested_prefixes_become_disjoint_intervals_of_one_family() {
        let all = prefixes(&["10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32", "10.0.0.0/8", "10.0.0.0/8"]);
        let v4 = disjoint(&all, Family::V4);
        assert_eq!(v4, prefixes(&["10.0.0.0/8", "192.0.2.0/24"]));
        let expected = [
            Element::key([10, 0, 0, 0]),
            Element::end([11, 0, 0, 0]),
            Element::key([192, 0, 2, 0]),
            Element::end([192, 0, 3, 0]),
        ];
        assert_eq!(elements(&v4), expected);
    }

    #[test]
    fn an_interval_up_to_the_last_address_is_open() {
        assert_eq!(elements(&prefixes(&["0.0.0.0/0"])), [Element::key([0, 0, 0, 0])]);
        assert_eq!(elements(&prefixes(&["255.255.255.255"])), [Element::key([255; 4])]);
        assert_eq!(elements(&prefixes(&["ffff::/16"]))[0].key[..2], [0xff, 0xff]);
        assert_eq!(elements(&prefixes(&["ffff::/16"])).len(), 1);
    }
}
