//! Just enough of nf_tables over netlink to own one table: an encoder that only makes bytes, and a socket that sends
//! them.
//!
//! `nft` the program takes 18 ms and a fork for what a message in memory does in 0.4 ms, and it cannot hold the table:
//! a table with the `owner` flag lives as long as the socket that made it. Numbers and layouts are those of Linux
//! `include/uapi/linux/netfilter/nf_tables.h`.

mod attributes;
mod batch;
mod expression;
mod foreign;
mod socket;

pub(crate) use batch::{BaseChain, Batch, Data, Element, Set, Type};
pub(crate) use expression::{Expression, Header, Meta, Register, Verdict};
pub(crate) use foreign::MarkUse;
#[cfg(fuzzing)]
pub(crate) use socket::any_octets;
pub(crate) use socket::{NftSocket, Refused};
