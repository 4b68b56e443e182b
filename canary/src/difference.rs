//! The differences between the arms, once as assigned and many times as chance could have had it.
//!
//! A *block* is what a quantile is taken over: one stratum, or several merged with weights that both arms share, so that a different mix of
//! ISPs on the two arms cannot pass for a difference of paths. A *column* is one number, canary minus control: a level of a block, or the mean of
//! a score in a cell. Resampling and re-assignment give one row of all columns for each replicate, always moving units whole.

use std::{
    collections::BTreeSet,
    num::NonZero,
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use pathlab_stats::{
    Distribution, Generator, LANES, Level, Listener, Near, Replicates, Sessions, replicate_together, resample_lane,
    skewness,
};

use crate::{
    Series, Window,
    ingest::Seen,
    stratum::{Population, Unit},
};

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

/// Weights of a unit in so many replicates, or in both arms of half as many assignments.
type Lanes = [u32; LANES];
/// Quantiles of a block in as many, level by level.
type Quantiles = Vec<[f64; LANES]>;

/// Which differences to compute.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    population: &'a Population<'a>,
    /// Weight of each cell; those of a block are scaled to one. Zero leaves the cell out of merged blocks.
    weights: Vec<f64>,
    blocks: Vec<Block>,
    /// A number for each unit, or no number where it has none: compared by their means.
    scores: Vec<Vec<f64>>,
    width: usize,
    /// The blocks with both arms together, once they were asked for.
    both: OnceLock<Vec<Near<Told<'a>>>>,
}

/// The sessions of one block, or of one arm of it.
#[derive(Debug)]
struct Told<'a> {
    population: &'a Population<'a>,
    window: Window,
    series: Series,
    units: Range<usize>,
    arm: Option<bool>,
}

impl<'a> Told<'a> {
    /// Its units, numbered within the block.
    fn units(&self) -> impl Iterator<Item = (usize, &'a Unit<'a>)> {
        let arm = self.arm;
        let units = self.population.units[self.units.clone()].iter().enumerate();
        units.filter(move |(_, unit)| arm.is_none_or(|arm| unit.canary == arm))
    }

    fn series(&self, seen: &'a Seen) -> &'a pathlab_record::SparseHistogram {
        &seen.series[self.series as usize]
    }

    /// Sessions of each unit that weigh.
    fn counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.units.len()];
        for (place, unit) in self.units() {
            let weighs = |seen: &&Seen| is_dead(seen) || !self.series(seen).is_empty();
            counts[place] = unit.seen(self.window).filter(weighs).count() as u32;
        }
        counts
    }
}

impl Sessions for Told<'_> {
    fn units(&self) -> usize {
        self.units.len()
    }

    fn tell(&self, to: &mut impl Listener) {
        for (place, unit) in self.units() {
            for seen in unit.seen(self.window) {
                match is_dead(seen) {
                    true => to.dead(place),
                    false => to.session(place, self.series(seen).iter()),
                }
            }
        }
    }
}

/// Calls `work` on every item, over all cores; the answers in the order of the items.
fn spread<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (cores, next) = (thread::available_parallelism().map_or(1, NonZero::get), AtomicUsize::new(0));
    let mut answers: Vec<(usize, R)> = thread::scope(|scope| {
        let mine = || {
            let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < items.len());
            std::iter::from_fn(take).map(|at| (at, work(&items[at]))).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..cores.min(items.len())).map(|_| scope.spawn(mine)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no work panics")).collect()
    });
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

impl<'a> Plan<'a> {
    pub(crate) fn new(population: &'a Population<'a>, weights: Vec<f64>) -> Self {
        Self { population, weights, blocks: Vec::new(), scores: Vec::new(), width: 0, both: OnceLock::new() }
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
        self.both = OnceLock::new();
        block.levels.push((level, column));
        block.levels.sort_unstable_by(|a, b| b.cmp(a));
        self.width += 1;
        column
    }

