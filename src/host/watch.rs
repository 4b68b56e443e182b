//! `pathlab host watch`: what makes packets wait or loses them, counted in the kernel while the host works.

mod text;

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use pathlab_host::watch::{Error, Reading, Report, Watch, WatchOptions};
use serde::Serialize;
use tracing::warn;

use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    output,
    progress::Screen,
    readiness,
    stop::Interrupt,
};

/// The kernel measures its programs for this part of each interval, and for no longer than this: measuring costs as well.
const MEASURED: (u32, Duration) = (10, Duration::from_millis(100));
/// How long a signal may wait.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Args)]
pub(super) struct WatchArgs {
    /// The interface, up to eight; all of this network namespace if not given
    #[arg(long, value_name = "IF")]
    iface: Vec<String>,
    /// How long; until Ctrl-C or SIGTERM without
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Between two looks; with --json each is a line, and the last line is of the whole
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    every: Duration,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    window: Window,
    ends: Timestamp,
    #[serde(flatten)]
    report: &'a Report,
    lacks: &'a [String],
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Window {
    Interval,
    Whole,
}

/// Watches until the time is over or a signal comes.
pub(super) fn watch(args: &WatchArgs, global: &Global) -> Result<Exit> {
    let interrupt = Interrupt::on_signals()?;
    let options = WatchOptions { interfaces: args.iface.clone(), ..WatchOptions::default() };
    let mut watch = Watch::begin(&options).map_err(|error| match error {
        error @ (Error::NoInterface { .. } | Error::TooManyInterfaces { .. }) => Misuse::of(error),
        error => error.into(),
    })?;
    for lack in watch.lacks() {
        warn!("{lack}");
    }
    let screen = if global.json { Screen::none() } else { Screen::new() };
    let first = watch.read()?;
    readiness::announce();
    let until = args.duration.map(|span| Instant::now() + span);
    let mut last = first.clone();
    loop {
        let ends = interval(&mut watch, args.every, until, &interrupt)?;
        let now = watch.read()?;
        if global.json {
            line(&watch, Window::Interval, &now, &last)?;
        }
        if ends {
            screen.finish();
            return whole(&watch, &now, &first, global);
        }
        screen.show(text::live(&now.since(&last), &now.since(&first)));
        last = now;
    }
}

/// Waits for the next look; whether it is the last.
fn interval(watch: &mut Watch, every: Duration, until: Option<Instant>, interrupt: &Interrupt) -> Result<bool> {
    let now = Instant::now();
    let due = until.map_or(now + every, |until| until.min(now + every));
    let measured = now + (every / MEASURED.0).min(MEASURED.1);
    watch.measure_cost()?;
    loop {
        let now = Instant::now();
        if now >= measured {
            watch.leave_cost();
        }
        if interrupt.flag().load(Ordering::Relaxed) || until.is_some_and(|until| now >= until) {
            return Ok(true);
        }
        if now >= due {
            return Ok(false);
        }
        let next = if now < measured { measured.min(due) } else { due };
        thread::sleep(next.saturating_duration_since(now).min(PATIENCE));
    }
}

fn whole(watch: &Watch, now: &Reading, first: &Reading, global: &Global) -> Result<Exit> {
    if global.json {
        line(watch, Window::Whole, now, first)?;
    } else {
        out!("{}", text::whole(&now.since(first)));
    }
    Ok(Exit::Done)
}

fn line(watch: &Watch, window: Window, now: &Reading, earlier: &Reading) -> Result<()> {
    let report = &now.since(earlier);
    output::line("watch", &Line { window, ends: Timestamp::now(), report, lacks: watch.lacks() })
}
