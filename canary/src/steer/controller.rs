//! The process that holds the steering: renews the lease, watches path and caps, and answers its control socket.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{fs::DirBuilderExt, net::UnixListener as StdListener},
    time::Duration,
};

use pathlab_guard::Object;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    Change, Error, Operator, Options, Plan, Result, Steering,
    control::{Answer, Request, RolledBack, Status, socket_path},
    steering::TakenBack,
};
use crate::Experiment;

/// Renewals in the time of one lease: four may be late before it runs out.
const RENEWALS_A_LEASE: u32 = 5;
/// How often path and caps are looked at.
const CHECK: Duration = Duration::from_millis(500);
/// How often others are looked at, who may have come to use our bits of the mark.
const CHECK_OTHERS: Duration = Duration::from_secs(3);
/// A request is one short line.
const LONGEST_REQUEST: u64 = 4_096;
const REQUEST_PATIENCE: Duration = Duration::from_secs(1);

/// A question that waits for its answer.
type Asked = (Request, Operator, oneshot::Sender<Answer>);

/// What a controller tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It lives: told about twice a second, for a watchdog.
    Alive,
    /// Something changed: for the audit log.
    Changed(Change),
}

/// Steering with its control socket. Dropping it takes everything back, as [`Controller::run`] does at its end.
#[derive(Debug)]
pub struct Controller {
    steering: Steering,
    listener: StdListener,
}

/// How a run ended. Whichever way, everything was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Another process asked for the rollback; otherwise `stop` did.
    pub by_command: bool,
    /// How it went.
    pub taken_back: TakenBack,
}

impl Controller {
    /// Plans, checks and starts in the calling thread's network namespace. Traffic moves before this returns, and moves
    /// back if [`Controller::run`] is not called within the lease.
    ///
    /// # Errors
    /// As [`Plan::new`] and [`Steering::start`]; [`Error::Socket`].
    pub fn start(experiment: &Experiment, seed: u32, options: &Options) -> Result<Self> {
        let mut steering = Steering::start(Plan::new(experiment, seed)?, options)?;
        let path = socket_path(&options.run_dir, &steering.plan().name);
        steering.record(Object::File { path: path.clone() })?;
        let listener = listen(options, &path).map_err(|source| Error::Socket { path, source })?;
        Ok(Self { steering, listener })
    }

    /// The steering that it holds.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Steers until `stop` is ready or another process asks for a rollback, then takes everything back. `on_event` is
    /// called in between renewals: it must be quick. Needs a tokio runtime with time and io.
    ///
    /// # Errors
    /// [`Error::Guard`] when something could not be taken back; [`Error::Socket`] when the control socket fails at the
    /// start.
    pub async fn run(mut self, stop: impl Future<Output = ()>, mut on_event: impl FnMut(Event)) -> Result<Ended> {
        let listener =
            UnixListener::from_std(self.listener).map_err(|source| Error::Kernel { call: "listen", source })?;
        let (asked, mut requests) = mpsc::channel(8);
        let server = tokio::spawn(serve(listener, asked));
        let mut renewal = ticks(self.steering.lease() / RENEWALS_A_LEASE);
        let mut check = ticks(CHECK);
        let mut check_others = ticks(CHECK_OTHERS);
        tokio::pin!(stop);
        let rollback = loop {
            self.steering.take_changes().into_iter().map(Event::Changed).for_each(&mut on_event);
            tokio::select! {
                biased;
                _ = renewal.tick(), if self.steering.halted().is_none() => {
                    if let Err(error) = self.steering.renew() {
                        warn!(%error, "the lease was not renewed");
                    }
                }
                () = &mut stop => break None,
                Some((request, operator, reply)) = requests.recv() => match request {
                    Request::Rollback => break Some((operator, reply)),
                    request => drop(reply.send(answer(&mut self.steering, request, operator))),
                },
                _ = check.tick() => {
                    on_event(Event::Alive);
                    if let Err(error) = self.steering.check() {
                        warn!(%error, "cannot tell whether the canary path is in place");
                    }
                }
                _ = check_others.tick() => {
                    if let Err(error) = self.steering.check_others() {
                        warn!(%error, "cannot tell whether others use the mark");
                    }
                }
            }
        };
        let (operator, reply) = rollback.unzip();
        let by_command = operator.is_some();
        let result = self.steering.take_back(operator);
        if let Some(reply) = reply {
            drop(reply.send(rolled_back(&result)));
        }
        self.steering.take_changes().into_iter().map(Event::Changed).for_each(&mut on_event);
        // Answers leave in tasks of their own, each with a sender of this channel: when it closes, all have left.
        server.abort();
        let closed = async { while requests.recv().await.is_some() {} };
        if time::timeout(REQUEST_PATIENCE, closed).await.is_err() {
            debug!("a client did not take its answer");
        }
        Ok(Ended { by_command, taken_back: result? })
    }
}

