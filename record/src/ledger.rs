//! The split of one round trip into the stages of DESIGN's ledger: an identity in integer nanoseconds.
//!
//! `sched_late + probe_tx + wire + residence + probe_rx = A4app - A0`. Where a stamp is absent the terms it would part are merged
//! under a name that says so, such as `probe_tx+wire`.

use serde::{Deserialize, Serialize};

use crate::{Interval, Stamps};

/// A stage of the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// `A1app - A0`: how late the probe was against its own schedule.
    SchedLate,
    /// Probe host, sending: `A1app` to the outermost `A1`.
    ProbeTx,
    /// Both directions of the path: `(A4 - A1) - (B3 - B2)`, each bracket within one clock.
    Wire,
    /// Reflector host: `B3 - B2`.
    Residence,
    /// Probe host, receiving: the outermost `A4` to `A4app`.
    ProbeRx,
}

/// The split of one round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Each part, in path order: the terms it holds (more than one when merged) and its length.
    pub parts: Vec<(Vec<Term>, Interval)>,
    /// Uncertainty of the `wire` part (or the part that holds it) in nanoseconds.
    pub uncertainty: u64,
}

impl Ledger {
    /// Splits a round trip; `None` where even `A0` or `A4app` is absent.
    pub fn split(_stamps: &Stamps) -> Option<Self> {
        None
    }
}
