//! What can go wrong with a record, and where: file, line, field.

use std::{io, path::PathBuf};

use crate::evidence::Fault;

/// Why a record could not be read, written or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that are no histogram of ours.
    #[error("histogram {0}")]
    Histogram(String),
    /// A [`SessionBin`](crate::SessionBin) that contradicts itself.
    #[error("session {session:?}: {why}")]
    Bin {
        /// Pseudonym of the session.
        session: String,
        /// What contradicts what.
        why: String,
    },
    /// A line that cannot be read.
    #[error("{}:{line}: {why}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong, and with which field.
        why: String,
    },
    /// A MaxMind DB that is damaged or of no use here.
    #[error("{}: no table of networks: {why}", file.display())]
    Asn {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The run directory to be made exists and holds something.
    #[error("{} exists and is not empty; name another directory with --out", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// A file name that the run directory does not take.
    #[error("artefact {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A run that never ended properly: it is still running, or was killed.
    #[error("{} was never sealed: the run goes on or was interrupted, and its last lines may be incomplete", path.display())]
    Unsealed {
        /// The run directory.
        path: PathBuf,
    },
    /// A run directory that is not what was sealed.
    #[error("{}: {fault}", path.display())]
    Evidence {
        /// The run directory.
        path: PathBuf,
        /// What is wrong, and where.
        fault: Box<Fault>,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn reading(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { action: "read", path, source }
    }

    pub(crate) fn writing(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { action: "write", path, source }
    }
}
