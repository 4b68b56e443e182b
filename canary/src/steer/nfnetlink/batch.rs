//! One transaction: all of it takes effect in one generation of the ruleset, or none of it.

use std::time::Duration;

use super::{
    attributes::Attributes,
    expression::{self, Expression, Verdict},
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFPROTO_INET: u8 = 1;
const NFPROTO_UNSPEC: u8 = 0;

const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NFT_TABLE_F_OWNER`: the table goes with the socket.
const TABLE_OWNER: u32 = 0x2;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const ELEMENT_INTERVAL_END: u32 = 0x1;
const OBJECT_COUNTER: u32 = 1;

/// Elements a message: keeps the list under the 64 KiB of an attribute.
const ELEMENTS_A_MESSAGE: usize = 500;

/// The kind of message; `enum nf_tables_msg_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
    NewObject = 18,
    GetObject = 19,
    GetTable = 1,
}

/// Messages of one transaction, each with words for the error message.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    table: String,
    messages: Vec<Message>,
    sets: u32,
}

#[derive(Clone, Debug)]
struct Message {
    kind: Kind,
    flags: u16,
    attributes: Attributes,
    what: String,
}

/// A chain on a hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BaseChain {
    /// `route` reroutes a packet whose mark changed; `filter` does not.
    pub(crate) kind: &'static str,
    pub(crate) hook: u32,
    pub(crate) priority: i32,
}

impl BaseChain {
    /// `NF_INET_PRE_ROUTING`.
    pub(crate) const PREROUTING: u32 = 0;
    /// `NF_INET_LOCAL_OUT`.
    pub(crate) const OUTPUT: u32 = 3;
}

/// A set or a map. Types are nft's numbers, kept for its listing; the kernel looks at lengths only.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) key: Type,
    pub(crate) data: Option<Type>,
    pub(crate) interval: bool,
    pub(crate) timeout: bool,
    /// Filled from rules, up to so many elements.
    pub(crate) learns: Option<u32>,
}

/// A type as nft names it, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) number: u32,
    pub(crate) length: u32,
}

impl Type {
    pub(crate) const VERDICT: Self = Self { number: 0xffff_ff00, length: 0 };
    pub(crate) const NF_PROTO: Self = Self { number: 2, length: 1 };
    pub(crate) const IPV4_ADDR: Self = Self { number: 7, length: 4 };
    pub(crate) const IPV6_ADDR: Self = Self { number: 8, length: 16 };
    pub(crate) const INET_SERVICE: Self = Self { number: 13, length: 2 };
    pub(crate) const MARK: Self = Self { number: 19, length: 4 };

    /// `a . b`: six bits of type each, every field in a register of its own.
    pub(crate) const fn concat(self, next: Self) -> Self {
        Self {
            number: self.number << 6 | next.number,
            length: self.length.next_multiple_of(4) + next.length.next_multiple_of(4),
        }
    }
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Data,
    /// The key is the first value past an interval.
    pub(crate) ends: bool,
    pub(crate) lease: Option<Duration>,
}

/// What a map has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    Verdict(Verdict),
}

impl Element {
    pub(crate) fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), data: Data::None, ends: false, lease: None }
    }

    pub(crate) fn with(key: impl Into<Vec<u8>>, data: Data) -> Self {
        Self { data, ..Self::key(key) }
    }

    pub(crate) fn end(key: impl Into<Vec<u8>>) -> Self {
        Self { ends: true, ..Self::key(key) }
    }

    pub(super) fn encode(&self, to: &mut Attributes) {
        expression::value(to, 1, &self.key);
        match &self.data {
            Data::None => {}
            Data::Verdict(verdict) => {
                to.nest(2, |data| verdict.encode(data));
            }
        }
        if self.ends {
            to.be32(3, ELEMENT_INTERVAL_END);
        }
        if let Some(lease) = self.lease {
            // In milliseconds.
            to.be64(4, lease.as_millis() as u64);
        }
    }
}

