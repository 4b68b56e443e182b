//! `pathlab demo`: the whole story in network namespaces, told on one screen.
//!
//! Lab, reflector, A/A prelude, steering, two evenings, verdict: every part is the verb that production uses, as a process of its own
//! in its node's namespace. What is compressed is time alone, an evening to seconds.

mod play;
mod screen;
mod split;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::{Global, exit::Exit, output, run_directory, stop::Interrupt};

/// Play the main job in namespaces: lab, reflector, probe, canary, verdict; the exit code is the verdict's, or 5 where the machine was too busy
#[derive(Args)]
pub(crate) struct Demo {
    /// Congest the canary's transit instead: ends in RollBack
    #[arg(long, conflicts_with = "same")]
    worse: bool,
    /// Leave both transits clear: ends in Hold
    #[arg(long)]
    same: bool,
    /// Seed of the lab's load and of the assignment [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Run directory [default: ./runs/<UTC time>-demo]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Demo {
    fn variant(&self) -> Option<&'static str> {
        match (self.worse, self.same) {
            (true, _) => Some("worse"),
            (_, true) => Some("same"),
            _ => None,
        }
    }
}

/// Plays it and prints the screen.
pub(crate) fn run(args: &Demo, global: &Global) -> Result<Exit> {
    if !pathlab_guard::privilege::is_root() {
        bail!("the demo makes network namespaces: run it as root, or with sudo ./scripts/demo");
    }
    let stop = Interrupt::on_signals()?;
    let started = Timestamp::now();
    let out = args.out.clone().unwrap_or_else(|| run_directory::default_path("demo", started));
    let story = play::play(args.variant(), args.seed, &out, started, &stop)?;
    if global.json {
        let document = json!({ "run": out, "head": story.head.to_string(), "report": story.report, "verdict": story.verdict, "splits": story.splits, "objections": story.objections });
        output::json("demo", &document)?;
    } else {
        output::prose(&screen::text(&story, &out));
    }
    Ok(if story.objections.is_empty() { story.verdict.decision.into() } else { Exit::Invalid })
}
