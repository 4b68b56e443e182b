//! `pathlab probe`: a STAMP Session-Sender that splits each round trip into probe host, wire and reflector host.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use pathlab_record::{KeepSamples, Labels, Run};
use pathlab_reflector::{
    Prefix,
    datapath::SocketOptions,
    keys::Keys,
    prober::{
        self, Background, Class, Fan, Pace, Pacing, ProbeOptions, Question, Recording, RunOutput, SessionSpec, Shape,
    },
    wire::ptp_shape,
};
use pathlab_xdp::nic::PlanOptions;
use serde_json::{Value, json};

use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    host,
    live::{self, Live},
    output, report, run_directory,
    stop::Interrupt,
    timestamps::{self, Arranged, Timestamps},
};

/// STAMP's own port (RFC 8762, section 4.1).
const STAMP_PORT: u16 = 862;

/// Send STAMP test packets on a fixed schedule and split each round trip into probe host, wire and reflector host
#[derive(Args)]
pub(crate) struct Probe {
    /// The Session-Reflectors: address or name, port 862 unless said
    #[arg(value_name = "TARGET[:PORT]", required_unless_present = "sessions")]
    targets: Vec<String>,
    /// Sessions from a file, one JSON object a line: source, target, labels
    #[arg(long, value_name = "FILE", conflicts_with_all = ["targets", "source", "source_port"])]
    sessions: Option<PathBuf>,
    /// Source addresses to send from, one prefix a family
    #[arg(long, value_name = "PREFIX")]
    source: Vec<Prefix>,
    /// First source port
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    source_port: Option<u16>,
    /// Source ports of each session, from --source-port on: shows paths that routers choose by ports (ECMP)
    #[arg(long, value_name = "N", requires = "source_port", value_parser = clap::value_parser!(u16).range(1..))]
    sweep: Option<u16>,
    /// Compare two by two within one slot: two targets (such as IPv4 and IPv6 of one server), or one target by two --mark or
    /// two --source
    #[arg(long)]
    pair: bool,
    /// Sessions to each target
    #[arg(long, value_name = "N", default_value_t = 1)]
    fan: usize,
    /// Between two packets of one session
    #[arg(long, value_name = "DUR", default_value = "10ms", value_parser = duration::parse)]
    interval: Duration,
    /// Packets of each session
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long to send; 10s unless --count is given
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Send slots that lie closer together than this together: less processor time, a less exact schedule
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    coalesce: Option<Duration>,
    /// How the last stretch before a slot is spent: asleep, looking at the clock (a whole processor), or as much of both as this
    /// host's sleeps were seen to need (half of the time between slots at most, and 500 µs)
    #[arg(long, value_name = "auto|sleep|spin", default_value = "auto", conflicts_with = "coalesce")]
    pace: Pace,
    /// Scheduling class: fifo is real time, auto takes it where this host allows it
    #[arg(long, value_name = "auto|fifo|other", default_value = "auto")]
    class: Class,
    /// Run on this CPU alone
    #[arg(long, value_name = "N")]
    cpu: Option<u32>,
    /// A reply later than this is late, and late is lost
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = duration::parse)]
    timeout: Duration,
    /// Octets of a test packet (UDP payload) [default: what its parts take, 44 for a base packet]
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
    /// What to ask the reflector for, by TLVs, separated by commas: the stages of its host, when its previous reply left, sources and methods of its timestamps, class of service (the reply is asked to have the --dscp), its counters. Nothing by default, because the reflector in the driver answers base packets alone; stages and follow-up with a --size into which they fit
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',')]
    tlv: Option<Vec<TlvName>>,
    /// Session identifier of the first session, 1 to 65535; those after it count up
    #[arg(long, value_name = "N")]
    ssid: Option<NonZeroU16>,
    /// Send authenticated packets (RFC 8762), and take no others, by the keys of this file: see docs/formats.md
    #[arg(long, value_name = "FILE")]
    auth_key_file: Option<PathBuf>,
    /// DSCP of the test packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..64))]
    dscp: Option<u8>,
    /// fwmark of the test packets; two with --pair
    #[arg(long, value_name = "N")]
    mark: Vec<u32>,
    /// Interface to bind to
    #[arg(long, value_name = "IF")]
    iface: Option<String>,
    /// A label of every session; `window` names the evening that the run belongs to (`aa`, or a date such as 2026-11-21)
    #[arg(long, value_name = "K=V", value_parser = label)]
    label: Vec<(String, Value)>,
    /// Width of a bin of sessions.jsonl
    #[arg(long, value_name = "DUR", default_value = "10min", value_parser = duration::parse)]
    bin: Duration,
    /// IANA zone in which the windows of sessions.jsonl are to be understood [default: this host's]
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    zone: Option<String>,
    /// Raw samples to keep: all, a number of sessions, or a share of them
    #[arg(long, value_name = "all|N|SHARE", default_value = "all")]
    keep_samples: KeepSamples,
    /// Run directory [default: ./runs/<UTC time>-probe]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The card's timestamps where it has any, the card's or nothing, or the kernel's alone; the card is that of --iface or of the route to the first target
    #[arg(long, value_enum, default_value_t = Timestamps::Auto)]
    timestamps: Timestamps,
    /// Experimental, for cards that stamp PTP alone: test packets that look like PTP, from port 319 to port 319 of a reflector that does the same
    #[arg(long, conflicts_with_all = ["sessions", "source_port", "fan", "sweep", "pair"])]
    ptp_shaped: bool,
    /// Read each datagram so much later: for tests that ask in which term of the ledger a delay appears
    #[arg(long, hide = true, value_name = "DUR", value_parser = duration::parse)]
    fault_delay_rx: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TlvName {
    None,
    Stages,
    FollowUp,
    Timestamps,
    Cos,
    Direct,
}

