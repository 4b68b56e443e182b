//! `pathlab trace`: which link loses the packets of a flow?

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use pathlab_record::{AsnTable, Run};
use pathlab_reflector::keys::Keys;
use pathlab_trace::{
    HopNetwork, Network, Plan, Report, mtr,
    probe::{LEAST_SIZE, Shape},
    socket::Sockets,
    trace,
};
use serde_json::json;
use tracing::info;

use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    host, output, probe,
    progress::Progress,
    report, run_directory,
    stop::Interrupt,
};

/// Find the link that loses packets, along the paths that flows really take
#[derive(Args)]
pub(crate) struct Trace {
    /// Destination, `ADDRESS`, `ADDRESS:PORT` or a name; at its best with `pathlab reflect --stateful` there
    #[arg(value_name = "TARGET[:PORT]")]
    target: String,
    /// Flows side by side, each with a source port of its own that never changes: routers choose among parallel links by it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    flows: u16,
    /// Source port of the first flow; the others have the ports after it [default: as the kernel picks]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    source_port: Option<u16>,
    /// Rounds: in each, every hop and the destination of every flow get one packet
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Time from round to round, over which the packets are spread
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// How long an answer may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    patience: Duration,
    /// Hops beyond this are not asked
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=60))]
    max_hops: u8,
    /// Octets of UDP payload of each packet, which is never cut in pieces: a link that does not take it is named
    #[arg(long, value_name = "BYTES", default_value_t = LEAST_SIZE)]
    size: usize,
    /// Table of networks, also of exchange points: lines `PREFIX ASN NAME` or `FIRST LAST ASN COUNTRY NAME` between tabs, CSV, or a MaxMind DB
    #[arg(long, value_name = "FILE")]
    networks: Option<PathBuf>,
    /// Trace the way back, too: replies that are to end on it tell where; the reflector needs `--stateful --allow-reverse-trace` and the same key
    #[arg(long, requires = "auth_key_file")]
    reverse: bool,
    /// Send authenticated packets (RFC 8762) by the default key of this file: TOML, as for `pathlab reflect`, for its owner alone to read
    #[arg(long, value_name = "FILE")]
    auth_key_file: Option<PathBuf>,
    /// What to print: text, or the JSON of mtr, which has one path and so wants --flows 1
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "json")]
    format: Format,
    /// Run directory [default: ./runs/<UTC time>-trace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Mtr,
}

/// The artefact of a run.
const TRACE: &str = "trace.json";

/// Traces, prints what was found, and leaves a run directory.
pub(crate) fn run(args: &Trace, global: &Global) -> Result<Exit> {
    if args.format == Format::Mtr && args.flows != 1 {
        return Err(Misuse("--format mtr: one document of mtr has one path: give --flows 1".into()).into());
    }
    if !(LEAST_SIZE..=9_000).contains(&args.size) {
        return Err(Misuse(format!("--size {}: write {LEAST_SIZE} to 9000", args.size)).into());
    }
    if args.source_port.is_some_and(|port| port.checked_add(args.flows - 1).is_none()) {
        return Err(Misuse(format!("--source-port: no {} ports from there on", args.flows)).into());
    }
    let networks = args.networks.as_deref().map(AsnTable::read).transpose().map_err(Misuse::of)?;
    let keys = args.auth_key_file.as_deref().map(Keys::load).transpose().map_err(Misuse::of)?.map(Arc::new);
    let key = keys.as_ref().and_then(|keys| keys.find(0));
    if args.auth_key_file.is_some() && !(key.is_some() && keys.as_ref().is_some_and(|keys| keys.authenticate())) {
        let wrong = "--auth-key-file: a trace needs a default key that protects packets, not extensions alone";
        return Err(Misuse(wrong.into()).into());
    }
    let least = Shape { size: 0, key, ask: args.reverse.then_some(0) }.least();
    let target = probe::target(&args.target)?;
    let plan = Plan {
        rounds: args.count,
        interval: args.interval,
        max_hops: args.max_hops,
        size: args.size.max(least),
        patience: args.patience,
        reverse: args.reverse,
        keys,
    };
    let stop = Interrupt::on_signals()?;
    let mut sockets = Sockets::open(target, args.flows, args.source_port)?;
    if !sockets.sees_short_quotations() {
        info!("without CAP_NET_RAW, answers of routers that quote only what they must are not understood");
    }
    let started = Timestamp::now();
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("trace", started));
    let about = Run {
        options: json!({ "target": target, "flows": args.flows, "count": args.count, "size": plan.size,
            "interval": args.interval.as_secs_f64(), "patience": args.patience.as_secs_f64(), "max_hops": args.max_hops,
            "source_ports": sockets.flows().iter().map(|flow| flow.source.port()).collect::<Vec<_>>(),
            "networks": args.networks, "reverse": args.reverse, "authenticated": plan.keys.is_some(),
            "raw_icmp": sockets.sees_short_quotations() }),
        host: host::facts(),
        clock: host::clock(None),
        ..Run::new("trace", started)
    };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    let progress = Progress::new();
    let flows = if args.flows == 1 { "1 flow".to_owned() } else { format!("{} flows", args.flows) };
    progress.say(format!("tracing {flows} to {target}, {} rounds", args.count));
    let traced = trace(&mut sockets, &plan, &|| stop.flag().load(Ordering::Relaxed))
        .with_context(|| format!("trace {target}"))?;
    drop(progress);
    let mut found = Report::new(&sockets.flows(), &plan, &traced);
    if let Some(networks) = &networks {
        found.label(|address: IpAddr| {
            networks.of(address).map(|known| HopNetwork { asn: known.asn, name: known.name.clone() })
        });
    }
    let mut document = serde_json::to_vec_pretty(&found)?;
    document.push(b'\n');
    directory.artefact(TRACE, &document)?;
    let head = directory.seal(Timestamp::now())?;
    scrap.keep();
    match (global.json, args.format) {
        (true, _) => output::document(&found)?,
        (false, Format::Mtr) => output::document(&mtr::document(&found, &found.flows[0]))?,
        (false, Format::Text) => {
            out!("{}", report::trace::text(&found));
            outln!("\n{}  sealed {head}", path.display());
        }
    }
    Ok(Exit::Done)
}
