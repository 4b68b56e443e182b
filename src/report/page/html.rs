//! The report as one page that needs nothing else: no script, no network, no font; it opens from a mail and prints in black and white.
//!
//! A content security policy in its head forbids everything but its own style, so that the escape is not the only guard.

use std::collections::BTreeSet;

use super::{
    files::Audit,
    gather::places,
    judged::{Judged, Row},
    ledger::{Split, Stage},
    markup::Markup,
    model::{Cohort, Figure, Report, RunSeen},
    paths::{self, Paths},
    sessions::{Curves, Evenings},
    svg,
    text::{runs, seal},
};
use crate::report::{percent, span};

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let mut page = Markup::default();
    page.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
        .raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">")
        .raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">")
        .element("title", &[], format_args!("pathlab: {}", report.title))
        .raw("<style>")
        .raw(include_str!("style.css"))
        .raw("</style></head><body>\n");
    page.element("h1", &[], &report.title);
    let times = format!(
        "{}; times of day in {}, instants in UTC; written {} by pathlab {}",
        runs(report),
        report.zone,
        report.made.strftime("%Y-%m-%d %H:%M:%S UTC"),
        report.version
    );
    page.element("p", &[("class", &"meta")], times);
    if let Some(labels) = report.figures.evenings.data.labels() {
        page.element("p", &[("class", &"labels")], labels);
    }
    if let Some(broken) = report.broken() {
        page.element("p", &[("class", &"broken")], broken);
    }
    if report.verdicts.is_empty() {
        page.raw("<p>No verdict is among the runs: what follows describes, and decides nothing.</p>");
    }
    report.verdicts.iter().for_each(|verdict| judged(&mut page, verdict));
    evenings(&mut page, &report.figures.evenings);
    percentiles(&mut page, &report.figures.percentiles);
    stages(&mut page, &report.figures.stages);
    traced(&mut page, &report.figures.paths);
    report.audits.iter().for_each(|audit| host(&mut page, audit));
    exact(&mut page, report);
    evidence(&mut page, report);
    page.raw("</body></html>\n");
    page.into_string()
}

fn judged(page: &mut Markup, verdict: &Judged) {
    let why = verdict.sentence.split_once(": ").map_or(verdict.sentence.as_str(), |(_, why)| why);
    page.raw("<p class=\"sentence\">").element("span", &[("class", &"decision")], &verdict.decision).text(why);
    page.raw("</p><h3>What would change it</h3><ul>");
    for change in &verdict.would_change {
        page.element("li", &[], change);
    }
    page.raw("</ul><h3>Checks</h3><ul class=\"checks\">");
    for reason in &verdict.reasons {
        let mark = if reason.holds { "✓" } else { "✗" };
        page.raw("<li>").element("span", &[("class", &"mark")], mark).text(&reason.text).raw("</li>");
    }
    page.raw("</ul>").element(
        "p",
        &[("class", &"note")],
        format_args!("{}; plan SHA-256 {}", verdict.registered, verdict.plan_sha256),
    );
    if let Some(acceptance) = &verdict.acceptance {
        page.element("p", &[], format_args!("Acceptance: {acceptance}"));
    }
}

fn evenings(page: &mut Markup, figure: &Figure<Evenings>) {
    let data = &figure.data;
    page.raw("<h2>Evenings</h2>");
    if data.panels.is_empty() {
        page.raw("<p>Not measured: no run has sessions.</p>");
        return;
    }
    let about = format!(
        "95th percentile of the round trip by date and time of day ({}), bins of {} min, every session weighing the same; below each row, its loss. A bin that nobody measured is a dot. All panels share one scale.",
        data.zone,
        data.bin_s / 60
    );
    page.element("p", &[("class", &"note")], about);
    let limits = svg::limits(data);
    page.append(&svg::legend(&limits));
    page.raw("<div class=\"multiples\">");
    for panels in places(&data.panels, |panel| &panel.cohort).into_values() {
        for panel in panels {
            page.raw("<figure>").element("figcaption", &[], name(&panel.cohort));
            page.append(&svg::heatmap(data, panel, &limits)).raw("</figure>");
        }
    }
    page.raw("</div>");
    hash(page, "evenings", figure);
}

