//! All that is counted at one time, and the difference of two such readings: what happened in a window.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use serde::Serialize;

use super::{
    alerts::{Alert, Thresholds, alerts},
    cadence::{CadenceCounts, CadenceReport},
    drops::{DropCounts, DropReport},
    napi::{NapiReport, PollCounts},
    overhead::{Cost, Overhead, overheads},
    pressure::{self, Ports, RingPressure},
    procfs::{Queue, SocketQueue},
    qdiscs::{QdiscReport, Qdiscs},
    sched::{SchedCounts, SchedReport},
    softirq::{self, SoftirqCounts, SoftirqReport},
    sojourn::{SojournCounts, SojournReport},
    steal::{ProcessorReport, Processors},
    throttling::{Throttling, Throttlings},
};

/// Sockets that are listed of a window.
const SOCKETS: usize = 16;

/// Interfaces by index, as the namespace has them now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(pub(crate) BTreeMap<u32, String>);

impl Names {
    pub(crate) fn of_links(links: &[LinkMessage]) -> Self {
        let name = |link: &LinkMessage| {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            Some((link.header.index, name?))
        };
        Self(links.iter().filter_map(name).collect())
    }

    /// Absent for index 0; one that has gone is its number.
    pub(crate) fn of(&self, index: u32) -> Option<String> {
        let name = || self.0.get(&index).cloned().unwrap_or_else(|| format!("#{index}"));
        (index != 0).then(name)
    }
}

/// What was counted until one moment. A part that is absent is not watched.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Since the watch began.
    pub(crate) at: Duration,
    pub(crate) drops: Option<DropCounts>,
    pub(crate) softirqs: Option<SoftirqCounts>,
    pub(crate) sched: Option<SchedCounts>,
    pub(crate) cadences: Option<CadenceCounts>,
    pub(crate) sojourns: Option<SojournCounts>,
    pub(crate) polls: Option<PollCounts>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) sockets: BTreeMap<SocketAddr, Queue>,
    pub(crate) qdiscs: Qdiscs,
    pub(crate) ports: Ports,
    pub(crate) processors: Processors,
    pub(crate) throttlings: Throttlings,
    pub(crate) thresholds: Thresholds,
    pub(crate) costs: BTreeMap<String, Cost>,
    /// Of that time the part in which the kernel measured its programs.
    pub(crate) measured: Duration,
}

/// What happened in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Its length.
    pub seconds: f64,
    /// Packets that were given up; absent where that is not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<DropReport>,
    /// Softirqs by vector and processor; absent where they are not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub softirqs: Option<Vec<SoftirqReport>>,
    /// Threads of the chosen processes; absent where none is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<SchedReport>,
    /// Ticks of the chosen processes; absent where they are not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cadence: Option<CadenceReport>,
    /// How long packets waited for their devices; absent where that is not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sojourn: Option<SojournReport>,
    /// How far receive queues used the budget of their polls; absent where that is not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub napi: Option<NapiReport>,
    /// Counters of UDP that moved, by nstat's names.
    pub counters: BTreeMap<String, u64>,
    /// UDP sockets that dropped or have datagrams waiting, the most drops first; 16 at most.
    pub sockets: Vec<SocketQueue>,
    /// All queueing disciplines of the interfaces, in each tree the root first.
    pub qdiscs: Vec<QdiscReport>,
    /// Cards that tell their rings, or that lost something.
    pub rings: Vec<RingPressure>,
    /// Processors that are online.
    pub processors: Vec<ProcessorReport>,
    /// Control groups of the chosen processes, and those above, that have a limit of processor time.
    pub throttling: Vec<Throttling>,
    /// What was at its threshold or over it.
    pub alerts: Vec<Alert>,
    /// What the programs cost.
    pub overhead: Vec<Overhead>,
}

