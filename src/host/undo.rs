//! `pathlab host undo`: the way back of what was applied, from the journals, the newest first.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;
use pathlab_guard::{Leftover, Undone, privilege::is_root};
use pathlab_record::Run;
use serde::Serialize;
use serde_json::json;
use tracing::warn;

use super::{
    facts,
    plan::{VERB, operator},
};
use crate::{
    Global,
    exit::{Exit, Misuse},
    output, run_directory,
};

#[derive(Args)]
pub(super) struct UndoArgs {
    /// The change to take back, as `apply` named it; all, the newest first, if not given
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Show what would be taken back, and change nothing
    #[arg(long)]
    list: bool,
    /// Take back also what somebody else has set to another value since
    #[arg(long)]
    force: bool,
    /// Run directory for the record of the changes [default: ./runs/<UTC time>-host]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One journal, taken back.
#[derive(Serialize)]
struct TakenBack {
    name: String,
    created: String,
    /// Whether the host was started anew since, so that the kernel had forgotten everything by itself.
    another_boot: bool,
    removed: Vec<String>,
    gone: Vec<String>,
    left: Vec<Left>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Left {
    change: String,
    now: String,
}

pub(super) fn run(args: &UndoArgs, global: &Global) -> Result<Exit> {
    if !is_root() {
        bail!("host undo reads its journals and changes settings of this host: run it as root");
    }
    let mut journals: Vec<Leftover> = pathlab_guard::leftovers();
    journals.retain(|journal| journal.verb == VERB && args.name.as_ref().is_none_or(|name| *name == journal.id));
    journals.sort_by_key(|journal| std::cmp::Reverse((journal.created, journal.id.clone())));
    if let (Some(name), true) = (&args.name, journals.is_empty()) {
        return Err(
            Misuse(format!("no change named {name}: `pathlab host undo --list` shows those that are there")).into()
        );
    }
    if args.list {
        return list(&journals, global);
    }
    let started = Timestamp::now();
    let mut done = Vec::new();
    for journal in journals {
        let mut taken = TakenBack {
            name: journal.id.clone(),
            created: journal.created.to_string(),
            another_boot: journal.is_of_another_boot(),
            removed: Vec::new(),
            gone: Vec::new(),
            left: Vec::new(),
            error: None,
        };
        match if args.force { journal.undo_by_force() } else { journal.undo() } {
            Ok(Undone { removed, gone, left, .. }) => {
                taken.removed = removed.iter().map(ToString::to_string).collect();
                taken.gone = gone.iter().map(ToString::to_string).collect();
                taken.left = left.into_iter().map(|(object, now)| Left { change: object.to_string(), now }).collect();
            }
            Err(error) => taken.error = Some(error.to_string()),
        }
        done.push(taken);
    }
    if !done.is_empty() {
        // The way back must not hang on a place to write to.
        if let Err(error) = note(args, &done, started) {
            warn!("what was taken back cannot be written down: {error:#}");
        }
    }
    let whole = done.iter().all(|taken| taken.error.is_none() && taken.left.is_empty());
    if global.json {
        output::json("host", &json!({ "undone": done }))?;
    } else {
        tell(&done);
    }
    Ok(if whole { Exit::Done } else { Exit::Failed })
}

fn list(journals: &[Leftover], global: &Global) -> Result<Exit> {
    let changes = |journal: &Leftover| journal.objects.iter().map(ToString::to_string).collect::<Vec<_>>();
    if global.json {
        let listed = journals.iter().map(|journal| {
            json!({ "name": journal.id, "created": journal.created.to_string(), "changes": changes(journal) })
        });
        output::json("host", &json!({ "changed": listed.collect::<Vec<_>>() }))?;
        return Ok(Exit::Done);
    }
    if journals.is_empty() {
        outln!("nothing is changed by `pathlab host apply`");
    }
    for journal in journals {
        outln!("{}\n  {}", journal.id, changes(journal).join("\n  "));
    }
    Ok(Exit::Done)
}

fn note(args: &UndoArgs, done: &[TakenBack], started: Timestamp) -> Result<()> {
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("host", started));
    let options = json!({ "name": args.name, "force": args.force });
    let about = Run { options, host: facts(), ..Run::new("host undo", started) };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    for TakenBack { name, removed, gone, left, error, .. } in done {
        let mut note = |what: &str, change: &str| {
            directory.note(Timestamp::now(), Some(&operator()), &format!("undo {name}: {what}: {change}"))
        };
        removed.iter().try_for_each(|change| note("taken back", change))?;
        gone.iter().try_for_each(|change| note("gone before", change))?;
        left.iter().try_for_each(|left| note("left, somebody else has set it since", &left.change))?;
        error.iter().try_for_each(|error| note("failed", error))?;
    }
    directory.seal(Timestamp::now())?;
    scrap.keep();
    Ok(())
}

fn tell(done: &[TakenBack]) {
    if done.is_empty() {
        outln!("nothing is changed by `pathlab host apply`");
    }
    for TakenBack { name, another_boot, removed, gone, left, error, .. } in done {
        let how = if *another_boot { ": the host was started anew since, and has forgotten all of it" } else { "" };
        outln!("{name}{how}");
        removed.iter().for_each(|change| outln!("  taken back  {change}"));
        gone.iter().for_each(|change| outln!("  gone        {change}"));
        for Left { change, now } in left {
            outln!("  left        {change}: somebody has set it since, it is {now}; --force takes it back");
        }
        error.iter().for_each(|error| outln!("  failed      {error}"));
    }
}
