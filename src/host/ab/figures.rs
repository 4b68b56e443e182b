//! What the probe saw in each block, as paired figures; what they say together. Pure: samples and blocks in, verdict out.

use std::collections::{BTreeMap, BTreeSet};

use pathlab_record::{Outcome, Sample, Stage, Term};
use pathlab_stats::Confidence;
use serde::Serialize;

use super::blocks::Block;
use crate::paired::{Paired, median};

/// Fewer samples than this in a block tell nothing of it.
const LEAST: usize = 5;

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// `A4app - A1app`, the median of a block.
    Rtt,
    /// The same at its 95th percentile.
    Rtt95,
    /// Share of the packets that were lost or late.
    Loss,
    /// A part of the ledger, the median of a block.
    Part(Vec<Term>),
    /// A part of the residence, the median of a block.
    Inner(Vec<Stage>),
}

impl What {
    fn name(&self) -> String {
        let joined = |names: Vec<&str>| names.join("+");
        match self {
            Self::Rtt => "rtt".into(),
            Self::Rtt95 => "rtt p95".into(),
            Self::Loss => "loss".into(),
            Self::Part(terms) => joined(terms.iter().map(|term| term.name()).collect()),
            Self::Inner(stages) => format!("residence/{}", joined(stages.iter().map(|stage| stage.name()).collect())),
        }
    }
}

/// One figure without (A) and with (B) the change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) figure: String,
    /// `ns`, or `share` of one.
    pub(super) unit: &'static str,
    /// Pairs in which both blocks have it.
    pub(super) pairs: usize,
    #[serde(flatten)]
    pub(super) paired: Paired,
    /// Whether the interval leaves zero out: up, down, or it may not have moved.
    pub(super) moved: Option<Moved>,
    #[serde(skip)]
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Moved {
    Up,
    Down,
}

/// The verdict over all figures together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The round trip became shorter, and nothing that counts worse.
    Better,
    /// The round trip became longer, or more is lost.
    Worse,
    /// The median of the round trip was not seen to move; something else was.
    Mixed,
    /// Nothing was seen to move.
    NoDifference,
    /// Too few pairs have figures for anything to be said.
    TooFew,
}

/// A block as it stands in `ab.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) block: Block,
    pub(super) packets: usize,
    pub(super) figures: BTreeMap<String, f64>,
}

/// What a sample says, without its stamps.
pub(super) struct Seen {
    slot: i64,
    lost: bool,
    values: Vec<(What, i64)>,
}

impl Seen {
    /// `None` where a sample is no slot of its own, or has no time.
    pub(super) fn of(sample: &Sample) -> Option<Self> {
        let slot = sample.stamps.a0.app?.nanos();
        let lost = match sample.outcome {
            Outcome::Received => false,
            Outcome::LostForward | Outcome::LostReturn | Outcome::Lost | Outcome::Late => true,
            Outcome::Duplicate => return None,
        };
        let mut values = Vec::new();
        if let Some(ledger) = sample.ledger.as_ref().filter(|_| !lost) {
            if let (Some(a1), Some(a4)) = (sample.stamps.a1.app, sample.stamps.a4.app) {
                values.extend(a4.since(a1).map(|rtt| (What::Rtt, rtt.as_nanos())));
            }
            values.extend(ledger.parts.iter().map(|(terms, length)| (What::Part(terms.clone()), length.as_nanos())));
            let inner = ledger.inner.iter().flat_map(|inner| &inner.parts);
            values.extend(inner.map(|(stages, length)| (What::Inner(stages.clone()), length.as_nanos())));
        }
        Some(Self { slot, lost, values })
    }
}

