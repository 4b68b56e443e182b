//! What can go wrong with a record, and where: file, line, field.

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
}
