//! The runbook's definition of done: two consecutive evenings at or under target in the target cohorts, and no regression elsewhere.
//!
//! It asks about levels, not about arms: after a promotion there is one path. A limit is met where the upper limit of the measured value lies under it
//! (one-sided 95 %), missed where the lower one lies above; anything between is insufficient, as are cohorts with fewer sessions than the policy's
//! minimum. Elsewhere stands for every other cohort, held against the same cohort's baseline: the evenings of up to 14 days before, or, where there are
//! none, the A/A prelude. Where the policy guards by complaints, they are held against their baseline as well.

mod complaints;
mod measure;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use pathlab_record::Window;
use pathlab_stats::{Confidence, Interval, Level};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    Error, Experiment, Ingested, Metric, Series,
    findings::{Number, Scope, plain},
    ingest::{Seen, Session},
    judge::minimum,
    stratum::{Cell, whole_of},
};
use measure::{Measure, Sample};

/// Days before the two evenings from which a baseline comes.
const BASELINE_DAYS: i32 = 14;
/// Consecutive evenings that must pass.
const EVENINGS: usize = 2;
/// Most sessions that may be in cohorts too small to be held against anything.
const UNJUDGED: f64 = 0.1;
/// Each limit on its own is one-sided 95 %.
const CONFIDENCE: Confidence = Confidence::P90;

/// The answer to "are we done?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every limit is met.
    Pass,
    /// At least one limit is missed.
    Fail,
    /// Neither can be said.
    Insufficient,
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Insufficient => "insufficient",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// One limit, held against one cohort on one evening. Latencies in nanoseconds here and milliseconds in JSON; loss as a share.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What was measured.
    pub metric: Metric,
    /// Whose sessions: of one ISP and family, or all.
    pub cohort: Scope,
    /// When.
    pub evening: Date,
    /// Whether it is a distance from the baseline; a level otherwise.
    pub from_baseline: bool,
    /// Sessions of that evening.
    pub sessions: u64,
    /// What was measured, with the limits of 90 %.
    pub measured: Interval,
    /// What it may be.
    pub limit: f64,
    /// What follows.
    pub outcome: Outcome,
}

impl Held {
    /// `rtt.p95 of NTT IPv4 on 2026-11-21: 41.2 ms (90 % interval 40.1 ms to 42.0 ms), limit 60.0 ms`.
    pub fn text(&self) -> String {
        let value = |value: f64| plain(matches!(self.metric, Metric::Quantile { .. }), value);
        let Interval { estimate, low, high } = self.measured;
        let less = if self.from_baseline { " above its baseline" } else { "" };
        format!(
            "{} of {} on {}: {}{less} (90 % interval {} to {}; {} sessions), limit {}",
            self.metric,
            self.cohort,
            self.evening,
            value(estimate),
            value(low),
            value(high),
            self.sessions,
            value(self.limit)
        )
    }
}

impl Serialize for Held {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let latency = matches!(self.metric, Metric::Quantile { .. });
        let number = |value: f64| Number(value * if latency { 1e-6 } else { 1.0 });
        let mut out = to.serialize_struct("Held", 11)?;
        out.serialize_field("metric", &self.metric)?;
        // Absent where it is about all.
        if let (Some(isp), Some(family)) = (&self.cohort.isp, self.cohort.family) {
            out.serialize_field("isp", isp)?;
            out.serialize_field("family", &family)?;
        }
        out.serialize_field("window", &self.evening)?;
        out.serialize_field("unit", if latency { "ms" } else { "share" })?;
        out.serialize_field("sessions", &self.sessions)?;
        out.serialize_field("measured", &number(self.measured.estimate))?;
        out.serialize_field("low", &number(self.measured.low))?;
        out.serialize_field("high", &number(self.measured.high))?;
        out.serialize_field("limit", &number(self.limit))?;
        out.serialize_field("outcome", &self.outcome)?;
        out.end()
    }
}

