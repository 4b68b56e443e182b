//! The report for a terminal, or for the body of a mail.

use std::fmt::Write;

use super::{
    gather::places,
    judged::{Judged, Row},
    ledger::{Split, Stage},
    markup::plain,
    model::{Report, Seal},
    sessions::Evenings,
};
use crate::report::{Table, percent, span};

/// All of it.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!("{}: {}, times in {}\n", plain(&report.title), runs(report), plain(&report.zone));
    if let Some(labels) = report.figures.evenings.data.labels() {
        let _ = writeln!(text, "\n{}", plain(&labels));
    }
    if let Some(broken) = report.broken() {
        let _ = writeln!(text, "\n{}", plain(&broken));
    }
    if report.verdicts.is_empty() {
        text.push_str("\nno verdict among the runs: what follows describes, and decides nothing\n");
    }
    report.verdicts.iter().for_each(|verdict| judged(&mut text, verdict));
    evenings(&mut text, &report.figures.evenings.data);
    let splits = &report.figures.stages.data;
    if !splits.is_empty() {
        text.push_str("\nwhere the time goes, means (of the slowest 5 %)\n");
        for split in splits {
            let _ = writeln!(text, "  {} ({} samples): {}", plain(&split.name), split.samples, stages(split));
        }
    }
    for trace in &report.figures.paths.data {
        let _ = writeln!(text, "\npaths to {} ({})", plain(&trace.target), plain(&trace.run));
        for flow in &trace.flows {
            let _ = writeln!(text, "  {}: {}, loss {}", plain(&flow.source), plain(&flow.verdict), flow.loss());
            for change in &flow.changes {
                let _ = writeln!(text, "    path changed: {}", plain(&change.text()));
            }
            if let Some(counted) = flow.counted() {
                let _ = writeln!(text, "    {counted}");
            }
        }
    }
    for audit in &report.audits {
        let findings: Vec<_> = audit.entries.iter().filter(|entry| entry.state == "finding").collect();
        let _ =
            writeln!(text, "\nhost, {}: {} findings of {}", plain(&audit.file), findings.len(), audit.entries.len());
        for entry in findings {
            let _ = writeln!(
                text,
                "  {:>2} {} {}: {}",
                entry.rule,
                plain(&entry.subject),
                plain(&entry.name),
                plain(&entry.because)
            );
        }
    }
    text.push_str("\nevidence\n");
    for run in &report.runs {
        let _ = writeln!(text, "  {} ({}): {}", plain(&run.path), plain(&run.verb), seal(&run.seal));
    }
    for (name, sha256) in report.figures.hashes() {
        let _ = writeln!(text, "  data of figure {name}: sha256 {sha256}");
    }
    for remark in &report.remarks {
        let _ = writeln!(text, "  note: {}", plain(remark));
    }
    text
}

fn judged(text: &mut String, verdict: &Judged) {
    let _ = writeln!(text, "\n{}", plain(&verdict.sentence));
    for change in &verdict.would_change {
        let _ = writeln!(text, "  {}", plain(change));
    }
    let mut table = Table::new(["", "control", "canary", "control", "canary", "difference", "interval"]);
    let rows = verdict.cells.iter().map(|row| (plain(&row.scope), row));
    let guardrails = verdict.guardrails.iter().filter(|row| row.window == "evenings");
    let guardrails = guardrails.map(|row| (format!("{} {}", row.metric, plain(&row.scope)), row));
    for (name, row) in rows.chain(guardrails) {
        let Row { control_sessions, canary_sessions, control, canary, difference, interval, .. } = row;
        let [control_sessions, canary_sessions] = [control_sessions, canary_sessions].map(u64::to_string);
        table.row([&name, &control_sessions, &canary_sessions, control, canary, difference, interval]);
    }
    let _ = write!(text, "\n{table}");
    let _ = writeln!(text, "\n  note: {}", verdict.registered);
    if let Some(acceptance) = &verdict.acceptance {
        let _ = writeln!(text, "  note: acceptance: {}", plain(acceptance));
    }
}

/// Each window with its slowest bin: what the heatmap shows at a glance.
fn evenings(text: &mut String, evenings: &Evenings) {
    if evenings.panels.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{} of the slowest bin of each window, {}", evenings.metric, plain(&evenings.zone));
    let mut table = Table::new(["", "window", "arm", "bins", "slowest", "at", "loss"]);
    for panels in places(&evenings.panels, |panel| &panel.cohort).into_values() {
        for panel in panels {
            for (row, window) in evenings.rows.iter().enumerate() {
                let cells: Vec<_> = panel.cells.iter().filter(|cell| cell.row == row).collect();
                let Some(slowest) = cells.iter().max_by_key(|cell| cell.p95_ns.unwrap_or(u64::MAX)) else { continue };
                let sent: u64 = cells.iter().filter(|cell| cell.lost.is_some()).map(|cell| cell.sent).sum();
                let lost: u64 = cells.iter().filter_map(|cell| cell.lost).sum();
                table.row([
                    plain(&panel.cohort.place()),
                    window.clone(),
                    panel.cohort.arm().to_owned(),
                    cells.len().to_string(),
                    slowest.p95_ns.map_or_else(|| "no reply".to_owned(), span),
                    evenings.columns[slowest.column].clone(),
                    if sent > 0 { percent(lost as f64 / sent as f64) } else { "not measured".to_owned() },
                ]);
            }
        }
    }
    let _ = write!(text, "{table}");
}

fn stages(split: &Split) -> String {
    let name = |stage: &Stage| {
        let slowest = split.slowest.iter().find(|other| other.name == stage.name);
        let slowest = slowest.map_or_else(|| "–".to_owned(), Stage::mean);
        format!("{} {} ({slowest})", stage.name, stage.mean())
    };
    Split::shown(&split.all).map(name).collect::<Vec<_>>().join(", ")
}

/// A mean may be below zero where two clocks disagree within their uncertainty.
pub(super) fn signed_span(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    format!("{sign}{}", span(nanoseconds.unsigned_abs()))
}

/// How many runs it is about.
pub(super) fn runs(report: &Report) -> String {
    match report.runs.len() {
        1 => "1 run".to_owned(),
        runs => format!("{runs} runs"),
    }
}

/// What the chain says, in one line.
pub(super) fn seal(seal: &Seal) -> String {
    match seal {
        Seal::Whole { sealed, .. } => format!("as sealed, {sealed}"),
        Seal::Unsealed => "not sealed: it goes on, or was killed".to_owned(),
        Seal::Broken(why) => format!("NOT AS SEALED: {}", plain(why)),
    }
}
