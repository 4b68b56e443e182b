//! The definition of done, cohort by cohort.

use std::fmt::Write;

use pathlab_canary::{Accepted, Outcome};

/// Every limit with its mark, then the answer.
pub(crate) fn text(accepted: &Accepted) -> String {
    let mut text = String::new();
    let baseline = match accepted.baseline.len() {
        0 => "none".to_owned(),
        1 => accepted.baseline[0].clone(),
        more => format!("{} to {}, {more} windows", accepted.baseline[0], accepted.baseline[more - 1]),
    };
    let _ = writeln!(text, "baseline: {baseline}");
    for held in accepted.targets.iter().chain(&accepted.elsewhere).chain(&accepted.complaints) {
        let mark = match held.outcome {
            Outcome::Pass => '✓',
            Outcome::Fail => '✗',
            Outcome::Insufficient => '?',
        };
        let _ = writeln!(text, "  {mark} {}", held.text());
    }
    for (cohort, sessions) in &accepted.too_small {
        let _ = writeln!(
            text,
            "  note: {cohort} has {sessions} sessions on an evening, too few to be held against anything"
        );
    }
    let _ = writeln!(text, "\n{}", accepted.sentence);
    text
}
