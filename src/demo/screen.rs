//! The one screen: topology, arms, where the time went, verdict.

use std::{fmt::Write, path::Path};

use pathlab_canary::{Answer, Decision, Verdict, When};

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
    let _ = writeln!(
        text,
        "\n{} of the sessions' return traffic by transit B, seed {}, {} STAMP packets in {:.0} s",
        share,
        story.seed,
        story.packets,
        story.took.as_secs_f64(),
    );
    for load in &story.loads {
        let _ = writeln!(
            text,
            "background load: {} packets of {} bytes, {} not sent in time",
            load.sent, load.frame, load.skipped
        );
    }
    let _ = writeln!(
        text,
        "\n{} by arm over {} evenings\n{}",
        verdict.experiment.policy.metric,
        verdict.findings.evenings.len(),
        arms(verdict)
    );
    let _ = writeln!(text, "where the time went, medians\n{}", bars(&story.splits));
    for reason in &verdict.reasons {
        let _ = writeln!(text, "  {} {}", if reason.holds { "✓" } else { "✗" }, reason.text);
    }
    let name = match verdict.decision {
        Decision::Promote => "PROMOTE",
        Decision::Hold => "HOLD",
        Decision::RollBack => "ROLL BACK",
    };
    let _ = writeln!(text, "\n{name}  {}", verdict.sentence);
    let _ = writeln!(text, "\n{}  sealed {}", out.display(), story.head);
    let _ = writeln!(text, "replay: pathlab canary replay {}", out.display());
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