/// Size, TLVs and keys as asked for.
fn shape(args: &Probe) -> Result<Shape> {
    let keys = args.auth_key_file.as_deref().map(Keys::load).transpose().map_err(Misuse::of)?.map(Arc::new);
    let of = |questions: &[Question]| Shape {
        questions: questions.to_vec(),
        size: args.size.unwrap_or(0),
        keys: keys.clone(),
    };
    let Some(names) = &args.tlv else {
        let sets: [&[Question]; 2] = [&[Question::Stages, Question::FollowUp], &[Question::Stages]];
        let fitting = sets.into_iter().map(of).find(|shape| shape.size > 0 && shape.fits());
        return Ok(fitting.unwrap_or_else(|| of(&[])));
    };
    if names.len() > 1 && names.contains(&TlvName::None) {
        return Err(Misuse("--tlv none goes with no other".into()).into());
    }
    let question = |name: &TlvName| match name {
        TlvName::None => None,
        TlvName::Stages => Some(Question::Stages),
        TlvName::FollowUp => Some(Question::FollowUp),
        TlvName::Timestamps => Some(Question::Timestamps),
        TlvName::Cos => Some(Question::ClassOfService(args.dscp.unwrap_or(0))),
        TlvName::Direct => Some(Question::Direct),
    };
    let mut questions: Vec<Question> = Vec::new();
    for question in names.iter().filter_map(question) {
        if !questions.contains(&question) {
            questions.push(question);
        }
    }
    Ok(of(&questions))
}

fn zone(name: &str) -> Result<String, String> {
    jiff::tz::TimeZone::get(name).map_err(|_| format!("`{name}` is no IANA time zone: write such as `Asia/Tokyo`"))?;
    Ok(name.to_owned())
}

pub(crate) fn label(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is no label: write NAME=VALUE"))?;
    if name.is_empty() {
        return Err(format!("`{text}` is no label: write NAME=VALUE"));
    }
    Ok((name.to_owned(), value.parse::<i64>().map_or_else(|_| json!(value), |number| json!(number))))
}

/// A probe as asked for, its card's stamping arranged.
pub(crate) struct Prepared {
    pub(crate) sessions: Vec<SessionSpec>,
    pub(crate) options: ProbeOptions,
    pub(crate) labels: Labels,
    pub(crate) stamps: Arranged,
    /// For `run.json`.
    pub(crate) resolved: Value,
}

