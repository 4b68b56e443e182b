//! How the steering stands, and every session back to control by `pathlab canary rollback`: told as it was found, whoever died or hangs.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Result, bail};
use pathlab_canary::{
    Experiment,
    steer::{self, Observed, RolledBack, Status},
};
use pathlab_guard::Leftover;
use serde_json::json;

use super::{answer, options};
use crate::{
    Global,
    exit::Exit,
    output,
    report::{lasting, spaced},
};

/// What a steerer left that died with its guardian.
struct Left {
    experiment: String,
    /// The network namespace, where it is another one.
    place: Option<String>,
    objects: Vec<String>,
}

impl Left {
    /// Of every experiment on this host.
    fn all() -> Vec<Self> {
        let steered = |journal: &Leftover| journal.verb == steer::VERB;
        let left = |journal: Leftover| Self {
            place: journal.elsewhere(),
            objects: journal.objects.iter().map(ToString::to_string).collect(),
            experiment: journal.id,
        };
        pathlab_guard::leftovers().into_iter().filter(steered).map(left).collect()
    }

    fn place(&self) -> String {
        self.place.as_ref().map(|place| format!(" in {place}")).unwrap_or_default()
    }
}

/// What was left of other experiments: none of this one's business, but somebody has to know.
fn beside(name: &str, left: &[Left]) -> String {
    let others = left.iter().filter(|left| left.experiment != name);
    let line = |of: &Left| {
        format!(
            "\nof another experiment, {}: {} left{} by a steerer that died, inert, gone with `canary rollback --name {}`",
            of.experiment,
            objects(of.objects.len()),
            of.place(),
            of.experiment
        )
    };
    others.map(line).collect()
}

fn objects(count: usize) -> String {
    if count == 1 { "1 object".to_owned() } else { format!("{count} objects") }
}

/// Asks the steerer, or the kernel and the journals where it cannot be asked.
pub(super) fn told(experiment: &Experiment, global: &Global) -> Result<Exit> {
    let name = &experiment.experiment.name;
    let left = Left::all();
    let leftovers: BTreeMap<_, _> = left.iter().map(|left| (&left.experiment, &left.objects)).collect();
    let others = beside(name, &left);
    match steer::status(name, &options()) {
        Ok(status) => {
            let document = json!({ "status": status, "leftovers": leftovers });
            answer(global, &document, format_args!("{}{others}", standing(name, &status)))?;
            Ok(Exit::Done)
        }
        Err(steer::Error::Silent { pid, .. }) => {
            let seen = steer::observe().ok().flatten().filter(|seen| seen.experiment == *name);
            let document = json!({ "silent": pid, "observed": seen, "leftovers": leftovers });
            answer(global, &document, format_args!("{}{others}", silent(name, pid, seen.as_ref())))?;
            Ok(Exit::Failed)
        }
        Err(steer::Error::NotRunning { .. }) if let Some(promotion) = steer::promotion(name, &options())? => {
            let objects: Vec<String> = promotion.objects.iter().map(ToString::to_string).collect();
            let text = objects.join("\n  ");
            answer(
                global,
                &json!({ "promoted": objects, "leftovers": leftovers }),
                format_args!("{name}: promoted, every client by the canary path\n  {text}{others}"),
            )?;
            Ok(Exit::Done)
        }
        Err(steer::Error::NotRunning { .. }) if !left.is_empty() => {
            let own = left.iter().filter(|left| left.experiment == *name);
            let text: String = own
                .map(|left| {
                    format!(
                        "\n{name}: left by a steerer that died, inert{}, gone with `canary rollback`:\n  {}",
                        left.place(),
                        left.objects.join("\n  ")
                    )
                })
                .collect();
            let document = json!({ "leftovers": leftovers });
            answer(global, &document, format_args!("{name}: not running{text}{others}"))?;
            Ok(Exit::Failed)
        }
        Err(error) => Err(error.into()),
    }
}

fn standing(name: &str, status: &Status) -> String {
    let seen = &status.observed;
    let share = seen.share.map_or_else(|| "no share".to_owned(), spaced);
    let guardian = match status.guardian {
        Some(guardian) => format!("guardian {guardian}"),
        None => "its guardian died: should it be killed too, `canary rollback` has to take the rest back".to_owned(),
    };
    let mut text = format!("{name}: {share} on the canary, process {}, {guardian}\n", status.pid);
    let _ = match (&status.halted, seen.lease_left) {
        (Some(halt), _) => writeln!(text, "halted, every session on control: {halt}; roll back, then start again"),
        (None, Some(left)) => writeln!(text, "lease {}, {} left", lasting(status.lease), lasting(left)),
        (None, None) => writeln!(text, "the gate is shut: every session on control"),
    };
    let packets = &seen.packets;
    let _ = writeln!(
        text,
        "packets: control {}, canary {}, held on control {}",
        packets.control, packets.canary, packets.held
    );
    let _ = match (&status.departures, &status.unproven) {
        (Some(left), _) => writeln!(
            text,
            "left by their own path: control {}, canary {}; astray: control {}, canary {}",
            left.control, left.canary, left.control_astray, left.canary_astray
        ),
        (None, reason) => {
            writeln!(text, "by which path packets leave is unproven: {}", reason.as_deref().unwrap_or_default())
        }
    };
    let _ = write!(text, "canary sessions in the last minute: {}", seen.canary_sessions);
    text
}

