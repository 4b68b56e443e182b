//! From findings to a decision, by rules that stand before the data do.
//!
//! Promote only when every check holds. RollBack when the canary is worse than a margin in any ISP, family or guardrail, and chance alone would not
//! make it look so. Everything else is Hold, with the reason why.
//!
//! What chance may do is fixed here. 0.5 % for a wrong RollBack at the end of any evening, divided among the metrics and spent evenly over the
//! evenings (Pocock); 0.2 % for one at any bin, by evidence that may be looked at always; 0.2 % for a wrong Promote, spent late
//! (O'Brien-Fleming). All of it whatever the skew of the data, because it comes from the assignment that was drawn.

use std::fmt;

use pathlab_stats::{Tail, conditional_power, nominal, obrien_fleming, pocock};
use serde::{Deserialize, Serialize};

use crate::{Answer, Arms, Early, Experiment, Findings, Metric, Policy};

/// Probability of a wrong RollBack, over all metrics, scopes and evenings.
const HARM: f64 = 0.005;
/// Probability of a wrong RollBack by the looks at every bin.
pub(crate) const GUARD: f64 = 0.002;
/// Conditional power below which going on is futile.
const FUTILE: f64 = 0.1;
/// Probability of a wrong Promote in each target ISP; all of them must be better, so it is not divided among them.
const BENEFIT: f64 = 0.002;
/// Probability that a sound A/A prelude is called unclean, over all its questions.
const PRELUDE: f64 = 0.001;
/// Probability that a sound assignment is called a sample ratio mismatch, over all scopes.
const RATIO: f64 = 0.001;
/// Most sessions that may be seen on another arm than theirs, or be assigned to another than the seed says.
const CROSSED: f64 = 0.001;
/// Most sessions that may be in strata too small to be judged.
const UNJUDGED: f64 = 0.1;
/// An A/A difference below this share of the margin does no harm, however surely it is there.
pub(crate) const PRELUDE_MARGIN: f64 = 0.25;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// Put all sessions on the canary's path.
    Promote,
    /// Leave things as they are and go on measuring, or stop: the data do not carry a change.
    Hold,
    /// Take the canary's sessions back.
    RollBack,
}

impl Decision {
    /// The exit code of `canary judge` and `demo`: 0, 3 or 4.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Promote => 0,
            Self::Hold => 3,
            Self::RollBack => 4,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promote => "Promote",
            Self::Hold => "Hold",
            Self::RollBack => "RollBack",
        })
    }
}

/// What a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// The canary is worse.
    Worse,
    /// Sessions are on the arms in the configured ratio.
    SampleRatio,
    /// Sessions are on the arm that seed and key say, and stayed there.
    Assignment,
    /// With both arms on today's path there was no difference.
    Prelude,
    /// As many evenings as configured.
    Evenings,
    /// Enough sessions in each stratum.
    Sessions,
    /// The target ISP is better.
    Better,
    /// Each evening on its own is better.
    EveningsAgree,
    /// No ISP is worse by more than the margin.
    NotWorse,
    /// A guardrail is not worse by more than its margin.
    Guardrail,
    /// The canary did not get worse as its share was raised.
    Capacity,
}

/// One thing that the decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What it is about.
    pub topic: Topic,
    /// Whether it speaks for promotion.
    pub holds: bool,
    /// The facts, with numbers.
    pub text: String,
}

/// Assignments to re-draw after so many evenings, so that the level at which a tail is called is a matter of some draws, not of one.
pub(crate) fn redraws(experiment: &Experiment, evenings: usize, tail: Tail) -> usize {
    (4.0 / level(experiment, evenings, tail)).ceil() as usize
}