/// Resolves what the command line says, for `probe` itself and for verbs that probe on the way.
pub(crate) fn prepare(mut args: Probe) -> Result<Prepared> {
    let labels: Labels = args.label.iter().cloned().collect();
    if args.ptp_shaped {
        args.source_port = Some(ptp_shape::PORT);
    }
    let sessions = sessions(&args, &labels)?;
    let towards = || sessions.first().and_then(|session| timestamps::interface_towards(session.target));
    let interface = args.iface.clone().or_else(towards);
    let stamps = Arranged::new(
        args.timestamps,
        interface.as_deref(),
        PlanOptions { ptp_shaped: args.ptp_shaped, ..PlanOptions::default() },
        "probe",
    )?;
    let options = ProbeOptions {
        interval: args.interval,
        count: args.count,
        duration: args.duration.or_else(|| args.count.is_none().then_some(Duration::from_secs(10))),
        timeout: args.timeout,
        shape: shape(&args)?,
        ssid: args.ssid,
        coalesce: args.coalesce.unwrap_or_default(),
        pacing: Pacing { pace: args.pace, class: args.class, cpu: args.cpu },
        socket: stamps.apply(SocketOptions {
            device: args.iface.clone(),
            mark: args.mark.first().copied(),
            dscp: args.dscp,
            receive_buffer: Some(4 << 20),
            ..SocketOptions::stamped()
        }),
        recording: Recording { bin: args.bin, zone: args.zone.clone().unwrap_or_else(system_zone), salt: None },
        paired: args.pair,
        nic_clock: stamps.nic_clock(),
        ptp_shaped: args.ptp_shaped,
        delay_before_read: args.fault_delay_rx.unwrap_or_default(),
        ..ProbeOptions::default()
    };
    if args.ptp_shaped && packets(&options) > u128::from(ptp_shape::MOST) {
        let why =
            format!("--ptp-shaped: at most {} packets a session: choose --count or --duration so", ptp_shape::MOST);
        return Err(Misuse(why).into());
    }
    stamps.settle();
    let resolved = resolved(&args, &options, sessions.len());
    Ok(Prepared { sessions, options, labels, stamps, resolved })
}

/// Probes until count, duration or Ctrl-C end it, and leaves a run directory.
pub(crate) fn run(args: Probe, global: &Global) -> Result<Exit> {
    let stop = Interrupt::on_signals()?;
    let (out, keep_samples) = (args.out.clone(), args.keep_samples);
    let Prepared { sessions, mut options, labels, stamps, resolved } = prepare(args)?;
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("probe", started));
    let about = Run {
        options: resolved,
        host: host::facts(),
        clock: host::clock(stamps.clock()),
        labels,
        keep_samples,
        ..Run::new("probe", started)
    };
    let (directory, scrap) = run_directory::create(&path, &about)?;
    let whole = options.duration.or_else(|| options.count.map(|count| options.interval.mul_f64(count as f64)));
    let live = Live::new(RunOutput::new(directory), whole);
    options.progress = live.draws().then_some(live::EVERY);
    let mut output = Background::start(live)?;
    let result = prober::probe(&sessions, &options, stop.flag(), &mut output);
    let output = output.finish().finish();
    let report = result.map_err(misuse_or_failure)?;
    scrap.keep();
    let head = output.finish(&report)?.seal(Timestamp::now())?;
    if global.json {
        output::document(&report)?;
    } else {
        out!("{}", report::probe::text(&report));
        outln!("\n{}  sealed {head}", path.display());
    }
    Ok(Exit::Done)
}

