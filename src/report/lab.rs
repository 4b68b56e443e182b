//! What a lab run came to: round trips and loss of every stretch of time, ISP, family and arm, what the links did, and whether it is what was expected.

use std::{collections::BTreeMap, time::Duration};

use pathlab_netlab::{
    engine::{
        LinkCount,
        kernel::ShaperGrade,
        wire::{DirectionGrade, WireGrade},
    },
    expectation::{Checked, in_words},
    scenario::Metric,
};
use pathlab_record::{Arm, Digest, SparseHistogram};
use serde::Serialize;

use super::{Table, percent, span};
use crate::lab::Played;

/// A run as it is printed; spans in nanoseconds.
#[derive(Serialize)]
pub(crate) struct LabRun {
    scenario: String,
    seed: u64,
    engine: &'static str,
    /// Each link with who played it, where packets were real.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    played: Vec<String>,
    /// How well the wire engine kept its times.
    #[serde(skip_serializing_if = "Option::is_none")]
    wire: Option<Wire>,
    /// How the kernel kept the rates of the links that it played.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shapers: Vec<Shaper>,
    /// Why nothing can be concluded from the run; empty where it stands.
    objections: Vec<String>,
    duration_ns: u64,
    groups: Vec<Group>,
    links: Vec<Link>,
    bulks: Vec<Bulk>,
    load_packets: u64,
    unroutable: u64,
    expectations: Vec<Expected>,
    /// Of `outcome.txt`: equal where runs are equal packet by packet.
    outcome_sha256: Digest,
}

#[derive(Serialize)]
struct Group {
    window: String,
    isp: String,
    family: u8,
    arm: Arm,
    sent: u64,
    lost: u64,
    rtt_p50_ns: Option<u64>,
    rtt_p95_ns: Option<u64>,
    rtt_p99_ns: Option<u64>,
    forward_p50_ns: Option<u64>,
    return_p50_ns: Option<u64>,
}

#[derive(Serialize)]
struct Wire {
    release_error_p50_ns: Option<u64>,
    release_error_p99_ns: Option<u64>,
    overslept_p99_ns: Option<u64>,
    scheduler: String,
    /// Share of the processors' time that the hypervisor took, 0 to 1.
    steal: Option<f64>,
    directions: Vec<Direction>,
}

/// How late the wire engine handed one direction's frames over.
#[derive(Serialize)]
struct Direction {
    at: String,
    frames: u64,
    release_error_p50_ns: Option<u64>,
    release_error_p99_ns: Option<u64>,
    release_error_max_ns: Option<u64>,
    missed: u64,
    refused: u64,
}

/// A rate that the kernel was to keep.
#[derive(Serialize)]
struct Shaper {
    at: String,
    rate_bits: u64,
    /// For how long it was seen with a queue that cannot have run empty.
    busy_ns: u64,
    /// Bits per second that it sent meanwhile; absent where that was too short to say.
    kept_bits: Option<f64>,
}

#[derive(Serialize)]
struct Bulk {
    name: String,
    goodput_bits: Option<f64>,
    retransmitted: Option<u64>,
}

#[derive(Serialize)]
struct Expected {
    figure: String,
    /// In nanoseconds, shares of one, bits per second or packets; absent where there was nothing to measure it by.
    value: Option<f64>,
    at_least: Option<String>,
    at_most: Option<String>,
    holds: bool,
    #[serde(skip)]
    words: String,
}

#[derive(Serialize)]
struct Link {
    node: String,
    dev: String,
    sent: u64,
    overflowed: u64,
    dropped: u64,
    marked: u64,
    lost: u64,
    missed: u64,
}

#[derive(Default)]
struct Counted {
    sent: u64,
    lost: u64,
    rtt: SparseHistogram,
    forward: SparseHistogram,
    back: SparseHistogram,
}

