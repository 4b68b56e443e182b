//! Draws assignments again until each family of questions is settled, and no further: most are after the first few hundred.
//!
//! A family is called where few enough of all assignments that its level takes are as extreme as the one that was. Once more are
//! than that, drawing on cannot call it any more (J. Besag and P. Clifford, *Biometrika* 78 (1991)). Twice as many are waited for, because
//! centre and scale of a family's columns are still moving. A probability that calls something always comes from all assignments.

use std::collections::BTreeMap;

use pathlab_record::SessionKey;
use pathlab_stats::{Generator, MaxT, Replicates, Tail};

use super::{Asked, Assignment, Judge, Question};
use crate::{
    Metric,
    difference::{Column, Plan, bounded},
    findings::{Answer, Scope},
    policy,
};

/// Assignments that are drawn first.
const FIRST: usize = 500;
/// A probability among the first from which on a family is near a decision.
const NEAR: f64 = 0.01;

/// Questions that share one probability of being wrong.
pub(super) struct Family<'q> {
    pub(super) questions: Vec<&'q Question>,
    pub(super) tail: Tail,
}

impl Family<'_> {
    fn columns(&self) -> impl Iterator<Item = Column> {
        self.questions.iter().flat_map(|question| question.terms.iter().map(|(_, column)| *column))
    }

    /// The adjusted probability of each question under the first `rows` assignments, in the questions' order.
    fn p(&self, observed: &[[f64; 2]], redrawn: &Replicates, rows: usize) -> Vec<f64> {
        if self.questions.is_empty() {
            return Vec::new();
        }
        let derive = |value: &dyn Fn(Column) -> f64| -> Vec<f64> {
            let of = |question: &&Question| question.terms.iter().map(|(weight, column)| weight * value(*column)).sum();
            self.questions.iter().map(of).collect()
        };
        let here = derive(&|column| bounded(observed[column]));
        let rows = redrawn.rows().take(rows).flat_map(|row| derive(&|column| row[column])).collect();
        let columns: Vec<usize> = (0..self.questions.len()).collect();
        MaxT::new(&here, Replicates::from_rows(rows, self.questions.len()), &columns).p(self.tail)
    }
}

/// What re-drawn assignments say.
pub(super) struct Probabilities {
    /// How many were drawn for the family that took most.
    pub(super) redraws: usize,
    worse: BTreeMap<(Metric, Scope), f64>,
    better: BTreeMap<Scope, f64>,
    /// In the order of the prelude's questions.
    pub(super) prelude: Vec<f64>,
}

impl Probabilities {
    /// That chance makes the canary as much worse; none where nobody asked.
    pub(super) fn worse(&self, question: &Question) -> Option<f64> {
        self.worse.get(&(question.metric, question.scope.clone())).copied()
    }

    /// That chance makes the canary as much better in an ISP.
    pub(super) fn better(&self, question: &Question) -> Option<f64> {
        self.better.get(&question.scope).copied()
    }
}

impl Judge<'_> {
    /// Whether the first assignments show that nothing can be decided, whatever the intervals.
    pub(super) fn none_is_near<B>(
        &self,
        seed: u32,
        assignment: &Assignment<'_, B>,
        plan: &Plan<'_>,
        asked: &Asked,
    ) -> bool
    where
        B: Fn(u32, &SessionKey) -> Option<u16> + Sync,
    {
        let (observed, redrawn) = (plan.observed(), self.first(seed, assignment, plan));
        let families = asked.families().into_iter().filter(|family| self.may_promote() || family.tail != Tail::Below);
        !families.into_iter().any(|family| family.p(&observed, &redrawn, FIRST).into_iter().any(|p| p <= NEAR))
    }

    /// The probabilities of all families; `answer` says what else is known of a question.
    pub(super) fn probabilities<B>(
        &self,
        seed: u32,
        assignment: &Assignment<'_, B>,
        plan: &Plan<'_>,
        asked: &Asked,
        observed: &[[f64; 2]],
        answer: impl Fn(&Question) -> Answer,
    ) -> Probabilities
    where
        B: Fn(u32, &SessionKey) -> Option<u16> + Sync,
    {
        let families = asked.families();
        let decides = |family: &Family<'_>, at: usize| self.could_decide(&answer(family.questions[at]), family.tail);
        let mut redrawn = self.first(seed, assignment, plan);
        let mut rows = vec![FIRST; families.len()];
        let near = |family: &Family<'_>| {
            (self.may_promote() || family.tail != Tail::Below)
                && (family.p(observed, &redrawn, FIRST).into_iter().enumerate())
                    .any(|(at, p)| p <= NEAR && decides(family, at))
        };
        let mut open: Vec<usize> = (0..families.len()).filter(|at| near(&families[*at])).collect();
        while !open.is_empty() {
            let drawn = redrawn.len();
            let most = open.iter().map(|at| self.wanted(families[*at].tail)).max().unwrap_or(drawn);
            let columns = open.iter().flat_map(|at| families[*at].columns()).collect();
            let draw = |generator: &mut Generator, arms: &mut Vec<bool>| assignment.draw(generator, arms);
            redrawn.extend(&plan.redraw(seed.into(), drawn..most.min(2 * drawn), Some(&columns), draw));
            open.retain(|&at| {
                let (family, wanted) = (&families[at], self.wanted(families[at].tail));
                rows[at] = redrawn.len().min(wanted);
                let beyond = 2.0 * self.called(family.tail);
                let undecided =
                    |(question, p): (usize, f64)| p * (rows[at] + 1) as f64 <= beyond && decides(family, question);
                rows[at] < wanted && family.p(observed, &redrawn, rows[at]).into_iter().enumerate().any(undecided)
            });
        }
        let mut found = Probabilities {
            redraws: rows.iter().copied().max().unwrap_or(FIRST),
            worse: BTreeMap::new(),
            better: BTreeMap::new(),
            prelude: Vec::new(),
        };
        for (family, rows) in families.iter().zip(rows) {
            let answers = family.questions.iter().zip(family.p(observed, &redrawn, rows));
            match family.tail {
                Tail::Above => found.worse.extend(answers.map(|(asked, p)| ((asked.metric, asked.scope.clone()), p))),
                Tail::Below => found.better.extend(answers.map(|(asked, p)| (asked.scope.clone(), p))),
                Tail::Either => found.prelude.extend(answers.map(|(_, p)| p)),
            }
        }
        found
    }

    fn first<B>(&self, seed: u32, assignment: &Assignment<'_, B>, plan: &Plan<'_>) -> Replicates
    where
        B: Fn(u32, &SessionKey) -> Option<u16> + Sync,
    {
        plan.redraw(seed.into(), 0..FIRST, None, |generator, arms| assignment.draw(generator, arms))
    }

    /// Assignments that a tail's level takes.
    fn wanted(&self, tail: Tail) -> usize {
        let replicates = self.experiment.policy.replicates as usize;
        policy::redraws(self.experiment, self.evenings.len(), tail).max(replicates).max(FIRST)
    }

    /// So many of those, the one that was among them, may be as extreme where a tail is called.
    fn called(&self, tail: Tail) -> f64 {
        policy::level(self.experiment, self.evenings.len(), tail) * (self.wanted(tail) + 1) as f64
    }
}