/// Figures of every block, from the samples whose slot lies in it.
fn measure(blocks: &[Block], seen: &[Seen]) -> Vec<(BTreeMap<What, f64>, usize)> {
    blocks
        .iter()
        .map(|block| {
            let own: Vec<&Seen> = seen.iter().filter(|seen| (block.begin..block.end).contains(&seen.slot)).collect();
            let mut values: BTreeMap<&What, Vec<f64>> = BTreeMap::new();
            for (what, value) in own.iter().flat_map(|seen| &seen.values) {
                values.entry(what).or_default().push(*value as f64);
            }
            let mut figures = BTreeMap::new();
            for (what, values) in values {
                if values.len() < LEAST {
                    continue;
                }
                if *what == What::Rtt {
                    figures.extend(p95(&values).map(|value| (What::Rtt95, value)));
                }
                figures.extend(median(values.into_iter()).map(|value| (what.clone(), value)));
            }
            if own.len() >= LEAST {
                let lost = own.iter().filter(|seen| seen.lost).count();
                figures.insert(What::Loss, lost as f64 / own.len() as f64);
            }
            (figures, own.len())
        })
        .collect()
}

/// The value that was seen at the 95th percentile, by nearest rank.
fn p95(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * 0.95).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// All figures, each at the level that leaves `level` for all of them together (Bonferroni), with the verdict.
pub(super) fn judge(blocks: &[Block], seen: &[Seen], level: f64) -> (Vec<Measured>, Vec<Figure>, f64, Verdict) {
    let measured = measure(blocks, seen);
    let names: BTreeSet<&What> = measured.iter().flat_map(|(figures, _)| figures.keys()).collect();
    let each = 1.0 - (1.0 - level) / names.len().max(1) as f64;
    let confidence = Confidence::new(each).unwrap_or(Confidence::P95);
    let figures: Vec<Figure> = names.iter().map(|what| figure(what, blocks, &measured, confidence)).collect();
    let verdict = verdict(&figures);
    let told = blocks.iter().zip(&measured).map(|(block, (figures, packets))| Measured {
        block: block.clone(),
        packets: *packets,
        figures: figures.iter().map(|(what, value)| (what.name(), *value)).collect(),
    });
    (told.collect(), figures, each, verdict)
}

fn figure(what: &What, blocks: &[Block], measured: &[(BTreeMap<What, f64>, usize)], confidence: Confidence) -> Figure {
    let mut sides: BTreeMap<u32, [Option<f64>; 2]> = BTreeMap::new();
    for (block, (figures, _)) in blocks.iter().zip(measured) {
        sides.entry(block.pair).or_default()[usize::from(block.with)] = figures.get(what).copied();
    }
    let pairs: Vec<(f64, f64)> = sides.values().filter_map(|[without, with]| (*without).zip(*with)).collect();
    let paired = Paired::of(&pairs, confidence);
    let moved = match (paired.low, paired.high) {
        (Some(low), _) if low > 0.0 => Some(Moved::Up),
        (_, Some(high)) if high < 0.0 => Some(Moved::Down),
        _ => None,
    };
    let unit = if *what == What::Loss { "share" } else { "ns" };
    Figure { figure: what.name(), unit, pairs: pairs.len(), paired, moved, what: what.clone() }
}

fn verdict(figures: &[Figure]) -> Verdict {
    let of = |what: &What| figures.iter().find(|figure| figure.what == *what);
    if of(&What::Rtt).is_none_or(|rtt| rtt.paired.low.is_none()) {
        return Verdict::TooFew;
    }
    let moved = |what: &What| of(what).and_then(|figure| figure.moved);
    let worse = [What::Rtt, What::Loss].iter().any(|what| moved(what) == Some(Moved::Up));
    match (moved(&What::Rtt), moved(&What::Rtt95)) {
        _ if worse => Verdict::Worse,
        (Some(Moved::Down), tail) if tail != Some(Moved::Up) => Verdict::Better,
        _ if figures.iter().any(|figure| figure.moved.is_some()) => Verdict::Mixed,
        _ => Verdict::NoDifference,
    }
}

/// The parts of the ledger that were seen to move, the most moved first.
pub(super) fn stages(figures: &[Figure]) -> Vec<&Figure> {
    let is_part = |figure: &&Figure| matches!(figure.what, What::Part(_)) && figure.moved.is_some();
    let mut moved: Vec<&Figure> = figures.iter().filter(is_part).collect();
    let far = |figure: &Figure| figure.paired.difference.unwrap_or(0.0).abs();
    moved.sort_by(|one, other| far(other).total_cmp(&far(one)));
    moved
}

