//! What the arms look like, stratum by stratum, before anything is compared: for the reader, and for whoever feeds the same data twice.

use std::collections::BTreeMap;

use pathlab_record::Arm;
use pathlab_stats::{Distribution, Level, binomial_tail};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    Experiment, Metric, Series, When, Window,
    difference::is_dead,
    findings::Number,
    ingest::{Block, Ingested, pooled_quantile},
    stratum::{Cell, Family, Population},
};

/// The quantiles that are described.
const LEVELS: [Level; 3] = [Level::P50, Level::P95, Level::P99];
/// Pairs of half-hours below which pooled arms are not compared: eight of eight happen by chance once in 256.
const FEWEST_BLOCKS: usize = 8;

/// A round-trip quantile in nanoseconds; where packets were pooled, with the limits of the bucket that holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Described {
    /// The estimate; infinite where sessions or packets were lost.
    pub value: f64,
    /// Lowest and highest that the bucket allows.
    pub limits: Option<(f64, f64)>,
}

impl Serialize for Described {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let milliseconds = |value: f64| Number(value * 1e-6);
        let Some((low, high)) = self.limits else { return milliseconds(self.value).serialize(to) };
        [milliseconds(self.value), milliseconds(low), milliseconds(high)].serialize(to)
    }
}

/// One arm of one stratum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// ISP.
    pub isp: String,
    /// Address family.
    pub family: Family,
    /// Window.
    pub window: When,
    /// Arm.
    pub arm: Arm,
    /// `session` or `packet`: what weighs the same.
    pub weighted: &'static str,
    /// Sessions, where they are known.
    pub sessions: Option<u64>,
    /// Packets sent.
    pub sent: u64,
    /// Packets lost.
    pub lost: u64,
    /// p50, p95, p99 of the round trip in milliseconds; of pooled packets each with the limits of its bucket.
    pub rtt: [Option<Described>; 3],
}

/// Every stratum of sessions, then every one of pooled packets.
pub(crate) fn describe(population: &Population<'_>, ingested: &Ingested) -> Vec<Description> {
    let mut strata: BTreeMap<(&Cell, Window, Arm), (Distribution, u64, u64)> = BTreeMap::new();
    for (place, cell) in population.cells.iter().enumerate() {
        for unit in &population.units[population.range(place)] {
            let arm = if unit.canary { Arm::Canary } else { Arm::Control };
            for (window, seen) in unit.sessions.iter().flat_map(|session| &session.windows.0) {
                let (distribution, sent, lost) = strata.entry((cell, *window, arm)).or_default();
                *sent += seen.sent;
                *lost += seen.lost;
                match is_dead(seen) {
                    true => distribution.add_dead(),
                    false => distribution.add(seen.series[Series::Rtt as usize].iter()),
                }
            }
        }
    }
    let sessions = strata.into_iter().map(|((cell, window, arm), (distribution, sent, lost))| Description {
        isp: cell.isp.clone(),
        family: cell.family,
        window: When::of(window),
        arm,
        weighted: "session",
        sessions: Some(distribution.sessions()),
        sent,
        lost,
        rtt: LEVELS.map(|level| distribution.quantile(level).map(|value| Described { value, limits: None })),
    });
    let pooled = ingested.pooled.cohorts.iter().map(|((cell, window, arm), blocks)| {
        let whole = merged(blocks.values());
        Description {
            isp: cell.isp.clone(),
            family: cell.family,
            window: When::of(*window),
            arm: *arm,
            weighted: "packet",
            sessions: None,
            sent: whole.sent,
            lost: whole.lost,
            rtt: LEVELS.map(|level| {
                let [value, low, high] = pooled_quantile(&whole, level.fraction())?;
                Some(Described { value, limits: Some((low, high)) })
            }),
        }
    });
    sessions.chain(pooled).collect()
}

fn merged<'a>(blocks: impl Iterator<Item = &'a Block>) -> Block {
    let mut whole = Block::default();
    blocks.for_each(|block| whole.merge(block));
    whole
}

/// The arms of pooled packets in one ISP and family, half-hour by half-hour.
#[derive(Clone, Debug, PartialEq)]
pub struct PooledAnswer {
    /// ISP.
    pub isp: String,
    /// Address family.
    pub family: Family,
    /// The quantile that was compared, of packets.
    pub metric: Metric,
    /// Half-hours in which both arms have packets.
    pub blocks: u64,
    /// Those in which the canary is worse by more than the margin, whatever lies inside the buckets.
    pub worse: u64,
    /// Probability that at least so many are, when the canary is no worse than the margin in half of them.
    pub p: f64,
    /// Median over the half-hours of canary minus control, in nanoseconds, and the widest bucket error in it.
    pub difference: f64,
    /// Largest distance between what the difference is said to be and what the buckets allow.
    pub error: f64,
}

impl Serialize for PooledAnswer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut out = to.serialize_struct("PooledAnswer", 9)?;
        out.serialize_field("metric", &self.metric)?;
        out.serialize_field("isp", &self.isp)?;
        out.serialize_field("family", &self.family)?;
        out.serialize_field("unit", "ms")?;
        out.serialize_field("blocks", &self.blocks)?;
        out.serialize_field("worse", &self.worse)?;
        out.serialize_field("p", &Number(self.p))?;
        out.serialize_field("difference", &Number(self.difference * 1e-6))?;
        out.serialize_field("error", &Number(self.error * 1e-6))?;
        out.end()
    }
}

/// Compares pooled arms where there are enough half-hours: the sign test of whole blocks, each block one packet-weighted quantile.
pub(crate) fn compare_pooled(experiment: &Experiment, ingested: &Ingested) -> Vec<PooledAnswer> {
    let metric = match experiment.policy.metric {
        metric @ Metric::Quantile { series: Series::Rtt, .. } => metric,
        _ => Metric::Quantile { series: Series::Rtt, level: Level::P95 },
    };
    let Metric::Quantile { level, .. } = metric else { return Vec::new() };
    let margin = experiment.policy.margin_of(metric);
    let cohorts = &ingested.pooled.cohorts;
    let cells: std::collections::BTreeSet<&Cell> = cohorts.keys().map(|(cell, ..)| cell).collect();
    let mut answers = Vec::new();
    for cell in cells {
        let mut differences = Vec::new();
        let (mut worse, mut error) = (0, 0.0_f64);
        for ((of, window, arm), controls) in cohorts {
            if of != cell || *arm != Arm::Control || *window == Window::Aa {
                continue;
            }
            let Some(canaries) = cohorts.get(&(cell.clone(), *window, Arm::Canary)) else { continue };
            for (start, control) in controls {
                let quantile = |block: &Block| pooled_quantile(block, level.fraction());
                let Some((control, canary)) = quantile(control).zip(canaries.get(start).and_then(quantile)) else {
                    continue;
                };
                let difference = if control[0] == canary[0] { 0.0 } else { canary[0] - control[0] };
                worse += u64::from(canary[1] - control[2] > margin);
                if difference.is_finite() {
                    error = error.max(canary[2] - canary[1]).max(control[2] - control[1]);
                }
                differences.push(difference);
            }
        }
        if differences.is_empty() {
            continue;
        }
        differences.sort_unstable_by(f64::total_cmp);
        let blocks = differences.len();
        let p = if blocks < FEWEST_BLOCKS { 1.0 } else { binomial_tail(worse, blocks as u64, 0.5) };
        answers.push(PooledAnswer {
            isp: cell.isp.clone(),
            family: cell.family,
            metric,
            blocks: blocks as u64,
            worse,
            p,
            difference: differences[(blocks - 1) / 2],
            error,
        });
    }
    answers
}
