//! `pathlab canary promote`: the canary path for everybody, on a verdict that says so or on an operator's own word.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use jiff::Timestamp;
use pathlab_canary::{
    Experiment, Given,
    steer::{self, Change, Operator, Plan},
};
use pathlab_record::{Digest, Run};
use serde_json::{Value, json};

use super::{answer, options, seed, start::Audit};
use crate::{Global, exit::Misuse, host, run_directory};

/// Promotes, and writes down who did it on what grounds.
pub(super) fn promote(
    experiment: &Experiment,
    verdict: Option<&Path>,
    out: Option<PathBuf>,
    global: &Global,
) -> Result<()> {
    if !pathlab_guard::privilege::is_root() {
        bail!("canary promote changes rules and routes: run it as root");
    }
    let grounds = verdict.map(|path| grounds(path, experiment)).transpose()?;
    let plan = Plan::new(experiment, seed(experiment)?).map_err(Misuse::of)?;
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("promote", started));
    let about = Run {
        options: json!({ "experiment": experiment, "verdict": verdict, "verdict_sha256": grounds }),
        host: host::facts(),
        ..Run::new("canary promote", started)
    };
    let (directory, scrap) = run_directory::create(&path, &about)?;
    let done = steer::promote(&plan, &options())?;
    scrap.keep();
    let mut audit = Audit(directory);
    audit.write(&Change {
        operator: Some(Operator::current()),
        action: "promote",
        before: "clients by the control path, or as the experiment has them".to_owned(),
        after: steer::show(&done).join("; "),
    });
    let head = audit.0.seal(Timestamp::now())?;
    let name = &experiment.experiment.name;
    let commands = steer::show(&done);
    let document = json!({
        "name": name, "promoted": commands, "ended_experiment": done.ended_experiment, "run": path,
        "head": head.to_string(),
    });
    let list = commands.join("\n  ");
    let word = match verdict {
        Some(path) => format!("on the verdict {}", path.display()),
        None => "on your own word, no verdict".to_owned(),
    };
    answer(
        global,
        &document,
        format_args!(
            "{name}: every client by the canary path, {word}, until `canary rollback` or a reboot:\n  {list}\n{}  sealed {head}",
            path.display()
        ),
    )
}

/// The digest of a verdict that says Promote, of this experiment.
fn grounds(path: &Path, experiment: &Experiment) -> Result<Digest> {
    let file = if path.is_dir() { path.join("verdict.json") } else { path.to_owned() };
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Misuse(format!("{}: cannot be read: {error}", file.display())))?;
    let given = Given::read(&text)?;
    let (of, name) = (&given.experiment().experiment.name, &experiment.experiment.name);
    if of != name {
        return Err(Misuse(format!("{}: a verdict on `{of}`, not on `{name}`", file.display())).into());
    }
    let document: Value = serde_json::from_str(&text)?;
    let decision = &document["decision"];
    if decision.as_str().is_none_or(|decision| !decision.eq_ignore_ascii_case("promote")) {
        bail!("{}: the verdict is {decision}, not Promote; --without-verdict is for your own word", file.display());
    }
    Ok(Digest::of(text.as_bytes()))
}
