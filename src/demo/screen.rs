//! The one screen: topology, arms, where the time went, verdict.

use std::{fmt::Write, path::Path};

use pathlab_netlab::scenario::Scenario;

use super::{play::Story, split::Split};
use crate::report::{self, span};

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
        report::verdict::arms(verdict)
    );
    let _ = writeln!(text, "where the time went, medians\n{}", bars(&story.splits));
    let _ = write!(text, "{}", report::verdict::reasons(verdict));
    let _ = writeln!(text, "\n{}", report::verdict::decision(verdict));
    for objection in &story.objections {
        let _ = writeln!(text, "INVALID  {objection}: play it again when the machine has less to do");
    }
    let _ = writeln!(text, "\n{}  sealed {}", out.display(), story.head);
    let _ = writeln!(text, "report: {}", story.report.display());
    let _ = writeln!(text, "replay: pathlab canary replay {}", out.display());
    text
}

/// The links that can be full, and what is sent to fill them.
fn bottlenecks(scenario: &Scenario) -> String {
    let mut text = String::new();
    for end in scenario.links.iter().flat_map(|link| &link.ends) {
        let Some(egress) = end.egress else { continue };
        let load: u64 = scenario.loads.iter().filter(|load| load.node == end.node).map(|load| load.rate).sum();
        let megabits = |rate: u64| rate as f64 / 1e6;
        let _ = write!(text, "  {} to {}: {} Mbit/s, {}", end.node, end.dev, megabits(egress.rate), egress.queue);
        let _ = match load {
            0 => writeln!(text, ", clear"),
            load => writeln!(text, ", under {} Mbit/s of load in the evenings", megabits(load)),
        };
    }
    text
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
                // One reading of the clock stands for both ends of a stay in the driver.
                if split.reflector_host == 0 { "unresolved".to_owned() } else { span(split.reflector_host) },
            );
        }
    }
    text.push_str("           ▒ probe host  █ wire  ░ reflector host; each pair has its own scale\n");
    text.push_str("           socket and xdp: the two reflectors on a quiet line\n");
    text
}
