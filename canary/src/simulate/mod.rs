//! Experiments that could have been, made of control sessions and judged by the whole policy: how many sessions it takes, how often it errs.
//!
//! ```text
//! control evenings ─► Controls ─┬─ drawn with replacement, an effect put into the canary ─► power: sessions and evenings needed
//!                               └─ as they are, under other seeds ────────────────────────► alike: how often chance misleads the policy
//! ```

mod alike;
mod controls;
mod power;

pub use alike::{Alike, alike};
pub use controls::Controls;
pub use power::{Effort, Sized, Wanted, power};

use crate::{Decision, Error, Experiment, Ingested, judge::judge_if_near};
use pathlab_record::SessionKey;

/// What becomes of an experiment that is judged after each evening: the first RollBack or Promote ends it, and so does its last evening.
/// `evenings` holds the data as they stood after each.
fn outcome(
    experiment: &Experiment,
    seed: u32,
    evenings: &[Ingested],
    bucket: impl Fn(u32, &SessionKey) -> Option<u16> + Sync,
) -> Result<Decision, Error> {
    for evening in evenings {
        if let Some(verdict) = judge_if_near(experiment, seed, evening, &bucket)?
            && verdict.decision != Decision::Hold
        {
            return Ok(verdict.decision);
        }
    }
    Ok(Decision::Hold)
}
