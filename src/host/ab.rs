//! `pathlab host ab`: a change is made and taken back over many short blocks while a probe measures; what moved, in which stage, and whether the
//! change stays.

mod blocks;
mod figures;
mod words;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use clap::{Args, Parser};
use jiff::Timestamp;
use pathlab_guard::{Changed, privilege::is_root};
use pathlab_host::Plan;
use pathlab_record::{LogInterval, Run, Sample, SessionBin};
use pathlab_reflector::prober::{self, Background, Output, Progress, RunOutput};
use serde::Serialize;
use serde_json::json;

use self::{
    blocks::{Block, margin, orders},
    figures::{Figure, Measured, Seen, Verdict, judge},
    words::{sentence, text},
};
use super::{
    clock, facts,
    plan::{Chosen, Held, Made, in_own_sysfs, operator},
};
use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    live::{self, Live},
    output,
    probe::{self, Prepared, Probe},
    report, run_directory,
    stop::Interrupt,
};

/// A `--change` that changes nothing, so that both settings are the same: for a look at how often it would err.
const AS_IS: &str = "as-is";

#[derive(Args)]
pub(super) struct AbArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// The Session-Reflector that is asked all the while: address or name, port 862 unless said
    #[arg(long, value_name = "TARGET[:PORT]")]
    probe: String,
    /// Between two packets
    #[arg(long, value_name = "DUR", default_value = "5ms", value_parser = duration::parse)]
    interval: Duration,
    /// Blocks with the change; there are as many without
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    blocks: u32,
    /// How long a block is, a fifth at both ends left out
    #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = duration::parse)]
    block: Duration,
    /// Decides which block of each pair comes first [default: from the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How sure all figures are together, between 0 and 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.999, value_parser = level)]
    level: f64,
    /// Take the change back whatever comes of it
    #[arg(long)]
    never_keep: bool,
    /// Do it; without this the plan is shown and nothing happens
    #[arg(long)]
    yes: bool,
    /// Run directory [default: ./runs/<UTC time>-host]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Further options of `pathlab probe`, such as `-- --tlv stages,follow-up`
    #[arg(last = true, value_name = "OPTION")]
    further: Vec<String>,
}

fn level(text: &str) -> Result<f64, String> {
    let level = text.parse().ok().filter(|level| *level > 0.0 && *level < 1.0);
    level.ok_or_else(|| format!("`{text}` is no level: write a number between 0 and 1, such as 0.999"))
}

/// The options of a probe by themselves.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Alone {
    #[command(flatten)]
    probe: Probe,
}

/// Everything that came of it: `ab.json`.
#[derive(Serialize)]
struct Comparison {
    schema: &'static str,
    verdict: Verdict,
    sentence: String,
    /// Where the change stays: what `host undo` knows it by.
    kept: Option<String>,
    plan: Plan,
    changes: Vec<Made>,
    target: String,
    seed: u64,
    interval_ns: u128,
    block_ns: u128,
    margin_ns: u128,
    /// Of all figures together, and of each.
    level: f64,
    level_each: f64,
    figures: Vec<Figure>,
    blocks: Vec<Measured>,
}

const SCHEMA: &str = "pathlab.host.ab/1";

