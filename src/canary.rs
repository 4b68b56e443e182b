//! `pathlab canary`: steer a share of sessions onto another path, and judge whether it is better.

mod accept;
mod measure;
mod plan;
mod promote;
mod simulate;
mod standing;
mod start;
mod status;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use pathlab_canary::{
    Decision, Experiment, Given, Ingest, Ingested, PLAN, Registration, Share, Verdict, bucket, judge,
    steer::{self, Options},
};
use pathlab_record::{Head, Run, SessionKey};
use serde_json::json;
use tracing::warn;

use crate::{
    Global,
    exit::{Exit, Misuse},
    guardian, host, output, report, run_directory,
};

/// Steer a share of sessions onto another path, keep them there, and judge whether it is better
#[derive(Args)]
pub(crate) struct CanaryArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print everything that `start` would put on this host, in nft's and iproute2's words
    Plan(File),
    /// Write the experiment down before there are data: give the run directory to `judge` beside them
    Register {
        #[command(flatten)]
        file: File,
        /// Run directory for plan.json [default: ./runs/<UTC time>-plan]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Steer until Ctrl-C, SIGTERM or `canary rollback`; then take everything back
    Start {
        #[command(flatten)]
        file: File,
        /// Run directory for the log of changes [default: ./runs/<UTC time>-canary]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// How the steering stands: arms, lease, packets, leftovers
    Status {
        /// Redraw it twice a second, with rates, until Ctrl-C or the end of the steering; with --json one line a look
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        file: File,
    },
    /// Raise the share: moves control sessions to the canary, never back
    Ramp {
        /// New share, such as 20%
        share: Share,
        #[command(flatten)]
        file: File,
    },
    /// The canary path for every client, until `rollback` or a reboot; ends the experiment
    Promote {
        /// A verdict.json, or the directory that holds it, that says Promote
        #[arg(long, value_name = "VERDICT")]
        verdict: Option<PathBuf>,
        /// On your own word, no verdict: every client at once, beyond cap_share
        #[arg(long, conflicts_with = "verdict")]
        without_verdict: bool,
        #[command(flatten)]
        file: File,
        /// Run directory for the log of changes [default: ./runs/<UTC time>-promote]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Every session back to control at once, and the host as it was; ends a promotion, and kills a steerer that hangs
    Rollback {
        #[command(flatten)]
        file: File,
        /// The experiment by its name, without its file, such as one that `status` finds left on this host
        #[arg(long, value_name = "NAME", conflicts_with = "config")]
        name: Option<String>,
    },
    /// Measure sessions by the game's own packets, on the server, beside `start` or before it
    Measure {
        #[command(flatten)]
        options: measure::MeasureOptions,
        #[command(flatten)]
        file: File,
    },
    /// Compare the arms of measured runs: Promote (0), Hold (3) or RollBack (4)
    Judge {
        /// Run directories or files; a table of networks (.tsv, .mmdb) among them tells the ISPs
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        #[command(flatten)]
        file: File,
        /// Run directory for verdict.json [default: ./runs/<UTC time>-verdict]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Are we done? Two consecutive evenings against [acceptance]: pass (0), insufficient (3) or fail (4)
    Accept {
        /// Run directories or files: the evenings, up to 14 days before them as the baseline, and complaints as CSV
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        #[command(flatten)]
        file: File,
        /// Run directory for acceptance.json [default: ./runs/<UTC time>-acceptance]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Come to the same verdict again, byte for byte, or name what differs
    Replay {
        /// verdict.json, or the directory that holds it
        verdict: PathBuf,
        /// The runs it rests on, where they are not beside it
        runs: Vec<PathBuf>,
    },
    /// How many sessions, or evenings, it takes until this policy promotes a true improvement: by simulation from control evenings
    Power(simulate::PowerArgs),
    /// How often this policy would err where there is no difference: your own control sessions under other seeds
    Aa(simulate::AaArgs),
    /// Which arm a session is on: for matchmakers
    Assign {
        /// Client ADDRESS:PORT; IPv6 as [ADDRESS]:PORT
        key: SessionKey,
        #[command(flatten)]
        file: File,
    },
}

#[derive(Args)]
struct File {
    /// The experiment
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "canary.toml")]
    config: PathBuf,
}

impl File {
    fn read(&self) -> Result<Experiment> {
        read_experiment(&self.config)
    }
}

/// Reads a `canary.toml`; files that it names count from where it lies.
pub(crate) fn read_experiment(path: &Path) -> Result<Experiment> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| Misuse(format!("{name}: cannot be read: {error}")))?;
    let mut experiment = Experiment::from_toml(&name, &text).map_err(Misuse::of)?;
    let isps = experiment.passive.as_mut().and_then(|passive| passive.isps.as_mut());
    for file in [&mut experiment.experiment.seed_file].into_iter().chain(isps) {
        if file.is_relative()
            && let Some(directory) = path.parent()
        {
            *file = directory.join(&*file);
        }
    }
    Ok(experiment)
}

