//! The play itself: who does what, where and when.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::{Timestamp, civil::Date};
use pathlab_canary::{Verdict, steer};
use pathlab_netlab::{
    engine::kernel::ShaperGrade,
    lab::{Lab, Running},
    load::Sent,
    scenario::{Hop, Scenario, Session, Window, WindowKind},
};
use pathlab_record::{Arm, Head, Run, SessionKey};
use pathlab_reflector::prober::{ProbeReport, Punctuality};
use pathlab_xdp::{XdpMode, XdpPass};
use serde_json::{Value, json};

use super::split::Split;
use crate::{
    canary, guardian, host,
    progress::Progress,
    report, run_directory,
    stage::{Stage, clients},
    stop::Interrupt,
};

/// The port of the reflector in the driver, beside STAMP's own for the one in the socket.
const DRIVER_PORT: u16 = 8862;
/// The zone of the evenings.
const ZONE: &str = "Asia/Tokyo";
/// The first evening; the date is a label, so that two evenings can be played in a minute.
const FIRST_EVENING: Date = jiff::civil::date(2026, 1, 1);

/// One packet in so many may be given up for want of time.
const MOST_SKIPPED: u64 = 100;
/// Half of the packets have to leave no later than so much; a machine with nothing else to do keeps half a millisecond.
const MOST_LATE_NS: u64 = 5_000_000;

/// All that the screen tells.
pub(crate) struct Story {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) verdict: Verdict,
    pub(crate) splits: Vec<Split>,
    pub(crate) loads: Vec<Sent>,
    /// Why nothing can be concluded from it.
    pub(crate) objections: Vec<String>,
    pub(crate) packets: u64,
    pub(crate) took: Duration,
    pub(crate) head: Head,
    pub(crate) report: PathBuf,
}

/// Plays a variant of the demo's scenario and leaves its run directories in `out`. Everything that was put up is down again on return.
pub(crate) fn play(
    variant: Option<&str>,
    seed: Option<u32>,
    out: &Path,
    started: Timestamp,
    stop: &Interrupt,
) -> Result<Story> {
    let begun = Instant::now();
    let progress = Progress::new();
    let scenario = Scenario::load("demo", variant)?;
    let seed = seed.map_or(scenario.seed, u64::from);
    let about = Run {
        options: json!({ "variant": variant, "seed": seed }),
        host: host::facts(),
        clock: host::clock(None),
        ..Run::new("demo", started)
    };
    let (mut directory, scrap) = run_directory::create(out, &about)?;
    let name = format!("demo-{}", std::process::id());

    progress.say("making namespaces, links and routes");
    directory.artefact("clients.jsonl", clients(&scenario.sessions(seed), labels).as_bytes())?;
    directory.artefact("seed", format!("{seed}\n").as_bytes())?;
    directory.artefact("canary.toml", experiment(&scenario, &name)?.as_bytes())?;
    let verb = guardian::verb();
    let verb: Vec<&OsStr> = verb.iter().map(AsRef::as_ref).collect();
    let mut lab = Lab::up_guarded(&scenario, &name, seed, &verb)?;
    let mut scene = Scene { stage: Stage { lab: &mut lab, out, stop }, progress: &progress };

    let _reflector = scene.stage.serve("server", "reflect", &reflect_args(&scenario))?;
    let shapers = scene.stage.lab.watch_shapers()?;
    let zero = Instant::now();
    let loads = scene.stage.lab.start_loads(zero)?;
    // Written down before there are data, as in production.
    let experiment = canary::read_experiment(&out.join("canary.toml"))?;
    let plan = out.join("plan");
    let (_, head) = canary::write_down(&experiment, &plan, Timestamp::now())?;
    directory.note(Timestamp::now(), Some("canary register"), &format!("the plan is registered: {head}"))?;
    let mut runs = Vec::new();
    let mut packets = 0;
    let mut objections = Vec::new();
    let mut steerer = None;
    for (label, window) in labelled(&scenario) {
        if window.kind == WindowKind::Evening && steerer.is_none() {
            progress.say("steering a share of the sessions to transit B");
            steerer = Some(scene.steer(&name)?);
            directory.note(Timestamp::now(), Some("canary start"), "steering began")?;
        }
        let (run, report, left) = scene.evening(&scenario, &label, window, zero)?;
        packets += report.total.counts.sent;
        objections.extend(objection(&window.name, &report.total.schedule));
        objections.extend(shortened(window, left));
        let head = pathlab_record::verify(&run)?.head;
        directory.note(Timestamp::now(), Some("probe"), &format!("{} is measured: {head}", window.name))?;
        runs.push(run);
    }
    progress.say("rolling back");
    scene.stage.verb("server", &["canary", "rollback", "-c", &scene.stage.path("canary.toml")])?;
    drop(steerer);
    directory.note(Timestamp::now(), Some("canary rollback"), "every session is on control")?;
    let loads: Vec<Sent> = loads.into_iter().map(|load| load.stop()).collect();
    objections.extend(shapers.stop()?.iter().filter_map(ShaperGrade::objection));

    let quiet = scene.quiet(&scenario)?;
    progress.say("judging");
    let planned = [runs.as_slice(), &[plan]].concat();
    let verdict = canary::verdict(&planned, &experiment)?;
    let splits = splits(&runs, &scenario, seed, &experiment, quiet)?;
    directory.artefact("verdict.json", verdict.to_json().as_bytes())?;
    let head = directory.seal(Timestamp::now())?;
    progress.say("taking everything down");
    lab.down()?;
    scrap.keep();
    progress.say("writing the report");
    let page = report::page::gather(&[out.to_owned()], Timestamp::now())?;
    let report = out.join("report.html");
    report::command::write(&page, &report)?;
    Ok(Story { scenario, seed, verdict, splits, loads, objections, packets, took: begun.elapsed(), head, report })
}

