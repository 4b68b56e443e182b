//! Which differences are asked for: by stratum, by cell, by ISP, of the prelude, of a ramp, of the latency guardrails.

use super::*;

impl Judge<'_> {
    /// Every stratum that both arms were seen in: ISP, family, window.
    pub(super) fn strata(&self, plan: &mut Plan<'_>) -> Vec<Question> {
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
    pub(super) fn cells(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        self.powered_cells()
            .into_iter()
            .map(|cell| {
                let terms = self.primary_terms(plan, &self.evenings, &[cell]);
                self.primary(Scope::cell(&self.population.cells[cell]), When::Evenings, terms, &[cell], &self.evenings)
            })
            .collect()
    }

    /// Every ISP with a powered cell: over the evenings, and evening by evening.
    pub(super) fn isps(&self, plan: &mut Plan<'_>) -> Vec<(Question, Vec<Question>)> {
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
    pub(super) fn capacity(&self, plan: &mut Plan<'_>) -> Vec<Question> {
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
    pub(super) fn prelude(&self, plan: &mut Plan<'_>) -> Vec<Question> {
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
    pub(super) fn quantile_guardrails(&self, plan: &mut Plan<'_>) -> Vec<Question> {
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
}