impl LabRun {
    /// Sums up a run.
    pub(crate) fn new(played: &Played) -> Self {
        let Played { scenario, seed, sessions, outcome, .. } = played;
        let mut groups: BTreeMap<_, Counted> = BTreeMap::new();
        for probe in &outcome.probes {
            let session = &sessions[probe.session];
            let within = |window: &pathlab_netlab::scenario::Window| (window.start..window.end).contains(&probe.sent);
            let Some(window) = scenario.windows.iter().position(within) else { continue };
            let counted = groups.entry((window, &session.isp, session.family(), played.arm(session))).or_default();
            counted.sent += 1;
            counted.lost += u64::from(probe.rtt.is_none());
            probe.rtt.into_iter().for_each(|rtt| counted.rtt.record(nanoseconds(rtt)));
            probe.forward.into_iter().for_each(|forward| counted.forward.record(nanoseconds(forward)));
            let back = probe.rtt.zip(probe.forward).map(|(rtt, forward)| rtt.saturating_sub(forward));
            back.into_iter().for_each(|back| counted.back.record(nanoseconds(back)));
        }
        let group = |((window, isp, family, arm), counted): ((usize, &String, u8, Arm), Counted)| Group {
            window: scenario.windows[window].name.clone(),
            isp: isp.clone(),
            family,
            arm,
            sent: counted.sent,
            lost: counted.lost,
            rtt_p50_ns: counted.rtt.quantile(0.5),
            rtt_p95_ns: counted.rtt.quantile(0.95),
            rtt_p99_ns: counted.rtt.quantile(0.99),
            forward_p50_ns: counted.forward.quantile(0.5),
            return_p50_ns: counted.back.quantile(0.5),
        };
        let link = |((node, dev), count): (&(String, String), &LinkCount)| {
            let LinkCount { sent, overflowed, dropped, marked, lost, missed } = *count;
            Link { node: node.clone(), dev: dev.clone(), sent, overflowed, dropped, marked, lost, missed }
        };
        let figures = played.figures();
        let bulk = |(name, count): (&String, &pathlab_netlab::engine::BulkCount)| Bulk {
            name: name.clone(),
            goodput_bits: figures.figure(&Metric::Goodput { bulk: name.clone() }, &Default::default()),
            retransmitted: count.retransmitted,
        };
        Self {
            scenario: scenario.name.clone(),
            seed: *seed,
            engine: played.grade.engine,
            played: played.grade.links.clone(),
            wire: played.grade.wire.as_ref().map(Wire::of),
            shapers: played.grade.shapers.iter().map(Shaper::of).collect(),
            objections: played.grade.objections.clone(),
            duration_ns: nanoseconds(scenario.duration()),
            groups: groups.into_iter().map(group).collect(),
            links: outcome.links.iter().map(link).collect(),
            bulks: outcome.bulks.iter().map(bulk).collect(),
            load_packets: outcome.load_packets,
            unroutable: outcome.unroutable,
            expectations: figures.check().iter().map(Expected::of).collect(),
            outcome_sha256: Digest::of(outcome.to_text().as_bytes()),
        }
    }

    /// Whether anything can be concluded from it.
    pub(crate) fn stands(&self) -> bool {
        self.objections.is_empty()
    }

    /// Whether all that the scenario expects holds.
    pub(crate) fn holds(&self) -> bool {
        self.expectations.iter().all(|expected| expected.holds)
    }

    /// The same for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new(["", "arm", "sent", "p50", "p95", "p99", "there", "back", "lost"]);
        for group in &self.groups {
            let rtt = |quantile: Option<u64>| quantile.map_or_else(|| "-".into(), span);
            table.row([
                format!("{}, {} IPv{}", group.window, group.isp, group.family),
                match group.arm {
                    Arm::Control => "control".into(),
                    Arm::Canary => "canary".into(),
                },
                group.sent.to_string(),
                rtt(group.rtt_p50_ns),
                rtt(group.rtt_p95_ns),
                rtt(group.rtt_p99_ns),
                rtt(group.forward_p50_ns),
                rtt(group.return_p50_ns),
                percent(group.lost as f64 / group.sent.max(1) as f64),
            ]);
        }
        let mut links = Table::new(["link", "sent", "overflowed", "dropped", "marked", "lost", "missed"]);
        for link in &self.links {
            let counts = [link.sent, link.overflowed, link.dropped, link.marked, link.lost, link.missed];
            links.row([format!("{}:{}", link.node, link.dev)].into_iter().chain(counts.map(|count| count.to_string())));
        }
        let bulk = |bulk: &Bulk| {
            let goodput = bulk.goodput_bits.map_or_else(|| "-".into(), bits);
            let again =
                bulk.retransmitted.map_or_else(String::new, |segments| format!(", {segments} segments sent again"));
            format!("\n{}: {goodput}{again}\n", bulk.name)
        };
        let bulks: String = self.bulks.iter().map(bulk).collect();
        let engines: String = self.played.iter().map(|link| format!("  {link}\n")).collect();
        let engines = self.wire.iter().fold(engines, |text, wire| text + &wire.text()) + &shapers_text(&self.shapers);
        let invalid: String = self.objections.iter().map(|objection| format!("INVALID  {objection}\n")).collect();
        let expectations: String = self.expectations.iter().map(Expected::text).collect();
        let unroutable = match self.unroutable {
            0 => String::new(),
            packets => format!("\n{packets} packets had no way: some node lacks a route\n"),
        };
        format!(
            "{}, {} engine, seed {}, {} of its time\n{engines}\nround trips, and their halves\n{table}\n{links}{bulks}{unroutable}{expectations}\n{invalid}",
            self.scenario,
            self.engine,
            self.seed,
            span(self.duration_ns),
        )
    }
}

