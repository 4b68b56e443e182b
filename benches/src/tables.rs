//! The two tables: which figures they hold, and what is aimed at.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    contestant::{ALL, Contestant, Programs},
    host,
    rate::{self, Rates},
    round_trips::{self, Pair, Run},
    search::Criterion,
    table::{Aim, Better, Row, SCHEMA, Section, Table, ratios},
    test_run::{self, Family, PROGRAMS},
    wire::Wire,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of all contestants.
    pub rounds: usize,
    /// Of one trial at one rate.
    pub span: Duration,
    /// Of one run of a client.
    pub run: Duration,
    /// Repetitions of one BPF test run.
    pub repetitions: u32,
    /// Only to show that it works.
    pub quick: bool,
}

impl Effort {
    /// What a figure takes that is to be shown.
    pub fn whole(rounds: usize) -> Self {
        let (span, run) = (Duration::from_secs(1), Duration::from_secs(3));
        Self { rounds, span, run, repetitions: 300_000, quick: false }
    }

    /// What shows that the bench works.
    pub fn quick() -> Self {
        let (span, run) = (Duration::from_millis(200), Duration::from_millis(300));
        Self { rounds: 1, span, run, repetitions: 20_000, quick: true }
    }
}

/// What may be lost where nothing is to be lost: less than one packet in ten thousand, so that one stolen slice does not decide.
const LOSS: f64 = 1e-4;

/// The reflector's table.
///
/// # Errors
/// A contestant that is not installed or does not answer.
pub fn reflector(programs: &Programs, effort: &Effort) -> Result<Table> {
    let (started, before) = (jiff::Timestamp::now(), host::before()?);
    let wire = Wire::new()?;
    let criterion = Criterion { loss: LOSS, from: 2000.0, to: f64::INFINITY, precision: 0.03 };
    let rates = rate::measure(&wire, programs, &rate::Plan { rounds: effort.rounds, span: effort.span, criterion })?;
    let pairs = [
        Pair::Probe(Contestant::Socket, ""),
        Pair::Probe(Contestant::AfXdp, ""),
        Pair::Probe(Contestant::AfXdpBusy, ""),
        Pair::Probe(Contestant::Xdp, ""),
        Pair::Probe(Contestant::StampSuite, ""),
        Pair::Sockperf,
        Pair::Irtt("comp"),
    ];
    let slots = effort.run.as_millis() as usize;
    let runs = round_trips::measure(&wire, programs, &pairs, effort.rounds, Duration::from_millis(1), slots)?;
    drop(wire);
    let mut sections = rate_sections(&rates);
    sections.extend(round_trip_sections(&pairs, &runs));
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        sections.push(test_runs(family, name, effort)?);
    }
    let aims = reflector_aims(&sections)?;
    Ok(Table {
        schema: SCHEMA.into(),
        table: "reflector".into(),
        started,
        quick: effort.quick,
        method: reflector_method(effort),
        host: host::after(before, programs)?,
        sections,
        aims,
    })
}

/// The probe's table.
///
/// # Errors
/// As [`reflector`].
pub fn probe(programs: &Programs, effort: &Effort) -> Result<Table> {
    const PAIRS: [Pair; 6] = [
        Pair::Probe(Contestant::Socket, ""),
        Pair::Probe(Contestant::Socket, "--class other"),
        Pair::Probe(Contestant::Socket, "--pace spin"),
        Pair::Irtt("comp"),
        Pair::Irtt("busy"),
        Pair::IrttFifo,
    ];
    let (started, before) = (jiff::Timestamp::now(), host::before()?);
    let wire = Wire::new()?;
    let (mut sections, mut aims) = (Vec::new(), Vec::new());
    for interval in [Duration::from_millis(1), Duration::from_micros(200)] {
        let slots = (effort.run.as_nanos() / interval.as_nanos()) as usize;
        let runs = round_trips::measure(&wire, programs, &PAIRS, effort.rounds, interval, slots)?;
        let of = |figure: fn(&Run) -> Option<f64>| rows(&PAIRS, &runs, figure);
        let on_time = of(|run| run.kept.map(|kept| kept.on_time * 100.0));
        if interval == Duration::from_millis(1) {
            let share = on_time[0].summary().context("no round of the probe")?;
            aims.push(Aim {
                goal: "99 % of slots within 50 µs at 1 ms".into(),
                figure: format!("{:.2} % (rounds {:.2} to {:.2})", share.median, share.min, share.max),
                met: share.median >= 99.0,
            });
        }
        let section = |title: &str, unit: &str, better, rows| Section {
            title: format!("{title}, a slot every {interval:?}"),
            unit: unit.into(),
            better,
            rows,
        };
        sections.extend([
            section("Slots with a packet on the wire within 50 µs", "%", Better::More, on_time),
            section("Lateness of slots, p50", "µs", Better::Less, of(|run| run.kept.map(|kept| kept.late_p50))),
            section("Lateness of slots, p99", "µs", Better::Less, of(|run| run.kept.map(|kept| kept.late_p99))),
            section(
                "By its own account: slots within 50 µs (probe), slots not missed (irtt)",
                "%",
                Better::More,
                of(|run| run.own_account.map(|share| share * 100.0))
                    .into_iter()
                    .map(|row| row.beside(None::<String>))
                    .collect(),
            ),
        ]);
    }
    Ok(Table {
        schema: SCHEMA.into(),
        table: "probe".into(),
        started,
        quick: effort.quick,
        method: probe_method(effort),
        host: host::after(before, programs)?,
        sections,
        aims,
    })
}

