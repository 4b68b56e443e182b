//! The table of the lab's wire engine: how late, at what rate, how many; with what was measured of its peers at another time.

mod measure;

use anyhow::{Context, Result};
use pathlab_netlab::engine::kernel::Player;

use self::measure::{DELAY, Late, Passed, RATE, late, passed, rate};
use crate::{
    contestant::Programs,
    figures::Summary,
    host,
    table::{Aim, Better, Row, SCHEMA, Section, Table},
    tables::Effort,
    turns::order,
};

const OURS: &str = "pathlab, wire engine";
const FLOOR: &str = "veth, nothing between";
const KERNEL: &str = "the kernel's tbf";
/// Packets a second of the two columns.
const PACES: [u32; 2] = [200, 5000];
/// What is to be forwarded at least.
const ENOUGH: f64 = 100_000.0;

/// Median, least and most of peers, five interleaved rounds on another 2-CPU virtual machine, not of this run.
struct Peer {
    name: &'static str,
    /// p50 at both paces, then p99 at both, in µs.
    late: [[f64; 3]; 4],
    /// Mbit/s at the IP level where 10 are set.
    rate: [f64; 3],
    /// Packets a second, flat out.
    passed: [f64; 3],
}

const PEERS: [Peer; 2] = [
    Peer {
        name: "rattan (measured earlier)",
        late: [[92.0, 87.0, 112.0], [77.0, 61.0, 102.0], [2329.0, 1887.0, 83_500.0], [4726.0, 4056.0, 8188.0]],
        rate: [10.0, 10.0, 10.0],
        passed: [42e3, 24e3, 82e3],
    },
    Peer {
        name: "mahimahi (measured earlier)",
        late: [[37.0, 37.0, 37.0], [-320.0, -320.0, -320.0], [1105.0, 602.0, 25_546.0], [3784.0, 1378.0, 10_885.0]],
        rate: [9.970, 9.969, 9.973],
        passed: [99e3, 75e3, 120e3],
    },
];

type Figure = fn(&Late) -> f64;

#[derive(Default)]
struct Rounds {
    late: [Vec<Late>; 2],
    floor: [Vec<Late>; 2],
    rate: [Vec<f64>; 2],
    passed: [Vec<Passed>; 3],
}

/// The lab's table.
///
/// # Errors
/// No privilege, or a lab that does not carry packets.
pub fn lab(effort: &Effort) -> Result<Table> {
    let (started, before) = (jiff::Timestamp::now(), host::before()?);
    let mut rounds = Rounds::default();
    for round in 0..effort.rounds {
        for turn in order(9, round) {
            match turn {
                0 | 1 => rounds.late[turn].push(late(PACES[turn], effort.run, true)?),
                2 | 3 => rounds.floor[turn - 2].push(late(PACES[turn - 2], effort.run, false)?),
                4 => rounds.rate[0].push(rate(effort.run, Player::Wire)? / 1e6),
                5 => rounds.rate[1].push(rate(effort.run, Player::Kernel)? / 1e6),
                6 => rounds.passed[0].push(passed(ENOUGH * 1.1, effort.span, true)?),
                7 => rounds.passed[1].push(passed(f64::INFINITY, effort.span, true)?),
                _ => rounds.passed[2].push(passed(f64::INFINITY, effort.span, false)?),
            }
        }
        eprintln!("round {}: {:?}", round + 1, [0, 1].map(|pace| rounds.late[pace].last()));
    }
    let sections = sections(&rounds);
    let aims = aims(&rounds)?;
    let nobody = Programs { pathlab: "".into(), own: "".into(), peers: "".into() };
    Ok(Table {
        schema: SCHEMA.into(),
        table: "lab".into(),
        started,
        quick: effort.quick,
        method: method(effort),
        host: host::Host { peers: Vec::new(), ..host::after(before, &nobody)? },
        sections,
        aims,
    })
}

