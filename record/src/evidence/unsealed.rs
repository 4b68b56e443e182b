//! What a run that was never sealed still holds: its chain as far as each record follows from the one before, and each file up to its last whole line.
//!
//! Nothing of it is proven: no seal says that there was not more, and only the chain says of itself that it is one.

use std::{
    fmt,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

use super::{FILE, Record};
use crate::{Digest, Error, directory::is_plain_name};

/// A run directory without a seal, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsealed {
    /// The records that follow from each other, from the first on.
    pub records: Vec<Record>,
    /// Why the record behind them is none: cut short, or not of this chain; absent where nothing follows.
    pub broken: Option<&'static str>,
    /// Every other file, by name.
    pub files: Vec<Remains>,
}

/// A file of such a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Name within the directory.
    pub name: String,
    /// Lines that end as lines do.
    pub lines: u64,
    /// Octets behind the last of them: the beginning of a line that was cut short.
    pub cut: u64,
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, lines, cut } = self;
        match (lines, cut) {
            (0, 0) => write!(f, "{name}: empty"),
            (_, 0) => write!(f, "{name}: {lines} lines, none cut short"),
            _ => write!(f, "{name}: {lines} whole lines; line {} is cut short after {cut} octets", lines + 1),
        }
    }
}

impl Unsealed {
    /// Looks at a run directory without `SHA256SUMS`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let (records, broken) = match fs::read(directory.join(FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (Vec::new(), Some("the chain's file is missing"))
            }
            read => chain(&read.map_err(Error::reading(directory.join(FILE)))?),
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(Error::reading(directory))? {
            let entry = entry.map_err(Error::reading(directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().map_err(Error::reading(entry.path()))?.is_file();
            if is_file && is_plain_name(&name) && name != FILE {
                files.push(remains(name, &entry.path())?);
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { records, broken, files })
    }

    /// The chain in one line.
    pub fn chain(&self) -> String {
        let whole = self.records.len();
        let last = self.records.last();
        let last = last.map_or_else(String::new, |last| format!(", the last at {:.0}: {}", last.time, last.action));
        let broken = self.broken.map_or_else(String::new, |why| format!("; record {whole}: {why}"));
        format!("{FILE}: {whole} whole records{last}{broken}")
    }
}

fn chain(bytes: &[u8]) -> (Vec<Record>, Option<&'static str>) {
    let (mut records, mut previous) = (Vec::new(), Digest::NONE);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\n") {
            return (records, Some("the line is cut short"));
        }
        let record = serde_json::from_slice::<Record>(line).ok();
        let follows = |record: &Record| record.previous == previous && record.index == records.len() as u64;
        match record.filter(follows) {
            Some(record) => records.push(record),
            None => return (records, Some("does not follow from the one before")),
        }
        previous = Digest::of(line);
    }
    (records, None)
}

fn remains(name: String, path: &Path) -> Result<Remains, Error> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::reading(path))?);
    let (mut lines, mut cut) = (0, 0);
    loop {
        let octets = reader.fill_buf().map_err(Error::reading(path))?;
        if octets.is_empty() {
            return Ok(Remains { name, lines, cut });
        }
        lines += octets.iter().filter(|octet| **octet == b'\n').count() as u64;
        let behind = octets.iter().rposition(|octet| *octet == b'\n');
        let read = octets.len();
        cut = behind.map_or(cut + read as u64, |last| (read - last - 1) as u64);
        reader.consume(read);
    }
}