fn name(cohort: &Cohort) -> String {
    format!("{}, {}", cohort.place(), cohort.arm())
}

fn percentiles(page: &mut Markup, figure: &Figure<Curves>) {
    let data = &figure.data;
    if data.curves.is_empty() {
        return;
    }
    page.raw("<h2>Percentiles by arm</h2><p class=\"note\">Round trip over the evenings, without the prelude, up to the percentile beyond which five packets lie. Solid: control; dashed: canary.</p><div class=\"multiples small\">");
    for of in places(&data.curves, |curve| &curve.cohort).into_values() {
        let highest = of.iter().flat_map(|curve| &curve.rtt_ns).flatten().max().copied().unwrap_or(1);
        page.raw("<figure>").element("figcaption", &[], of[0].cohort.place());
        page.append(&svg::curves(data, &of, highest)).raw("</figure>");
    }
    page.raw("</div>");
    hash(page, "percentiles", figure);
}

fn stages(page: &mut Markup, figure: &Figure<Vec<Split>>) {
    page.raw("<h2>Wire or host</h2>");
    if figure.data.is_empty() {
        page.raw("<p>Not measured: no run kept samples with a ledger.</p>");
        return;
    }
    page.raw("<p class=\"note\">Mean of each stage, which add up to the mean round trip, of all kept samples and of the slowest 5 %. How late the probe was against its own schedule is in the table and no part of the bars.</p><figure>");
    page.append(&svg::stages(&figure.data)).raw("</figure>");
    let mut names: Vec<&str> = Vec::new();
    for stage in figure.data.iter().flat_map(|split| &split.all) {
        if !names.contains(&stage.name.as_str()) {
            names.push(&stage.name);
        }
    }
    page.raw("<div class=\"scroll\"><table><tr><th></th><th>samples</th>");
    for name in &names {
        page.element("th", &[], name);
    }
    page.raw("</tr>");
    for split in &figure.data {
        for (what, stages) in [("all", &split.all), ("slowest 5 %", &split.slowest)] {
            page.raw("<tr>").element("td", &[], format_args!("{}, {what}", split.name));
            page.element("td", &[], if what == "all" { split.samples } else { split.samples.div_ceil(20) });
            for name in &names {
                let found = stages.iter().find(|stage| stage.name == *name);
                page.element("td", &[], found.map_or_else(|| "–".to_owned(), Stage::mean));
            }
            page.raw("</tr>");
        }
    }
    page.raw("</table></div>");
    hash(page, "stages", figure);
}

fn traced(page: &mut Markup, figure: &Figure<Vec<Paths>>) {
    for trace in &figure.data {
        page.element("h2", &[], format_args!("Paths to {} ({})", trace.target, trace.run));
        page.raw("<p class=\"note\">One row a flow, whose addresses and ports never change; at its end the loss of the destination. A thick link is where loss begins that persists to the destination; what single routers do not answer is no loss. Dashed: nothing comes back from there. A diamond is a hop at which the path changed meanwhile; loss is then that of the longest stretch without a change.</p><figure>");
        page.append(&paths::graph(trace)).raw("</figure><div class=\"scroll\"><table><tr><th>flow</th><th class=\"l\">said of it</th><th>loss (95 %)</th><th>packets</th><th class=\"l\">changes of the path</th></tr>");
        for flow in &trace.flows {
            page.raw("<tr>").element("td", &[], &flow.source).element("td", &[("class", &"l")], &flow.verdict);
            page.element("td", &[], flow.loss()).element("td", &[], flow.sent).raw("<td class=\"l\">");
            if let Some(counted) = flow.counted() {
                page.element("div", &[], counted);
            }
            for change in &flow.changes {
                page.element("div", &[], change.text());
            }
            page.raw("</td></tr>");
        }
        page.raw("</table></div>");
    }
    if !figure.data.is_empty() {
        hash(page, "paths", figure);
    }
}

