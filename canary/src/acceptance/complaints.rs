//! Complaints for each session of an evening, held against the same of its baseline: "complaint volume returns to baseline".
//!
//! A window that no row names is not known, which is not none: whoever had none writes 0. Before a promotion and after it people are not drawn by
//! lot, so the policy's margin is what is held, and not, as between the arms of a verdict, any increase that chance does not explain.

use std::collections::BTreeMap;

use jiff::civil::Date;
use pathlab_record::Window;
use pathlab_stats::{Rate, rate_difference};

use super::{Acceptor, CONFIDENCE, Held, held};
use crate::{Experiment, Ingested, Metric, findings::Scope};

/// Complaints by window, whatever arm they name; `None` where the policy does not guard by them.
pub(super) fn counts(experiment: &Experiment, ingested: &Ingested) -> Option<BTreeMap<Window, u64>> {
    if !experiment.policy.guardrails.contains(&Metric::Complaints) {
        return None;
    }
    let mut counts = BTreeMap::new();
    for ((window, _), count) in ingested.complaints.iter().flatten() {
        *counts.entry(*window).or_default() += count;
    }
    Some(counts)
}

impl Acceptor<'_> {
    /// One evening above the mean of those windows of the baseline of which complaints are known.
    pub(super) fn complained(&self, counts: &BTreeMap<Window, u64>, evening: Date, baseline: &[Window]) -> Held {
        let rate = |window: &Window| self.rate(*window, *counts.get(window)?);
        let before: Vec<Rate> = baseline.iter().filter_map(rate).collect();
        let weight = 1.0 / before.len() as f64;
        let distance = |here: Rate| {
            let strata: Vec<_> = before.iter().map(|before| (weight, *before, here)).collect();
            (!strata.is_empty()).then(|| rate_difference(&strata, CONFIDENCE))
        };
        let measured = rate(&Window::Evening(evening)).and_then(distance);
        let limit = self.experiment.policy.margin_of(Metric::Complaints);
        held(Metric::Complaints, Scope::all(), evening, self.sessions(Window::Evening(evening)), measured, limit, true)
    }

    /// `None` where nobody played.
    fn rate(&self, window: Window, count: u64) -> Option<Rate> {
        let trials = self.sessions(window).max(count) as f64;
        (self.sessions(window) > 0).then(|| Rate { rate: count as f64 / trials, trials })
    }

    fn sessions(&self, window: Window) -> u64 {
        let of_window = self.cohorts.iter().filter(|((_, of), _)| *of == window);
        of_window.flat_map(|(_, cohort)| cohort.values()).map(|unit| unit.len() as u64).sum()
    }
}
