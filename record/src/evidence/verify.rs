//! Proof that a run directory is what was sealed, or the name of the record or file that is not.
//!
//! The chain is walked from its head backwards. A record that hashes as its successor says is intact, and with it what it says about
//! the record before; so the first that does not hash so is the one that was tampered with, not its neighbour.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{FILE, Head, PSEUDONYMISE, Record, SEAL, Sums};
use crate::{Digest, Error};

/// A run directory that holds what its chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The record that closed the measurement.
    pub sealed: Head,
    /// The last record.
    pub head: Head,
    /// The chain, in order.
    pub records: Vec<Record>,
    /// Files in the directory that no record names.
    pub unlisted: Vec<String>,
    digests: Vec<Digest>,
}

impl Verified {
    /// Whether a head that was kept elsewhere is part of this chain. If not, the whole directory was rewritten since.
    pub fn holds(&self, head: &Head) -> bool {
        usize::try_from(head.index).is_ok_and(|index| self.digests.get(index) == Some(&head.sha256))
    }

    /// Whether it is a copy with pseudonyms: digests inside its files are those of the original.
    pub fn is_pseudonymised(&self) -> bool {
        self.records.iter().any(|record| record.action.starts_with(PSEUDONYMISE))
    }
}

/// What is wrong with a run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This record is not the one that was written.
    Changed(u64),
    /// This record is missing; its neighbours are there.
    Removed(u64),
    /// Records stand in another order; this one is the last that is out of place.
    Moved(u64),
    /// The records from this one to the head are missing or cut.
    MissingTail {
        /// First record that is missing or cut.
        first: u64,
        /// Last record, as `SHA256SUMS` says.
        last: u64,
    },
    /// A line stands after this record that is not of the chain.
    Inserted {
        /// Index of the last true record before it; `None` above the first.
        after: Option<u64>,
    },
    /// This file is not as it was recorded.
    File {
        /// Name within the directory.
        name: String,
        /// The record that holds its digest.
        record: u64,
    },
    /// This file is recorded and cannot be read.
    Missing {
        /// Name within the directory.
        name: String,
        /// The record that holds its digest.
        record: u64,
        /// What reading it gave.
        error: String,
    },
    /// A record after the seal replaces a file that was sealed.
    Replaced {
        /// Name within the directory.
        name: String,
        /// The later record.
        record: u64,
    },
    /// The chain is whole, and `SHA256SUMS` is not what belongs to it.
    Sums(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(record) => write!(f, "record {record} of {FILE} was changed"),
            Self::Removed(record) => write!(f, "record {record} of {FILE} was removed"),
            Self::Moved(record) => write!(f, "record {record} of {FILE} was moved: the order is not the one written"),
            Self::MissingTail { first, last } => {
                write!(f, "records {first} to {last} at the end of {FILE} are missing or cut")
            }
            Self::Inserted { after: Some(record) } => write!(f, "a line was inserted after record {record} of {FILE}"),
            Self::Inserted { after: None } => write!(f, "a line was inserted above the first record of {FILE}"),
            Self::File { name, record } => write!(f, "{name} is not the file of record {record}"),
            Self::Missing { name, record, error } => {
                write!(f, "{name}, recorded in record {record}, cannot be read: {error}")
            }
            Self::Replaced { name, record } => write!(f, "record {record} replaces {name}, which was sealed"),
            Self::Sums(why) => write!(f, "{} {why}", Sums::FILE),
        }
    }
}

/// Checks a run directory: the chain, every recorded file, and `SHA256SUMS`.
///
/// # Errors
/// [`Error::Unsealed`] where there is no `SHA256SUMS`, as after a run that was killed; [`Error::Evidence`] with the [`Fault`].
pub fn verify(directory: &Path) -> Result<Verified, Error> {
    let fault = |fault| Error::Evidence { path: directory.to_owned(), fault: Box::new(fault) };
    let sums = match fs::read(directory.join(Sums::FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Unsealed { path: directory.to_owned() });
        }
        read => read.map_err(Error::reading(directory.join(Sums::FILE)))?,
    };
    let chain = match fs::read(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(Error::reading(directory.join(FILE)))?,
    };
    let sums = String::from_utf8(sums).map_err(|_| "is not text".to_owned()).and_then(|text| Sums::parse(&text));
    let sums = sums.map_err(|why| fault(Fault::Sums(why)))?;
    let (records, digests) = walk(&chain, &sums).map_err(fault)?;
    let artefacts = artefacts(&records, &sums).map_err(fault)?;
    for (name, (record, digest)) in &artefacts {
        match digest_of(&directory.join(name)) {
            Ok(found) if found == *digest => {}
            Ok(_) => return Err(fault(Fault::File { name: name.clone(), record: *record })),
            Err(error) => {
                return Err(fault(Fault::Missing { name: name.clone(), record: *record, error: error.to_string() }));
            }
        }
    }
    let unlisted =
        files(directory)?.into_iter().filter(|name| !sums.files.contains_key(name) && name != Sums::FILE).collect();
    Ok(Verified { sealed: sums.sealed, head: sums.head, records, unlisted, digests })
}

