//! How a thread keeps its times to microseconds: what it takes of the host, and how it spends the last stretch before it has to act.
//!
//! ```text
//!  sleep ─────────────────────► spin: look at the clock ─► act ─► sleep …
//!  wakes late by what was seen  as long as that was
//! ```

mod claim;
mod spin;
mod sys;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use claim::{Claim, ClaimError};
pub use spin::Spin;
pub use sys::allowed_cpus;

/// How the last stretch before a slot is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Sleep, then look at the clock for as long as recent sleeps ended late, at most half of the time between two slots, and at most half a millisecond.
    #[default]
    Auto,
    /// Sleep to the slot itself: hardly any processor time, late by what a wake-up takes.
    Sleep,
    /// Never sleep before a slot: a whole processor for the exactest schedule.
    Spin,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Sleep => "sleep",
            Self::Spin => "spin",
        })
    }
}

impl FromStr for Pace {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::Auto, Self::Sleep, Self::Spin].into_iter().find(|pace| pace.to_string() == text);
        named.ok_or_else(|| format!("`{text}` is no pace: auto, sleep or spin"))
    }
}

/// Which scheduling class the probe's thread runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Real time where this host allows it and the pace gives the processor back between slots; the report says what was got.
    Auto,
    /// `SCHED_FIFO` at its lowest priority: before everything that is not real time. Refused where this host does not allow it.
    Fifo,
    /// As the thread is.
    #[default]
    Other,
}

impl FromStr for Class {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "fifo" => Ok(Self::Fifo),
            "other" => Ok(Self::Other),
            _ => Err(format!("`{text}` is no scheduling class: auto, fifo or other")),
        }
    }
}

/// What to do for slots to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pacing {
    /// How the last stretch before a slot is spent.
    pub pace: Pace,
    /// Scheduling class of the calling thread while the run goes on. With any but [`Class::Other`] its memory is locked too.
    pub class: Class,
    /// Run on this CPU alone.
    pub cpu: Option<u32>,
}
