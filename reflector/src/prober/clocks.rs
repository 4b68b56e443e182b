//! What the probe knows of its own clocks: whether `CLOCK_REALTIME` was set while a packet was away, and whether the card's stamps are confirmed.
//!
//! Looks are taken after every batch of replies, before any of them is settled: a step lies between two looks, and every packet that was
//! away at some time between them has stamps that cannot be subtracted. No clock is read here.

use std::{collections::VecDeque, sync::Arc};

use pathlab_record::{Interval, Monotonic, Time};
use pathlab_xdp::{
    NicClock,
    clock::{SystemLook, SystemWatch, Void, Vouch},
};

use crate::clock::Steps;

/// Steps that are remembered: a packet is judged within seconds of its reply.
const REMEMBERED: usize = 64;

/// Looks at `CLOCK_REALTIME`, and the card's clock where there is one.
#[derive(Clone, Default)]
pub struct Clocks {
    watch: SystemWatch,
    looked: Option<Time<Monotonic>>,
    voids: VecDeque<Void>,
    steps: u64,
    nic: Option<Arc<dyn NicClock>>,
}

/// How `CLOCK_REALTIME` ran while a packet was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// Without a step, after so many of them: stamps of the same number may be subtracted from each other.
    Even(u64),
    /// It was set.
    Stepped,
    /// Nobody has looked since then.
    NotYet,
}

impl Clocks {
    /// Takes a look, in the order of their taking.
    pub fn look(&mut self, look: SystemLook) {
        self.looked = Some(look.monotonic);
        // Stamps of the probe are of REALTIME or of the card, which is compared with it: a new TAI offset alone is no matter.
        let Some(step) = self.watch.observe(look).filter(|step| step.by != Interval::ZERO) else { return };
        tracing::info!(by_ns = step.by.as_nanos(), leap = step.is_leap_second(), "system clock set");
        self.steps += 1;
        if self.voids.len() == REMEMBERED {
            self.voids.pop_front();
        }
        self.voids.push_back(step.void);
    }

    /// The last look.
    pub fn looked(&self) -> Option<Time<Monotonic>> {
        self.looked
    }

    /// How often the clocks have stepped so far.
    pub fn steps(&self) -> Steps {
        Steps { system: self.steps, card: self.nic.as_ref().map(|nic| nic.assurance().steps) }
    }

    /// How the clock ran between two instants.
    pub(super) fn ran(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Ran {
        if self.looked.is_none_or(|looked| looked < to) {
            return Ran::NotYet;
        }
        if self.voids.iter().any(|void| void.from <= to && from <= void.to) {
            return Ran::Stepped;
        }
        let later = self.voids.iter().filter(|void| void.from > to).count();
        Ran::Even(self.steps - later as u64)
    }

    /// Takes the card's stamps into the samples; without its clock nobody knows what they mean.
    pub(super) fn with_nic(nic: Option<Arc<dyn NicClock>>) -> Self {
        Self { nic, ..Self::default() }
    }

    pub(super) fn nic(&self) -> Option<&dyn NicClock> {
        self.nic.as_deref()
    }

    /// Whether the card's stamps of that time are true.
    pub(super) fn vouch(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Vouch {
        self.nic.as_ref().map_or(Vouch::Void, |nic| nic.vouch(from, to))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Clocks that never step, and at which somebody has looked long after everything.
    pub(in super::super) fn even() -> Clocks {
        let mut clocks = Clocks::default();
        clocks.look(look(i64::MAX / 2, 0));
        clocks
    }

    /// A look at a clock that was set by so much since the beginning.
    fn look(monotonic: i64, set: i64) -> SystemLook {
        SystemLook {
            monotonic: Time::from_nanos(monotonic),
            realtime: Time::from_nanos(monotonic + set),
            half_width: 20,
            tai_minus_utc: None,
        }
    }

    #[test]
    fn packets_that_were_away_between_two_looks_that_differ_have_met_the_step() {
        let mut clocks = Clocks::default();
        let at = Time::from_nanos;
        let ran = |clocks: &Clocks, from, to| clocks.ran(at(from), at(to));
        assert_eq!((ran(&clocks, 0, 5), clocks.steps()), (Ran::NotYet, Steps { system: 0, card: None }));
        clocks.look(look(10, 0));
        clocks.look(look(1_000, 30));
        assert_eq!((ran(&clocks, 0, 900), ran(&clocks, 900, 1_001)), (Ran::Even(0), Ran::NotYet));
        clocks.look(look(2_000, 1_000));
        clocks.look(look(3_000, 1_000));
        let expected = [(0, 999, Ran::Even(0)), (0, 1_000, Ran::Stepped), (1_500, 2_500, Ran::Stepped)];
        for (from, to, expected) in expected.into_iter().chain([(2_001, 3_000, Ran::Even(1))]) {
            assert_eq!(ran(&clocks, from, to), expected, "{from} to {to}");
        }
        assert_eq!(clocks.steps(), Steps { system: 1, card: None });
        assert_eq!(clocks.vouch(at(0), at(1)), Vouch::Void, "without a card's clock there is nothing to rely on");
    }
}
