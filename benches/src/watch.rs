//! What watching a host costs: nanoseconds a run of each program, and the packets a second that are lost to it, with `pathlab host watch` and without by turns.
//!
//! ```text
//!  CPU 0                              CPU 1
//!  generator ── wire0 ─────────────── wire0 ── recvmmsg echo     pathlab host watch, now and then
//!  bench-p                            bench-r
//! ```
//!
//! An echo sends and receives, so that the programs of both ways have something to do.

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::net::UnixDatagram,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    contestant::{Contestant, Programs, Running},
    generator::Generator,
    host, sys,
    table::{Aim, Better, Row, SCHEMA, Section, Table},
    tables::Effort,
    turns::order,
    wire::{INTERFACE, Wire},
};

/// Packets a second at which the loss is aimed at.
const PACE: f64 = 50_000.0;
/// Of the rate, at that pace.
const MOST_LOST: f64 = 3.0;
/// Of the pace: where the generator was kept from so much of it with nobody watching, the machine had no room for the bench, and the round says nothing.
const LEAST_OFFERED: f64 = 0.95;
/// What is offered, as the tables say it.
const OFFERED: [&str; 2] = ["50,000 packets a second", "all that the generator can send"];

/// The last line of `pathlab host watch --json`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Whole {
    window: String,
    overhead: Vec<Overhead>,
    lacks: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Overhead {
    program: String,
    per_event: Option<f64>,
    share: f64,
    missed: u64,
}

/// What one round saw at one pace.
#[derive(Debug)]
struct Round {
    /// Packets a second that came back, without the watch and with it.
    rate: [f64; 2],
    /// The generator held its pace where nobody watched.
    sound: bool,
    watched: Whole,
    /// Processor time of the watching process, of one processor.
    process: f64,
}

/// The watch's table.
///
/// # Errors
/// No root, or programs that the kernel does not take.
pub fn measure(programs: &Programs, effort: &Effort) -> Result<Table> {
    let (started, before) = (jiff::Timestamp::now(), host::before()?);
    let wire = Wire::new()?;
    let mut echo = Contestant::RecvmmsgEcho.start(&wire, programs)?;
    let rounds = {
        // in the client's namespace for as long as the generator lives
        let _inside = wire.far.enter()?;
        let mut generator = Generator::new()?;
        echo.ready(|| generator.answered_within(Duration::from_millis(200)))?;
        generator.trial(PACE, effort.span)?;
        let mut rounds = [Vec::new(), Vec::new()];
        // A trial is short and its noise large: four times as many as of what takes long.
        for round in 0..effort.rounds * if effort.quick { 1 } else { 4 } {
            for pace in order(2, round) {
                let measured = one(&wire, programs, effort, &mut generator, &echo, [PACE, f64::INFINITY][pace], round)?;
                eprintln!("round {} of {}: {:.0?}", round + 1, OFFERED[pace], measured.rate);
                rounds[pace].push(measured);
            }
        }
        rounds
    };
    drop(echo);
    drop(wire);
    let loss = section("Loss of packet rate to the watch, all programs on", "%", Better::Less, {
        let row = |pace: usize| {
            let losses = rounds[pace].iter().map(|round| round.sound.then(|| 100.0 * lost(round.rate)));
            Row::sparse(format!("of {}", OFFERED[pace]), losses)
        };
        vec![row(0), row(1)]
    });
    let aims = vec![aim(&loss.rows[0])];
    let mut sections = vec![loss];
    for (pace, rounds) in rounds.iter().enumerate() {
        let rates = |name: &str, watched: usize| Row::new(name, rounds.iter().map(|round| round.rate[watched]));
        let rows = vec![rates("nobody watches", 0), rates("pathlab host watch", 1)];
        sections.push(section(&format!("Reflected of {}", OFFERED[pace]), "packets a second", Better::More, rows));
    }
    for (pace, rounds) in rounds.iter().enumerate() {
        let title = format!("A run of a program, by the kernel's account, at {}", OFFERED[pace]);
        sections.push(section(&title, "ns", Better::Less, runs(rounds)));
    }
    let shares = |figure: fn(&Round) -> f64, name: &str| {
        (0..2).map(|pace| Row::new(format!("{name}, {}", OFFERED[pace]), rounds[pace].iter().map(figure))).collect()
    };
    let programs_share = |round: &Round| round.watched.overhead.iter().map(|cost| 100.0 * cost.share).sum();
    let mut rows: Vec<Row> = shares(programs_share, "all programs");
    rows.extend::<Vec<Row>>(shares(|round| 100.0 * round.process, "the watching process"));
    sections.push(section("Processor time of the watch", "% of one processor", Better::Less, rows));
    let mut facts = host::after(before, programs)?;
    facts.peers.clear();
    Ok(Table {
        schema: SCHEMA.into(),
        table: "watch".into(),
        started,
        quick: effort.quick,
        method: method(effort, &rounds),
        host: facts,
        sections,
        aims,
    })
}

