//! What came of a run against what its scenario expects of it: each figure, its bound, and whether it holds.

use std::{collections::HashMap, time::Duration};

use crate::{
    engine::{Outcome, Probed},
    scenario::{Counter, Expectation, Metric, Of, Quantity, Scenario, Session},
};

/// An expectation with the figure that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What was expected.
    pub expectation: Expectation,
    /// The figure in the metric's unit; `None` where there was nothing to measure it by.
    pub value: Option<f64>,
}

impl Checked {
    /// Whether the figure is there and within its bounds.
    pub fn holds(&self) -> bool {
        let Expectation { at_least, at_most, .. } = &self.expectation;
        self.value.is_some_and(|value| {
            at_least.as_ref().is_none_or(|bound| value >= bound.value)
                && at_most.as_ref().is_none_or(|bound| value <= bound.value)
        })
    }
}

/// A run whose figures are asked for.
pub struct Figures<'a> {
    scenario: &'a Scenario,
    outcome: &'a Outcome,
    sessions: &'a [Session],
    canary: Vec<bool>,
}

impl<'a> Figures<'a> {
    /// Those of a run of `scenario`, of which `sessions` are the sessions and `canary` says which were answered by the canary arm.
    pub fn new(
        scenario: &'a Scenario,
        outcome: &'a Outcome,
        sessions: &'a [Session],
        canary: impl Fn(&Session) -> bool,
    ) -> Self {
        Self { scenario, outcome, sessions, canary: sessions.iter().map(canary).collect() }
    }

    /// Every expectation of the scenario.
    pub fn check(&self) -> Vec<Checked> {
        let expectations = self.scenario.expectations.iter();
        expectations.map(|own| Checked { expectation: own.clone(), value: self.value(own) }).collect()
    }

    /// The figure of an expectation, in the metric's unit.
    pub fn value(&self, expectation: &Expectation) -> Option<f64> {
        let Expectation { what, of, above, .. } = expectation;
        let value = self.figure(what, of)?;
        match above {
            None => Some(value),
            Some(above) => Some(value - self.figure(what, above)?),
        }
    }

    /// A figure of some of the test packets, in the metric's unit: nanoseconds, a share of one, bits per second or packets. `None` without any that it
    /// could be measured by.
    pub fn figure(&self, what: &Metric, of: &Of) -> Option<f64> {
        match what {
            Metric::Rtt(level) => quantile(self.probes(of).filter_map(|probe| probe.rtt), *level),
            Metric::Forward(level) => quantile(self.probes(of).filter_map(|probe| probe.forward), *level),
            Metric::Return(level) => {
                quantile(self.probes(of).filter_map(|probe| Some(probe.rtt? - probe.forward?)), *level)
            }
            Metric::Ipdv(level) => quantile(self.ipdv(of).into_iter(), *level),
            Metric::Loss => share(self.probes(of).map(|probe| probe.rtt.is_none())),
            Metric::LossForward => share(self.probes(of).filter_map(|probe| probe.arrived).map(|arrived| !arrived)),
            Metric::LossReturn => {
                let arrived = self.probes(of).filter(|probe| probe.arrived == Some(true));
                share(arrived.map(|probe| probe.rtt.is_none()))
            }
            Metric::Reordered => share(self.reordered(of).into_iter()),
            Metric::Goodput { bulk } => self.goodput(bulk, of),
            Metric::Count { count, node, dev } => {
                let link = self.outcome.links.get(&(node.clone(), dev.clone()))?;
                let packets = match count {
                    Counter::Sent => link.sent,
                    Counter::Overflowed => link.overflowed,
                    Counter::Dropped => link.dropped,
                    Counter::Marked => link.marked,
                    Counter::Lost => link.lost,
                    Counter::Missed => link.missed,
                };
                Some(packets as f64)
            }
            Metric::Unroutable => Some(self.outcome.unroutable as f64),
        }
    }

    fn probes(&self, of: &Of) -> impl Iterator<Item = &Probed> {
        let window = of.window.as_ref().and_then(|name| self.scenario.windows.iter().find(|own| own.name == *name));
        let wanted: Vec<bool> = (0..self.sessions.len()).map(|session| self.is_of(session, of)).collect();
        self.outcome.probes.iter().filter(move |probe| {
            wanted[probe.session] && window.is_none_or(|window| (window.start..window.end).contains(&probe.sent))
        })
    }

    fn is_of(&self, session: usize, of: &Of) -> bool {
        let Of { window: _, isp, family, canary, via } = of;
        let own = &self.sessions[session];
        isp.as_ref().is_none_or(|isp| own.isp == *isp)
            && family.is_none_or(|family| own.family() == family)
            && canary.is_none_or(|canary| self.canary[session] == canary)
            && via.as_ref().is_none_or(|via| self.outcome.ways.get(session).is_some_and(|way| way.contains(via)))
    }

    /// Differences of the round trips of packets of a session that followed one another and both came back.
    fn ipdv(&self, of: &Of) -> Vec<Duration> {
        let mut last: HashMap<usize, Option<Duration>> = HashMap::new();
        let mut differences = Vec::new();
        for probe in self.probes(of) {
            let before = last.insert(probe.session, probe.rtt).flatten();
            differences.extend(before.zip(probe.rtt).map(|(before, after)| after.abs_diff(before)));
        }
        differences
    }