fn host(page: &mut Markup, audit: &Audit) {
    page.element("h2", &[], format_args!("Host: {}", audit.file));
    let of = |state: &str| audit.entries.iter().filter(|entry| entry.state == state).count();
    let counts = format!(
        "{} findings, {} as it should be, {} could not be read, {} not applicable",
        of("finding"),
        of("ok"),
        of("cannot_read"),
        of("not_applicable")
    );
    page.element("p", &[("class", &"note")], counts);
    let shown = audit.entries.iter().filter(|entry| ["finding", "cannot_read"].contains(&entry.state.as_str()));
    page.raw("<div class=\"scroll\"><table><tr><th>rule</th><th class=\"l\">of</th><th class=\"l\">found</th><th class=\"l\">command and the one back</th></tr>");
    for entry in shown {
        page.raw("<tr>").element("td", &[], format_args!("{} {}", entry.rule, entry.name));
        page.element("td", &[("class", &"l")], &entry.subject);
        let unread = if entry.state == "finding" { "" } else { "could not be read: " };
        page.element("td", &[("class", &"l")], format_args!("{unread}{}", entry.because));
        page.raw("<td class=\"l\">");
        if let Some(change) = &entry.change {
            for (mark, command) in [("→", change.fix.first()), ("←", change.undo.first())] {
                if let Some(command) = command {
                    page.raw("<div>").text(mark).raw(" ").element("code", &[], command).raw("</div>");
                }
            }
        }
        page.raw("</td></tr>");
    }
    page.raw("</table></div>");
}

fn exact(page: &mut Markup, report: &Report) {
    for verdict in &report.verdicts {
        page.raw("<h2>Exact figures</h2>");
        page.raw("<p class=\"note\">Canary minus control: above zero is worse. Sessions weigh the same; intervals are those of the verdict.</p>");
        for (heading, rows) in [
            ("By ISP and family, over the evenings", &verdict.cells),
            ("By ISP and evening", &verdict.evenings),
            ("Guardrails", &verdict.guardrails),
            ("A/A prelude: both arms on today's path", &verdict.prelude),
        ] {
            page.element("h3", &[], heading);
            if rows.is_empty() {
                page.raw("<p>Not measured.</p>");
            } else {
                answers(page, rows);
            }
        }
    }
    let data = &report.figures.evenings.data;
    if data.panels.is_empty() {
        return;
    }
    page.raw("<h3>What was sent</h3><div class=\"scroll\"><table><tr><th></th><th>window</th><th>arm</th><th>bins</th><th>sent</th><th>lost</th><th>loss</th><th>p95 of the fastest bin</th><th>of the slowest</th></tr>");
    for panel in &data.panels {
        let rows: BTreeSet<usize> = panel.cells.iter().map(|cell| cell.row).collect();
        for row in rows {
            let cells: Vec<_> = panel.cells.iter().filter(|cell| cell.row == row).collect();
            let told: Vec<_> = cells.iter().filter_map(|cell| Some((cell.sent, cell.lost?))).collect();
            let sent: u64 = cells.iter().map(|cell| cell.sent).sum();
            let lost: u64 = told.iter().map(|(_, lost)| lost).sum();
            let told_sent: u64 = told.iter().map(|(sent, _)| sent).sum();
            let unknown = told.is_empty() || told_sent == 0;
            let values = || cells.iter().filter_map(|cell| cell.p95_ns);
            page.raw("<tr>").element("td", &[], panel.cohort.place());
            for text in [
                data.rows[row].clone(),
                panel.cohort.arm().to_owned(),
                cells.len().to_string(),
                sent.to_string(),
                if unknown { "not measured".to_owned() } else { lost.to_string() },
                if unknown { "not measured".to_owned() } else { percent(lost as f64 / told_sent as f64) },
                values().min().map_or_else(|| "no reply".to_owned(), span),
                match cells.iter().any(|cell| cell.p95_ns.is_none()) {
                    true => "no reply".to_owned(),
                    false => values().max().map_or_else(String::new, span),
                },
            ] {
                page.element("td", &[], text);
            }
            page.raw("</tr>");
        }
    }
    page.raw("</table></div>");
}