/// Both turns at one pace.
fn one(
    wire: &Wire,
    programs: &Programs,
    effort: &Effort,
    generator: &mut Generator,
    echo: &Running,
    pace: f64,
    round: usize,
) -> Result<Round> {
    let mut rate = [0.0; 2];
    let mut sound = true;
    let mut watched = None;
    for turn in order(2, round) {
        let watch = (turn == 1).then(|| Watching::begin(wire, programs, echo)).transpose()?;
        let trial = generator.trial(pace, effort.run)?;
        rate[turn] = trial.reply_rate;
        sound &= turn == 1 || pace.is_infinite() || trial.offered >= LEAST_OFFERED * pace;
        if let Some(watch) = watch {
            watched = Some(watch.end()?);
        }
    }
    let (watched, process) = watched.context("both turns were taken")?;
    Ok(Round { rate, sound, watched, process })
}

/// `pathlab host watch` beside the echo.
struct Watching {
    child: Child,
    begun: std::time::Instant,
}

impl Watching {
    fn begin(wire: &Wire, programs: &Programs, echo: &Running) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("ready");
        let ready = UnixDatagram::bind(&path)?;
        ready.set_read_timeout(Some(Duration::from_secs(20)))?;
        let begun = std::time::Instant::now();
        let mut command = wire.near.command(&programs.pathlab)?;
        // all that there is: the echo's threads and its ticks, too
        command.args(["host", "watch", "--json", "--iface", INTERFACE, "--tick", "1000", "--pid"]);
        command.arg(echo.id().to_string());
        command.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        if ready.recv(&mut [0; 64]).is_err() {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("pathlab host watch does not begin: try it by hand");
        }
        Ok(Self { child, begun })
    }

    /// What it counted, and how much of one processor it took.
    fn end(mut self) -> Result<(Whole, f64)> {
        sys::terminate(&self.child)?;
        let mut said = String::new();
        self.child.stdout.take().context("piped")?.read_to_string(&mut said)?;
        let span = self.begun.elapsed();
        let ended = sys::wait(self.child)?;
        ensure!(ended.status.success(), "pathlab host watch: {}", ended.status);
        Ok((whole(&said)?, ended.processor.as_secs_f64() / span.as_secs_f64()))
    }
}

fn whole(said: &str) -> Result<Whole> {
    let last = said.lines().last().context("pathlab host watch said nothing")?;
    let whole: Whole = serde_json::from_str(last)?;
    ensure!(whole.window == "whole", "the last line is of {}", whole.window);
    Ok(whole)
}

/// Share of the rate.
fn lost([without, with]: [f64; 2]) -> f64 {
    if without > 0.0 { 1.0 - with / without } else { 0.0 }
}