    /// The columns of a score, one for each cell.
    pub(crate) fn score(&mut self, score: Vec<Option<f64>>) -> Range<Column> {
        self.scores.push(score.into_iter().map(|score| score.unwrap_or(f64::NAN)).collect());
        let first = self.width;
        self.width += self.population.cells.len();
        first..self.width
    }

    /// A quantile of one stratum with both arms together, which no assignment can move.
    pub(crate) fn both_arms(&self, window: Window, series: Series, level: Level, cell: usize) -> Option<f64> {
        let block = Block { window, series, cells: cell..cell + 1, levels: Vec::new() };
        let mut whole = Whole(Distribution::default());
        self.told(&block, None).tell(&mut whole);
        whole.0.quantile(level)
    }

    /// Both arms of each column as assigned: `[control, canary]`.
    pub(crate) fn observed(&self) -> Vec<[f64; 2]> {
        let mut row = vec![[f64::NAN; 2]; self.width];
        let assigned = self.assigned();
        let mut weights = Vec::new();
        for (block, near) in self.blocks.iter().zip(self.both()) {
            let mut out = vec![[f64::NAN; LANES]; block.levels.len()];
            let weights = self.weigh(block, near.counts(), &assigned[self.units(block)], &mut weights);
            near.quantiles(weights, &mut out);
            for ((_, column), [control, canary, ..]) in block.levels.iter().zip(out) {
                if !control.is_nan() && !canary.is_nan() {
                    row[*column] = [control, canary];
                }
            }
        }
        let canary: Vec<bool> = self.population.units.iter().map(|unit| unit.canary).collect();
        self.means(&canary, |_| true, |column, arms| row[column] = arms);
        row
    }

    /// How skewed the influence of units on each arm of each column is, given the columns as observed; zero for scores.
    pub(crate) fn skewness(&self, observed: &[[f64; 2]]) -> Vec<[f64; 2]> {
        let assigned = self.assigned();
        let blocks: Vec<(usize, &Block)> = self.blocks.iter().enumerate().collect();
        let of_blocks = spread(&blocks, |(place, block)| {
            let (counts, mut weights) = (self.both()[*place].counts(), Vec::new());
            let weights = self.weigh(block, counts, &assigned[self.units(block)], &mut weights);
            let of = |arm: usize, limit: f64| {
                let mut above = Above { limit, units: vec![0.0; counts.len()] };
                self.told(block, Some(arm == 1)).tell(&mut above);
                let units = counts.iter().zip(weights).zip(above.units);
                skewness(
                    units.map(|((sessions, weights), above)| (f64::from(*sessions), f64::from(weights[arm]), above)),
                )
            };
            let columns = block.levels.iter().map(|(_, column)| *column);
            columns.map(|column| (column, [0, 1].map(|arm| of(arm, observed[column][arm])))).collect::<Vec<_>>()
        });
        let mut out = vec![[0.0; 2]; self.width];
        of_blocks.into_iter().flatten().for_each(|(column, arms)| out[column] = arms);
        out
    }

    /// Rows of both arms of each column, control first, with each arm's units of each cell resampled; score columns stay no numbers.
    pub(crate) fn bootstrap(&self, seed: u64, count: usize) -> Replicates {
        let population = self.population;
        if self.width == 0 {
            return Replicates::from_rows(Vec::new(), 1);
        }
        let arms = [false, true].map(|arm| self.near(Some(arm)));
        let members: Vec<Vec<u32>> = (0..population.cells.len())
            .flat_map(|cell| {
                [false, true].map(|arm| {
                    let of_arm = population.range(cell).filter(|&unit| population.units[unit].canary == arm);
                    of_arm.map(|unit| unit as u32).collect()
                })
            })
            .collect();
        let scratch = || (vec![[0; LANES]; population.units.len()], Vec::new(), [Vec::new(), Vec::new()]);
        let work = |generators: &mut [Generator],
                    (counts, weights, out): &mut (Vec<Lanes>, Vec<Lanes>, [Quantiles; 2]),
                    rows: &mut [f64]| {
            rows.fill(f64::NAN);
            for units in &members {
                for (lane, generator) in generators.iter_mut().enumerate() {
                    resample_lane(generator, units, counts, lane);
                }
            }
            for (place, block) in self.blocks.iter().enumerate() {
                for (arms, out) in arms.iter().zip(&mut *out) {
                    let near = &arms[place];
                    out.resize(block.levels.len(), [f64::NAN; LANES]);
                    near.quantiles(self.weigh(block, near.counts(), &counts[self.units(block)], weights), out);
                }
                for (level, (_, column)) in block.levels.iter().enumerate() {
                    for (lane, row) in rows.chunks_exact_mut(2 * self.width).enumerate() {
                        row[2 * column..][..2].copy_from_slice(&[out[0][level][lane], out[1][level][lane]]);
                    }
                }
            }
        };
        replicate_together(seed, "bootstrap", 0..count, 2 * self.width, LANES, scratch, work)
    }