#[cfg(test)]
mod tests {
    use pathlab_stats::generator;
    use rand::RngExt;

    use super::*;
    use crate::host::ab::blocks::orders;

    /// A run of blocks of one second and 40 packets: a ledger whose parts are skewed, drift together, and in which one part is longer by
    /// `delay` while the change is there.
    fn run(seed: u64, pairs: u32, part: Term, delay: f64) -> (Vec<Block>, Vec<Seen>) {
        let mut random = generator(seed, "ab tests", 0);
        let (mut blocks, mut seen) = (Vec::new(), Vec::new());
        let mut drift = 0.0;
        for (pair, with_first) in (0..).zip(orders(seed, pairs)) {
            for second in [false, true] {
                let with = with_first != second;
                let begin = blocks.len() as i64 * 1_000_000_000;
                blocks.push(Block { pair, with, begin, end: begin + 1_000_000_000 });
                for packet in 0..40 {
                    drift += (random.random::<f64>() - 0.5) * 2_000.0;
                    let mut values = Vec::new();
                    let mut rtt = 0.0;
                    for term in Term::ALL {
                        let skewed = -(1.0 - random.random::<f64>()).ln() * 20_000.0;
                        let longer = if with && term == part { delay } else { 0.0 };
                        let value = 50_000.0 + drift.abs() + skewed + longer;
                        rtt += if term == Term::SchedLate { 0.0 } else { value };
                        values.push((What::Part(vec![term]), value as i64));
                    }
                    values.push((What::Rtt, rtt as i64));
                    seen.push(Seen { slot: begin + packet * 25_000_000, lost: packet == 7, values });
                }
            }
        }
        (blocks, seen)
    }

    #[test]
    fn two_that_are_alike_show_no_difference() {
        let different = (0..200).filter(|&seed| {
            let (blocks, seen) = run(seed, 30, Term::Wire, 0.0);
            judge(&blocks, &seen, 0.999).3 != Verdict::NoDifference
        });
        assert_eq!(different.count(), 0, "of 200 runs, where one in a thousand may");
    }

    #[test]
    fn a_longer_or_shorter_stage_is_named() {
        for (term, delay, expected) in [
            (Term::Wire, 30_000.0, Verdict::Worse),
            (Term::ProbeRx, -30_000.0, Verdict::Better),
            (Term::Residence, -30_000.0, Verdict::Better),
            (Term::SchedLate, 30_000.0, Verdict::Mixed),
        ] {
            let (blocks, seen) = run(9, 30, term, delay);
            let (measured, figures, each, verdict) = judge(&blocks, &seen, 0.999);
            assert_eq!(verdict, expected, "{term}: {figures:?}");
            assert_eq!(stages(&figures).iter().map(|figure| figure.figure.as_str()).collect::<Vec<_>>(), [term.name()]);
            assert_eq!((measured.len(), figures.len()), (60, 8));
            assert!((each - (1.0 - 0.001 / 8.0)).abs() < 1e-12, "eight figures share the level");
        }
    }

    #[test]
    fn too_few_pairs_say_so() {
        let (blocks, seen) = run(3, 10, Term::Wire, 1e6);
        assert_eq!(judge(&blocks, &seen, 0.999).3, Verdict::TooFew);
        assert_eq!(judge(&[], &[], 0.999).3, Verdict::TooFew);
    }

    #[test]
    fn what_is_lost_keeps_no_change() {
        let (blocks, mut seen) = run(5, 30, Term::Wire, -30_000.0);
        for seen in &mut seen {
            let block = usize::try_from(seen.slot / 1_000_000_000).expect("from zero on");
            seen.lost |= blocks[block].with && seen.slot % 100_000_000 == 0;
        }
        assert_eq!(judge(&blocks, &seen, 0.999).3, Verdict::Worse);
    }
}
