//! What can keep an experiment from being read, steered or judged, and whose fault it is.

use std::{io, path::PathBuf};

/// Why the canary refuses to go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `canary.toml` is no TOML of ours.
    #[error("{file} line {line}: {why}")]
    Toml {
        /// Name of the file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong, with the name of the key.
        why: String,
    },
    /// A value of `canary.toml` is out of range.
    #[error("{file}: {why}")]
    Experiment {
        /// Name of the file.
        file: String,
        /// What is wrong, with the name of the key.
        why: String,
    },
    /// An input of the judge cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Input {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An input has quantiles and nothing that they could be made from.
    #[error(
        "{at}: `{name}` alone is refused: quantiles can be neither merged over bins nor weighed by session; give samples, histograms or buckets"
    )]
    QuantilesOnly {
        /// File and line.
        at: String,
        /// Name of the quantile.
        name: String,
    },
    /// A table of samples lacks what a sample needs.
    #[error("{at}: {why}")]
    Columns {
        /// File and line of the header.
        at: String,
        /// What is missing.
        why: String,
    },
    /// A MaxMind DB among the inputs that is damaged or of no use here.
    #[error("{name}: no table of networks: {why}")]
    Table {
        /// The input, as named in the verdict.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing to judge.
    #[error("no session to judge: {why}")]
    NoSession {
        /// What became of the lines that there were.
        why: String,
    },
    /// A `plan.json` that is not ours, or was changed.
    #[error("{name}: no registered plan: {why}; register the experiment again with `pathlab canary register`")]
    Plan {
        /// The file.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A `verdict.json` that is not ours.
    #[error("not a verdict of this version: {why}; judge the runs again instead")]
    Verdict {
        /// What is wrong.
        why: String,
    },
    /// A replay was given other data than the verdict rests on.
    #[error("{name}: {what}, so the verdict cannot be replayed from it")]
    InputChanged {
        /// The input, as named in the verdict.
        name: String,
        /// What is different.
        what: String,
    },
    /// The same data gave another verdict: the judge itself has changed, or is wrong.
    #[error(
        "the same data give another verdict: it differs from byte {at} on, near `{near}`; compare the versions, theirs is {version}"
    )]
    Differs {
        /// Offset of the first differing byte.
        at: usize,
        /// What stands there in the verdict that was given.
        near: String,
        /// Version that made the verdict.
        version: String,
    },
}