fn sections(rounds: &Rounds) -> Vec<Section> {
    let mut sections = Vec::new();
    let figures: [(&str, Figure); 3] = [("p50", |late| late.p50), ("p95", |late| late.p95), ("p99", |late| late.p99)];
    for (pace, per_second) in PACES.into_iter().enumerate() {
        for (at, (name, figure)) in figures.into_iter().enumerate() {
            let mut rows = vec![
                Row::new(OURS, rounds.late[pace].iter().map(figure)),
                Row::new(FLOOR, rounds.floor[pace].iter().map(figure)),
            ];
            // of p95 no ranges were kept
            if at != 1 {
                rows.extend(PEERS.iter().map(|peer| Row::new(peer.name, peer.late[at + pace])));
            }
            sections.push(Section {
                title: format!("Error of a delay of {DELAY:?} at {per_second} packets a second, {name}"),
                unit: "µs".into(),
                better: Better::Less,
                rows,
            });
        }
        let own = rounds.late[pace].iter().map(|late| late.own_p99);
        sections.push(Section {
            title: format!("By its own account: release error at {per_second} packets a second, p99"),
            unit: "µs".into(),
            better: Better::Less,
            rows: vec![Row::sparse(OURS, own)],
        });
    }
    let mut rows =
        vec![Row::new(OURS, rounds.rate[0].iter().copied()), Row::new(KERNEL, rounds.rate[1].iter().copied())];
    rows.extend(PEERS.iter().map(|peer| Row::new(format!("{}, at the IP level", peer.name), peer.rate)));
    sections.push(Section {
        title: "Sent by a bottleneck of 10 Mbit/s under twice that".into(),
        unit: "Mbit/s".into(),
        better: Better::More,
        rows,
    });
    let passed = |title: &str, rows| Section {
        title: title.into(),
        unit: "packets a second".into(),
        better: Better::More,
        rows,
    };
    sections.push(passed(
        &format!("Forwarded when {:.0} frames a second of 64 octets are asked of the sender", ENOUGH * 1.1),
        vec![
            Row::new(OURS, rounds.passed[0].iter().map(|passed| passed.passed)),
            Row::new("which sent so much (no figure of ours)", rounds.passed[0].iter().map(|passed| passed.offered)),
        ],
    ));
    let mut rows = vec![
        Row::new(OURS, rounds.passed[1].iter().map(|passed| passed.passed)),
        Row::new(FLOOR, rounds.passed[2].iter().map(|passed| passed.passed)),
    ];
    rows.extend(PEERS.iter().map(|peer| Row::new(peer.name, peer.passed)));
    sections.push(passed("Forwarded flat out", rows));
    sections
}

fn aims(rounds: &Rounds) -> Result<Vec<Aim>> {
    let mut aims = Vec::new();
    let mut aim = |goal: String, figures: Vec<f64>, unit: &str, met: &dyn Fn(f64) -> bool| -> Result<()> {
        let Summary { median, min, max, .. } = Summary::of(&figures).context("no rounds")?;
        let figure = format!("{median:.3} {unit} (rounds {min:.3} to {max:.3})");
        aims.push(Aim { goal, figure, met: met(median) });
        Ok(())
    };
    for (pace, per_second) in PACES.into_iter().enumerate() {
        let of = |figure: fn(&Late) -> f64| rounds.late[pace].iter().map(figure).collect();
        aim(
            format!("Delay error p50 under 20 µs at {per_second} packets a second"),
            of(|late| late.p50),
            "µs",
            &|us| us < 20.0,
        )?;
        aim(
            format!("Delay error p99 under 100 µs at {per_second} packets a second"),
            of(|late| late.p99),
            "µs",
            &|us| us < 100.0,
        )?;
    }
    let stray = rounds.rate[0].iter().map(|rate| (rate * 1e6 / RATE as f64 - 1.0).abs() * 100.0).collect();
    aim("Rate within 0.1 %".into(), stray, "% off", &|percent| percent <= 0.1)?;
    aim(
        "At least 100,000 packets a second forwarded".into(),
        rounds.passed[0].iter().map(|passed| passed.passed).collect(),
        "packets a second",
        &|rate| rate >= ENOUGH,
    )?;
    Ok(aims)
}

fn method(effort: &Effort) -> Vec<String> {
    let Effort { rounds, run, span, .. } = effort;
    vec![
        format!("{rounds} rounds, in each everything of ours in turn, in another order each round; least, most and MAD are over rounds."),
        "Two namespaces joined by a link that the lab makes: two veth pairs with the router between them, as `lab run --engine wire` has it, on whichever CPU the scheduler puts it; `veth, nothing between` is one veth pair."
            .into(),
        format!("Error of delay: the receiver's kernel stamp less the sender's reading of the same clock before its system call, less {DELAY:?}; datagrams in frames of 64 octets, runs of {run:?}. It holds both veth passages and the stacks, which `veth, nothing between` shows alone."),
        format!("Rate: frames of 1,500 octets offered at 20 Mbit/s, 50 packets of tail drop, {run:?}; sent are frames between the first and the last kernel stamp of the time in which the queue is full. Rates count Ethernet frames; those of the peers are IP packets."),
        format!("Forwarded: counted by the receiver's interface over {span:?}, with a delay of 1 ms; the sender is an AF_XDP socket at the sender's interface, 32 frames a call, on the same CPUs as the router, of which it takes its share."),
        "Peers: five interleaved rounds on another 2-CPU virtual machine, earlier, with median, least and most of those; mahimahi sends early, so that its median at 5,000 a second is negative. They were not run beside ours, and no ratio is taken.".into(),
    ]
}
