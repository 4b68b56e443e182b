//! One slot of a probe: what was sent, what came back, and when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Ledger, Stamps};

/// Labels of a session: `isp`, `asn`, `family`, `server`, `window` and whatever `--label` adds.
pub type Labels = BTreeMap<String, serde_json::Value>;

/// The two arms of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// The path that everybody takes today.
    Control,
    /// The alternate path under test.
    Canary,
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A reply came within the timeout.
    Received,
    /// The reflector never saw it (known from a stateful reflector's sequence numbers).
    LostForward,
    /// The reflector answered and the answer was lost.
    LostReturn,
    /// Lost, direction unknown.
    Lost,
    /// A second reply to a slot already answered.
    Duplicate,
    /// A reply after the timeout.
    Late,
}

/// Delays one way of one round trip, each as the nanoseconds between which it lies. Where the two ends' Error Estimates take no part, all that
/// is known is that neither is below zero nor beyond what the wire took both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneWayDelay {
    /// Probe to reflector: at least, at most.
    pub forward: [u64; 2],
    /// Reflector to probe.
    #[serde(rename = "return")]
    pub back: [u64; 2],
    /// Whether both Error Estimates took part, which hold both clocks to UTC.
    pub synchronised: bool,
}

/// One line of `samples.jsonl`: a slot, or a further reply to one ([`Outcome::Duplicate`]).
///
/// An unknown field is an error, never ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Sequence number of the test packet within its session.
    pub seq: u32,
    /// Pseudonym of the session.
    pub session: String,
    /// The arm, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// Labels of the session.
    #[serde(default)]
    pub labels: Labels,
    /// What became of the slot.
    pub outcome: Outcome,
    /// Every stamp that was got.
    pub stamps: Stamps,
    /// The split of the round trip, where a reply came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// The delays one way, where both ends of both are known and no clock was set meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way: Option<OneWayDelay>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of DESIGN's chapter on formats, with its stamps written out.
    const LINE: &str = r#"{"seq":41,"session":"k7f3","arm":"canary","labels":{"asn":2914,"family":4,"isp":"NTT","server":"tyo-a"},"outcome":"received","stamps":{"A0":{"app":[1792000000000000000,"realtime",0]},"A1":{"app":[1792000000000000412,"realtime",0],"kernel":[1792000000000009532,"realtime",90]},"B2":{"kernel":[1792000007015009532,"realtime",0]},"B3":{"app":[1792000007015011742,"realtime",0]},"A4":{"app":[1792000000031827157,"realtime",0],"kernel":[1792000000031812154,"realtime",90]}},"ledger":{"sched_late":412,"probe_tx":9120,"wire":31800412,"residence":2210,"probe_rx":15003,"merged":[],"u":180}}"#;

    #[test]
    fn a_line_is_read_and_written_to_the_same_bytes() {
        let sample: Sample = serde_json::from_str(LINE).unwrap();
        assert_eq!(sample.seq, 41);
        assert_eq!(sample.ledger, Ledger::split(&sample.stamps));
        assert_eq!(serde_json::to_string(&sample).unwrap(), LINE);
    }

    #[test]
    fn delays_one_way_are_intervals() {
        let line = LINE
            .replace(r#""u":180}}"#, r#""u":180},"one_way":{"forward":[0,900],"return":[7,800],"synchronised":true}}"#);
        let sample: Sample = serde_json::from_str(&line).unwrap();
        assert_eq!(sample.one_way, Some(OneWayDelay { forward: [0, 900], back: [7, 800], synchronised: true }));
        assert_eq!(serde_json::to_string(&sample).unwrap(), line);
    }

    #[test]
    fn a_lost_slot_has_no_arm_no_ledger_and_few_stamps() {
        let line =
            r#"{"seq":0,"session":"k7f3","labels":{},"outcome":"lost_forward","stamps":{"A0":{"app":[5,"phc3",0]}}}"#;
        let sample: Sample = serde_json::from_str(line).unwrap();
        assert_eq!(sample.outcome, Outcome::LostForward);
        assert_eq!(serde_json::to_string(&sample).unwrap(), line);
    }

    #[test]
    fn unknown_and_broken_fields_are_named() {
        for (from, to, named) in [
            ("\"seq\"", "\"sequence\"", "sequence"),
            ("\"kernel\"", "\"skb\"", "skb"),
            ("realtime", "utc", "utc"),
            ("canary", "treatment", "treatment"),
            ("\"B2\"", "\"B9\"", "B9"),
        ] {
            let error = serde_json::from_str::<Sample>(&LINE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
