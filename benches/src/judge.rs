//! The judge's table: whole fleets from their file to their verdict, and the bootstrap beside plain ways to do the same.
//!
//! The judge runs as the user runs it, `pathlab canary judge`, as a process of its own: time and peak memory are what the kernel says of it
//! when it ends. The bootstraps run in this process, on one stratum, and every replicate of each must be the same number.

pub mod bootstrap;
pub mod world;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{
    figures::Summary,
    host, sys,
    table::{Aim, Better, Row, SCHEMA, Section, Table},
};
use bootstrap::Ways;
use world::{Fleet, SEED, SHARE};

/// A file may be no longer than this: 3 GB, and twice as much must be free.
const LONGEST: u64 = 3_000_000_000;
/// Milliseconds by which the canary of the better fleet is faster in one ISP.
const FASTER: f64 = 5.0;
/// Fleet, processors and name of each run.
const RUNS: [(&str, usize, &str); 3] = [
    ("same", 2, "nothing differs, 2 processors"),
    ("same", 1, "nothing differs, 1 processor"),
    ("better", 2, "promoted, 2 processors"),
];
const GIB: f64 = (1_u64 << 30) as f64;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of everything.
    pub rounds: usize,
    /// The fleet.
    pub fleet: Fleet,
    /// Sessions of the stratum that is resampled, and packets of each.
    pub stratum: Fleet,
    /// Only to show that it works.
    pub quick: bool,
}

impl Effort {
    /// A hundred million samples of a million sessions.
    pub fn whole(rounds: usize) -> Self {
        let fleet = Fleet { sessions: 1_000_000, packets: 100, faster: 0.0 };
        Self { rounds, fleet, stratum: Fleet { sessions: 100_000, ..fleet }, quick: false }
    }

    /// What shows that the bench works.
    pub fn quick() -> Self {
        let fleet = Fleet { sessions: 20_000, packets: 100, faster: 0.0 };
        Self { rounds: 1, fleet, stratum: Fleet { sessions: 5_000, ..fleet }, quick: true }
    }
}

/// What one run of the judge took.
#[derive(Clone, Debug)]
struct Run {
    seconds: f64,
    processor_seconds: f64,
    peak: f64,
    verdict: Vec<u8>,
}

/// Measures the table, with its files in a folder below `target/bench`.
///
/// # Errors
/// No room for the fleet, a judge that fails, or verdicts or replicates that differ.
pub fn table(pathlab: &Path, effort: &Effort) -> Result<Table> {
    let (started, before) = (jiff::Timestamp::now(), host::before()?);
    fs::create_dir_all("target/bench")?;
    // Deleted with its files when this ends.
    let folder = tempfile::Builder::new().prefix("judge-").tempdir_in("target/bench")?;
    let fleets = [("same", 0.0), ("better", FASTER)].map(|(name, faster)| (name, Fleet { faster, ..effort.fleet }));
    let mut sizes = Vec::new();
    for (name, fleet) in fleets {
        sizes.push(prepare(&folder.path().join(name), fleet)?);
    }
    let mut runs: [Vec<Run>; 3] = Default::default();
    let ways = Ways::new(effort.stratum)?;
    let mut bootstraps: Vec<Vec<f64>> = vec![Vec::new(); bootstrap::NAMES.len()];
    for round in 0..effort.rounds {
        for (runs, (fleet, processors, _)) in runs.iter_mut().zip(RUNS) {
            let out = folder.path().join(format!("verdict-{fleet}-{processors}-{round}"));
            runs.push(judge(pathlab, &folder.path().join(fleet), &out, processors)?);
        }
        for (times, time) in bootstraps.iter_mut().zip(ways.round(round)?) {
            times.push(time);
        }
    }
    let [same, alone, better] = &runs;
    let alike = |runs: &[Run], verdict: &[u8]| runs.iter().all(|run| run.verdict == verdict);
    let verdicts = [&same[0].verdict, &better[0].verdict];
    ensure!(
        alike(same, verdicts[0]) && alike(alone, verdicts[0]) && alike(better, verdicts[1]),
        "the verdict depends on the round or on the number of processors"
    );
    let section = |title: &str, unit: &str, figure: fn(&Run) -> f64| Section {
        title: title.into(),
        unit: unit.into(),
        better: Better::Less,
        rows: RUNS.iter().zip(&runs).map(|((.., name), runs)| Row::new(*name, runs.iter().map(figure))).collect(),
    };
    let sections = vec![
        section("A file of sessions ingested and judged", "s", |run| run.seconds),
        section("Processor time of that", "s", |run| run.processor_seconds),
        section("Peak memory of that", "GiB", |run| run.peak),
        Section {
            title: "The bootstrap of one stratum".into(),
            unit: "ms a replicate".into(),
            better: Better::Less,
            rows: bootstrap::NAMES
                .iter()
                .zip(&bootstraps)
                .enumerate()
                .map(|(at, (name, times))| {
                    let beside = (at > 0).then_some(bootstrap::NAMES[0]);
                    Row::new(*name, times.iter().map(|seconds| seconds * 1e3)).beside(beside)
                })
                .collect(),
        },
    ];
    let aims =
        [same, better].into_iter().zip(["nothing differs", "promoted"]).flat_map(|(runs, what)| aims(runs, what));
    let aims = aims.collect();
    Ok(Table {
        schema: SCHEMA.into(),
        table: "judge".into(),
        started,
        quick: effort.quick,
        method: method(effort, &sizes, verdicts)?,
        host: host::alone(before)?,
        sections,
        aims,
    })
}