/// Why what a window measured is the machine's doing and not the network's.
fn objection(window: &str, schedule: &Punctuality) -> Option<String> {
    let lateness = schedule.lateness.as_ref().map_or(0, |lateness| lateness.p50);
    let busy = schedule.skipped * MOST_SKIPPED > schedule.slots || lateness > MOST_LATE_NS;
    busy.then(|| {
        format!(
            "{window}: this machine was too busy: half of the packets left {} late or later, {} of {} never",
            report::span(lateness),
            schedule.skipped,
            schedule.slots
        )
    })
}

/// Why what a window measured is not what it is about: its probe began when half of it was over.
fn shortened(window: &Window, left: Duration) -> Option<String> {
    let whole = window.end - window.start;
    (left * 2 < whole)
        .then(|| format!("{}: this machine was too busy: {left:.1?} of {whole:?} were left to measure", window.name))
}

/// The windows with what their sessions are labelled: `aa`, then one date an evening.
fn labelled(scenario: &Scenario) -> impl Iterator<Item = (String, &Window)> {
    let mut date = FIRST_EVENING;
    scenario.windows.iter().map(move |window| match window.kind {
        WindowKind::Prelude => ("aa".to_owned(), window),
        WindowKind::Evening => {
            let label = date.to_string();
            date = date.tomorrow().unwrap_or(date);
            (label, window)
        }
    })
}

fn labels(_: usize, session: &Session) -> Value {
    json!({ "isp": session.isp, "asn": session.asn })
}

/// `canary.toml` with the rules of production; only the windows are labelled instead of timed.
fn experiment(scenario: &Scenario, name: &str) -> Result<String> {
    let arms = scenario.arms.as_ref().context("the scenario has no arms")?;
    let target = scenario.isps.first().context("the scenario has no ISP")?;
    let target_port = |probe: &pathlab_netlab::scenario::Probe| probe.to.first().map(SocketAddr::port);
    let port = scenario.probe.as_ref().and_then(target_port).context("the scenario has no probe")?;
    let evenings = scenario.windows.iter().filter(|window| window.kind == WindowKind::Evening).count();
    let hop = |family: &str, hop: &Option<Hop>| {
        hop.as_ref()
            .map_or_else(String::new, |hop| format!("{family} = {{ via = \"{}\", dev = \"{}\" }}\n", hop.via, hop.dev))
    };
    Ok(format!(
        r#"[experiment]
name = "{name}"
seed_file = "seed"
share = "15%"
cap_share = "20%"

[key]
from = "client_addr_port"

[steer]
mode = "host"
lease = "5s"
mark_mask = "0x00ff0000"
priority = 10000
max_canary_sessions = 20000
server_port = {port}

[steer.canary]
{v4}{v6}
[windows]
evening = "19:00-24:00"
zone = "{ZONE}"
evenings = {evenings}
bin = "10min"

[policy]
metric = "rtt.p95"
margin = "2ms"
target = {{ isp = ["{target}"] }}
guardrails = ["loss", "ipdv.p95", "rtt.p99", "tail_sessions"]
"#,
        v4 = hop("v4", &arms.canary.v4),
        v6 = hop("v6", &arms.canary.v6),
        target = target.name,
    ))
}

fn reflect_args(scenario: &Scenario) -> Vec<String> {
    let targets = scenario.probe.iter().flat_map(|probe| &probe.to);
    targets.flat_map(|target| ["--listen".to_owned(), target.to_string()]).collect()
}

fn splits(
    runs: &[PathBuf],
    scenario: &Scenario,
    seed: u64,
    experiment: &pathlab_canary::Experiment,
    quiet: Vec<Split>,
) -> Result<Vec<Split>> {
    let share = experiment.experiment.share;
    let arms: HashMap<String, Arm> = scenario
        .sessions(seed)
        .into_iter()
        .filter_map(|session| {
            let key = SessionKey(session.source);
            let bucket = pathlab_canary::bucket(u32::try_from(seed).ok()?, &key, experiment.key.from)?;
            Some((key.to_string(), pathlab_canary::arm(bucket, share)))
        })
        .collect();
    let evenings: Vec<&Path> = runs.iter().map(PathBuf::as_path).filter(|run| !run.ends_with("aa")).collect();
    let mut splits = Vec::new();
    for arm in [Arm::Control, Arm::Canary] {
        splits.extend(Split::of_arm(arm, &evenings, |session| arms.get(session).copied())?);
    }
    splits.extend(quiet);
    Ok(splits)
}

