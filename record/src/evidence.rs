//! The evidence chain: who did what, when, to which file, such that no record can be changed, dropped or moved unnoticed.
//!
//! ```text
//! evidence.jsonl   record 0 ◄─ record 1 ◄─ ... ◄─ seal ◄─ report      each holds the SHA-256 of the line before it
//! SHA256SUMS       every file, and the chain's sealed record and last record (its head)
//! ```
//!
//! The canonical bytes of a record are its raw line with the line feed, so `tail -n1 evidence.jsonl | sha256sum` prints the head.
//! A chain alone cannot show that its end was cut off: therefore the head stands in `SHA256SUMS`, and is printed, so that it can be
//! kept outside. Whoever holds the whole directory can rewrite it all; only a head kept elsewhere stops that ([`Verified::holds`]).

mod copy;
mod sums;
mod unsealed;
mod verify;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use copy::{pseudonymised, pseudonymised_tree};
pub(crate) use sums::Sums;
pub use unsealed::{Remains, Unsealed};
pub use verify::{Fault, Verified, verify};

use crate::Digest;

/// The chain's file.
pub(crate) const FILE: &str = "evidence.jsonl";
/// The action of the record that closes the measurement.
pub(crate) const SEAL: &str = "seal";
/// Begins the deed of a copy with pseudonyms.
pub(crate) const PSEUDONYMISE: &str = "pseudonymise";

/// One line of `evidence.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Place in the chain, from 0.
    pub index: u64,
    /// When (UTC).
    pub time: Timestamp,
    /// Who, such as `pathlab 0.1.0 probe`.
    pub actor: String,
    /// What was done, such as `start`, `write`, `seal`, `report`, or the controller's `ramp 20%`.
    pub action: String,
    /// The file that it was done to, as it was afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artefact: Option<Artefact>,
    /// SHA-256 of the line before, line feed included; zeros in the first record.
    pub previous: Digest,
}

/// A file of the run directory and its content's digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Name within the directory.
    pub name: String,
    /// SHA-256 of the content.
    pub sha256: Digest,
}

/// A place in the chain and the digest of its line: what is printed and kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Index of the record.
    pub index: u64,
    /// SHA-256 of its line, line feed included.
    pub sha256: Digest,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {} sha256 {}", self.index, self.sha256)
    }
}

impl std::str::FromStr for Head {
    type Err = String;
    /// `record 8 sha256 3f5a...`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix("record ").and_then(|rest| rest.split_once(" sha256 "));
        let (index, sha256) = parts.ok_or_else(|| format!("{text:?} is not \"record <index> sha256 <digest>\""))?;
        let index = index.parse().map_err(|_| format!("{index:?} is not the index of a record"))?;
        Ok(Self { index, sha256: sha256.parse()? })
    }
}

/// The growing end of a chain.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    head: Option<Head>,
}

impl Chain {
    /// The chain whose last record is `head`.
    pub(crate) fn ending_in(head: Head) -> Self {
        Self { head: Some(head) }
    }

    /// The next line, line feed included, and the head that it makes.
    pub(crate) fn append(
        &mut self,
        time: Timestamp,
        actor: &str,
        action: &str,
        artefact: Option<Artefact>,
    ) -> (String, Head) {
        let (index, previous) = self.head.map_or((0, Digest::NONE), |head| (head.index + 1, head.sha256));
        let (actor, action) = (actor.to_owned(), action.to_owned());
        let record = Record { index, time, actor, action, artefact, previous };
        let line = serde_json::to_string(&record).expect("a record has text keys only") + "\n";
        let head = Head { index, sha256: Digest::of(line.as_bytes()) };
        self.head = Some(head);
        (line, head)
    }
}
