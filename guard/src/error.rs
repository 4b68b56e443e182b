//! Everything that can go wrong while putting things on the host or taking them back, with the facts to act on it.

use std::{io, path::PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, on which object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The journal's name is taken: the same experiment or lab runs already, or one that died left things behind.
    #[error("{path} exists already: `{id}` is running, or left things behind that a `rollback` or `down` takes back")]
    JournalExists {
        /// The journal in the way.
        path: PathBuf,
        /// Its identifier.
        id: String,
    },
    /// An identifier that cannot be a file name.
    #[error("`{id}` cannot name a journal: use letters, digits, `-`, `_` and `.`, and begin with none of the signs")]
    JournalName {
        /// The identifier as given.
        id: String,
    },
    /// A journal without a readable first line says nothing about what to take back.
    #[error("{path} is no undo journal of this version: {source}")]
    JournalHeader {
        /// The file.
        path: PathBuf,
        /// What the first line lacks.
        source: serde_json::Error,
    },
    /// Reading or writing a file.
    #[error("{call} {path}: {source}")]
    File {
        /// What was tried.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call on something that is not a file.
    #[error("{call}: {source}")]
    Call {
        /// The system call and its object.
        call: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a routing request.
    #[error("{request}: {source}")]
    Netlink {
        /// The request in iproute2's words.
        request: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A named network namespace does not exist.
    #[error("no network namespace `{name}` in /run/netns: `ip netns list` shows those that exist")]
    NoNetns {
        /// The name.
        name: String,
    },
    /// The guardian process did not come up.
    #[error("the guardian process ended before it was ready: {source}")]
    Guardian {
        /// What its control socket said.
        source: io::Error,
    },
    /// Some objects could not be taken back; the journal stays so that the next try finds them.
    #[error("{failed} of {of} objects could not be taken back, the first: {first}; {path} keeps them for the next try")]
    Incomplete {
        /// How many failed.
        failed: usize,
        /// Out of how many.
        of: usize,
        /// The first failure.
        first: Box<Error>,
        /// The journal.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn file(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { call, path, source }
    }

    pub(crate) fn call(call: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let call = call.into();
        move |source| Self::Call { call, source }
    }

    /// The operating system's error number, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } | Self::Call { source, .. } | Self::Netlink { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }
}