fn answers(page: &mut Markup, rows: &[Row]) {
    page.raw("<div class=\"scroll\"><table><tr><th></th><th>window</th><th>metric</th><th>control sessions</th><th>canary sessions</th><th>control</th><th>canary</th><th>difference</th><th>interval</th><th>margin</th><th>smallest that could be seen</th></tr>");
    for row in rows {
        page.raw("<tr>").element("td", &[], &row.scope);
        for text in [&row.window, &row.metric, &row.control_sessions.to_string(), &row.canary_sessions.to_string()] {
            page.element("td", &[], text);
        }
        for text in [&row.control, &row.canary, &row.difference, &row.interval, &row.margin, &row.smallest_detectable] {
            page.element("td", &[], text);
        }
        page.raw("</tr>");
    }
    page.raw("</table></div>");
}

fn evidence(page: &mut Markup, report: &Report) {
    page.raw("<h2>Evidence</h2><p class=\"note\">Each run is a chain of hashes that was sealed when its measurement ended, before this page was written. <code>pathlab evidence verify RUN</code> names what was changed since; compare the sealed record with the one that was printed then. The hash of a figure is that of its data: <code>pathlab report RUN --json | jq -cj .figures.NAME.data | sha256sum</code>.</p>");
    page.raw("<div class=\"scroll\"><table><tr><th>run</th><th class=\"l\">verb</th><th class=\"l\">started (UTC)</th><th class=\"l\">chain</th><th class=\"l\">host</th></tr>");
    for run in &report.runs {
        page.raw("<tr>").element("td", &[], &run.path).element("td", &[("class", &"l")], &run.verb);
        page.element("td", &[("class", &"l")], run.started.strftime("%Y-%m-%d %H:%M:%S"));
        page.raw("<td class=\"l\">").element("code", &[], seal(&run.seal)).raw("</td>");
        page.element("td", &[("class", &"l")], &run.host).raw("</tr>");
    }
    page.raw("</table></div><table><tr><th>figure</th><th class=\"l\">SHA-256 of its data</th></tr>");
    for (name, sha256) in report.figures.hashes() {
        page.raw("<tr>")
            .element("td", &[], name)
            .raw("<td class=\"l\">")
            .element("code", &[], sha256)
            .raw("</td></tr>");
    }
    page.raw("</table>");
    deeds(page, &report.runs);
    if !report.remarks.is_empty() {
        page.raw("<h3>Remarks</h3><ul>");
        for remark in &report.remarks {
            page.element("li", &[], remark);
        }
        page.raw("</ul>");
    }
}

fn deeds(page: &mut Markup, runs: &[RunSeen]) {
    let mut deeds: Vec<_> = runs.iter().flat_map(|run| &run.deeds).collect();
    if deeds.is_empty() {
        return;
    }
    deeds.sort_by_key(|deed| deed.time);
    page.raw(
        "<h3>What was done</h3><table><tr><th>when (UTC)</th><th class=\"l\">who</th><th class=\"l\">what</th></tr>",
    );
    for deed in deeds {
        page.raw("<tr>").element("td", &[], deed.time.strftime("%Y-%m-%d %H:%M:%S"));
        page.element("td", &[("class", &"l")], &deed.actor)
            .element("td", &[("class", &"l")], &deed.action)
            .raw("</tr>");
    }
    page.raw("</table>");
}

fn hash<T>(page: &mut Markup, name: &str, figure: &Figure<T>) {
    page.raw("<p class=\"note\">")
        .text(format_args!("data of figure {name}: SHA-256 "))
        .element("code", &[], figure.sha256)
        .raw("</p>");
}
