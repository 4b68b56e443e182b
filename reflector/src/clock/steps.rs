//! How often the clocks of this host were seen to step.

use serde::{Deserialize, Serialize};

/// Steps that were seen; absent where there is no such clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// Of `CLOCK_REALTIME`, leap seconds included.
    pub system: u64,
    /// Of the card's clock and `CLOCK_REALTIME` against each other: either may have stepped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_card_is_absent_and_not_zero() {
        let text = |steps: Steps| serde_json::to_string(&steps).expect("text");
        assert_eq!(text(Steps { system: 2, card: None }), r#"{"system":2}"#);
        assert_eq!(text(Steps { system: 0, card: Some(0) }), r#"{"system":0,"card":0}"#);
        assert_eq!(serde_json::from_str::<Steps>(r#"{"system":1}"#).expect("steps"), Steps { system: 1, card: None });
    }
}