pub(super) fn run(args: &AbArgs, global: &Global) -> Result<Exit> {
    let plan = wanted(args)?;
    if !global.json && plan != Plan::nothing() {
        out!("{}", report::host::plan(&plan));
    }
    if let Some(refused) = plan.refused.iter().find(|_| plan.changes.is_empty()) {
        bail!("{}; nothing was changed", refused.because);
    }
    if !args.yes && !plan.changes.is_empty() {
        if global.json {
            output::document(&plan)?;
        } else {
            outln!("nothing was changed: --yes does it, {} times, and takes it back", args.blocks);
        }
        return Ok(Exit::Done);
    }
    if !plan.changes.is_empty() && !is_root() {
        bail!("host ab changes settings of this host: run it as root");
    }
    let started = Timestamp::now();
    let seed = args.seed.unwrap_or_else(|| started.as_nanosecond() as u64);
    let prepared = prepare(args)?;
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("host", started));
    let about = Run {
        options: json!({ "plan": plan, "probe": prepared.resolved, "blocks": args.blocks, "block_ns": args.block.as_nanos(), "seed": seed, "level": args.level }),
        host: facts(),
        clock: clock(prepared.stamps.clock()),
        ..Run::new("host ab", started)
    };
    let (directory, scrap) = run_directory::create(&path, &about)?;
    let stop = Interrupt::on_signals()?;
    let held = if plan.changes.is_empty() { None } else { Some(Held::begin()?) };
    let (mut held, guardian) = held.unzip();
    let made = match &mut held {
        None => Vec::new(),
        // On an error the journal takes back what was done when it goes away here.
        Some(held) => held.apply(&plan, |_, _| {})?,
    };
    let (output, ended) = measure(args, prepared, RunOutput::new(directory), &made, seed, &stop)?;
    let Recorded { output, seen } = output;
    let Ended { report, blocks } = ended;
    let (measured, figures, level_each, verdict) = judge(&blocks, &seen, args.level);
    let name = held.as_ref().map(|held| held.name.clone());
    let kept = name.clone().filter(|_| verdict == Verdict::Better && !args.never_keep);
    match held {
        Some(held) if kept.is_some() => {
            in_own_sysfs(|| Ok(made.iter().try_for_each(Changed::write)?))?;
            held.journal.keep()?;
        }
        Some(held) => {
            let undone = held.journal.undo()?;
            if let Some((change, now)) = undone.left.first() {
                bail!("{change}: somebody has set it to {now} meanwhile: the blocks are of neither; it is left so");
            }
        }
        None => {}
    }
    drop(guardian);
    let comparison = Comparison {
        schema: SCHEMA,
        verdict,
        sentence: sentence(verdict, &figures, args, kept.as_deref()),
        kept,
        changes: made.iter().map(Made::of).collect(),
        plan,
        target: args.probe.clone(),
        seed,
        interval_ns: args.interval.as_nanos(),
        block_ns: args.block.as_nanos(),
        margin_ns: margin(args.block).as_nanos(),
        level: args.level,
        level_each,
        figures,
        blocks: measured,
    };
    let mut directory = output.finish(&report)?;
    scrap.keep();
    directory.artefact("ab.json", format!("{}\n", serde_json::to_string_pretty(&comparison)?).as_bytes())?;
    for made in &comparison.changes {
        let note = format!("ab: `{}`, {} times to and fro", made.command(), blocks.len() / 2);
        directory.note(Timestamp::now(), Some(&operator()), &note)?;
    }
    directory.note(Timestamp::now(), Some(&operator()), &format!("ab: {}", comparison.sentence))?;
    let head = directory.seal(Timestamp::now())?;
    if global.json {
        output::document(&comparison)?;
    } else {
        out!("{}", text(&comparison));
        outln!("\n{}  sealed {head}", path.display());
    }
    Ok(match verdict {
        Verdict::Better => Exit::Done,
        Verdict::Worse => Exit::RollBack,
        Verdict::Mixed | Verdict::NoDifference => Exit::Hold,
        Verdict::TooFew => Exit::Invalid,
    })
}

fn wanted(args: &AbArgs) -> Result<Plan> {
    if args.chosen.is_empty() {
        let why = "name what to compare: --rule, --change or --plan; `--change as-is` changes nothing";
        return Err(Misuse(why.into()).into());
    }
    args.chosen.plan_without(Some(AS_IS))
}