    /// So many rows of differences under other assignments, each drawn by `assign`; infinite ones are bounded. Of `columns` where only some
    /// matter: what is in the others then says nothing.
    pub(crate) fn redraw(
        &self,
        seed: u64,
        rows: Range<usize>,
        columns: Option<&BTreeSet<Column>>,
        assign: impl Fn(&mut Generator, &mut Vec<bool>) + Sync,
    ) -> Replicates {
        if self.width == 0 {
            return Replicates::from_rows(Vec::new(), 1);
        }
        let matters = |column: Column| columns.is_none_or(|columns| columns.contains(&column));
        let asked = |block: &Block| block.levels.iter().any(|(_, column)| matters(*column));
        let blocks: Vec<_> = self.blocks.iter().zip(self.both()).filter(|(block, _)| asked(block)).collect();
        let scratch = || (vec![[0; LANES]; self.population.units.len()], Vec::new(), Vec::new(), Vec::new());
        let work = |generators: &mut [Generator],
                    (arms, canary, weights, out): &mut (Vec<Lanes>, Vec<bool>, Vec<Lanes>, Quantiles),
                    rows: &mut [f64]| {
            rows.fill(f64::NAN);
            for (pair, (generator, row)) in generators.iter_mut().zip(rows.chunks_exact_mut(self.width)).enumerate() {
                assign(generator, canary);
                for (lanes, &canary) in arms.iter_mut().zip(&*canary) {
                    (lanes[2 * pair], lanes[2 * pair + 1]) = (u32::from(!canary), u32::from(canary));
                }
                self.means(canary, matters, |column, arms| row[column] = bounded(arms));
            }
            for (block, near) in &blocks {
                out.resize(block.levels.len(), [f64::NAN; LANES]);
                near.quantiles(self.weigh(block, near.counts(), &arms[self.units(block)], weights), out);
                for ((_, column), lanes) in block.levels.iter().zip(&*out) {
                    for (row, [control, canary]) in rows.chunks_exact_mut(self.width).zip(lanes.as_chunks::<2>().0) {
                        if !control.is_nan() && !canary.is_nan() {
                            row[*column] = bounded([*control, *canary]);
                        }
                    }
                }
            }
        };
        replicate_together(seed, "assignment", rows, self.width, LANES / 2, scratch, work)
    }

    fn units(&self, block: &Block) -> Range<usize> {
        self.population.offsets[block.cells.start]..self.population.offsets[block.cells.end]
    }

