//! `pathlab canary power` and `canary aa`: what an experiment takes and how often it would err, from sessions that took today's path.

use std::{num::NonZero, path::PathBuf, thread, time::Instant};

use anyhow::Result;
use clap::Args;
use jiff::SignedDuration;
use pathlab_canary::{Alike, Controls, Effort, Experiment, Ingested, Sized, Wanted, alike, bucket, power};
use serde_json::json;
use tracing::info;

use super::{File, ingest};
use crate::{
    Global,
    exit::Misuse,
    output,
    progress::Progress,
    report::{Table, percent},
};

/// What every simulation takes.
#[derive(Args)]
struct Simulation {
    /// Run directories, or their sessions.jsonl, of evenings on today's path; sessions on the canary are left out
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    #[command(flatten)]
    file: File,
    /// Seed of everything that is drawn: the same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Simulation {
    fn read(&self) -> Result<(Experiment, Ingested)> {
        let experiment = self.file.read()?;
        let ingested = ingest(&self.runs, &experiment)?;
        Ok((experiment, ingested))
    }
}

fn told(controls: &Controls<'_>) {
    info!("{} control sessions; {} on the canary are left out", controls.sessions, controls.left_out);
    if controls.unstated > 0 {
        info!("{} sessions do not name an arm and are taken for control", controls.unstated);
    }
}

/// `canary power`.
#[derive(Args)]
pub(super) struct PowerArgs {
    #[command(flatten)]
    simulation: Simulation,
    /// The true improvement that is to be seen, such as 5ms, in the metric of the policy
    #[arg(long, value_name = "DURATION")]
    effect: SignedDuration,
    /// The ISPs to size for, one after the other [default: the policy's targets, or all]
    #[arg(long, value_name = "ISP")]
    isp: Vec<String>,
    /// Probability to promote such an improvement
    #[arg(long, value_name = "SHARE", default_value = "85%")]
    power: pathlab_canary::Share,
    /// Simulated experiments that the size is tried on at last; about as many find it
    #[arg(long, value_name = "N", default_value_t = 200)]
    experiments: u32,
    /// Most sessions of an evening that are tried, over all ISPs
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    max_sessions: u64,
    /// Most evenings that are tried at today's number of sessions
    #[arg(long, value_name = "N", default_value_t = 7)]
    max_evenings: u32,
}

/// Sizes the policy for each ISP.
pub(super) fn size(args: &PowerArgs, global: &Global) -> Result<()> {
    let effect = u64::try_from(args.effect.as_nanos()).ok().filter(|effect| *effect > 0);
    let Some(effect) = effect else { return Err(Misuse("--effect must be above zero".into()).into()) };
    if args.power.fraction() <= 0.0 || args.power.fraction() >= 1.0 {
        return Err(Misuse("--power must be between 0% and 100%, both exclusive".into()).into());
    }
    if args.experiments == 0 {
        return Err(Misuse("--experiments 0 would say nothing: write at least 1".into()).into());
    }
    let (experiment, ingested) = args.simulation.read()?;
    let margin = experiment.policy.margin;
    if args.effect <= margin {
        let why = format!(
            "--effect {:#} is not above policy.margin {margin:#}: an improvement within the margin counts as no difference",
            args.effect
        );
        return Err(Misuse(why).into());
    }
    let controls = Controls::new(&experiment, &ingested)?;
    told(&controls);
    let targets = [&args.isp, &experiment.policy.target.isp].into_iter().find(|isps| !isps.is_empty());
    let isps = targets.cloned().unwrap_or_else(|| controls.isps().into_iter().map(str::to_owned).collect());
    let effort = Effort {
        experiments: args.experiments,
        sessions: args.max_sessions,
        evenings: args.max_evenings,
        seed: args.simulation.seed,
    };
    let wanted = Wanted { effect, power: args.power.fraction() };
    let progress = Progress::new();
    // Where nobody sees the line that moves, it is minutes without a word.
    info!(
        "sizing for {}: some {} simulated experiments for each, judged like real ones on {} processors; minutes where sessions are many, fewer --experiments take less",
        isps.join(", "),
        2 * args.experiments,
        thread::available_parallelism().map_or(1, NonZero::get),
    );
    let begun = Instant::now();
    let size = |(number, isp): (usize, &String)| {
        let sized = power(&experiment, &controls, isp, wanted, effort, |step| progress.say(step))?;
        info!("{isp}: sized, {number} of {}, after {:.0} s", isps.len(), begun.elapsed().as_secs_f64());
        Ok(sized)
    };
    let sized = (1..).zip(&isps).map(size).collect::<Result<Vec<_>>>()?;
    drop(progress);
    if global.json {
        let document = json!({
            "effect": format!("{:#}", args.effect), "power": args.power, "metric": experiment.policy.metric,
            "evenings": experiment.windows.evenings, "isps": sized,
        });
        return output::json("canary.power", &document);
    }
    output::prose(&text(args, &experiment, &sized));
    Ok(())
}

