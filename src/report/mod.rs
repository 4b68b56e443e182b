//! What the verbs found, as text for a terminal. The JSON beside it is the crates' own types, serialised.

pub(crate) mod lab;
pub(crate) mod probe;
mod quantity;
mod table;
pub(crate) mod verdict;

pub(crate) use quantity::{percent, span};
pub(crate) use table::Table;
