//! The sections of the watch, in the order in which a reader asks: what is wrong, what was lost, what waited, by whom.

mod host;
mod packets;
mod queues;
mod threads;

use pathlab_host::watch::{Histogram, Report};

use super::View;
use crate::report::{Table, span};

/// Those in which something happened.
pub(super) fn of(view: &View<'_>) -> Vec<String> {
    let all = [
        host::alerts,
        packets::drops,
        packets::sockets,
        threads::ticks,
        threads::run_queues,
        host::throttling,
        queues::sojourns,
        host::qdiscs,
        host::rings,
        queues::polls,
        host::processors,
        threads::softirqs,
        packets::counters,
    ];
    all.into_iter().filter_map(|section| section(view)).collect()
}

/// What stands over a column, and whether it is of all: what is of the last interval alone is left out of a summary, where that is all.
type Head<'a> = (&'a str, bool);

fn all(name: &str) -> Head<'_> {
    (name, true)
}

fn now(name: &str) -> Head<'_> {
    (name, false)
}

fn rate(count: u64, of: &Report) -> String {
    format!("{:.0}", count as f64 / of.seconds.max(1e-9))
}

/// As the other screens have it.
fn quantile(histogram: Option<&Histogram>, level: f64) -> String {
    let bucket = histogram.and_then(|histogram| histogram.quantile(level));
    bucket.map_or_else(|| "–".to_owned(), |bucket| span(bucket.middle()))
}

fn longest(histogram: &Histogram) -> String {
    histogram.max().map_or_else(|| "–".to_owned(), |bucket| span(bucket.middle()))
}

/// A table with so many rows as there is room for, and how many there would be; `None` of none.
fn table<const N: usize>(
    view: &View<'_>,
    heads: [Head<'_>; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Option<String> {
    let rows: Vec<_> = rows.into_iter().collect();
    if rows.is_empty() {
        return None;
    }
    let more = rows.len().saturating_sub(view.rows);
    let shown = heads.map(|(_, of_all)| of_all || view.live);
    let kept = |cells: [String; N]| cells.into_iter().zip(shown).filter_map(|(cell, shown)| shown.then_some(cell));
    let mut table = Table::new(kept(heads.map(|(name, _)| name.to_owned())));
    rows.into_iter().take(view.rows).for_each(|row| table.row(kept(row)));
    let mut text = table.to_string();
    if more > 0 {
        text += &format!("and {more} more\n");
    }
    Some(text)
}