impl Reading {
    /// What happened since an earlier reading of the same watch.
    pub fn since(&self, earlier: &Self) -> Report {
        let window = self.at.saturating_sub(earlier.at);
        let softirqs = |now| softirq::since(now, earlier.softirqs.as_ref().unwrap_or(&SoftirqCounts::default()));
        let qdiscs = self.qdiscs.since(&earlier.qdiscs);
        let rings = pressure::since(&self.ports, &earlier.ports, window);
        let napi = self.polls.as_ref().map(|now| now.since(earlier.polls.as_ref().unwrap_or(&PollCounts::default())));
        Report {
            seconds: window.as_secs_f64(),
            drops: self.drops.as_ref().map(|now| now.since(earlier.drops.as_ref().unwrap_or(&DropCounts::default()))),
            softirqs: self.softirqs.as_ref().map(softirqs),
            sched: self.sched.as_ref().map(|now| now.since(earlier.sched.as_ref().unwrap_or(&SchedCounts::default()))),
            cadence: self.cadences.as_ref().map(|now| now.since(earlier.cadences.as_ref())),
            sojourn: self
                .sojourns
                .as_ref()
                .map(|now| now.since(earlier.sojourns.as_ref().unwrap_or(&SojournCounts::default()))),
            counters: since(&self.counters, &earlier.counters).collect(),
            sockets: queues(&self.sockets, &earlier.sockets),
            processors: self.processors.since(&earlier.processors),
            throttling: self.throttlings.since(&earlier.throttlings),
            alerts: alerts(&rings, &qdiscs, napi.as_ref(), &self.thresholds),
            napi,
            qdiscs,
            rings,
            overhead: overheads(&self.costs, &earlier.costs, self.measured.saturating_sub(earlier.measured)),
        }
    }
}

/// Counts that have grown, by how much.
pub(crate) fn since<K: Ord + Clone>(
    now: &BTreeMap<K, u64>,
    earlier: &BTreeMap<K, u64>,
) -> impl Iterator<Item = (K, u64)> {
    now.iter().filter_map(|(key, count)| {
        let more = count.saturating_sub(earlier.get(key).copied().unwrap_or(0));
        (more > 0).then(|| (key.clone(), more))
    })
}

/// A socket that was closed takes its count along: where there are fewer drops than before, all of them are new.
fn queues(now: &BTreeMap<SocketAddr, Queue>, earlier: &BTreeMap<SocketAddr, Queue>) -> Vec<SocketQueue> {
    let of = |(socket, queue): (&SocketAddr, &Queue)| {
        let before = earlier.get(socket).map_or(0, |queue| queue.drops);
        let drops = queue.drops.checked_sub(before).unwrap_or(queue.drops);
        SocketQueue { socket: *socket, waiting: queue.waiting, drops }
    };
    let mut queues: Vec<_> = now.iter().map(of).filter(|queue| queue.drops + queue.waiting > 0).collect();
    queues.sort_by_key(|queue| std::cmp::Reverse((queue.drops, queue.waiting)));
    queues.truncate(SOCKETS);
    queues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_difference_of_two_readings() {
        let local: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let counter = |value| BTreeMap::from([("UdpInDatagrams".to_owned(), value), ("UdpNoPorts".to_owned(), 3)]);
        let queue = |drops| BTreeMap::from([(local, Queue { waiting: 0, drops })]);
        let earlier =
            Reading { at: Duration::from_secs(1), counters: counter(5), sockets: queue(40), ..Reading::default() };
        let now = Reading {
            at: Duration::from_millis(1_500),
            counters: counter(9),
            sockets: queue(41),
            ..Reading::default()
        };
        let report = now.since(&earlier);
        assert_eq!((report.seconds, report.drops), (0.5, None));
        assert_eq!(report.counters, [("UdpInDatagrams".to_owned(), 4)].into());
        assert_eq!(report.sockets, [SocketQueue { socket: local, waiting: 0, drops: 1 }]);
        // another socket took the address
        assert_eq!(queues(&queue(2), &queue(41))[0].drops, 2);
        assert!(queues(&queue(41), &queue(41)).is_empty());
    }
}