fn rate_sections(rates: &[Vec<Rates>]) -> Vec<Section> {
    let rows = |figure: fn(&Rates) -> Option<f64>, bounded: bool| -> Vec<Row> {
        let row = |(contestant, rounds): (&Contestant, &Vec<Rates>)| {
            let beside = match contestant {
                Contestant::StampSuite | Contestant::RecvmmsgEcho => Some(Contestant::Socket.name()),
                Contestant::XskEcho => Some(Contestant::AfXdp.name()),
                _ => None,
            };
            let at_least = bounded && rounds.iter().filter(|rates| rates.generator_bound).count() * 2 > rounds.len();
            Row { at_least, ..Row::sparse(contestant.name(), rounds.iter().map(figure)).beside(beside) }
        };
        ALL.iter().zip(rates).map(row).collect()
    };
    let section = |title: &str, rows| Section {
        title: title.into(),
        unit: "packets a second".into(),
        better: Better::More,
        rows,
    };
    vec![
        section("Reflected at no loss", rows(|rates| Some(rates.no_loss), true)),
        section("Reflected when twice that is offered", rows(|rates| rates.doubled, false)),
        section("Reflected when all is offered that the generator can send", rows(|rates| Some(rates.flat_out), false)),
        section("Which was so much (no figure of the reflector)", rows(|rates| Some(rates.offered), false))
            .without_comparison(),
    ]
}

fn rows(pairs: &[Pair], runs: &[Vec<Run>], figure: fn(&Run) -> Option<f64>) -> Vec<Row> {
    let row = |(pair, runs): (&Pair, &Vec<Run>)| {
        let ours = matches!(pair, Pair::Probe(contestant, _) if *contestant != Contestant::StampSuite);
        Row::sparse(pair.name(), runs.iter().map(figure)).beside((!ours).then(|| pairs[0].name()))
    };
    pairs.iter().zip(runs).map(row).collect()
}

fn round_trip_sections(pairs: &[Pair], runs: &[Vec<Run>]) -> Vec<Section> {
    let section = |title: &str, figure: fn(&Run) -> Option<f64>| Section {
        title: title.into(),
        unit: "µs".into(),
        better: Better::Less,
        rows: rows(pairs, runs, figure),
    };
    vec![
        section("Round trip as user space sees it, p50, one packet every 1 ms", |run| Some(run.rtt_p50)),
        section("Round trip as user space sees it, p99, one packet every 1 ms", |run| Some(run.rtt_p99)),
    ]
}

/// Net of writing the request back, round by round.
fn test_runs(family: Family, name: &str, effort: &Effort) -> Result<Section> {
    let figures = test_run::measure(family, effort.rounds.max(5), effort.repetitions)?;
    let net = |at: usize| figures[at].iter().zip(&figures[0]).map(|(all, floor)| all - floor).collect::<Vec<_>>();
    let rows = (1..PROGRAMS.len()).rev().map(|at| {
        let row = Row::new(TEST_RUN_ROWS[at], net(at));
        if at == OURS { row } else { row.beside(Some(TEST_RUN_ROWS[OURS])) }
    });
    Ok(Section {
        title: format!("BPF test run, {name}, XDP_TX counted every time"),
        unit: "ns a packet".into(),
        better: Better::Less,
        rows: rows.collect(),
    })
}

const OURS: usize = 3;
const TEST_RUN_ROWS: [&str; 4] =
    ["restore", "bare swap", "baseline: swap, TAI clock, checksum", "pathlab's XDP reflector"];

