//! A table for people: text for a terminal, Markdown for docs/performance.md, with what is lost and what is noise said by the figures.

use std::fmt::Write;

use anyhow::{Context, Result};

use crate::table::{Ahead, Better, Row, Section, Table};

/// For a terminal.
pub fn text(table: &Table) -> String {
    let mut text = String::new();
    for section in &table.sections {
        let better = if section.better == Better::More { "more" } else { "less" };
        let _ = writeln!(text, "{} ({}, {better} is better)", section.title, section.unit);
        let width = section.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "  {:<width$} {:>11} {:>11} {:>11} {:>9}  beside ours",
            "", "median", "least", "most", "MAD"
        );
        for row in &section.rows {
            let [median, least, most, mad] = cells(row);
            let _ = writeln!(
                text,
                "  {:<width$} {median:>11} {least:>11} {most:>11} {mad:>9}  {}",
                row.name,
                beside(section, row)
            );
        }
        text.push('\n');
    }
    for line in verdicts(table) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// For docs/performance.md.
pub fn markdown(table: &Table) -> String {
    let host = &table.host;
    let mut text = String::new();
    if table.quick {
        text.push_str("**A quick run: it shows that the bench works, and nothing else.**\n\n");
    }
    let machine = if host.virtual_machine { "virtual machine" } else { "machine" };
    let _ = writeln!(
        text,
        "Measured {} on a {machine} with {} × {}, Linux {}, governor {}; load before {:.2}, after {:.2}; {:.1} % of processor time stolen by the \
         hypervisor. pathlab {}.\n",
        table.started.strftime("%Y-%m-%d %H:%M UTC"),
        host.processors,
        host.processor,
        host.kernel,
        host.governor.as_deref().unwrap_or("not to be seen"),
        host.load[0],
        host.load[1],
        host.stolen * 100.0,
        std::slice::from_ref(&host.revision).iter().chain(&host.peers).cloned().collect::<Vec<_>>().join(", "),
    );
    for section in &table.sections {
        let better = if section.better == Better::More { "more" } else { "less" };
        let _ = writeln!(text, "**{}** ({}, {better} is better)\n", section.title, section.unit);
        text.push_str("| | median | least | most | MAD | beside ours |\n|---|---:|---:|---:|---:|---|\n");
        for row in &section.rows {
            let [median, least, most, mad] = cells(row);
            let _ = writeln!(text, "| {} | {median} | {least} | {most} | {mad} | {} |", row.name, beside(section, row));
        }
        text.push('\n');
    }
    for line in verdicts(table) {
        let _ = writeln!(text, "{line}");
    }
    text.push_str("\nHow:\n\n");
    for line in &table.method {
        let _ = writeln!(text, "- {line}");
    }
    text
}

/// `document` with what stands between the markers of the table replaced.
///
/// # Errors
/// No such markers.
pub fn into_document(document: &str, table: &Table) -> Result<String> {
    let (begin, end) = (format!("<!-- bench:{} -->\n", table.table), format!("<!-- /bench:{} -->", table.table));
    let marks = || document.find(&begin).zip(document.find(&end)).filter(|(begin, end)| begin < end);
    let (from, to) = marks().with_context(|| format!("no {} and {end} in the document", begin.trim()))?;
    let (head, tail) = (&document[..from + begin.len()], &document[to..]);
    Ok(format!("{head}\n{}\n{tail}", markdown(table).trim_end()))
}

