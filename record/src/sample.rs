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

/// One line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Sequence number of the test packet within its session.
    pub seq: u32,
    /// Pseudonym of the session.
    pub session: String,
    /// The arm, where it is known.
    pub arm: Option<Arm>,
    /// Labels of the session.
    pub labels: Labels,
    /// What became of the slot.
    pub outcome: Outcome,
    /// Every stamp that was got.
    pub stamps: Stamps,
    /// The split of the round trip, where a reply came.
    pub ledger: Option<Ledger>,
}