/// By program; one that did not run in a round has no figure there.
fn runs(rounds: &[Round]) -> Vec<Row> {
    let mut names: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
    for (place, round) in rounds.iter().enumerate() {
        for cost in &round.watched.overhead {
            names.entry(&cost.program).or_insert_with(|| vec![None; rounds.len()])[place] = cost.per_event;
        }
    }
    names.into_iter().map(|(name, figures)| Row::sparse(name, figures)).collect()
}

fn section(title: &str, unit: &str, better: Better, rows: Vec<Row>) -> Section {
    Section { title: title.into(), unit: unit.into(), better, rows }
}

fn aim(loss: &Row) -> Aim {
    let goal = format!("Under {MOST_LOST} % of 50,000 packets a second lost to the watch");
    match loss.summary() {
        Some(summary) => Aim {
            goal,
            figure: format!("{:.2} % (rounds {:.2} to {:.2})", summary.median, summary.min, summary.max),
            met: summary.median < MOST_LOST,
        },
        None => {
            Aim { goal, figure: "no figure: the machine did not let the generator hold its pace".into(), met: false }
        }
    }
}

fn method(effort: &Effort, rounds: &[Vec<Round>; 2]) -> Vec<String> {
    let all = || rounds.iter().flatten().map(|round| &round.watched);
    let missed: u64 = all().flat_map(|watched| &watched.overhead).map(|cost| cost.missed).sum();
    let mut lines = vec![
        format!(
            "{} rounds; in each, both paces with and without `pathlab host watch` by turns, in another order each round, {:?} each; a loss is taken within a round. Of the \
             paced rounds {} had no figure, because the generator was kept from {:.0} % of its pace with nobody watching: others had its processor.",
            rounds[0].len(),
            effort.run,
            rounds[0].iter().filter(|round| !round.sound).count(),
            100.0 * (1.0 - LEAST_OFFERED),
        ),
        "STAMP base packets of 44 octets, made by AF_XDP in one namespace, through a veth and the stack of another into the UDP socket of an echo that takes and \
         sends 64 at a time, and back; what comes back is counted by an XDP program. A rate is of the packets that came back while it was sent."
            .into(),
        "The watch is the program as users start it: it reads its maps once a second, and the kernel measures its programs for a tenth of the time, which is in the loss, too.".into(),
        format!("A run is the kernel's run_time_ns over run_cnt, its reading of the clock included. The watch missed {missed} events in all rounds."),
    ];
    if cfg!(debug_assertions) {
        lines.push("Generator and echo were built without optimisation, so that saturation comes earlier.".into());
    }
    if let Some(lacks) = all().map(|watched| &watched.lacks).find(|lacks| !lacks.is_empty()) {
        lines.push(format!("Not watched on this host: {}.", lacks.join("; ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read_and_a_program_that_did_not_run_has_no_figure() {
        let line = |window: &str, run: &str| {
            format!(
                r#"{{"schema":"pathlab.watch/1","window":"{window}","seconds":1.0,"overhead":[{{"program":"dropped","runs":3,"per_event":{run},"share":0.5,"missed":0}}],"lacks":[]}}"#
            )
        };
        let said = format!("{}\n{}\n", line("interval", "1.0"), line("whole", "81.5"));
        let round =
            |said: &str| Round { rate: [1.0, 1.0], sound: true, watched: whole(said).expect("lines"), process: 0.0 };
        let rows = runs(&[round(&said), round(&line("whole", "null"))]);
        assert_eq!(rows, [Row::sparse("dropped", [Some(81.5), None])]);
        assert!(whole(&line("interval", "1.0")).is_err());
        assert!(whole("").is_err());
    }

    #[test]
    fn the_loss_is_a_share_of_what_there_is_without() {
        assert!((lost([50_000.0, 49_000.0]) - 0.02).abs() < 1e-12);
        assert!(lost([50_000.0, 51_000.0]) < 0.0);
        let met = aim(&Row::new("of it", [2.0, 4.0, 2.5]));
        assert!(met.met && met.figure == "2.50 % (rounds 2.00 to 4.00)");
        assert!(!aim(&Row::sparse("of it", [None, None])).met);
    }
}
