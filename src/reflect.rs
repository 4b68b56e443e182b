//! `pathlab reflect`: a STAMP Session-Reflector on this host.

mod rings;

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pathlab_guard::capabilities::{self, Keep};
use pathlab_record::Plane;
use pathlab_reflector::{
    Metrics, Prefix, Reflector, ReflectorConfig, ReflectorReport,
    datapath::{AfXdpConfig, AfXdpReflector, SocketOptions},
    keys::Keys,
    session::{Limiter, Limits, RateLimit, Rules},
    wire::ptp_shape,
};
use pathlab_xdp::{XdpMode, nic::PlanOptions, xsk::BindMode};
use tracing::{info, warn};

use self::rings::Rings;
use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    output, readiness,
    served::{self, Served},
    stop::Interrupt,
    timestamps::{self, Arranged, Timestamps},
};

/// Answer STAMP test packets (RFC 8762) and say how long each stayed on this host
#[derive(Args)]
pub(crate) struct Reflect {
    /// Address and port to answer on; may be given more than once
    #[arg(long, value_name = "ADDR:PORT", default_values = ["0.0.0.0:862", "[::]:862"])]
    listen: Vec<SocketAddr>,
    /// Interface to answer on; needed for the afxdp and xdp datapaths
    #[arg(long, value_name = "IF")]
    iface: Option<String>,
    /// Where replies are made: in a socket, past the stack by AF_XDP, or in the driver by an XDP program
    #[arg(long, value_enum, default_value_t = Datapath::Auto)]
    datapath: Datapath,
    /// How the XDP program is attached: by the driver itself, or by the stack on its behalf
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    xdp_mode: Mode,
    /// Receive queue to answer on, a worker each; may be given more than once; all if not given (afxdp and xdp datapaths)
    #[arg(long = "queue", value_name = "N")]
    queues: Vec<u32>,
    /// Answer senders of this prefix alone; may be given more than once
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<Prefix>,
    /// At most so many replies a second to one source, an IPv4 address or IPv6 /64
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// At most so many replies a second to one network, an IPv4 /24 or IPv6 /48
    #[arg(long, value_name = "N")]
    rate_prefix: Option<NonZeroU32>,
    /// At most so many replies a second in all
    #[arg(long, value_name = "N")]
    rate_total: Option<NonZeroU32>,
    /// Serve the running account as OpenMetrics on `/metrics`; a port alone is one on loopback
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = served::address)]
    metrics: Option<SocketAddr>,
    /// Remember sessions: number their replies, so that a sender can tell in which direction a packet was lost, and tell in each
    /// reply when the one before it left (socket and afxdp datapaths)
    #[arg(long)]
    stateful: bool,
    /// Answer authenticated packets alone (RFC 8762), by the keys of this file: TOML, `default = "<hex>"` and by SSID under
    /// `[ssid]`, for its owner alone to read (socket and afxdp datapaths)
    #[arg(long, value_name = "FILE")]
    auth_key_file: Option<PathBuf>,
    /// DSCP that a sender may ask its replies to have; may be given more than once; none if not given (socket and afxdp datapaths)
    #[arg(long = "allow-dscp", value_name = "N", value_parser = clap::value_parser!(u8).range(..64))]
    allow_dscp: Vec<u8>,
    /// Let authentic senders ask that replies end on their way back, and tell them where: `pathlab trace --reverse` (socket datapath)
    #[arg(long, requires = "auth_key_file", requires = "stateful")]
    allow_reverse_trace: bool,
    /// The card's timestamps where it has any, the card's or nothing, or the kernel's alone; the card is that of --iface or of the addresses to answer on
    #[arg(long, value_enum, default_value_t = Timestamps::Auto)]
    timestamps: Timestamps,
    /// Experimental, for cards that stamp PTP alone: answer test packets that look like PTP, from port 319 to port 319 and from --allow alone
    /// (socket datapath)
    #[arg(long, requires = "allow", conflicts_with = "stateful")]
    ptp_shaped: bool,
    /// Wait before each reply: for tests that ask in which term of the ledger a delay appears
    #[arg(long, hide = true, value_name = "DUR", value_parser = duration::parse)]
    fault_delay_tx: Option<Duration>,
    /// Read each request so much later: for the same tests (socket datapath)
    #[arg(long, hide = true, value_name = "DUR", value_parser = duration::parse)]
    fault_delay_rx: Option<Duration>,
    /// Wait after each reply has its timestamp: for the same tests (socket datapath)
    #[arg(long, hide = true, value_name = "DUR", value_parser = duration::parse)]
    fault_delay_departure: Option<Duration>,
    // Last: its heading would stand above all that follows.
    #[command(flatten)]
    rings: Rings,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Datapath {
    /// The best that works and can be steered: the socket
    Auto,
    Socket,
    /// One worker a receive queue; replies leave by the port and queue on which requests came
    Afxdp,
    /// Base packets in the driver, longer ones by AF_XDP
    Xdp,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Auto,
    Native,
    Generic,
}

