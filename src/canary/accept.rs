//! `pathlab canary accept`: the runbook's definition of done, written down with the hashes of what it rests on.

use std::path::PathBuf;

use anyhow::Result;
use jiff::Timestamp;
use pathlab_canary::{Experiment, Outcome, accept as hold};
use pathlab_record::Run;
use serde_json::json;

use super::{ingest, seed};
use crate::{
    Global,
    exit::{Exit, Misuse},
    host, output, report, run_directory,
};

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pass => Self::Done,
            Outcome::Insufficient => Self::Hold,
            Outcome::Fail => Self::RollBack,
        }
    }
}

/// Holds two evenings against the targets.
pub(super) fn accept(runs: &[PathBuf], experiment: &Experiment, out: Option<PathBuf>, global: &Global) -> Result<Exit> {
    let ingested = ingest(runs, experiment)?;
    let seed = seed(experiment)?;
    let Some(accepted) = hold(experiment, seed, &ingested)? else {
        return Err(Misuse("no [acceptance] in the experiment: write rtt_p95, ipdv_p95 and loss".into()).into());
    };
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("acceptance", started));
    let about = Run {
        options: json!({ "runs": runs, "experiment": experiment.experiment.name }),
        host: host::facts(),
        ..Run::new("canary accept", started)
    };
    let document = json!({
        "schema": "pathlab.acceptance/1", "version": env!("CARGO_PKG_VERSION"), "acceptance": accepted, "experiment": experiment,
        "seed": seed, "inputs": ingested.inputs(), "remarks": ingested.remarks(),
    });
    let text = format!("{document:#}\n");
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    directory.artefact("acceptance.json", text.as_bytes())?;
    let head = directory.seal(Timestamp::now())?;
    scrap.keep();
    if global.json {
        out!("{text}");
    } else {
        output::prose(&report::acceptance::text(&accepted));
        outln!("\n{}  sealed {head}", path.display());
    }
    Ok(accepted.outcome.into())
}
