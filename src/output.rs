//! Results on stdout: one JSON document when asked for, and nothing else beside it. A reader who has seen enough, such as `head`, is no failure.

use std::{
    fmt,
    io::{ErrorKind, Write},
};

use anyhow::Result;
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
