//! What is wrong with a key or its file. No message holds a key, or a part of one.

use std::{io, path::PathBuf};

use super::SHORTEST_KEY;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A key has too few octets.
    #[error(
        "a key of {octets} octets is too short: {SHORTEST_KEY} are the least, 32 are best, such as `openssl rand -hex 32` makes"
    )]
    Short {
        /// How many it has.
        octets: usize,
    },
    /// The file cannot be read.
    #[error("key file {}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Others than its owner may read or write the file.
    #[error("key file {}: mode {mode:03o} lets others than its owner in; `chmod 600` it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line of the file is wrong.
    #[error("key file {}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field and what is wrong with it.
        what: String,
    },
    /// There is no key in the file.
    #[error("key file {}: holds no key; write `default = \"<64 hexadecimal digits>\"`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}