fn reflector_aims(sections: &[Section]) -> Result<Vec<Aim>> {
    let rate = sections.first().context("no rates")?;
    let row = |name: &str| rate.row(name).with_context(|| format!("no row {name}"));
    let mut aims = Vec::new();
    let times = |ours: &Row, peer: &Row| crate::figures::Summary::of(&ratios(ours, peer));
    for ours in [Contestant::Socket, Contestant::AfXdp, Contestant::AfXdpBusy, Contestant::Xdp] {
        if let Some(ratio) = times(row(ours.name())?, row(Contestant::StampSuite.name())?) {
            aims.push(Aim {
                goal: format!("At least 5 times stamp-suite's rate at no loss ({})", ours.name()),
                figure: format!("{:.2} times (rounds {:.2} to {:.2})", ratio.median, ratio.min, ratio.max),
                met: ratio.median >= 5.0,
            });
        }
    }
    for ours in [Contestant::AfXdp, Contestant::AfXdpBusy, Contestant::Xdp] {
        if let Some(ratio) = times(row(ours.name())?, row(Contestant::XskEcho.name())?) {
            aims.push(Aim {
                goal: format!("At least the xsk-rs echo's rate at no loss ({})", ours.name()),
                figure: format!("{:.2} times (rounds {:.2} to {:.2})", ratio.median, ratio.min, ratio.max),
                met: ratio.median >= 1.0,
            });
        }
    }
    for section in sections.iter().filter(|section| section.title.starts_with("BPF test run")) {
        let rows = section.row(TEST_RUN_ROWS[OURS]).zip(section.row(TEST_RUN_ROWS[2]));
        if let Some(ratio) = rows.and_then(|(ours, baseline)| times(ours, baseline)) {
            aims.push(Aim {
                goal: format!("At most 1.5 times the baseline's nanoseconds ({})", section.title),
                figure: format!("{:.2} times (rounds {:.2} to {:.2})", ratio.median, ratio.min, ratio.max),
                met: ratio.median <= 1.5,
            });
        }
    }
    Ok(aims)
}

const CPUS: &str = "CPU 0: the client (generator, probe, irtt, sockperf), its system calls, and with them the reflector's end of the veth: driver, XDP \
                    program, stack up to the socket or ring. CPU 1: the reflector's process, its system calls, and with them the client's end of \
                    the veth. Everything runs at nice -20, where `scripts/bench` puts it, unless a row says otherwise. A reflector in the driver has CPU 0 alone, together with the generator.";

fn reflector_method(effort: &Effort) -> Vec<String> {
    let Effort { rounds, span, run, repetitions, .. } = effort;
    vec![
        format!("{rounds} rounds; in each all contestants in turn, in another order each round; least, most and MAD (median absolute deviation) are over rounds."),
        "`beside ours`: the row's figure over the figure of ours that it names, within each round; the median of that, and its least and most.".into(),
        CPUS.into(),
        "STAMP base packets, 44 octets, IPv4, from one AF_XDP generator that sends at an exact rate, in batches of what is due within 20 µs, at most 32. Replies are counted \
         at the client's end by an XDP program, each sequence number once."
            .into(),
        format!(
            "At no loss: bisection of the rate on a logarithmic scale to 3 %, trials of {span:?}; held is a rate of which at most {} % do not come back; a rate fails \
             when two trials do, and one that the generator falls short of is tried again. ≥: nothing was lost at the generator's own limit.",
            LOSS * 100.0
        ),
        "Every reflector has a receive buffer of 4 MiB on its UDP sockets and 8192 entries in its AF_XDP rings for what comes, 2048 in the others, in native and copy mode; stamp-suite is built in release mode with its default features, without kernel stamps."
            .into(),
        format!("Round trips: {run:?} a run, 44 octets of payload for all; the probe's is `rtt_app`, send to receive in user space, as irtt's and sockperf's are. sockperf looks at its clock between its packets and so never sleeps; its median is that of a client that is awake."),
        format!("BPF test runs: {repetitions} repetitions a round, each on the request as it came: every program writes the request back first, and what that alone takes is taken off. A round in which not every repetition returned XDP_TX is refused."),
    ]
}

fn probe_method(effort: &Effort) -> Vec<String> {
    let Effort { rounds, run, .. } = effort;
    vec![
        format!("{rounds} rounds of {run:?} each, all contestants in turn, in another order each round; least, most and MAD (median absolute deviation) are over rounds."),
        "`beside ours`: the row's figure over the probe's, within each round; the median of that, and its least and most.".into(),
        CPUS.into(),
        "When a packet left is read from CLOCK_MONOTONIC by an XDP program where it comes out of the wire, on the sender's CPU within its system call: no figure rests on what a tool says of itself.".into(),
        "The same rule for all: slots lie on a grid of the interval asked for, whose phase is the one that puts the most packets within 50 µs of a slot; a slot's lateness is the time from it to \
         the next packet, so that a slot that was left out is as late as the packet after it."
            .into(),
        "Both talk to a server of their own on CPU 1: the socket reflector, `irtt server`. 44 octets of payload for all. The probe's defaults take SCHED_FIFO where the host allows it; `--class other` is the probe as an ordinary process, and irtt in SCHED_FIFO is there to be fair.".into(),
    ]
}
