//! Results on stdout: one JSON document when asked for, and nothing else beside it. A reader who has seen enough, such as `head`, is no failure.

use std::{
    fmt,
    io::{ErrorKind, Write},
};

use anyhow::Result;
use console::Term;
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a, T> {
    schema: String,
    #[serde(flatten)]
    body: &'a T,
}

/// `print!` of a result.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::text(format_args!($($text)*)) };
}

/// `println!` of a result.
macro_rules! outln {
    () => { $crate::output::text(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::text(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints `text`, unless nobody reads it any more.
///
/// # Panics
/// When it cannot be written for another reason, as `print!` does: a full disk must not pass for a result.
pub(crate) fn text(text: fmt::Arguments<'_>) {
    if let Err(error) = std::io::stdout().lock().write_fmt(text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        panic!("stdout: {error}");
    }
}

/// Prints sentences and tables, on a terminal at its width.
///
/// # Panics
/// As [`text`].
pub(crate) fn prose(prose: &str) {
    let terminal = Term::stdout();
    match terminal.is_term().then(|| terminal.size_checked()).flatten() {
        Some((_, columns)) => out!("{}", wrapped(prose, usize::from(columns).max(LEAST_COLUMNS))),
        None => out!("{prose}"),
    }
}

/// Below this a word a line would be all.
const LEAST_COLUMNS: usize = 40;

/// With these a verdict's sentence begins.
const DECISIONS: [&str; 3] = ["PROMOTE  ", "HOLD  ", "ROLL BACK  "];

/// Breaks lines that are longer than `columns` characters between words, and indents what follows as far as the first word after a mark. A line
/// with columns of its own, two blanks between words, stays whole: it is a row of a table, or a picture.
fn wrapped(prose: &str, columns: usize) -> String {
    let mut out = String::with_capacity(prose.len() + 64);
    for line in prose.split_inclusive('\n') {
        let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
        let decision = DECISIONS.into_iter().find(|name| text.starts_with(name)).map_or(0, str::len);
        let blanks = decision.max(text.len() - text.trim_start().len());
        let words = &text[blanks..];
        if text.chars().count() <= columns || words.trim_end().contains("  ") {
            out.push_str(line);
            continue;
        }
        let mark = words.split(' ').next().filter(|mark| ["✓", "✗", "?", "note:"].contains(mark));
        let indent = " ".repeat(blanks + mark.map_or(0, |mark| mark.chars().count() + 1));
        let mut used = blanks;
        out.push_str(&text[..blanks]);
        for (place, word) in words.split(' ').enumerate() {
            let length = word.chars().count();
            if place > 0 && used + 1 + length > columns && used > indent.len() {
                out.push('\n');
                out.push_str(&indent);
                used = indent.len();
            } else if place > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += length;
        }
        out.push_str(end);
    }
    out
}

/// Prints `document`, which names its schema itself.
pub(crate) fn document<T: Serialize>(document: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(document)?;
    outln!("{text}");
    Ok(())
}

/// Prints `body` as one line of many, with `"schema": "pathlab.<verb>/1"` in front.
pub(crate) fn line<T: Serialize>(verb: &str, body: &T) -> Result<()> {
    let line = serde_json::to_string(&Document { schema: format!("pathlab.{verb}/1"), body })?;
    outln!("{line}");
    Ok(())
}

/// Prints `body` with `"schema": "pathlab.<verb>/1"` in front.
pub(crate) fn json<T: Serialize>(verb: &str, body: &T) -> Result<()> {
    document(&Document { schema: format!("pathlab.{verb}/1"), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_between_words_and_hang_under_their_first() {
        let text = "  ✗ loss of NTT IPv4 is worse on the canary\n  note: steered: return traffic of the sessions by transit B\nHold: short\n";
        let expected = "  ✗ loss of NTT IPv4 is worse on\n    the canary\n  note: steered: return traffic\n        of the sessions by\n        transit B\nHold: short\n";
        assert_eq!(wrapped(text, 32), expected);
        assert_eq!(wrapped(text, 200), text);
        // Nothing is lost or added but blanks and line breaks, however narrow it is.
        for columns in 1..60 {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let narrow = wrapped(text, columns);
            assert_eq!(words(&narrow), words(text), "{columns}");
            assert!(columns < 32 || narrow.lines().all(|line| line.chars().count() <= columns), "{columns}: {narrow}");
        }
    }

    #[test]
    fn a_verdicts_sentence_hangs_under_itself() {
        let text = "ROLL BACK  loss of NTT IPv4 is worse on the canary\n";
        assert_eq!(wrapped(text, 40), "ROLL BACK  loss of NTT IPv4 is worse on\n           the canary\n");
    }

    #[test]
    fn tables_and_words_without_a_blank_stay_whole() {
        for text in ["NTT IPv4      412  73  42.1 ms  31.0 ms\n", "x".repeat(80).as_str(), "", "\n\n"] {
            assert_eq!(wrapped(text, 20), text);
        }
        assert_eq!(wrapped("see 0123456789012345678901234 there", 20), "see\n0123456789012345678901234\nthere");
    }
}
