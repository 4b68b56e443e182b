//! Sections about what kept a program from running: its threads' run queues, its cadence, softirqs.

use std::collections::BTreeMap;

use pathlab_host::watch::{Histogram, ServerReport, SoftirqReport, ThreadReport};

use super::{View, all, longest, now, quantile, table};
use crate::report::span;

/// A thread is told that waits for so many nanoseconds already.
const LONG: u64 = 10_000_000;

fn named(name: Option<&String>, thread: u32) -> String {
    name.map_or_else(|| format!("thread {thread}"), |name| format!("{name} {thread}"))
}

/// How long threads that could run waited for a processor.
pub(super) fn run_queues(view: &View<'_>) -> Option<String> {
    let whole = view.all.sched.as_ref()?;
    let recently: BTreeMap<u32, &ThreadReport> =
        view.now.sched.iter().flat_map(|sched| &sched.threads).map(|of| (of.thread, of)).collect();
    let rows = whole.threads.iter().map(|of| {
        let recent = recently.get(&of.thread).copied();
        let wait = recent.map(|of| &of.wait);
        let waiting =
            of.waiting.filter(|waiting| *waiting >= LONG).map(|waiting| format!(", waiting for {}", span(waiting)));
        [
            named(of.name.as_ref(), of.thread) + &waiting.unwrap_or_default(),
            quantile(wait, 0.5),
            quantile(wait, 0.99),
            quantile(Some(&of.wait), 0.5),
            quantile(Some(&of.wait), 0.99),
            longest(&of.wait),
            of.preempted.to_string(),
        ]
    });
    let heads = [
        all("waits for a CPU"),
        now("now p50"),
        now("p99"),
        all(if view.live { "all p50" } else { "p50" }),
        all("p99"),
        all("longest"),
        all("preempted"),
    ];
    table(view, heads, rows)
}

/// Ticks and stalls of a game server.
pub(super) fn ticks(view: &View<'_>) -> Option<String> {
    let whole = view.all.cadence.as_ref()?;
    let recently: BTreeMap<_, &ServerReport> =
        view.now.cadence.iter().flat_map(|cadence| &cadence.servers).map(|of| ((of.thread, of.port), of)).collect();
    let stalls = |of: &ServerReport| {
        of.stalls.as_ref().map_or_else(|| "no cadence".to_owned(), |stalls| stalls.length.count().to_string())
    };
    let rows = whole.servers.iter().map(|of| {
        let recent = recently.get(&(of.thread, of.port)).copied();
        let ticks = recent.map(|of| &of.ticks);
        let port = of.port.map_or_else(String::new, |port| format!(":{port}"));
        let quiet = of.stalls.is_some() && of.quiet > whole.threshold;
        let quiet = if quiet { format!(", silent for {}", span(of.quiet)) } else { String::new() };
        [
            named(of.name.as_ref(), of.thread) + &port + &quiet,
            quantile(ticks, 0.99),
            quantile(Some(&of.ticks), 0.5),
            quantile(Some(&of.ticks), 0.99),
            recent.map_or_else(|| "–".to_owned(), stalls),
            stalls(of),
            of.stalls.as_ref().map_or_else(|| "–".to_owned(), |stalls| longest(&stalls.length)),
        ]
    });
    let tick = format!("tick of {}", span(whole.period));
    let heads = [
        all(&tick),
        now("now p99"),
        all(if view.live { "all p50" } else { "p50" }),
        all("p99"),
        now("stalls now"),
        all(if view.live { "all" } else { "stalls" }),
        all("longest"),
    ];
    table(view, heads, rows)
}

/// By vector, all processors together.
pub(super) fn softirqs(view: &View<'_>) -> Option<String> {
    let of = |reports: &[SoftirqReport], vector: &str| -> (Histogram, Histogram) {
        let those = || reports.iter().filter(|of| of.vector == vector);
        (those().map(|of| &of.wait).sum(), those().map(|of| &of.run).sum())
    };
    let whole = view.all.softirqs.as_ref()?;
    let recently = view.now.softirqs.as_deref().unwrap_or_default();
    let mut vectors: Vec<&str> = whole.iter().map(|of| of.vector).collect();
    vectors.dedup();
    let rows = vectors.into_iter().map(|vector| {
        let (wait, run) = of(recently, vector);
        let (all_wait, all_run) = of(whole, vector);
        [
            vector.to_owned(),
            quantile(Some(&wait), 0.99),
            quantile(Some(&all_wait), 0.99),
            longest(&all_wait),
            quantile(Some(&run), 0.99),
            quantile(Some(&all_run), 0.99),
            longest(&all_run),
        ]
    });
    let heads = [
        all("softirq"),
        now("waited: now p99"),
        all(if view.live { "all p99" } else { "waited: p99" }),
        all("longest"),
        now("ran: now p99"),
        all(if view.live { "all p99" } else { "ran: p99" }),
        all("longest"),
    ];
    table(view, heads, rows)
}
