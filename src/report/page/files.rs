//! JSON documents of other verbs as a report reads them: what it shows of them, and nothing else of them.

use jiff::Timestamp;
use pathlab_canary::Experiment;
use serde::{Deserialize, Serialize};

/// `pathlab host audit --json`.
#[derive(Deserialize, Serialize)]
pub(crate) struct Audit {
    /// The file.
    #[serde(default)]
    pub(crate) file: String,
    pub(crate) entries: Vec<Entry>,
}

/// One rule's answer.
#[derive(Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) rule: u8,
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) state: String,
    pub(crate) because: String,
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) change: Option<Change>,
}

/// Commands there and back.
#[derive(Deserialize, Serialize)]
pub(crate) struct Change {
    pub(crate) fix: Vec<String>,
    pub(crate) undo: Vec<String>,
}

/// `verdict.json`.
#[derive(Deserialize)]
pub(crate) struct VerdictFile {
    pub(crate) decision: String,
    pub(crate) sentence: String,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) seed: u32,
    pub(crate) plan_sha256: String,
    pub(crate) registered: Registered,
    pub(crate) experiment: Experiment,
    pub(crate) findings: Findings,
    pub(crate) inputs: Vec<Input>,
}

#[derive(Deserialize)]
pub(crate) struct Registered {
    pub(crate) at: Option<Timestamp>,
    pub(crate) before_the_evenings: Option<bool>,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Reason {
    pub(crate) topic: String,
    pub(crate) holds: bool,
    pub(crate) text: String,
}

#[derive(Deserialize)]
pub(crate) struct Input {
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct Findings {
    pub(crate) cells: Vec<Answer>,
    pub(crate) isps: Vec<Isp>,
    pub(crate) guardrails: Vec<Answer>,
    #[serde(default)]
    pub(crate) prelude: Vec<Answer>,
    #[serde(default)]
    pub(crate) acceptance: Option<Acceptance>,
}

#[derive(Deserialize)]
pub(crate) struct Isp {
    pub(crate) target: bool,
    pub(crate) whole: Answer,
    pub(crate) evenings: Vec<Answer>,
}

#[derive(Deserialize)]
pub(crate) struct Acceptance {
    pub(crate) sentence: String,
}

/// A difference of the arms.
#[derive(Clone, Deserialize)]
pub(crate) struct Answer {
    pub(crate) metric: String,
    pub(crate) isp: Option<String>,
    pub(crate) family: Option<String>,
    pub(crate) window: String,
    pub(crate) unit: String,
    pub(crate) sessions: Sessions,
    pub(crate) control: Number,
    pub(crate) canary: Number,
    pub(crate) difference: Number,
    pub(crate) low: Number,
    pub(crate) high: Number,
    pub(crate) confidence: Number,
    pub(crate) margin: Number,
    pub(crate) smallest_detectable: Number,
    #[serde(default)]
    pub(crate) needed: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Sessions {
    pub(crate) control: u64,
    pub(crate) canary: u64,
}

/// A number, or the word for one that is none.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Finite(f64),
    Word(String),
    Absent(()),
}

impl Number {
    /// As a float: infinite by its sign, absent as no number.
    pub(crate) fn value(&self) -> f64 {
        match self {
            Self::Finite(value) => *value,
            Self::Word(word) if word.starts_with('-') => f64::NEG_INFINITY,
            Self::Word(_) => f64::INFINITY,
            Self::Absent(()) => f64::NAN,
        }
    }
}