    /// Of each packet that reached the reflector whether a later one of its session was there before it.
    fn reordered(&self, of: &Of) -> Vec<bool> {
        let mut arrivals: HashMap<usize, Vec<Duration>> = HashMap::new();
        for probe in self.probes(of) {
            if let Some(forward) = probe.forward {
                arrivals.entry(probe.session).or_default().push(probe.sent + forward);
            }
        }
        let late = |arrivals: Vec<Duration>| {
            let mut earliest_later = Duration::MAX;
            let mut late: Vec<bool> = Vec::with_capacity(arrivals.len());
            for arrival in arrivals.into_iter().rev() {
                late.push(arrival > earliest_later);
                earliest_later = earliest_later.min(arrival);
            }
            late
        };
        arrivals.into_values().flat_map(late).collect()
    }

    fn goodput(&self, bulk: &str, of: &Of) -> Option<f64> {
        let about = self.scenario.bulks.iter().find(|own| own.name == bulk)?;
        let count = self.outcome.bulks.get(bulk)?;
        let window = of.window.as_ref().and_then(|name| self.scenario.windows.iter().find(|own| own.name == *name));
        let stretches = window.map_or_else(|| about.during.clone(), |window| vec![(window.start, window.end)]);
        let bytes: u64 = stretches.iter().map(|(start, end)| count.between(*start, *end)).sum();
        let time: Duration = stretches.iter().map(|(start, end)| *end - *start).sum();
        (!time.is_zero()).then(|| bytes as f64 * 8.0 / time.as_secs_f64())
    }
}

/// The smallest value that the share `level` of all does not exceed, in nanoseconds.
fn quantile(values: impl Iterator<Item = Duration>, level: f64) -> Option<f64> {
    let mut values: Vec<Duration> = values.collect();
    let rank = ((values.len() as f64 * level).ceil() as usize).clamp(1, values.len().max(1));
    if values.is_empty() {
        return None;
    }
    let (_, value, _) = values.select_nth_unstable(rank - 1);
    Some(value.as_nanos() as f64)
}

fn share(which: impl Iterator<Item = bool>) -> Option<f64> {
    let (all, those) = which.fold((0_u64, 0_u64), |(all, those), is| (all + 1, those + u64::from(is)));
    (all > 0).then(|| those as f64 / all as f64)
}

/// A figure in the unit that a reader expects, with its sign.
pub fn in_words(quantity: Quantity, value: f64) -> String {
    match quantity {
        Quantity::Time => format!("{:.3} ms", value / 1e6),
        Quantity::Share => format!("{:.3} %", value * 100.0),
        Quantity::Rate => format!("{:.3} Mbit/s", value / 1e6),
        Quantity::Count => format!("{value:.0} packets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = || (1..=100).map(milliseconds);
        assert_eq!(quantile(values(), 0.5), Some(50e6));
        assert_eq!(quantile(values(), 0.95), Some(95e6));
        assert_eq!(quantile(values(), 0.0), Some(1e6));
        assert_eq!(quantile(values(), 1.0), Some(100e6));
        assert_eq!(quantile(std::iter::empty(), 0.5), None);
    }

    #[test]
    fn figures_are_of_those_that_are_asked_for() {
        let scenario = Scenario::load("demo", None).expect("sound");
        let sessions = scenario.sessions(1);
        let probe = |session: usize, sent: u64, forward: Option<u64>, rtt: Option<u64>| Probed {
            session,
            sent: milliseconds(sent),
            arrived: Some(forward.is_some()),
            forward: forward.map(milliseconds),
            rtt: rtt.map(milliseconds),
        };
        // the first two sessions are of different families
        let outcome = Outcome {
            probes: vec![
                probe(0, 6_000, Some(30), Some(40)),
                probe(1, 6_000, None, None),
                probe(0, 6_010, Some(10), Some(25)),
                probe(0, 6_020, Some(10), None),
                probe(0, 25_000, Some(500), Some(600)),
            ],
            ..Outcome::default()
        };
        let figures = Figures::new(&scenario, &outcome, &sessions, |_| false);
        let evening = Of { window: Some("evening 1".into()), ..Of::default() };
        let first = Of { family: Some(4), ..evening.clone() };
        assert_eq!(figures.figure(&Metric::Rtt(1.0), &evening), Some(40e6));
        assert_eq!(figures.figure(&Metric::Return(1.0), &evening), Some(15e6));
        assert_eq!(figures.figure(&Metric::Ipdv(1.0), &evening), Some(15e6));
        assert_eq!(figures.figure(&Metric::Loss, &evening), Some(0.5));
        assert_eq!(figures.figure(&Metric::LossForward, &evening), Some(0.25));
        assert_eq!(figures.figure(&Metric::LossReturn, &first), Some(1.0 / 3.0));
        // 6,000 + 30 is after 6,010 + 10, not after 6,020 + 10
        assert_eq!(figures.figure(&Metric::Reordered, &first), Some(1.0 / 3.0));
        let prelude = Of { window: Some("prelude".into()), ..Of::default() };
        assert_eq!(figures.figure(&Metric::Rtt(0.5), &prelude), None);
        assert_eq!(figures.figure(&Metric::Loss, &Of { canary: Some(true), ..Of::default() }), None);
    }
}
