//! From sessions to findings: every question of the policy answered with an estimate, an interval and the sessions behind it.
//!
//! The unit is the session. Quantiles are taken in strata and averaged over families and evenings with weights fixed beforehand (the sessions
//! of the A/A prelude on both arms), so a shift of the mix between arms cannot flip a sign. Intervals come from resampling sessions whole
//! (BCa bootstrap), probabilities from re-drawing the seeded assignment. Nothing here decides; [`crate::policy`] does.

mod checks;
mod questions;
pub(crate) mod rates;
mod redraws;

use std::{collections::BTreeSet, ops::Range};

use pathlab_record::{Arm, SessionKey};
use pathlab_stats::{
    Confidence, Generator, Interval, Level, Rate, Replicates, Tail, acceleration, binomial_tail, design_effect,
    rate_difference, sample_ratio, smallest_detectable, standard_error,
};
use rand::RngExt;

use redraws::Family;

use crate::{
    Error, Experiment, Ingested, Metric, Remark, Series, Share, Window,
    acceptance::accept_those,
    described::{compare_pooled, describe},
    difference::{Column, Plan, is_dead},
    early,
    findings::{Answer, Arms, Checks, Findings, IspFindings, Ratio, Scope, Unjudged, When},
    ingest::Session,
    policy,
    stratum::{Cell, Population, Unit, share_of},
    verdict::Verdict,
};

/// Power at which the smallest detectable effect is stated.
const POWER: f64 = 0.8;
/// Lossy sessions from which on the data say how bursty loss is.
const ENOUGH_LOSSY: usize = 30;

/// Judges an experiment. `seed` is the assignment's seed, and that of everything random in here; `bucket(seed, key)` is the assignment function,
/// 0 to 9,999, of which buckets below the share go to the canary, or `None` where the key is not what is hashed.
///
/// # Errors
/// [`Error::NoSession`] when no line could be used.
pub fn judge(
    experiment: &Experiment,
    seed: u32,
    ingested: &Ingested,
    bucket: impl Fn(u32, &SessionKey) -> Option<u16> + Sync,
) -> Result<Verdict, Error> {
    let population = population(experiment, seed, ingested, &bucket)?;
    let assignment = Assignment::new(seed, &population, &bucket);
    Ok(verdict(&Judge::new(experiment, ingested, &population), seed, &assignment))
}

/// The verdict that [`judge`] comes to, or `None` where the first assignments that are re-drawn show that nothing is near a decision: it is then Hold,
/// and no interval was taken. For those who judge thousands of simulated experiments.
///
/// # Errors
/// As [`judge`].
pub fn judge_if_near(
    experiment: &Experiment,
    seed: u32,
    ingested: &Ingested,
    bucket: impl Fn(u32, &SessionKey) -> Option<u16> + Sync,
) -> Result<Option<Verdict>, Error> {
    let population = population(experiment, seed, ingested, &bucket)?;
    let assignment = Assignment::new(seed, &population, &bucket);
    let judge = Judge::new(experiment, ingested, &population);
    if judge.nothing_is_near(seed, &assignment) {
        return Ok(None);
    }
    Ok(Some(verdict(&judge, seed, &assignment)))
}

fn verdict<B>(judge: &Judge<'_>, seed: u32, assignment: &Assignment<'_, B>) -> Verdict
where
    B: Fn(u32, &SessionKey) -> Option<u16> + Sync,
{
    let Judge { experiment, ingested, .. } = judge;
    let on_canary = |session: &Session| {
        let computed = || canary((assignment.bucket)(seed, session.key.as_ref()?), share_of(experiment, session));
        session.arm.map(|arm| arm == Arm::Canary).or_else(computed).unwrap_or(false)
    };
    let acceptance = accept_those(experiment, seed, ingested, on_canary);
    Verdict::new(experiment, seed, ingested, Findings { acceptance, ..judge.findings(seed, assignment) })
}

/// The sessions in their cells and on their arms.
fn population<'a>(
    experiment: &Experiment,
    seed: u32,
    ingested: &'a Ingested,
    bucket: &impl Fn(u32, &SessionKey) -> Option<u16>,
) -> Result<Population<'a>, Error> {
    let population = Population::new(experiment, ingested, |key, share| canary(bucket(seed, key), share));
    if population.units.is_empty() && ingested.pooled.is_empty() {
        let remarks: Vec<_> = ingested.remarks().iter().map(|(remark, remarks)| remarks.in_words(*remark)).collect();
        let why = if remarks.is_empty() { "the inputs are empty".to_owned() } else { remarks.join("; ") };
        return Err(Error::NoSession { why });
    }
    Ok(population)
}

