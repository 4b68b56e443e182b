//! One page for the provider: what a case file states, beside what was measured, and never the one for the other. What was not measured says so.

use super::{
    case::{Bone, Case},
    ledger::{Split, Stage},
    markup::{Markup, plain},
    model::Report,
    text::{seal, signed_span},
};
use crate::report::{percent, span};

/// Stands wherever nothing was measured.
const NOT_MEASURED: &str = "not measured";
/// The level of the targets, in parts of ten thousand.
const P95: u32 = 9_500;

/// A heading with rows of cells; the first row is the table's head.
struct Section {
    heading: &'static str,
    rows: Vec<Vec<String>>,
}

/// The page before it is Markdown or HTML.
pub(crate) struct Escalation {
    title: String,
    lead: String,
    sections: Vec<Section>,
}

impl Escalation {
    /// Of a case and of what was measured; `page_sha256` is that of the report.
    pub(crate) fn new(case: &Case, report: &Report, page_sha256: &str) -> Self {
        let lead = report.verdicts.first().map_or_else(
            || "No verdict: no experiment is among the runs.".to_owned(),
            |verdict| format!("{}; {}.", verdict.sentence, verdict.would_change.first().cloned().unwrap_or_default()),
        );
        let labels = report.figures.evenings.data.labels();
        let lead: Vec<String> = report.broken().into_iter().chain([lead]).chain(labels).collect();
        let lead = lead.join(" ");
        let sections = vec![
            stated(case),
            impact(report),
            targets(case, report),
            fishbone(case, report),
            requests(case),
            evidence(report, page_sha256),
        ];
        Self { title: case.name.clone(), lead, sections }
    }

    /// For a ticket or a mail.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n{}\n", markdown(&self.title), markdown(&self.lead));
        for Section { heading, rows } in self.sections.iter().filter(|section| section.rows.len() > 1) {
            text += &format!("\n## {heading}\n\n");
            for (number, row) in rows.iter().enumerate() {
                let cells: Vec<String> = row.iter().map(|cell| markdown(cell)).collect();
                text += &format!("| {} |\n", cells.join(" | "));
                if number == 0 {
                    text += &format!("|{}\n", "---|".repeat(row.len()));
                }
            }
        }
        text
    }

    /// For printing and for those who open it from a mail.
    pub(crate) fn html(&self) -> String {
        let mut page = Markup::default();
        page.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
            .raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">")
            .raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">")
            .element("title", &[], &self.title)
            .raw("<style>")
            .raw(include_str!("style.css"))
            .raw("td{text-align:left}th{text-align:left}td:not(.l):not(:first-child){white-space:normal}@media print{table{font-size:inherit}body{font-size:9pt}h2{margin:1rem 0 .3rem}}</style></head><body>\n")
            .element("h1", &[], &self.title)
            .element("p", &[("class", &"sentence")], &self.lead);
        for Section { heading, rows } in self.sections.iter().filter(|section| section.rows.len() > 1) {
            page.element("h2", &[], heading).raw("<div class=\"scroll\"><table>");
            for (number, row) in rows.iter().enumerate() {
                page.raw("<tr>");
                for cell in row {
                    page.element(if number == 0 { "th" } else { "td" }, &[], cell);
                }
                page.raw("</tr>");
            }
            page.raw("</table></div>");
        }
        page.raw("</body></html>\n");
        page.into_string()
    }
}

fn head<const N: usize>(cells: [&str; N]) -> Vec<Vec<String>> {
    vec![cells.map(str::to_owned).to_vec()]
}

fn stated(case: &Case) -> Section {
    let mut rows = head(["", "as stated"]);
    for (name, text) in [
        ("Who", &case.who),
        ("What", &case.what),
        ("When", &case.when),
        ("Where", &case.place),
        ("Why (hypotheses)", &case.why),
        ("How", &case.how),
    ] {
        rows.push(vec![name.to_owned(), text.clone().unwrap_or_else(|| "not stated".to_owned())]);
    }
    Section { heading: "The case", rows }
}