/// From the head backwards to record 0, or the fault nearest to the head.
fn walk(chain: &[u8], sums: &Sums) -> Result<(Vec<Record>, Vec<Digest>), Fault> {
    let lines: Vec<&[u8]> = chain.split_inclusive(|byte| *byte == b'\n').collect();
    let digests: Vec<Digest> = lines.iter().map(|line| Digest::of(line)).collect();
    let chain_as_summed = sums.files.get(FILE) == Some(&Digest::of(chain));
    let mut records = Vec::with_capacity(lines.len());
    let mut expected = sums.head;
    let mut left = lines.len();
    loop {
        let found = left.checked_sub(1).filter(|at| digests[*at] == expected.sha256);
        let record = found.and_then(|at| serde_json::from_slice::<Record>(lines[at]).ok());
        let Some(record) = record.filter(|record| record.index == expected.index) else {
            // The head is wrong and the file is right: then it is SHA256SUMS that was changed.
            if chain_as_summed && records.is_empty() {
                return Err(Fault::Sums(format!("names a head, {expected}, that is not the last record of {FILE}")));
            }
            return Err(locate(&lines, &digests, left, expected, sums.head.index));
        };
        left -= 1;
        let previous = record.previous;
        records.push(record);
        if expected.index == 0 {
            break;
        }
        expected = Head { index: expected.index - 1, sha256: previous };
    }
    if left > 0 {
        return Err(Fault::Inserted { after: None });
    }
    if !chain_as_summed {
        return Err(Fault::Sums(format!("has another digest for {FILE}, whose chain is whole")));
    }
    records.reverse();
    Ok((records, digests))
}

/// Names what happened to the record `expected`, which should be the last of the `left` lines that remain and is not.
fn locate(lines: &[&[u8]], digests: &[Digest], left: usize, expected: Head, last: u64) -> Fault {
    if digests[..left].contains(&expected.sha256) {
        // It is there, further up: lines were put below it, or it changed places with one.
        return match left as u64 > expected.index.saturating_add(1) {
            true => Fault::Inserted { after: Some(expected.index) },
            false => Fault::Moved(expected.index),
        };
    }
    let there = left.checked_sub(1).map(|at| lines[at]);
    let index = there.and_then(|line| serde_json::from_slice::<Record>(line).ok()).map(|record| record.index);
    let short = lines.len() as u64 <= last;
    let earlier_stands_there = short && (there.is_none() || index.is_some_and(|index| index < expected.index));
    if left == lines.len() {
        let cut = there.is_some_and(|line| !line.ends_with(b"\n"));
        if cut || earlier_stands_there {
            let whole = (lines.len() - usize::from(cut)) as u64;
            return Fault::MissingTail { first: whole.min(last), last };
        }
    }
    if earlier_stands_there { Fault::Removed(expected.index) } else { Fault::Changed(expected.index) }
}

/// The recorded files with the record that counts for each, checked against `SHA256SUMS`.
fn artefacts(records: &[Record], sums: &Sums) -> Result<BTreeMap<String, (u64, Digest)>, Fault> {
    let is_sealed = |record: &&Record| record.index == sums.sealed.index && record.action == SEAL;
    let after = records.get(usize::try_from(sums.sealed.index).unwrap_or(usize::MAX).saturating_add(1));
    let digest = after.map_or(sums.head.sha256, |next| next.previous);
    if !records.iter().any(|record| is_sealed(&record)) || digest != sums.sealed.sha256 {
        return Err(Fault::Sums(format!("names a seal, {}, that is not in {FILE}", sums.sealed)));
    }
    let mut files = BTreeMap::new();
    for record in records {
        let Some(artefact) = &record.artefact else { continue };
        if !crate::directory::is_plain_name(&artefact.name) {
            return Err(Fault::Changed(record.index));
        }
        let before = files.insert(artefact.name.clone(), (record.index, artefact.sha256));
        if before.is_some_and(|(earlier, _)| earlier <= sums.sealed.index) {
            return Err(Fault::Replaced { name: artefact.name.clone(), record: record.index });
        }
    }
    for (name, digest) in sums.files.iter().filter(|(name, _)| *name != FILE) {
        match files.get(name) {
            Some((_, recorded)) if recorded == digest => {}
            Some((record, _)) => return Err(Fault::Sums(format!("disagrees with record {record} about {name}"))),
            None => return Err(Fault::Sums(format!("lists {name}, which no record names"))),
        }
    }
    match files.keys().find(|name| !sums.files.contains_key(*name)) {
        Some(name) => Err(Fault::Sums(format!("does not list {name}"))),
        None => Ok(files),
    }
}

/// The digest of a regular file; a link or a device that stands in its place might never end.
fn digest_of(path: &Path) -> io::Result<Digest> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Digest::of_file(path)
}

fn files(directory: &Path) -> Result<Vec<String>, Error> {
    // A directory is a run of its own, with a seal of its own.
    let name = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        Ok((!is_directory).then(|| entry.file_name().to_string_lossy().into_owned()))
    };
    let listed: io::Result<Vec<String>> =
        fs::read_dir(directory).and_then(|entries| entries.filter_map(|entry| name(entry).transpose()).collect());
    let mut names = listed.map_err(Error::reading(PathBuf::from(directory)))?;
    names.sort_unstable();
    Ok(names)
}
