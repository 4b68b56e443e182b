//! `SHA256SUMS`: what `sha256sum -c` reads, with the chain's sealed and last records in comments above.

use std::{collections::BTreeMap, fmt};

use super::Head;
use crate::Digest;

const SEALED: &str = "# evidence.jsonl sealed: ";
const HEAD: &str = "# evidence.jsonl head: ";

/// The content of `SHA256SUMS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    /// The record that closed the measurement.
    pub(crate) sealed: Head,
    /// The chain's last record.
    pub(crate) head: Head,
    /// Every file, `evidence.jsonl` among them.
    pub(crate) files: BTreeMap<String, Digest>,
}

impl Sums {
    pub(crate) const FILE: &str = "SHA256SUMS";

    /// Reads exactly what [`Display`](fmt::Display) writes; anything else is an error that names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate();
        let mut comment = |prefix: &str| {
            let (_, line) = lines.next().ok_or("is cut short")?;
            let head = line.strip_prefix(prefix).ok_or_else(|| format!("{line:?} does not start with {prefix:?}"))?;
            head.parse::<Head>()
        };
        let (sealed, head) = (comment(SEALED)?, comment(HEAD)?);
        let mut files = BTreeMap::new();
        for (number, line) in lines {
            let (digest, name) = line.split_once("  ").ok_or_else(|| format!("line {}: no two blanks", number + 1))?;
            let digest = digest.parse().map_err(|why| format!("line {}: {why}", number + 1))?;
            files.insert(name.to_owned(), digest);
        }
        let sums = Self { sealed, head, files };
        if sums.to_string() == text { Ok(sums) } else { Err("has lines out of order, twice or without end".to_owned()) }
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{SEALED}{}", self.sealed)?;
        writeln!(f, "{HEAD}{}", self.head)?;
        self.files.iter().try_for_each(|(name, digest)| writeln!(f, "{digest}  {name}"))
    }
}
