//! What a judge found: the arms side by side, and what the decision rests on.

use std::fmt::Write;

use pathlab_canary::{Answer, Decision, Verdict, When};

use super::Table;

/// The most reasons against that are told; all of them are in `verdict.json`.
const MOST_AGAINST: usize = 6;

/// The deciding metric by ISP and family over the evenings, then the guardrails over all of them.
pub(crate) fn arms(verdict: &Verdict) -> Table {
    let mut table = Table::new(["", "control", "canary", "control", "canary", "difference", "95 % interval"]);
    let findings = &verdict.findings;
    for answer in &findings.cells {
        let family = answer.scope.family.map_or_else(String::new, |family| format!(" {family}"));
        row(&mut table, format!("{}{family}", answer.scope.isp.as_deref().unwrap_or("all")), answer);
    }
    for answer in
        findings.guardrails.iter().filter(|answer| answer.scope.isp.is_none() && answer.when == When::Evenings)
    {
        row(&mut table, answer.metric.to_string(), answer);
    }
    table
}

fn row(table: &mut Table, name: String, answer: &Answer) {
    let interval = answer.interval;
    table.row([
        name,
        answer.sessions.control.to_string(),
        answer.sessions.canary.to_string(),
        answer.value_text(answer.control),
        answer.value_text(answer.canary),
        answer.difference_text(interval.estimate),
        format!("{} to {}", answer.difference_text(interval.low), answer.difference_text(interval.high)),
    ]);
}

/// What speaks against first, with its interval; of what holds the facts alone, for the table has the intervals.
pub(crate) fn reasons(verdict: &Verdict) -> String {
    let mut text = String::new();
    let against = verdict.reasons.iter().filter(|reason| !reason.holds);
    for reason in against.clone().take(MOST_AGAINST) {
        let _ = writeln!(text, "  ✗ {}", reason.text);
    }
    match against.count().saturating_sub(MOST_AGAINST) {
        0 => {}
        more => drop(writeln!(text, "  ✗ and {more} more in verdict.json")),
    }
    for reason in verdict.reasons.iter().filter(|reason| reason.holds) {
        let facts = reason.text.split(" (9").next().unwrap_or_default();
        let _ = writeln!(text, "  ✓ {facts}");
    }
    if let Some(acceptance) = &verdict.findings.acceptance {
        let _ = writeln!(text, "  note: acceptance of the canary's sessions: {}", acceptance.sentence);
    }
    let _ = writeln!(text, "  note: {}", verdict.registered.text());
    let _ = writeln!(text, "  note: steered: {}", verdict.direction.text());
    for (remark, lines) in &verdict.remarks {
        let _ = writeln!(text, "  note: {}", lines.in_words(*remark));
    }
    text
}

/// The decision in capitals, and why.
pub(crate) fn decision(verdict: &Verdict) -> String {
    let name = match verdict.decision {
        Decision::Promote => "PROMOTE",
        Decision::Hold => "HOLD",
        Decision::RollBack => "ROLL BACK",
    };
    let sentence = verdict.sentence.split_once(": ").map_or(verdict.sentence.as_str(), |(_, why)| why);
    format!("{name}  {sentence}")
}

/// All of it.
pub(crate) fn text(verdict: &Verdict) -> String {
    let metric = &verdict.experiment.policy.metric;
    let evenings = verdict.findings.evenings.len();
    format!(
        "{metric} by arm over {evenings} evenings (sessions, then {metric})\n{}\n{}\n{}\n",
        arms(verdict),
        reasons(verdict),
        decision(verdict)
    )
}
