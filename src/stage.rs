//! Verbs of this program inside the nodes of a lab, for what plays a whole story by them.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use pathlab_netlab::{
    lab::{Lab, Running},
    scenario::Session,
};
use serde_json::{Value, json};

use crate::{readiness::Readiness, stop::Interrupt};

/// How long a verb may take until it serves.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what was started.
const LOOK: Duration = Duration::from_millis(20);

/// Where the verbs run, and the directory for what they leave.
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a mut Lab,
    pub(crate) out: &'a Path,
    pub(crate) stop: &'a Interrupt,
}

impl Stage<'_> {
    /// A file of the directory.
    pub(crate) fn path(&self, name: &str) -> String {
        self.out.join(name).display().to_string()
    }

    /// This program in a node, quiet but for warnings.
    pub(crate) fn command(&self, node: &str) -> Result<Command> {
        let mut command = self.lab.command(node, std::env::current_exe()?)?;
        command.env("PATHLAB_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    /// Starts a verb that serves, and waits until it does.
    pub(crate) fn serve(&mut self, node: &str, verb: &str, args: &[String]) -> Result<Running> {
        let readiness = Readiness::listen(&self.out.join(".ready"))?;
        let mut command = self.command(node)?;
        command.args(verb.split(' ')).args(args).env("NOTIFY_SOCKET", readiness.path());
        let mut running = self.lab.spawn(command)?;
        let gone = || !matches!(running.child().try_wait(), Ok(None));
        if !readiness.wait(Instant::now() + PATIENCE, gone)? {
            bail!("pathlab {verb} did not come up in {node}; its own words stand above");
        }
        Ok(running)
    }

    /// Runs a verb to its end.
    pub(crate) fn verb(&mut self, node: &str, args: &[&str]) -> Result<()> {
        let mut command = self.command(node)?;
        command.args(args);
        let mut running = self.lab.spawn(command)?;
        loop {
            self.check()?;
            match running.child().try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => bail!("pathlab {} failed in {node}; its own words stand above", args.join(" ")),
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// Fails once the user wants no more.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.flag().load(Ordering::Relaxed) {
            bail!("interrupted; everything was taken down");
        }
        Ok(())
    }
}

/// The sessions file of a probe, with the labels of each.
pub(crate) fn clients(sessions: &[Session], labels: impl Fn(usize, &Session) -> Value) -> String {
    let line = |(number, session): (usize, &Session)| {
        let labels = labels(number, session);
        json!({ "source": session.source.to_string(), "target": session.target.to_string(), "labels": labels })
            .to_string()
            + "\n"
    };
    sessions.iter().enumerate().map(line).collect()
}