/// The probe by its own rules, for as long as the blocks take; it is ended when the last one is over.
fn prepare(args: &AbArgs) -> Result<Prepared> {
    let taken = ["--out", "--duration", "--count", "--interval", "--json", "--keep-samples"];
    let option = |word: &String| word.split('=').next().unwrap_or_default().to_owned();
    if let Some(word) = args.further.iter().map(option).find(|word| taken.contains(&word.as_str())) {
        return Err(Misuse(format!("{word} is this verb's own here")).into());
    }
    let whole = args.block * args.blocks * 4 + Duration::from_secs(60);
    let own = [
        args.probe.clone(),
        "--interval".into(),
        format!("{}ns", args.interval.as_nanos()),
        "--duration".into(),
        format!("{}ms", whole.as_millis()),
    ];
    let words = own.into_iter().chain(args.further.iter().cloned());
    let Alone { probe } = Alone::try_parse_from(words).map_err(|error| {
        let told = error.to_string();
        Misuse(told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    probe::prepare(probe)
}

/// Passes a run's lines on, and remembers of each sample what figures are made of.
struct Recorded<O> {
    output: O,
    seen: Vec<Seen>,
}

impl<O: Output> Output for Recorded<O> {
    fn bin(&mut self, bin: SessionBin) {
        self.output.bin(bin);
    }
    fn sample(&mut self, sample: Sample) {
        self.seen.extend(Seen::of(&sample));
        self.output.sample(sample);
    }
    fn interval(&mut self, log: &str, interval: LogInterval) {
        self.output.interval(log, interval);
    }
    fn progress(&mut self, progress: Progress) {
        self.output.progress(progress);
    }
}

/// What was played.
struct Ended {
    report: prober::ProbeReport,
    blocks: Vec<Block>,
}

/// Plays all blocks while the probe runs on a thread of its own. Ctrl-C ends both.
fn measure(
    args: &AbArgs,
    prepared: Prepared,
    output: RunOutput,
    made: &[Changed],
    seed: u64,
    stop: &Interrupt,
) -> Result<(Recorded<RunOutput>, Ended)> {
    let Prepared { sessions, mut options, stamps, .. } = prepared;
    let whole = args.block * args.blocks * 2;
    let live = Live::new(Recorded { output, seen: Vec::new() }, Some(whole));
    options.progress = live.draws().then_some(live::EVERY);
    let mut output = Background::start(live)?;
    let enough = AtomicBool::new(false);
    let (report, blocks) = thread::scope(|scope| {
        let probing = scope.spawn(|| prober::probe(&sessions, &options, &enough, &mut output));
        let ends = || probing.is_finished() || stop.flag().load(Ordering::Relaxed);
        let blocks = in_own_sysfs(|| play(args, made, seed, ends));
        enough.store(true, Ordering::Relaxed);
        (probing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), blocks)
    });
    drop(stamps);
    let output = output.finish().finish();
    let report = report.map_err(probe::misuse_or_failure)?;
    let blocks = blocks?;
    if stop.flag().load(Ordering::Relaxed) {
        bail!("interrupted after {} of {} blocks: the change is taken back", blocks.len(), 2 * args.blocks);
    }
    Ok((output, Ended { report, blocks }))
}

/// To and fro, until every pair is played or something ends it.
fn play(args: &AbArgs, made: &[Changed], seed: u64, ends: impl Fn() -> bool) -> Result<Vec<Block>> {
    let margin = margin(args.block);
    let mut blocks = Vec::new();
    let mut on = !made.is_empty();
    // The first packets of a probe find cold caches.
    thread::sleep(args.block.min(Duration::from_millis(500)));
    for (pair, with_first) in (0..).zip(orders(seed, args.blocks)) {
        for with in [with_first, !with_first] {
            if ends() {
                return Ok(blocks);
            }
            let start = Timestamp::now();
            if with != on && !made.is_empty() {
                turn(made, with)?;
                on = with;
            }
            thread::sleep(args.block.saturating_sub(since(start)).max(3 * margin));
            let end = Timestamp::now();
            let [begin, end] = [after(start, margin), before(end, margin)].map(|time| time.as_nanosecond() as i64);
            blocks.push(Block { pair, with, begin, end });
        }
    }
    Ok(blocks)
}

fn since(start: Timestamp) -> Duration {
    Timestamp::now().duration_since(start).try_into().unwrap_or_default()
}

fn after(time: Timestamp, span: Duration) -> Timestamp {
    time.saturating_add(span).unwrap_or(time)
}

fn before(time: Timestamp, span: Duration) -> Timestamp {
    time.saturating_sub(span).unwrap_or(time)
}

/// The change on, in its order; or off, in the reverse.
fn turn(made: &[Changed], with: bool) -> Result<()> {
    if with {
        return Ok(made.iter().try_for_each(Changed::write)?);
    }
    for changed in made.iter().rev() {
        if let Some(now) = changed.write_back()? {
            bail!("{changed}: somebody has set it to {now} meanwhile: the blocks are of neither");
        }
    }
    Ok(())
}