fn seed(experiment: &Experiment) -> Result<u32> {
    steer::read_seed(&experiment.experiment.seed_file).map_err(Misuse::of)
}

/// Of every controller that this command starts or speaks to.
pub(crate) fn options() -> Options {
    Options::with_guardian(guardian::verb())
}

/// Runs one action.
pub(crate) fn run(args: CanaryArgs, global: &Global) -> Result<Exit> {
    match args.action {
        Action::Plan(file) => plan::plan(&file.read()?, global)?,
        Action::Register { file, out } => register(&file.read()?, out, global)?,
        Action::Start { file, out } => start::start(&file.read()?, out, global)?,
        Action::Promote { verdict, without_verdict, file, out } => {
            if verdict.is_none() && !without_verdict {
                let missing = "--verdict VERDICT: every client would take the canary path at once, so give the verdict that says Promote, or \
                               --without-verdict on your own word";
                return Err(Misuse(missing.to_owned()).into());
            }
            promote::promote(&file.read()?, verdict.as_deref(), out, global)?;
        }
        Action::Status { watch, file } => return status::status(&file.read()?, watch, global),
        Action::Ramp { share, file } => {
            let (from, to) = steer::ramp(&file.read()?.experiment.name, share, &options())?;
            answer(
                global,
                &json!({ "from": from, "to": to }),
                format_args!("share {} -> {}", report::spaced(from), report::spaced(to)),
            )?;
        }
        Action::Rollback { file, name } => {
            let name = match name {
                Some(name) => name,
                None => file.read()?.experiment.name,
            };
            standing::rollback(&name, global)?;
        }
        Action::Measure { options, file } => measure::measure(&file.read()?, options, global)?,
        Action::Judge { runs, file, out } => return judge_runs(&runs, &file.read()?, out, global),
        Action::Accept { runs, file, out } => return accept::accept(&runs, &file.read()?, out, global),
        Action::Replay { verdict, runs } => return replay(&verdict, &runs, global),
        Action::Power(args) => simulate::size(&args, global)?,
        Action::Aa(args) => simulate::aa(&args, global)?,
        Action::Assign { key, file } => assign(&key, &file.read()?, global)?,
    }
    Ok(Exit::Done)
}

/// One line of text, or its JSON.
fn answer(global: &Global, document: &serde_json::Value, text: std::fmt::Arguments<'_>) -> Result<()> {
    if global.json {
        return output::json("canary", document);
    }
    outln!("{text}");
    Ok(())
}

fn register(experiment: &Experiment, out: Option<PathBuf>, global: &Global) -> Result<()> {
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("plan", started));
    let (plan, head) = write_down(experiment, &path, started)?;
    let Registration { plan_sha256, registered, .. } = &plan;
    let document =
        json!({ "plan_sha256": plan_sha256, "registered": registered, "run": path, "head": head.to_string() });
    let name = &experiment.experiment.name;
    answer(
        global,
        &document,
        format_args!("{name}: plan {plan_sha256} registered {registered}\n{}  sealed {head}", path.display()),
    )
}

/// A sealed run directory with the plan alone.
pub(crate) fn write_down(experiment: &Experiment, path: &Path, started: Timestamp) -> Result<(Registration, Head)> {
    let about = Run {
        options: json!({ "experiment": experiment.experiment.name }),
        host: host::facts(),
        ..Run::new("canary register", started)
    };
    let plan = Registration::new(experiment, started);
    let (mut directory, scrap) = run_directory::create(path, &about)?;
    directory.artefact(PLAN, plan.to_json().as_bytes())?;
    let head = directory.seal(Timestamp::now())?;
    scrap.keep();
    Ok((plan, head))
}

