//! The Session-Reflector over AF_XDP: past the stack, under the same rules as over sockets, one worker a receive queue.
//!
//! ```text
//!  queue 0 ─► XDP program ─┬─ hostile: dropped, counted
//!                          ├─ base packet (hybrid): answered in the driver
//!                          └─ else ─► rx ring ─► worker 0, pinned: rules, turn round, B3 ─► tx ring ─► queue 0
//!  queue 1 ─► …                                  worker 1                                            └► stamp
//! ```
//!
//! A reply leaves by the port and queue on which the request came: it follows no route and cannot be steered. The card spreads flows
//! over queues, so that a session stays with its worker. Workers share the limits of their rules; the allowlist is the driver's.

mod desk;
mod worker;

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use pathlab_record::{Interval, Plane};
use pathlab_xdp::{
    AttachedMode, Counter, HandOver, Limits, NicClock, XdpMode, XdpQuirks, XdpReflector, XdpReflectorConfig,
    clock::SystemLook,
    tai_minus_utc,
    xsk::{BindMode, NicStamps, XskOptions, XskSocket},
};

use self::{
    desk::{Account, Desk, PLANES},
    worker::{Shared, Worker},
};
use crate::{
    Error, Metrics, ReflectorReport, Stop,
    clock::{ClockQuality, StepWatch, Steps, monotonic_now, nothing_known},
    report::QueueReport,
    session::{Rules, SessionReflector},
    sys,
    wire::ErrorEstimate,
};

/// Between two looks at the interface's addresses.
const REFRESH: Interval = Interval::from_nanos(1_000_000_000);

/// Between two looks at the clocks, at most.
const LOOK: Interval = Interval::from_nanos(100_000_000);

/// How an [`AfXdpReflector`] is to be made.
#[derive(Clone)]
pub struct AfXdpConfig {
    /// UDP port to answer on.
    pub port: u16,
    /// Addresses to answer for; empty: those of the interface, followed while it runs.
    pub local: Vec<IpAddr>,
    /// Native or generic XDP.
    pub mode: XdpMode,
    /// Let the driver answer base packets itself, by the allowlist and the limits of the rules: workers get what is longer, and their limits are the
    /// driver's, which counts both.
    pub hybrid: bool,
    /// Receive queues to serve; empty: all.
    pub queues: Vec<u32>,
    /// Rings, frames, copy mode and busy polling of each socket.
    pub xsk: XskOptions,
    /// Make the rings for packets that come deeper than [`Self::xsk`] says, as [`XskOptions::deepened`] allows for so many queues.
    pub deepen: bool,
    /// Pin each worker to a CPU of its own, where there are enough.
    pub pin: bool,
    /// Whether to ask the card when packets came.
    pub nic_stamps: NicStamps,
    /// What the port's card does that the XDP program must know of.
    pub quirks: XdpQuirks,
    /// Makes the card's stamps B2; without it they are counted and the XDP program's are.
    pub nic_clock: Option<Arc<dyn NicClock>>,
    /// Who gets replies, at each worker.
    pub rules: Rules,
    /// Where the running account is published, once a second; nowhere if absent.
    pub metrics: Option<Arc<Metrics>>,
    /// Fault for tests of the ledger: wait so long before B3 is taken and the reply sent.
    pub delay_before_send: Option<Duration>,
}

impl AfXdpConfig {
    /// Every queue and address of the interface, in the best mode with the best stamps.
    pub fn new(port: u16) -> Self {
        Self {
            port,
            local: Vec::new(),
            mode: XdpMode::Auto,
            hybrid: false,
            queues: Vec::new(),
            xsk: XskOptions::default(),
            deepen: false,
            pin: true,
            nic_stamps: NicStamps::Auto,
            quirks: XdpQuirks::default(),
            nic_clock: None,
            rules: Rules::default(),
            metrics: None,
            delay_before_send: None,
        }
    }
}

