//! `pathlab host plan`, `apply` and `undo`: exact commands and their inverse before anything happens, all or nothing, and the way back from the journal.

use std::{ffi::OsStr, path::PathBuf, thread};

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;
use pathlab_canary::steer::Operator;
use pathlab_guard::{
    Changed, Error as GuardError, Guardian, Journal, Leftover, Moment, Undone, privilege::is_root, with_own_sysfs,
};
use pathlab_host::{Audit, Live, Plan, Source, Wish};
use pathlab_record::Run;
use serde::Serialize;
use serde_json::json;
use tracing::warn;

use super::{About, facts};
use crate::{
    Global,
    exit::{Exit, Misuse},
    guardian, output, report, run_directory,
};

/// What our journals are named after.
const VERB: &str = "host";

/// Which changes are meant.
#[derive(Args)]
pub(super) struct Wishes {
    #[command(flatten)]
    about: About,
    /// What this rule finds, by its name or number; several times for several
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// One change, in the words of an audit: `sysctl -w NAME=VALUE`, `echo VALUE > /sys/...`, `ethtool -G|-L|-C|-K|-X|-N ...`, `tc qdisc replace dev IF root KIND`
    #[arg(long, value_name = "COMMAND")]
    change: Vec<String>,
}

#[derive(Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    wishes: Wishes,
    /// A plan that `host plan --json` wrote, instead of a new one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rule", "change"])]
    plan: Option<PathBuf>,
    /// Do it; without this the plan is shown and nothing happens
    #[arg(long)]
    yes: bool,
    /// Run directory for the record of the changes [default: ./runs/<UTC time>-host]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stand still at this moment of the changes (three each): for tests that kill it there
    #[arg(long, hide = true, value_name = "N")]
    fault_hold: Option<usize>,
}

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

impl Wishes {
    fn list(&self) -> Vec<Wish> {
        let rules = self.rule.iter().cloned().map(Wish::Rule);
        rules.chain(self.change.iter().cloned().map(Wish::Command)).collect()
    }

    fn plan(&self) -> Result<Plan> {
        planned(&self.about, &self.list())
    }
}

/// Plans on this host; audits it first, unless every change is named.
pub(super) fn planned(about: &About, wishes: &[Wish]) -> Result<Plan> {
    let audits = wishes.is_empty() || wishes.iter().any(|wish| matches!(wish, Wish::Rule(_)));
    let ports = if audits { about.ports()? } else { Vec::new() };
    let live = Live::begin(&ports);
    let audit = if audits {
        thread::sleep(about.window);
        Audit::new(&live, &ports, &about.expectation())
    } else {
        Audit { entries: Vec::new() }
    };
    Plan::new(&audit, &live as &dyn Source, wishes).map_err(|problem| Misuse(problem).into())
}

/// Runs `work` where `/sys` shows the ports of this network namespace, whoever mounted it; as it is for those who may not mount.
pub(super) fn in_own_sysfs<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if is_root() { with_own_sysfs(|| Ok(work()))? } else { work() }
}

pub(super) fn plan(wishes: &Wishes, global: &Global) -> Result<Exit> {
    let plan = in_own_sysfs(|| wishes.plan())?;
    if global.json {
        output::document(&plan)?;
    } else {
        out!("{}", report::host::plan(&plan));
    }
    Ok(Exit::Done)
}

/// What was done, for a script.
#[derive(Serialize)]
struct Applied {
    name: Option<String>,
    plan: Plan,
    changes: Vec<Made>,
    run: Option<PathBuf>,
    head: Option<String>,
}

/// One change as it came out.
#[derive(Serialize)]
pub(super) struct Made {
    command: String,
    was: String,
    now: Option<String>,
}

impl Made {
    pub(super) fn command(&self) -> &str {
        &self.command
    }

    pub(super) fn of(changed: &Changed) -> Self {
        let command = changed.setting.commands(&changed.wanted).join("; ");
        Self { command, was: changed.was.clone(), now: changed.set.clone() }
    }
}

/// Whose word it is, for the chain.
pub(super) fn operator() -> String {
    Operator::current().to_string()
}