impl Batch {
    /// A transaction on this `inet` table.
    pub(crate) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), messages: Vec::new(), sets: 0 }
    }

    /// A new table that lives as long as the socket; refused when the name is taken.
    pub(crate) fn add_table(&mut self, comment: &str) {
        let table = self.table.clone();
        // Type 0 of the table's user data is nft's comment: type, length, text.
        let text = [comment.as_bytes(), &[0]].concat();
        let user_data = [&[0, text.len() as u8], &text[..]].concat();
        self.push(Kind::NewTable, CREATE | EXCLUSIVE, format!("table {table}"), |to| {
            to.be32(2, TABLE_OWNER).bytes(6, &user_data);
        });
    }

    pub(crate) fn delete_table(&mut self) {
        let what = format!("table {}", self.table);
        self.push(Kind::DelTable, 0, what, |_| {});
    }

    pub(crate) fn add_counter(&mut self, name: &str) {
        self.push(Kind::NewObject, CREATE | EXCLUSIVE, format!("counter {name}"), |to| {
            to.text(2, name).be32(3, OBJECT_COUNTER).nest(4, |data| {
                data.be64(1, 0).be64(2, 0);
            });
        });
    }

    pub(crate) fn add_set(&mut self, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        let flags = [
            (set.interval, SET_INTERVAL),
            (set.data.is_some(), SET_MAP),
            (set.timeout, SET_TIMEOUT),
            (set.learns.is_some(), SET_EVAL),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        self.push(Kind::NewSet, CREATE | EXCLUSIVE, format!("map {}", set.name), |to| {
            to.text(2, &set.name).be32(3, flags).be32(4, set.key.number).be32(5, set.key.length);
            if let Some(data) = set.data {
                to.be32(6, data.number).be32(7, data.length);
            }
            to.be32(10, id);
            if let Some(size) = set.learns {
                to.nest(9, |description| {
                    description.be32(1, size);
                });
            }
        });
    }

    pub(crate) fn add_chain(&mut self, name: &str, base: Option<BaseChain>) {
        self.push(Kind::NewChain, CREATE | EXCLUSIVE, format!("chain {name}"), |to| {
            to.text(3, name);
            if let Some(BaseChain { kind, hook, priority }) = base {
                to.nest(4, |to| {
                    to.be32(1, hook).be32(2, priority as u32);
                });
                // Policy accept.
                to.be32(5, 1).text(7, kind);
            }
        });
    }

    pub(crate) fn add_rule(&mut self, chain: &str, expressions: &[Expression]) {
        self.push(Kind::NewRule, CREATE | APPEND, format!("a rule of chain {chain}"), |to| {
            to.text(2, chain).nest(4, |list| {
                for expression in expressions {
                    list.nest(1, |element| expression.encode(element));
                }
            });
        });
    }

    pub(crate) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        for part in elements.chunks(ELEMENTS_A_MESSAGE) {
            self.elements(Kind::NewElement, CREATE | EXCLUSIVE, set, part);
        }
    }

    pub(crate) fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(Kind::DelElement, 0, set, elements);
    }

    /// Empties a set.
    pub(crate) fn flush_set(&mut self, set: &str) {
        self.push(Kind::DelElement, 0, format!("elements of {set}"), |to| {
            to.text(2, set);
        });
    }

    fn elements(&mut self, kind: Kind, flags: u16, set: &str, elements: &[Element]) {
        self.push(kind, flags, format!("elements of {set}"), |to| {
            to.text(2, set).nest(3, |list| {
                for element in elements {
                    list.nest(1, |to| element.encode(to));
                }
            });
        });
    }

    /// The first attribute of every message is the name of its table.
    fn push(&mut self, kind: Kind, flags: u16, what: String, fill: impl FnOnce(&mut Attributes)) {
        let mut attributes = Attributes::default();
        attributes.text(1, &self.table);
        fill(&mut attributes);
        self.messages.push(Message { kind, flags, attributes, what });
    }

    /// What the message with this sequence number asked for, when the first has `first`.
    pub(super) fn what(&self, first: u32, sequence: u32) -> &str {
        let index = sequence.wrapping_sub(first).wrapping_sub(1) as usize;
        self.messages.get(index).map_or("the transaction", |message| &message.what)
    }

    /// Sequence number of the message that asks for an acknowledgement: the last.
    pub(super) fn last(&self, first: u32) -> u32 {
        first.wrapping_add(self.messages.len() as u32)
    }

    /// The whole transaction as bytes. The begin message has sequence number `first`.
    pub(super) fn encode(&self, first: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        message(&mut bytes, BATCH_BEGIN, REQUEST, first, 0, SUBSYSTEM, &[]);
        for (i, one) in self.messages.iter().enumerate() {
            let sequence = first.wrapping_add(1 + i as u32);
            let ack = if sequence == self.last(first) { ACK } else { 0 };
            let kind = SUBSYSTEM << 8 | one.kind as u16;
            message(&mut bytes, kind, REQUEST | one.flags | ack, sequence, NFPROTO_INET, 0, one.attributes.as_bytes());
        }
        let end = self.last(first).wrapping_add(1);
        message(&mut bytes, BATCH_END, REQUEST, end, 0, SUBSYSTEM, &[]);
        bytes
    }
}