fn text(args: &PowerArgs, experiment: &Experiment, sized: &[Sized]) -> String {
    let evenings = experiment.windows.evenings;
    let mut table =
        Table::new(["", "control", "canary", "all ISPs", "promoted", "today", "promoted", "evenings today"]);
    for of in sized {
        let arm = |sessions: fn(&pathlab_canary::Arms<u64>) -> u64| {
            of.sessions.as_ref().map_or_else(|| "–".to_owned(), |arms| sessions(arms).to_string())
        };
        table.row([
            of.isp.clone(),
            arm(|arms| arms.control),
            arm(|arms| arms.canary),
            of.sessions.map_or_else(|| format!("more than {}", of.all), |_| of.all.to_string()),
            percent(of.power.estimate),
            of.today.to_string(),
            percent(of.power_today.estimate),
            of.evenings.map_or_else(|| format!("none up to {}", args.max_evenings), |evenings| evenings.to_string()),
        ]);
    }
    format!(
        "sessions an evening over {evenings} evenings so that {} better by {:#} in one ISP is promoted with {}\n{table}",
        experiment.policy.metric, args.effect, args.power
    )
}

/// `canary aa`.
#[derive(Args)]
pub(super) struct AaArgs {
    #[command(flatten)]
    simulation: Simulation,
    /// Experiments, each with another seed of the assignment
    #[arg(long, value_name = "N", default_value_t = 200)]
    experiments: u32,
}

/// Counts how often chance misleads the policy.
pub(super) fn aa(args: &AaArgs, global: &Global) -> Result<()> {
    if args.experiments == 0 {
        return Err(Misuse("--experiments 0 would say nothing: write at least 1".into()).into());
    }
    let (experiment, ingested) = args.simulation.read()?;
    let controls = Controls::new(&experiment, &ingested)?;
    told(&controls);
    let from = experiment.key.from;
    let progress = Progress::new();
    progress.say(format!("{} experiments without a difference", args.experiments));
    info!("judging {} experiments without a difference; minutes where sessions are many", args.experiments);
    let bucket = move |seed: u32, key: &_| bucket(seed, key, from);
    let found: Alike = alike(&experiment, &controls, args.simulation.seed, args.experiments, bucket)?;
    drop(progress);
    if global.json {
        return output::json("canary.aa", &found);
    }
    let rates = found.rates();
    let line = |name: &str, count: u32, rate: &pathlab_canary::Interval| {
        outln!(
            "wrong {name}: {count} of {}, {} (95 % interval {} to {})",
            found.experiments,
            percent(rate.estimate),
            percent(rate.low),
            percent(rate.high)
        );
    };
    outln!("{} sessions on today's path, assigned anew {} times", found.sessions, found.experiments);
    line("Promote", found.promoted, &rates[0]);
    line("RollBack", found.rolled_back, &rates[1]);
    Ok(())
}
