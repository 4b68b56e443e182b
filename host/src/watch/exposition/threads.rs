//! Metrics of what kept a program from running: softirqs, its threads' run queues, its cadence.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{Families, Labels, named, other, seconds};
use crate::watch::{Histogram, Report, ServerReport, SoftirqReport, ThreadReport};

pub(super) fn encode(families: &mut Families<'_>, whole: &Report, now: &Report) -> fmt::Result {
    if let Some(softirqs) = &whole.softirqs {
        of_softirqs(families, softirqs)?;
    }
    if let Some(sched) = &whole.sched {
        of_threads(families, &sched.threads)?;
        let threads = now.sched.iter().flat_map(|sched| &sched.threads);
        let waiting = threads.filter_map(|of| Some((labels_of_thread(of), seconds(of.waiting?))));
        let help = "For how long a thread can run and does not, at this moment";
        families.gauge("thread_waiting", help, Some(&Unit::Seconds), waiting)?;
        let help = "Wake-ups and switches of threads that have no room in the table";
        families.counter("thread_uncounted", help, &other("events"), [([], sched.uncounted)])?;
    }
    let Some(cadence) = &whole.cadence else { return Ok(()) };
    of_servers(families, &cadence.servers)?;
    let quiet = now.cadence.iter().flat_map(|cadence| &cadence.servers);
    let quiet = quiet.map(|server| (labels_of_server(server), seconds(server.quiet)));
    families.gauge("server_quiet", "Since the last receive call of a thread", Some(&Unit::Seconds), quiet)?;
    let help = "Receive calls of threads that have no room in the table";
    families.counter("server_uncounted", help, &other("calls"), [([], cadence.uncounted)])
}

/// Durations by vector alone: by processor, too, they would be too many series.
fn of_softirqs(families: &mut Families<'_>, softirqs: &[SoftirqReport]) -> fmt::Result {
    let each = || {
        softirqs.iter().map(|of| {
            let labels: Labels<2> = [("vector", of.vector.to_owned()), ("processor", of.processor.to_string())];
            (labels, of)
        })
    };
    let help = "Times that a softirq was raised";
    families.counter("softirq_raised", help, &other("times"), each().map(|(labels, of)| (labels, of.raises)))?;
    let help = "Times that a softirq began to run";
    families.counter("softirq_run", help, &other("times"), each().map(|(labels, of)| (labels, of.entries)))?;
    let mut vectors: Vec<&str> = softirqs.iter().map(|of| of.vector).collect();
    vectors.dedup();
    let by_vector = |part: fn(&SoftirqReport) -> &Histogram| {
        let sum = move |vector: &&str| softirqs.iter().filter(|of| of.vector == *vector).map(part).sum::<Histogram>();
        vectors.iter().map(move |vector| ([("vector", (*vector).to_owned())], sum(vector)))
    };
    families.histogram("softirq_wait", "From the raise of a softirq until it ran", by_vector(|of| &of.wait))?;
    families.histogram("softirq_length", "How long a softirq ran", by_vector(|of| &of.run))
}

fn of_threads(families: &mut Families<'_>, threads: &[ThreadReport]) -> fmt::Result {
    let each = || threads.iter().map(|of| (labels_of_thread(of), of));
    let help = "How long a thread could run and did not";
    families.histogram("thread_wait", help, each().map(|(labels, of)| (labels, of.wait.clone())))?;
    let help = "Times that a thread got a processor";
    families.counter("thread_run", help, &other("times"), each().map(|(labels, of)| (labels, of.runs)))?;
    let help = "Times that a thread lost its processor while it could still run";
    families.counter("thread_preempted", help, &other("times"), each().map(|(labels, of)| (labels, of.preempted)))
}

fn labels_of_thread(of: &ThreadReport) -> Labels<3> {
    let [process, thread] = [of.process, of.thread].map(|number| number.to_string());
    [("process", process), ("thread", thread), ("name", named(of.name.as_ref()))]
}

fn labels_of_server(of: &ServerReport) -> Labels<4> {
    let [process, thread] = [of.process, of.thread].map(|number| number.to_string());
    [("process", process), ("thread", thread), ("name", named(of.name.as_ref())), ("port", named(of.port))]
}

fn of_servers(families: &mut Families<'_>, servers: &[ServerReport]) -> fmt::Result {
    let each = || servers.iter().map(|of| (labels_of_server(of), of));
    let help = "From the first receive call of a tick to that of the next";
    families.histogram("server_tick", help, each().map(|(labels, of)| (labels, of.ticks.clone())))?;
    let help = "Receive calls";
    families.counter("server_receive", help, &other("calls"), each().map(|(labels, of)| (labels, of.calls)))?;
    let help = "Share of the ticks that were within a quarter of the period";
    let regular = each().filter_map(|(labels, of)| Some((labels, of.regular?)));
    families.gauge("server_regular", help, Some(&Unit::Ratios), regular)?;
    let help = "Stalls: how long a server with a cadence did not look at its socket";
    let stalls = each().filter_map(|(labels, of)| Some((labels, of.stalls.as_ref()?.length.clone())));
    families.histogram("server_stall", help, stalls)
}
