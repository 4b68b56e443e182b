//! What a report says, before anybody decides how it looks: `pathlab report --json` is this, written out.
//!
//! The data of figures are integers and text alone, so that their hash can be taken again by other tools:
//! `pathlab report RUN --json | jq -cj .figures.evenings.data | sha256sum`.

use jiff::Timestamp;
use pathlab_record::{Arm, Digest};
use serde::Serialize;

use super::{
    files::Audit,
    judged::Judged,
    ledger::Split,
    paths::Paths,
    sessions::{Curves, Evenings},
};

/// The form of the document.
pub(crate) const SCHEMA: &str = "pathlab.report/1";

/// A whole report.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) version: &'static str,
    /// When it was written.
    pub(crate) made: Timestamp,
    pub(crate) title: String,
    /// IANA zone in which times of day are told.
    pub(crate) zone: String,
    pub(crate) verdicts: Vec<Judged>,
    pub(crate) figures: Figures,
    pub(crate) audits: Vec<Audit>,
    pub(crate) runs: Vec<RunSeen>,
    /// What could not be used, and why.
    pub(crate) remarks: Vec<String>,
}

impl Report {
    /// The runs that are not as they were sealed: nothing on the page is proven then.
    pub(crate) fn broken(&self) -> Option<String> {
        let broken: Vec<&str> =
            self.runs.iter().filter(|run| matches!(run.seal, Seal::Broken(_))).map(|run| run.path.as_str()).collect();
        (!broken.is_empty()).then(|| {
            format!("Not as sealed: {}. What this page says is not what was measured there.", broken.join(", "))
        })
    }
}

/// The figures, each with the hash of what it shows.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) evenings: Figure<Evenings>,
    pub(crate) percentiles: Figure<Curves>,
    pub(crate) stages: Figure<Vec<Split>>,
    pub(crate) paths: Figure<Vec<Paths>>,
}

impl Figures {
    /// Name and hash of each.
    pub(crate) fn hashes(&self) -> [(&'static str, Digest); 4] {
        [
            ("evenings", self.evenings.sha256),
            ("percentiles", self.percentiles.sha256),
            ("stages", self.stages.sha256),
            ("paths", self.paths.sha256),
        ]
    }
}

/// Data and the SHA-256 of their compact JSON.
#[derive(Serialize)]
pub(crate) struct Figure<T> {
    pub(crate) sha256: Digest,
    pub(crate) data: T,
}

impl<T: Serialize> Figure<T> {
    pub(crate) fn new(data: T) -> Self {
        let json = serde_json::to_vec(&data).expect("figures have text keys only");
        Self { sha256: Digest::of(&json), data }
    }
}

/// A run directory as it was found.
#[derive(Serialize)]
pub(crate) struct RunSeen {
    pub(crate) path: String,
    pub(crate) verb: String,
    pub(crate) version: String,
    pub(crate) started: Timestamp,
    /// The host on which it ran, as far as it says.
    pub(crate) host: String,
    pub(crate) seal: Seal,
    /// What was done and noted, beside writing files.
    pub(crate) deeds: Vec<Deed>,
}

/// What the evidence chain of a run says.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Seal {
    /// Everything is as it was sealed.
    Whole { sealed: String, records: usize },
    /// The run goes on or was killed.
    Unsealed,
    /// What is not as it was sealed.
    Broken(String),
}

/// A record of the chain that tells of a deed.
#[derive(Serialize)]
pub(crate) struct Deed {
    pub(crate) time: Timestamp,
    pub(crate) actor: String,
    pub(crate) action: String,
}

/// Characters of an ISP's name that are shown.
const LONGEST_NAME: usize = 120;

/// Sessions that are shown together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Cohort {
    pub(crate) isp: String,
    /// 4 or 6; 0 where nothing tells.
    pub(crate) family: u8,
    pub(crate) arm: Option<Arm>,
}

impl Cohort {
    /// `NTT IPv4`; of a name that is too long for any figure, its beginning.
    pub(crate) fn place(&self) -> String {
        let whole = self.isp.chars().count();
        let isp = match whole > LONGEST_NAME {
            true => format!("{}… ({whole} characters)", self.isp.chars().take(LONGEST_NAME).collect::<String>()),
            false => self.isp.clone(),
        };
        match self.family {
            0 => isp,
            family => format!("{isp} IPv{family}"),
        }
    }

    /// `control`, `canary` or `all sessions`.
    pub(crate) fn arm(&self) -> &'static str {
        arm_name(self.arm)
    }
}

/// An arm in words.
pub(crate) fn arm_name(arm: Option<Arm>) -> &'static str {
    match arm {
        Some(Arm::Control) => "control",
        Some(Arm::Canary) => "canary",
        None => "all sessions",
    }
}
