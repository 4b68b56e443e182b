//! `pathlab import`: what other systems measured, as a run directory that the judge reads.

use std::{fs, path::PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use pathlab_canary::{
    COHORTS,
    prometheus::{Query, fetch},
};
use pathlab_record::Run;
use pathlab_trace::foreign::Foreign;
use serde_json::json;

use crate::{
    Global,
    canary::read_experiment,
    exit::{Exit, Misuse},
    host, output, run_directory,
};

/// Bring what other systems measured into a run directory
#[derive(Args)]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// Histograms of a Prometheus, classic or native, as cohorts: they may roll back, never promote
    Prometheus(Prometheus),
    /// Paths and losses as mtr, iperf3 or RIPE Atlas told them in JSON: evidence that says what it is not, never a verdict
    Path(Path),
}

#[derive(Args)]
struct Path {
    /// JSON documents, each told by its fields
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Run directory [default: ./runs/<UTC time>-import]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct Prometheus {
    /// http://HOST:PORT of its HTTP API
    url: String,
    /// The histogram, without _bucket; its series need labels arm, isp or asn, and family
    metric: String,
    /// First instant, such as 2026-11-21T19:00:00+09:00
    #[arg(long, value_parser = instant)]
    start: Timestamp,
    /// First instant after the last bin
    #[arg(long, value_parser = instant)]
    end: Timestamp,
    /// Label matchers, such as region="jp"
    #[arg(long, default_value = "")]
    matchers: String,
    /// Unit of the histogram
    #[arg(long, value_enum, default_value_t = Unit::Seconds)]
    unit: Unit,
    /// The experiment, whose bins are asked for
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "canary.toml")]
    config: PathBuf,
    /// Run directory [default: ./runs/<UTC time>-import]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
}

impl Unit {
    fn nanoseconds(self) -> f64 {
        match self {
            Self::Seconds => 1e9,
            Self::Milliseconds => 1e6,
            Self::Microseconds => 1e3,
        }
    }
}

fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no instant: write one with its zone, such as 2026-11-21T19:00:00+09:00"))
}

/// Runs one import.
pub(crate) fn run(args: ImportArgs, global: &Global) -> Result<Exit> {
    match args.from {
        From::Prometheus(args) => prometheus(&args, global),
        From::Path(args) => path(&args, global),
    }
}

/// The artefact that says what the files are.
const FOREIGN: &str = "foreign.json";

fn path(args: &Path, global: &Global) -> Result<Exit> {
    let mut read = Vec::new();
    for file in &args.files {
        let bytes = fs::read(file).map_err(|error| Misuse(format!("{}: {error}", file.display())))?;
        let wrong = |why: String| Misuse(format!("{}: {why}", file.display()));
        let document = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is no JSON: {error}")))?;
        let foreign = Foreign::read(&document).map_err(|unknown| wrong(unknown.to_string()))?;
        read.push((file, bytes, foreign));
    }
    let started = Timestamp::now();
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("import", started));
    let about =
        Run { options: json!({ "files": args.files }), host: host::facts(), ..Run::new("import path", started) };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    let mut documents = Vec::new();
    for (number, (file, bytes, foreign)) in read.iter().enumerate() {
        // As it came, under a name of ours: theirs may be anything.
        let name = format!("foreign-{}-{}.json", number + 1, foreign.tool);
        directory.artefact(&name, bytes)?;
        documents.push(json!({ "file": name, "from": file, "read": foreign }));
    }
    let mut document = serde_json::to_vec_pretty(&json!({ "schema": "pathlab.foreign/1", "documents": documents }))?;
    document.push(b'\n');
    directory.artefact(FOREIGN, &document)?;
    let head = directory.seal(Timestamp::now())?;
    scrap.keep();
    if global.json {
        output::json("import", &json!({ "run": path, "documents": documents }))?;
        return Ok(Exit::Done);
    }
    for (file, _, foreign) in &read {
        outln!("{}: {}, {} paths or streams", file.display(), foreign.tool, foreign.paths.len());
        for remark in &foreign.remarks {
            outln!("  {remark}");
        }
    }
    outln!("{}  sealed {head}", path.display());
    Ok(Exit::Done)
}

fn prometheus(args: &Prometheus, global: &Global) -> Result<Exit> {
    let bin = read_experiment(&args.config)?.windows.bin;
    if args.start >= args.end {
        return Err(Misuse(format!("--end {} is not after --start {}", args.end, args.start)).into());
    }
    let Prometheus { url, metric, matchers, start, end, .. } = args;
    let query = Query {
        url: url.clone(),
        metric: metric.clone(),
        matchers: matchers.clone(),
        unit: args.unit.nanoseconds(),
        start: *start,
        end: *end,
        bin,
    };
    let fetched = fetch(&query)?;
    let started = Timestamp::now();
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("import", started));
    let about = Run {
        options: json!({ "url": url, "metric": metric, "matchers": matchers, "start": start, "end": end,
            "bin": bin.to_string(), "left_out": fetched.left_out }),
        host: host::facts(),
        ..Run::new("import prometheus", started)
    };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    let mut lines = String::new();
    for bin in &fetched.bins {
        lines.push_str(&serde_json::to_string(bin)?);
        lines.push('\n');
    }
    directory.artefact(COHORTS, lines.as_bytes())?;
    let head = directory.seal(Timestamp::now())?;
    scrap.keep();
    let (bins, left_out) = (fetched.bins.len(), fetched.left_out.len());
    if global.json {
        output::json("import", &json!({ "run": path, "bins": bins, "left_out": fetched.left_out }))?;
        return Ok(Exit::Done);
    }
    outln!("{bins} bins of cohorts, {left_out} left out");
    for what in fetched.left_out.iter().take(5) {
        outln!("  left out: {what}");
    }
    outln!("{}  sealed {head}", path.display());
    Ok(Exit::Done)
}
