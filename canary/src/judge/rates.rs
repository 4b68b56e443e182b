//! Guardrails that are shares: of packets lost, and of sessions in the far tail.

use super::*;

/// Packets that one loss episode is taken to cost while too few lossy sessions were seen to tell.
pub(crate) const EPISODE: f64 = 10.0;

impl Judge<'_> {
    /// Loss by ISP; sessions in the far tail by ISP and over all.
    pub(super) fn rate_guardrails(&self, plan: &mut Plan<'_>) -> Vec<Question> {
        let mut questions = Vec::new();
        for metric in &self.experiment.policy.guardrails {
            let (score, trials): (Vec<Option<f64>>, Vec<f64>) = match metric {
                Metric::Loss => self.loss(),
                Metric::TailSessions => self.far_tail(),
                Metric::Quantile { .. } | Metric::Complaints => continue,
            };
            let columns = plan.score(score.clone());
            let mut ask = |scope, cells: &[usize]| {
                let shares = self.shares(cells);
                let confidence = Confidence::P90;
                let rates: Vec<_> = shares
                    .iter()
                    .zip(cells)
                    .map(|(weight, cell)| {
                        let [control, canary] = self.rates(*cell, &score, &trials);
                        (*weight, control, canary)
                    })
                    .collect();
                questions.push(Question {
                    metric: *metric,
                    scope,
                    when: When::Evenings,
                    terms: shares.iter().zip(cells).map(|(weight, cell)| (*weight, columns.start + cell)).collect(),
                    arms: self.arms(cells, &self.evenings),
                    confidence,
                    interval: Some(rate_difference(&rates, confidence)),
                    needed: None,
                });
            };
            for (isp, cells) in self.powered_isps() {
                ask(Scope::isp(&isp), &cells);
            }
            if *metric == Metric::TailSessions && !self.powered_cells().is_empty() {
                ask(Scope::all(), &self.powered_cells());
            }
        }
        questions
    }

    /// Complaints for each session, over all ISPs and evenings. They come by arm and not by session, so that the exact test of one rate stands in for
    /// re-drawn assignments: each complaint is on the canary with the probability with which a session is.
    pub(super) fn complaints(&self) -> Option<Answer> {
        let metric = Metric::Complaints;
        if !self.experiment.policy.guardrails.contains(&metric) {
            return None;
        }
        let all: Vec<usize> = (0..self.population.cells.len()).collect();
        let sessions = self.arms(&all, &self.evenings);
        let confidence = Confidence::P90;
        let of = |arm: Arm| {
            // Those without an arm could be of either: with them nothing is known of the two.
            let counts =
                self.ingested.complaints.as_ref().filter(|counts| counts.keys().all(|(_, arm)| arm.is_some()))?;
            Some(self.evenings.iter().filter_map(|window| counts.get(&(*window, Some(arm)))).sum::<u64>())
        };
        let counts = of(Arm::Control).zip(of(Arm::Canary));
        let rate = |count: u64, sessions: u64| {
            let trials = sessions.max(count) as f64;
            Rate { rate: if trials > 0.0 { count as f64 / trials } else { 0.0 }, trials }
        };
        let rates = counts.map(|(control, canary)| (rate(control, sessions.control), rate(canary, sessions.canary)));
        let unknown = Interval { estimate: f64::NAN, low: f64::NEG_INFINITY, high: f64::INFINITY };
        let interval =
            rates.map_or(unknown, |(control, canary)| rate_difference(&[(1.0, control, canary)], confidence));
        let error = (interval.high - interval.low) / (2.0 * confidence.z());
        let share = sessions.canary as f64 / (sessions.control + sessions.canary).max(1) as f64;
        let p_worse = counts.map(|(control, canary)| binomial_tail(canary, control + canary, share));
        Some(Answer {
            metric,
            scope: Scope::all(),
            when: When::Evenings,
            sessions,
            control: rates.map_or(f64::NAN, |(control, _)| control.rate),
            canary: rates.map_or(f64::NAN, |(_, canary)| canary.rate),
            interval,
            confidence: confidence.level(),
            margin: self.experiment.policy.margin_of(metric),
            smallest_detectable: smallest_detectable(error, confidence, POWER),
            needed: None,
            p_worse,
            p_better: None,
            p_differs: None,
        })
    }

    /// The rate of each arm of a cell: mean of the scores, worth the sum of the trials.
    fn rates(&self, cell: usize, score: &[Option<f64>], trials: &[f64]) -> [Rate; 2] {
        [false, true].map(|arm| {
            let (mut count, mut sum, mut worth) = (0.0, 0.0, 0.0);
            for unit in self.population.range(cell).filter(|&unit| self.population.units[unit].canary == arm) {
                if let Some(score) = score[unit] {
                    count += 1.0;
                    sum += score;
                    worth += trials[unit];
                }
            }
            Rate { rate: if count > 0.0 { sum / count } else { 0.0 }, trials: worth }
        })
    }

    /// By unit: the mean share of packets that its sessions lost, and the packets that says, over the design effect.
    fn loss(&self) -> (Vec<Option<f64>>, Vec<f64>) {
        let counts: Vec<Vec<(u64, u64)>> = self
            .population
            .units
            .iter()
            .map(|unit| {
                let of = |session: &&Session| {
                    let seen = self.evenings.iter().filter_map(|window| session.windows.get(window));
                    seen.fold((0, 0), |(lost, sent), seen| (lost + seen.lost, sent + seen.sent))
                };
                unit.sessions.iter().map(of).filter(|(_, sent)| *sent > 0).collect()
            })
            .collect();
        let of_unit = |sessions: &Vec<(u64, u64)>| sessions.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        let effect = |arm: Option<bool>| {
            let of_arm =
                self.population.units.iter().zip(&counts).filter(|(unit, _)| arm.is_none_or(|arm| unit.canary == arm));
            let sessions: Vec<_> =
                of_arm.map(|(_, sessions)| of_unit(sessions)).filter(|(_, sent)| *sent > 0).collect();
            let lossy = sessions.iter().filter(|(lost, _)| *lost > 0).count();
            (design_effect(&sessions).unwrap_or(1.0), lossy >= ENOUGH_LOSSY)
        };
        let (pooled, known) = effect(None);
        // Where the sources counted episodes, a loss is worth no more than its episode; elsewhere the scatter between sessions tells.
        let seen = || {
            let sessions = self.population.units.iter().flat_map(|unit| &unit.sessions);
            sessions.flat_map(|session| self.evenings.iter().filter_map(|window| session.windows.get(window)))
        };
        let (lost, episodes) = seen().fold((0, 0), |(lost, episodes), s| (lost + s.lost, episodes + s.episodes));
        let length = if episodes > 0 { lost as f64 / episodes as f64 } else { EPISODE };
        let pooled = if known { pooled } else { pooled.max(EPISODE) }.max(if episodes > 0 { length } else { 1.0 });
        let by_arm = [false, true].map(|arm| match effect(Some(arm)) {
            (own, true) => own.max(pooled),
            _ => pooled,
        });
        let score = |sessions: &Vec<(u64, u64)>| {
            let shares = sessions.iter().map(|(lost, sent)| *lost as f64 / *sent as f64);
            (!sessions.is_empty()).then(|| shares.sum::<f64>() / sessions.len() as f64)
        };
        let trials = counts.iter().zip(&self.population.units);
        let trials =
            trials.map(|(sessions, unit)| of_unit(sessions).1 as f64 / by_arm[usize::from(unit.canary)]).collect();
        (counts.iter().map(score).collect(), trials)
    }

    /// By unit: the share of its sessions that were in the far tail on any evening. A session is when it is dead, or when its own median is
    /// above three times the p95 of its stratum, both arms together, and above that p95 by five margins.
    fn far_tail(&self) -> (Vec<Option<f64>>, Vec<f64>) {
        let margin = self.experiment.policy.margin.as_nanos() as f64;
        let plan = Plan::new(self.population, self.weights.clone());
        let rtt = Series::Rtt;
        let limits: Vec<Vec<f64>> = (0..self.population.cells.len())
            .map(|cell| {
                let p95 = |window: &Window| plan.both_arms(*window, rtt, Level::P95, cell).unwrap_or(f64::INFINITY);
                self.evenings.iter().map(p95).map(|p95| (3.0 * p95).max(p95 + 5.0 * margin)).collect()
            })
            .collect();
        let mut scores = Vec::with_capacity(self.population.units.len());
        for (cell, limits) in limits.iter().enumerate() {
            for unit in &self.population.units[self.population.range(cell)] {
                let far = |session: &&Session| {
                    self.evenings.iter().zip(limits).any(|(window, limit)| {
                        session.windows.get(window).is_some_and(|seen| {
                            is_dead(seen)
                                || seen.series[rtt as usize].quantile(0.5).is_some_and(|own| own as f64 > *limit)
                        })
                    })
                };
                let present =
                    |session: &&&Session| self.evenings.iter().any(|window| session.windows.contains_key(window));
                let sessions: Vec<_> = unit.sessions.iter().filter(present).collect();
                let tail = sessions.iter().filter(|session| far(session)).count();
                scores.push((!sessions.is_empty()).then(|| tail as f64 / sessions.len() as f64));
            }
        }
        let trials = vec![1.0; scores.len()];
        (scores, trials)
    }
}
