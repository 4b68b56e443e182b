//! Exit codes as a contract: what a script may conclude from each.

use std::{fmt, process::ExitCode};

/// The last lines of `--help`.
pub(crate) const HELP: &str =
    "Exit codes: 0 done (and Promote), 1 failed, 2 wrong usage or configuration, 3 Hold, 4 RollBack, 5 run invalid";

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; of a judging verb: Promote.
    Done,
    /// Judged: Hold.
    Hold,
    /// Judged: RollBack.
    RollBack,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Hold => 3,
            Exit::RollBack => 4,
        }
        .into()
    }
}

/// An error in what the user wrote, a flag's value or a configuration file: exit code 2 instead of 1.
#[derive(Debug)]
pub(crate) struct Misuse(pub(crate) String);

impl Misuse {
    /// Marks an error as the user's to mend in what was written.
    pub(crate) fn of(error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
        Self(sentence(&error)).into()
    }
}

fn sentence(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", sentence(cause)),
        None => error.to_string(),
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// Prints an error as one sentence and picks its code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("pathlab: {error:#}");
    if error.chain().any(|cause| cause.is::<Misuse>()) { 2.into() } else { 1.into() }
}