/// Whether the work is done, and what that rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accepted {
    /// The answer.
    pub outcome: Outcome,
    /// Why, in one sentence.
    pub sentence: String,
    /// The evenings that were held against the targets.
    pub evenings: Vec<Date>,
    /// The windows of the baseline: dates, or `aa`.
    pub baseline: Vec<String>,
    /// The target cohorts against the targets.
    pub targets: Vec<Held>,
    /// Every other cohort against its baseline; `measured` is the distance from it.
    pub elsewhere: Vec<Held>,
    /// Complaints of all sessions against their baseline, where the policy guards by them.
    pub complaints: Vec<Held>,
    /// Cohorts with fewer sessions than the policy's minimum on one of the evenings, and the fewest that they had.
    pub too_small: Vec<(Cell, u64)>,
}

/// Holds all sessions against `[acceptance]`, whichever path they took: for the evenings after a promotion. `None` where the experiment has no targets.
///
/// # Errors
/// [`Error::NoSession`] when there is no session at all.
pub fn accept(experiment: &Experiment, seed: u32, ingested: &Ingested) -> Result<Option<Accepted>, Error> {
    if ingested.sessions.is_empty() {
        return Err(Error::NoSession { why: "the inputs have no session".to_owned() });
    }
    let mut acceptor = Acceptor::new(experiment, seed, ingested, |_| true);
    acceptor.complaints = complaints::counts(experiment, ingested);
    Ok(experiment.acceptance.as_ref().map(|_| acceptor.accepted()))
}

/// The same of the sessions for which `belongs`, beside a prelude of all. Complaints are no part of it: they are not told by session.
pub(crate) fn accept_those(
    experiment: &Experiment,
    seed: u32,
    ingested: &Ingested,
    belongs: impl Fn(&Session) -> bool,
) -> Option<Accepted> {
    experiment.acceptance.as_ref()?;
    Some(Acceptor::new(experiment, seed, ingested, belongs).accepted())
}

/// Sessions of one cohort and window, clients whole.
type Cohort<'a> = BTreeMap<String, Vec<&'a Seen>>;

struct Acceptor<'a> {
    experiment: &'a Experiment,
    measure: Measure,
    cohorts: BTreeMap<(Cell, Window), Cohort<'a>>,
    in_progress: Option<Window>,
    /// By window, where the policy guards by them.
    complaints: Option<BTreeMap<Window, u64>>,
}

impl<'a> Acceptor<'a> {
    fn new(experiment: &'a Experiment, seed: u32, ingested: &'a Ingested, belongs: impl Fn(&Session) -> bool) -> Self {
        let mut cohorts: BTreeMap<_, Cohort<'_>> = BTreeMap::new();
        for session in ingested.sessions.iter() {
            let cell = &ingested.cells[usize::from(session.cell)];
            for (window, seen) in
                session.windows.0.iter().filter(|(window, _)| *window == Window::Aa || belongs(session))
            {
                let cohort = cohorts.entry((cell.clone(), *window)).or_default();
                cohort.entry(whole_of(experiment, session).into_owned()).or_default().push(seen);
            }
        }
        let measure = Measure { seed: seed.into(), replicates: experiment.policy.replicates as usize };
        let in_progress = ingested.in_progress.map(|(window, ..)| window);
        Self { experiment, measure, cohorts, in_progress, complaints: None }
    }

    /// Dates with data, but not the one that is not over.
    fn dates(&self) -> Vec<Date> {
        let over = |window: &Window| self.in_progress != Some(*window);
        let windows: BTreeSet<Window> = self.cohorts.keys().map(|(_, window)| *window).filter(over).collect();
        let date = |window| if let Window::Evening(date) = window { Some(date) } else { None };
        windows.into_iter().filter_map(date).collect()
    }

    /// Whether every day between two dates is a holiday of the experiment.
    fn consecutive(&self, before: Date, after: Date) -> bool {
        let mut day = before;
        while let Ok(next) = day.tomorrow() {
            if next == after {
                return true;
            }
            if next > after || !self.experiment.windows.holidays.contains(&next) {
                return false;
            }
            day = next;
        }
        false
    }

