//! Clients with their reflectors or servers: round-trip times as user space sees them, and how well each kept its schedule.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pathlab_xdp::{XdpMode, XdpPass};
use serde_json::Value;

use crate::{
    contestant::{Contestant, Programs, Running, start},
    counting::{Arrivals, wait_until},
    irtt, slots, sockperf,
    turns::order,
    wire::{self, CLIENT_CPU, INTERFACE, PORT, REFLECTOR, Wire},
};

/// Octets of UDP payload of every client: STAMP's base packet.
const SIZE: &str = "44";

/// A client and what it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// `pathlab probe` against a reflector, with options more than the default.
    Probe(Contestant, &'static str),
    /// irtt with one of its timers.
    Irtt(&'static str),
    /// irtt with its default timer in the scheduling class that the probe takes by default.
    IrttFifo,
    /// sockperf, ping-pong.
    Sockperf,
}

impl Pair {
    /// As it stands in tables.
    pub fn name(self) -> String {
        match self {
            Self::Probe(contestant, "") => format!("probe to {}", contestant.name()),
            Self::Probe(contestant, options) => format!("probe {options} to {}", contestant.name()),
            Self::Irtt("comp") => "irtt".into(),
            Self::Irtt(timer) => format!("irtt --timer={timer}"),
            Self::IrttFifo => "irtt in SCHED_FIFO".into(),
            Self::Sockperf => "sockperf ping-pong".into(),
        }
    }

    fn server(self, wire: &Wire, programs: &Programs) -> Result<Running> {
        let line = match self {
            Self::Probe(contestant, _) => return contestant.start(wire, programs),
            Self::Irtt(_) | Self::IrttFifo => format!("irtt server -b {REFLECTOR}:{PORT} -i 0"),
            Self::Sockperf => format!("sockperf server -i {REFLECTOR} -p {PORT}"),
        };
        start(&self.name(), wire, &words(&line))
    }

    fn client(self, programs: &Programs, interval: Duration, slots: usize, scratch: &str) -> Vec<String> {
        let (micros, span) = (interval.as_micros(), interval * slots as u32);
        let irtt = |timer: &str| {
            format!(
                "irtt client -i {micros}us -d {}us -l {SIZE} --stats=none --tstamp=none --timer={timer} --wait=200ms -Q -o - {REFLECTOR}:{PORT}",
                span.as_micros()
            )
        };
        let seconds = span.as_secs().max(1);
        words(&match self {
            Self::Probe(_, options) => format!(
                "{} probe {REFLECTOR}:{PORT} --interval {micros}us --count {slots} --size {SIZE} --timeout 200ms --json --out {scratch} {options}",
                programs.pathlab.display()
            ),
            Self::Irtt(timer) => irtt(timer),
            Self::IrttFifo => format!("chrt --fifo 1 {}", irtt("comp")),
            Self::Sockperf => format!(
                "sockperf ping-pong -i {REFLECTOR} -p {PORT} -t {seconds} --mps={} -m {SIZE} --full-rtt",
                1_000_000 / micros
            ),
        })
    }
}

/// One run of one pair.
#[derive(Clone, Debug)]
pub struct Run {
    /// Round trip in microseconds, median.
    pub rtt_p50: f64,
    /// 99th percentile.
    pub rtt_p99: f64,
    /// The schedule as it came out of the wire; absent for sockperf, which has none, and where an XDP program has the far end.
    pub kept: Option<slots::Kept>,
    /// Share of the slots that were on time, or at least sent, by the client's own account; absent for sockperf.
    pub own_account: Option<f64>,
}

/// `rounds` rounds of `pairs`, with `slots` slots each.
///
/// # Errors
/// A program that is not installed, does not answer, or says what is not understood.
pub fn measure(
    wire: &Wire,
    programs: &Programs,
    pairs: &[Pair],
    rounds: usize,
    interval: Duration,
    slots: usize,
) -> Result<Vec<Vec<Run>>> {
    let mut runs = vec![Vec::new(); pairs.len()];
    for round in 0..rounds {
        for at in order(pairs.len(), round) {
            let pair = pairs[at];
            let run = one(wire, programs, pair, interval, slots).with_context(|| pair.name())?;
            eprintln!("round {} {} every {interval:?}: {run:.3?}", round + 1, pair.name());
            runs[at].push(run);
        }
    }
    Ok(runs)
}

fn one(wire: &Wire, programs: &Programs, pair: Pair, interval: Duration, slots: usize) -> Result<Run> {
    // a veth end takes replies by XDP_TX only with a program of its own
    let _pass = wire.far.run(|| XdpPass::attach(INTERFACE, XdpMode::Native))??;
    let mut server = pair.server(wire, programs)?;
    server.ready(|| {
        wait_until(Duration::from_millis(20), || match pair {
            Pair::Probe(..) => answers(wire, programs),
            Pair::Irtt(_) | Pair::IrttFifo | Pair::Sockperf => bound(wire),
        })
    })?;
    // where the near end has no XDP program of the reflector's, and the client a schedule
    let sockets = matches!(pair, Pair::Irtt(_) | Pair::IrttFifo | Pair::Probe(Contestant::Socket, _));
    let arrivals = sockets.then(|| wire.near.run(|| Arrivals::attach(PORT))).transpose()?.transpose()?;
    let scratch = Scratch::new("run");
    let output = said(wire, &pair.client(programs, interval, slots, &scratch.text()))?;
    let mut run = match pair {
        Pair::Probe(..) => probe_run(&output)?,
        Pair::Irtt(_) | Pair::IrttFifo => {
            let run = irtt::run(&output)?;
            Run { rtt_p50: run.rtt_p50, rtt_p99: run.rtt_p99, kept: None, own_account: Some(1.0 - run.slots_missed) }
        }
        Pair::Sockperf => {
            let trips = sockperf::round_trips(&output)?;
            Run { rtt_p50: trips.p50, rtt_p99: trips.p99, kept: None, own_account: None }
        }
    };
    if let Some(arrivals) = arrivals {
        let irtt = matches!(pair, Pair::Irtt(_) | Pair::IrttFifo);
        let times: Vec<u64> = arrivals
            .read()?
            .into_iter()
            .filter(|arrival| arrival.length == 44 && (!irtt || irtt::is_test_packet(arrival.head)))
            .map(|arrival| arrival.at)
            .collect();
        run.kept = Some(slots::kept(&times, interval, slots)?);
    }
    Ok(run)
}

/// Of `pathlab probe --json`.
fn probe_run(json: &str) -> Result<Run> {
    let document: Value = serde_json::from_str(json).context("the probe's JSON")?;
    let total = &document["total"];
    let number = |pointer: &str| {
        total.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no total{pointer} in the probe's JSON"))
    };
    Ok(Run {
        rtt_p50: number("/rtt_app/p50")? / 1e3,
        rtt_p99: number("/rtt_app/p99")? / 1e3,
        kept: None,
        own_account: Some(number("/schedule/within_50us")? / number("/schedule/slots")?),
    })
}

/// Whether one test packet is answered.
fn answers(wire: &Wire, programs: &Programs) -> Result<bool> {
    let scratch = Scratch::new("ready");
    let line = format!(
        "{} probe {REFLECTOR}:{PORT} --count 1 --timeout 100ms --json --out {}",
        programs.pathlab.display(),
        scratch.text()
    );
    Ok(said(wire, &words(&line)).is_ok_and(|output| probe_run(&output).is_ok()))
}

/// Whether a socket in the reflector's namespace has the port.
fn bound(wire: &Wire) -> Result<bool> {
    let sockets = wire.near.run(|| fs::read_to_string("/proc/thread-self/net/udp"))??;
    Ok(sockets.contains(&format!(":{PORT:04X} ")))
}

/// What a client says on its standard output.
fn said(wire: &Wire, line: &[String]) -> Result<String> {
    let mut command: Command = wire::on_cpu(&wire.far, CLIENT_CPU, line)?;
    let output = command.stdin(Stdio::null()).output().context("taskset (util-linux) does not start")?;
    let (status, text) = (output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(status.success(), "{}: {status}: {}", line.join(" "), text.trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// A run directory that nobody keeps.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pathlab-bench-{}-{what}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
