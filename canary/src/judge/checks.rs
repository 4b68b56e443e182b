//! Whether the experiment ran as designed, and what was too small to be judged.

use super::*;

impl Judge<'_> {
    pub(super) fn unjudged(&self) -> Vec<Unjudged> {
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

    pub(super) fn checks(&self, by_key: bool) -> Checks {
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