pub(super) fn apply(args: &ApplyArgs, global: &Global) -> Result<Exit> {
    if args.plan.is_none() && args.wishes.list().is_empty() {
        return Err(Misuse(
            "name what to apply: --rule, --change or --plan; `pathlab host plan` shows what there is".into(),
        )
        .into());
    }
    if args.yes && !is_root() {
        bail!("host apply changes settings of this host: run it as root");
    }
    let plan = match &args.plan {
        None => in_own_sysfs(|| args.wishes.plan())?,
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| Misuse(format!("{}: {error}", file.display())))?;
            Plan::from_json(&text).map_err(|problem| Misuse(format!("{}: {problem}", file.display())))?
        }
    };
    if !global.json {
        out!("{}", report::host::plan(&plan));
    }
    // A rule may find what is a person's to do; a change that was asked for by name is done or refused.
    if !args.wishes.change.is_empty()
        && let Some(refused) = plan.refused.iter().find(|refused| !refused.is_so_already())
    {
        bail!("`{}`: {}; nothing was changed", refused.fix.join("; "), refused.because);
    }
    if !args.yes || plan.changes.is_empty() {
        if global.json {
            output::json("host", &Applied { name: None, plan, changes: Vec::new(), run: None, head: None })?;
        } else {
            outln!("{}", if args.yes { "there is nothing to change" } else { "nothing was changed: --yes does it" });
        }
        return Ok(Exit::Done);
    }
    let started = Timestamp::now();
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("host", started));
    let about = Run { options: json!({ "plan": plan }), host: facts(), ..Run::new("host apply", started) };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    let mut moments = 0;
    let watch = |_, _: Moment| {
        if args.fault_hold == Some(moments) {
            eprintln!("held at {moments}");
            loop {
                thread::park();
            }
        }
        moments += 1;
    };
    let (mut held, guardian) = Held::begin()?;
    let name = held.name.clone();
    let made = match held.apply(&plan, watch) {
        Ok(made) => made,
        Err(error) => {
            let undone = held.journal.undo();
            directory.note(
                Timestamp::now(),
                Some(&operator()),
                &format!("apply {name} failed, and was taken back: {error:#}"),
            )?;
            directory.seal(Timestamp::now())?;
            scrap.keep();
            undone.context("the way back is incomplete")?;
            return Err(error.context("nothing is changed: what came before it was taken back"));
        }
    };
    held.journal.keep()?;
    drop(guardian);
    scrap.keep();
    for changed in &made {
        let Made { command, was, now } = Made::of(changed);
        let now = now.unwrap_or_default();
        directory.note(
            Timestamp::now(),
            Some(&operator()),
            &format!("apply {name}: {command}: from `{was}` to `{now}`"),
        )?;
    }
    let head = directory.seal(Timestamp::now())?;
    if global.json {
        let changes = made.iter().map(Made::of).collect();
        let (name, run, head) = (Some(name), Some(path), Some(head.to_string()));
        output::json("host", &Applied { name, plan, changes, run, head })?;
        return Ok(Exit::Done);
    }
    for changed in &made {
        if let Some(another) = changed.made_another() {
            outln!("`{}`: the driver made {another} of it", Made::of(changed).command);
        }
    }
    outln!("changed as {name}, until `pathlab host undo {name}` or a reboot\n{}  sealed {head}", path.display());
    Ok(Exit::Done)
}

/// A journal of ours that a guardian looks after while changes are made.
pub(super) struct Held {
    pub(super) journal: Journal,
    pub(super) name: String,
}

impl Held {
    /// Opens the journal and starts its guardian.
    pub(super) fn begin() -> Result<(Self, Guardian)> {
        let first = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let names = std::iter::once(first.clone()).chain((2..100).map(|number| format!("{first}-{number}")));
        for name in names {
            match Journal::create(VERB, &name) {
                Err(GuardError::JournalExists { .. }) => {}
                journal => {
                    let journal = journal?;
                    let verb = guardian::verb();
                    let verb: Vec<&OsStr> = verb.iter().map(AsRef::as_ref).collect();
                    let guardian = Guardian::spawn(&journal, verb)?;
                    return Ok((Self { journal, name }, guardian));
                }
            }
        }
        bail!("a hundred changes within one second: {first}")
    }

    /// Carries the plan out, after a last look at everything in it.
    pub(super) fn apply(&mut self, plan: &Plan, watch: impl FnMut(usize, Moment) + Send) -> Result<Vec<Changed>> {
        let journal = &mut self.journal;
        in_own_sysfs(|| {
            plan.check().map_err(anyhow::Error::msg)?;
            Ok(plan.apply(journal, watch)?)
        })
    }
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

pub(super) fn undo(args: &UndoArgs, global: &Global) -> Result<Exit> {
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
