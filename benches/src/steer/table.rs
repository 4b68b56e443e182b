//! The steering's table: its figures by section, and what is aimed at.

use anyhow::{Context, Result};
use pathlab_record::Arm;

use super::{
    Mode, Network,
    cost::{self, Cost, Costs},
    flips::{self, End, Flip},
    many::{self, FEW, Load, MANY},
    parts::{self, Part, Parts},
    runs::{self, Runs},
};
use crate::{
    contestant::Programs,
    figures::Summary,
    host,
    table::{Aim, Better, Row, SCHEMA, Section, Table},
    tables::Effort,
};

/// Measures it.
///
/// # Errors
/// No root, no nft, or steering that does not start.
pub fn measure(programs: &Programs, effort: &Effort) -> Result<Table> {
    let (started, before) = (jiff::Timestamp::now(), host::before()?);
    let (chunks, keys) = if effort.quick { (5, 20_000) } else { (40, MANY) };
    let network = Network::new()?;
    let costs = cost::measure(&network, &programs.pathlab, effort.rounds, chunks)?;
    // Of more rounds and shorter ones: parts differ by little.
    let part_rounds = if effort.quick { 1 } else { effort.rounds * 3 };
    let parts = parts::measure(&network, &programs.pathlab, part_rounds, chunks.div_ceil(5))?;
    // Modes and families take turns, so that twenty rounds have each case five times.
    let flip_rounds = if effort.quick { 4 } else { effort.rounds.max(5) * 4 };
    let flips = flips::measure(&network, &programs.pathlab, flip_rounds)?;
    let many = many::measure(&network, &programs.pathlab, effort.rounds, keys)?;
    let runs = runs::measure(effort.rounds, effort.repetitions)?;
    drop(network);
    let more =
        section("Processor time a packet that steering adds", "ns", cost_rows(&costs, |cost| cost.with - cost.without));
    let aims = aims(&more, &flips)?;
    let mut sections =
        vec![more, section("Processor time a packet without steering", "ns", cost_rows(&costs, |cost| cost.without))];
    sections.extend(part_sections(&parts));
    sections.extend(design_sections(&parts));
    sections.extend(flip_sections(&flips));
    sections.extend(many_sections(&many, keys));
    sections.push(section("BPF test run of the programs that watch", "ns a packet", run_rows(&runs)));
    let mut facts = host::after(before, programs)?;
    facts.peers.clear();
    Ok(Table {
        schema: SCHEMA.into(),
        table: "steer".into(),
        started,
        quick: effort.quick,
        method: method(effort, chunks, part_rounds, flip_rounds, keys),
        host: facts,
        sections,
        aims,
    })
}

fn section(title: &str, unit: &str, rows: Vec<Row>) -> Section {
    Section { title: title.into(), unit: unit.into(), better: Better::Less, rows }
}

fn arm_name(arm: Arm) -> &'static str {
    match arm {
        Arm::Control => "control",
        Arm::Canary => "canary",
    }
}

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

fn cost_rows(costs: &Costs, figure: fn(&Cost) -> f64) -> Vec<Row> {
    let name = |(mode, family, arm): (Mode, usize, Arm)| {
        format!("{}, {} mode, {}", arm_name(arm), mode.name(), FAMILIES[family])
    };
    costs.iter().map(|(case, rounds)| Row::new(name(*case), rounds.iter().map(figure))).collect()
}

