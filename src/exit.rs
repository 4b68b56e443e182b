//! Exit codes as a contract: what a script may conclude from each.

use std::{fmt, process::ExitCode};

use clap::error::ErrorKind;

/// The last lines of `--help`.
pub(crate) const HELP: &str =
    "Exit codes: 0 done (and Promote), 1 failed, 2 wrong usage or configuration, 3 Hold, 4 RollBack, 5 run invalid";

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; of a judging verb: Promote.
    Done,
    /// Done, and something that was expected does not hold; what, stands in the results.
    Failed,
    /// Judged: Hold.
    Hold,
    /// Judged: RollBack.
    RollBack,
    /// Nothing can be concluded from the run: the machine did not keep its times.
    Invalid,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Hold => 3,
            Exit::RollBack => 4,
            Exit::Invalid => 5,
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

/// An error with its causes; a cause that is already in the words of what it caused is not said twice.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !sentence.contains(&words) {
            sentence = format!("{sentence}: {words}");
        }
        cause = error.source();
    }
    sentence
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// Prints an error as one sentence and picks its code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("pathlab: {}", sentence(error.as_ref()));
    if error.chain().any(|cause| cause.is::<Misuse>()) { 2.into() } else { 1.into() }
}

/// Prints help or version as asked for, or one sentence about what is wrong with the command line.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Fails on a closed pipe, and that is the reader's own choice.
        let _ = error.print();
        return u8::from(error.use_stderr()).saturating_mul(2).into();
    }
    eprintln!("pathlab: {}", in_one_line(&error.to_string()));
    2.into()
}

/// clap's paragraphs, without its heading and the usage.
fn in_one_line(text: &str) -> String {
    let said = |paragraph: &&str| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information");
    let paragraphs = text.split("\n\n").filter(said);
    let lines = paragraphs.map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let line = lines.collect::<Vec<_>>().join("; ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let missing = || std::io::Error::from_raw_os_error(2);
        let told = pathlab_canary::Error::Input { path: "x".into(), source: missing() };
        assert_eq!(sentence(&told), "x: cannot be read: No such file or directory (os error 2)");
        let untold = anyhow::Error::from(missing()).context("y");
        assert_eq!(sentence(untold.as_ref()), "y: No such file or directory (os error 2)");
    }

    #[test]
    fn a_wrong_command_line_is_one_sentence() {
        let text = "error: unexpected argument '--wors' found\n\n  tip: a similar argument exists: '--worse'\n\nUsage: pathlab demo --worse\n\nFor more information, try '--help'.\n";
        assert_eq!(in_one_line(text), "unexpected argument '--wors' found; tip: a similar argument exists: '--worse'");
    }
}
