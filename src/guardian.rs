//! The hidden verb that a guardian process is started with.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;
use clap::Args;

use crate::exit::Exit;

/// The verb's name on the command line.
pub(crate) const VERB: &str = "guardian";

/// Take back what a killed controller left behind
#[derive(Args)]
pub(crate) struct GuardianArgs {
    journal: PathBuf,
}

/// What a guardian is started with, before the journal's path.
pub(crate) fn verb() -> Vec<OsString> {
    vec![VERB.into()]
}

/// Watches until the controller ends.
pub(crate) fn run(args: &GuardianArgs) -> Result<Exit> {
    pathlab_guard::watch(&args.journal)?;
    Ok(Exit::Done)
}
