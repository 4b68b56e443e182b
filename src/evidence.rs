//! `pathlab evidence`: is a run directory what its chain says?

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    Global,
    exit::{Exit, Misuse},
    output,
};

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
    if !run.is_dir() {
        return Err(Misuse(format!("{}: no such run directory", run.display())).into());
    }
    let verified = pathlab_record::verify(run)?;
    if global.json {
        output::json(
            "evidence",
            &json!({ "run": run, "head": verified.head.to_string(), "unlisted": verified.unlisted }),
        )?;
    } else {
        println!("{}: unchanged, {} records, head {}", run.display(), verified.records.len(), verified.head);
        for name in &verified.unlisted {
            println!("  {name} is not part of the evidence");
        }
    }
    Ok(Exit::Done)
}