fn assign(key: &SessionKey, experiment: &Experiment, global: &Global) -> Result<()> {
    let Some(bucket) = bucket(seed(experiment)?, key, experiment.key.from) else {
        return Err(Misuse("key.from = \"payload\": sessions are not assigned by their address".into()).into());
    };
    let arm = pathlab_canary::arm(bucket, experiment.experiment.share);
    let document = json!({ "key": key.to_string(), "bucket": bucket, "arm": arm });
    let name = document["arm"].as_str().unwrap_or_default().to_owned();
    answer(global, &document, format_args!("{key}  bucket {bucket}  {name}"))
}

/// A path of the command line that leads nowhere is the user's to mend.
fn present(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(Misuse(format!("{}: cannot be read: {error}", path.display())).into()),
    }
}

/// Reads runs.
fn ingest(runs: &[PathBuf], experiment: &Experiment) -> Result<Ingested> {
    let mut ingest = Ingest::new(experiment).map_err(Misuse::of)?;
    for run in runs {
        present(run)?;
    }
    as_sealed(runs)?;
    ingest.runs(runs.iter().map(PathBuf::as_path))?;
    Ok(ingest.finish())
}

/// What is read from a run directory has to be what was sealed there. Files of no run have no chain; a run that was never sealed is told.
fn as_sealed(runs: &[PathBuf]) -> Result<()> {
    let of =
        |path: &PathBuf| if path.is_dir() { path.clone() } else { path.parent().unwrap_or(Path::new("")).to_owned() };
    let directories: BTreeSet<PathBuf> = runs.iter().map(of).filter(|run| run.join("run.json").is_file()).collect();
    for run in directories {
        match pathlab_record::verify(&run) {
            Ok(_) => {}
            Err(pathlab_record::Error::Unsealed { .. }) => {
                warn!(
                    "{}: never sealed: it goes on or was killed, and nothing shows that it is unchanged",
                    run.display()
                );
            }
            Err(error) => {
                return Err(Error::new(error).context("not judged: what was measured is no longer what was sealed"));
            }
        }
    }
    Ok(())
}

/// Reads and judges runs.
pub(crate) fn verdict(runs: &[PathBuf], experiment: &Experiment) -> Result<Verdict> {
    let ingested = ingest(runs, experiment)?;
    let from = experiment.key.from;
    Ok(judge(experiment, seed(experiment)?, &ingested, move |seed, key| bucket(seed, key, from))?)
}

impl From<Decision> for Exit {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Promote => Self::Done,
            Decision::Hold => Self::Hold,
            Decision::RollBack => Self::RollBack,
        }
    }
}

fn judge_runs(runs: &[PathBuf], experiment: &Experiment, out: Option<PathBuf>, global: &Global) -> Result<Exit> {
    let verdict = verdict(runs, experiment)?;
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("verdict", started));
    let about = Run {
        options: json!({ "runs": runs, "experiment": experiment.experiment.name }),
        host: host::facts(),
        ..Run::new("canary judge", started)
    };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    directory.artefact("verdict.json", verdict.to_json().as_bytes())?;
    let head = directory.seal(Timestamp::now())?;
    scrap.keep();
    if global.json {
        out!("{}", verdict.to_json());
    } else {
        output::prose(&report::verdict::text(&verdict));
        outln!("\n{}  sealed {head}", path.display());
    }
    Ok(verdict.decision.into())
}

fn replay(path: &Path, runs: &[PathBuf], global: &Global) -> Result<Exit> {
    present(path)?;
    let file = if path.is_dir() { path.join("verdict.json") } else { path.to_owned() };
    let text = fs::read_to_string(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let given = Given::read(&text)?;
    let beside = file.parent().unwrap_or(Path::new("."));
    let found: Vec<PathBuf> = if runs.is_empty() {
        let at = |name: &str| [beside.join(name), beside.join("..").join(name)].into_iter().find(|path| path.exists());
        let missing =
            |name: &str| format!("{name}: not found beside {}; give the runs on the command line", file.display());
        given
            .inputs()
            .iter()
            .map(|input| at(&input.name).with_context(|| missing(&input.name)))
            .collect::<Result<_>>()?
    } else {
        runs.to_vec()
    };
    let from = given.experiment().key.from;
    let verdict = given.replay(found.iter().map(PathBuf::as_path), move |seed, key| bucket(seed, key, from))?;
    let document = json!({ "replayed": file, "decision": verdict.decision });
    if global.json {
        output::json("canary", &document)?;
    } else {
        output::prose(&format!("{}: the same bytes again\n{}\n", file.display(), verdict.sentence));
    }
    Ok(verdict.decision.into())
}