/// A Session-Reflector on the receive queues of one interface, ready to [`run`](Self::run). The kernel takes program and sockets
/// back when it is dropped, or when the process ends in whatever way.
pub struct AfXdpReflector {
    // Dropped first: after that nothing is redirected any more.
    program: XdpReflector,
    workers: Vec<Worker>,
    identity: Identity,
    clock: Option<ClockQuality>,
    steps: StepWatch,
    nic_clock: Option<Arc<dyn NicClock>>,
    metrics: Option<Arc<Metrics>>,
}

impl AfXdpReflector {
    /// Attaches the program and binds a socket to each queue. From here on requests are taken off the wire; they are answered once
    /// it [runs](Self::run).
    ///
    /// # Errors
    /// Those of [`XdpReflector::attach`], [`XdpReflector::queues`] and [`XskSocket::bind`], for the first queue that cannot be had.
    /// Nothing is left behind then.
    pub fn attach(interface: &str, config: &AfXdpConfig) -> Result<Self, Error> {
        let clock = ClockQuality::measure().ok();
        let error_estimate = clock.map_or(ErrorEstimate::from_nanos(u64::MAX, false), ClockQuality::error_estimate);
        // In hybrid mode replies are made in two places, and limited where both begin.
        let limiter = config.rules.limiter.clone();
        let in_driver = limiter.filter(|_| config.hybrid).map_or(Limits::default(), |limiter| *limiter.limits());
        let rules = match config.hybrid {
            true => Rules { limiter: None, ..config.rules.clone() },
            false => config.rules.clone(),
        };
        let keyed = config.rules.keys.as_ref().is_some_and(|keys| keys.authenticate());
        let mut program = XdpReflector::attach(
            interface,
            &XdpReflectorConfig {
                local: config.local.clone(),
                allow: config.rules.allow.clone(),
                mode: config.mode,
                error_estimate: error_estimate.bits(),
                // the driver checks no HMAC
                limits: in_driver,
                authenticated: keyed,
                hand_over: if config.hybrid && !keyed { HandOver::Longer } else { HandOver::All },
                nic_stamps: config.nic_stamps,
                quirks: config.quirks,
                ..XdpReflectorConfig::new(config.port)
            },
        )?;
        let queues: Vec<u32> =
            if config.queues.is_empty() { (0..program.queues()?).collect() } else { config.queues.clone() };
        let xsk = if config.deepen { config.xsk.deepened(queues.len() as u32) } else { config.xsk };
        let mut workers = Vec::new();
        for queue in queues {
            let socket = XskSocket::bind(interface, queue, &xsk)?;
            program.add(&socket)?;
            let session = SessionReflector::new(rules.clone(), error_estimate);
            let desk = Desk::new(session, config.nic_clock.clone());
            workers.push(Worker::new(socket, desk, config.xsk.busy_poll.is_some(), config.delay_before_send));
        }
        if config.pin {
            let cpus = pathlab_xdp::pacing::allowed_cpus().unwrap_or_default();
            if cpus.len() >= workers.len() {
                workers.iter_mut().zip(cpus).for_each(|(worker, cpu)| worker.cpu = Some(cpu));
            } else {
                tracing::info!(
                    interface,
                    workers = workers.len(),
                    cpus = cpus.len(),
                    "workers not pinned: too few CPUs"
                );
            }
        }
        let datapath = if config.hybrid { "xdp" } else { "afxdp" };
        let listen = format!("{interface}:{}", config.port);
        let identity = Identity { datapath, listen, nic_clock: config.nic_clock.clone() };
        Ok(Self {
            program,
            workers,
            identity,
            clock,
            steps: StepWatch::default(),
            nic_clock: config.nic_clock.clone(),
            metrics: config.metrics.clone(),
        })
    }

    /// Whether the driver itself runs the program, or the stack on its behalf.
    pub fn mode(&self) -> AttachedMode {
        self.program.mode()
    }

    /// Why native mode is not to be had; `None` in native mode, and where generic was asked for.
    pub fn native_refused(&self) -> Option<&pathlab_xdp::Error> {
        self.program.native_refused()
    }