/// Sessions that a stateful reflector remembers.
const STATEFUL_SESSIONS: usize = 100_000;

/// Answers until Ctrl-C or SIGTERM, then prints the account.
pub(crate) fn run(args: Reflect, global: &Global) -> Result<Exit> {
    let past_the_stack_wanted = matches!(args.datapath, Datapath::Afxdp | Datapath::Xdp);
    if args.ptp_shaped && (past_the_stack_wanted || args.listen.iter().any(|address| address.port() != ptp_shape::PORT))
    {
        let why = "--ptp-shaped: cards look at port 319, and hand their stamps to sockets: --listen ADDR:319 --datapath socket";
        return Err(Misuse(why.into()).into());
    }
    let stop = Interrupt::on_signals()?;
    let report = match args.datapath {
        Datapath::Afxdp | Datapath::Xdp => past_the_stack(args, &stop)?,
        Datapath::Auto | Datapath::Socket => on_sockets(args, &stop)?,
    };
    if global.json {
        output::json("reflect", &report)?;
    } else {
        out!("{}", account(&report));
    }
    Ok(Exit::Done)
}

impl Reflect {
    fn rules(&self) -> Result<Rules> {
        let [source, prefix, total] = self.rates().map(|rate| rate.map(RateLimit::per_second));
        let limits = Limits { source, prefix, total };
        let limiter = (limits != Limits::default()).then(|| Limiter::new(limits).into());
        let keys = self.auth_key_file.as_deref().map(Keys::load).transpose().map_err(Misuse::of)?;
        if self.allow_reverse_trace && !keys.as_ref().is_some_and(Keys::authenticate) {
            let wrong = "--allow-reverse-trace: only authenticated packets may ask: the key file has to protect them, not extensions alone";
            return Err(Misuse(wrong.into()).into());
        }
        Ok(Rules {
            allow: self.allow.clone(),
            limiter,
            sessions: self.stateful.then_some(STATEFUL_SESSIONS),
            keys: keys.map(Arc::new),
            ptp_shaped: self.ptp_shaped,
            return_trace: self.allow_reverse_trace,
            allowed_dscp: self.allow_dscp.iter().fold(0, |allowed, dscp| allowed | 1 << dscp),
        })
    }

    fn rates(&self) -> [Option<NonZeroU32>; 3] {
        [self.rate, self.rate_prefix, self.rate_total]
    }
}