/// Each ISP, family and arm: fastest and slowest bin of the evenings, and loss.
fn impact(report: &Report) -> Section {
    let data = &report.figures.evenings.data;
    let mut rows = head(["ISP, family, arm", "p95 of the fastest bin", "of the slowest", "when", "loss", "bins"]);
    for panel in &data.panels {
        let cells: Vec<_> = panel.cells.iter().filter(|cell| data.rows[cell.row] != "aa").collect();
        let Some(slowest) = cells.iter().max_by_key(|cell| cell.p95_ns.unwrap_or(u64::MAX)) else { continue };
        let fastest = cells.iter().filter_map(|cell| cell.p95_ns).min();
        rows.push(vec![
            format!("{}, {}", panel.cohort.place(), panel.cohort.arm()),
            fastest.map_or_else(|| "no reply".to_owned(), span),
            slowest.p95_ns.map_or_else(|| "no reply".to_owned(), span),
            format!("{} {} {}", data.rows[slowest.row], data.columns[slowest.column], data.zone),
            loss(panel.cells.iter().filter(|cell| data.rows[cell.row] != "aa").map(|cell| (cell.sent, cell.lost)))
                .map_or_else(|| NOT_MEASURED.to_owned(), percent),
            cells.len().to_string(),
        ]);
    }
    if rows.len() == 1 {
        rows.push([NOT_MEASURED, "", "", "", "", ""].map(str::to_owned).to_vec());
    }
    Section { heading: "Measured", rows }
}

fn loss(cells: impl Iterator<Item = (u64, Option<u64>)>) -> Option<f64> {
    let (sent, lost) =
        cells.filter_map(|(sent, lost)| Some((sent, lost?))).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    (sent > 0).then(|| lost as f64 / sent as f64)
}

fn targets(case: &Case, report: &Report) -> Section {
    let mut rows = head(["target", "limit", "ISP, family, arm", "measured over the evenings", ""]);
    let outcome = |met: Option<bool>| match met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    };
    let level = report.figures.percentiles.data.levels_per_10000.iter().position(|level| *level == P95);
    if let Some(limit) = case.targets.rtt_p95 {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let mut found = Vec::new();
        for curve in &report.figures.percentiles.data.curves {
            let measured = level.and_then(|level| curve.rtt_ns.get(level).copied());
            let (text, met) = match measured {
                None => (format!("{NOT_MEASURED}: too few packets"), None),
                Some(None) => ("no reply".to_owned(), Some(false)),
                Some(Some(value)) => (span(value), Some(value <= limit)),
            };
            found.push((format!("{}, {}", curve.cohort.place(), curve.cohort.arm()), text, met));
        }
        if found.is_empty() {
            found.push((String::new(), NOT_MEASURED.to_owned(), None));
        }
        rows.extend(found.into_iter().map(|(who, text, met)| {
            vec!["p95 of the round trip".to_owned(), span(limit), who, text, outcome(met).to_owned()]
        }));
    }
    if let Some(limit) = case.targets.loss {
        let data = &report.figures.evenings.data;
        let mut any = false;
        for panel in &data.panels {
            let share =
                loss(panel.cells.iter().filter(|cell| data.rows[cell.row] != "aa").map(|cell| (cell.sent, cell.lost)));
            any = true;
            let text = share.map_or_else(|| NOT_MEASURED.to_owned(), percent);
            let met = share.map(|share| share <= limit);
            rows.push(vec![
                "loss".to_owned(),
                percent(limit),
                format!("{}, {}", panel.cohort.place(), panel.cohort.arm()),
                text,
                outcome(met).to_owned(),
            ]);
        }
        if !any {
            rows.push(vec!["loss".to_owned(), percent(limit), String::new(), NOT_MEASURED.to_owned(), String::new()]);
        }
    }
    Section { heading: "Targets", rows }
}

/// Each bone with what speaks for and against it.
fn fishbone(case: &Case, report: &Report) -> Section {
    let mut rows = head(["bone", "speaks for it", "speaks against it"]);
    for bone in Bone::ALL {
        let (mut speaks_for, mut against) = measured(bone, report);
        for stated in case.stated.iter().filter(|stated| stated.bone == bone) {
            let told = |text: &String| format!("{text} (stated by {})", stated.by);
            speaks_for.extend(stated.speaks_for.as_ref().map(told));
            against.extend(stated.against.as_ref().map(told));
        }
        let nothing = speaks_for.is_empty() && against.is_empty();
        let text = |found: Vec<String>| match (nothing, found.is_empty()) {
            (true, _) => NOT_MEASURED.to_owned(),
            (false, true) => "–".to_owned(),
            _ => found.join("; "),
        };
        rows.push(vec![bone.name().to_owned(), text(speaks_for), text(against)]);
    }
    Section { heading: "Fishbone", rows }
}