    /// Why the card is not asked for its stamps; `None` where it is.
    pub fn nic_stamps_refused(&self) -> Option<&pathlab_xdp::Error> {
        self.program.nic_stamps_refused()
    }

    /// The queues that are served, and how each socket is bound.
    pub fn queues(&self) -> impl Iterator<Item = (u32, BindMode)> + '_ {
        self.workers.iter().map(|worker| (worker.queue(), worker.mode()))
    }

    /// Answers until `stop` is raised; may be called again. What has arrived by then is answered before it returns.
    ///
    /// # Errors
    /// The interface is gone; nothing that a peer sends makes it fail. One that is down is waited for.
    pub fn run(&mut self, stop: &Stop) -> Result<(), Error> {
        let (halt, ended) = (Stop::new().map_err(Error::Wait)?, Stop::new().map_err(Error::Wait)?);
        let Self { program, workers, clock, steps, nic_clock, identity, metrics } = self;
        let shared = Shared {
            halting: false.into(),
            tai_minus_utc: tai_minus_utc()?.as_nanos().into(),
            error_estimate: clock
                .unwrap_or(ClockQuality::UNKNOWN)
                .error_estimate_of(nic_clock.as_deref())
                .bits()
                .into(),
            round: 0.into(),
        };
        let accounts: Vec<_> = workers.iter().map(|worker| worker.published.clone()).collect();
        let publish = |program: &XdpReflector, clock, steps| {
            let Some(metrics) = metrics.as_ref().filter(|metrics| metrics.is_due(monotonic_now())) else {
                return Ok(());
            };
            // What a worker publishes in this round is read in the next.
            shared.round.fetch_add(1, Ordering::Relaxed);
            let mut account = Account::new();
            let queues = accounts.iter().filter_map(|published| published.add_to(&mut account)).collect();
            metrics.publish(assemble(identity, program, (clock, steps), queues, &account)?);
            Ok(())
        };
        thread::scope(|scope| {
            let (shared, halt, ended) = (&shared, &halt, &ended);
            let threads: Vec<_> = workers
                .iter_mut()
                .map(|worker| {
                    let queue = worker.queue();
                    let work = move || {
                        let _ended = RaiseWhenDropped(ended);
                        worker.cpu = worker.cpu.filter(|cpu| sys::pin_to(*cpu).is_ok());
                        worker.run(shared, halt)
                    };
                    let name = format!("queue-{queue}");
                    (queue, thread::Builder::new().name(name).spawn_scoped(scope, work))
                })
                .collect();
            let watched = watch(program, clock, (nic_clock.as_deref(), steps), shared, [stop, ended], publish);
            shared.halting.store(true, Ordering::Release);
            halt.request();
            let joined = threads.into_iter().map(|(queue, thread)| match thread {
                Ok(thread) => thread.join().unwrap_or(Err(Error::Panicked { queue })),
                Err(source) => Err(Error::Thread { queue, source }),
            });
            // every thread is joined, whichever failed first
            joined.fold(watched, |result, ended| result.and(ended))
        })
    }

    /// The account so far: what the driver counted and what the workers did, as one.
    ///
    /// # Errors
    /// [`pathlab_xdp::Error::Map`], [`pathlab_xdp::Error::Xsk`].
    pub fn report(&self) -> Result<ReflectorReport, Error> {
        let queues = self.workers.iter().map(Worker::report).collect::<Result<Vec<_>, _>>()?;
        let mut account = Account::new();
        self.workers.iter().for_each(|worker| account.add(&worker.desk.account));
        assemble(&self.identity, &self.program, (self.clock, self.steps.steps()), queues, &account)
    }

    /// What the program in the driver counted.
    ///
    /// # Errors
    /// [`pathlab_xdp::Error::Map`].
    pub fn counters(&self) -> Result<pathlab_xdp::Counters, Error> {
        Ok(self.program.counters()?)
    }
}

/// What of a report does not change.
struct Identity {
    datapath: &'static str,
    listen: String,
    nic_clock: Option<Arc<dyn NicClock>>,
}

