//! The instructions of a rule, as the kernel's small register machine takes them.

use std::time::Duration;

use super::attributes::Attributes;

/// One of the sixteen 32-bit registers, 0 to 15; longer values run on into the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u8);

/// What `meta` loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Mark,
    NfProto,
    L4Proto,
}

/// Where a rule goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Return,
    Goto(String),
}

/// Where a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Network,
    Transport,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    LoadMeta {
        key: Meta,
        to: Register,
    },
    StoreMark {
        from: Register,
    },
    Payload {
        base: Header,
        offset: u32,
        length: u32,
        to: Register,
    },
    Equal {
        register: Register,
        value: Vec<u8>,
    },
    /// Stops the rule unless the bytes are below these, compared from the first on: a number of the host is turned first.
    Below {
        register: Register,
        value: Vec<u8>,
    },
    /// Stops the rule where the bytes are below these.
    AtLeast {
        register: Register,
        value: Vec<u8>,
    },
    /// `register & mask ^ xor`, both in the host's byte order as they lie in the register.
    Bitwise {
        register: Register,
        mask: u32,
        xor: u32,
    },
    /// `jhash(from, length, seed)` scaled to below `modulus`.
    Jhash {
        from: Register,
        length: u32,
        modulus: u32,
        seed: u32,
        to: Register,
    },
    /// For what compares bytes from the first on: interval sets, and above and below.
    HostToNetwork {
        register: Register,
    },
    /// Stops the rule unless the set has the value (or has it not, if inverted).
    InSet {
        register: Register,
        set: String,
        inverted: bool,
    },
    /// Goes where the map says; stops the rule when it has nothing.
    VerdictMap {
        register: Register,
        map: String,
    },
    Counter {
        name: String,
    },
    /// Stops the rule for packets within so many a second, after a burst.
    Over {
        a_second: u32,
        burst: u32,
    },
    Verdict(Verdict),
    /// Puts the value into a set, or starts its time anew; stops the rule when the set is full.
    Update {
        register: Register,
        set: String,
        timeout: Duration,
    },
}

impl Register {
    /// `NFT_REG32_00 + n`.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// `NFT_REG_VERDICT`.
const REG_VERDICT: u32 = 0;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const OBJECT_COUNTER: u32 = 1;
/// `enum nft_cmp_ops`.
const CMP_EQ: u32 = 0;
const CMP_LT: u32 = 2;
const CMP_GTE: u32 = 5;

impl Verdict {
    /// As the data of an element or of an immediate.
    pub(super) fn encode(&self, to: &mut Attributes) {
        to.nest(DATA_VERDICT, |verdict| match self {
            Self::Return => {
                verdict.be32(1, NFT_RETURN as u32);
            }
            Self::Goto(chain) => {
                verdict.be32(1, NFT_GOTO as u32).text(2, chain);
            }
        });
    }
}

/// A value as data.
pub(super) fn value(to: &mut Attributes, kind: u16, bytes: &[u8]) {
    to.nest(kind, |data| {
        data.bytes(DATA_VALUE, bytes);
    });
}

fn compare(to: &mut Attributes, register: Register, operator: u32, bytes: &[u8]) {
    to.be32(1, register.number()).be32(2, operator);
    value(to, 3, bytes);
}

impl Expression {
    /// As one element of a rule's list: `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
    pub(super) fn encode(&self, to: &mut Attributes) {
        to.text(1, self.name()).nest(2, |data| self.data(data));
    }

    fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta { .. } | Self::StoreMark { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Equal { .. } | Self::Below { .. } | Self::AtLeast { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Jhash { .. } => "hash",
            Self::HostToNetwork { .. } => "byteorder",
            Self::InSet { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Counter { .. } => "objref",
            Self::Over { .. } => "limit",
            Self::Verdict(_) => "immediate",
            Self::Update { .. } => "dynset",
        }
    }

    fn data(&self, to: &mut Attributes) {
        match self {
            Self::LoadMeta { key, to: register } => {
                let key = match key {
                    Meta::Mark => 3,
                    Meta::NfProto => 15,
                    Meta::L4Proto => 16,
                };
                to.be32(1, register.number()).be32(2, key);
            }
            Self::StoreMark { from } => {
                to.be32(2, 3).be32(3, from.number());
            }
            Self::Payload { base, offset, length, to: register } => {
                let base = match base {
                    Header::Network => 1,
                    Header::Transport => 2,
                };
                to.be32(1, register.number()).be32(2, base).be32(3, *offset).be32(4, *length);
            }
            Self::Equal { register, value: bytes } => compare(to, *register, CMP_EQ, bytes),
            Self::Below { register, value: bytes } => compare(to, *register, CMP_LT, bytes),
            Self::AtLeast { register, value: bytes } => compare(to, *register, CMP_GTE, bytes),
            Self::Bitwise { register, mask, xor } => {
                to.be32(1, register.number()).be32(2, register.number()).be32(3, 4);
                value(to, 4, &mask.to_ne_bytes());
                value(to, 5, &xor.to_ne_bytes());
            }
            Self::Jhash { from, length, modulus, seed, to: register } => {
                to.be32(1, from.number()).be32(2, register.number()).be32(3, *length);
                // The last is the kind of hash: Jenkins is 0.
                to.be32(4, *modulus).be32(5, *seed).be32(7, 0);
            }
            Self::HostToNetwork { register } => {
                // Operation hton, 4 bytes in words of 4.
                to.be32(1, register.number()).be32(2, register.number()).be32(3, 1).be32(4, 4).be32(5, 4);
            }
            Self::InSet { register, set, inverted } => {
                to.text(1, set).be32(2, register.number()).be32(5, u32::from(*inverted));
            }
            Self::VerdictMap { register, map } => {
                to.text(1, map).be32(2, register.number()).be32(3, REG_VERDICT);
            }
            Self::Counter { name } => {
                to.be32(1, OBJECT_COUNTER).text(2, name);
            }
            Self::Over { a_second, burst } => {
                // Unit in seconds; packets, not bytes; inverted.
                to.be64(1, (*a_second).into()).be64(2, 1).be32(3, *burst).be32(4, 0).be32(5, 1);
            }
            Self::Verdict(verdict) => {
                to.be32(1, REG_VERDICT).nest(2, |data| verdict.encode(data));
            }
            Self::Update { register, set, timeout } => {
                // Operation update, time in milliseconds.
                to.text(1, set).be32(3, 1).be32(4, register.number()).be64(6, timeout.as_millis() as u64);
            }
        }
    }
}