fn part_sections(parts: &Parts) -> Vec<Section> {
    let control = [
        (Part::Rules, "the routing rules alone"),
        (Part::Chain, "and a chain without a rule"),
        (Part::Taken, "and rules that look at port, family and protocol"),
        (Part::Hashed, "and the key with its hash"),
        (Part::Compared, "and a comparison with the share"),
        (Part::Parted, "and a named counter"),
    ];
    let canary = [
        (Part::Compared, "up to a comparison with the share"),
        (Part::Parted, "and the leased gate"),
        (Part::Marked, "and the mark, and what the kernel does about it"),
        (Part::Listed, "and a named counter and the list of sessions"),
    ];
    let mapped = (Part::Mapped, "up to a map of intervals in place of the comparison");
    let marked = (Part::MarkedOnly, "up to the mark in a chain that looks up no route (steers nothing)");
    let whole = (Part::Pathlab, "pathlab canary start: these, the map, the wrong-arm proof");
    let mut sections = Vec::new();
    for mode in Mode::ALL {
        for (arm, listed) in [(Arm::Control, &control[..]), (Arm::Canary, &canary)] {
            let apart = (mode == Mode::Host && arm == Arm::Canary).then_some(marked);
            let listed: Vec<_> = listed.iter().copied().chain([mapped]).chain(apart).chain([whole]).collect();
            let row = |(part, name): &(Part, &str), family: usize| {
                Row::new(format!("{}: {name}", FAMILIES[family]), parts.more(mode, *part, family, arm))
            };
            let rows = [0, 1].into_iter().flat_map(|family| listed.iter().map(move |part| row(part, family)));
            let title =
                format!("What it is made of, each line with those above it: {}, {} mode", arm_name(arm), mode.name());
            sections.push(section(&title, "ns", rows.collect()));
        }
    }
    sections
}

fn design_sections(parts: &Parts) -> Vec<Section> {
    let ours = "nftables and a mark, as today";
    let of = |mode, part, arm, name: &str, beside: bool| {
        [0, 1].map(|family| {
            let row = Row::new(format!("{name}, {}", FAMILIES[family]), parts.more(mode, part, family, arm));
            row.beside(beside.then(|| format!("{ours}, {}", FAMILIES[family])))
        })
    };
    let mut sections = Vec::new();
    for mode in Mode::ALL {
        for arm in [Arm::Control, Arm::Canary] {
            let mut rows = of(mode, Part::Listed, arm, ours, false).to_vec();
            rows.extend(of(mode, Part::Forwarded, arm, "nftables at the device's egress, fwd", true));
            rows.extend(of(mode, Part::Redirected, arm, "tcx at the device's egress, bpf_redirect_neigh", true));
            if mode == Mode::Router {
                rows.extend(of(mode, Part::MarkedEarly, arm, "tcx at the ingress, mark", true));
            }
            let title =
                format!("Other designs, all without the wrong-arm proof: {}, {} mode", arm_name(arm), mode.name());
            sections.push(section(&title, "ns", rows));
        }
    }
    sections
}

fn flip_sections(flips: &[Vec<Flip>; 3]) -> Vec<Section> {
    let row = |name: &str, end: End, figure: fn(&Flip) -> f64| Row::new(name, flips[end as usize].iter().map(figure));
    vec![
        section(
            "From the event to the first packet on control",
            "ms",
            vec![
                row("kill -9", End::Kill, |flip| flip.first),
                row("rollback", End::RollBack, |flip| flip.first),
                row("SIGSTOP, lease of 500 ms", End::Stop, |flip| flip.first),
            ],
        ),
        section(
            "Until a rollback has returned, the host as before",
            "ms",
            vec![row("rollback", End::RollBack, |flip| flip.call)],
        ),
        section(
            "Packets lost while the way back was taken, a packet every 0.2 ms",
            "packets",
            vec![
                row("kill -9", End::Kill, |flip| flip.lost.into()),
                row("rollback", End::RollBack, |flip| flip.lost.into()),
                row("SIGSTOP", End::Stop, |flip| flip.lost.into()),
            ],
        ),
    ]
}

fn many_sections(many: &many::Many, keys: usize) -> Vec<Section> {
    let rows = |figure: fn(&Load) -> f64| {
        [(FEW, &many.few), (keys, &many.many)]
            .map(|(sessions, loads)| Row::new(format!("{sessions} session keys"), loads.iter().map(figure)))
            .into()
    };
    let bytes = many.many.iter().map(|load| load.kernel / load.counted.max(1) as f64);
    vec![
        section(
            "Processor time a packet that steering adds, each packet to another session",
            "ns",
            rows(|load| load.with - load.without),
        ),
        section(
            "Processor time a packet without steering, each packet to another session",
            "ns",
            rows(|load| load.without),
        ),
        section("Ramp by command with all of them present", "ms", rows(|load| load.ramp)),
        section("Rollback by command with all of them present", "ms", rows(|load| load.rollback)),
        section(
            "Kernel memory of the list that holds max_canary_sessions",
            "octets a canary session",
            vec![Row::new(format!("{keys} session keys"), bytes)],
        ),
        section(
            "Bucket of a key in the analysis",
            "ns a key",
            vec![Row::new(format!("{keys} session keys"), many.bucket.iter().copied())],
        ),
    ]
}

