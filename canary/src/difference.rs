//! The differences between the arms, once as assigned and many times as chance could have had it.
//!
//! A *block* is what a quantile is taken over: one stratum, or several merged with weights that both arms share, so that a different mix of
//! ISPs on the two arms cannot pass for a difference of paths. A *column* is one number, canary minus control: a level of a block, or the mean of
//! a score in a cell. Resampling and re-assignment give one row of all columns for each replicate, always moving units whole.

use std::ops::Range;

use pathlab_stats::{Generator, Level, Pool, Replicates, replicate, resample};

use crate::{Series, Window, ingest::Seen, stratum::Population};

/// Weights of a merged block sum to this on each arm.
const WHOLE: f64 = (1_u32 << 28) as f64;
/// Stands for an infinite difference where a finite one is needed: twice the longest latency that a histogram holds, in nanoseconds.
pub(crate) const INFINITE: f64 = 120e9;

/// Where to find a difference: its place in a row.
pub(crate) type Column = usize;

#[derive(Clone, Debug)]
struct Block {
    window: Window,
    series: Series,
    /// Cells, next to each other in the population.
    cells: Range<usize>,
    /// Descending, with the column of each.
    levels: Vec<(Level, Column)>,
}

/// Which differences to compute.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    population: &'a Population<'a>,
    /// Weight of each cell; those of a block are scaled to one. Zero leaves the cell out of merged blocks.
    weights: Vec<f64>,
    blocks: Vec<Block>,
    /// A number for each unit, or none: compared by their means.
    scores: Vec<Vec<Option<f64>>>,
    width: usize,
}

/// The pools of one block.
struct Pools {
    arms: [Pool; 2],
    levels: Vec<Level>,
    /// Sessions of each unit, on whichever arm.
    sessions: Vec<u32>,
}

/// Sessions of each unit over pools of the same units.
fn sessions(pools: &[&Pool]) -> Vec<u32> {
    let units = pools.first().map_or(0, |pool| pool.units());
    (0..units).map(|unit| pools.iter().map(|pool| pool.sessions(unit)).sum()).collect()
}

impl<'a> Plan<'a> {
    pub(crate) fn new(population: &'a Population<'a>, weights: Vec<f64>) -> Self {
        Self { population, weights, blocks: Vec::new(), scores: Vec::new(), width: 0 }
    }

    /// The column of a quantile over `cells` in a window.
    pub(crate) fn quantile(&mut self, window: Window, series: Series, level: Level, cells: Range<usize>) -> Column {
        let same = |block: &Block| block.window == window && block.series == series && block.cells == cells;
        let place = self.blocks.iter().position(same).unwrap_or_else(|| {
            self.blocks.push(Block { window, series, cells: cells.clone(), levels: Vec::new() });
            self.blocks.len() - 1
        });
        let block = &mut self.blocks[place];
        if let Some((_, column)) = block.levels.iter().find(|(known, _)| *known == level) {
            return *column;
        }
        let column = self.width;
        block.levels.push((level, column));
        block.levels.sort_unstable_by(|a, b| b.cmp(a));
        self.width += 1;
        column
    }

    /// The columns of a score, one for each cell.
    pub(crate) fn score(&mut self, score: Vec<Option<f64>>) -> Range<Column> {
        self.scores.push(score);
        let first = self.width;
        self.width += self.population.cells.len();
        first..self.width
    }

    /// A quantile of one stratum with both arms together, which no assignment can move.
    pub(crate) fn both_arms(&self, window: Window, series: Series, level: Level, cell: usize) -> Option<f64> {
        let block = Block { window, series, cells: cell..cell + 1, levels: Vec::new() };
        let pool = self.pool(&block, |_| true);
        pool.quantile(level, &vec![1; pool.units()])
    }

    /// Both arms of each column as assigned: `[control, canary]`.
    pub(crate) fn observed(&self) -> Vec<[f64; 2]> {
        let canary: Vec<bool> = self.population.units.iter().map(|unit| unit.canary).collect();
        let mut row = vec![[f64::NAN; 2]; self.width];
        let (counts, mut weights) = (vec![1; canary.len()], Vec::new());
        for block in &self.blocks {
            let pool = self.pool(block, |_| true);
            self.weigh(block, &sessions(&[&pool]), &counts, &canary, &mut weights);
            let levels: Vec<Level> = block.levels.iter().map(|(level, _)| *level).collect();
            if let Some(arms) = pool.quantiles_by_arm(&levels, &weights, &canary[self.units(block)]) {
                block.levels.iter().zip(arms).for_each(|((_, column), arms)| row[*column] = arms);
            }
        }
        self.means(&canary, |column, arms| row[column] = arms);
        row
    }

