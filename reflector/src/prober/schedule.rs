//! When each test packet is meant to leave, decided by the schedule alone, so that a slow reply can never postpone the next
//! packet and hide its own delay.

use std::time::Duration;

use pathlab_record::{Interval, Monotonic, Time};

/// The longest interval between two packets of a session.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// The most sessions of one run; with [`LONGEST_INTERVAL`] this keeps slot arithmetic within 64 bits.
pub const MOST_SESSIONS: usize = 1_000_000;

/// One intended send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index of the session, from 0.
    pub session: usize,
    /// Which slot of that session, from 0. Not the sequence number: a skipped slot has none.
    pub round: u64,
    /// The intended send time.
    pub at: Time<Monotonic>,
}

/// What is to be done with a slot whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send it now. It may be late: its lateness is `now - at`.
    Send(Slot),
    /// So late that sending it would make a burst: give it up and count it.
    Skip(Slot),
}

/// An isochronous schedule: slot `k` of session `i` of `n` is at `start + i * interval / n + k * interval`.
///
/// The phases spread the sessions evenly over the interval, so that they never burst. Slots come out in order of time. In a paired
/// schedule sessions `2i` and `2i + 1` share their slots, and take turns at being first.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Time<Monotonic>,
    interval: i64,
    sessions: u64,
    /// Sessions that share a slot: 1 or 2.
    together: u64,
    skip_after: i64,
    /// Slots of the whole run.
    slots: u64,
    next: u64,
}

impl Schedule {
    /// A schedule that does not end by itself.
    ///
    /// # Panics
    /// If `sessions` is not in `1..=`[`MOST_SESSIONS`] or `interval` not in `1ns..=`[`LONGEST_INTERVAL`].
    pub fn new(start: Time<Monotonic>, interval: Duration, sessions: usize, skip_after: Duration) -> Self {
        assert!((1..=MOST_SESSIONS).contains(&sessions), "{sessions} sessions");
        assert!(!interval.is_zero() && interval <= LONGEST_INTERVAL, "interval {interval:?}");
        Self {
            start,
            interval: interval.as_nanos() as i64,
            sessions: sessions as u64,
            together: 1,
            skip_after: i64::try_from(skip_after.as_nanos()).unwrap_or(i64::MAX),
            slots: u64::MAX,
            next: 0,
        }
    }

    /// Sends sessions two by two. To be called before the schedule's end is set.
    ///
    /// # Panics
    /// If their number is odd.
    pub fn paired(mut self) -> Self {
        assert!(self.sessions.is_multiple_of(2), "{} sessions two by two", self.sessions);
        self.together = 2;
        self
    }

    /// Ends the schedule after `count` slots of every session.
    pub fn until_count(mut self, count: u64) -> Self {
        self.slots = self.slots.min(count.saturating_mul(self.sessions));
        self
    }

    /// Ends the schedule with the last slot before `start + duration`.
    pub fn until_duration(mut self, duration: Duration) -> Self {
        let span = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let (rounds, rest) = (span / self.interval, span % self.interval);
        // Phases below `rest`: those i with i * interval / n < rest, that is i * interval < rest * n.
        let phases = self.sessions / self.together;
        let partial = (rest as u128 * u128::from(phases)).div_ceil(self.interval as u128) as u64 * self.together;
        self.slots = self.slots.min((rounds as u64).saturating_mul(self.sessions).saturating_add(partial));
        self
    }

    /// The next slot, or `None` at the end.
    pub fn peek(&self) -> Option<Slot> {
        if self.next >= self.slots {
            return None;
        }
        let (round, place) = (self.next / self.sessions, self.next % self.sessions);
        let phase = (place / self.together) as i64 * self.interval / (self.sessions / self.together) as i64;
        let session = if self.together == 2 { place ^ (round & 1) } else { place };
        let offset = Interval::from_nanos(phase.saturating_add((round as i64).saturating_mul(self.interval)));
        Some(Slot { session: session as usize, round, at: self.start + offset })
    }