/// A bucket below the share goes to the canary; a ramp may have raised the share in between.
fn canary(bucket: Option<u16>, share: f64) -> Option<bool> {
    bucket.map(|bucket| f64::from(bucket) + 0.5 < share * f64::from(Share::BUCKETS))
}

/// How the arms could have been drawn: by the assignment function where all keys are known, by a coin of the same share otherwise.
struct Assignment<'a, B> {
    units: &'a [Unit<'a>],
    by_key: bool,
    bucket: B,
}

impl<'a, B: Fn(u32, &SessionKey) -> Option<u16> + Sync> Assignment<'a, B> {
    fn new(seed: u32, population: &'a Population<'a>, bucket: B) -> Self {
        let units = &population.units[..];
        let hashed = |unit: &Unit<'_>| unit.key.is_some_and(|key| bucket(seed, &key).is_some());
        Self { units, by_key: units.iter().all(hashed), bucket }
    }

    fn draw(&self, generator: &mut Generator, arms: &mut Vec<bool>) {
        arms.clear();
        if !self.by_key {
            arms.extend(self.units.iter().map(|unit| generator.random_bool(unit.share)));
            return;
        }
        let other = generator.random();
        let bucket = |unit: &Unit<'_>| unit.key.and_then(|key| (self.bucket)(other, &key));
        arms.extend(self.units.iter().map(|unit| canary(bucket(unit), unit.share).unwrap_or(false)));
    }
}

struct Judge<'a> {
    experiment: &'a Experiment,
    ingested: &'a Ingested,
    population: &'a Population<'a>,
    evenings: Vec<Window>,
    /// By cell: whether every evening has the policy's minimum on both arms.
    powered: Vec<bool>,
    weights: Vec<f64>,
    confidence: Confidence,
}

/// A question on its way to an answer: which columns, with which weights.
struct Question {
    metric: Metric,
    scope: Scope,
    when: When,
    terms: Vec<(f64, Column)>,
    arms: Arms<u64>,
    confidence: Confidence,
    /// Limits of a rate, which do not come from resampling.
    interval: Option<Interval>,
    needed: Option<u32>,
}

/// All that is asked of one experiment.
struct Asked {
    strata: Vec<Question>,
    cells: Vec<Question>,
    /// Each over the evenings, and evening by evening.
    isps: Vec<(Question, Vec<Question>)>,
    prelude: Vec<Question>,
    guardrails: Vec<Question>,
    capacity: Vec<Question>,
}

impl Asked {
    /// The questions that share one probability of being wrong. Harm has a family for each metric: the wild tails of one must not hide another.
    fn families(&self) -> Vec<Family<'_>> {
        let wholes = || self.isps.iter().map(|(whole, _)| whole);
        let harm = || self.cells.iter().chain(wholes()).chain(&self.guardrails);
        let metrics: BTreeSet<Metric> = harm().map(|question| question.metric).collect();
        let of_metric = |metric| Family {
            questions: harm().filter(|question| question.metric == metric).collect(),
            tail: Tail::Above,
        };
        let mut families: Vec<_> = metrics.into_iter().map(of_metric).collect();
        families.extend(wholes().map(|whole| Family { questions: vec![whole], tail: Tail::Below }));
        families.push(Family { questions: self.prelude.iter().collect(), tail: Tail::Either });
        families
    }
}

/// What the bootstrap gave: rows of both arms of each column, and how skewed the influence of units on each is.
struct Resampled {
    rows: Replicates,
    skewness: Vec<[f64; 2]>,
}

impl<'a> Judge<'a> {
    fn new(experiment: &'a Experiment, ingested: &'a Ingested, population: &'a Population<'a>) -> Self {
        let windows = population.windows();
        // An evening that is not over is for the early looks alone: what is looked at group-wise was planned in whole evenings.
        let over = |window: &Window| ingested.in_progress.is_none_or(|(unfinished, ..)| unfinished != *window);
        let evenings: Vec<_> = windows.iter().copied().filter(|window| *window != Window::Aa && over(window)).collect();
        let minimum = u64::from(minimum(experiment));
        let enough = |cell: usize, window: Window| population.sessions(cell, window).iter().all(|arm| *arm >= minimum);
        let cells = 0..population.cells.len();
        let powered = cells
            .clone()
            .map(|cell| !evenings.is_empty() && evenings.iter().all(|window| enough(cell, *window)))
            .collect::<Vec<_>>();
        let sessions = |cell: usize, window: Window| population.sessions(cell, window).iter().sum::<u64>() as f64;
        let before: Vec<_> = cells.clone().map(|cell| sessions(cell, Window::Aa)).collect();
        let registered = before.iter().zip(&powered).all(|(sessions, powered)| *sessions > 0.0 || !powered);
        let weights = cells
            .map(|cell| match (powered[cell], registered) {
                (false, _) => 0.0,
                (true, true) => before[cell],
                (true, false) => evenings.iter().map(|window| sessions(cell, *window)).sum(),
            })
            .collect();
        Self { experiment, ingested, population, evenings, powered, weights, confidence: Confidence::P95 }
    }

