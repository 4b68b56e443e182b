//! An audit as text: findings first, with the commands there and back; then what is well; then what could not be judged.

use std::fmt::Write;

use pathlab_host::{Audit, Change, Entry, State};

/// Commands shown of a change; the others are counted unless everything is asked for.
const SHOWN: usize = 4;

/// The whole audit.
pub(crate) fn text(audit: &Audit, explain: bool) -> String {
    let mut text = String::new();
    let of = |state: State| audit.entries.iter().filter(move |entry| entry.state == state);
    let width = audit.entries.iter().map(|entry| label(entry).chars().count()).max().unwrap_or(0);
    for (heading, state) in [
        ("findings", State::Finding),
        ("as it should be", State::Ok),
        ("cannot read", State::CannotRead),
        ("not applicable", State::NotApplicable),
    ] {
        if of(state).next().is_none() {
            continue;
        }
        let _ = writeln!(text, "{}{heading}", if text.is_empty() { "" } else { "\n" });
        for entry in of(state) {
            let _ = writeln!(text, "  {:<width$}  {}", label(entry), entry.because);
            if explain {
                let _ = writeln!(text, "  {:<width$}  good: {} [{}]", "", entry.good, entry.source);
                for seen in &entry.read {
                    let _ = writeln!(text, "  {:<width$}  read {} = {}", "", seen.path, seen.value);
                }
            }
            if let Some(change) = &entry.change {
                commands(&mut text, width, change, explain);
            }
        }
    }
    let [findings, well, unread, other] =
        [State::Finding, State::Ok, State::CannotRead, State::NotApplicable].map(|state| audit.count(state));
    let _ = writeln!(
        text,
        "\n{findings} findings, {well} as it should be, {unread} cannot be read, {other} not applicable"
    );
    text
}

fn label(entry: &Entry) -> String {
    format!("{:>2} {} {}", entry.rule, entry.subject, entry.name)
}

fn commands(text: &mut String, width: usize, change: &Change, all: bool) {
    for (mark, commands) in [("→", &change.fix), ("←", &change.undo)] {
        let shown = if all { commands.len() } else { commands.len().min(SHOWN) };
        for command in &commands[..shown] {
            let _ = writeln!(text, "  {:<width$}  {mark} {command}", "");
        }
        if shown < commands.len() {
            let _ = writeln!(text, "  {:<width$}  {mark} and {} more: --explain", "", commands.len() - shown);
        }
    }
}
