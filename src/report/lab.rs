//! What a lab run came to: round trips and loss of every stretch of time, ISP, family and arm, and what the queues did.

use std::{collections::BTreeMap, time::Duration};

use pathlab_netlab::{
    engine::discrete::{LinkCount, Outcome},
    scenario::{Scenario, Session},
};
use pathlab_record::{Arm, SparseHistogram};
use serde::Serialize;

use super::{Table, percent, span};

/// A run as it is printed; spans in nanoseconds.
#[derive(Serialize)]
pub(crate) struct LabRun {
    scenario: String,
    seed: u64,
    engine: &'static str,
    duration_ns: u64,
    groups: Vec<Group>,
    queues: Vec<Queue>,
    load_packets: u64,
    unroutable: u64,
}

#[derive(Serialize)]
struct Group {
    window: String,
    isp: String,
    family: u8,
    arm: Arm,
    sent: u64,
    lost: u64,
    rtt_p50_ns: Option<u64>,
    rtt_p95_ns: Option<u64>,
    rtt_p99_ns: Option<u64>,
}

#[derive(Serialize)]
struct Queue {
    node: String,
    dev: String,
    sent: u64,
    overflowed: u64,
    dropped: u64,
    marked: u64,
}

impl LabRun {
    /// Sums up a run of the virtual engine.
    pub(crate) fn new(scenario: &Scenario, seed: u64, outcome: Outcome, arm: impl Fn(&Session) -> Arm) -> Self {
        let sessions = scenario.sessions(seed);
        let mut groups: BTreeMap<_, (u64, u64, SparseHistogram)> = BTreeMap::new();
        for probe in &outcome.probes {
            let session = &sessions[probe.session];
            let within = |window: &pathlab_netlab::scenario::Window| (window.start..window.end).contains(&probe.sent);
            let Some(window) = scenario.windows.iter().position(within) else { continue };
            let key = (window, &session.isp, session.family(), arm(session));
            let (sent, lost, rtts) = groups.entry(key).or_default();
            *sent += 1;
            match probe.rtt {
                Some(rtt) => rtts.record(nanoseconds(rtt)),
                None => *lost += 1,
            }
        }
        let group = |((window, isp, family, arm), (sent, lost, rtts)): ((usize, &String, u8, Arm), _)| {
            let rtts: SparseHistogram = rtts;
            Group {
                window: scenario.windows[window].name.clone(),
                isp: isp.clone(),
                family,
                arm,
                sent,
                lost,
                rtt_p50_ns: rtts.quantile(0.5),
                rtt_p95_ns: rtts.quantile(0.95),
                rtt_p99_ns: rtts.quantile(0.99),
            }
        };
        let groups = groups.into_iter().map(group).collect();
        let queue = |((node, dev), count): ((String, String), LinkCount)| {
            let LinkCount { sent, overflowed, dropped, marked } = count;
            Queue { node, dev, sent, overflowed, dropped, marked }
        };
        Self {
            scenario: scenario.name.clone(),
            seed,
            engine: "virtual",
            duration_ns: nanoseconds(scenario.duration()),
            groups,
            queues: outcome.links.into_iter().map(queue).collect(),
            load_packets: outcome.load_packets,
            unroutable: outcome.unroutable,
        }
    }

    /// The same for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new(["", "arm", "sent", "p50", "p95", "p99", "lost"]);
        for group in &self.groups {
            let rtt = |quantile: Option<u64>| quantile.map_or_else(|| "-".into(), span);
            table.row([
                format!("{}, {} IPv{}", group.window, group.isp, group.family),
                match group.arm {
                    Arm::Control => "control".into(),
                    Arm::Canary => "canary".into(),
                },
                group.sent.to_string(),
                rtt(group.rtt_p50_ns),
                rtt(group.rtt_p95_ns),
                rtt(group.rtt_p99_ns),
                percent(group.lost as f64 / group.sent.max(1) as f64),
            ]);
        }
        let mut queues = Table::new(["queue", "sent", "overflowed", "dropped", "marked"]);
        for queue in &self.queues {
            let counts = [queue.sent, queue.overflowed, queue.dropped, queue.marked].map(|count| count.to_string());
            queues.row([format!("{}:{}", queue.node, queue.dev)].into_iter().chain(counts));
        }
        let unroutable = match self.unroutable {
            0 => String::new(),
            packets => format!("\n{packets} packets had no way: some node lacks a route\n"),
        };
        format!(
            "{}, virtual engine, seed {}, {} of its time\n\nround trips\n{table}\n{queues}{unroutable}",
            self.scenario,
            self.seed,
            span(self.duration_ns),
        )
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
