//! A verdict as it is shown: its sentence, what would change it, and every number that it rests on.

use serde::Serialize;

use super::files::{Answer, Isp, Reason, VerdictFile};

/// One verdict.
#[derive(Serialize)]
pub(crate) struct Judged {
    /// The run that holds it.
    pub(crate) run: String,
    pub(crate) experiment: String,
    pub(crate) decision: String,
    pub(crate) sentence: String,
    /// Which figure lies nearest to another decision.
    pub(crate) would_change: Vec<String>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) plan_sha256: String,
    pub(crate) registered: String,
    pub(crate) acceptance: Option<String>,
    /// The deciding metric by ISP and family, over the evenings.
    pub(crate) cells: Vec<Row>,
    /// The deciding metric by ISP and evening.
    pub(crate) evenings: Vec<Row>,
    pub(crate) guardrails: Vec<Row>,
    /// Both arms on today's path.
    pub(crate) prelude: Vec<Row>,
}

/// An answer in words, cell by cell of a table.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) metric: String,
    pub(crate) scope: String,
    pub(crate) window: String,
    pub(crate) control_sessions: u64,
    pub(crate) canary_sessions: u64,
    pub(crate) control: String,
    pub(crate) canary: String,
    pub(crate) difference: String,
    pub(crate) interval: String,
    pub(crate) margin: String,
    pub(crate) smallest_detectable: String,
}

impl Judged {
    pub(crate) fn new(run: String, file: &VerdictFile) -> Self {
        let rows = |answers: &[Answer]| answers.iter().map(Row::of).collect();
        let findings = &file.findings;
        let evenings: Vec<Answer> = findings.isps.iter().flat_map(|isp| isp.evenings.iter().cloned()).collect();
        let registered = match (file.registered.at, file.registered.before_the_evenings) {
            (Some(at), Some(true)) => format!("the plan was registered {at:.0}, before the first evening"),
            (Some(at), _) => {
                format!("the plan was registered {at:.0}; that this was before the data is not shown by their times")
            }
            (None, _) => "the plan was not registered before the data".to_owned(),
        };
        Self {
            run,
            experiment: file.experiment.experiment.name.clone(),
            decision: file.decision.clone(),
            sentence: file.sentence.clone(),
            would_change: would_change(file),
            reasons: file.reasons.clone(),
            plan_sha256: file.plan_sha256.clone(),
            registered,
            acceptance: findings.acceptance.as_ref().map(|acceptance| acceptance.sentence.clone()),
            cells: rows(&findings.cells),
            evenings: rows(&evenings),
            guardrails: rows(&findings.guardrails),
            prelude: rows(&findings.prelude),
        }
    }
}

impl Row {
    fn of(answer: &Answer) -> Self {
        let [control, canary, margin] =
            [&answer.control, &answer.canary, &answer.margin].map(|number| plain(&answer.unit, number.value()));
        let smallest = answer.smallest_detectable.value();
        let smallest = if smallest.is_finite() { plain(&answer.unit, smallest) } else { "unknown".to_owned() };
        let [difference, low, high] =
            [&answer.difference, &answer.low, &answer.high].map(|number| signed(&answer.unit, number.value()));
        Self {
            metric: answer.metric.clone(),
            scope: scope(answer),
            window: answer.window.clone(),
            control_sessions: answer.sessions.control,
            canary_sessions: answer.sessions.canary,
            control,
            canary,
            difference,
            interval: format!("{low} to {high} ({:.0} %)", answer.confidence.value() * 100.0),
            margin,
            smallest_detectable: smallest,
        }
    }
}

fn scope(answer: &Answer) -> String {
    let isp = answer.isp.as_deref().unwrap_or("all ISPs");
    answer.family.as_ref().map_or_else(|| isp.to_owned(), |family| format!("{isp} IPv{family}"))
}

/// What stands against promotion, or how far the nearest limit is.
fn would_change(file: &VerdictFile) -> Vec<String> {
    let mut said = Vec::new();
    let judged = file.findings.isps.iter().map(|isp: &Isp| &isp.whole).chain(&file.findings.guardrails);
    if file.decision == "Promote" {
        let room = |answer: &&Answer| (answer.margin.value() - answer.high.value()) / answer.margin.value().abs();
        let near = judged.filter(|answer| room(answer).is_finite()).min_by(|a, b| room(a).total_cmp(&room(b)));
        if let Some(near) = near {
            said.push(format!(
                "nearest limit: {} of {} may be worse by {} and is at most {}; beyond that it would be Hold",
                near.metric,
                scope(near),
                signed(&near.unit, near.margin.value()).trim_start_matches('+'),
                signed(&near.unit, near.high.value()),
            ));
        }
        for isp in file.findings.isps.iter().filter(|isp| isp.target) {
            said.push(format!(
                "{} of {} is claimed to be better: it would be Hold if the upper end of its interval, {}, were not below zero",
                isp.whole.metric,
                scope(&isp.whole),
                signed(&isp.whole.unit, isp.whole.high.value()),
            ));
        }
        return said;
    }
    let against = file.reasons.iter().filter(|reason| !reason.holds);
    let verb =
        if file.decision == "RollBack" { "it would not be RollBack without" } else { "it would not be Hold without" };
    said.extend(against.map(|reason| format!("{verb}: {}", reason.text)));
    for answer in judged {
        if let Some(needed) = answer.needed {
            said.push(format!(
                "{} of {} takes {needed} canary sessions, there are {}",
                answer.metric,
                scope(answer),
                answer.sessions.canary
            ));
        }
    }
    for isp in file.findings.isps.iter().filter(|isp| isp.target) {
        let smallest = isp.whole.smallest_detectable.value();
        if smallest.is_finite() {
            said.push(format!(
                "the smallest difference that these data could have shown in {} is {}",
                scope(&isp.whole),
                signed(&isp.whole.unit, smallest).trim_start_matches('+')
            ));
        }
    }
    said
}

/// `31.2 ms` or `0.35 %`, by the unit of `verdict.json`.
fn plain(unit: &str, value: f64) -> String {
    let (scaled, unit) = if unit == "ms" { (value, "ms") } else { (value * 100.0, "%") };
    match scaled {
        _ if scaled.is_nan() => "unknown".to_owned(),
        _ if scaled.is_infinite() => "no reply".to_owned(),
        _ if scaled.abs() < 0.005 => format!("0.00 {unit}"),
        _ if scaled.abs() < 9.995 => format!("{scaled:.2} {unit}"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

fn signed(unit: &str, value: f64) -> String {
    let text = plain(unit, value);
    match value {
        _ if value.is_nan() => text,
        f64::INFINITY => "+infinite".to_owned(),
        f64::NEG_INFINITY => "-infinite".to_owned(),
        _ if unit == "ms" => format!("{}{text}", if value >= 0.005 { "+" } else { "" }),
        _ => format!("{}{}", if value >= 0.000_05 { "+" } else { "" }, text.replace('%', "pp")),
    }
}
