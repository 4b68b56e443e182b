//! The run directory while it is being written: every measuring verb leaves one behind.
//!
//! Writers are buffered and owned here, so that sealing sees what they wrote. `SHA256SUMS` comes last and in one move: a directory
//! without it was not sealed, however the run ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Digest, Error, Head, LogInterval, Run, Sample, SessionBin,
    evidence::{self, Artefact, Chain, SEAL, Sums},
    hlog,
    run::KeepSamples,
};

pub(crate) const RUN: &str = "run.json";
pub(crate) const SAMPLES: &str = "samples.jsonl";
pub(crate) const SESSIONS: &str = "sessions.jsonl";
const RESERVED: [&str; 5] = [RUN, SAMPLES, SESSIONS, evidence::FILE, Sums::FILE];

/// A run directory that is being written.
///
/// ```
/// # use pathlab_record::{Run, RunDirectory, RecordedRun, verify};
/// # let out = tempfile::tempdir()?;
/// # let out = out.path().join("run");
/// let started = "2026-11-21T10:00:00Z".parse()?;
/// let mut directory = RunDirectory::create(&out, &Run::new("probe", started))?;
/// directory.artefact("verdict.json", b"{}\n")?;
/// let head = directory.seal("2026-11-21T10:10:00Z".parse()?)?;
/// println!("sealed: {head}");
/// assert!(verify(&out)?.holds(&head));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    actor: String,
    evidence: File,
    chain: Chain,
    files: BTreeMap<String, BufWriter<File>>,
    keep: KeepSamples,
    lowest: BTreeSet<(u64, String)>,
    dropped: bool,
}

impl RunDirectory {
    /// Makes the directory, with its parents, writes `run.json` and starts the chain with it.
    ///
    /// # Errors
    /// [`Error::Occupied`] where the directory exists and is not empty, else [`Error::Io`].
    pub fn create(path: impl Into<PathBuf>, run: &Run) -> Result<Self, Error> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(Error::writing(&path))?;
        if fs::read_dir(&path).map_err(Error::reading(&path))?.next().is_some() {
            return Err(Error::Occupied { path });
        }
        let chain_file = path.join(evidence::FILE);
        let mut directory = Self {
            actor: format!("pathlab {} {}", run.version, run.verb),
            evidence: File::create_new(&chain_file).map_err(Error::writing(chain_file))?,
            chain: Chain::default(),
            files: BTreeMap::new(),
            keep: run.keep_samples,
            lowest: BTreeSet::new(),
            dropped: false,
            path,
        };
        let mut text = serde_json::to_vec_pretty(run).expect("a run has text keys only");
        text.push(b'\n');
        directory.write(RUN, &text)?;
        let run_json = Artefact { name: RUN.to_owned(), sha256: Digest::of(&text) };
        directory.record(run.started, None, "start", Some(run_json))?;
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to `samples.jsonl`, unless the policy does not keep this session; says whether it did.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sample(&mut self, sample: &Sample) -> Result<bool, Error> {
        let kept = self.keeps(&sample.session);
        if kept {
            self.line(SAMPLES, sample)?;
        }
        Ok(kept)
    }

    /// Appends a line to `sessions.jsonl`, at once: it is what a run that is killed is read by.
    ///
    /// # Errors
    /// [`Error::Bin`] for a bin that contradicts itself ([`SessionBin::check`]), else [`Error::Io`].
    pub fn session(&mut self, bin: &SessionBin) -> Result<(), Error> {
        bin.check()?;
        self.line(SESSIONS, bin)?;
        self.flush(SESSIONS)
    }

    /// Appends an interval to `<log>.hlog`, which its first interval begins.
    ///
    /// # Errors
    /// [`Error::Name`] for a name with other than letters, digits, `_`, `-` and `.`, else [`Error::Io`].
    pub fn interval(&mut self, log: &str, interval: &LogInterval) -> Result<(), Error> {
        let name = format!("{log}.hlog");
        let path = self.path.join(&name);
        let first = !self.files.contains_key(&name);
        let file = self.file(&name)?;
        let header = if first { hlog::write_header(file, interval.start) } else { Ok(()) };
        header.and_then(|()| writeln!(file, "{}", interval.to_line())).map_err(Error::writing(path))?;
        self.flush(&name)
    }

    /// Writes a file of another kind, such as `verdict.json`, in one go.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that is taken or has other than letters, digits, `_`, `-` and `.`, else [`Error::Io`].
    pub fn artefact(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        check_name(name)?;
        self.write(name, content)
    }

