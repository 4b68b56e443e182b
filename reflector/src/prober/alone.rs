//! What one round trip by itself says of its two delays: wide as the wire, but free of any assumption on how the clocks run.
//!
//! ```text
//! forward + return = wire = (A4 - A1) - (B3 - B2)      neither is below zero
//! forward = B2 - A1 - offset, |offset| <= error        where both ends hold their clocks to UTC, and their Error Estimates say so
//! ```
//! Those of a whole run are narrower from below ([`offset`](super::offset)), but are known only when a minute of it has passed.

use pathlab_record::{ClockId, OneWayDelay};

use super::offset::TwoClocks;

/// Stamps are whole nanoseconds, and fractions of 2⁻³² s on the wire.
const ROUNDING: i128 = 2;
/// The clocks of two hosts differ in rate by at most one part in so many, both slewed by 500 ppm: what that makes of the residence.
const RATES: i128 = 1000;

impl TwoClocks {
    /// The limits of both delays; `None` where the stamps contradict themselves.
    pub(super) fn alone(&self) -> Option<OneWayDelay> {
        let span = |from: i64, to: i64| i128::from(to) - i128::from(from);
        let residence = span(self.reached, self.returned);
        let stamp = i128::from(self.uncertainty);
        let slack = 4 * stamp + ROUNDING + residence.abs() / RATES;
        let most = span(self.sent, self.received) - residence + slack;
        if most < 0 {
            return None;
        }
        let within = |delay: i128, error: i128| {
            let (low, high) = ((delay - error).max(0), (delay + error).min(most));
            (low <= high).then_some([low, high])
        };
        let utc = self.clocks == (ClockId::Realtime, ClockId::Realtime);
        let error = self.synchronised.filter(|_| utc).map(|error| i128::from(error) + 2 * stamp + ROUNDING);
        let told = error.and_then(|error| {
            let forward = within(span(self.sent, self.reached), error)?;
            Some((forward, within(span(self.returned, self.received), error)?))
        });
        let (forward, back) = told.unwrap_or(([0, most], [0, most]));
        let nanos = |limits: [i128; 2]| limits.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX));
        Some(OneWayDelay { forward: nanos(forward), back: nanos(back), synchronised: told.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prober::offset::tests::{MS, Truth, US, play};

    fn holds([low, high]: [u64; 2], truth: i64) -> bool {
        (low..=high).contains(&(truth as u64))
    }

    #[test]
    fn the_truth_lies_within_whatever_the_clocks_do() {
        for (seed, step) in [(1, None), (2, Some((500, 40 * MS))), (3, Some((500, -3 * MS)))] {
            let truth = Truth { offset: -7 * MS, ppm: 100.0, forward: 5 * MS, back: 9 * MS, spread: 30 * MS, step };
            for (packet, forward, back) in play(truth, 1000, seed) {
                let delay = packet.alone().expect("sound stamps");
                assert!(holds(delay.forward, forward) && holds(delay.back, back), "{delay:?}: {forward} {back}");
                assert!(!delay.synchronised && delay.forward[0] == 0);
                assert!(delay.forward[1] <= (forward + back + US) as u64, "no wider than the wire");
            }
        }
    }

    #[test]
    fn error_estimates_narrow_it_where_they_are_not_contradicted() {
        let truth = Truth { offset: 80 * US, ppm: 0.0, forward: 5 * MS, back: 9 * MS, spread: MS, step: None };
        for (packet, forward, back) in play(truth, 200, 4) {
            let bounded = TwoClocks { synchronised: Some(100_000), uncertainty: 50, ..packet };
            let delay = bounded.alone().expect("sound stamps");
            assert!(delay.synchronised && holds(delay.forward, forward) && holds(delay.back, back), "{delay:?}");
            assert!(delay.forward[1] - delay.forward[0] <= 2 * (100_000 + 102), "{delay:?}");
            let on_card = TwoClocks { clocks: (ClockId::Phc(0), ClockId::Realtime), ..bounded };
            assert!(!on_card.alone().expect("stamps").synchronised, "a card's own time is not UTC");
        }
        let (packet, ..) = play(Truth { offset: 20 * MS, ..truth }, 1, 5)[0];
        let liar = TwoClocks { synchronised: Some(1_000), ..packet };
        let delay = liar.alone().expect("sound stamps");
        assert!(!delay.synchronised && delay.forward[0] == 0, "20 ms off, and 1 µs claimed");
        assert_eq!(TwoClocks { received: packet.sent - 1, ..packet }.alone(), None);
    }

    #[test]
    fn any_four_stamps_give_limits_or_none() {
        let all = [i64::MIN, -1, 1, i64::MAX];
        for sent in all {
            for received in all {
                for reached in all {
                    let (packet, ..) =
                        play(Truth { offset: 0, ppm: 0.0, forward: 1, back: 1, spread: 1, step: None }, 1, 1)[0];
                    let packet = TwoClocks { sent, received, reached, uncertainty: u64::MAX, ..packet };
                    let ordered = |[low, high]: [u64; 2]| low <= high;
                    assert!(packet.alone().is_none_or(|delay| ordered(delay.forward) && ordered(delay.back)));
                }
            }
        }
    }
}
