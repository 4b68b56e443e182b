//! Results on stdout: one JSON document when asked for, and nothing else beside it.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a, T> {
    schema: String,
    #[serde(flatten)]
    body: &'a T,
}

/// Prints `document`, which names its schema itself.
pub(crate) fn document<T: Serialize>(document: &T) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, document)?;
    writeln!(stdout)?;
    Ok(())
}

/// Prints `body` with `"schema": "pathlab.<verb>/1"` in front.
pub(crate) fn json<T: Serialize>(verb: &str, body: &T) -> Result<()> {
    document(&Document { schema: format!("pathlab.{verb}/1"), body })
}