/// The p at which a tail is called after so many evenings.
pub(crate) fn level(experiment: &Experiment, evenings: usize, tail: Tail) -> f64 {
    let level = match tail {
        Tail::Above => harm_at(experiment, evenings),
        // The first looks of a long experiment are so strict that they decide nothing; they need not be resolved.
        Tail::Below => benefit_at(experiment, evenings).unwrap_or(1.0).max(BENEFIT / 20.0),
        Tail::Either => PRELUDE,
    };
    level.max(1e-5)
}

/// The p of each question at which harm is called after so many evenings.
fn harm_at(experiment: &Experiment, seen: usize) -> f64 {
    let planned = experiment.windows.evenings as usize;
    let looks: Vec<f64> = (1..=planned).map(|evening| evening as f64 / planned as f64).collect();
    let levels = nominal(|fraction| pocock(HARM, fraction), &looks);
    let level = seen.clamp(1, planned) - 1;
    levels[level] / metrics(&experiment.policy)
}

/// The p at which benefit is called after so many evenings; none between the planned looks.
fn benefit_at(experiment: &Experiment, seen: usize) -> Option<f64> {
    let planned = experiment.windows.evenings;
    let looks = experiment.policy.looks(planned);
    let fractions: Vec<f64> = looks.iter().map(|look| f64::from(*look) / f64::from(planned)).collect();
    let levels = nominal(|fraction| obrien_fleming(BENEFIT, fraction), &fractions);
    let seen = (seen as u32).min(planned);
    looks.iter().zip(levels).find(|(look, _)| **look == seen).map(|(_, level)| level)
}

/// Whether a promotion may be decided after so many evenings.
pub(crate) fn is_look(experiment: &Experiment, seen: usize) -> bool {
    experiment.policy.looks(experiment.windows.evenings).contains(&(seen as u32).min(experiment.windows.evenings))
}

/// Metrics that can roll back.
fn metrics(policy: &Policy) -> f64 {
    1.0 + policy.guardrails.len() as f64
}

/// Decides, with every check that was made in the order in which it matters.
pub(crate) fn decide(experiment: &Experiment, findings: &Findings) -> (Decision, Vec<Reason>) {
    let mut reasons = worse(experiment, findings);
    if !reasons.is_empty() {
        // What else went wrong with the experiment; that the canary is not better goes without saying.
        let run = |reason: &Reason| matches!(reason.topic, Topic::SampleRatio | Topic::Assignment | Topic::Prelude);
        reasons.extend(checks(experiment, findings).into_iter().filter(|reason| !reason.holds && run(reason)));
        return (Decision::RollBack, reasons);
    }
    let reasons = checks(experiment, findings);
    let decision = if reasons.iter().all(|reason| reason.holds) { Decision::Promote } else { Decision::Hold };
    (decision, reasons)
}

/// The decision in one sentence.
pub(crate) fn sentence(decision: Decision, reasons: &[Reason]) -> String {
    let first = |wanted: &dyn Fn(&Reason) -> bool| {
        reasons.iter().find(|reason| wanted(reason)).map(|reason| reason.text.as_str())
    };
    match decision {
        Decision::RollBack => {
            format!("RollBack: {}", first(&|reason| reason.topic == Topic::Worse).unwrap_or_default())
        }
        Decision::Hold => format!("Hold: {}", first(&|reason| !reason.holds).unwrap_or_default()),
        Decision::Promote => format!(
            "Promote: {}; no ISP and no guardrail is worse by more than its margin",
            first(&|reason| reason.topic == Topic::Better).unwrap_or_default()
        ),
    }
}

