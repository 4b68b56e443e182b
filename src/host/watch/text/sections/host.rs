//! Sections about the host beside its packets: queues that stand, rings that overflow, processors and groups that are kept from running.

use std::collections::BTreeMap;

use pathlab_host::{
    Meaning,
    watch::{Alert, QdiscReport},
};

use super::{View, all, rate, table};
use crate::report::{percent, span};

/// A share of a processor's time that a reader would care about, in a window of a second the least that the kernel tells.
const STOLEN: f64 = 0.01;

/// What is at its threshold now; of a whole watch, over all of it.
pub(super) fn alerts(view: &View<'_>) -> Option<String> {
    let lines = view.now.alerts.iter().map(|alert| match alert {
        Alert::Losses { interface, queue, counter, meaning, rate, .. } => {
            let queue = queue.map_or_else(String::new, |queue| format!(" queue {queue}"));
            // a sentence would not stand in a line
            let why = if view.live { word(*meaning) } else { meaning.sentence() };
            format!("! {interface}{queue} loses {rate:.0} packets a second: {why} ({counter})\n")
        }
        Alert::Waiting { interface, kind, handle, packets, .. } => {
            format!("! {interface}: {packets} packets wait in {kind} {handle}\n")
        }
        Alert::Exhausted { interface, id, rx_queue, share, .. } => {
            let which = rx_queue.map_or_else(|| format!("NAPI {id}"), |queue| format!("receive queue {queue}"));
            format!("! {interface} {which}: {} of its polls left packets behind\n", percent(*share))
        }
    });
    let lines: Vec<_> = lines.collect();
    let more = lines.len().saturating_sub(view.rows);
    let mut text: String = lines.into_iter().take(view.rows).collect();
    if more > 0 {
        text += &format!("and {more} alerts more\n");
    }
    (!text.is_empty()).then_some(text)
}

/// Trees in which something waited, was held back or given up.
pub(super) fn qdiscs(view: &View<'_>) -> Option<String> {
    let key = |qdisc: &QdiscReport| (qdisc.interface.clone(), qdisc.parent.clone(), qdisc.handle.clone());
    let recently: BTreeMap<_, _> = view.now.qdiscs.iter().map(|qdisc| (key(qdisc), qdisc)).collect();
    let moved =
        |qdisc: &&QdiscReport| qdisc.waiting > 0 || qdisc.drops > 0 || qdisc.overlimits > 0 || qdisc.requeues > 0;
    let ports: Vec<_> = view.all.qdiscs.iter().filter(moved).map(|qdisc| &qdisc.interface).collect();
    let trees = view.all.qdiscs.iter().filter(|qdisc| ports.contains(&&qdisc.interface));
    let rows = trees.map(|qdisc| {
        let recent = recently.get(&key(qdisc));
        let name = match qdisc.parent.as_str() {
            "root" => format!("{} {} {}", qdisc.interface, qdisc.kind, qdisc.handle),
            parent => format!("  {parent} {} {}", qdisc.kind, qdisc.handle),
        };
        let waiting = recent.map_or(qdisc.waiting, |qdisc| qdisc.waiting);
        [name, waiting.to_string(), qdisc.drops.to_string(), qdisc.overlimits.to_string(), qdisc.requeues.to_string()]
    });
    let heads = [all("qdisc"), all("waiting"), all("given up"), all("held back"), all("returned")];
    table(view, heads, rows)
}

/// Counters of cards that grew.
pub(super) fn rings(view: &View<'_>) -> Option<String> {
    let losses = |report: &pathlab_host::watch::Report| -> Vec<_> {
        let of = report.rings.iter();
        of.flat_map(|port| {
            port.losses.iter().map(|loss| ((port.interface.clone(), loss.counter.clone(), loss.queue), loss.clone()))
        })
        .collect()
    };
    let recently: BTreeMap<_, _> = losses(view.now).into_iter().collect();
    let rows = losses(view.all).into_iter().map(|(key, loss)| {
        let recent = recently.get(&key).map_or(0, |loss| loss.packets);
        let (interface, counter, queue) = key;
        let place = interface + &queue.map_or_else(String::new, |queue| format!(" queue {queue}"));
        let why = loss.meaning.map_or("unknown", word);
        [place, counter, why.to_owned(), rate(recent, view.now), loss.packets.to_string()]
    });
    let heads = [all("card lost"), all("counter"), all("why"), all(view.rate), all("all")];
    table(view, heads, rows)
}

/// [`Meaning::sentence`] for a column.
fn word(meaning: Meaning) -> &'static str {
    match meaning {
        Meaning::RingFull => "ring full",
        Meaning::CardBuffer => "card's buffer full",
        Meaning::Memory => "no memory",
        Meaning::Wire => "damaged",
        Meaning::Program => "XDP program",
        Meaning::Allowance => "over allowance",
        Meaning::Transmit => "not sent",
    }
}

/// Processors that others took, or whose receiving ran out of budget.
pub(super) fn processors(view: &View<'_>) -> Option<String> {
    let recently: BTreeMap<_, _> = view.now.processors.iter().map(|of| (of.processor, of)).collect();
    let moved = view.all.processors.iter().filter(|of| of.stolen >= STOLEN || of.squeezed + of.backlog_drops > 0);
    let rows = moved.map(|of| {
        let recent = recently.get(&of.processor).copied().unwrap_or(of);
        [
            format!("CPU {}", of.processor),
            percent(recent.stolen),
            percent(recent.busy),
            percent(recent.softirq),
            of.squeezed.to_string(),
            of.backlog_drops.to_string(),
        ]
    });
    let heads =
        [all("processor"), all("stolen"), all("busy"), all("softirq"), all("out of budget"), all("backlog drops")];
    table(view, heads, rows)
}

/// Groups whose processor time ran out.
pub(super) fn throttling(view: &View<'_>) -> Option<String> {
    let recently: BTreeMap<_, _> = view.now.throttling.iter().map(|group| (&group.cgroup, group.seconds)).collect();
    let rows = view.all.throttling.iter().filter(|group| group.throttled > 0).map(|group| {
        let kept = |seconds: f64| span((seconds * 1e9) as u64);
        let recent = recently.get(&group.cgroup).copied().unwrap_or(0.0) / view.now.seconds.max(1e-9);
        let periods = format!("{} of {}", group.throttled, group.periods);
        [group.cgroup.clone(), periods, kept(recent), kept(group.seconds)]
    });
    let recent = format!("withheld: {}", view.rate);
    table(view, [all("control group"), all("periods"), all(&recent), all("all")], rows)
}