fn system_zone() -> String {
    jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

/// What is the user's to mend in the command itself, and what the network's or the host's.
pub(crate) fn misuse_or_failure(error: prober::ProbeError) -> anyhow::Error {
    use prober::ProbeError as E;
    match error {
        E::SessionLine { .. }
        | E::SessionsUnreadable { .. }
        | E::Session { .. }
        | E::SessionCount { .. }
        | E::NoSourceOfFamily { .. }
        | E::NoPortLeft { .. }
        | E::Option { .. }
        | E::NoSuchSource { .. }
        | E::Socket(pathlab_reflector::Error::NoSuchInterface(_)) => Misuse::of(error),
        other => other.into(),
    }
}

/// Packets of each session.
fn packets(options: &ProbeOptions) -> u128 {
    let in_time = options.duration.map(|duration| duration.as_nanos().div_ceil(options.interval.as_nanos().max(1)));
    let counted = options.count.map(u128::from);
    in_time.into_iter().chain(counted).min().unwrap_or(u128::MAX)
}

fn sessions(args: &Probe, labels: &Labels) -> Result<Vec<SessionSpec>> {
    if let Some(file) = &args.sessions {
        let mut sessions = prober::read_sessions(file).map_err(misuse_or_failure)?;
        for session in &mut sessions {
            session.labels.extend(labels.clone());
        }
        return Ok(sessions);
    }
    let mut targets = args.targets.iter().map(|text| target(text)).collect::<Result<Vec<_>>>()?;
    if args.ptp_shaped {
        targets.iter_mut().for_each(|target| target.set_port(ptp_shape::PORT));
    }
    let fan = Fan {
        targets,
        sources: args.source.clone(),
        source_port: args.source_port,
        count: args.fan,
        sweep: args.sweep.unwrap_or(1).into(),
        labels: labels.clone(),
    };
    if args.pair {
        return pairs(&fan, &args.mark);
    }
    if args.mark.len() > 1 {
        return Err(Misuse("--mark twice: a run has one mark, or two that --pair compares".into()).into());
    }
    fan.sessions().map_err(misuse_or_failure)
}

/// Both sides of every pair, side by side.
fn pairs(fan: &Fan, marks: &[u32]) -> Result<Vec<SessionSpec>> {
    let side = |fan: Fan| fan.sessions().map_err(misuse_or_failure);
    let of_one_family = |sources: &[Prefix]| sources[0].address().is_ipv4() == sources[1].address().is_ipv4();
    let [first, second] = match (fan.targets.as_slice(), fan.sources.as_slice(), marks) {
        ([first, second], _, [] | [_]) => [*first, *second].map(|target| Fan { targets: vec![target], ..fan.clone() }),
        ([_], _, [_, _]) if fan.source_port.is_some() => {
            let why = "--source-port with two --mark: both sides would send from one port; leave it to the kernel";
            return Err(Misuse(why.into()).into());
        }
        ([_], _, [_, _]) => [fan.clone(), fan.clone()],
        ([_], [a, b], [] | [_]) if of_one_family(&[*a, *b]) => {
            [*a, *b].map(|source| Fan { sources: vec![source], ..fan.clone() })
        }
        _ => {
            let what =
                "--pair: give two targets, or one target and two --mark, or one target and two --source of its family";
            return Err(Misuse(what.into()).into());
        }
    };
    let marked = |mut sessions: Vec<SessionSpec>, mark: Option<&u32>| {
        sessions.iter_mut().for_each(|session| session.mark = mark.copied());
        sessions
    };
    let second_mark = marks.get(1).or(marks.first());
    let (first, second) = (marked(side(first)?, marks.first()), marked(side(second)?, second_mark));
    Ok(first.into_iter().zip(second).flat_map(|(first, second)| [first, second]).collect())
}

/// `192.0.2.1`, `192.0.2.1:862`, `2001:db8::1`, `[2001:db8::1]:862`, `name`, `name:862`.
pub(crate) fn target(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((address, STAMP_PORT).into());
    }
    if let Some((_, port)) = text.rsplit_once(':')
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err(Misuse(format!("target {text}: `{port}` is no port, write 1 to 65535")).into());
    }
    let found = if text.contains(':') { text.to_socket_addrs() } else { (text, STAMP_PORT).to_socket_addrs() };
    found
        .with_context(|| format!("target {text}: cannot be resolved"))?
        .next()
        .with_context(|| format!("target {text}: the name has no address"))
}

fn resolved(args: &Probe, options: &ProbeOptions, sessions: usize) -> Value {
    let seconds = |span: Duration| json!(span.as_secs_f64());
    json!({
        "targets": args.targets,
        "sessions_file": args.sessions.as_deref().map(Path::display).map(|path| path.to_string()),
        "sessions": sessions,
        "interval_s": seconds(options.interval),
        "count": options.count,
        "duration_s": options.duration.map(seconds),
        "timeout_s": seconds(options.timeout),
        "size": options.shape.size.max(options.shape.least()),
        "tlvs": options.shape.questions.iter().map(|question| format!("{question:?}")).collect::<Vec<_>>(),
        "authenticated": options.shape.keys.as_ref().map(|keys| keys.authenticate()),
        "ssid": options.ssid,
        "coalesce_s": seconds(options.coalesce),
        "pace": options.pacing.pace,
        "class": options.pacing.class,
        "cpu": options.pacing.cpu,
        "dscp": args.dscp,
        "mark": args.mark,
        "paired": args.pair,
        "sweep": args.sweep,
        "bin_s": seconds(args.bin),
        "timestamps": args.timestamps.name(),
    })
}