    fn accepted(&self) -> Accepted {
        let dates = self.dates();
        let evenings: Vec<Date> = dates.iter().rev().take(EVENINGS).rev().copied().collect();
        let mut accepted = Accepted {
            outcome: Outcome::Insufficient,
            sentence: String::new(),
            baseline: Vec::new(),
            targets: Vec::new(),
            elsewhere: Vec::new(),
            complaints: Vec::new(),
            too_small: Vec::new(),
            evenings,
        };
        let why = match accepted.evenings[..] {
            [before, after] if self.consecutive(before, after) => {
                self.hold(&mut accepted, &dates);
                let why;
                (accepted.outcome, why) = self.conclude(&accepted);
                why
            }
            [before, after] => format!("{before} and {after} are not consecutive evenings"),
            [only] => format!("one evening only ({only}), {EVENINGS} consecutive ones wanted"),
            _ => format!("no evening, {EVENINGS} consecutive ones wanted"),
        };
        accepted.sentence = format!("{}: {why}", accepted.outcome);
        accepted
    }

    fn hold(&self, accepted: &mut Accepted, dates: &[Date]) {
        let first = accepted.evenings[0];
        let recent =
            |date: &&Date| **date < first && first.since(**date).is_ok_and(|span| span.get_days() <= BASELINE_DAYS);
        let mut baseline: Vec<Window> = dates.iter().filter(recent).map(|date| Window::Evening(*date)).collect();
        if baseline.is_empty() && self.cohorts.keys().any(|(_, window)| *window == Window::Aa) {
            baseline.push(Window::Aa);
        }
        accepted.baseline = baseline.iter().map(Window::to_string).collect();
        let minimum = u64::from(minimum(self.experiment));
        let of_evenings = |window: &Window| matches!(window, Window::Evening(date) if accepted.evenings.contains(date));
        let cells: BTreeSet<&Cell> =
            self.cohorts.keys().filter(|(_, window)| of_evenings(window)).map(|(cell, _)| cell).collect();
        for cell in cells {
            let fewest = accepted.evenings.iter().map(|date| self.sample(cell, Window::Evening(*date)).sessions());
            let fewest = fewest.min().unwrap_or(0);
            if fewest < minimum {
                accepted.too_small.push((cell.clone(), fewest));
                continue;
            }
            for date in &accepted.evenings {
                let evening = self.sample(cell, Window::Evening(*date));
                if self.is_target(&cell.isp) {
                    accepted.targets.extend(self.targets(cell, *date, &evening));
                } else {
                    let before = baseline.iter().map(|window| self.sample(cell, *window));
                    let before: Vec<_> = before.filter(|sample| sample.sessions() >= minimum).collect();
                    accepted.elsewhere.extend(self.distances(cell, *date, &evening, &before));
                }
            }
        }
        if let Some(counts) = &self.complaints {
            let held = |date: &Date| self.complained(counts, *date, &baseline);
            accepted.complaints = accepted.evenings.iter().map(held).collect();
        }
    }

    /// The three targets against one evening of one cohort.
    fn targets(&self, cell: &Cell, evening: Date, sample: &Sample<'_>) -> Vec<Held> {
        let Some(targets) = &self.experiment.acceptance else { return Vec::new() };
        let metrics = [
            (RTT, targets.rtt_p95.as_nanos() as f64),
            (IPDV, targets.ipdv_p95.as_nanos() as f64),
            (Metric::Loss, targets.loss.fraction()),
        ];
        let hold = |(metric, limit): (Metric, f64)| {
            let measured = self.measure.level(metric, sample);
            held(metric, Scope::cell(cell), evening, sample.sessions(), measured, limit, false)
        };
        metrics.into_iter().map(hold).collect()
    }