    fn told(&self, block: &Block, arm: Option<bool>) -> Told<'a> {
        let Block { window, series, .. } = *block;
        Told { population: self.population, window, series, units: self.units(block), arm }
    }

    fn both(&self) -> &[Near<Told<'a>>] {
        self.both.get_or_init(|| self.near(None))
    }

    /// The blocks of one arm, or of both, as assigned.
    fn near(&self, arm: Option<bool>) -> Vec<Near<Told<'a>>> {
        let assigned = self.assigned();
        let canary: Vec<bool> = self.population.units.iter().map(|unit| unit.canary).collect();
        spread(&self.blocks, |block| {
            let (told, units, mut weights) = (self.told(block, arm), self.units(block), Vec::new());
            let weights = self.weigh(block, &told.counts(), &assigned[units.clone()], &mut weights);
            let weights: Vec<u32> = weights.iter().map(|[control, canary, ..]| control + canary).collect();
            let levels: Vec<Level> = block.levels.iter().map(|(level, _)| *level).collect();
            Near::new(told, &levels, &weights, &canary[units])
        })
    }

    /// The assignment as it is: control in the first lane, canary in the second.
    fn assigned(&self) -> Vec<Lanes> {
        let lanes = |unit: &Unit<'_>| {
            let mut lanes = [0; LANES];
            lanes[usize::from(unit.canary)] = 1;
            lanes
        };
        self.population.units.iter().map(lanes).collect()
    }

    /// How much each unit of a block counts: as often as drawn, and in a merged block so that each cell has its weight in every lane.
    fn weigh<'w>(
        &self,
        block: &Block,
        sessions: &[u32],
        counts: &'w [Lanes],
        weights: &'w mut Vec<Lanes>,
    ) -> &'w [Lanes] {
        if block.cells.len() == 1 {
            return counts;
        }
        let first = self.population.offsets[block.cells.start];
        let whole: f64 = self.weights[block.cells.clone()].iter().sum();
        weights.clear();
        for cell in block.cells.clone() {
            let units = self.population.range(cell);
            let units = units.start - first..units.end - first;
            let (counts, sessions) = (&counts[units.clone()], &sessions[units]);
            let mut totals = [0_u64; LANES];
            for (counts, &sessions) in counts.iter().zip(sessions) {
                (0..LANES).for_each(|lane| totals[lane] += u64::from(counts[lane]) * u64::from(sessions));
            }
            let share = if whole > 0.0 { WHOLE * self.weights[cell] / whole } else { 0.0 };
            let factors = totals.map(|total| if total > 0 { (share / total as f64) as u32 } else { 0 });
            weights.extend(
                counts.iter().map(|counts| -> Lanes { std::array::from_fn(|lane| counts[lane] * factors[lane]) }),
            );
        }
        weights
    }

    /// The means of scores on both arms, of the columns that matter.
    fn means(&self, canary: &[bool], matters: impl Fn(Column) -> bool, mut put: impl FnMut(Column, [f64; 2])) {
        let first = self.width - self.scores.len() * self.population.cells.len();
        let columns = first..self.width;
        let cells =
            self.scores.iter().flat_map(|score| (0..self.population.cells.len()).map(move |cell| (score, cell)));
        for (column, (score, cell)) in columns.zip(cells).filter(|(column, _)| matters(*column)) {
            let mut arms = [(0.0, 0.0); 2];
            for unit in self.population.range(cell) {
                let score = score[unit];
                if !score.is_nan() {
                    let (count, sum) = &mut arms[usize::from(canary[unit])];
                    *count += 1.0;
                    *sum += score;
                }
            }
            put(column, arms.map(|(count, sum)| sum / count));
        }
    }
}

/// All sessions as one distribution, every one weighing the same.
struct Whole(Distribution);

impl Listener for Whole {
    fn session(&mut self, _unit: usize, values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone) {
        self.0.add(values);
    }

    fn dead(&mut self, _unit: usize) {
        self.0.add_dead();
    }
}

/// The share of each unit's packets above a limit, summed over its sessions.
struct Above {
    limit: f64,
    units: Vec<f64>,
}

impl Listener for Above {
    fn session(&mut self, unit: usize, values: impl DoubleEndedIterator<Item = (u64, u64)> + Clone) {
        let (above, all) = values.fold((0_u64, 0_u64), |(above, all), (value, packets)| {
            (above + if value as f64 > self.limit { packets } else { 0 }, all + packets)
        });
        self.units[unit] += if all > 0 { above as f64 / all as f64 } else { 0.0 };
    }

    fn dead(&mut self, unit: usize) {
        self.units[unit] += f64::from(u8::from(self.limit.is_finite()));
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
