//! A scenario played with real packets: a lab goes up, a reflector serves in it, a probe asks by its sessions, and the kernel's stamps tell what came of it.

use std::{ffi::OsStr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use pathlab_netlab::{
    engine::{
        LinkCount, Outcome, Probed,
        kernel::{Played as By, Player, ShaperGrade},
    },
    lab::Lab,
    traffic::Brought,
};
use pathlab_record::{RecordedRun, Sample, Stamp};

use serde_json::json;

use super::{
    played::{Grade, Play, Played},
    reflecting::server,
};
use crate::{
    exit::Misuse,
    guardian,
    stage::{Stage, clients},
    stop::Interrupt,
};

/// Label of a session with its place.
const NUMBER: &str = "number";
/// A reply later than this is lost; no scenario's queue holds so much.
const TIMEOUT: Duration = Duration::from_secs(2);

impl Play<'_> {
    /// Whether the engines with real packets play it at all, said before anything is made.
    pub(super) fn check_real(&self) -> Result<()> {
        if self.share.is_some() {
            let problem = "--share steers in the virtual engine alone; `pathlab demo` steers real packets";
            return Err(Misuse(problem.into()).into());
        }
        if let Some(what) = self.scenario.beyond_real_packets() {
            let scenario = self.scenario.name.clone();
            return Err(Misuse::of(pathlab_netlab::Error::BeyondRealPackets { scenario, what }));
        }
        if let Some(reflecting) = self.reflecting {
            reflecting.check(self.scenario)?;
        }
        Ok(())
    }

    /// By namespaces and real packets; `out` takes what the probe leaves. Everything is down again on return.
    pub(super) fn really(&self, player: Player, out: &Path) -> Result<Played> {
        self.check_real()?;
        let (scenario, seed) = (self.scenario, self.seed);
        let probe = scenario.probe.as_ref().context("checked: it has a probe")?;
        let sessions = scenario.sessions(seed);
        let stop = Interrupt::on_signals()?;
        let verb = guardian::verb();
        let verb: Vec<&OsStr> = verb.iter().map(AsRef::as_ref).collect();
        let name = format!("run-{}", std::process::id());
        let mut lab = Lab::up_played(scenario, &name, seed, Some(&verb), player)?;
        let by_kernel = lab.played().all(|(_, by)| !matches!(by, By::Wire(_)));
        let links = lab.played().map(|([left, right], by)| format!("{left} to {right}: {by}")).collect();
        let ways = lab.ways(&sessions)?;
        let sessions_file = out.join("clients.jsonl");
        std::fs::write(&sessions_file, clients(&sessions, |number, _| json!({ NUMBER: number })))
            .with_context(|| sessions_file.display().to_string())?;
        let target = probe.to.first().context("the scenario's probe has no target")?.ip();
        let server = server(scenario, target)?;

        let mut stage = Stage { lab: &mut lab, out, stop: &stop };
        let listen = probe.to.iter().flat_map(|to| ["--listen".to_owned(), to.to_string()]);
        let how = match self.reflecting {
            // So that the probe can tell on which leg a packet was lost.
            None => vec!["--stateful".to_owned()],
            Some(reflecting) => reflecting.options(scenario, server)?,
        };
        let listen: Vec<String> = listen.chain(how).collect();
        let reflector = stage.serve(server, "reflect", &listen)?;
        let shapers = stage.lab.watch_shapers()?;
        let zero = stage.lab.begin();
        let began = jiff::Timestamp::now();
        let loads = stage.lab.start_loads(zero)?;
        let traffic = stage.lab.start_traffic(zero)?;
        let run = out.join("probe");
        let (interval, duration) = (milliseconds(probe.interval), milliseconds(scenario.duration() - zero.elapsed()));
        let (file, run_path) = (stage.path("clients.jsonl"), run.display().to_string());
        let args = ["probe", "--sessions", &file, "--interval", &interval, "--duration", &duration];
        // The kernel's stamps of the reflector, too: its own come before it is let to run. The driver answers base packets alone.
        let asked: &[&str] = if self.reflecting.is_none() { &["--tlv", "stages,follow-up"] } else { &[] };
        let more = ["--timeout", &milliseconds(TIMEOUT), "--out", &run_path];
        stage.verb(&probe.from, &[&args[..], asked, &more[..]].concat())?;
        let shapers = shapers.stop()?;
        let Brought { bulks, packets, failures } = traffic.stop();
        let sent: u64 = loads.into_iter().map(|load| load.stop().sent).sum();
        drop(reflector);
        let mut outcome = Outcome {
            bulks,
            ways,
            load_packets: packets + sent,
            ..measured(&run, sessions.len(), began, self.reflecting.is_some())?
        };
        for (node, dev, queue) in lab.queues()? {
            let count = LinkCount {
                sent: u64::from(queue.packets),
                overflowed: u64::from(queue.drops),
                ..LinkCount::default()
            };
            outcome.links.insert((node, dev), count);
        }
        let grade = lab.stop_wire()?;
        lab.down()?;
        for direction in grade.iter().flat_map(|grade| &grade.directions) {
            outcome.links.insert((direction.node.clone(), direction.dev.clone()), direction.count);
        }
        let by_wire = grade.as_ref().map_or_else(Vec::new, |grade| grade.objections(scenario.tolerance));
        let objections = [failures, by_wire, shapers.iter().filter_map(ShaperGrade::objection).collect()].concat();
        let engine = if by_kernel { "kernel" } else { "wire" };
        let grade = Grade { engine, links, wire: grade, shapers, objections };
        Ok(Played::new(self, sessions, outcome, grade))
    }
}

