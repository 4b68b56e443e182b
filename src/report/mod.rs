//! What the verbs found, as text for a terminal. The JSON beside it is the crates' own types, serialised. `page` is all of it for those who were not there.

pub(crate) mod acceptance;
pub(crate) mod command;
pub(crate) mod doctor;
pub(crate) mod host;
pub(crate) mod lab;
pub(crate) mod page;
pub(crate) mod probe;
mod quantity;
mod table;
pub(crate) mod trace;
pub(crate) mod verdict;

pub(crate) use quantity::{lasting, measured, percent, spaced, span};
pub(crate) use table::Table;

/// A card's clock against this host's.
pub(crate) fn card_clock(facts: &pathlab_xdp::clock::ClockFacts) -> String {
    let mut text = format!("/dev/ptp{} by {}", facts.phc, facts.method);
    match &facts.fit {
        Some(fit) => {
            text += &format!(
                ": its stamps are told in UTC to ±{}, slow by {:.3} ppm, fit of {} cross-stamps of ±{} at best, {} off it at most",
                span(fit.uncertainty),
                fit.rate_ppm,
                fit.cross_stamps,
                span(fit.half_width),
                span(fit.residual),
            );
        }
        None => text += ": its stamps cannot be told in UTC",
    }
    if facts.steps > 0 {
        text += &format!(", stepped {} times since", facts.steps);
    }
    if let Some(failure) = &facts.failure {
        text += &format!("; the last comparison failed: {failure}");
    }
    text
}

/// How many packets the card stamped at a point: those that arrive are all asked for, those that leave as registers are free.
pub(crate) fn hw_coverage(point: &str, coverage: &pathlab_reflector::HwCoverage) -> String {
    let share = coverage.share().map_or_else(|| "–".into(), percent);
    let pathlab_reflector::HwCoverage { packets, asked, stamped } = coverage;
    format!("the card stamped {point} of {share} of the packets ({stamped} of {packets}, {asked} asked)")
}