/// Writes the fleet, its seed and its experiment; bytes and lines of the fleet.
fn prepare(folder: &Path, fleet: Fleet) -> Result<(u64, u64)> {
    fs::create_dir_all(folder)?;
    let free = sys::free_bytes(folder)?;
    let expected = fleet.sessions * (1_000 + 8 * fleet.packets);
    ensure!(
        expected <= LONGEST && free > 2 * expected,
        "needs {expected} bytes below {}, {free} are free",
        folder.display()
    );
    fs::create_dir_all(folder.join("run"))?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join("run/sessions.jsonl"))?);
    let lines = fleet.write(&mut file)?;
    file.flush()?;
    fs::write(folder.join("seed"), format!("{SEED:#010x}\n"))?;
    fs::write(folder.join("canary.toml"), experiment())?;
    Ok((file.get_ref().metadata()?.len(), lines))
}

/// The experiment as most would write it: every default, and every guardrail.
fn experiment() -> String {
    format!(
        r#"[experiment]
name = "bench"
seed_file = "seed"
share = "{SHARE}"
cap_share = "{SHARE}"
[steer]
mode = "host"
lease = "500ms"
mark_mask = "0x00ff0000"
priority = 10000
[steer.canary]
v4 = {{ dev = "eth1" }}
v6 = {{ dev = "eth1" }}
[windows]
evening = "19:00-24:00"
zone = "Asia/Tokyo"
evenings = 2
bin = "10min"
[policy]
metric = "rtt.p95"
margin = "2ms"
target = {{ isp = ["NTT"] }}
guardrails = ["loss", "ipdv.p95", "rtt.p99", "tail_sessions"]
"#
    )
}

/// One run of the judge on so many processors.
fn judge(pathlab: &Path, folder: &Path, out: &Path, processors: usize) -> Result<Run> {
    let command = |pathlab: &Path| {
        let mut command = Command::new(pathlab);
        command.args(["canary", "judge", "-c"]).arg(folder.join("canary.toml")).arg(folder.join("run"));
        command.arg("--out").arg(out).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let started = Instant::now();
    // The processors belong to the thread that starts it, and so to what it starts.
    let ended = thread::scope(|scope| {
        let run = scope.spawn(|| -> Result<sys::Ended> {
            sys::pin_to(&(0..processors).collect::<Vec<_>>())?;
            Ok(sys::wait(command(pathlab).spawn()?)?)
        });
        run.join().map_err(|_| anyhow::anyhow!("the thread of the judge panicked"))?
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let verdict = fs::read(out.join("verdict.json"))
        .with_context(|| format!("the judge ended with {:?} and left no verdict", ended.status))?;
    Ok(Run { seconds, processor_seconds: ended.processor.as_secs_f64(), peak: ended.peak_bytes as f64 / GIB, verdict })
}

fn aims(runs: &[Run], what: &str) -> Vec<Aim> {
    let summary = |figure: fn(&Run) -> f64| Summary::of(&runs.iter().map(figure).collect::<Vec<_>>());
    let mut aims = Vec::new();
    if let Some(time) = summary(|run| run.seconds) {
        aims.push(Aim {
            goal: format!("Under 60 s on 2 processors, {what}"),
            figure: format!("{:.1} s (rounds {:.1} to {:.1})", time.median, time.min, time.max),
            met: time.median < 60.0,
        });
    }
    if let Some(peak) = summary(|run| run.peak) {
        aims.push(Aim {
            goal: format!("Under 2 GiB of memory, {what}"),
            figure: format!("{:.2} GiB (rounds {:.2} to {:.2})", peak.median, peak.min, peak.max),
            met: peak.median < 2.0,
        });
    }
    aims
}

fn method(effort: &Effort, sizes: &[(u64, u64)], verdicts: [&Vec<u8>; 2]) -> Result<Vec<String>> {
    let Effort { rounds, fleet, stratum, .. } = effort;
    let said = |verdict: &[u8]| -> Result<(String, String)> {
        let verdict: serde_json::Value = serde_json::from_slice(verdict)?;
        let sentence = verdict["sentence"].as_str().context("a verdict without a sentence")?;
        Ok((sentence.to_owned(), verdict["findings"]["redraws"].to_string()))
    };
    let ((same, few), (better, many)) = (said(verdicts[0])?, said(verdicts[1])?);
    let (bytes, lines) = sizes.first().context("no fleet")?;
    Ok(vec![
        format!(
            "{rounds} rounds. {} samples of {} sessions in {lines} lines of `sessions.jsonl`, {:.2} GB: five ISPs, both families, a prelude and two evenings, \
             lines in the order of their bins; the file is in the page cache.",
            fleet.sessions * fleet.packets,
            fleet.sessions,
            *bytes as f64 / 1e9
        ),
        format!(
            "`pathlab canary judge` as a process of its own, from start to sealed run directory: 2,000 bootstrap replicates of every stratum and guardrail, looks at every \
             bin, and assignments re-drawn until every family of questions is settled. Where nothing differs, {few} of them: \"{same}\" Where the canary is {FASTER} ms \
             faster in one ISP, {many}: \"{better}\" The same bytes in every round, on one processor and on two."
        ),
        "Time and peak memory (`ru_maxrss`) are the kernel's account of that process.".into(),
        bootstrap::method(*stratum),
    ])
}
