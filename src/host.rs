//! `pathlab host`: is this host, or one that somebody captured, tuned for latency?

mod ab;
mod facts;
mod plan;
mod undo;
mod watch;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use pathlab_host::{Audit, Capture, Cpus, Expectation, Live, Tree};
use pathlab_xdp::nic;
use serde::Serialize;

pub(crate) use self::facts::{clock, facts};
use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    output, report,
};

/// Find out what on this host makes packets wait, change it, and take it back
#[derive(Args)]
pub(crate) struct HostArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Judge interrupts, queues, rings, processors and clock by rules that name their source; changes nothing
    Audit {
        #[command(flatten)]
        about: About,
        /// Audit a capture of another host instead of this one
        #[arg(long, value_name = "CAPTURE", conflicts_with = "window")]
        root: Option<PathBuf>,
        /// Each rule whole: what was read and from where, what would be good, and who says so
        #[arg(long)]
        explain: bool,
    },
    /// Write what an audit reads as a tree of plain files, for somebody else to audit
    Capture {
        #[command(flatten)]
        about: About,
        /// The folder to make
        #[arg(value_name = "CAPTURE")]
        to: PathBuf,
    },
    /// Show what would be changed, as exact commands with their inverse, and what cannot be changed and why; changes nothing
    Plan(plan::Wishes),
    /// Change it: all of it or nothing, noted before it is done, kept until it is taken back
    Apply(plan::ApplyArgs),
    /// Take back what `apply` has changed, to the octet
    Undo(undo::UndoArgs),
    /// Make a change and take it back over many short blocks while a probe measures; keep it where it shortens the round trip
    Ab(Box<ab::AbArgs>),
    /// Count in the kernel, while the host works, what loses packets and makes them wait
    Watch(watch::WatchArgs),
}

#[derive(Args)]
struct About {
    /// The port; all that have a device behind them if not given
    #[arg(long, value_name = "IF")]
    iface: Vec<String>,
    /// Largest burst that a ring has to hold, in packets
    #[arg(long, value_name = "PACKETS")]
    burst: Option<u32>,
    /// Longest that moderation or a full ring may hold a packet
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = duration::parse)]
    budget: Duration,
    /// CPUs on which the service runs, as `0-3,8`
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    cpus: Option<Cpus>,
    /// Time between the two readings of the counters
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    window: Duration,
}

fn cpus(text: &str) -> Result<Cpus, String> {
    Cpus::list(text)
        .filter(|cpus| !cpus.is_empty())
        .ok_or_else(|| format!("`{text}` is no list of CPUs such as `0-3,8`"))
}

impl About {
    fn expectation(&self) -> Expectation {
        let budget_us = u32::try_from(self.budget.as_micros()).unwrap_or(u32::MAX);
        Expectation { burst: self.burst, budget_us, cpus: self.cpus.clone() }
    }

    /// The ports of this host that are meant, all of which exist.
    fn ports(&self) -> Result<Vec<String>> {
        let known = |name: &&String| PathBuf::from(format!("/sys/class/net/{name}/ifindex")).exists();
        if let Some(unknown) = self.iface.iter().find(|name| !known(name)) {
            return Err(Misuse(format!("interface {unknown}: no such interface; see `ip link`")).into());
        }
        if !self.iface.is_empty() {
            return Ok(self.iface.clone());
        }
        let device = |name: &String| PathBuf::from(format!("/sys/class/net/{name}/device")).exists();
        let real: Vec<String> = nic::interfaces()?.into_iter().filter(device).collect();
        if real.is_empty() {
            return Err(Misuse("no port of this host has a device behind it; name one with --iface".into()).into());
        }
        Ok(real)
    }
}

#[derive(Serialize)]
struct Captured {
    capture: PathBuf,
    files: usize,
    ports: Vec<String>,
}

/// Runs the action.
pub(crate) fn run(args: HostArgs, global: &Global) -> Result<Exit> {
    match args.action {
        Action::Watch(args) => return watch::watch(&args, global),
        Action::Audit { about, root: Some(root), explain } => {
            if !root.is_dir() {
                let what = if root.exists() { "is no folder" } else { "does not exist" };
                return Err(Misuse(format!(
                    "{} {what}: --root names one that `host capture` or scripts/provider-pack made",
                    root.display()
                ))
                .into());
            }
            let capture = Capture::open(&root).map_err(|error| Misuse(error.to_string()))?;
            let mut ports = capture.ports;
            if let Some(unknown) = about.iface.iter().find(|name| !ports.contains(name)) {
                return Err(Misuse(format!("{unknown} is not in the capture; it has {}", ports.join(", "))).into());
            }
            if !about.iface.is_empty() {
                ports = about.iface.clone();
            }
            tell(&Audit::new(&Tree::new(root), &ports, &about.expectation()), explain, global)?;
        }
        Action::Plan(wishes) => return plan::plan(&wishes, global),
        Action::Apply(args) => return plan::apply(&args, global),
        Action::Undo(args) => return undo::run(&args, global),
        Action::Ab(args) => return ab::run(&args, global),
        Action::Audit { about, root: None, explain } => {
            let ports = about.ports()?;
            let live = Live::begin(&ports);
            thread::sleep(about.window);
            tell(&Audit::new(&live, &ports, &about.expectation()), explain, global)?;
        }
        Action::Capture { about, to } => {
            if to.exists() {
                return Err(Misuse(format!("{} exists: name a new folder, which will be made", to.display())).into());
            }
            let ports = about.ports()?;
            let live = Live::begin(&ports);
            thread::sleep(about.window);
            let window_ms = u64::try_from(about.window.as_millis()).unwrap_or(u64::MAX);
            let (_, files) = Capture::new(ports.clone(), window_ms)
                .write(live, &about.expectation(), &to)
                .with_context(|| format!("write the capture {}", to.display()))?;
            if global.json {
                output::json("host", &Captured { capture: to, files, ports })?;
            } else {
                outln!(
                    "{}: {files} files of {}\naudit it anywhere: pathlab host audit --root {0}",
                    to.display(),
                    ports.join(", ")
                );
            }
        }
    }
    Ok(Exit::Done)
}

fn tell(audit: &Audit, explain: bool, global: &Global) -> Result<()> {
    if global.json {
        return output::json("host", audit);
    }
    out!("{}", report::host::text(audit, explain));
    Ok(())
}