fn measured(bone: Bone, report: &Report) -> (Vec<String>, Vec<String>) {
    let (mut speaks_for, mut against) = (Vec::new(), Vec::new());
    let share = |side: fn(&str) -> bool, split: &Split| {
        let sum = |stages: &mut dyn Iterator<Item = &Stage>| stages.map(|stage| stage.mean_ns.max(0)).sum::<i64>();
        let all = sum(&mut Split::shown(&split.slowest));
        let part = sum(&mut Split::shown(&split.slowest).filter(|stage| side(&stage.name)));
        (part, part as f64 / all.max(1) as f64)
    };
    // Today's path is what is complained about; without arms, everything is.
    let mut splits: Vec<&Split> = report.figures.stages.data.iter().filter(|split| split.name == "control").collect();
    if splits.is_empty() {
        splits = report.figures.stages.data.iter().filter(|split| !split.name.contains("prelude")).collect();
    }
    let side: fn(&str) -> bool = match bone {
        Bone::Network => |stage| stage == "wire",
        Bone::Host => {
            |stage| stage == "residence" || stage == "app" || stage.starts_with("rx_") || stage.starts_with("tx_")
        }
        _ => return (speaks_for, against),
    };
    for split in splits {
        let (part, share) = share(side, split);
        let what = if bone == Bone::Network { "the wire" } else { "the reflector's host" };
        let text = format!(
            "{what} holds {} ({}) of the slowest 5 % of round trips ({})",
            signed_span(part),
            percent(share),
            split.name
        );
        if share >= 0.5 { speaks_for.push(text) } else { against.push(text) }
    }
    if bone == Bone::Network {
        for trace in &report.figures.paths.data {
            let lossy: Vec<_> = trace.flows.iter().filter(|flow| flow.blamed.is_some()).collect();
            let of = format!("{} of {} flows to {}", lossy.len(), trace.flows.len(), trace.target);
            match lossy.first() {
                Some(flow) => speaks_for.push(format!("{of} lose on the way: {}, loss {}", flow.verdict, flow.loss())),
                None => against.push(format!("{of} are blamed on a link")),
            }
        }
        for verdict in &report.verdicts {
            match verdict.decision.as_str() {
                "Promote" => speaks_for.push(format!("another transit is better: {}", verdict.sentence)),
                "RollBack" => against.push(format!("another transit is worse: {}", verdict.sentence)),
                _ => {}
            }
        }
    }
    if bone == Bone::Host {
        for audit in &report.audits {
            let findings: Vec<_> = audit.entries.iter().filter(|entry| entry.state == "finding").collect();
            let names: Vec<_> =
                findings.iter().take(4).map(|entry| format!("{} {}", entry.subject, entry.name)).collect();
            match findings.len() {
                0 => against.push(format!("audit of {}: no finding among {} rules", audit.file, audit.entries.len())),
                many => speaks_for.push(format!("audit of {}: {many} findings, {}", audit.file, names.join(", "))),
            }
        }
    }
    (speaks_for, against)
}

fn requests(case: &Case) -> Section {
    let mut rows = head(["", "asked for"]);
    rows.extend(case.requests.iter().enumerate().map(|(at, text)| vec![(at + 1).to_string(), text.clone()]));
    Section { heading: "Requests", rows }
}

fn evidence(report: &Report, page_sha256: &str) -> Section {
    let mut rows = head(["run", "chain"]);
    rows.extend(report.runs.iter().map(|run| vec![format!("{} ({})", run.path, run.verb), seal(&run.seal)]));
    rows.push(vec!["the report's SHA-256".to_owned(), page_sha256.to_owned()]);
    Section { heading: "Evidence", rows }
}

/// Text of others in a table of Markdown: nothing of it is markup or HTML.
fn markdown(text: &str) -> String {
    let mut out = String::new();
    for character in plain(text).chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => out.extend(['\\', character]),
            other => out.push(other),
        }
    }
    out
}