fn run_rows(runs: &[Runs; 2]) -> Vec<Row> {
    type Figures = fn(&Runs) -> &Vec<f64>;
    let columns: [(&str, Figures); 3] = [
        ("wrong-arm proof, a packet that leaves", |runs| &runs.proof),
        ("canary measure, a packet to a client", |runs| &runs.sent),
        ("canary measure, a client's packet with its echo", |runs| &runs.echoed),
    ];
    let row = |(name, figures): &(&str, Figures), family: usize| {
        Row::new(format!("{name}, {}", FAMILIES[family]), figures(&runs[family]).iter().copied())
    };
    columns.iter().flat_map(|column| [row(column, 0), row(column, 1)]).collect()
}

fn aims(more: &Section, flips: &[Vec<Flip>; 3]) -> Result<Vec<Aim>> {
    let mut aims = Vec::new();
    for row in &more.rows {
        let limit = if row.name.starts_with("control") { 500.0 } else { 1_000.0 };
        let Summary { median, min, max, .. } = row.summary().context("a round")?;
        aims.push(Aim {
            goal: format!("Under {limit:.0} ns a packet ({})", row.name),
            figure: format!("{median:.0} ns (rounds {min:.0} to {max:.0})"),
            met: median < limit,
        });
    }
    let mut limited = |goal: &str, end: End, limit: f64, figure: fn(&Flip) -> f64, worst: bool| -> Result<()> {
        let figures: Vec<f64> = flips[end as usize].iter().map(figure).collect();
        let Summary { median, min, max, .. } = Summary::of(&figures).context("a round")?;
        aims.push(Aim {
            goal: goal.to_owned(),
            figure: format!("median {median:.2} ms ({min:.2} to {max:.2}, n {})", figures.len()),
            met: if worst { max } else { median } < limit,
        });
        Ok(())
    };
    limited("First packet on control within 10 ms of kill -9, median", End::Kill, 10.0, |flip| flip.first, false)?;
    limited("Rollback by command under 5 ms, median", End::RollBack, 5.0, |flip| flip.call, false)?;
    limited("On control within the lease plus 10 ms of SIGSTOP, always", End::Stop, 510.0, |flip| flip.first, true)?;
    Ok(aims)
}

fn method(effort: &Effort, chunks: usize, part_rounds: usize, flip_rounds: usize, keys: usize) -> Vec<String> {
    let Effort { rounds, repetitions, .. } = effort;
    vec![
        format!("{rounds} rounds; in each, every mode with and without `pathlab canary start` in turn, in another order each round, the same 64 sessions of each arm; what steering adds is taken within a round."),
        format!("Processor time is that of the sender's thread (CLOCK_THREAD_CPUTIME_ID) in sendto, on CPU 0: with a veth, all of the packet's way to where the transit drops it. A figure is the middle of {chunks} chunks of 2,000 packets of 100 octets. In router mode the host behind the server sends, so that forwarding is in it."),
        "Canary sessions leave by another device than without steering, and their route is looked up a second time; control sessions take the same way as before. The wrong-arm proof runs in both.".into(),
        format!("Parts and other designs: {part_rounds} rounds of {} such chunks, every part in turn, in another order each round; the rule sets are written for nft and leave out the map behind the comparison, `pathlab canary start` is what there is. By which device canary packets leave is checked each time.", chunks.div_ceil(5)),
        format!("Ways back: {flip_rounds} rounds, modes and families in turn; a packet every 0.2 ms of one canary session, received behind both transits. The rollback is the one that `canary rollback` asks for, without starting that process."),
        format!("{keys} keys are as many clients of IPv4 by address and port; each is sent to in turn, so that caches of processor and kernel see them all. Memory is what the whole host's kernel holds (unreclaimable slabs and vmalloc), so what others did meanwhile is in it."),
        format!("BPF test runs: {repetitions} repetitions a round; a run that tells no round trip is refused. A packet's number is written by each run, and what that takes is taken off."),
    ]
}