fn worse(experiment: &Experiment, findings: &Findings) -> Vec<Reason> {
    let allowed = harm_at(experiment, findings.evenings.len());
    let certainly = |answer: &&Answer| {
        // Nobody may be thrown into the far tail, or be made to complain: there any increase counts that chance does not explain.
        let any = matches!(answer.metric, Metric::TailSessions | Metric::Complaints);
        let limit = if any { 0.0 } else { answer.margin };
        answer.interval.low > limit && answer.p_worse.is_some_and(|p| p <= allowed)
    };
    let isps = findings.isps.iter().map(|isp| &isp.whole);
    let mut answers: Vec<&Answer> = isps.chain(&findings.guardrails).chain(&findings.cells).filter(certainly).collect();
    // The deciding metric first, whole ISPs first, then what is worst in terms of its margin.
    let rank = |answer: &Answer| {
        let of_guardrail = answer.metric != experiment.policy.metric;
        (of_guardrail, answer.scope.family.is_some(), -answer.interval.low / answer.margin)
    };
    answers.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal));
    let reason = |text| Reason { topic: Topic::Worse, holds: false, text };
    let text =
        |answer: &Answer| format!("{} of {} is worse on the canary: {}", answer.metric, answer.scope, answer.text());
    let mut reasons: Vec<_> = answers.into_iter().map(|answer| reason(text(answer))).collect();
    if findings.early.reached()
        && let (Some(loudest), Some(at)) = (findings.early.loudest(), findings.early.at)
    {
        let Arms { control, canary } = loudest.sessions;
        reasons.push(reason(format!(
            "{} of {} is worse on the canary: {canary} canary and {control} control sessions by {at}, {:.0} to 1 against chance where {:.0} to 1 decide",
            loudest.harm.name(),
            loudest.isp.as_deref().unwrap_or("all ISPs"),
            findings.early.highest,
            Early::threshold()
        )));
    }
    let pooled = findings.pooled.len().max(1) as f64;
    for answer in findings.pooled.iter().filter(|answer| answer.p * pooled <= HARM) {
        reasons.push(reason(format!(
            "pooled {} of {} {} is worse on the canary: {:+.2} ms (buckets allow {:.2} ms) and worse by the margin in {} of {} half-hours (p = {:.4})",
            answer.metric,
            answer.isp,
            answer.family,
            answer.difference / 1e6,
            answer.error / 1e6,
            answer.worse,
            answer.blocks,
            answer.p
        )));
    }
    reasons
}

fn checks(experiment: &Experiment, findings: &Findings) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if findings.checks.sessions == 0 {
        let text = "pooled data without sessions: they describe and may roll back, and never promote".to_owned();
        return vec![Reason { topic: Topic::Sessions, holds: false, text }];
    }
    reasons.extend([sample_ratio(findings), assignment(findings), prelude(experiment, findings)]);
    reasons.push(evenings(experiment, findings));
    reasons.push(sessions(experiment, findings));
    let targets = findings.isps.iter().filter(|isp| isp.target);
    for isp in targets {
        reasons.push(better(experiment, findings, &isp.whole));
        // Without an effect there is nothing for evenings to agree on.
        if reasons.last().is_some_and(|reason| reason.holds) {
            reasons.push(evenings_agree(&isp.evenings));
        }
    }
    for isp in &findings.isps {
        reasons.push(not_worse(Topic::NotWorse, &isp.whole));
    }
    reasons.extend(findings.capacity.iter().map(capacity));
    reasons.extend(
        findings
            .guardrails
            .iter()
            .filter(|answer| promotes(answer, findings))
            .map(|answer| not_worse(Topic::Guardrail, answer)),
    );
    reasons
}

/// Sessions in the far tail are few: a single ISP can show that they rose, only all together that they did not.
fn promotes(answer: &Answer, findings: &Findings) -> bool {
    let over_all = |other: &Answer| other.metric == answer.metric && other.scope.isp.is_none();
    answer.metric != Metric::TailSessions || over_all(answer) || !findings.guardrails.iter().any(over_all)
}