fn on_sockets(args: Reflect, stop: &Interrupt) -> Result<ReflectorReport> {
    if args.datapath == Datapath::Auto {
        info!("datapath auto: sockets, whose replies follow the routing table and so can be steered");
    }
    let rules = args.rules()?;
    let interface = args.iface.clone().or_else(|| timestamps::interface_with(&args.listen));
    let stamps = Arranged::new(
        args.timestamps,
        interface.as_deref(),
        PlanOptions { ptp_shaped: args.ptp_shaped, ..PlanOptions::default() },
        "reflect",
    )?;
    let socket = SocketOptions {
        device: args.iface,
        receive_buffer: Some(4 << 20),
        report_errors: args.allow_reverse_trace,
        ..SocketOptions::stamped()
    };
    let socket = stamps.apply(socket);
    let (served, metrics) = (Served::bind(args.metrics)?, Metrics::new());
    let config = ReflectorConfig {
        listen: args.listen,
        socket,
        nic_clock: stamps.nic_clock(),
        rules,
        delay_before_read: args.fault_delay_rx,
        metrics: args.metrics.map(|_| metrics.clone()),
        delay_before_send: args.fault_delay_tx,
        delay_after_stamp: args.fault_delay_departure,
    };
    let mut reflector = Reflector::new(config).map_err(misuse_or_failure)?;
    for address in reflector.local_addrs() {
        info!("answering on {address} over a socket, with {}", stamps.words());
    }
    give_up(stamps.keep())?;
    served.during(
        || metrics.text(),
        || {
            readiness::announce();
            Ok(reflector.run(stop.event())?)
        },
    )?;
    Ok(reflector.report())
}

/// From here on there is nothing to set up. Threads that are started later have no more than this one.
fn give_up(keep: Keep) -> Result<()> {
    capabilities::drop_all_but(keep).context("give up what was needed for setting up")
}

fn past_the_stack(args: Reflect, stop: &Interrupt) -> Result<ReflectorReport> {
    let hybrid = args.datapath == Datapath::Xdp;
    let name = if hybrid { "xdp" } else { "afxdp" };
    let Some(interface) = &args.iface else {
        return Err(Misuse(format!("the {name} datapath works on an interface: say which with --iface")).into());
    };
    if hybrid && (args.stateful || args.fault_delay_tx.is_some()) {
        return Err(
            Misuse("the driver remembers no sessions: --stateful needs the socket or afxdp datapath".into()).into()
        );
    }
    if hybrid && args.auth_key_file.is_some() {
        let wrong = "the driver checks no HMAC: --auth-key-file needs the socket or afxdp datapath";
        return Err(Misuse(wrong.into()).into());
    }
    if args.allow_reverse_trace {
        let wrong = "the errors of routers come to sockets: --allow-reverse-trace needs the socket datapath";
        return Err(Misuse(wrong.into()).into());
    }
    if args.fault_delay_rx.is_some() || args.fault_delay_departure.is_some() {
        return Err(Misuse("--fault-delay-rx and --fault-delay-departure need the socket datapath".into()).into());
    }
    let ports: std::collections::BTreeSet<u16> = args.listen.iter().map(SocketAddr::port).collect();
    let &[port] = ports.into_iter().collect::<Vec<_>>().as_slice() else {
        let wrong = format!("the {name} datapath answers on one port: give --listen addresses of the same port");
        return Err(Misuse(wrong).into());
    };
    let stamps = Arranged::new(args.timestamps, Some(interface), PlanOptions::default(), "reflect")?;
    let (served, metrics) = (Served::bind(args.metrics)?, Metrics::new());
    let config = AfXdpConfig {
        nic_stamps: stamps.in_xdp(args.timestamps),
        nic_clock: stamps.nic_clock(),
        quirks: timestamps::quirks_of(interface),
        local: args.listen.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()).collect(),
        mode: match args.xdp_mode {
            Mode::Auto => XdpMode::Auto,
            Mode::Native => XdpMode::Native,
            Mode::Generic => XdpMode::Generic,
        },
        hybrid,
        queues: args.queues.clone(),
        xsk: args.rings.options(),
        deepen: args.rings.unsized_rings(),
        rules: args.rules()?,
        metrics: args.metrics.map(|_| metrics.clone()),
        delay_before_send: args.fault_delay_tx,
        ..AfXdpConfig::new(port)
    };
    let mut reflector = AfXdpReflector::attach(interface, &config).map_err(misuse_or_failure)?;
    if let Some(error) = reflector.native_refused() {
        warn!("{interface}: native XDP is not to be had, so generic it is: {error}");
    }
    if let Some(error) = reflector.nic_stamps_refused() {
        info!("{interface}: receive stamps are the XDP program's: {error}");
    }
    for (queue, mode) in reflector.queues() {
        info!("queue {queue}: AF_XDP in {} mode", if mode == BindMode::Copy { "copy" } else { "zero-copy" });
    }
    let where_made = if hybrid { "in the driver, longer packets over AF_XDP" } else { "over AF_XDP" };
    info!("answering on {interface} port {port} {where_made}, {} XDP", reflector.mode());
    give_up(stamps.keep())?;
    served.during(
        || metrics.text(),
        || {
            readiness::announce();
            Ok(reflector.run(stop.event())?)
        },
    )?;
    Ok(reflector.report()?)
}