/// The demo on its stage.
struct Scene<'a> {
    stage: Stage<'a>,
    progress: &'a Progress,
}

impl Scene<'_> {
    fn steer(&mut self, name: &str) -> Result<Steerer> {
        let (config, log) = (self.stage.path("canary.toml"), self.stage.path("steering"));
        let running = self
            .stage
            .serve("server", "canary start", &["-c".to_owned(), config, "--out".to_owned(), log])
            .with_context(|| format!("steering {name}"))?;
        Ok(Steerer { name: name.to_owned(), running: Some(running) })
    }

    /// One window of the scenario, measured, and how long.
    fn evening(
        &mut self,
        scenario: &Scenario,
        label: &str,
        window: &Window,
        zero: Instant,
    ) -> Result<(PathBuf, ProbeReport, Duration)> {
        while zero.elapsed() < window.start {
            self.stage.check()?;
            std::thread::sleep(Duration::from_millis(20).min(window.start.saturating_sub(zero.elapsed())));
        }
        let probe = scenario.probe.as_ref().context("the scenario has no probe")?;
        self.progress.say(format!(
            "{}: {} sessions for {:?}",
            window.name,
            scenario.sessions(0).len(),
            window.end - window.start
        ));
        let run = self.stage.out.join(window.name.replace(' ', "-"));
        let run = if label == "aa" { self.stage.out.join("aa") } else { run };
        let interval = format!("{}ms", probe.interval.as_millis());
        // A machine that is too slow for it may come when a window is over: then this is no measurement, and the demo says so.
        let left = window.end.saturating_sub(zero.elapsed()).max(probe.interval);
        let duration = format!("{}ms", left.as_millis());
        let clients = self.stage.path("clients.jsonl");
        let (out, window_label) = (run.display().to_string(), format!("window={label}"));
        self.stage.verb(
            &probe.from,
            &[
                "probe",
                "--sessions",
                &clients,
                "--interval",
                &interval,
                "--duration",
                &duration,
                "--label",
                &window_label,
                "--zone",
                ZONE,
                "--coalesce",
                "1ms",
                "--keep-samples",
                "15%",
                "--out",
                &out,
            ],
        )?;
        let report = read_report(&run)?;
        Ok((run, report, left))
    }

    /// The same few sessions against the socket reflector and the driver's, with nothing else on the line.
    fn quiet(&mut self, scenario: &Scenario) -> Result<Vec<Split>> {
        self.progress.say("the socket reflector and the XDP reflector, side by side on a quiet line");
        let probe = scenario.probe.as_ref().context("the scenario has no probe")?;
        let target = probe.to.first().context("the scenario's probe has no target")?;
        let control =
            scenario.arms.as_ref().and_then(|arms| arms.control.v4.as_ref()).context("no IPv4 control path")?;
        // A veth end takes XDP_TX only while the other end runs an XDP program too.
        let (node, dev) = scenario.peer_of("server", &control.dev).context("the control path has no other end")?;
        let _pass = self.stage.lab.namespace(node)?.run(|| XdpPass::attach(dev, XdpMode::Auto))??;
        let driver = SocketAddr::new(target.ip(), DRIVER_PORT);
        let args = ["--datapath", "xdp", "--iface", &control.dev, "--listen", &driver.to_string()].map(str::to_owned);
        let _reflector = self.stage.serve("server", "reflect", &args)?;
        let mut splits = Vec::new();
        for (name, target) in [("socket", *target), ("xdp", driver)] {
            let run = self.stage.out.join(format!("quiet-{name}"));
            let (out, target) = (run.display().to_string(), target.to_string());
            let source =
                scenario.isps.first().and_then(|isp| isp.prefixes.first()).context("no client prefix")?.to_string();
            self.stage.verb(
                &probe.from,
                &[
                    "probe",
                    &target,
                    "--source",
                    &source,
                    "--source-port",
                    "50000",
                    "--fan",
                    "20",
                    "--interval",
                    "40ms",
                    "--duration",
                    "1500ms",
                    "--out",
                    &out,
                ],
            )?;
            splits.extend(Split::of_report(name, &read_report(&run)?));
        }
        Ok(splits)
    }
}

/// `canary start`. Dropping it rolls back and waits for its end: killed instead, it would leave that to its guardian, and the demo might end
/// before that has.
struct Steerer {
    name: String,
    running: Option<Running>,
}

impl Drop for Steerer {
    fn drop(&mut self) {
        let gone =
            matches!(steer::rollback(&self.name, &canary::options()), Ok(_) | Err(steer::Error::NotRunning { .. }));
        if let Some(running) = self.running.take().filter(|_| gone) {
            let _ = running.wait();
        }
    }
}

fn read_report(run: &Path) -> Result<ProbeReport> {
    let path = run.join("probe.json");
    let file = File::open(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(serde_json::from_reader(std::io::BufReader::new(file))?)
}