fn milliseconds(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

/// What the probe saw, from the kernel's stamps at both ends: what is left is the network's alone, or, `whole`, with what the reflector's host takes.
fn measured(run: &Path, sessions: usize, began: jiff::Timestamp, whole: bool) -> Result<Outcome> {
    let mut probes = Vec::new();
    let mut told = vec![Told::default(); sessions];
    for sample in RecordedRun::open(run)?.samples()? {
        let sample = sample?;
        if sample.outcome == pathlab_record::Outcome::Duplicate {
            continue;
        }
        let number = sample.labels.get(NUMBER).and_then(serde_json::Value::as_u64);
        let session = number.and_then(|number| usize::try_from(number).ok()).filter(|number| *number < sessions);
        let Some(session) = session else { bail!("{}: a sample of no session of ours", run.display()) };
        match sample.outcome {
            pathlab_record::Outcome::LostForward | pathlab_record::Outcome::LostReturn => told[session].leg = true,
            pathlab_record::Outcome::Received => told[session].last = told[session].last.max(Some(sample.seq)),
            _ => {}
        }
        probes.extend(probed(&sample, session, began, whole).map(|probe| (sample.seq, probe)));
    }
    // A probe does not know whether a reflector counts until its numbers differ from the probe's own. Ours counts: where they never did, no request was lost.
    for (seq, probe) in &mut probes {
        let Told { leg, last } = told[probe.session];
        if probe.arrived.is_none() && !leg && last > Some(*seq) {
            probe.arrived = Some(true);
        }
    }
    let mut probes: Vec<Probed> = probes.into_iter().map(|(_, probe)| probe).collect();
    probes.sort_by_key(|probe: &Probed| (probe.sent, probe.session));
    Ok(Outcome { probes, ..Outcome::default() })
}

/// What a session's samples tell of its losses.
#[derive(Clone, Copy, Default)]
struct Told {
    /// On which leg packets were lost is known.
    leg: bool,
    /// The last packet that was answered.
    last: Option<u32>,
}

/// A slot that was sent; `None` for one that was not.
fn probed(sample: &Sample, session: usize, began: jiff::Timestamp, whole: bool) -> Option<Probed> {
    let stamps = &sample.stamps;
    let left = stamps.a1.kernel.or(stamps.a1.app)?;
    let sent = i128::from(left.nanos()) - began.as_nanosecond();
    let sent = Duration::from_nanos(u64::try_from(sent).ok()?);
    let between = |from: Option<Stamp>, to: Option<Stamp>| {
        let span = to?.since(from?)?;
        u64::try_from(span.as_nanos()).ok().map(Duration::from_nanos)
    };
    let reached = stamps.b2.kernel.or(stamps.b2.app);
    // One host, one clock: each half is a plain difference.
    let forward = between(Some(left), reached);
    let heard = stamps.a4.kernel.or(stamps.a4.app);
    let back = between(stamps.b3.kernel.or(stamps.b3.app), heard);
    use pathlab_record::Outcome::{Duplicate, Late, Lost, LostForward, LostReturn, Received};
    let arrived = match sample.outcome {
        Received | LostReturn | Late | Duplicate => Some(true),
        LostForward => Some(false),
        Lost => None,
    };
    let halves = || forward.zip(back).map(|(forward, back)| forward + back);
    let rtt = if whole { between(Some(left), heard) } else { halves() }.filter(|_| sample.outcome == Received);
    Some(Probed { session, sent, arrived, forward, rtt })
}