impl Wire {
    fn of(grade: &WireGrade) -> Self {
        let mut error = SparseHistogram::new();
        grade.directions.iter().for_each(|direction| error.merge(&direction.error));
        Self {
            release_error_p50_ns: error.quantile(0.5),
            release_error_p99_ns: error.quantile(0.99),
            overslept_p99_ns: grade.overslept.quantile(0.99),
            scheduler: grade.scheduler.clone(),
            steal: grade.steal,
            directions: grade.directions.iter().map(Direction::of).collect(),
        }
    }

    fn text(&self) -> String {
        let time = |time: Option<u64>| time.map_or_else(|| "-".into(), span);
        let mut table = Table::new(["left after it was due", "frames", "p50", "p99", "most"]);
        for direction in &self.directions {
            let errors =
                [direction.release_error_p50_ns, direction.release_error_p99_ns, direction.release_error_max_ns];
            table.row([direction.at.clone(), direction.frames.to_string()].into_iter().chain(errors.map(time)));
        }
        let stolen = self.steal.map_or_else(|| "unknown".into(), percent);
        format!(
            "\n{table}  all: {} (p50), {} (p99); sleeps ended {} (p99) late; {}; stolen by the hypervisor: {stolen}\n",
            time(self.release_error_p50_ns),
            time(self.release_error_p99_ns),
            time(self.overslept_p99_ns),
            self.scheduler
        )
    }
}

impl Direction {
    fn of(grade: &DirectionGrade) -> Self {
        Self {
            at: format!("{}:{}", grade.node, grade.dev),
            frames: grade.error.count(),
            release_error_p50_ns: grade.error.quantile(0.5),
            release_error_p99_ns: grade.error.quantile(0.99),
            release_error_max_ns: grade.error.quantile(1.0),
            missed: grade.missed,
            refused: grade.refused,
        }
    }
}

impl Shaper {
    fn of(grade: &ShaperGrade) -> Self {
        Self {
            at: format!("{}:{}", grade.node, grade.dev),
            rate_bits: grade.rate,
            busy_ns: nanoseconds(grade.busy),
            kept_bits: grade.kept(),
        }
    }
}

fn shapers_text(shapers: &[Shaper]) -> String {
    let mut table = Table::new(["shaped by the kernel", "rate", "with a queue for", "sent meanwhile"]);
    for Shaper { at, rate_bits, busy_ns, kept_bits } in shapers {
        let kept = kept_bits.map_or_else(|| "-".into(), bits);
        let busy = if *busy_ns == 0 { "-".into() } else { span(*busy_ns) };
        table.row([at.clone(), bits(*rate_bits as f64), busy, kept]);
    }
    if shapers.is_empty() { String::new() } else { format!("\n{table}") }
}

impl Expected {
    fn of(checked: &Checked) -> Self {
        let expectation = &checked.expectation;
        let quantity = expectation.what.quantity();
        Self {
            figure: expectation.to_string(),
            value: checked.value,
            at_least: expectation.at_least.as_ref().map(|bound| bound.text.clone()),
            at_most: expectation.at_most.as_ref().map(|bound| bound.text.clone()),
            holds: checked.holds(),
            words: checked.value.map_or_else(|| "nothing to measure".into(), |value| in_words(quantity, value)),
        }
    }

    fn text(&self) -> String {
        let mark = if self.holds { "holds" } else { "FAILS" };
        let lower = self.at_least.iter().map(|bound| format!("at least {bound}"));
        let bounds: Vec<String> = lower.chain(self.at_most.iter().map(|bound| format!("at most {bound}"))).collect();
        format!("\n{mark}  {}: {}, {}", self.figure, self.words, bounds.join(" and "))
    }
}

fn bits(per_second: f64) -> String {
    format!("{:.2} Mbit/s", per_second / 1e6)
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
