//! `pathlab host plan` and `apply`: exact commands and their inverse before anything happens, and then all of them or none.

use std::{ffi::OsStr, path::PathBuf, thread};

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;
use pathlab_canary::steer::Operator;
use pathlab_guard::{Changed, Error as GuardError, Guardian, Journal, Moment, privilege::is_root, with_own_sysfs};
use pathlab_host::{Audit, Live, Plan, Source, Wish};
use pathlab_record::Run;
use serde::Serialize;
use serde_json::json;

use super::{About, facts};
use crate::{
    Global,
    exit::{Exit, Misuse},
    guardian, output, report, run_directory,
};

/// What our journals are named after.
pub(super) const VERB: &str = "host";

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

/// Changes that are meant, or the plan that was made of them before.
#[derive(Args)]
pub(super) struct Chosen {
    #[command(flatten)]
    wishes: Wishes,
    /// A plan that `host plan --json` wrote, instead of a new one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rule", "change"])]
    plan: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    chosen: Chosen,
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

impl Wishes {
    fn list(&self) -> Vec<Wish> {
        let rules = self.rule.iter().cloned().map(Wish::Rule);
        rules.chain(self.change.iter().cloned().map(Wish::Command)).collect()
    }

    fn plan(&self) -> Result<Plan> {
        planned(&self.about, &self.list())
    }
}

impl Chosen {
    /// Whether no change and no plan was named.
    pub(super) fn is_empty(&self) -> bool {
        self.plan.is_none() && self.wishes.rule.is_empty() && self.wishes.change.is_empty()
    }

    /// Whether this change was asked for in these words.
    pub(super) fn has(&self, change: &str) -> bool {
        self.wishes.change.iter().any(|of| of == change)
    }

    /// The plan that was given, or a new one of all changes but that of these words.
    pub(super) fn plan_without(&self, change: Option<&str>) -> Result<Plan> {
        let Some(file) = &self.plan else {
            let mut wishes = self.wishes.list();
            wishes.retain(|wish| !matches!(wish, Wish::Command(words) if Some(words.as_str()) == change));
            // Without a wish, a plan is of all that an audit finds.
            return if wishes.is_empty() {
                Ok(Plan::nothing())
            } else {
                in_own_sysfs(|| planned(&self.wishes.about, &wishes))
            };
        };
        let text = std::fs::read_to_string(file).map_err(|error| Misuse(format!("{}: {error}", file.display())))?;
        Plan::from_json(&text).map_err(|problem| Misuse(format!("{}: {problem}", file.display())).into())
    }
}

/// Plans on this host; audits it first, unless every change is named.
fn planned(about: &About, wishes: &[Wish]) -> Result<Plan> {
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
    if args.chosen.is_empty() {
        return Err(Misuse(
            "name what to apply: --rule, --change or --plan; `pathlab host plan` shows what there is".into(),
        )
        .into());
    }
    if args.yes && !is_root() {
        bail!("host apply changes settings of this host: run it as root");
    }
    let plan = args.chosen.plan_without(None)?;
    if !global.json {
        out!("{}", report::host::plan(&plan));
    }
    // A rule may find what is a person's to do; a change that was asked for by name is done or refused.
    if !args.chosen.wishes.change.is_empty()
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