/// One account of the driver's and the workers'.
fn assemble(
    identity: &Identity,
    program: &XdpReflector,
    (clock, steps): (Option<ClockQuality>, Steps),
    queues: Vec<QueueReport>,
    account: &Account,
) -> Result<ReflectorReport, Error> {
    let counters = program.counters()?;
    let kernel_drops = queues.iter().map(|queue| queue.rx_dropped + queue.rx_ring_full).sum();
    let mut refused = account.tally.by_reason();
    for (counter, count) in counters.iter().filter(|(counter, _)| counter.is_reason()) {
        *refused.entry(counter.name()).or_default() += count;
    }
    let in_driver = counters[Counter::Replied];
    let mut received_on = by_plane(account.received_on);
    if in_driver > 0 {
        *received_on.entry(Plane::Xdp).or_default() += in_driver;
    }
    Ok(ReflectorReport {
        datapath: identity.datapath,
        listen: vec![identity.listen.clone()],
        received: counters[Counter::Received] + account.tally.received + kernel_drops,
        replied: in_driver + account.tally.replied,
        refused,
        kernel_drops,
        received_on,
        sent_on: by_plane(account.sent_on),
        nic_received: account.nic_received,
        hw_coverage: std::collections::BTreeMap::new(),
        follow_ups: account.follow_ups.clone(),
        clock_steps: account.clock_steps,
        steps,
        nic_void: None,
        undelivered: 0,
        residence: account.residence.quantiles(),
        departure: account.departure.quantiles(),
        clock,
        card_clock: identity.nic_clock.as_ref().and_then(|clock| clock.facts()),
        queues,
        handed_to_stack: counters[Counter::HandedToStack],
        return_trace: None,
        places: account.places.all(),
    })
}

fn by_plane(counts: [u64; PLANES.len()]) -> std::collections::BTreeMap<Plane, u64> {
    PLANES.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// Until one of `ends` is raised: measures the clock whenever its last word no longer holds, follows the interface's addresses, and
/// publishes the account.
fn watch(
    program: &mut XdpReflector,
    clock: &mut Option<ClockQuality>,
    (nic_clock, steps): (Option<&dyn NicClock>, &mut StepWatch),
    shared: &Shared,
    ends: [&Stop; 2],
    publish: impl Fn(&XdpReflector, Option<ClockQuality>, Steps) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut addresses_due = monotonic_now() + REFRESH;
    loop {
        publish(program, *clock, steps.steps())?;
        let mut polled = ends.map(sys::Polled::readable);
        // A step is to be told soon, however well the clock keeps its time.
        let holds = clock.unwrap_or(ClockQuality::UNKNOWN).holds().min(LOOK);
        sys::poll(&mut polled, (holds.as_nanos() / 1_000_000) as libc::c_int).map_err(Error::Wait)?;
        if polled.iter().any(sys::Polled::is_ready) {
            return Ok(());
        }
        shared.tai_minus_utc.store(tai_minus_utc()?.as_nanos(), Ordering::Relaxed);
        steps.observe(SystemLook::take(), nic_clock.map(|clock| clock.assurance().steps));
        if let Ok(quality) = ClockQuality::measure() {
            *clock = Some(quality);
            let doubt = steps.in_doubt(monotonic_now()).then(nothing_known);
            let ours = doubt.unwrap_or_else(|| quality.error_estimate_of(nic_clock));
            shared.error_estimate.store(ours.bits(), Ordering::Relaxed);
            program.update_clock(doubt.unwrap_or_else(|| quality.error_estimate()).bits())?;
        }
        if monotonic_now() < addresses_due {
            continue;
        }
        addresses_due = monotonic_now() + REFRESH;
        match program.update_addresses() {
            // Gone for a while; what it had is still answered, and no frame comes for it.
            Err(pathlab_xdp::Error::NoAddress { .. }) => {}
            other => other?,
        }
    }
}

/// Tells the thread in charge that a worker is gone, also when it panics.
struct RaiseWhenDropped<'a>(&'a Stop);

impl Drop for RaiseWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}
