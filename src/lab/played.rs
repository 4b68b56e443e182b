//! A scenario played once, whichever way: what was asked for, what came of it, and which sessions were answered by which arm.

use anyhow::Result;
use pathlab_canary::{KeyFrom, Share, bucket};
use pathlab_netlab::{
    engine::{Outcome, discrete, kernel::ShaperGrade, wire::WireGrade},
    expectation::Figures,
    scenario::{Scenario, Session},
};
use pathlab_record::{Arm, SessionKey};

use super::reflecting::Reflecting;
use crate::exit::Misuse;

/// What is to be played.
pub(super) struct Play<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) seed: u64,
    /// Of the sessions, that are answered by the canary arm.
    pub(super) share: Option<Share>,
    /// The reflector of engines with real packets, where it is compared. Round trips are then whole, with what the reflector takes, and base packets.
    pub(super) reflecting: Option<Reflecting>,
}

/// What came of it.
pub(crate) struct Played {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) sessions: Vec<Session>,
    pub(crate) outcome: Outcome,
    pub(crate) grade: Grade,
    share: Option<Share>,
}

/// Who played it, and how well.
pub(crate) struct Grade {
    /// `virtual`, `wire`, or `kernel` where the wire engine had no part in it.
    pub(crate) engine: &'static str,
    /// Each link with who played it, where packets were real.
    pub(crate) links: Vec<String>,
    /// What the wire engine says of itself.
    pub(crate) wire: Option<WireGrade>,
    /// How the kernel's shapers kept their rates.
    pub(crate) shapers: Vec<ShaperGrade>,
    /// Why the run does not stand; nothing where it does.
    pub(crate) objections: Vec<String>,
}

impl Play<'_> {
    /// Refuses what has nothing to play.
    pub(super) fn check(&self) -> Result<()> {
        let Scenario { name, probe, windows, arms, .. } = self.scenario;
        if probe.is_none() || windows.is_empty() {
            return Err(Misuse(format!("scenario {name} has no [probe] or no [[window]]: nothing to run")).into());
        }
        if self.share.is_some() && arms.is_none() {
            return Err(Misuse(format!("scenario {name} has no [arms]: leave out --share")).into());
        }
        Ok(())
    }

    /// By the virtual engine.
    pub(super) fn virtually(&self) -> Played {
        let Self { scenario, seed, share, .. } = *self;
        let outcome = discrete::play(scenario, seed, |session| arm(seed, share, session) == Arm::Canary);
        let (links, shapers, objections) = (Vec::new(), Vec::new(), Vec::new());
        let grade = Grade { engine: "virtual", links, wire: None, shapers, objections };
        Played::new(self, scenario.sessions(seed), outcome, grade)
    }
}

impl Played {
    pub(super) fn new(play: &Play<'_>, sessions: Vec<Session>, outcome: Outcome, grade: Grade) -> Self {
        let Play { scenario, seed, share, .. } = *play;
        Self { scenario: scenario.clone(), seed, sessions, outcome, grade, share }
    }

    /// By which arm a session was answered.
    pub(crate) fn arm(&self, session: &Session) -> Arm {
        arm(self.seed, self.share, session)
    }

    /// Its figures.
    pub(crate) fn figures(&self) -> Figures<'_> {
        let canary = |session: &Session| self.arm(session) == Arm::Canary;
        Figures::new(&self.scenario, &self.outcome, &self.sessions, canary)
    }
}

fn arm(seed: u64, share: Option<Share>, session: &Session) -> Arm {
    let Some(share) = share else { return Arm::Control };
    // a kernel's rule has 32 bits of seed
    bucket(seed as u32, &SessionKey(session.source), KeyFrom::ClientAddrPort)
        .map_or(Arm::Control, |bucket| pathlab_canary::arm(bucket, share))
}
