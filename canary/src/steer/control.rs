//! How another process reaches the one that steers: a line of JSON each way over a Unix socket that only its owner may
//! open.

use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use pathlab_guard::Leftover;
use serde::{Deserialize, Serialize};

use super::{Departures, Error, Halt, Observed, Options, PROMOTED, Result, VERB};
use crate::Share;

/// Where control sockets live: one file `<experiment>.sock` for each steerer.
pub const RUN_DIR: &str = "/run/pathlab";

/// A steerer answers in milliseconds. One that takes longer than this is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(1);

/// The evidence chain of a run directory.
const CHAIN: &str = "evidence.jsonl";

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Status,
    Ramp(Share),
    Rollback,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Status(Box<Status>),
    Ramped { from: Share, to: Share },
    RolledBack(RolledBack),
    Refused(String),
}

/// A running steerer, as it sees itself and as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What the kernel says.
    pub observed: Observed,
    /// By which path each arm's packets really left; absent when it cannot be told.
    pub departures: Option<Departures>,
    /// Why it cannot be told.
    pub unproven: Option<String>,
    /// Why every session is on control, if it halted.
    pub halted: Option<Halt>,
    /// Length of the lease.
    pub lease: Duration,
    /// Process id of the steerer.
    pub pid: u32,
    /// Process id of its guardian; absent when that has died.
    pub guardian: Option<u32>,
}

/// What a rollback did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolledBack {
    /// Time until no packet was marked any more; unknown when the kernel or the guardian did it.
    pub gate: Option<Duration>,
    /// What was taken back, newest first.
    pub removed: Vec<String>,
    /// The steerer did not answer and was killed.
    pub killed: bool,
    /// Process id of a steerer that was killed or found dead.
    pub steerer: Option<u32>,
    /// The run directory that the killed steerer had open, and could not seal.
    pub unsealed: Option<PathBuf>,
    /// A promotion was taken back.
    pub promotion: bool,
}

/// The control socket of an experiment.
pub(super) fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.sock"))
}

/// Asks the steerer of an experiment how it is. For one that does not answer, see [`super::observe`].
///
/// # Errors
/// [`Error::NotRunning`]; [`Error::Silent`] when it does not answer within a second; [`Error::Socket`].
pub fn status(name: &str, options: &Options) -> Result<Status> {
    match ask(name, options, Request::Status)? {
        Answer::Status(status) => Ok(*status),
        other => Err(unexpected(other)),
    }
}

/// Raises the share of a running experiment. Returns the shares before and after.
///
/// # Errors
/// [`Error::Refused`] with the steerer's reason; [`Error::NotRunning`]; [`Error::Silent`]; [`Error::Socket`].
pub fn ramp(name: &str, share: Share, options: &Options) -> Result<(Share, Share)> {
    match ask(name, options, Request::Ramp(share))? {
        Answer::Ramped { from, to } => Ok((from, to)),
        other => Err(unexpected(other)),
    }
}

/// Every session back to control and the host as it was, whatever state the steerer is in: running, hung (then it is
/// killed) or dead (then what it left is removed). A promotion is taken back too.
///
/// # Errors
/// [`Error::NotRunning`] when there is nothing to take back; [`Error::Guard`] when something could not be taken back.
pub fn rollback(name: &str, options: &Options) -> Result<RolledBack> {
    let experiment = end_experiment(name, options);
    let Some(promotion) = promotion(name, options)? else { return experiment };
    let undone = promotion.undo()?;
    let mut done = match experiment {
        Err(Error::NotRunning { .. }) => RolledBack::default(),
        other => other?,
    };
    done.promotion = true;
    done.removed.extend(undone.removed.iter().map(ToString::to_string));
    Ok(done)
}

/// The promotion that stands, if one does.
///
/// # Errors
/// [`Error::Guard`] when its journal cannot be read.
pub fn promotion(name: &str, options: &Options) -> Result<Option<Leftover>> {
    match Leftover::read(&options.undo_dir.join(format!("{PROMOTED}-{name}.jsonl"))) {
        Err(pathlab_guard::Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Takes the experiment back, not a promotion.
pub(super) fn end_experiment(name: &str, options: &Options) -> Result<RolledBack> {
    match ask(name, options, Request::Rollback) {
        Ok(Answer::RolledBack(done)) => return Ok(done),
        Ok(other) => return Err(unexpected(other)),
        Err(Error::NotRunning { .. } | Error::Silent { .. } | Error::Socket { .. }) => {}
        Err(error) => return Err(error),
    }
    let path = options.undo_dir.join(format!("{VERB}-{name}.jsonl"));
    let journal = match Leftover::read(&path) {
        Err(pathlab_guard::Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotRunning { name: name.to_owned() });
        }
        other => other?,
    };
    let pid = journal.owner.pid;
    let unsealed = journal.owner.is_alive().then(|| open_run(pid)).flatten();
    // Death takes the table away at once; then rules and routes are the guardian's or ours, whoever is first.
    let killed = !journal.kept && journal.owner.kill()?;
    let undone = journal.undo()?;
    Ok(RolledBack {
        removed: undone.removed.iter().map(ToString::to_string).collect(),
        killed,
        steerer: Some(pid),
        unsealed: unsealed.filter(|_| killed),
        ..RolledBack::default()
    })
}

/// The run directory whose chain a process has open.
fn open_run(pid: u32) -> Option<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let chain = open.filter_map(|entry| fs::read_link(entry.path()).ok()).find(|path| path.ends_with(CHAIN))?;
    chain.parent().map(Path::to_owned)
}

fn unexpected(answer: Answer) -> Error {
    match answer {
        Answer::Refused(reason) => Error::Refused(reason),
        _ => Error::Refused("the steerer gave an answer to another question: it is of another version".to_owned()),
    }
}

fn ask(name: &str, options: &Options, request: Request) -> Result<Answer> {
    let path = socket_path(&options.run_dir, name);
    let answer = UnixStream::connect(&path).and_then(|stream| exchange(stream, request));
    match answer.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Err(Error::NotRunning { name: name.to_owned() })
        }
        // What a read that timed out is told as.
        Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => match owner(name, options) {
            Some(pid) => Err(Error::Silent { name: name.to_owned(), pid }),
            None => answer.map_err(|source| Error::Socket { path, source }),
        },
        _ => answer.map_err(|source| Error::Socket { path, source }),
    }
}

/// The process that holds the journal of an experiment.
fn owner(name: &str, options: &Options) -> Option<u32> {
    let journal = Leftover::read(&options.undo_dir.join(format!("{VERB}-{name}.jsonl"))).ok()?;
    Some(journal.owner.pid)
}

fn exchange(mut stream: UnixStream, request: Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}