    /// Takes the next slot if its time has come.
    pub fn due(&mut self, now: Time<Monotonic>) -> Option<Due> {
        let slot = self.peek()?;
        let late = (now - slot.at).as_nanos();
        if late < 0 {
            return None;
        }
        self.next += 1;
        Some(if late > self.skip_after { Due::Skip(slot) } else { Due::Send(slot) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    fn at(nanoseconds: i64) -> Time<Monotonic> {
        Time::from_nanos(nanoseconds)
    }

    #[test]
    fn sessions_share_the_interval_evenly() {
        let mut schedule = Schedule::new(at(0), Duration::from_millis(10), 4, Duration::from_secs(1)).until_count(2);
        let mut seen = Vec::new();
        while let Some(Due::Send(slot)) = schedule.due(at(100 * MS)) {
            seen.push((slot.session, slot.round, slot.at.as_nanos() * 10 / MS));
        }
        let expected =
            [(0, 0, 0), (1, 0, 25), (2, 0, 50), (3, 0, 75), (0, 1, 100), (1, 1, 125), (2, 1, 150), (3, 1, 175)];
        assert_eq!(seen, expected);
        assert_eq!(schedule.peek(), None);
    }

    #[test]
    fn a_pair_shares_its_slot_and_takes_turns() {
        let mut schedule =
            Schedule::new(at(0), Duration::from_millis(10), 4, Duration::from_secs(1)).paired().until_count(2);
        let mut seen = Vec::new();
        while let Some(Due::Send(slot)) = schedule.due(at(100 * MS)) {
            seen.push((slot.session, slot.at.as_nanos() / MS));
        }
        assert_eq!(seen, [(0, 0), (1, 0), (2, 5), (3, 5), (1, 10), (0, 10), (3, 15), (2, 15)]);
    }

    #[test]
    fn nothing_leaves_early() {
        let mut schedule = Schedule::new(at(5), Duration::from_millis(1), 1, Duration::from_secs(1));
        assert_eq!(schedule.due(at(4)), None);
        assert!(matches!(schedule.due(at(5)), Some(Due::Send(Slot { round: 0, .. }))));
        assert_eq!(schedule.due(at(5 + MS - 1)), None);
    }

    #[test]
    fn a_stall_is_caught_up_late_and_beyond_the_limit_skipped() {
        let mut schedule = Schedule::new(at(0), Duration::from_millis(1), 1, Duration::from_millis(3)).until_count(11);
        let mut sent = 0;
        let mut skipped = 0;
        while let Some(due) = schedule.due(at(10 * MS)) {
            match due {
                Due::Send(_) => sent += 1,
                Due::Skip(slot) => {
                    assert!(slot.round < 7);
                    skipped += 1;
                }
            }
        }
        assert_eq!((sent, skipped), (4, 7));
    }

    proptest! {
        #[test]
        fn slots_come_in_order_of_time_and_end_with_the_duration(
            sessions in 1usize..40, paired: bool, interval in 1u64..5_000_000, duration in 0u64..30_000_000,
        ) {
            prop_assume!(duration / interval < 200);
            let sessions = if paired { sessions * 2 } else { sessions };
            let schedule = Schedule::new(at(0), Duration::from_nanos(interval), sessions, Duration::ZERO);
            let schedule = if paired { schedule.paired() } else { schedule };
            let mut all = schedule.clone();
            let mut ended = schedule.until_duration(Duration::from_nanos(duration));
            let mut last = at(-1);
            while let Some(slot) = ended.peek() {
                prop_assert!(slot.at >= last && slot.at < at(duration as i64));
                prop_assert_eq!(all.peek(), Some(slot));
                last = slot.at;
                ended.due(slot.at);
                all.due(slot.at);
            }
            prop_assert!(all.peek().unwrap().at >= at(duration as i64));
        }
    }
}
