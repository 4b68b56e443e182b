//! `pathlab report`: runs as one page for those who were not there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use pathlab_record::{Digest, Head, RecordedRun};

use super::page;
use crate::{
    Global,
    exit::{Exit, Misuse},
    output,
};

/// The page's name where none is given.
const PAGE: &str = "report.html";

/// Put runs on one page: verdict, evenings, percentiles, wire or host, evidence; one HTML file that needs nothing else
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Run directories (with those in them), and JSON documents of `host audit`
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page [default: report.html in the first run directory]; in a sealed run directory, its chain records it
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A case file (docs/formats.md): also write one page for the provider beside the report, escalation.md and escalation.html
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
}

/// Writes the page and tells what is on it; exits with 1 when a run is not as it was sealed.
pub(crate) fn run(args: &ReportArgs, global: &Global) -> Result<Exit> {
    if let Some(case) = args.runs.iter().find(|run| run.extension().is_some_and(|end| end == "toml") && run.is_file()) {
        let what = "is a TOML file, and a run is a directory or JSON; a case file is given as --case";
        return Err(Misuse(format!("{}: {what} {0}", case.display())).into());
    }
    let case = args.case.as_deref().map(page::Case::read).transpose()?;
    let report = page::gather(&args.runs, Timestamp::now())?;
    let home = args.runs.iter().find(|run| run.is_dir()).map_or_else(|| PathBuf::from("."), PathBuf::clone);
    let out = args.out.clone().unwrap_or_else(|| home.join(PAGE));
    let mut written = write(&report, &out)?;
    let mut beside = Vec::new();
    if let Some(case) = &case {
        let one = page::Escalation::new(case, &report, &written.sha256.to_string());
        for (name, content) in [("escalation.md", one.markdown()), ("escalation.html", one.html())] {
            let path = out.with_file_name(name);
            written.head = put(&path, content.as_bytes(), report.made)?;
            beside.push(path);
        }
    }
    let exit = if report.broken().is_some() { Exit::Failed } else { Exit::Done };
    if global.json {
        output::document(&report)?;
        return Ok(exit);
    }
    out!("{}", page::text(&report));
    outln!("\n{}  sha256 {}", out.display(), written.sha256);
    for path in beside {
        outln!("{}", path.display());
    }
    if let Some(head) = written.head {
        outln!("recorded in the run's chain: {head}");
    }
    Ok(exit)
}

/// A page that was written.
pub(crate) struct Written {
    pub(crate) sha256: Digest,
    /// The new head of the run in which it lies.
    pub(crate) head: Option<Head>,
}

/// The page of these runs.
pub(crate) fn write(report: &page::Report, out: &Path) -> Result<Written> {
    let html = page::html(report);
    let head = put(out, html.as_bytes(), report.made)?;
    Ok(Written { sha256: Digest::of(html.as_bytes()), head })
}

/// Writes a file; in a sealed run directory it becomes a later record of the chain, whose new head is told.
fn put(path: &Path, content: &[u8], made: Timestamp) -> Result<Option<Head>> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str());
    let sealed = RecordedRun::open(folder).ok().filter(RecordedRun::is_sealed);
    if let (Some(run), Some(name)) = (sealed, name) {
        let actor = format!("pathlab {} report", env!("CARGO_PKG_VERSION"));
        return Ok(Some(run.append(name, content, made, &actor, "report")?));
    }
    fs::write(path, content).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(None)
}