    /// Records a deed in the chain at once, such as the controller's `ramp 20%`. `None` as actor is this run's own verb.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn note(&mut self, time: Timestamp, actor: Option<&str>, action: &str) -> Result<(), Error> {
        self.record(time, actor, action, None).map(drop)
    }

    /// Ends the run: records every file in the chain, closes it with a `seal`, and writes `SHA256SUMS`. The head is to be printed.
    ///
    /// # Errors
    /// [`Error::Io`]; the directory then counts as unsealed.
    pub fn seal(mut self, time: Timestamp) -> Result<Head, Error> {
        for (name, mut file) in std::mem::take(&mut self.files) {
            file.flush().and_then(|()| file.get_ref().sync_all()).map_err(Error::writing(self.path.join(name)))?;
        }
        if self.dropped {
            let kept: BTreeSet<&str> = self.lowest.iter().map(|(_, session)| session.as_str()).collect();
            retain(&self.path.join(SAMPLES), &kept)?;
        }
        let mut sums = BTreeMap::new();
        for name in plain_files(&self.path)? {
            let path = self.path.join(&name);
            sums.insert(name, Digest::of_file(&path).map_err(Error::reading(path))?);
        }
        for (name, sha256) in sums.clone() {
            if name != RUN {
                self.record(time, None, "write", Some(Artefact { name, sha256 }))?;
            }
        }
        let sealed = self.record(time, None, SEAL, None)?;
        write_sums(&self.path, sealed, sealed, sums)?;
        Ok(sealed)
    }

    /// Whether the policy keeps this session so far. Of "so many sessions" a later one with a lower hash may displace it.
    fn keeps(&mut self, session: &str) -> bool {
        let most = match self.keep {
            KeepSamples::All => return true,
            KeepSamples::Share(share) => return KeepSamples::in_share(share, KeepSamples::rank(session)),
            KeepSamples::Sessions(most) => most,
        };
        let entry = (KeepSamples::rank(session), session.to_owned());
        if self.lowest.contains(&entry) {
            return true;
        }
        if self.lowest.len() < most {
            return self.lowest.insert(entry);
        }
        match self.lowest.last() {
            Some(highest) if entry < *highest => {
                self.lowest.pop_last();
                self.dropped = true;
                self.lowest.insert(entry)
            }
            _ => false,
        }
    }

    fn line(&mut self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.path.join(name);
        let file = self.file(name)?;
        let written = serde_json::to_writer(&mut *file, value).map_err(io::Error::from);
        written.and_then(|()| file.write_all(b"\n")).map_err(Error::writing(path))
    }

    fn flush(&mut self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        self.file(name)?.flush().map_err(Error::writing(path))
    }

    fn file(&mut self, name: &str) -> Result<&mut BufWriter<File>, Error> {
        if !self.files.contains_key(name) {
            if !RESERVED.contains(&name) {
                check_name(name)?;
            }
            let path = self.path.join(name);
            let file = File::create_new(&path).map_err(Error::writing(path))?;
            self.files.insert(name.to_owned(), BufWriter::with_capacity(1 << 16, file));
        }
        Ok(self.files.get_mut(name).expect("it was put there just now"))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Name { name: name.to_owned(), why: "was written before" })
            }
            written => written.map_err(Error::writing(path)),
        }
    }

    fn record(
        &mut self,
        time: Timestamp,
        actor: Option<&str>,
        action: &str,
        artefact: Option<Artefact>,
    ) -> Result<Head, Error> {
        let (line, head) = self.chain.append(time, actor.unwrap_or(&self.actor), action, artefact);
        let written = self.evidence.write_all(line.as_bytes()).and_then(|()| self.evidence.sync_data());
        written.map_err(Error::writing(self.path.join(evidence::FILE)))?;
        Ok(head)
    }
}

/// Whether a name stands for a file in the directory itself, and in `SHA256SUMS` without escapes.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    name.bytes().all(plain) && name.len() <= 128 && !name.starts_with(['.', '-']) && !name.is_empty()
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fail = |why| Err(Error::Name { name: name.to_owned(), why });
    match name {
        _ if RESERVED.contains(&name) => fail("is a file that the run directory writes itself"),
        _ if !is_plain_name(name) => {
            fail("a name has up to 128 letters, digits, '_', '-' and '.', and begins with neither '.' nor '-'")
        }
        _ => Ok(()),
    }
}

/// Writes `SHA256SUMS` in one move, with the chain's file added to the given ones.
pub(crate) fn write_sums(
    path: &Path,
    sealed: Head,
    head: Head,
    mut files: BTreeMap<String, Digest>,
) -> Result<(), Error> {
    let chain = path.join(evidence::FILE);
    files.insert(evidence::FILE.to_owned(), Digest::of_file(&chain).map_err(Error::reading(chain))?);
    let (draft, target) = (path.join(format!(".{}", Sums::FILE)), path.join(Sums::FILE));
    let write = || {
        let mut file = File::create(&draft)?;
        write!(file, "{}", Sums { sealed, head, files })?;
        file.sync_all()?;
        fs::rename(&draft, &target)?;
        File::open(path)?.sync_all()
    };
    write().map_err(Error::writing(target))
}

/// Every file of the directory but the evidence itself. A directory in it is a run of its own, with a seal of its own.
fn plain_files(path: &Path) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(Error::reading(path))? {
        let entry = entry.map_err(Error::reading(path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_directory = entry.file_type().map_err(Error::reading(entry.path()))?.is_dir();
        if !is_directory && is_plain_name(&name) && name != evidence::FILE {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Drops the samples of sessions that were displaced after some of their lines had been written.
fn retain(path: &Path, kept: &BTreeSet<&str>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Session {
        session: String,
    }
    let draft = path.with_file_name(format!(".{SAMPLES}"));
    let rewrite = || {
        let mut out = BufWriter::new(File::create(&draft)?);
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            if kept.contains(serde_json::from_str::<Session>(&line)?.session.as_str()) {
                writeln!(out, "{line}")?;
            }
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&draft, path)
    };
    rewrite().map_err(Error::writing(path))
}
