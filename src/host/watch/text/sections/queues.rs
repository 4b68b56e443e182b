//! Sections about the queues of a device: how long packets waited on the way out, how full polls of receive queues were.

use std::collections::BTreeMap;

use pathlab_host::watch::Napi;

use super::{View, all, longest, now, quantile, rate, table};
use crate::report::percent;

/// Through all qdiscs to the call of the driver, the longest first.
pub(super) fn sojourns(view: &View<'_>) -> Option<String> {
    let whole = view.all.sojourn.as_ref()?;
    let recently: BTreeMap<_, _> = view
        .now
        .sojourn
        .iter()
        .flat_map(|sojourn| &sojourn.queues)
        .map(|of| ((&of.interface, of.queue), &of.nanoseconds))
        .collect();
    let mut queues: Vec<_> = whole.queues.iter().filter(|of| of.nanoseconds.count() > 0).collect();
    queues.sort_by_cached_key(|of| std::cmp::Reverse(of.nanoseconds.quantile(0.99)));
    let rows = queues.into_iter().map(|of| {
        let recent = recently.get(&(&of.interface, of.queue)).copied();
        [
            format!("{} queue {}", of.interface, of.queue),
            quantile(recent, 0.5),
            quantile(recent, 0.99),
            quantile(Some(&of.nanoseconds), 0.5),
            quantile(Some(&of.nanoseconds), 0.99),
            longest(&of.nanoseconds),
        ]
    });
    let p50 = if view.live { "all p50" } else { "p50" };
    let heads = [all("waits for the device"), now("now p50"), now("p99"), all(p50), all("p99"), all("longest")];
    table(view, heads, rows)
}

/// The ones whose budget was used up most often first.
pub(super) fn polls(view: &View<'_>) -> Option<String> {
    let whole = view.all.napi.as_ref()?;
    let recently: BTreeMap<_, &Napi> =
        view.now.napi.iter().flat_map(|napi| &napi.napis).map(|of| ((&of.interface, of.id), of)).collect();
    let share = |of: &Napi| of.exhausted as f64 / of.polls.max(1) as f64;
    let mut napis: Vec<&Napi> = whole.napis.iter().collect();
    napis.sort_by_key(|of| std::cmp::Reverse(of.exhausted));
    let rows = napis.into_iter().map(|of| {
        let recent = recently.get(&(&of.interface, of.id)).copied();
        let place = match of.rx_queue {
            Some(queue) => format!("{} queue {queue}", of.interface),
            None => format!("{} NAPI {}", of.interface, of.id),
        };
        [
            place,
            rate(recent.map_or(0, |of| of.polls), view.now),
            rate(recent.map_or(0, |of| of.packets), view.now),
            recent.map_or_else(|| "–".to_owned(), |of| percent(share(of))),
            percent(share(of)),
        ]
    });
    let polls = format!("polls {}", view.rate);
    let exhausted = if view.live { "all" } else { "budget used up" };
    let heads = [all("receive queue"), all(&polls), all("packets"), now("budget used up: now"), all(exhausted)];
    table(view, heads, rows)
}
