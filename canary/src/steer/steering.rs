//! Steering that stands on the host: started as a whole, renewed again and again, and taken back in the order that
//! moves traffic first.

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use pathlab_guard::{Guardian, Journal, Object, Rtnetlink, Sysctl, Undone, undo_dir};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Change, Departures, Error, Operator, Plan, Proof, Result, nfnetlink::NftSocket, preflight, ruleset};
use crate::Share;

/// Journals of steering carry this verb.
pub const VERB: &str = "canary";

/// Where things live, and how the guardian is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Arguments that make this executable call `pathlab_guard::watch`; the journal's path comes after them.
    pub guardian: Vec<OsString>,
    /// Directory of the undo journals.
    pub undo_dir: PathBuf,
    /// Directory of the control sockets.
    pub run_dir: PathBuf,
}

impl Options {
    /// The usual places, with the guardian behind this hidden verb.
    pub fn with_guardian<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Self {
        Self {
            guardian: args.into_iter().map(Into::into).collect(),
            undo_dir: undo_dir(),
            run_dir: super::RUN_DIR.into(),
        }
    }
}

/// Running steering. Dropping it takes everything back.
///
/// Fields are dropped in this order: the table that marks goes with its socket, then rules and routes, then the
/// guardian is let go.
#[derive(Debug)]
pub struct Steering {
    plan: Plan,
    nft: NftSocket,
    rtnetlink: Rtnetlink,
    /// Until it is undone.
    journal: Option<Journal>,
    guardian: Guardian,
    /// Told once.
    unguarded: bool,
    /// Or why there is none.
    proof: std::result::Result<Proof, String>,
    halted: Option<Halt>,
    /// Not yet told.
    changes: Vec<Change>,
}

/// Why every session is on control while the steerer still runs. Only a new start ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Halt {
    /// Nobody renewed the lease in time: the process or the host hung.
    #[error("the lease ran out")]
    Lapsed,
    /// A rule or route of the canary path is gone, perhaps with its device.
    #[error("a rule or route of the canary path is gone")]
    PathGone,
    /// Somebody else has come to use our bits of the mark or our priority.
    #[error("{0}")]
    Overlap(String),
    /// More than 0.1 % of the packets left by the path of the other arm.
    #[error("{} of {} packets left by the path of the other arm", .0.astray(), .0.packets())]
    WrongArm(Departures),
    /// More canary sessions than `max_canary_sessions`.
    #[error("more canary sessions than max_canary_sessions")]
    TooManySessions,
    /// More packets of the canary arm in a second than `max_canary_pps`.
    #[error("more canary packets a second than max_canary_pps")]
    TooManyPackets,
}

/// How a rollback went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Time until the gate was shut and every session on control.
    pub gate: Duration,
    /// Routes, rules and files that were taken back.
    pub undone: Undone,
}

/// What the kernel says about the steering of this network namespace. Needs nothing of the process that steers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Name of the experiment.
    pub experiment: String,
    /// Share of the buckets on the canary arm.
    pub share: Option<Share>,
    /// What is left of the lease; absent when the gate is shut and every session is on control.
    pub lease_left: Option<Duration>,
    /// Packets so far.
    pub packets: Packets,
    /// Canary sessions, as address and port, that sent a packet in the last minute. At most `max_canary_sessions`.
    pub canary_sessions: u64,
}

/// Packets that met the rules, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Of control sessions.
    pub control: u64,
    /// Of canary sessions, sent to the canary path.
    pub canary: u64,
    /// Of canary sessions, sent to control because the gate was shut.
    pub held: u64,
}

