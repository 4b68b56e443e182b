//! The one screen: topology, arms, where the time went, verdict.

use std::{fmt::Write, path::Path};

use pathlab_canary::{Answer, Decision, Verdict, When};
use pathlab_netlab::{qdisc::Limit, scenario::Scenario};

use super::{play::Story, split::Split};
use crate::report::{Table, span};

/// Columns of the longest bar.
const BAR: usize = 44;

/// All of it, plain text.
pub(crate) fn text(story: &Story, out: &Path) -> String {
    let mut text = String::new();
    let Story { scenario, verdict, .. } = story;
    let share = verdict.experiment.experiment.share;
    let _ = write!(text, "{}", scenario.picture());
    let _ = write!(text, "{}", bottlenecks(scenario));
    for load in story.loads.iter().filter(|load| load.skipped * 100 > load.wanted) {
        let _ = writeln!(
            text,
            "  note: this host was too busy to send {} of {} packets of load",
            load.skipped, load.wanted
        );
    }
    let _ = writeln!(
        text,
        "\n{} of the sessions' return traffic by transit B, seed {}, {} STAMP packets in {:.0} s",
        share,
        story.seed,
        story.packets,
        story.took.as_secs_f64(),
    );
    let _ = writeln!(
        text,
        "\n{} by arm over {} evenings\n{}",
        verdict.experiment.policy.metric,
        verdict.findings.evenings.len(),
        arms(verdict)
    );
    let _ = writeln!(text, "where the time went, medians\n{}", bars(&story.splits));
    let _ = write!(text, "{}", reasons(verdict));
    let name = match verdict.decision {
        Decision::Promote => "PROMOTE",
        Decision::Hold => "HOLD",
        Decision::RollBack => "ROLL BACK",
    };
    let sentence = verdict.sentence.split_once(": ").map_or(verdict.sentence.as_str(), |(_, rest)| rest);
    let _ = writeln!(text, "\n{name}  {sentence}");
    let _ = writeln!(text, "\n{}  sealed {}", out.display(), story.head);
    let _ = writeln!(text, "replay: pathlab canary replay {}", out.display());
    text
}

/// The links that can be full, and what is sent to fill them.
fn bottlenecks(scenario: &Scenario) -> String {
    let mut text = String::new();
    for end in scenario.links.iter().flat_map(|link| &link.ends) {
        let Some(egress) = end.egress else { continue };
        let load: u64 = scenario.loads.iter().filter(|load| load.node == end.node).map(|load| load.rate).sum();
        let queue = match egress.queue {
            Limit::Packets(packets) => format!("{packets} packets"),
            Limit::Bytes(bytes) => format!("{bytes} bytes"),
        };
        let megabits = |rate: u64| rate as f64 / 1e6;
        let _ = write!(text, "  {} to {}: {} Mbit/s, tail drop at {queue}", end.node, end.dev, megabits(egress.rate));
        let _ = match load {
            0 => writeln!(text, ", clear"),
            load => writeln!(text, ", under {} Mbit/s of load in the evenings", megabits(load)),
        };
    }
    text
}

/// The most reasons that are told in full; the rest is in `verdict.json`.
const MOST_REASONS: usize = 6;

/// What speaks against first, with its interval; of what holds the facts alone, for the table has the intervals.
fn reasons(verdict: &Verdict) -> String {
    let mut text = String::new();
    let against = verdict.reasons.iter().filter(|reason| !reason.holds);
    for reason in against.clone().take(MOST_REASONS) {
        let _ = writeln!(text, "  ✗ {}", reason.text);
    }
    match against.count().saturating_sub(MOST_REASONS) {
        0 => {}
        more => drop(writeln!(text, "  ✗ and {more} more in verdict.json")),
    }
    for reason in verdict.reasons.iter().filter(|reason| reason.holds) {
        let facts = reason.text.split(" (9").next().unwrap_or_default();
        let _ = writeln!(text, "  ✓ {facts}");
    }
    text
}

fn arms(verdict: &Verdict) -> Table {
    let mut table = Table::new(["", "control", "canary", "control", "canary", "difference", "95 % interval"]);
    let findings = &verdict.findings;
    for answer in &findings.cells {
        let family = answer.scope.family.map_or_else(String::new, |family| format!(" {family}"));
        row(&mut table, format!("{}{family}", answer.scope.isp.as_deref().unwrap_or("all")), answer);
    }
    for answer in
        findings.guardrails.iter().filter(|answer| answer.scope.isp.is_none() && answer.when == When::Evenings)
    {
        row(&mut table, answer.metric.to_string(), answer);
    }
    table
}

fn row(table: &mut Table, name: String, answer: &Answer) {
    let interval = answer.interval;
    table.row([
        name,
        answer.sessions.control.to_string(),
        answer.sessions.canary.to_string(),
        answer.value_text(answer.control),
        answer.value_text(answer.canary),
        answer.difference_text(interval.estimate),
        format!("{} to {}", answer.difference_text(interval.low), answer.difference_text(interval.high)),
    ]);
}

/// One bar for each split; the two arms share a scale, and the two reflectors another.
fn bars(splits: &[Split]) -> String {
    let mut text = String::new();
    for pair in splits.chunks(2) {
        let longest = pair.iter().map(Split::total).max().unwrap_or(1).max(1);
        for split in pair {
            let width = |part: u64| (part as f64 / longest as f64 * BAR as f64).round() as usize;
            let bar = "▒".repeat(width(split.probe_host))
                + &"█".repeat(width(split.wire))
                + &"░".repeat(width(split.reflector_host));
            let bar = if bar.is_empty() { "▏".to_owned() } else { bar };
            let _ = writeln!(
                text,
                "  {:<8} {bar:<BAR$}  probe host {:>8}  wire {:>8}  reflector host {:>8}",
                split.name,
                span(split.probe_host),
                span(split.wire),
                span(split.reflector_host),
            );
        }
    }
    text.push_str(
        "           ▒ probe host  █ wire  ░ reflector host; socket and xdp: the two reflectors on a quiet line\n",
    );
    text
}
