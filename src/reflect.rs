//! `pathlab reflect`: a STAMP Session-Reflector on this host.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use anyhow::Result;
use clap::{Args, ValueEnum};
use pathlab_reflector::{
    Prefix, Reflector, ReflectorConfig, ReflectorReport,
    datapath::{DriverReflector, SocketOptions},
    session::{RateLimit, Rules},
};
use pathlab_xdp::{XdpMode, XdpReflectorConfig};
use tracing::{info, warn};

use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    output, readiness,
    stop::Interrupt,
};

/// Answer STAMP test packets (RFC 8762) and say how long each stayed on this host
#[derive(Args)]
pub(crate) struct Reflect {
    /// Address and port to answer on; may be given more than once
    #[arg(long, value_name = "ADDR:PORT", default_values = ["0.0.0.0:862", "[::]:862"])]
    listen: Vec<SocketAddr>,
    /// Interface to answer on; needed for the xdp datapath
    #[arg(long, value_name = "IF")]
    iface: Option<String>,
    /// Where replies are made: in a socket, or in the driver by an XDP program
    #[arg(long, value_enum, default_value_t = Datapath::Auto)]
    datapath: Datapath,
    /// How the XDP program is attached: by the driver itself, or by the stack on its behalf
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    xdp_mode: Mode,
    /// Answer senders of this prefix alone; may be given more than once (socket datapath)
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<Prefix>,
    /// At most so many replies a second to one source (socket datapath)
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Number replies by session instead of copying the sender's number, so that it can tell in which direction a packet was lost
    #[arg(long)]
    stateful: bool,
    /// Wait before each reply: for tests that ask in which term of the ledger a delay appears
    #[arg(long, hide = true, value_name = "DUR", value_parser = duration::parse)]
    fault_delay_tx: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Datapath {
    /// The best that works and can be steered: the socket
    Auto,
    Socket,
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
    let stop = Interrupt::on_signals()?;
    let report = match args.datapath {
        Datapath::Xdp => in_driver(&args, &stop)?,
        Datapath::Auto | Datapath::Socket => on_sockets(args, &stop)?,
    };
    if global.json {
        output::json("reflect", &report)?;
    } else {
        print!("{}", account(&report));
    }
    Ok(Exit::Done)
}

fn on_sockets(args: Reflect, stop: &Interrupt) -> Result<ReflectorReport> {
    let rate = args.rate.map(|per_second| RateLimit { per_second, burst: per_second });
    let rules = Rules { allow: args.allow, rate, sessions: args.stateful.then_some(STATEFUL_SESSIONS) };
    let socket = SocketOptions { device: args.iface, receive_buffer: Some(4 << 20), ..SocketOptions::stamped() };
    let config = ReflectorConfig { listen: args.listen, socket, rules, delay_before_send: args.fault_delay_tx };
    let mut reflector = Reflector::new(config).map_err(misuse_or_failure)?;
    for address in reflector.local_addrs() {
        info!("answering on {address} over a socket, with kernel timestamps");
    }
    readiness::announce();
    reflector.run(stop.event())?;
    Ok(reflector.report())
}

fn in_driver(args: &Reflect, stop: &Interrupt) -> Result<ReflectorReport> {
    let Some(interface) = &args.iface else {
        return Err(Misuse("the xdp datapath works on an interface: say which with --iface".into()).into());
    };
    if !args.allow.is_empty() || args.rate.is_some() || args.stateful || args.fault_delay_tx.is_some() {
        return Err(Misuse("--allow, --rate and --stateful need the socket datapath".into()).into());
    }
    let ports: std::collections::BTreeSet<u16> = args.listen.iter().map(SocketAddr::port).collect();
    let &[port] = ports.into_iter().collect::<Vec<_>>().as_slice() else {
        return Err(
            Misuse("the xdp datapath answers on one port: give --listen addresses of the same port".into()).into()
        );
    };
    let local = args.listen.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()).collect();
    let mode = match args.xdp_mode {
        Mode::Auto => XdpMode::Auto,
        Mode::Native => XdpMode::Native,
        Mode::Generic => XdpMode::Generic,
    };
    let config = XdpReflectorConfig { local, mode, ..XdpReflectorConfig::new(port) };
    let mut reflector = DriverReflector::attach(interface, &config).map_err(misuse_or_failure)?;
    if let Some(error) = reflector.native_refused() {
        warn!("{interface}: native XDP is not to be had, so generic it is: {error}");
    }
    info!("answering on {interface} port {port} in the driver, {} XDP", reflector.mode());
    readiness::announce();
    reflector.run(stop.event())?;
    Ok(reflector.report()?)
}

/// What is the user's to mend in the command itself, and what the host's.
fn misuse_or_failure(error: pathlab_reflector::Error) -> anyhow::Error {
    use pathlab_reflector::Error as E;
    match error {
        E::NoSuchInterface(_)
        | E::NoSuchAddress(_)
        | E::Xdp(pathlab_xdp::Error::NoInterface { .. } | pathlab_xdp::Error::NotUnicast { .. }) => Misuse::of(error),
        other => other.into(),
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
    for (name, quantiles) in [("residence", &report.residence), ("departure", &report.departure)] {
        if let Some(quantiles) = quantiles {
            let [p50, p99] = [quantiles.p50, quantiles.p99].map(|span| span.as_nanos() as f64 / 1e3);
            let _ = writeln!(text, "{name}: p50 {p50:.1} µs, p99 {p99:.1} µs");
        }
    }
    text
}