    /// How far one evening of one cohort is above its baseline; infinite limits where there is none.
    fn distances(&self, cell: &Cell, evening: Date, sample: &Sample<'_>, before: &[Sample<'_>]) -> Vec<Held> {
        let hold = |metric: Metric| {
            let measured = self.measure.distance(metric, sample, before);
            let limit = self.experiment.policy.margin_of(metric);
            held(metric, Scope::cell(cell), evening, sample.sessions(), measured, limit, true)
        };
        [RTT, IPDV, Metric::Loss].into_iter().map(hold).collect()
    }

    fn conclude(&self, accepted: &Accepted) -> (Outcome, String) {
        let all = || accepted.targets.iter().chain(&accepted.elsewhere).chain(&accepted.complaints);
        if let Some(missed) = all().find(|held| held.outcome == Outcome::Fail) {
            return (Outcome::Fail, missed.text());
        }
        let minimum = minimum(self.experiment);
        let wanted = &self.experiment.policy.target.isp;
        let measured = |isp: &str| accepted.targets.iter().any(|held| held.cohort.isp.as_deref() == Some(isp));
        let unmeasured = wanted.iter().find(|isp| !measured(isp));
        let small_target = accepted.too_small.iter().find(|(cell, _)| self.is_target(&cell.isp));
        if let Some((cell, fewest)) = small_target {
            return (Outcome::Insufficient, format!("{fewest} sessions of {cell} on an evening, {minimum} needed"));
        }
        if let Some(isp) = unmeasured {
            return (Outcome::Insufficient, format!("no session of {isp}"));
        }
        if accepted.baseline.is_empty() && !accepted.elsewhere.is_empty() {
            let text =
                "no baseline to tell a regression elsewhere by: neither evenings of the 14 days before nor a prelude";
            return (Outcome::Insufficient, text.to_owned());
        }
        if let Some(untold) = accepted.complaints.iter().find(|held| held.measured.estimate.is_nan()) {
            let text = format!(
                "no complaints of {} to hold against a baseline: give a CSV with a row for each evening and for its baseline, 0 where there were none",
                untold.evening
            );
            return (Outcome::Insufficient, text);
        }
        if let Some(unsure) = all().find(|held| held.outcome == Outcome::Insufficient) {
            return (Outcome::Insufficient, format!("not sure enough: {}", unsure.text()));
        }
        let left_out: u64 = accepted.too_small.iter().map(|(_, fewest)| fewest).sum();
        let first = accepted.evenings.first();
        let judged: u64 =
            all().filter(|held| held.metric == RTT && Some(&held.evening) == first).map(|held| held.sessions).sum();
        if left_out as f64 > UNJUDGED * (left_out + judged) as f64 {
            let text = format!("{left_out} sessions are in cohorts too small to be held against a baseline");
            return (Outcome::Insufficient, text);
        }
        let dates: Vec<_> = accepted.evenings.iter().map(Date::to_string).collect();
        let cohorts: BTreeSet<&Scope> = accepted.targets.iter().map(|held| &held.cohort).collect();
        let against = if accepted.elsewhere.is_empty() { "no cohort elsewhere" } else { "no regression elsewhere" };
        let complaints = if accepted.complaints.is_empty() { "" } else { ", complaints are at their baseline" };
        (
            Outcome::Pass,
            format!(
                "rtt.p95, ipdv.p95 and loss of {} cohorts are at or under target on {}, {against}{complaints}",
                cohorts.len(),
                dates.join(" and ")
            ),
        )
    }

    fn sample(&self, cell: &Cell, window: Window) -> Sample<'_> {
        Sample::new(self.cohorts.get(&(cell.clone(), window)))
    }

    fn is_target(&self, isp: &str) -> bool {
        let target = &self.experiment.policy.target.isp;
        target.is_empty() || target.iter().any(|name| name == isp)
    }
}

/// One row; unknown where nothing was measured.
fn held(
    metric: Metric,
    cohort: Scope,
    evening: Date,
    sessions: u64,
    measured: Option<Interval>,
    limit: f64,
    from_baseline: bool,
) -> Held {
    let unknown = Interval { estimate: f64::NAN, low: f64::NEG_INFINITY, high: f64::INFINITY };
    let measured = measured.unwrap_or(unknown);
    let outcome = match measured {
        Interval { high, .. } if high <= limit => Outcome::Pass,
        Interval { low, .. } if low > limit => Outcome::Fail,
        _ => Outcome::Insufficient,
    };
    Held { metric, cohort, evening, from_baseline, sessions, measured, limit, outcome }
}

const RTT: Metric = Metric::Quantile { series: Series::Rtt, level: Level::P95 };
const IPDV: Metric = Metric::Quantile { series: Series::Ipdv, level: Level::P95 };