fn sample_ratio(findings: &Findings) -> Reason {
    let ratios = &findings.checks.sample_ratio;
    let worst = ratios.iter().min_by(|a, b| a.p.total_cmp(&b.p));
    // Bonferroni over the scopes.
    let holds = worst.is_none_or(|ratio| ratio.p * ratios.len() as f64 > RATIO);
    let text = match worst.filter(|_| !holds).or_else(|| ratios.first()) {
        Some(ratio) => format!(
            "{:.2} % of the sessions of {} are on the canary where {} % were assigned (p = {:.2})",
            ratio.seen * 100.0,
            ratio.scope,
            (ratio.expected * 10_000.0).round() / 100.0,
            ratio.p
        ),
        None => "too few sessions for a sample ratio check".to_owned(),
    };
    let text =
        if holds { text } else { format!("sample ratio mismatch: {}", text.replace("(p = 0.00)", "(p < 0.01)")) };
    Reason { topic: Topic::SampleRatio, holds, text }
}

fn assignment(findings: &Findings) -> Reason {
    let checks = &findings.checks;
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let crossed = share(checks.crossed_over, checks.lines);
    let misassigned = share(checks.misassigned, checks.assignable);
    let left_out = share(checks.without_arm, checks.sessions + checks.without_arm);
    let failed = [
        (crossed, "of the lines were seen on the other arm than assigned"),
        (misassigned, "of the sessions are on another arm than seed and key say"),
        (left_out, "of the sessions have neither an arm nor a key"),
    ];
    let failed = failed.into_iter().find(|(share, _)| *share > CROSSED);
    let text = failed.map_or_else(
        || format!("{} sessions kept the arm that they were assigned", checks.sessions),
        |(share, what)| format!("{:.2} % {what}", share * 100.0),
    );
    Reason { topic: Topic::Assignment, holds: failed.is_none(), text }
}

fn prelude(experiment: &Experiment, findings: &Findings) -> Reason {
    let reason = |holds, text| Reason { topic: Topic::Prelude, holds, text };
    if !findings.prelude_seen {
        return reason(false, "no A/A prelude: measure with both arms on today's path first".to_owned());
    }
    let margin = experiment.policy.margin_of(experiment.policy.metric) * PRELUDE_MARGIN;
    let isp = |answer: &&Answer| answer.scope.family.is_none();
    let missing = findings
        .isps
        .iter()
        .find(|judged| !findings.prelude.iter().filter(isp).any(|answer| answer.scope == judged.whole.scope));
    if let Some(missing) = missing {
        return reason(false, format!("too little data in the A/A prelude of {}", missing.whole.scope));
    }
    let differs =
        |answer: &&Answer| answer.p_differs.is_some_and(|p| p <= PRELUDE) && answer.interval.estimate.abs() > margin;
    if let Some(answer) = findings.prelude.iter().find(differs) {
        let text = format!(
            "A/A not clean: {} of {} differs with both arms on one path: {}",
            answer.metric,
            answer.scope,
            answer.text()
        );
        return reason(false, text);
    }
    let largest = findings
        .prelude
        .iter()
        .filter(isp)
        .max_by(|a, b| a.interval.estimate.abs().total_cmp(&b.interval.estimate.abs()));
    let widest =
        findings.prelude.iter().filter(isp).max_by(|a, b| a.smallest_detectable.total_cmp(&b.smallest_detectable));
    let text = largest.zip(widest).map_or_else(String::new, |(answer, widest)| {
        let text = |value| answer.difference_text(value);
        let pathlab_stats::Interval { estimate, low, high } = answer.interval;
        format!(
            ", at most {} ({} to {}) in {}; smallest detectable effect {}",
            text(estimate),
            text(low),
            text(high),
            answer.scope,
            widest.smallest_detectable_text()
        )
    });
    reason(true, format!("A/A clean: chance explains what differs with both arms on one path{text}"))
}