    fn ask(&self, plan: &mut Plan<'_>) -> Asked {
        let strata = self.strata(plan);
        let cells = self.cells(plan);
        let isps = self.isps(plan);
        let prelude = self.prelude(plan);
        let mut guardrails = self.quantile_guardrails(plan);
        guardrails.extend(self.rate_guardrails(plan));
        let capacity = self.capacity(plan);
        Asked { strata, cells, isps, prelude, guardrails, capacity }
    }

    /// Whether the first assignments that are re-drawn, and the looks at every bin, show that nothing can be decided, whatever the intervals.
    fn nothing_is_near<B>(&self, seed: u32, assignment: &Assignment<'_, B>) -> bool
    where
        B: Fn(u32, &SessionKey) -> Option<u16> + Sync,
    {
        let mut plan = Plan::new(self.population, self.weights.clone());
        let asked = self.ask(&mut plan);
        self.ingested.pooled.is_empty()
            && self.ingested.complaints.is_none()
            && self.none_is_near(seed, assignment, &plan, &asked)
            && !early::looks(self.experiment, self.population, &self.prelude_p95(&plan)).reached()
    }

    fn findings<B>(&self, seed: u32, assignment: &Assignment<'_, B>) -> Findings
    where
        B: Fn(u32, &SessionKey) -> Option<u16> + Sync,
    {
        let mut plan = Plan::new(self.population, self.weights.clone());
        let asked = self.ask(&mut plan);
        let observed = plan.observed();
        let replicates = self.experiment.policy.replicates as usize;
        let resampled = Resampled { rows: plan.bootstrap(seed.into(), replicates), skewness: plan.skewness(&observed) };
        let answer = |question: &Question| self.answer(question, &observed, &resampled);
        let chance = self.probabilities(seed, assignment, &plan, &asked, &observed, answer);
        let answer_worse = |question: &Question| Answer { p_worse: chance.worse(question), ..answer(question) };
        let isps = asked.isps.iter().map(|(whole, evenings)| IspFindings {
            target: self.is_target(whole.scope.isp.as_deref().unwrap_or_default()),
            whole: Answer { p_better: chance.better(whole), ..answer_worse(whole) },
            evenings: evenings.iter().map(answer).collect(),
        });
        let prelude = asked.prelude.iter().zip(&chance.prelude);
        Findings {
            described: describe(self.population, self.ingested),
            pooled: compare_pooled(self.experiment, self.ingested),
            early: early::looks(self.experiment, self.population, &self.prelude_p95(&plan)),
            capacity: asked.capacity.iter().map(answer).collect(),
            in_progress: self.ingested.in_progress.map(|(window, until, _)| (window.to_string(), until)),
            redraws: chance.redraws as u64,
            evenings: self.evenings.iter().map(Window::to_string).collect(),
            strata: asked.strata.iter().map(answer).collect(),
            cells: asked.cells.iter().map(answer_worse).collect(),
            isps: isps.collect(),
            guardrails: asked.guardrails.iter().map(answer_worse).chain(self.complaints()).collect(),
            prelude: prelude.map(|(question, p)| Answer { p_differs: Some(*p), ..answer(question) }).collect(),
            prelude_seen: self.population.windows().contains(&Window::Aa),
            unjudged: self.unjudged(),
            acceptance: None,
            checks: self.checks(assignment.by_key),
        }
    }

    fn may_promote(&self) -> bool {
        policy::is_look(self.experiment, self.evenings.len())
    }

    /// The prelude's p95 of each cell, both arms together: what counts as slow in the looks at every bin.
    fn prelude_p95(&self, plan: &Plan<'_>) -> Vec<Option<f64>> {
        let p95 = |cell| plan.both_arms(Window::Aa, Series::Rtt, Level::P95, cell);
        (0..self.population.cells.len()).map(|cell| p95(cell).filter(|p95| p95.is_finite())).collect()
    }

    /// Whether an answer would decide anything if its probability were small.
    fn could_decide(&self, answer: &Answer, tail: Tail) -> bool {
        match tail {
            Tail::Above => answer.interval.low > 0.0,
            Tail::Below => answer.interval.high < 0.0,
            Tail::Either => answer.interval.estimate.abs() > policy::PRELUDE_MARGIN * answer.margin,
        }
    }

    /// Weights of cells among each other; all alike where none has one.
    fn shares(&self, cells: &[usize]) -> Vec<f64> {
        let whole: f64 = cells.iter().map(|cell| self.weights[*cell]).sum();
        let alike = 1.0 / cells.len() as f64;
        cells.iter().map(|cell| if whole > 0.0 { self.weights[*cell] / whole } else { alike }).collect()
    }

    fn powered_cells(&self) -> Vec<usize> {
        (0..self.population.cells.len()).filter(|cell| self.powered[*cell]).collect()
    }

    fn powered_isps(&self) -> Vec<(String, Vec<usize>)> {
        let isps: BTreeSet<_> = self.powered_cells().iter().map(|cell| &self.population.cells[*cell].isp).collect();
        let cells = |isp: &String| {
            self.powered_cells().into_iter().filter(|cell| self.population.cells[*cell].isp == *isp).collect()
        };
        isps.into_iter().map(|isp| (isp.clone(), cells(isp))).collect()
    }

    fn is_target(&self, isp: &str) -> bool {
        let target = &self.experiment.policy.target.isp;
        target.is_empty() || target.iter().any(|name| name == isp)
    }

    /// Sessions of both arms, each counted once.
    fn arms(&self, cells: &[usize], windows: &[Window]) -> Arms<u64> {
        let mut arms = Arms { control: 0, canary: 0 };
        for unit in cells.iter().flat_map(|cell| &self.population.units[self.population.range(*cell)]) {
            let present = |session: &&&Session| windows.iter().any(|window| session.windows.contains_key(window));
            let sessions = unit.sessions.iter().filter(present).count() as u64;
            *(if unit.canary { &mut arms.canary } else { &mut arms.control }) += sessions;
        }
        arms
    }

    fn answer(&self, question: &Question, observed: &[[f64; 2]], resampled: &Resampled) -> Answer {
        let side =
            |arm: usize| question.terms.iter().map(|(weight, column)| weight * observed[*column][arm]).sum::<f64>();
        let [control, canary] = [side(0), side(1)];
        let (interval, error) = match question.interval {
            Some(interval) => (interval, (interval.high - interval.low) / (2.0 * question.confidence.z())),
            None => resampled.interval(canary - control, &question.terms, question.confidence),
        };
        Answer {
            metric: question.metric,
            scope: question.scope.clone(),
            when: question.when.clone(),
            sessions: question.arms,
            control,
            canary,
            interval,
            confidence: question.confidence.level(),
            margin: self.experiment.policy.margin_of(question.metric),
            // Resampled differences without an end have no standard error.
            smallest_detectable: match interval.low.is_finite() && interval.high.is_finite() {
                true => smallest_detectable(error, question.confidence, POWER),
                false => f64::INFINITY,
            },
            needed: question.needed,
            p_worse: None,
            p_better: None,
            p_differs: None,
        }
    }
}

impl Resampled {
    /// The BCa interval of a weighted sum of columns, and its standard error.
    fn interval(&self, estimate: f64, terms: &[(f64, Column)], confidence: Confidence) -> (Interval, f64) {
        let derive =
            |row: &[f64]| terms.iter().map(|(weight, at)| weight * (row[2 * at + 1] - row[2 * at])).sum::<f64>();
        let error = standard_error(self.rows.rows().map(derive));
        // Arms and strata are drawn apart.
        let arms = |(weight, column): &(f64, Column)| {
            [(0, -weight), (1, *weight)].map(|(arm, weight)| {
                (weight * standard_error(self.rows.column(2 * column + arm)), self.skewness[*column][arm])
            })
        };
        let acceleration = acceleration(terms.iter().flat_map(arms), error);
        let replicates = self.rows.rows().map(derive);
        (Interval::bca(estimate, replicates, acceleration, confidence), error)
    }
}

/// Fewest sessions on each arm of a stratum: the policy's, and not below what a limit of its quantile takes.
pub(crate) fn minimum(experiment: &Experiment) -> u32 {
    let level = match experiment.policy.metric {
        Metric::Quantile { level, .. } => level.fewest(1.0 - Confidence::P95.tail()),
        Metric::Loss | Metric::TailSessions | Metric::Complaints => 0,
    };
    experiment.policy.min_sessions.max(level)
}
