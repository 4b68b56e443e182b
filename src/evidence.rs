//! `pathlab evidence`: is a run directory what its chain says?

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{Global, exit::Exit, output};

/// Check a run directory against its evidence chain
#[derive(Args)]
pub(crate) struct EvidenceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Name the record or file that was changed, removed, reordered or cut off
    Verify {
        /// Run directory
        run: PathBuf,
    },
}

/// Exits with 0 when everything is as it was sealed.
pub(crate) fn run(args: &EvidenceArgs, global: &Global) -> Result<Exit> {
    let Action::Verify { run } = &args.action;
    let head = pathlab_record::verify(run)?;
    if global.json {
        output::json("evidence", &json!({ "run": run, "head": head.to_string() }))?;
    } else {
        println!("{}: unchanged, sealed {head}", run.display());
    }
    Ok(Exit::Done)
}
