//! What is going on, on a terminal; nothing in a pipe.

use std::{io::IsTerminal, time::Duration};

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

/// Lines on stderr that are redrawn in place, and gone at the end.
pub(crate) struct Screen(Option<ProgressBar>);

impl Screen {
    /// Shown only where somebody looks.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::none();
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// Never shown.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Whether anything is drawn.
    pub(crate) fn draws(&self) -> bool {
        self.0.is_some()
    }

    /// Draws this instead of what was there.
    pub(crate) fn show(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text);
            bar.tick();
        }
    }

    /// Clears it.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
