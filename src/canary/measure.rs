//! `pathlab canary measure`: what the game's own packets tell of its sessions, in bins for the judge and on `/metrics`.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use pathlab_canary::{
    Experiment, UNKNOWN,
    passive::{Account, Watch},
    steer,
};
use pathlab_record::{AsnTable, Run, RunDirectory};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{answer, seed, start::signalled};
use crate::{
    Global, duration,
    exit::Misuse,
    host, probe, readiness,
    report::span,
    run_directory,
    served::{self, Served},
};

/// Between two readings of the kernel's counts.
const SWEEP: SignedDuration = SignedDuration::from_secs(10);

#[derive(Args)]
pub(super) struct MeasureOptions {
    /// How long; until Ctrl-C or SIGTERM without
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// A label of every session; `window=aa` names the A/A prelude, before the steering starts
    #[arg(long, value_name = "K=V", value_parser = probe::label)]
    label: Vec<(String, Value)>,
    /// Serve totals as OpenMetrics on `/metrics`; a port alone is one on loopback
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = served::address)]
    metrics: Option<SocketAddr>,
    /// Run directory [default: ./runs/<UTC time>-measure]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Measures until it is told to stop, and leaves a run directory.
pub(super) fn measure(experiment: &Experiment, options: MeasureOptions, global: &Global) -> Result<()> {
    if !pathlab_guard::privilege::is_root() {
        bail!("canary measure loads programs into the kernel: run it as root");
    }
    let seed = seed(experiment)?;
    let file = experiment.passive.as_ref().and_then(|passive| passive.isps.as_deref());
    let isps = file.map(AsnTable::read).transpose().map_err(Misuse::of)?.unwrap_or_default();
    if file.is_none() {
        warn!("passive.isps is absent: every client is of ISP `{}`", UNKNOWN);
    }
    let started = Timestamp::now();
    let path = options.out.unwrap_or_else(|| run_directory::default_path("measure", started));
    let labels: pathlab_record::Labels = options.label.into_iter().collect();
    let about = Run {
        options: json!({ "experiment": experiment, "duration_s": options.duration.map(|span| span.as_secs_f64()) }),
        host: host::facts(),
        clock: host::clock(None),
        labels: labels.clone(),
        ..Run::new("canary measure", started)
    };
    let served = Served::bind(options.metrics)?;
    let (directory, scrap) = run_directory::create(&path, &about)?;
    let watch = Watch::attach(experiment, seed, isps, labels, started).map_err(|error| match error {
        error @ (steer::Error::Config { .. } | steer::Error::AboveCap { .. } | steer::Error::NoDevice { .. }) => {
            Misuse::of(error)
        }
        error => error.into(),
    })?;
    scrap.keep();
    info!("watching {}", watch.devices().join(", "));
    let until = options.duration.map(|span| started + span);
    let published = Mutex::new(watch.account());
    let text = || published.lock().unwrap_or_else(PoisonError::into_inner).openmetrics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (account, directory, lines) =
        served.during(text, || runtime.block_on(sweeps(watch, directory, until, &published)))?;
    let head = directory.seal(Timestamp::now())?;
    let document = json!({
        "lines": lines, "sessions": account.counted, "groups": groups(&account), "echoes": account.echoes, "run": path,
        "head": head.to_string(),
    });
    answer(global, &document, format_args!("{}\n{}  sealed {head}", said(&account, lines), path.display()))
}

/// Reads every few seconds, writes at the end of each bin.
async fn sweeps(
    mut watch: Watch,
    mut directory: RunDirectory,
    until: Option<Timestamp>,
    published: &Mutex<Account>,
) -> Result<(Account, RunDirectory, u64)> {
    let stop = signalled();
    tokio::pin!(stop);
    readiness::announce();
    let mut lines = 0;
    loop {
        let bin_end = watch.bin_end();
        let due = [Some(Timestamp::now() + SWEEP), Some(bin_end), until].into_iter().flatten().min().unwrap_or(bin_end);
        let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        let stopped = tokio::select! {
            signal = &mut stop => { signal.context("cannot listen for signals")?; true }
            () = tokio::time::sleep(wait) => false,
        };
        let now = Timestamp::now();
        let ends = stopped || until.is_some_and(|until| now >= until);
        if ends || now >= bin_end {
            for line in watch.close_bin(now.min(bin_end))? {
                directory.session(&line)?;
                lines += 1;
            }
        } else {
            watch.read()?;
        }
        let account = watch.account();
        readiness::alive();
        if ends {
            return Ok((account, directory, lines));
        }
        *published.lock().unwrap_or_else(PoisonError::into_inner) = account;
    }
}

fn groups(account: &Account) -> Vec<Value> {
    let time = if account.echoes { "rtt" } else { "residence" };
    let of = account.groups().map(|(arm, family, server, total)| {
        json!({
            "arm": arm, "family": family, "server": server, "packets": total.packets,
            time: { "count": total.count(), "p50": total.quantile(0.5), "p95": total.quantile(0.95) },
        })
    });
    of.collect()
}

fn said(account: &Account, lines: u64) -> String {
    let mut text = String::new();
    let mut times = 0;
    for (arm, family, server, total) in account.groups() {
        let arm = if arm == pathlab_record::Arm::Canary { "canary" } else { "control" };
        let sent = total.packets.by_control + total.packets.by_canary;
        let quantile = |share| total.quantile(share).map_or_else(|| "–".to_owned(), span);
        text +=
            &format!("{arm:<8} IPv{family} {server}: {sent} packets to clients, {} from them", total.packets.received);
        if total.count() > 0 {
            let time = if account.echoes { "round trips" } else { "residences" };
            text += &format!("; {} {time}, p50 {}, p95 {}", total.count(), quantile(0.5), quantile(0.95));
        }
        text.push('\n');
        times += total.count();
    }
    if times == 0 {
        text += &nothing_timed(account.echoes);
    }
    let counted = account.counted;
    let evicted = match counted.evicted {
        0 => String::new(),
        evicted => format!(", of which {evicted} gave way to newer ones (passive.max_sessions)"),
    };
    text + &format!("{} sessions{evicted}; {lines} lines of sessions.jsonl", counted.began)
}

/// What to look at where no packet told a time.
fn nothing_timed(echoes: bool) -> String {
    if echoes {
        "no round trip: no packet of a client acknowledged a number that was sent; check the offsets of `sequence` and `acknowledgement` in [passive]\n".to_owned()
    } else {
        "no times: clients sent nothing that was answered; with `sequence` and `acknowledgement` in [passive] there are round trips\n".to_owned()
    }
}
