//! How long to look at the clock before a slot instead of sleeping: as long as this host's sleeps were lately seen to end late, and never more than a stated
//! share of a processor.

use pathlab_record::{Interval, SparseHistogram};

use super::Pace;

/// Chooses the stretch from how late the last sleeps ended.
#[derive(Clone, Debug)]
pub struct Spin {
    pace: Pace,
    most: Interval,
    length: Interval,
    recent: Vec<u32>,
    next: usize,
    fresh: usize,
    all: SparseHistogram,
}

/// Sleeps that the choice rests on.
const RECENT: usize = 1024;
/// So many new ones before the choice is made again.
const RENEW: usize = 32;
/// Until sleeps have been seen.
const FIRST: Interval = Interval::from_nanos(60_000);
/// Added to what was seen: reading the clock and returning from the kernel.
const MARGIN: i64 = 2_000;
/// Of the sleeps that a permitted stretch can meet, those that it does not.
const MISSED: f64 = 0.002;
/// A longer stretch would pay for wake-ups that are rare, and too late to be worth a processor. Where slots lie a millisecond apart it is half of one, at 10 ms a
/// twentieth. A virtual machine whose processor has gone idle wakes up 300 µs late in more than one of a hundred sleeps.
const LONGEST: i64 = 500_000;

impl Spin {
    /// For slots that lie `spacing` apart: at most half of that, and at most half a millisecond, is ever spent looking at the clock.
    pub fn new(pace: Pace, spacing: Interval) -> Self {
        let most = Interval::from_nanos((spacing.as_nanos() / 2).clamp(0, LONGEST));
        Self {
            pace,
            most,
            length: FIRST.min(most),
            recent: Vec::with_capacity(RECENT),
            next: 0,
            fresh: 0,
            all: SparseHistogram::new(),
        }
    }

    /// The stretch before the next slot.
    pub fn length(&self) -> Interval {
        match self.pace {
            Pace::Auto => self.length,
            Pace::Sleep => Interval::ZERO,
            Pace::Spin => Interval::from_nanos(i64::MAX),
        }
    }

    /// Notes that a sleep ended so late.
    pub fn overslept(&mut self, late: Interval) {
        let late = late.as_nanos().clamp(0, i64::from(u32::MAX)) as u32;
        if self.recent.len() < RECENT {
            self.recent.push(late);
        } else {
            self.recent[self.next] = late;
        }
        self.next = (self.next + 1) % RECENT;
        self.fresh += 1;
        self.all.record(u64::from(late));
    }

    /// Chooses again where enough is new; to be called when there is time.
    pub fn renew(&mut self) {
        if self.fresh < RENEW {
            return;
        }
        self.fresh = 0;
        // What no permitted stretch could have met is left out: it would make every stretch the longest, for nothing.
        let most = self.most.as_nanos();
        let mut within: Vec<u32> =
            self.recent.iter().copied().filter(|&late| i64::from(late) + MARGIN <= most).collect();
        let Some(last) = within.len().checked_sub(1) else {
            self.length = self.most;
            return;
        };
        let rank = (within.len() as f64 * (1.0 - MISSED)) as usize;
        let (_, late, _) = within.select_nth_unstable(rank.min(last));
        self.length = Interval::from_nanos(i64::from(*late) + MARGIN);
    }

    /// How late all sleeps ended.
    pub fn overslept_all(&self) -> &SparseHistogram {
        &self.all
    }

    /// What the stretch is now, in nanoseconds, at most what lies between two slots.
    pub fn reported(&self) -> u64 {
        match self.pace {
            Pace::Spin => self.most.as_nanos() as u64 * 2,
            _ => self.length().as_nanos() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: i64 = 1_000;

    fn after(spacing: i64, late: impl Iterator<Item = i64>) -> Interval {
        let mut spin = Spin::new(Pace::Auto, Interval::from_nanos(spacing));
        for late in late {
            spin.overslept(Interval::from_nanos(late));
            spin.renew();
        }
        spin.length()
    }

    #[test]
    fn the_stretch_covers_nearly_every_sleep() {
        let late = |rare: i64| move |index: i64| if index % rare == rare - 1 { 90 * US } else { 10 * US };
        let length = |rare| after(1000 * US, (0..2000).map(late(rare))).as_nanos();
        assert_eq!(length(300), 92 * US, "three of a thousand are covered too");
        assert_eq!(length(600), 12 * US, "fewer are not worth it");
        assert_eq!(after(1000 * US, (0..2000).map(|_| 8 * US)).as_nanos(), 10 * US);
    }

    #[test]
    fn what_cannot_be_met_does_not_cost() {
        let late = |index: i64| if index % 100 == 99 { 4_000 * US } else { 10 * US };
        assert_eq!(after(1000 * US, (0..2000).map(late)).as_nanos(), 12 * US);
        assert_eq!(
            after(1000 * US, (0..64).map(|_| 900 * US)).as_nanos(),
            500 * US,
            "nothing can be met: all that is allowed"
        );
    }

    /// How a virtual machine that has nothing else to do wakes up: one of seventy sleeps ends 300 to 450 µs late.
    #[test]
    fn what_an_idle_processor_oversleeps_is_met_where_slots_leave_the_time() {
        let late = |index: i64| if index % 70 == 69 { 300 * US + index % 3 * 75 * US } else { 25 * US };
        let length = |spacing| after(spacing, (0..2000).map(late)).as_nanos();
        assert_eq!(length(1000 * US), 452 * US);
        assert_eq!(length(200 * US), 27 * US, "at most 100 µs: none of them can be met, and so none is tried");
        for spacing in [200, 1000, 10_000, 1_000_000] {
            assert!(length(spacing * US) <= (spacing * US / 2).min(500 * US), "the share that is stated");
        }
    }

    #[test]
    fn a_stretch_that_is_needed_no_more_is_given_up() {
        let late = |index: i64| if index < 1000 { 300 * US } else { 20 * US };
        assert_eq!(after(1000 * US, (0..1024).map(late)).as_nanos(), 302 * US);
        assert_eq!(after(1000 * US, (0..2500).map(late)).as_nanos(), 22 * US);
    }

    #[test]
    fn at_most_half_of_the_time_is_spent_so() {
        assert_eq!(after(20 * US, std::iter::empty()).as_nanos(), 10 * US);
        assert_eq!(after(0, std::iter::empty()), Interval::ZERO);
        assert!(after(100 * US, (0..2000).map(|index| index % 200 * US)).as_nanos() <= 50 * US);
    }

    #[test]
    fn the_other_paces_do_not_learn() {
        for (pace, length) in [(Pace::Sleep, 0), (Pace::Spin, i64::MAX)] {
            let mut spin = Spin::new(pace, Interval::from_nanos(1000 * US));
            (0..100).for_each(|_| spin.overslept(Interval::from_nanos(9 * US)));
            spin.renew();
            assert_eq!(spin.length().as_nanos(), length);
            assert_eq!(pace.to_string().parse(), Ok(pace));
        }
        assert!("fast".parse::<Pace>().is_err());
    }
}