fn evenings(experiment: &Experiment, findings: &Findings) -> Reason {
    let (seen, wanted) = (findings.evenings.len(), experiment.windows.evenings as usize);
    if let Some((date, until)) = &findings.in_progress {
        let text = format!("the evening of {date} is not over: data until {until}");
        return Reason { topic: Topic::Evenings, holds: false, text };
    }
    let enough = seen >= wanted || (seen >= 2 && is_look(experiment, seen));
    let mut text = match (seen, wanted) {
        (0, _) => "no evening".to_owned(),
        (1, 2..) => format!("one evening only, {wanted} wanted"),
        _ if seen < wanted => format!("{seen} of {wanted} evenings"),
        _ => format!("{seen} evenings: {}", findings.evenings.join(", ")),
    };
    if !enough && let Some(futile) = futile(experiment, findings) {
        text.push_str(&futile);
    }
    Reason { topic: Topic::Evenings, holds: enough, text }
}

/// Whether what was seen of the targets leaves any hope, in words to append.
fn futile(experiment: &Experiment, findings: &Findings) -> Option<String> {
    let fraction = findings.evenings.len() as f64 / f64::from(experiment.windows.evenings);
    let last = benefit_at(experiment, experiment.windows.evenings as usize)?;
    let power = |isp: &crate::IspFindings| Some(conditional_power(-isp.whole.z()?, fraction, last));
    let worst = findings.isps.iter().filter(|isp| isp.target).filter_map(|isp| Some((isp, power(isp)?)));
    let (isp, power) = worst.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, power)| *power < FUTILE)?;
    let percent = power * 100.0;
    Some(format!("; futile: as {} goes, the chance to promote is {percent:.1} %", isp.whole.scope))
}

fn capacity(answer: &Answer) -> Reason {
    let holds = answer.interval.low <= answer.margin;
    let what = match holds {
        true => "the canary did not get worse as its share was raised",
        false => "the canary gets worse with its own share, as if short of capacity: do not raise it",
    };
    Reason {
        topic: Topic::Capacity,
        holds,
        text: format!("{} of {}: {what}: {}", answer.metric, answer.scope, answer.text()),
    }
}

fn sessions(experiment: &Experiment, findings: &Findings) -> Reason {
    let reason = |holds, text| Reason { topic: Topic::Sessions, holds, text };
    let Policy { target, .. } = &experiment.policy;
    let detectable = |isp: &str| {
        let strata = findings.strata.iter().filter(|answer| answer.scope.isp.as_deref() == Some(isp));
        let smallest =
            strata.map(|answer| answer.smallest_detectable).filter(|effect| effect.is_finite() && *effect > 0.0);
        smallest.reduce(f64::min).map_or_else(
            || "smallest detectable effect unknown".to_owned(),
            |effect| format!("smallest detectable effect of a stratum {:.2} ms", effect / 1e6),
        )
    };
    let short = |isp: &str| {
        let cell = findings.unjudged.iter().filter(|cell| cell.isp == isp).max_by_key(|cell| cell.sessions.canary);
        let facts = cell.map_or_else(
            || "no sessions".to_owned(),
            |cell| {
                let (canary, control) = (cell.sessions.canary, cell.sessions.control);
                format!(
                    "{canary} canary and {control} control sessions in {}, {} each needed",
                    cell.family, cell.needed
                )
            },
        );
        format!("too little data in {isp}: {facts} ({})", detectable(isp))
    };
    let judged = |isp: &str| findings.isps.iter().any(|judged| judged.whole.scope.isp.as_deref() == Some(isp));
    if let Some(isp) = target.isp.iter().find(|isp| !judged(isp)) {
        return reason(false, short(isp));
    }
    if findings.isps.is_empty() {
        let text =
            findings.unjudged.first().map_or_else(|| "too little data: no evening".to_owned(), |cell| short(&cell.isp));
        return reason(false, text);
    }
    let sum = |arms: crate::Arms<u64>| (arms.control + arms.canary) as f64;
    let left_out: f64 = findings.unjudged.iter().map(|cell| sum(cell.sessions)).sum();
    let all = left_out + findings.cells.iter().map(|cell| sum(cell.sessions)).sum::<f64>();
    let names: Vec<_> = findings.unjudged.iter().map(|cell| format!("{} {}", cell.isp, cell.family)).collect();
    if left_out > UNJUDGED * all {
        let share = left_out / all * 100.0;
        return reason(
            false,
            format!(
                "too little data: {share:.0} % of the sessions are in strata too small to judge ({})",
                names.join(", ")
            ),
        );
    }
    let fewest = findings.cells.iter().map(|cell| cell.sessions.canary).min().unwrap_or(0);
    let but = if names.is_empty() { String::new() } else { format!("; not judged: {}", names.join(", ")) };
    reason(
        true,
        format!("at least {fewest} canary sessions in each of {} ISPs and families{but}", findings.cells.len()),
    )
}