/// What is the user's to mend in the command itself, and what the host's.
fn misuse_or_failure(error: pathlab_reflector::Error) -> anyhow::Error {
    use pathlab_reflector::Error as E;
    match error {
        E::NoSuchInterface(_)
        | E::NoSuchAddress(_)
        | E::Xdp(
            pathlab_xdp::Error::NoInterface { .. }
            | pathlab_xdp::Error::NotUnicast { .. }
            | pathlab_xdp::Error::Option { .. },
        ) => Misuse::of(error),
        other => other.into(),
    }
}

fn plane_name(plane: Plane) -> &'static str {
    match plane {
        Plane::App => "app (software)",
        Plane::Sched => "sched (software)",
        Plane::Kernel => "kernel (software)",
        Plane::Xdp => "xdp (software)",
        Plane::Nic => "nic",
    }
}

/// The account as text: every datagram under one heading.
fn account(report: &ReflectorReport) -> String {
    use std::fmt::Write;

    let mut text = format!(
        "{} on {}\nreceived {}, replied {}, dropped by the kernel {}\n",
        report.datapath,
        report.listen.join(", "),
        report.received,
        report.replied,
        report.kernel_drops,
    );
    for (reason, count) in report.refused.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "  no reply: {reason} {count}");
    }
    for (plane, count) in &report.sent_on {
        let _ = writeln!(text, "departure stamped on plane {}: {count}", plane_name(*plane));
    }
    if report.handed_to_stack > 0 {
        let _ =
            writeln!(text, "left to the stack for want of an AF_XDP socket on their queue: {}", report.handed_to_stack);
    }
    for (point, coverage) in &report.hw_coverage {
        let _ = writeln!(text, "{}", crate::report::hw_coverage(point, coverage));
    }
    for (plane, told) in report.follow_ups.iter().filter(|(_, told)| told.late > 0) {
        let (plane, late) = (plane_name(*plane), told.late);
        let _ = writeln!(
            text,
            "stamps of departures on plane {plane} that came after the next reply, which cannot tell of them: {late}"
        );
    }
    if let Some(traced) = report.return_trace {
        let _ = writeln!(
            text,
            "replies that were to end on their way back: {}, answered by routers {}; left with the usual hop limit instead: {}",
            traced.limited, traced.answered, traced.refused
        );
    }
    if let Some(facts) = &report.card_clock {
        let _ = writeln!(text, "clock of the card: {}", crate::report::card_clock(facts));
    }
    for (name, quantiles) in [("residence", &report.residence), ("departure", &report.departure)] {
        if let Some(quantiles) = quantiles {
            let [p50, p99] = [quantiles.p50, quantiles.p99].map(|span| span.as_nanos() as f64 / 1e3);
            let _ = writeln!(text, "{name}: p50 {p50:.1} µs, p99 {p99:.1} µs");
        }
    }
    text
}
