//! What is going on, on a terminal; nothing in a pipe.

use std::{cell::Cell, io::IsTerminal, time::Duration};

use console::Term;
use indicatif::{ProgressBar, ProgressStyle};

/// One line on stderr that is replaced, and gone at the end.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Shown only where somebody looks.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    /// Says what is going on now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        if let Some(bar) = &self.0 {
            bar.set_message(what.into());
        }
    }
}

/// Lines on stderr that are redrawn in place, and gone at the end. One write a time, over what is there: nothing is blank in between.
pub(crate) struct Screen {
    term: Option<Term>,
    /// Lines above the cursor.
    drawn: Cell<usize>,
}

/// Where a terminal does not tell its size.
const LINES_AND_COLUMNS: (u16, u16) = (24, 80);

impl Screen {
    /// Shown only where somebody looks.
    pub(crate) fn new() -> Self {
        let term = Term::stderr();
        Self { term: term.is_term().then_some(term), drawn: Cell::new(0) }
    }

    /// Never shown.
    pub(crate) fn none() -> Self {
        Self { term: None, drawn: Cell::new(0) }
    }

    /// Whether anything is drawn.
    pub(crate) fn draws(&self) -> bool {
        self.term.is_some()
    }

    /// Lines and columns that there are now; more are cut off.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (lines, columns) = self.term.as_ref().and_then(Term::size_checked).unwrap_or(LINES_AND_COLUMNS);
        // the last is the cursor's
        (usize::from(lines).saturating_sub(1), usize::from(columns))
    }

    /// Draws this instead of what was there.
    pub(crate) fn show(&self, text: &str) {
        let Some(term) = &self.term else { return };
        let (lines, columns) = self.size();
        let mut drawing = back(self.drawn.get());
        let shown = text.lines().take(lines);
        for line in shown.clone() {
            drawing += &console::truncate_str(line, columns, "…");
            drawing += "\x1b[K\n";
        }
        self.drawn.set(shown.count());
        // a terminal that is gone is nobody's who looks
        let _ = term.write_str(&(drawing + "\x1b[J"));
    }

    /// Clears it.
    pub(crate) fn finish(&self) {
        if let Some(term) = &self.term {
            let _ = term.write_str(&(back(self.drawn.take()) + "\x1b[J"));
        }
    }
}

/// To the first of so many lines (ECMA-48: CUU).
fn back(lines: usize) -> String {
    if lines == 0 { "\r".to_owned() } else { format!("\r\x1b[{lines}A") }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