/// Aims, losses and noise, as lists.
fn verdicts(table: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    let mut list = |title: &str, items: Vec<String>, none: &str| {
        lines.push(format!("{title}{}", if items.is_empty() { format!(" {none}") } else { String::new() }));
        if !items.is_empty() {
            lines.push(String::new());
        }
        lines.extend(items.into_iter().map(|item| format!("- {item}")));
        lines.push(String::new());
    };
    let aims = table
        .aims
        .iter()
        .map(|aim| format!("{}: {}, {}", aim.goal, aim.figure, if aim.met { "met" } else { "**missed**" }));
    list("Aims:", aims.collect(), "none.");
    let compared = |which: Ahead| {
        let all = table.sections.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)));
        all.filter_map(move |(section, row)| {
            let comparison = section.comparison(row).filter(|comparison| comparison.ahead == which)?;
            let ours = row.beside.as_deref().unwrap_or_default();
            let ratio = comparison.ratio;
            Some(format!(
                "{}: {} {:.2} times {ours} (rounds {:.2} to {:.2})",
                section.title, row.name, ratio.median, ratio.min, ratio.max
            ))
        })
        .collect::<Vec<_>>()
    };
    list("Where a peer is ahead in every round:", compared(Ahead::Peer), "nowhere in this run.");
    list("Noise: the rounds do not agree who is ahead:", compared(Ahead::Neither), "nowhere in this run.");
    lines.pop();
    lines
}

fn beside(section: &Section, row: &Row) -> String {
    section.comparison(row).map_or_else(String::new, |comparison| {
        let ratio = comparison.ratio;
        format!(
            "{:.2} × {} ({:.2}–{:.2})",
            ratio.median,
            row.beside.as_deref().unwrap_or_default(),
            ratio.min,
            ratio.max
        )
    })
}

/// Median, least, most, MAD.
fn cells(row: &Row) -> [String; 4] {
    let Some(summary) = row.summary() else { return ["absent", "", "", ""].map(str::to_owned) };
    let bound = if row.at_least { "≥ " } else { "" };
    let [median, least, most, mad] = [summary.median, summary.min, summary.max, summary.mad].map(number);
    [format!("{bound}{median}"), least, most, mad]
}

/// Three significant digits at least, thousands apart.
fn number(figure: f64) -> String {
    if figure == 0.0 {
        return "0".into();
    }
    let decimals = (2 - figure.abs().log10().floor() as i32).clamp(0, 4) as usize;
    let text = format!("{figure:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::Host, table::Aim};

    fn table() -> Table {
        Table {
            schema: crate::table::SCHEMA.into(),
            table: "reflector".into(),
            started: jiff::Timestamp::UNIX_EPOCH,
            quick: false,
            method: vec!["One after the other.".into()],
            host: Host { kernel: "6.18".into(), ..Host::default() },
            sections: vec![Section {
                title: "At no loss".into(),
                unit: "packets a second".into(),
                better: Better::More,
                rows: vec![
                    Row { at_least: true, ..Row::new("ours", [1_234_567.0, 1e6, 2e6]) },
                    Row::new("peer", [2e6, 3e6, 4e6]).beside(Some("ours")),
                    Row::new("other", [2e6, 9e5, 4e6]).beside(Some("ours")),
                ],
            }],
            aims: vec![Aim { goal: "at least 5 times".into(), figure: "0.5 times".into(), met: false }],
        }
    }

    #[test]
    fn losses_and_noise_are_said_by_the_figures() {
        let text = text(&table());
        for part in [
            "≥ 1,234,567",
            "at least 5 times: 0.5 times, **missed**",
            "Where a peer is ahead in every round:",
            "At no loss: peer 2.00 times ours (rounds 1.62 to 3.00)",
            "At no loss: other 1.62 times ours (rounds 0.90 to 2.00)",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = "# Head\n<!-- bench:reflector -->\nold\n<!-- /bench:reflector -->\ntail\n";
        let once = into_document(document, &table()).expect("markers");
        assert!(once.starts_with("# Head\n<!-- bench:reflector -->\n\nMeasured 1970-01-01 00:00 UTC"), "{once}");
        assert!(once.ends_with("\n<!-- /bench:reflector -->\ntail\n") && !once.contains("old"), "{once}");
        assert_eq!(into_document(&once, &table()).expect("markers"), once);
        assert!(into_document("nothing", &table()).is_err());
    }

    #[test]
    fn numbers_have_three_digits_and_groups() {
        for (figure, text) in [
            (0.0, "0"),
            (0.98765, "0.988"),
            (12.345, "12.3"),
            (999.4, "999"),
            (1000.0, "1,000"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(number(figure), text);
        }
    }
}