fn better(experiment: &Experiment, findings: &Findings, answer: &Answer) -> Reason {
    let level = benefit_at(experiment, findings.evenings.len());
    let margin = experiment.policy.margin_of(answer.metric);
    let interval = answer.interval;
    let (holds, what) = if interval.low > -margin && interval.high < margin {
        (false, "no difference beyond the margin")
    } else if interval.high < 0.0 && interval.estimate > -margin {
        (false, "no difference: better by less than the margin")
    } else if interval.high < 0.0 && answer.p_better.zip(level).is_some_and(|(p, level)| p <= level) {
        (true, "better on the canary")
    } else if interval.high < 0.0 && level.is_none() {
        (false, "better so far, and no promotion is decided after so many evenings")
    } else if interval.high < 0.0 {
        (false, "better, and not yet beyond chance at the level of this look")
    } else if interval.low > 0.0 {
        (false, "not better on the canary")
    } else {
        (false, "too little data to tell a difference")
    };
    let mut text = format!("{} of {}: {what}: {}", answer.metric, answer.scope, answer.text());
    if holds {
        text = format!("{} of {} is {what}: {}", answer.metric, answer.scope, answer.text());
    } else {
        let effect = answer.smallest_detectable_text();
        text.push_str(&format!(", smallest detectable effect {effect}"));
    }
    Reason { topic: Topic::Better, holds, text }
}

fn evenings_agree(evenings: &[Answer]) -> Reason {
    // One-sided 95 % each; the interval is two-sided 95 %, so this is the stricter 97.5 %.
    let holds = evenings.iter().all(|answer| answer.interval.high < 0.0);
    let each: Vec<_> = evenings
        .iter()
        .map(|answer| {
            let text = |value| answer.difference_text(value);
            let interval = answer.interval;
            format!("{} {} ({} to {})", answer.when, text(interval.estimate), text(interval.low), text(interval.high))
        })
        .collect();
    let scope = evenings.first().map_or_else(String::new, |answer| answer.scope.to_string());
    let what = if holds { "every evening of" } else { "not better on every evening:" };
    let verb = if holds { " is better on its own" } else { "" };
    Reason { topic: Topic::EveningsAgree, holds, text: format!("{what} {scope}{verb}: {}", each.join(", ")) }
}

fn not_worse(topic: Topic, answer: &Answer) -> Reason {
    let holds = answer.not_worse();
    let margin = answer.value_text(answer.margin).replace('%', "pp");
    let text = match answer.needed {
        Some(needed) => format!(
            "too little data for {} of {}: {} canary sessions, {needed} needed",
            answer.metric, answer.scope, answer.sessions.canary
        ),
        None if answer.interval.estimate.is_nan() => format!("no data for {} of {}", answer.metric, answer.scope),
        None if holds => format!("{} of {} is not worse by {margin}: {}", answer.metric, answer.scope, answer.text()),
        None => format!(
            "{} of {} is not shown to be no worse by {margin}: {}, smallest detectable effect {}",
            answer.metric,
            answer.scope,
            answer.text(),
            answer.smallest_detectable_text()
        ),
    };
    Reason { topic, holds, text }
}
