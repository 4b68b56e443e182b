//! What the rules of others do to the packet mark, read from their instructions: two managers that use the same bits
//! steer each other's packets.

use std::collections::HashMap;

use super::attributes::{find, parse};

/// A rule that looks at the mark or changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MarkUse {
    pub(crate) table: String,
    pub(crate) chain: String,
    /// Bits of the mark that it compares, or may change.
    pub(crate) bits: u32,
}

/// `NFT_META_MARK`.
const META_MARK: u32 = 3;

/// What a register holds of the mark: bits that are still the packet's, and bits that are fixed by the rule.
#[derive(Clone, Copy)]
struct Held {
    kept: u32,
    fixed: u32,
}

/// The use that a rule, given as its attributes, makes of the mark; `None` when it makes none.
pub(super) fn mark_use(rule: &[u8]) -> Option<MarkUse> {
    let mut registers = HashMap::new();
    let mut bits = 0;
    for (_, expression) in parse(find(rule, 4).unwrap_or_default()) {
        let (name, data) = (text(find(expression, 1)?), find(expression, 2).unwrap_or_default());
        bits |= step(&name, data, &mut registers);
    }
    (bits != 0).then(|| MarkUse {
        table: text(find(rule, 1).unwrap_or_default()),
        chain: text(find(rule, 2).unwrap_or_default()),
        bits,
    })
}

/// One instruction: the bits of the mark that it uses.
fn step(name: &str, data: &[u8], registers: &mut HashMap<u32, Held>) -> u32 {
    let number = |kind| find(data, kind).and_then(be32);
    match name {
        "meta" if number(2) == Some(META_MARK) => match (number(1), number(3)) {
            (Some(to), _) => {
                registers.insert(canonical(to), Held { kept: u32::MAX, fixed: 0 });
                0
            }
            // What is not the packet's own bit any more is changed.
            (None, Some(from)) => registers.get(&canonical(from)).map_or(u32::MAX, |held| !held.kept | held.fixed),
            (None, None) => 0,
        },
        "bitwise" => {
            let (Some(from), Some(to)) = (number(1), number(2)) else { return 0 };
            let value = |kind| find(find(data, kind)?, 1).and_then(ne32);
            match (registers.get(&canonical(from)).copied(), value(4), value(5)) {
                (Some(held), Some(mask), Some(xor)) => {
                    registers.insert(canonical(to), Held { kept: held.kept & mask, fixed: held.fixed | xor });
                }
                // A shift, or a kind that came after this code: it may be any bit.
                (Some(_), ..) => {
                    registers.insert(canonical(to), Held { kept: u32::MAX, fixed: u32::MAX });
                }
                (None, ..) => drop(registers.remove(&canonical(to))),
            }
            0
        }
        "cmp" | "range" => number(1).and_then(|from| registers.get(&canonical(from))).map_or(0, |held| held.kept),
        "lookup" => number(2).and_then(|from| registers.get(&canonical(from))).map_or(0, |held| held.kept),
        "immediate" => {
            if let Some(to) = number(1) {
                registers.remove(&canonical(to));
            }
            0
        }
        // `iptables-nft` keeps its own structures: `xt_mark_tginfo2 { mark, mask }`, `xt_mark_mtinfo1 { mark, mask, .. }`.
        "target" | "match" if matches!(find(data, 1).map(text).as_deref(), Some("MARK" | "mark")) => {
            find(data, 3).and_then(|info| ne32(info.get(4..8)?)).unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

/// The 16-byte registers 1 to 4 are the 4-byte registers 8, 12, 16 and 20.
fn canonical(register: u32) -> u32 {
    if (1..=4).contains(&register) { 4 + 4 * register } else { register }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn ne32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{attributes::Attributes, expression::Expression},
        *,
    };
    use crate::steer::nfnetlink::{Meta, Register};

    const R: Register = Register(0);

    fn uses(expressions: &[Expression]) -> u32 {
        let mut rule = Attributes::default();
        rule.text(1, "theirs").text(2, "chain").nest(4, |list| {
            for expression in expressions {
                list.nest(1, |element| expression.encode(element));
            }
        });
        mark_use(rule.as_bytes()).map_or(0, |found| {
            assert_eq!((found.table.as_str(), found.chain.as_str()), ("theirs", "chain"));
            found.bits
        })
    }

    #[test]
    fn the_bits_that_a_rule_compares_or_changes_are_found() {
        let load = Expression::LoadMeta { key: Meta::Mark, to: R };
        let and = |mask, xor| Expression::Bitwise { register: R, mask, xor };
        let store = Expression::StoreMark { from: R };
        let equal = Expression::Equal { register: R, value: vec![7, 0, 0, 0] };
        assert_eq!(uses(&[load.clone(), and(0xff, 0), equal.clone()]), 0xff);
        assert_eq!(uses(&[load.clone(), and(!0xff00, 0x500), store.clone()]), 0xff00);
        assert_eq!(uses(&[load.clone(), and(!0, 0x10), store.clone()]), 0x10);
        // From a constant or from elsewhere: all of it changes.
        assert_eq!(uses(&[store]), u32::MAX);
        let protocol = Expression::LoadMeta { key: Meta::L4Proto, to: R };
        assert_eq!(uses(&[protocol, equal]), 0);
    }
}
