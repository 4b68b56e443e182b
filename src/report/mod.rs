//! What the verbs found, as text for a terminal. The JSON beside it is the crates' own types, serialised.

pub(crate) mod acceptance;
pub(crate) mod doctor;
pub(crate) mod host;
pub(crate) mod lab;
pub(crate) mod probe;
mod quantity;
mod table;
pub(crate) mod verdict;

pub(crate) use quantity::{percent, span};
pub(crate) use table::Table;

/// How many packets the card stamped at a point: those that arrive are all asked for, those that leave as registers are free.
pub(crate) fn hw_coverage(point: &str, coverage: &pathlab_reflector::HwCoverage) -> String {
    let share = coverage.share().map_or_else(|| "–".into(), percent);
    let pathlab_reflector::HwCoverage { packets, asked, stamped } = coverage;
    format!("the card stamped {point} of {share} of the packets ({stamped} of {packets}, {asked} asked)")
}
