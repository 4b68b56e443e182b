//! What the running kernel says of its own types (BTF): the names of its drop reasons, and how many arguments a tracepoint has.
//!
//! The loader reads BTF too, and keeps what it read to itself. Format: Documentation/bpf/btf.rst of the kernel.

use std::collections::BTreeMap;

const MAGIC: u16 = 0xeb9f;
const KIND_PTR: u32 = 2;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;

/// The types of a kernel.
#[derive(Debug)]
pub(crate) struct Types<'a> {
    /// Each type's head and what follows it; the first is void.
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Members, values or parameters.
    length: u32,
    /// Another type, or a size.
    refers: u32,
    rest: &'a [u8],
}

impl<'a> Types<'a> {
    /// Reads `/sys/kernel/btf/vmlinux` of this machine; `None` of anything else.
    pub(crate) fn parse(octets: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*octets.first_chunk()?) != MAGIC {
            return None;
        }
        // struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
        let field = |at: usize| word(octets, at).map(|value| value as usize);
        let (head, types, strings) = (field(4)?, (field(8)?, field(12)?), (field(16)?, field(20)?));
        let part = |(from, length): (usize, usize)| {
            let from = head.checked_add(from)?;
            octets.get(from..from.checked_add(length)?)
        };
        let (mut rest, strings) = (part(types)?, part(strings)?);
        let void = Type { name: 0, kind: 0, length: 0, refers: 0, rest: &[] };
        let mut types = vec![void];
        while !rest.is_empty() {
            let (name, info, refers) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            let (kind, length) = (info >> 24 & 0x1f, info & 0xffff);
            let follows = 12_usize.checked_add(following(kind, length)?)?;
            types.push(Type { name, kind, length, refers, rest: rest.get(12..follows)? });
            rest = &rest[follows..];
        }
        Some(Self { types, strings })
    }

    /// The values of an enum by number.
    pub(crate) fn values(&self, name: &str) -> Option<BTreeMap<u32, String>> {
        let found = self.find(KIND_ENUM, name)?;
        let values = found.rest.chunks_exact(8);
        Some(values.filter_map(|value| Some((word(value, 4)?, self.string(word(value, 0)?)?.to_owned()))).collect())
    }

    /// How many arguments a tracepoint hands to a program; `None` where the kernel does not have it.
    pub(crate) fn arguments(&self, tracepoint: &str) -> Option<u32> {
        let name = format!("btf_trace_{tracepoint}");
        let pointer = self.types.get(self.find(KIND_TYPEDEF, &name)?.refers as usize)?;
        let function = self.types.get(pointer.refers as usize).filter(|_| pointer.kind == KIND_PTR)?;
        // the first is the kernel's own
        function.length.checked_sub(1)
    }

    fn find(&self, kind: u32, name: &str) -> Option<&Type<'a>> {
        self.types.iter().find(|found| found.kind == kind && self.string(found.name) == Some(name))
    }

    fn string(&self, at: u32) -> Option<&'a str> {
        let from = self.strings.get(at as usize..)?;
        let length = from.iter().position(|octet| *octet == 0)?;
        std::str::from_utf8(&from[..length]).ok()
    }
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

/// Octets after the head of a type, by its kind (linux/btf.h).
fn following(kind: u32, length: u32) -> Option<usize> {
    let each = |octets: usize| octets.checked_mul(length as usize);
    match kind {
        // int, var, declaration tag
        1 | 14 | 17 => Some(4),
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => Some(0),
        // array
        3 => Some(12),
        // struct, union, data section, enum of 64 bits
        4 | 5 | 15 | 19 => each(12),
        // enum, parameters of a function
        6 | 13 => each(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An enum of two values, and a tracepoint with three arguments and the kernel's own.
    fn kernel() -> Vec<u8> {
        let strings = b"\0reason\0FIRST\0SECOND\0btf_trace_dropped\0";
        let types = [
            // 1: the enum
            [1, KIND_ENUM << 24 | 2, 4].to_vec(),
            [8, 0, 14, 7].to_vec(),
            // 2: the function, 3: a pointer to it, 4: the tracepoint
            [0, 13 << 24 | 4, 0].to_vec(),
            vec![0; 8],
            [0, KIND_PTR << 24, 2].to_vec(),
            [21, KIND_TYPEDEF << 24, 3].to_vec(),
        ]
        .concat();
        let mut octets = Vec::new();
        octets.extend(MAGIC.to_ne_bytes());
        octets.extend([1, 0]);
        for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32] {
            octets.extend(word.to_ne_bytes());
        }
        types.iter().for_each(|word: &u32| octets.extend(word.to_ne_bytes()));
        octets.extend(strings);
        octets
    }

    #[test]
    fn reasons_have_names_and_tracepoints_arguments() {
        let kernel = kernel();
        let types = Types::parse(&kernel).expect("BTF");
        let reasons: BTreeMap<u32, String> = [(0, "FIRST".to_owned()), (7, "SECOND".to_owned())].into();
        assert_eq!(types.values("reason"), Some(reasons));
        assert_eq!((types.arguments("dropped"), types.arguments("else")), (Some(3), None));
    }

    #[test]
    fn what_is_cut_short_or_of_an_unknown_kind_is_no_kernel() {
        let mut kernel = kernel();
        assert!((0..kernel.len()).all(|length| Types::parse(&kernel[..length]).is_none()));
        kernel[24 + 7] = 31;
        assert!(Types::parse(&kernel).is_none());
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(mut octets: Vec<u8>, types in 0_u32..64) {
            if octets.len() > 24 {
                octets[..2].copy_from_slice(&MAGIC.to_ne_bytes());
                for (at, value) in [(4, 24), (8, 0), (12, types), (16, 0), (20, 8)] {
                    octets[at..at + 4].copy_from_slice(&value.to_ne_bytes());
                }
            }
            if let Some(types) = Types::parse(&octets) {
                let _ = (types.values(""), types.arguments(""));
            }
        }
    }
}
