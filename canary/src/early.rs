//! Harm that shows before the evening is over: looks at every bin, as often as anybody likes.
//!
//! Of each session only whether something bad happened to it counts, and when first. If the path makes no difference, each such session is on
//! the canary with the probability with which it was assigned there, so the evidence is valid at any look ([`pathlab_stats::Evidence`]). What
//! is bad is fixed by the A/A prelude, before there are data; the canary may be worse by the policy's margin before it counts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pathlab_stats::Evidence;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    Arms, Experiment, Metric, Window,
    findings::Number,
    ingest::Bin,
    policy::GUARD,
    stratum::{Population, Unit},
};

/// A bin that loses more than this is bad.
const LOSSY: f64 = 0.1;

/// What can happen to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// It went silent.
    DeadSessions,
    /// Its median is far beyond the prelude's p95: three times, and by five margins.
    TailSessions,
    /// Its median is beyond the prelude's p95.
    SlowSessions,
    /// It lost more than a tenth of its packets in a bin.
    LossySessions,
}

impl Harm {
    const ALL: [Self; 4] = [Self::DeadSessions, Self::TailSessions, Self::SlowSessions, Self::LossySessions];

    /// `tail_sessions`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeadSessions => "dead_sessions",
            Self::TailSessions => "tail_sessions",
            Self::SlowSessions => "slow_sessions",
            Self::LossySessions => "lossy_sessions",
        }
    }
}

/// One harm in one ISP, or in all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// What happened.
    pub harm: Harm,
    /// Where; absent for all ISPs.
    pub isp: Option<String>,
    /// Sessions to which it happened by the look at which the evidence stood highest.
    pub sessions: Arms<u64>,
    /// How many to one that speaks against chance.
    pub evidence: f64,
}

impl Serialize for Watched {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut out = to.serialize_struct("Watched", 4)?;
        out.serialize_field("harm", &self.harm)?;
        out.serialize_field("isp", &self.isp)?;
        out.serialize_field("sessions", &self.sessions)?;
        out.serialize_field("evidence", &Number(self.evidence))?;
        out.end()
    }
}

/// The looks at every bin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Early {
    /// Looks taken: ends of bins at which something bad was new.
    pub looks: u64,
    /// The highest mean evidence over all that is watched.
    pub highest: f64,
    /// When that was.
    pub at: Option<Timestamp>,
    /// What is watched, at that look; those without an event are left out.
    pub watched: Vec<Watched>,
}

impl Early {
    /// Evidence that rolls back.
    pub fn threshold() -> f64 {
        1.0 / GUARD
    }

    /// Whether the evidence was enough.
    pub fn reached(&self) -> bool {
        self.highest >= Self::threshold()
    }

    /// What speaks loudest.
    pub fn loudest(&self) -> Option<&Watched> {
        self.watched.iter().max_by(|a, b| a.evidence.total_cmp(&b.evidence))
    }
}

impl Serialize for Early {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut out = to.serialize_struct("Early", 5)?;
        out.serialize_field("looks", &self.looks)?;
        out.serialize_field("threshold", &Number(Self::threshold()))?;
        out.serialize_field("highest", &Number(self.highest))?;
        out.serialize_field("at", &self.at)?;
        out.serialize_field("watched", &self.watched)?;
        out.end()
    }
}

/// One session to which something bad happened, at the end of the bin in which it first did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: i64,
    cell: usize,
    unit: usize,
    harm: Harm,
}

/// A harm in one ISP, or in all.
type Place<'a> = (Harm, Option<&'a str>);
/// What speaks against chance, and the sessions to which it happened.
type Tally = (Evidence, Arms<u64>);

/// Takes every look. `p95` is the prelude's by cell in nanoseconds, where there is one.
pub(crate) fn looks(experiment: &Experiment, population: &Population<'_>, p95: &[Option<f64>]) -> Early {
    let mut events = Vec::new();
    for (cell, limit) in p95.iter().enumerate() {
        for number in population.range(cell) {
            let unit = &population.units[number];
            for harm in Harm::ALL {
                if let Some(at) = first(experiment, unit, harm, *limit) {
                    events.push(Event { at, cell, unit: number, harm });
                }
            }
        }
    }
    events.sort_unstable();
    let isps: BTreeSet<&str> = population.cells.iter().map(|cell| cell.isp.as_str()).collect();
    // Everything that could be watched takes part in the mean, silent or not: that is what keeps it honest.
    let all = (Harm::ALL.len() * (isps.len() + 1)) as f64;
    let mut watched: BTreeMap<Place<'_>, Tally> = BTreeMap::new();
    let mut early = Early::default();
    let mut rest = events.as_slice();
    while let Some(first) = rest.first() {
        let (now, later) = rest.split_at(rest.partition_point(|event| event.at == first.at));
        rest = later;
        for event in now {
            let unit = &population.units[event.unit];
            for isp in [None, Some(population.cells[event.cell].isp.as_str())] {
                let none = || (Evidence::new(), Arms { control: 0, canary: 0 });
                let (evidence, sessions) = watched.entry((event.harm, isp)).or_insert_with(none);
                evidence.push(unit.canary, unit.share);
                *(if unit.canary { &mut sessions.canary } else { &mut sessions.control }) += 1;
            }
        }
        early.looks += 1;
        let silent = all - watched.len() as f64;
        let mean = (silent + watched.values().map(|(evidence, _)| evidence.value()).sum::<f64>()) / all;
        if mean > early.highest {
            early.highest = mean;
            early.at = Timestamp::from_microsecond(first.at).ok();
            let row = |(&(harm, isp), (evidence, sessions)): (&Place<'_>, &Tally)| Watched {
                harm,
                isp: isp.map(str::to_owned),
                sessions: *sessions,
                evidence: evidence.value(),
            };
            early.watched = watched.iter().map(row).collect();
        }
    }
    early
}

/// The end of the bin in which a harm first came to a unit.
fn first(experiment: &Experiment, unit: &Unit<'_>, harm: Harm, p95: Option<f64>) -> Option<i64> {
    // Of the canary a margin more is asked, so that what the policy allows is no harm.
    let allowed = |metric: Metric| if unit.canary { experiment.policy.margin_of(metric) } else { 0.0 };
    let margin = experiment.policy.margin_of(experiment.policy.metric);
    let beyond = |bin: &Bin, limit: f64| {
        bin.median.is_some_and(|micros| f64::from(micros.get()) * 1e3 > limit + allowed(experiment.policy.metric))
    };
    let bad = |bin: &Bin| match harm {
        Harm::DeadSessions => bin.dead,
        Harm::LossySessions => !bin.dead && f64::from(bin.loss) > LOSSY + allowed(Metric::Loss),
        Harm::SlowSessions => p95.is_some_and(|p95| beyond(bin, p95)),
        Harm::TailSessions => p95.is_some_and(|p95| beyond(bin, (3.0 * p95).max(p95 + 5.0 * margin))),
    };
    let bins = unit.sessions.iter().flat_map(|session| &session.bins);
    bins.filter(|(window, bin)| *window != Window::Aa && bad(bin)).map(|(_, bin)| bin.end).min()
}
