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
        /// Run directories
        #[arg(required = true)]
        runs: Vec<PathBuf>,
    },
}

/// Exits with 0 when everything is as it was sealed.
pub(crate) fn run(args: &EvidenceArgs, global: &Global) -> Result<Exit> {
    let Action::Verify { runs } = &args.action;
    if let Some(run) = runs.iter().find(|run| !run.is_dir()) {
        return Err(Misuse(format!("{}: no such run directory", run.display())).into());
    }
    let mut verified = Vec::new();
    for run in runs {
        let found = pathlab_record::verify(run)?;
        if global.json {
            verified.push(json!({ "run": run, "head": found.head.to_string(), "unlisted": found.unlisted }));
            continue;
        }
        println!("{}: unchanged, {} records, head {}", run.display(), found.records.len(), found.head);
        for name in &found.unlisted {
            println!("  {name} is not part of the evidence");
        }
    }
    if global.json {
        output::json("evidence", &json!({ "verified": verified }))?;
    }
    Ok(Exit::Done)
}