fn silent(name: &str, pid: u32, seen: Option<&Observed>) -> String {
    let lease = match seen.map(|seen| seen.lease_left) {
        Some(Some(left)) => format!("its lease runs out in {}, then sessions are on control", lasting(left)),
        Some(None) => "its lease has run out, every session is on control".to_owned(),
        None => "nothing steers in this network namespace, every session is on control".to_owned(),
    };
    format!("{name}: the steerer (pid {pid}) does not answer; {lease}; `canary rollback` kills it")
}

/// Takes back an experiment that is known by its name alone.
pub(super) fn rollback(name: &str, global: &Global) -> Result<()> {
    let done = match steer::rollback(name, &options()) {
        Err(error @ steer::Error::NotRunning { .. }) => {
            let others = beside(name, &Left::all());
            if others.is_empty() {
                return Err(error.into());
            }
            bail!("no steerer of `{name}` is running on this host;{}", others.replace('\n', " "));
        }
        other => other?,
    };
    answer_rollback(name, &done, global)
}

fn answer_rollback(name: &str, done: &RolledBack, global: &Global) -> Result<()> {
    if global.json {
        return output::json("canary", done);
    }
    output::text(format_args!("{}", taken_back(name, done)));
    Ok(())
}

/// What a rollback found and did.
fn taken_back(name: &str, done: &RolledBack) -> String {
    let steerer = done.steerer.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let mut text = String::new();
    if let Some(gate) = done.gate {
        let _ = writeln!(text, "{name}: every session on control after {}", lasting(gate));
    } else if done.killed {
        let run = match &done.unsealed {
            Some(run) => format!("its run {} is unsealed", run.display()),
            None => "its run is unsealed".to_owned(),
        };
        let _ = writeln!(text, "{name}: the steerer{steerer} hung and was killed; every session is on control; {run}");
    } else if done.steerer.is_some() {
        let _ = writeln!(text, "{name}: its steerer{steerer} had died; every session was on control");
    }
    if done.promotion {
        let _ = writeln!(text, "{name}: the promotion ended: clients are back on today's path");
    }
    if done.removed.is_empty() {
        let _ = writeln!(text, "  nothing was left to remove: the guardian was first, or it was gone already");
    }
    done.removed.iter().for_each(|removed| {
        let _ = writeln!(text, "  removed {removed}");
    });
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rollback_tells_what_it_found() {
        let removed = vec!["file /run/pathlab/x.sock".to_owned()];
        let tells = |done: RolledBack| taken_back("x", &done);
        let gate = Some(Duration::from_nanos(44_786));
        assert_eq!(
            tells(RolledBack { gate, removed: removed.clone(), ..RolledBack::default() }),
            "x: every session on control after 44.8 µs\n  removed file /run/pathlab/x.sock\n"
        );
        let hung =
            RolledBack { killed: true, steerer: Some(7), unsealed: Some("/runs/a".into()), ..RolledBack::default() };
        assert_eq!(
            tells(hung).lines().next(),
            Some(
                "x: the steerer (pid 7) hung and was killed; every session is on control; its run /runs/a is unsealed"
            )
        );
        let dead = RolledBack { steerer: Some(7), removed: removed.clone(), ..RolledBack::default() };
        assert!(tells(dead).starts_with("x: its steerer (pid 7) had died; every session was on control\n"));
        let promotion = RolledBack { promotion: true, removed, ..RolledBack::default() };
        let text = tells(promotion);
        assert!(text.starts_with("x: the promotion ended: clients are back on today's path\n"), "{text}");
        assert!(!text.contains("steerer") && !text.contains("control"), "{text}");
    }

    #[test]
    fn a_hung_steerer_and_the_leftovers_of_others_are_told_as_such() {
        assert_eq!(
            silent("x", 7, None),
            "x: the steerer (pid 7) does not answer; nothing steers in this network namespace, every session is on control; `canary rollback` kills it"
        );
        let left = |experiment: &str, place: Option<&str>| Left {
            experiment: experiment.to_owned(),
            place: place.map(str::to_owned),
            objects: vec!["file /a".to_owned(), "file /b".to_owned()],
        };
        let left = [left("mine", None), left("game", Some("network namespace eu"))];
        assert_eq!(
            beside("mine", &left),
            "\nof another experiment, game: 2 objects left in network namespace eu by a steerer that died, inert, gone with `canary rollback --name game`"
        );
    }
}
