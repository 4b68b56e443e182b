//! Arrivals whose stamp by the card has gone out in a reply before anything could confirm it: how many of them turned out void.

use std::collections::VecDeque;

use pathlab_record::{Interval, Monotonic, Time};
use pathlab_xdp::clock::Vouch;

/// Arrivals within so much of each other share their fate.
const GRAIN: Interval = Interval::from_nanos(10_000_000);
/// What nobody has confirmed by then counts as void.
const LONGEST: Interval = Interval::from_nanos(2_000_000_000);

/// Such arrivals, in memory that is bounded by [`LONGEST`].
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    /// The first of some arrivals, and how many.
    waiting: VecDeque<(Time<Monotonic>, u64)>,
    void: u64,
}

impl Unconfirmed {
    /// An arrival that was read at `now`.
    pub(crate) fn add(&mut self, now: Time<Monotonic>) {
        match self.waiting.back_mut() {
            Some((first, count)) if now - *first < GRAIN => *count += 1,
            _ => self.waiting.push_back((now, 1)),
        }
    }

    /// Asks `vouch` of all that waits.
    pub(crate) fn settle(&mut self, now: Time<Monotonic>, vouch: impl Fn(Time<Monotonic>, Time<Monotonic>) -> Vouch) {
        while let Some((first, count)) = self.waiting.front() {
            // read soon after it was stamped
            let before = Interval::from_nanos(-GRAIN.as_nanos());
            match vouch(*first + before, *first + GRAIN) {
                Vouch::True { .. } => {}
                Vouch::NotYet if now - *first < LONGEST => return,
                Vouch::NotYet | Vouch::Void => self.void += count,
            }
            self.waiting.pop_front();
        }
    }

    /// How many were void.
    pub(crate) fn void(&self) -> u64 {
        self.void
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrival_is_confirmed_or_void_once() {
        const MS: i64 = 1_000_000;
        let at = |millis: i64| Time::from_nanos(millis * MS);
        let mut unconfirmed = Unconfirmed::default();
        (0..1000).for_each(|millis| unconfirmed.add(at(millis)));
        assert!(unconfirmed.waiting.len() <= 100);
        // a step between 300 and 500 ms, seen; nothing is known beyond 800 ms
        let vouch = |from: Time<Monotonic>, to: Time<Monotonic>| match (from, to) {
            (_, to) if to > at(800) => Vouch::NotYet,
            (from, to) if from <= at(500) && at(300) <= to => Vouch::Void,
            _ => Vouch::True { drift: None },
        };
        unconfirmed.settle(at(1000), vouch);
        let void = unconfirmed.void();
        assert!((200..=240).contains(&void), "{void}");
        let waiting: u64 = unconfirmed.waiting.iter().map(|(_, count)| count).sum();
        assert!((200..=220).contains(&waiting), "{waiting}");
        unconfirmed.settle(at(3000), vouch);
        assert_eq!(unconfirmed.void(), void + waiting, "nobody has confirmed them");
    }
}
