//! An audit as text: findings first, with the commands there and back; then what is well; then what could not be judged. A plan as text.

use std::fmt::Write;

use pathlab_host::{Audit, Change, Entry, Plan, State};

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

/// A plan: what would be done, with the way back, then what would not be.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    for planned in &plan.changes {
        let rule = planned.rule.as_deref().map(|rule| format!("  # {rule}")).unwrap_or_default();
        for (at, command) in planned.fix.iter().enumerate() {
            let _ = writeln!(text, "→ {command}{}", if at == 0 { &rule } else { "" });
        }
        for command in &planned.undo {
            let _ = writeln!(text, "← {command}");
        }
    }
    for refused in &plan.refused {
        let command = if refused.fix.is_empty() { String::new() } else { format!("{}: ", refused.fix.join("; ")) };
        let _ = writeln!(text, "✗ {command}{}", refused.because);
    }
    for noticed in &plan.noticed {
        let _ = writeln!(text, "! {noticed}");
    }
    let changes = plan.changes.len();
    let _ = writeln!(text, "{changes} change{}, {} refused", if changes == 1 { "" } else { "s" }, plan.refused.len());
    text
}

fn label(entry: &Entry) -> String {
    format!("{:>2} {} {}", entry.rule, entry.subject, entry.name)
}

fn commands(text: &mut String, width: usize, change: &Change, all: bool) {
    for (mark, commands) in [("→", change.fix()), ("←", change.undo())] {
        let shown = if all { commands.len() } else { commands.len().min(SHOWN) };
        for command in &commands[..shown] {
            let _ = writeln!(text, "  {:<width$}  {mark} {command}", "");
        }
        if shown < commands.len() {
            let _ = writeln!(text, "  {:<width$}  {mark} and {} more: --explain", "", commands.len() - shown);
        }
    }
}
