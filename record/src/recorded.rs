//! A run directory as it is read again: line by line, with errors that name file, line and field.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    iter,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::{
    Digest, Error, Head, LogInterval, Run, Sample, SessionBin,
    directory::{RUN, SAMPLES, SESSIONS, check_name, write_sums},
    evidence::{self, Artefact, Chain, Sums, verify},
    hlog,
};

/// The longest line that is read, in bytes. Four full histograms and their labels fit.
const LONGEST_LINE: u64 = 4 << 20;

/// A run directory that was written before.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    /// Its `run.json`.
    pub run: Run,
    path: PathBuf,
}

impl RecordedRun {
    /// Reads `run.json`. Whether the directory is whole is for [`verify`] to say.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Line`] for a `run.json` that cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = path.join(RUN);
        let text = fs::read_to_string(&file).map_err(Error::reading(&file))?;
        let run = serde_json::from_str(&text).map_err(|error| Error::Line {
            line: error.line() as u64,
            why: sentence(&error, &text),
            file,
        })?;
        Ok(Self { run, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the run ended properly. A run that goes on, or was killed, has no `SHA256SUMS`.
    pub fn is_sealed(&self) -> bool {
        self.path.join(Sums::FILE).exists()
    }

    /// The lines of `samples.jsonl`; none where the run wrote none.
    ///
    /// # Errors
    /// [`Error::Io`] where the file is there and cannot be opened; each line may be an [`Error::Line`].
    pub fn samples(&self) -> Result<impl Iterator<Item = Result<Sample, Error>> + use<>, Error> {
        self.lines(SAMPLES, from_json)
    }

    /// The lines of `sessions.jsonl`, each checked; none where the run wrote none.
    ///
    /// A million bins with their labels as text weigh far more than their histograms: digest them as they come.
    ///
    /// # Errors
    /// [`Error::Io`] where the file is there and cannot be opened; each line may be an [`Error::Line`].
    pub fn sessions(&self) -> Result<impl Iterator<Item = Result<SessionBin, Error>> + use<>, Error> {
        self.lines(SESSIONS, checked_bin)
    }

    /// The intervals of `<log>.hlog`; none where the run wrote none.
    ///
    /// # Errors
    /// [`Error::Io`] where the file is there and cannot be opened; each line may be an [`Error::Line`].
    pub fn intervals(&self, log: &str) -> Result<impl Iterator<Item = Result<LogInterval, Error>> + use<>, Error> {
        let intervals = self.lines(&format!("{log}.hlog"), |line| match hlog::is_interval(line) {
            true => LogInterval::from_line(line).map(Some),
            false => Ok(None),
        })?;
        Ok(intervals.filter_map(Result::transpose))
    }

    fn lines<T: 'static>(&self, name: &str, read: fn(&str) -> Result<T, String>) -> Result<Lines<T>, Error> {
        let file = self.path.join(name);
        if file.exists() { lines(file, read) } else { Ok(Box::new(iter::empty())) }
    }

    /// Adds a file to a sealed run, such as its report, with a record that hashes it. The sealed record stays where it is; a file
    /// that was added so before may be replaced, a sealed one not. The new head is to be printed.
    ///
    /// # Errors
    /// Those of [`verify`], which comes first; [`Error::Name`] for a name that is sealed or not plain; [`Error::Io`].
    pub fn append(
        &self,
        name: &str,
        content: &[u8],
        time: Timestamp,
        actor: &str,
        action: &str,
    ) -> Result<Head, Error> {
        check_name(name)?;
        let verified = verify(&self.path)?;
        let mut files = BTreeMap::new();
        for record in &verified.records {
            let Some(artefact) = &record.artefact else { continue };
            if artefact.name == name && record.index <= verified.sealed.index {
                return Err(Error::Name { name: name.to_owned(), why: "was sealed; choose another name" });
            }
            files.insert(artefact.name.clone(), artefact.sha256);
        }
        let artefact = Artefact { name: name.to_owned(), sha256: Digest::of(content) };
        files.insert(name.to_owned(), artefact.sha256);
        let path = self.path.join(name);
        fs::write(&path, content).map_err(Error::writing(path))?;
        let (line, head) = Chain::ending_in(verified.head).append(time, actor, action, Some(artefact));
        let chain = self.path.join(evidence::FILE);
        let append = || {
            let mut file = OpenOptions::new().append(true).open(&chain)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        append().map_err(Error::writing(&chain))?;
        write_sums(&self.path, verified.sealed, head, files)?;
        Ok(head)
    }
}

/// The lines of a file in the format of `sessions.jsonl`, wherever it comes from, each checked ([`SessionBin::check`]).
///
/// # Errors
/// [`Error::Io`] where the file cannot be opened; each line may be an [`Error::Line`], after which there are no more.
pub fn read_sessions(file: &Path) -> Result<impl Iterator<Item = Result<SessionBin, Error>> + use<>, Error> {
    lines(file.to_owned(), checked_bin)
}

fn checked_bin(line: &str) -> Result<SessionBin, String> {
    let bin: SessionBin = from_json(line)?;
    bin.check().map_err(|error| error.to_string())?;
    Ok(bin)
}

fn from_json<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| sentence(&error, line))
}

type Lines<T> = Box<dyn Iterator<Item = Result<T, Error>> + Send>;

/// The lines of a file up to the first that is broken.
fn lines<T: 'static>(file: PathBuf, read: fn(&str) -> Result<T, String>) -> Result<Lines<T>, Error> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(&file).map_err(Error::reading(&file))?);
    let (mut bytes, mut number, mut broken) = (Vec::new(), 0_u64, false);
    Ok(Box::new(iter::from_fn(move || {
        if broken {
            return None;
        }
        bytes.clear();
        number += 1;
        let parsed = match (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut bytes) {
            Err(error) => Err(Error::reading(&file)(error)),
            Ok(0) => return None,
            Ok(_) => {
                line_of(&bytes).and_then(read).map_err(|why| Error::Line { file: file.clone(), line: number, why })
            }
        };
        broken = parsed.is_err();
        Some(parsed)
    })))
}

fn line_of(bytes: &[u8]) -> Result<&str, String> {
    let Some(line) = bytes.strip_suffix(b"\n") else {
        return Err(match bytes.len() as u64 {
            LONGEST_LINE => format!("longer than {LONGEST_LINE} bytes"),
            _ => "the line is cut short: no line feed".to_owned(),
        });
    };
    std::str::from_utf8(line).map_err(|error| error.to_string())
}

/// serde_json's message, with the field that it stopped at, which it does not name when a value has the wrong type.
fn sentence(error: &serde_json::Error, text: &str) -> String {
    let message = error.to_string();
    let why = message.rsplit_once(" at line ").map_or(message.as_str(), |(why, _)| why);
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let before = line.get(..error.column().min(line.len())).unwrap_or_default();
    let key = before.rfind("\":").and_then(|end| before[..end].rsplit_once('"'));
    match key {
        Some((_, key)) => format!("{why} (field {key:?}, column {})", error.column()),
        None => format!("{why} (column {})", error.column()),
    }
}