impl Steering {
    /// Checks that the plan can work here, then puts it on the host: in the calling thread's network namespace.
    ///
    /// Everything is in place before the one transaction that begins to mark packets. When something fails on the way,
    /// all of it is taken back.
    ///
    /// # Errors
    /// The preflight's refusals, each with its reason; [`Error::Guard`], [`Error::Nft`].
    pub fn start(plan: Plan, options: &Options) -> Result<Self> {
        let mut rtnetlink = Rtnetlink::open(None)?;
        preflight::check(&plan, &mut rtnetlink)?;
        let mut journal = Journal::create_in(&options.undo_dir, VERB, &plan.name)?;
        // Before the socket that owns the table, so that the guardian can never keep it open.
        let guardian = Guardian::spawn(&journal, options.guardian.iter().map(AsRef::as_ref))?;
        let sysctls = plan.sysctls().into_iter().map(|path| Sysctl::read(None, path));
        let sysctls = sysctls.collect::<pathlab_guard::Result<Vec<_>>>()?;
        journal.record_all(sysctls.iter().cloned().map(Object::from).chain(plan.objects()))?;
        for sysctl in &sysctls {
            sysctl.write("1")?;
        }
        for route in plan.routes() {
            route.add(&mut rtnetlink)?;
        }
        for rule in plan.rules() {
            rule.add(&mut rtnetlink)?;
        }
        preflight::tunnel::leads_out(&plan, &mut rtnetlink)?;
        let mut proof = Proof::attach(&plan).map_err(|error| error.to_string());
        let mut nft = open_last()?;
        nft.commit(&ruleset::create(&plan))?;
        match &mut proof {
            Ok(proof) => proof.begin_anew()?,
            Err(reason) => warn!(reason, "nothing proves by which path packets leave"),
        }
        info!(experiment = plan.name, share = %plan.share, "steering");
        let journal = Some(journal);
        let mut steering = Self {
            plan,
            nft,
            rtnetlink,
            journal,
            guardian,
            unguarded: false,
            proof,
            halted: None,
            changes: Vec::new(),
        };
        steering.changed(None, "start", "every session on control".to_owned(), steering.share_now());
        Ok(steering)
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn changed(&mut self, operator: Option<Operator>, action: &'static str, before: String, after: String) {
        self.changes.push(Change { operator, action, before, after });
    }

    fn share_now(&self) -> String {
        match &self.halted {
            None => format!("{} of the sessions on the canary path", self.plan.share),
            Some(halt) => format!("every session on control: {halt}"),
        }
    }

    /// The plan, with the share of now.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long traffic stays on the canary path when nobody renews.
    pub fn lease(&self) -> Duration {
        self.plan.lease
    }

    /// Notes something else that goes when the steering goes. To be called before it is created.
    pub(super) fn record(&mut self, object: Object) -> Result<()> {
        match &mut self.journal {
            Some(journal) => Ok(journal.record(object)?),
            None => Err(Error::Lapsed),
        }
    }

    /// Process id of the guardian.
    pub fn guardian_pid(&self) -> u32 {
        self.guardian.pid()
    }

    /// Whether the guardian still watches.
    pub fn guardian_lives(&mut self) -> bool {
        self.guardian.is_alive()
    }

    /// Looks whether the guardian lives, and tells once that it does not. Another is not started: that takes longer than a lease may.
    fn look_after_guardian(&mut self) {
        if self.unguarded || self.guardian.is_alive() {
            return;
        }
        self.unguarded = true;
        let pid = self.guardian.pid();
        warn!(
            "the guardian (pid {pid}) died: if this process is killed too, traffic is on control at once, but rules and routes are left until \
             `pathlab canary rollback`; roll back and start again to have one"
        );
        self.changed(None, "guardian died", format!("process {pid} watches"), "nobody watches".to_owned());
    }

    /// Why it halted, if it did.
    pub fn halted(&self) -> Option<&Halt> {
        self.halted.as_ref()
    }

    /// Keeps the gate open for another lease. To be called a few times within each.
    ///
    /// # Errors
    /// [`Error::Lapsed`] when the gate is shut: it stays so. [`Error::Nft`] when the kernel refuses for another reason;
    /// the lease then runs on.
    pub fn renew(&mut self) -> Result<()> {
        if self.halted.is_some() {
            return Err(Error::Lapsed);
        }
        match self.nft.commit(&ruleset::renew(&self.plan)) {
            Err(refused) if refused.errno() == Some(libc::ENOENT) => {
                warn!("the lease ran out, every session is on control until an operator starts again");
                let before = self.share_now();
                self.halted = Some(Halt::Lapsed);
                self.changed(None, "halt", before, self.share_now());
                Err(Error::Lapsed)
            }
            other => Ok(other?),
        }
    }

    /// Looks whether the guardian lives, and whether the canary path and the caps hold; if those do not, sends every session to control and halts.
    ///
    /// # Errors
    /// [`Error::Kernel`], [`Error::Nft`] when the kernel does not say.
    pub fn check(&mut self) -> Result<()> {
        self.look_after_guardian();
        if self.halted.is_some() {
            return Ok(());
        }
        if self.nft.counter(ruleset::TABLE, ruleset::OVER)? > 0 {
            return self.halt(Halt::TooManySessions);
        }
        if self.nft.counter(ruleset::TABLE, ruleset::TOO_FAST)? > 0 {
            return self.halt(Halt::TooManyPackets);
        }
        if !preflight::in_place(&self.plan, &mut self.rtnetlink)? {
            return self.halt(Halt::PathGone);
        }
        // Held packets leave by control and are no fault: the next renewal finds that the lease ran out.
        let held = self.nft.counter(ruleset::TABLE, ruleset::HELD)?;
        if let Ok(proof) = &mut self.proof
            && let Some(astray) = proof.look()?
            && held == 0
        {
            return self.halt(Halt::WrongArm(astray));
        }
        Ok(())
    }

    /// Where the packets of each arm really left, or why nobody can tell.
    ///
    /// # Errors
    /// [`Error::Proof`] when the kernel does not say.
    pub fn departures(&self) -> Result<std::result::Result<Departures, String>> {
        match &self.proof {
            Ok(proof) => proof.departures().map(Ok),
            Err(reason) => Ok(Err(reason.clone())),
        }
    }

    /// Looks whether somebody else has come to use our bits of the mark; if so, sends every session to control and
    /// halts. Reads every rule of the host: once in a few seconds will do.
    ///
    /// # Errors
    /// [`Error::Kernel`], [`Error::Nft`] when the kernel does not say.
    pub fn check_others(&mut self) -> Result<()> {
        if self.halted.is_some() {
            return Ok(());
        }
        match preflight::undisturbed(&self.plan, &mut self.rtnetlink, &mut self.nft) {
            Err(taken @ (Error::FilterUsesMark { .. } | Error::MarkTaken { .. } | Error::PriorityTaken { .. })) => {
                self.halt(Halt::Overlap(taken.to_string()))
            }
            other => other,
        }
    }

    fn halt(&mut self, reason: Halt) -> Result<()> {
        warn!(%reason, "halted, every session is on control until an operator starts again");
        let before = self.share_now();
        self.halted = Some(reason);
        self.changed(None, "halt", before, self.share_now());
        self.shut()
    }

    /// What the kernel says about it; `None` when the table is gone.
    ///
    /// # Errors
    /// [`Error::Nft`] when the kernel does not say.
    pub fn observe(&mut self) -> Result<Option<Observed>> {
        observe_through(&mut self.nft)
    }

    /// Raises the share. Sessions only move from control to canary.
    ///
    /// # Errors
    /// [`Error::RampDown`], [`Error::AboveCap`], [`Error::Config`] for a share that may not be; [`Error::Lapsed`] when
    /// halted; [`Error::Nft`].
    pub fn ramp(&mut self, share: Share) -> Result<()> {
        self.ramp_by(share, None)
    }

    pub(super) fn ramp_by(&mut self, share: Share, operator: Option<Operator>) -> Result<()> {
        if self.halted.is_some() {
            return Err(Error::Lapsed);
        }
        let from = self.plan.share;
        if share < from {
            return Err(Error::RampDown { from, to: share });
        }
        self.plan.allows(share)?;
        self.nft.commit(&ruleset::assign(share))?;
        let before = self.share_now();
        self.plan.share = share;
        self.changed(operator, "ramp", before, self.share_now());
        if let Ok(proof) = &mut self.proof {
            proof.set_share(share)?;
            proof.begin_anew()?;
        }
        info!(%from, to = %share, "ramped");
        Ok(())
    }

    /// Everybody back to control and the host as it was: first the gate, then the table, rules and routes.
    ///
    /// # Errors
    /// [`Error::Guard`] when a rule or route could not be taken back; the rest was.
    pub fn rollback(mut self) -> Result<TakenBack> {
        self.take_back(None)
    }

    /// The rollback without its slow end, which changes nothing any more: the kernel takes 25 ms to close the socket of
    /// a table, as it waits for everybody who may still look at it.
    pub(super) fn take_back(&mut self, operator: Option<Operator>) -> Result<TakenBack> {
        let before = self.share_now();
        let start = Instant::now();
        if let Err(error) = self.shut() {
            // Not a reason to stop: the table goes next, and with its socket in any case.
            warn!(%error, "the gate did not shut");
        }
        let gate = start.elapsed();
        if let Err(error) = self.nft.commit(&ruleset::delete()) {
            warn!(%error, "the table goes with its socket");
        }
        self.changed(operator, "rollback", before, "every session on control".to_owned());
        let undone = self.journal.take().map(Journal::undo).transpose()?.unwrap_or_default();
        Ok(TakenBack { gate, undone })
    }

    fn shut(&mut self) -> Result<()> {
        match self.nft.commit(&ruleset::shut(&self.plan)) {
            // Shut already: the lease ran out.
            Err(refused) if refused.errno() == Some(libc::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// A socket with a descriptor above all others. When a process dies the kernel closes the highest first; a link to a
/// device waits tens of milliseconds for whoever may still run its program, and the table must not wait for that.
fn open_last() -> Result<NftSocket> {
    let open =
        std::fs::read_dir("/proc/self/fd").map_err(|source| Error::Kernel { call: "list descriptors", source })?;
    let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let highest: i32 = open.filter_map(number).max().unwrap_or(0);
    let mut below = Vec::new();
    loop {
        let socket = preflight::open_nft()?;
        if socket.descriptor() > highest {
            return Ok(socket);
        }
        below.push(socket);
    }
}

/// Reads the steering of the calling thread's network namespace; `None` when there is none.
///
/// # Errors
/// [`Error::Kernel`], [`Error::Nft`] when the kernel does not say.
pub fn observe() -> Result<Option<Observed>> {
    observe_through(&mut preflight::open_nft()?)
}

fn observe_through(nft: &mut NftSocket) -> Result<Option<Observed>> {
    let Some(comment) = nft.table_comment(ruleset::TABLE)? else { return Ok(None) };
    let buckets = nft.elements(ruleset::TABLE, ruleset::BUCKET_ARM)?;
    let bounds: Vec<_> = buckets.into_iter().map(|element| (element.key, element.ends)).collect();
    let gates = nft.elements(ruleset::TABLE, ruleset::CANARY_GATE)?;
    let mut packets = |name| nft.counter(ruleset::TABLE, name);
    let packets = Packets {
        control: packets(ruleset::CONTROL)?,
        canary: packets(ruleset::CANARY)?,
        held: packets(ruleset::HELD)?,
    };
    let mut canary_sessions = 0;
    for set in ruleset::SESSIONS {
        match nft.elements(ruleset::TABLE, set) {
            Ok(sessions) => canary_sessions += sessions.len() as u64,
            // No path for this family.
            Err(refused) if refused.errno() == Some(libc::ENOENT) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(Some(Observed {
        experiment: ruleset::experiment_of(&comment).to_owned(),
        share: ruleset::share_of(&bounds),
        lease_left: gates.iter().filter_map(|gate| gate.expires).min(),
        packets,
        canary_sessions,
    }))
}