/// A question outside any transaction, about this table.
pub(super) fn question(
    kind: Kind,
    flags: u16,
    sequence: u32,
    table: &str,
    fill: impl FnOnce(&mut Attributes),
) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.text(1, table);
    fill(&mut attributes);
    let mut bytes = Vec::new();
    message(
        &mut bytes,
        SUBSYSTEM << 8 | kind as u16,
        REQUEST | flags,
        sequence,
        NFPROTO_INET,
        0,
        attributes.as_bytes(),
    );
    bytes
}

/// A question about the rules of every table and family.
pub(super) fn every_rule(flags: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    message(&mut bytes, SUBSYSTEM << 8 | Kind::GetRule as u16, REQUEST | flags, sequence, NFPROTO_UNSPEC, 0, &[]);
    bytes
}

/// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
fn message(to: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) {
    let length = 16 + 4 + attributes.len();
    to.extend((length as u32).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(flags.to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend([0; 4]);
    to.extend([family, 0]);
    to.extend(resource.to_be_bytes());
    to.extend(attributes);
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// Checked by hand against `struct nlmsghdr`, `struct nfgenmsg` and the attribute numbers of nf_tables.h; the
    /// kernel takes it in the privileged tests.
    #[test]
    fn a_renewal_is_these_bytes() {
        let mut batch = Batch::new("t");
        batch.delete_elements("g", &[Element::key([2])]);
        let open = Element::with([2], Data::Verdict(Verdict::Goto("c".into())));
        batch.add_elements("g", &[Element { lease: Some(Duration::from_millis(500)), ..open }]);
        let expected = "
            14000000 1000 0100 07000000 00000000 00 00 000a
            38000000 0e0a 0100 08000000 00000000 01 00 0000
                0600 0100 74000000  0600 0200 67000000
                1400 0380  1000 0180  0c00 0180 0500 0100 02000000
            5c000000 0c0a 0506 09000000 00000000 01 00 0000
                0600 0100 74000000  0600 0200 67000000
                3800 0380  3400 0180  0c00 0180 0500 0100 02000000
                1800 0280  1400 0280  0800 0100 fffffffc  0600 0200 63000000
                0c00 0400 00000000 000001f4
            14000000 1100 0100 0a000000 00000000 00 00 000a";
        let bytes = batch.encode(7);
        let expected = hex(expected);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn long_lists_are_split_and_every_message_says_its_length() {
        let mut batch = Batch::new("t");
        let elements: Vec<_> = (0..10_000_u32).map(|i| Element::key(i.to_be_bytes())).collect();
        batch.add_elements("s", &elements);
        let bytes = batch.encode(u32::MAX - 3);
        let mut rest = &bytes[..];
        let mut messages = 0;
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert!(length < 1 << 16);
            rest = &rest[length..];
            messages += 1;
        }
        assert_eq!(messages, 10_000 / ELEMENTS_A_MESSAGE + 2);
        assert_eq!(batch.what(u32::MAX - 3, 5), "elements of s");
    }
}