fn ticks(period: Duration) -> time::Interval {
    let mut ticks = time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn answer(steering: &mut Steering, request: Request, operator: Operator) -> Answer {
    let from = steering.plan().share;
    let result = match request {
        Request::Status => status(steering).map(|status| Answer::Status(Box::new(status))),
        Request::Ramp(to) => steering.ramp_by(to, Some(operator)).map(|()| Answer::Ramped { from, to }),
        Request::Rollback => Ok(Answer::Refused("a rollback is under way".to_owned())),
    };
    result.unwrap_or_else(|error| Answer::Refused(error.to_string()))
}

fn status(steering: &mut Steering) -> Result<Status> {
    let observed = steering.observe()?;
    let (departures, unproven) = match steering.departures()? {
        Ok(departures) => (Some(departures), None),
        Err(reason) => (None, Some(reason)),
    };
    let guardian = steering.guardian_lives().then(|| steering.guardian_pid());
    let gone = || Error::NotRunning { name: steering.plan().name.clone() };
    Ok(Status {
        observed: observed.ok_or_else(gone)?,
        departures,
        unproven,
        halted: steering.halted().cloned(),
        lease: steering.lease(),
        pid: std::process::id(),
        guardian,
    })
}

fn rolled_back(result: &Result<TakenBack>) -> Answer {
    match result {
        Ok(TakenBack { gate, undone }) => Answer::RolledBack(RolledBack {
            gate: Some(*gate),
            removed: undone.removed.iter().map(ToString::to_string).collect(),
            ..RolledBack::default()
        }),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

fn listen(options: &Options, path: &std::path::Path) -> io::Result<StdListener> {
    DirBuilder::new().recursive(true).mode(0o700).create(&options.run_dir)?;
    match fs::remove_file(path) {
        // Of a steerer that died with its guardian: the journal of this name is ours, so nobody uses it.
        Ok(()) => debug!(path = %path.display(), "removed a dead control socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = StdListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts for ever. A client that says nothing holds up neither the others nor the lease.
async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, asked.clone()))),
            Err(error) => {
                debug!(%error, "accept");
                time::sleep(REQUEST_PATIENCE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, asked: mpsc::Sender<Asked>) {
    if let Err(error) =
        time::timeout(REQUEST_PATIENCE, one_request(stream, asked)).await.unwrap_or_else(|late| Err(late.into()))
    {
        debug!(%error, "control socket");
    }
}

async fn one_request(mut stream: UnixStream, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let operator = Operator::of(peer.uid(), peer.pid().and_then(|pid| pid.try_into().ok()));
    let (from, mut to) = stream.split();
    let mut line = Vec::new();
    BufReader::new(from.take(LONGEST_REQUEST)).read_until(b'\n', &mut line).await?;
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            asked.send((request, operator, reply)).await.map_err(io::Error::other)?;
            answer.await.map_err(io::Error::other)?
        }
        Err(error) => Answer::Refused(format!("not a request: {error}")),
    };
    to.write_all(&serde_json::to_vec(&answer)?).await
}
