//! `pathlab canary start`: registers the plan, holds the steering until it is told to stop, and writes down every change of it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use pathlab_canary::{
    Experiment,
    steer::{self, Change, Controller, Event, Operator, Plan, TakenBack},
};
use pathlab_record::{Digest, Head, Run, RunDirectory};
use pathlab_xdp::pacing::Claim;
use serde_json::json;
use tracing::{error, info, warn};

use super::{answer, options, seed, write_down};
use crate::{
    Global,
    exit::Misuse,
    host, readiness,
    report::{lasting, spaced},
    run_directory,
};

/// SIGINT and SIGTERM end the steering, whoever sends them.
pub(super) async fn signalled() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ctrl_c = tokio::signal::ctrl_c() => ctrl_c,
        _ = terminate.recv() => Ok(()),
    }
}

/// Steers until Ctrl-C, SIGTERM or a rollback.
pub(super) fn start(experiment: &Experiment, out: Option<PathBuf>, global: &Global) -> Result<()> {
    if !pathlab_guard::privilege::is_root() {
        bail!("canary start changes nftables, rules and routes: run it as root");
    }
    let seed = seed(experiment)?;
    let plan = Plan::new(experiment, seed).map_err(Misuse::of)?;
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("canary", started));
    let disclosure = Disclosure::new(experiment, seed)?;
    let about = Run {
        options: json!({ "experiment": experiment, "seed": disclosure.at_start(), "plan": plan.to_string() }),
        host: host::facts(),
        ..Run::new("canary start", started)
    };
    // Before all that is not real time: on a host that is busy enough a lease runs out with nobody at fault.
    let claim = Claim::scheduling();
    if let (scheduler, Some(why)) = claim.scheduler() {
        warn!("renewing the lease in {scheduler}: {why}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = signalled();
        let (directory, scrap) = run_directory::create(&path, &about)?;
        let mut audit = Audit(directory);
        // Before a packet is steered, so that no data of the experiment can be older; one that `canary register` sealed earlier counts too.
        let registered = path.join("plan");
        let (registration, sealed) = write_down(experiment, &registered, started)?;
        let plan_sha256 = registration.plan_sha256;
        let noted = format!("the plan is registered: {sealed}");
        audit.0.note(Timestamp::now(), Some("canary register"), &noted)?;
        let controller = Controller::start(experiment, seed, &options()).map_err(|error| match error {
            error @ (steer::Error::Config { .. } | steer::Error::AboveCap { .. } | steer::Error::NoDevice { .. }) => {
                Misuse::of(error)
            }
            error => error.into(),
        })?;
        scrap.keep();
        let name = &experiment.experiment.name;
        info!("{name}: {} of the sessions leave by the canary path", spaced(experiment.experiment.share));
        info!("plan {plan_sha256} registered: give {} to `canary judge` beside the data", registered.display());
        readiness::announce();
        let ended = controller
            .run(
                async {
                    if let Err(error) = stop.await {
                        error!("cannot listen for signals, so the steering ends: {error}");
                    }
                },
                |event| match event {
                    Event::Alive => readiness::alive(),
                    Event::Changed(change) => audit.write(&change),
                },
            )
            .await;
        let head = audit.close(&disclosure)?;
        let ended = ended?;
        let TakenBack { gate, undone } = ended.taken_back;
        let removed: Vec<String> = undone.removed.iter().map(ToString::to_string).collect();
        let document = json!({
            "name": name, "by_command": ended.by_command, "gate_s": gate.as_secs_f64(), "removed": removed,
            "run": path, "head": head.to_string(), "plan": registered, "plan_sha256": plan_sha256,
        });
        let (path, registered) = (path.display(), registered.display());
        answer(
            global,
            &document,
            format_args!(
                "{name}: every session on control after {}, the host is as it was\n{registered}  plan {plan_sha256}, for the judge\n{path}  sealed {head}",
                lasting(gate)
            ),
        )
    })
}

/// The chain of changes in the run directory.
pub(super) struct Audit(pub(super) RunDirectory);

impl Audit {
    pub(super) fn write(&mut self, change: &Change) {
        // What an operator began here was asked for by nobody else.
        let operator = change.operator.clone().or_else(|| (change.action == "start").then(Operator::current));
        let actor = operator.map(|operator| operator.to_string());
        if let Err(error) = self.0.note(Timestamp::now(), actor.as_deref(), &change.to_string()) {
            error!("{change}: cannot be written down: {error}");
        }
    }

    fn close(mut self, disclosure: &Disclosure) -> Result<Head> {
        if let Some(told) = disclosure.at_end() {
            self.0.note(Timestamp::now(), None, &told)?;
        }
        Ok(self.0.seal(Timestamp::now())?)
    }
}

/// What is told of the seed, and when.
enum Disclosure {
    Open {
        seed: u32,
    },
    /// Until the end there is a promise alone: whoever watches the experiment cannot pick sessions by their arm, and
    /// whoever runs it cannot exchange the seed afterwards. The seed alone has too few values to be hidden by a hash.
    AtEnd {
        seed: u32,
        nonce: String,
    },
}

impl Disclosure {
    fn new(experiment: &Experiment, seed: u32) -> Result<Self> {
        if !experiment.experiment.seed_is_hidden() {
            return Ok(Self::Open { seed });
        }
        let mut nonce = [0; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut nonce))
            .context("/dev/urandom: cannot be read")?;
        Ok(Self::AtEnd { seed, nonce: Digest::of(&nonce).to_string() })
    }

    fn at_start(&self) -> serde_json::Value {
        match self {
            Self::Open { seed } => json!({ "seed": format!("{seed:#010x}") }),
            Self::AtEnd { seed, nonce } => {
                json!({ "sha256_of_nonce_and_seed": Digest::of(format!("{nonce} {seed:#010x}").as_bytes()) })
            }
        }
    }

    fn at_end(&self) -> Option<String> {
        match self {
            Self::Open { .. } => None,
            Self::AtEnd { seed, nonce } => Some(format!("disclose: nonce and seed `{nonce} {seed:#010x}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_seed_is_promised_first_and_told_at_the_end() {
        let hidden = Disclosure::AtEnd { seed: 0x5eed, nonce: "abc".to_owned() };
        let promise = hidden.at_start().to_string();
        assert!(!promise.contains("5eed"), "{promise}");
        let told = hidden.at_end().unwrap();
        let text = told.split('`').nth(1).unwrap();
        assert!(promise.contains(&Digest::of(text.as_bytes()).to_string()));
        assert!(Disclosure::Open { seed: 0x5eed }.at_start().to_string().contains("0x00005eed"));
    }
}
