//! `pathlab host watch`: what makes packets wait or loses them, counted in the kernel while the host works.

mod text;

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use pathlab_host::watch::{Error, Report, Thresholds, Tick, Watch, WatchOptions, processes_named};
use serde::Serialize;
use tracing::warn;

use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    output,
    progress::Screen,
    readiness,
    served::{self, Served},
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
    /// A process by its number or name, up to eight: how long its threads wait for a processor, and what its control group withholds
    #[arg(long, value_name = "PID|NAME")]
    pid: Vec<String>,
    /// Ticks a second of a game server, for its stalls: how long it does not look at its socket; no symbols are needed
    #[arg(long, value_name = "HZ", requires = "pid")]
    tick: Option<f64>,
    /// The UDP port on which it receives; each that it has if not given
    #[arg(long, value_name = "PORT", requires = "tick")]
    port: Option<u16>,
    /// From how many ticks on it is a stall, 1 to 2
    #[arg(long, value_name = "TICKS", requires = "tick", default_value_t = Tick::STALL)]
    stall: f64,
    /// Alert where a counter of a card loses so many packets a second
    #[arg(long, value_name = "PACKETS", default_value_t = Thresholds::default().losses, value_parser = positive)]
    alert_losses: f64,
    /// Alert where so many packets wait in one qdisc
    #[arg(long, value_name = "PACKETS", default_value_t = Thresholds::default().waiting)]
    alert_waiting: u32,
    /// Alert where such a share of the polls of one receive queue took all that they were allowed
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = share)]
    alert_exhausted: f64,
    /// How long; until Ctrl-C or SIGTERM without
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Between two looks; with --json each is a line, and the last line is of the whole
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    every: Duration,
    /// Serve all since the watch began as OpenMetrics on `/metrics`; a port alone is one on loopback
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = served::address)]
    metrics: Option<SocketAddr>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("`{text}` is no number above 0"))
}

fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent = percent.filter(|percent: &f64| *percent > 0.0 && *percent <= 100.0);
    percent.map(|percent| percent / 100.0).ok_or_else(|| format!("`{text}` is no share such as 10%"))
}

impl WatchArgs {
    fn options(&self) -> Result<WatchOptions> {
        let processes: Vec<Vec<u32>> = self.pid.iter().map(|pid| processes(pid)).collect::<Result<_>>()?;
        Ok(WatchOptions {
            interfaces: self.iface.clone(),
            processes: processes.concat(),
            tick: self.tick.map(|hertz| Tick { hertz, stall: self.stall, port: self.port }),
            thresholds: Thresholds {
                losses: self.alert_losses,
                waiting: self.alert_waiting,
                exhausted: self.alert_exhausted,
            },
        })
    }

    /// What is looked at, for the head of a screen.
    fn about(&self) -> String {
        let mut about = if self.iface.is_empty() { "all interfaces".to_owned() } else { self.iface.join(", ") };
        if !self.pid.is_empty() {
            let number = |pid: &String| pid.parse::<u32>().is_ok();
            let called = if self.pid.iter().any(number) { "process " } else { "" };
            about += &format!("   {called}{}", self.pid.join(", "));
        }
        about
    }
}

/// A number is one process, whether it is there or not; a name is all that have it.
fn processes(pid: &str) -> Result<Vec<u32>> {
    if let Ok(number) = pid.parse() {
        return Ok(vec![number]);
    }
    let named = processes_named(pid);
    if named.is_empty() {
        return Err(Misuse(format!("no process is called {pid}: see `ps -e -o pid,comm`")).into());
    }
    Ok(named)
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
    let served = Served::bind(args.metrics)?;
    let mut watch = Watch::begin(&args.options()?).map_err(|error| match error {
        error @ (Error::NoInterface { .. }
        | Error::TooManyInterfaces { .. }
        | Error::NoProcess { .. }
        | Error::TooManyProcesses { .. }
        | Error::Tick { .. }) => Misuse::of(error),
        error => error.into(),
    })?;
    for lack in watch.lacks() {
        warn!("{lack}");
    }
    let published = Mutex::<(Report, Report)>::default();
    let lacks = watch.lacks().len();
    let text = || {
        let (whole, interval) = published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        whole.openmetrics(&interval, lacks)
    };
    served.during(text, || follow(&mut watch, args, global, &interrupt, &published))
}

/// Reads interval by interval, and tells what it reads.
fn follow(
    watch: &mut Watch,
    args: &WatchArgs,
    global: &Global,
    interrupt: &Interrupt,
    published: &Mutex<(Report, Report)>,
) -> Result<Exit> {
    let screen = if global.json { Screen::none() } else { Screen::new() };
    let first = watch.read()?;
    readiness::announce();
    let until = args.duration.map(|span| Instant::now() + span);
    let mut last = first.clone();
    loop {
        let ends = interval(watch, args.every, until, interrupt)?;
        let now = watch.read()?;
        let (interval, whole) = (now.since(&last), now.since(&first));
        if global.json {
            line(watch, Window::Interval, &interval)?;
        }
        if ends {
            screen.finish();
            if global.json {
                line(watch, Window::Whole, &whole)?;
            } else {
                out!("{}", text::whole(&args.about(), &whole));
            }
            return Ok(Exit::Done);
        }
        if screen.draws() {
            screen.show(&text::live(&args.about(), &interval, &whole, screen.size().0));
        }
        *published.lock().unwrap_or_else(PoisonError::into_inner) = (whole, interval);
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

fn line(watch: &Watch, window: Window, report: &Report) -> Result<()> {
    output::line("watch", &Line { window, ends: Timestamp::now(), report, lacks: watch.lacks() })
}
