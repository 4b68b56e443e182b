//! From sessions to findings: every question of the policy answered with an estimate, an interval and the sessions behind it.
//!
//! The unit is the session. Quantiles are taken in strata and averaged over families and evenings with weights fixed beforehand (the sessions
//! of the A/A prelude on both arms), so a shift of the mix between arms cannot flip a sign. Intervals come from resampling sessions whole
//! (percentile bootstrap), probabilities from re-drawing the seeded assignment. Nothing here decides; [`crate::policy`] does.

mod rates;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use pathlab_record::SessionKey;
use pathlab_stats::{
    Confidence, Generator, Interval, Level, MaxT, Rate, Replicates, Tail, design_effect, rate_difference, sample_ratio,
    smallest_detectable, standard_error,
};
use rand::RngExt;

use crate::{
    Error, Experiment, Ingested, Metric, Remark, Series, Share, Window,
    described::{compare_pooled, describe},
    difference::{Column, Plan, bounded, is_dead},
    early,
    findings::{Answer, Arms, Checks, Findings, IspFindings, Ratio, Scope, Unjudged, When},
    ingest::Session,
    policy,
    stratum::{Cell, Population, Unit},
    verdict::Verdict,
};

/// Power at which the smallest detectable effect is stated.
const POWER: f64 = 0.8;
/// Packets that one loss episode is taken to cost while too few lossy sessions were seen to tell.
const EPISODE: f64 = 10.0;
/// Assignments that are re-drawn first.
const FIRST_REDRAWS: usize = 500;
/// A probability that is near enough to a decision to re-draw all of them.
const NEAR: f64 = 0.01;
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
    // A bucket below the share goes to the canary; a ramp may have raised the share in between.
    let canary = |seed: u32, key: &SessionKey, share: f64| {
        bucket(seed, key).map(|bucket| f64::from(bucket) + 0.5 < share * f64::from(Share::BUCKETS))
    };
    let population = Population::new(experiment, ingested, |key, share| canary(seed, key, share));
    if population.units.is_empty() && ingested.pooled.is_empty() {
        let remarks: Vec<_> = ingested.remarks().iter().map(|(remark, remarks)| remarks.in_words(*remark)).collect();
        let why = if remarks.is_empty() { "the inputs are empty".to_owned() } else { remarks.join("; ") };
        return Err(Error::NoSession { why });
    }
    let by_key =
        population.units.iter().all(|unit| unit.key.is_some_and(|key| canary(seed, &key, unit.share).is_some()));
    let units = &population.units;
    let assign = |generator: &mut Generator, arms: &mut Vec<bool>| {
        arms.clear();
        if by_key {
            let other = generator.random();
            let arm = |unit: &Unit<'_>| unit.key.and_then(|key| canary(other, &key, unit.share)).unwrap_or(false);
            arms.extend(units.iter().map(arm));
        } else {
            arms.extend(units.iter().map(|unit| generator.random_bool(unit.share)));
        }
    };
    let findings = Judge::new(experiment, ingested, &population).findings(seed, by_key, assign);
    Ok(Verdict::new(experiment, seed, ingested, findings))
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

    fn findings(&self, seed: u32, by_key: bool, assign: impl Fn(&mut Generator, &mut Vec<bool>) + Sync) -> Findings {
        let mut plan = Plan::new(self.population, self.weights.clone());
        let strata = self.strata(&mut plan);
        let cells = self.cells(&mut plan);
        let isps = self.isps(&mut plan);
        let prelude = self.prelude(&mut plan);
        let mut guardrails = self.quantile_guardrails(&mut plan);
        guardrails.extend(self.rate_guardrails(&mut plan));

        let capacity = self.capacity(&mut plan);

        let replicates = self.experiment.policy.replicates as usize;
        let observed = plan.observed();
        let resampled = plan.bootstrap(seed.into(), replicates);
        let mut redrawn = plan.redraw(seed.into(), FIRST_REDRAWS, &assign);

        let answer = |question: &Question| self.answer(question, &observed, &resampled);
        let harm: Vec<&Question> = cells.iter().chain(isps.iter().map(|(whole, _)| whole)).chain(&guardrails).collect();
        let metrics: BTreeSet<Metric> = harm.iter().map(|question| question.metric).collect();
        // Where nothing is near a decision, the first assignments say so, and the rest are spared (J. Besag and P. Clifford,
        // Biometrika 78 (1991)): a p that could decide always comes from all of them.
        let near = |questions: &[&Question], tail: Tail| {
            let p = family(questions, &observed, &redrawn, tail);
            questions.iter().zip(p).any(|(question, p)| p <= NEAR && self.could_decide(&answer(question), tail))
        };
        let near_harm = metrics.iter().any(|metric| {
            let of_metric: Vec<_> = harm.iter().copied().filter(|question| question.metric == *metric).collect();
            near(&of_metric, Tail::Above)
        });
        let near = near_harm
            || isps.iter().any(|(whole, _)| near(&[whole], Tail::Below))
            || near(&prelude.iter().collect::<Vec<_>>(), Tail::Either);
        if near {
            let count = replicates.max(policy::redraws(self.experiment));
            redrawn = plan.redraw(seed.into(), count, &assign);
        }

        let evening_isps = isps.iter().flat_map(|(_, evenings)| evenings);
        let mut worse = BTreeMap::new();
        // One family for each metric: the wild tails of one must not hide another.
        for metric in metrics {
            let of_metric: Vec<_> = harm.iter().copied().filter(|question| question.metric == metric).collect();
            let p = family(&of_metric, &observed, &redrawn, Tail::Above);
            worse.extend(of_metric.iter().map(|question| (metric, question.scope.clone())).zip(p));
        }
        let answer_worse = |question: &Question| Answer {
            p_worse: worse.get(&(question.metric, question.scope.clone())).copied(),
            ..answer(question)
        };
        let cells: Vec<_> = cells.iter().map(answer_worse).collect();
        let wholes: Vec<_> = isps.iter().map(|(whole, _)| answer_worse(whole)).collect();
        let guardrails = guardrails.iter().map(answer_worse).collect();
        let better = isps.iter().map(|(whole, _)| family(&[whole], &observed, &redrawn, Tail::Below).pop());
        let aa: Vec<&Question> = prelude.iter().collect();
        let differs = family(&aa, &observed, &redrawn, Tail::Either);
        let mut evening_answers = evening_isps.map(answer);
        let isps = wholes
            .into_iter()
            .zip(better)
            .map(|(whole, p_better)| IspFindings {
                target: self.is_target(whole.scope.isp.as_deref().unwrap_or_default()),
                whole: Answer { p_better, ..whole },
                evenings: evening_answers.by_ref().take(self.evenings.len()).collect(),
            })
            .collect();
        let prelude_p95 = (0..self.population.cells.len())
            .map(|cell| plan.both_arms(Window::Aa, Series::Rtt, Level::P95, cell).filter(|p95| p95.is_finite()))
            .collect::<Vec<_>>();
        Findings {
            described: describe(self.population, self.ingested),
            pooled: compare_pooled(self.experiment, self.ingested),
            early: early::looks(self.experiment, self.population, &prelude_p95),
            capacity: capacity.iter().map(answer).collect(),
            in_progress: self.ingested.in_progress.map(|(window, until, _)| (window.to_string(), until)),
            redraws: redrawn.len() as u64,
            evenings: self.evenings.iter().map(Window::to_string).collect(),
            strata: strata.iter().map(answer).collect(),
            cells,
            isps,
            guardrails,
            prelude: prelude.iter().zip(differs).map(|(q, p)| Answer { p_differs: Some(p), ..answer(q) }).collect(),
            prelude_seen: self.population.windows().contains(&Window::Aa),
            unjudged: self.unjudged(),
            checks: self.checks(by_key),
        }
    }

    /// Whether an answer would decide anything if its probability were small.
    fn could_decide(&self, answer: &Answer, tail: Tail) -> bool {
        match tail {
            Tail::Above => answer.interval.low > 0.0,
            Tail::Below => answer.interval.high < 0.0,
            Tail::Either => answer.interval.estimate.abs() > policy::PRELUDE_MARGIN * answer.margin,
        }
    }

    /// Every stratum that both arms were seen in: ISP, family, window.
    fn strata(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        let windows = self.population.windows();
        let strata =
            windows.iter().flat_map(|window| (0..self.population.cells.len()).map(move |cell| (*window, cell)));
        strata
            .filter(|(window, cell)| self.population.sessions(*cell, *window).iter().all(|arm| *arm > 0))
            .map(|(window, cell)| {
                let terms = self.primary_terms(plan, &[window], &[cell]);
                self.primary(Scope::cell(&self.population.cells[cell]), When::of(window), terms, &[cell], &[window])
            })
            .collect()
    }

    /// Every powered cell over the evenings.
    fn cells(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        self.powered_cells()
            .into_iter()
            .map(|cell| {
                let terms = self.primary_terms(plan, &self.evenings, &[cell]);
                self.primary(Scope::cell(&self.population.cells[cell]), When::Evenings, terms, &[cell], &self.evenings)
            })
            .collect()
    }

    /// Every ISP with a powered cell: over the evenings, and evening by evening.
    fn isps(&self, plan: &mut Plan<'_>) -> Vec<(Question, Vec<Question>)> {
        self.powered_isps()
            .into_iter()
            .map(|(isp, cells)| {
                let mut ask = |when: When, windows: &[Window]| {
                    let terms = self.primary_terms(plan, windows, &cells);
                    self.primary(Scope::isp(&isp), when, terms, &cells, windows)
                };
                let whole = ask(When::Evenings, &self.evenings);
                (whole, self.evenings.iter().map(|window| ask(When::of(*window), &[*window])).collect())
            })
            .collect()
    }

    /// Whether the canary got worse as its share was raised, beyond what happened to control: by ISP, from the first evening to the last.
    fn capacity(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        let share = |window: &Window| {
            let sessions = self.population.units.iter().flat_map(|unit| &unit.sessions);
            sessions.filter_map(|session| session.windows.get(window)?.share).max()
        };
        let mut steps: Vec<(u16, Window)> =
            self.evenings.iter().filter_map(|window| Some((share(window)?, *window))).collect();
        steps.sort_unstable();
        let (Some((low, before)), Some((high, after))) = (steps.first().copied(), steps.last().copied()) else {
            return Vec::new();
        };
        if low == high {
            return Vec::new();
        }
        let isps = self.powered_isps();
        let ask = |(isp, cells): (String, Vec<usize>)| {
            let mut terms = self.primary_terms(plan, &[after], &cells);
            terms.extend(self.primary_terms(plan, &[before], &cells).into_iter().map(|(weight, at)| (-weight, at)));
            self.primary(Scope::isp(&isp), When::Evenings, terms, &cells, &[before, after])
        };
        isps.into_iter().map(ask).collect()
    }

    /// The prelude, by ISP and by cell, where it has the policy's minimum.
    fn prelude(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        let minimum = u64::from(minimum(self.experiment));
        let enough = |cell: &usize| self.population.sessions(*cell, Window::Aa).iter().all(|arm| *arm >= minimum);
        let mut questions = Vec::new();
        for (isp, cells) in self.powered_isps() {
            let cells: Vec<usize> = cells.into_iter().filter(enough).collect();
            if cells.is_empty() {
                continue;
            }
            let mut ask = |scope, cells: &[usize]| {
                let terms = self.primary_terms(plan, &[Window::Aa], cells);
                self.primary(scope, When::Prelude, terms, cells, &[Window::Aa])
            };
            questions.push(ask(Scope::isp(&isp), &cells));
            questions.extend(cells.iter().map(|cell| ask(Scope::cell(&self.population.cells[*cell]), &[*cell])));
        }
        questions
    }

    /// Latency guardrails, over the smallest groups of strata that hold the level: by ISP from its strata, by ISP merged, or all merged.
    fn quantile_guardrails(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        let mut questions = Vec::new();
        for metric in &self.experiment.policy.guardrails {
            let Metric::Quantile { series, level } = *metric else { continue };
            let confidence = Confidence::P90; // each limit one-sided 95 %
            let needed = level.fewest(1.0 - confidence.tail());
            let canaries = |cells: &[usize]| {
                let sessions = self.evenings.iter().map(|window| self.arms(cells, &[*window]).canary);
                sessions.min().unwrap_or(0)
            };
            let isps = self.powered_isps();
            let strata_hold = self.powered_cells().iter().all(|cell| canaries(&[*cell]) >= needed.into());
            let isps_hold = isps.iter().all(|(_, cells)| canaries(cells) >= needed.into());
            let mut ask = |scope, cells: &[usize], blocks: &[(f64, Range<usize>)]| {
                let each = 1.0 / self.evenings.len() as f64;
                let terms = self.evenings.iter().flat_map(|window| blocks.iter().map(move |block| (*window, block)));
                let terms = terms
                    .map(|(window, (weight, block))| {
                        (each * weight, plan.quantile(window, series, level, block.clone()))
                    })
                    .collect();
                let short = canaries(cells) < needed.into();
                questions.push(Question {
                    metric: *metric,
                    scope,
                    when: When::Evenings,
                    terms,
                    arms: self.arms(cells, &self.evenings),
                    confidence,
                    interval: None,
                    needed: short.then_some(needed),
                });
            };
            if isps.is_empty() {
                continue;
            }
            if strata_hold || isps_hold {
                for (isp, cells) in &isps {
                    let merged = [(1.0, cells[0]..cells[cells.len() - 1] + 1)];
                    let apart: Vec<_> = self
                        .shares(cells)
                        .into_iter()
                        .zip(cells)
                        .map(|(weight, cell)| (weight, *cell..cell + 1))
                        .collect();
                    ask(Scope::isp(isp), cells, if strata_hold { &apart } else { &merged });
                }
            } else {
                let all = self.powered_cells();
                ask(Scope::all(), &all, &[(1.0, 0..self.population.cells.len())]);
            }
        }
        questions
    }

    fn primary_terms(&self, plan: &mut Plan<'_>, windows: &[Window], cells: &[usize]) -> Vec<(f64, Column)> {
        let Metric::Quantile { series, level } = self.experiment.policy.metric else { return Vec::new() };
        let each = 1.0 / windows.len() as f64;
        let shares = self.shares(cells);
        let mut terms = Vec::new();
        for window in windows {
            for (cell, share) in cells.iter().zip(&shares) {
                terms.push((each * share, plan.quantile(*window, series, level, *cell..cell + 1)));
            }
        }
        terms
    }

    fn primary(
        &self,
        scope: Scope,
        when: When,
        terms: Vec<(f64, Column)>,
        cells: &[usize],
        windows: &[Window],
    ) -> Question {
        let metric = self.experiment.policy.metric;
        let arms = self.arms(cells, windows);
        Question { metric, scope, when, terms, arms, confidence: self.confidence, interval: None, needed: None }
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

    fn answer(&self, question: &Question, observed: &[[f64; 2]], resampled: &Replicates) -> Answer {
        let side =
            |arm: usize| question.terms.iter().map(|(weight, column)| weight * observed[*column][arm]).sum::<f64>();
        let derive = |row: &[f64]| question.terms.iter().map(|(weight, column)| weight * row[*column]).sum::<f64>();
        let [control, canary] = [side(0), side(1)];
        let interval = question.interval.unwrap_or_else(|| {
            Interval::percentile(canary - control, resampled.rows().map(derive), question.confidence)
        });
        let error = match question.interval {
            Some(interval) => (interval.high - interval.low) / (2.0 * question.confidence.z()),
            None => standard_error(resampled.rows().map(derive)),
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
            smallest_detectable: smallest_detectable(error, question.confidence, POWER),
            needed: question.needed,
            p_worse: None,
            p_better: None,
            p_differs: None,
        }
    }

    fn unjudged(&self) -> Vec<Unjudged> {
        let cells = (0..self.population.cells.len()).filter(|cell| !self.powered[*cell]);
        cells
            .map(|cell| {
                let fewest = self.evenings.iter().map(|window| self.population.sessions(cell, *window));
                let [control, canary] = fewest.reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1])]).unwrap_or([0; 2]);
                let Cell { isp, family } = self.population.cells[cell].clone();
                Unjudged { isp, family, sessions: Arms { control, canary }, needed: minimum(self.experiment) }
            })
            .collect()
    }

    fn checks(&self, by_key: bool) -> Checks {
        let all: Vec<usize> = (0..self.population.cells.len()).collect();
        let windows = self.population.windows();
        let count = |cells: &[usize]| {
            // Units, since they are what was assigned.
            let present = |unit: &&Unit<'_>| windows.iter().any(|window| unit.seen(*window).next().is_some());
            let units =
                cells.iter().flat_map(|cell| &self.population.units[self.population.range(*cell)]).filter(present);
            units.fold(([0, 0], 0.0), |([control, canary], share), unit| {
                let arms = if unit.canary { [control, canary + 1] } else { [control + 1, canary] };
                (arms, share + unit.share)
            })
        };
        let mut groups = vec![(Scope::all(), all.clone())];
        groups.extend(all.iter().map(|cell| (Scope::cell(&self.population.cells[*cell]), vec![*cell])));
        let ratios = groups.into_iter().filter_map(|(scope, cells)| {
            let ([control, canary], share) = count(&cells);
            let share = share / (control + canary).max(1) as f64;
            let answer = sample_ratio(control, canary, share)?;
            Some(Ratio { scope, sessions: Arms { control, canary }, seen: answer.seen, expected: share, p: answer.p })
        });
        let lines = |remark: Remark| self.ingested.remarks().get(&remark).map_or(0, |remarks| remarks.lines);
        Checks {
            sample_ratio: ratios.collect(),
            lines: self.ingested.judged_lines(),
            crossed_over: lines(Remark::CrossedOver),
            sessions: self.population.units.iter().map(|unit| unit.sessions.len() as u64).sum(),
            without_arm: self.population.without_arm,
            assignable: self.population.assignable,
            misassigned: self.population.misassigned,
            redrawn_by_key: by_key,
        }
    }
}

/// Fewest sessions on each arm of a stratum: the policy's, and not below what a limit of its quantile takes.
fn minimum(experiment: &Experiment) -> u32 {
    let level = match experiment.policy.metric {
        Metric::Quantile { level, .. } => level.fewest(1.0 - Confidence::P95.tail()),
        Metric::Loss | Metric::TailSessions => 0,
    };
    experiment.policy.min_sessions.max(level)
}

/// The adjusted probabilities of a family of questions under re-drawn assignments, in their order.
fn family(questions: &[&Question], observed: &[[f64; 2]], redrawn: &Replicates, tail: Tail) -> Vec<f64> {
    if questions.is_empty() {
        return Vec::new();
    }
    let derive = |value: &dyn Fn(Column) -> f64| -> Vec<f64> {
        let of = |question: &&Question| question.terms.iter().map(|(weight, column)| weight * value(*column)).sum();
        questions.iter().map(of).collect()
    };
    let here = derive(&|column| bounded(observed[column]));
    let rows = redrawn.rows().flat_map(|row| derive(&|column| row[column])).collect();
    let columns: Vec<usize> = (0..questions.len()).collect();
    MaxT::new(&here, Replicates::from_rows(rows, questions.len()), &columns).p(tail)
}
