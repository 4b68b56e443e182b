//! How the slots were kept, as far as the host was concerned.

use pathlab_xdp::pacing::Pace;
use serde::{Deserialize, Serialize};

use super::summary::Quantiles;

/// How the slots were kept, as far as the host was concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacingReport {
    /// How the last stretch before a slot was spent.
    pub pace: Pace,
    /// How long the clock was looked at before a slot, at the end of the run, in nanoseconds.
    pub spin_ns: u64,
    /// How late sleeps ended, in nanoseconds; absent where none was slept through.
    pub overslept: Option<Quantiles>,
    /// The scheduling class that was got, such as `SCHED_FIFO 1`.
    pub scheduler: String,
    /// Why it is not real time, where that was wanted.
    pub scheduler_why: Option<String>,
    /// The CPU that the thread was held to.
    pub cpu: Option<u32>,
    /// Whether its memory was locked, so that no page had to be fetched before a slot.
    pub memory_locked: bool,
}
