//! Where the time went, from the samples that were kept: means of each stage, which add up to the mean round trip, of all and of the slowest.

use std::collections::BTreeMap;

use pathlab_record::{Ledger, Term};
use serde::Serialize;

use super::text::signed_span;

/// Samples of one group that are held at once; later ones are counted and not used.
const MOST: usize = 500_000;
/// Share of the slowest round trips that are told apart: one in so many.
const SLOWEST: usize = 20;

/// One group of samples.
#[derive(Serialize)]
pub(crate) struct Split {
    pub(crate) name: String,
    pub(crate) samples: usize,
    /// Samples beyond those that could be held.
    pub(crate) unused: usize,
    /// Mean of each stage in nanoseconds over all samples, in path order.
    pub(crate) all: Vec<Stage>,
    /// The same over the slowest twentieth.
    pub(crate) slowest: Vec<Stage>,
}

/// A stage, or several that no stamp parts.
#[derive(Clone, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) mean_ns: i64,
}

impl Stage {
    /// In words: a reflector that has one stamp for both its receive and its send time, as in the driver, does not resolve what it takes.
    pub(crate) fn mean(&self) -> String {
        match self.mean_ns == 0 && self.name == Term::Residence.name() {
            true => "unresolved".to_owned(),
            false => signed_span(self.mean_ns),
        }
    }
}

impl Split {
    /// The stages after the packet had left the schedule: lateness against the own slot is no part of a round trip.
    pub(crate) fn shown(stages: &[Stage]) -> impl Iterator<Item = &Stage> + Clone {
        stages.iter().filter(|stage| stage.name != Term::SchedLate.name())
    }
}

/// Collects samples by group.
#[derive(Default)]
pub(crate) struct Stages {
    groups: BTreeMap<String, Group>,
}

#[derive(Default)]
struct Group {
    names: Vec<(usize, String)>,
    /// Round trip, and the stages by their place in `names`.
    samples: Vec<(i64, Vec<(u8, i64)>)>,
    unused: usize,
}

impl Stages {
    pub(crate) fn add(&mut self, group: &str, ledger: &Ledger) {
        if !self.groups.contains_key(group) {
            self.groups.insert(group.to_owned(), Group::default());
        }
        let group = self.groups.get_mut(group).expect("it was put there just now");
        if group.samples.len() >= MOST {
            group.unused += 1;
            return;
        }
        let mut parts = Vec::with_capacity(8);
        let mut round_trip = 0;
        for (order, (terms, length)) in ledger.parts.iter().enumerate() {
            let inner = ledger.inner.as_ref().filter(|_| terms == &[Term::Residence]);
            if terms != &[Term::SchedLate] {
                round_trip += length.as_nanos();
            }
            let Some(inner) = inner else {
                let name = terms.iter().map(|term| term.name()).collect::<Vec<_>>().join("+");
                parts.push((group.place(order * 10, name), length.as_nanos()));
                continue;
            };
            for (place, (stages, length)) in inner.parts.iter().enumerate() {
                let name = stages.iter().map(|stage| stage.name()).collect::<Vec<_>>().join("+");
                parts.push((group.place(order * 10 + place, name), length.as_nanos()));
            }
        }
        group.samples.push((round_trip, parts));
    }

    pub(crate) fn finish(self) -> Vec<Split> {
        let splits = self.groups.into_iter().map(|(name, mut group)| {
            group.samples.sort_by_key(|(total, _)| *total);
            let slowest = group.samples.len() - group.samples.len().div_ceil(SLOWEST);
            Split {
                name,
                samples: group.samples.len(),
                unused: group.unused,
                all: group.means(0),
                slowest: group.means(slowest),
            }
        });
        splits.collect()
    }
}

impl Group {
    fn place(&mut self, order: usize, name: String) -> u8 {
        let place = self.names.iter().position(|(_, known)| *known == name).unwrap_or_else(|| {
            self.names.push((order, name));
            self.names.len() - 1
        });
        u8::try_from(place).unwrap_or(u8::MAX)
    }

    fn means(&self, from: usize) -> Vec<Stage> {
        let samples = &self.samples[from..];
        let mut sums = vec![0_i128; self.names.len()];
        for (place, length) in samples.iter().flat_map(|(_, parts)| parts) {
            if let Some(sum) = sums.get_mut(usize::from(*place)) {
                *sum += i128::from(*length);
            }
        }
        let mut stages: Vec<(usize, Stage)> = self
            .names
            .iter()
            .zip(sums)
            .map(|((order, name), sum)| {
                let mean = i64::try_from(sum / (samples.len().max(1) as i128)).unwrap_or(i64::MAX);
                (*order, Stage { name: name.clone(), mean_ns: mean })
            })
            .collect();
        stages.sort_by_key(|(order, _)| *order);
        stages.into_iter().map(|(_, stage)| stage).collect()
    }
}

#[cfg(test)]
mod tests {
    use pathlab_record::Interval;

    use super::*;

    #[test]
    fn the_stages_of_the_slowest_are_their_own() {
        let mut stages = Stages::default();
        for number in 0..100 {
            let wire = if number < 95 { 1_000 } else { 50_000 };
            let parts = [
                (Term::SchedLate, 7),
                (Term::ProbeTx, 10),
                (Term::Wire, wire),
                (Term::Residence, 20),
                (Term::ProbeRx, 30),
            ];
            let parts = parts.map(|(term, length)| (vec![term], Interval::from_nanos(length))).to_vec();
            stages.add("control", &Ledger { parts, inner: None, uncertainty: 0 });
        }
        let splits = stages.finish();
        let mean = |stages: &[Stage], name: &str| stages.iter().find(|stage| stage.name == name).unwrap().mean_ns;
        assert_eq!((mean(&splits[0].all, "wire"), mean(&splits[0].slowest, "wire")), (3_450, 50_000));
        assert_eq!(Split::shown(&splits[0].all).map(|stage| stage.mean_ns).sum::<i64>(), 3_450 + 60);
    }
}
