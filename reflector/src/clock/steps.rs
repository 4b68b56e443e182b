//! How often the clocks of this host were seen to step, and that for a while after each nothing is claimed of them.

use pathlab_record::{Interval, Monotonic, Time};
use pathlab_xdp::clock::{SystemLook, SystemWatch};
use serde::{Deserialize, Serialize};

use crate::wire::ErrorEstimate;

/// Steps that were seen; absent where there is no such clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// Of `CLOCK_REALTIME`, leap seconds included.
    pub system: u64,
    /// Of the card's clock and `CLOCK_REALTIME` against each other: either may have stepped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<u64>,
}

/// How long a reflector says after a step that it knows nothing: so that every session hears of it, and until a card's clock can be told again.
const DOUBT: Interval = Interval::from_nanos(2_000_000_000);

/// What stands for a clock of which nothing is known: S clear, an error of centuries.
pub(crate) fn nothing_known() -> ErrorEstimate {
    ErrorEstimate::from_nanos(u64::MAX, false)
}

/// Whether a reflector says that it knows nothing of its clock.
pub(crate) fn is_in_doubt(estimate: ErrorEstimate) -> bool {
    estimate.nanos() == Some(u64::MAX)
}

/// Watches both clocks of a reflector, so that what it says of them falls back at once. No clock is read here: looks are arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepWatch {
    system: SystemWatch,
    steps: Steps,
    doubt_until: Option<Time<Monotonic>>,
}

impl StepWatch {
    /// Takes a look, and how often the card's clock has stepped; whether anything has stepped since the last. A new TAI offset is a step
    /// too: XDP programs stamp by TAI.
    pub(crate) fn observe(&mut self, look: SystemLook, card: Option<u64>) -> bool {
        let system = self.system.observe(look).is_some();
        let stepped = system || self.steps.card.is_some_and(|before| card.is_some_and(|now| now != before));
        self.steps = Steps { system: self.steps.system + u64::from(system), card };
        if stepped {
            self.doubt_until = Some(look.monotonic + DOUBT);
        }
        stepped
    }

    /// Whether a step was seen so lately that nothing is to be claimed.
    pub(crate) fn in_doubt(&self, now: Time<Monotonic>) -> bool {
        self.doubt_until.is_some_and(|until| now < until)
    }

    /// What was seen so far.
    pub(crate) fn steps(&self) -> Steps {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_either_clock_is_doubt_for_two_seconds() {
        let look = |at: i64, set: i64, tai: i32| SystemLook {
            monotonic: Time::from_nanos(at),
            realtime: Time::from_nanos(at + set),
            half_width: 20,
            tai_minus_utc: Some(tai),
        };
        const SECOND: i64 = 1_000_000_000;
        // when, set by, TAI, steps of the card; whether that is a step
        let looks = [
            (0, 0, 37, None, false),
            (SECOND, 0, 37, Some(4), false),
            (2 * SECOND, 0, 37, Some(5), true),
            (5 * SECOND, 0, 37, Some(5), false),
            (6 * SECOND, 5_000, 37, Some(5), true),
            (9 * SECOND, 5_000, 38, Some(5), true),
        ];
        let mut watch = StepWatch::default();
        for (at, set, tai, card, stepped) in looks {
            assert_eq!(watch.observe(look(at, set, tai), card), stepped, "{at}");
            for (after, doubt) in [(0, stepped), (2 * SECOND - 1, stepped), (2 * SECOND, false)] {
                assert_eq!(watch.in_doubt(Time::from_nanos(at + after)), doubt, "{at} + {after}");
            }
        }
        assert_eq!(watch.steps(), Steps { system: 2, card: Some(5) });
        assert!(is_in_doubt(nothing_known()) && !nothing_known().is_synchronised());
        assert!(!is_in_doubt(ErrorEstimate::from_nanos(16_000_000_000, false)), "no daemon is no step");
    }

    #[test]
    fn no_card_is_absent_and_not_zero() {
        let text = |steps: Steps| serde_json::to_string(&steps).expect("text");
        assert_eq!(text(Steps { system: 2, card: None }), r#"{"system":2}"#);
        assert_eq!(text(Steps { system: 0, card: Some(0) }), r#"{"system":0,"card":0}"#);
        assert_eq!(serde_json::from_str::<Steps>(r#"{"system":1}"#).expect("steps"), Steps { system: 1, card: None });
    }
}