    /// Rows of differences with each arm's units of each cell resampled; score columns stay no numbers.
    pub(crate) fn bootstrap(&self, seed: u64, count: usize) -> Replicates {
        let population = self.population;
        let arm = |canary: bool| move |unit: usize| population.units[unit].canary == canary;
        let pools: Vec<Pools> = self
            .blocks
            .iter()
            .map(|block| {
                let arms = [self.pool(block, arm(false)), self.pool(block, arm(true))];
                let sessions = sessions(&[&arms[0], &arms[1]]);
                Pools { arms, levels: block.levels.iter().map(|(level, _)| *level).collect(), sessions }
            })
            .collect();
        let canary: Vec<bool> = population.units.iter().map(|unit| unit.canary).collect();
        let members: Vec<Vec<u32>> = (0..population.cells.len())
            .flat_map(|cell| {
                [false, true].map(|arm| {
                    let of_arm = population.range(cell).filter(|&unit| canary[unit] == arm);
                    of_arm.map(|unit| unit as u32).collect()
                })
            })
            .collect();
        let scratch = || (vec![0; canary.len()], Vec::new(), [Vec::new(), Vec::new()]);
        if self.width == 0 {
            return Replicates::from_rows(Vec::new(), 1);
        }
        replicate(seed, "bootstrap", count, self.width, scratch, |generator, (counts, weights, arms), row| {
            row.fill(f64::NAN);
            members.iter().for_each(|units| resample(generator, units, counts));
            for (block, pools) in self.blocks.iter().zip(&pools) {
                let [control, canaries] = &pools.arms;
                self.weigh(block, &pools.sessions, counts, &canary, weights);
                arms.iter_mut().for_each(|values| values.resize(pools.levels.len(), 0.0));
                if control.quantiles(&pools.levels, weights, &mut arms[0])
                    && canaries.quantiles(&pools.levels, weights, &mut arms[1])
                {
                    for (place, (_, column)) in block.levels.iter().enumerate() {
                        row[*column] = arms[1][place] - arms[0][place];
                    }
                }
            }
        })
    }

    /// Rows of differences under other assignments, each drawn by `assign`; infinite ones are bounded.
    pub(crate) fn redraw(
        &self,
        seed: u64,
        count: usize,
        assign: impl Fn(&mut Generator, &mut Vec<bool>) + Sync,
    ) -> Replicates {
        let pools: Vec<(Pool, Vec<Level>, Vec<u32>)> = self
            .blocks
            .iter()
            .map(|block| {
                let pool = self.pool(block, |_| true);
                let sessions = sessions(&[&pool]);
                (pool, block.levels.iter().map(|(level, _)| *level).collect(), sessions)
            })
            .collect();
        let counts = vec![1; self.population.units.len()];
        let scratch = || (Vec::new(), Vec::new());
        if self.width == 0 {
            return Replicates::from_rows(Vec::new(), 1);
        }
        replicate(seed, "assignment", count, self.width, scratch, |generator, (canary, weights), row| {
            assign(generator, canary);
            row.fill(f64::NAN);
            for (block, (pool, levels, sessions)) in self.blocks.iter().zip(&pools) {
                self.weigh(block, sessions, &counts, canary, weights);
                let Some(arms) = pool.quantiles_by_arm(levels, weights, &canary[self.units(block)]) else { continue };
                for ((_, column), arms) in block.levels.iter().zip(arms) {
                    row[*column] = bounded(arms);
                }
            }
            self.means(canary, |column, arms| row[column] = bounded(arms));
        })
    }

    fn units(&self, block: &Block) -> Range<usize> {
        self.population.offsets[block.cells.start]..self.population.offsets[block.cells.end]
    }

    fn pool(&self, block: &Block, belongs: impl Fn(usize) -> bool) -> Pool {
        let units = self.units(block);
        let mut pool = Pool::new(units.len());
        for unit in units.clone().filter(|&unit| belongs(unit)) {
            for seen in self.population.units[unit].seen(block.window) {
                if is_dead(seen) {
                    pool.add_dead(unit - units.start);
                } else {
                    pool.add(unit - units.start, seen.series[block.series as usize].iter());
                }
            }
        }
        pool.sorted()
    }

    /// How much each unit of a block counts: as often as drawn, and in a merged block so that each cell has its weight on both arms.
    fn weigh(&self, block: &Block, sessions: &[u32], counts: &[u32], canary: &[bool], weights: &mut Vec<u32>) {
        let units = self.units(block);
        weights.clear();
        weights.extend_from_slice(&counts[units.clone()]);
        if block.cells.len() == 1 {
            return;
        }
        let whole: f64 = self.weights[block.cells.clone()].iter().sum();
        for cell in block.cells.clone() {
            let range = self.population.range(cell);
            let mut totals = [0_u64; 2];
            for unit in range.clone() {
                totals[usize::from(canary[unit])] += u64::from(counts[unit]) * u64::from(sessions[unit - units.start]);
            }
            let share = if whole > 0.0 { WHOLE * self.weights[cell] / whole } else { 0.0 };
            let factors = totals.map(|total| if total > 0 { (share / total as f64) as u32 } else { 0 });
            for unit in range {
                weights[unit - units.start] *= factors[usize::from(canary[unit])];
            }
        }
    }

    fn means(&self, canary: &[bool], mut put: impl FnMut(Column, [f64; 2])) {
        let first = self.width - self.scores.len() * self.population.cells.len();
        let columns = first..self.width;
        let cells =
            self.scores.iter().flat_map(|score| (0..self.population.cells.len()).map(move |cell| (score, cell)));
        for (column, (score, cell)) in columns.zip(cells) {
            let mut arms = [(0.0, 0.0); 2];
            for unit in self.population.range(cell) {
                if let Some(score) = score[unit] {
                    let (count, sum) = &mut arms[usize::from(canary[unit])];
                    *count += 1.0;
                    *sum += score;
                }
            }
            put(column, arms.map(|(count, sum)| sum / count));
        }
    }
}

/// Whether a session went silent: it then counts as the worst of all.
pub(crate) fn is_dead(seen: &Seen) -> bool {
    seen.dead || (seen.sent > 0 && seen.lost == seen.sent)
}

/// Canary minus control with finite limits; both infinite are no difference.
pub(crate) fn bounded([control, canary]: [f64; 2]) -> f64 {
    if control.is_infinite() && canary.is_infinite() { 0.0 } else { (canary - control).clamp(-INFINITE, INFINITE) }
}
