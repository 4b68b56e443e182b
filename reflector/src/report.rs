//! What a reflector did, as one serialisable value for its last line, `--json` and metrics.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use pathlab_record::{Interval, Plane};
use pathlab_xdp::clock::ClockFacts;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{ClockQuality, Steps},
    datapath::SlotCounts,
    places::{Place, Stages},
    session::{Known, ReturnTraceCounts},
};

/// The account of a reflector, whichever datapath answered.
///
/// `received = replied + Σ refused + kernel_drops`, exactly, at any moment between two batches.
#[derive(Clone, Debug, Serialize)]
pub struct ReflectorReport {
    /// `socket`, `afxdp` or `xdp`.
    pub datapath: &'static str,
    /// Where it listens: `192.0.2.1:862`, or interface and port of the reflector in the driver, `eth1:862`.
    pub listen: Vec<String>,
    /// Datagrams that came to its port, the dropped ones included.
    pub received: u64,
    /// Replies sent.
    pub replied: u64,
    /// Datagrams without a reply by reason; every reason, zeroes too.
    pub refused: BTreeMap<&'static str, u64>,
    /// Datagrams that the kernel dropped before the reflector could see them.
    pub kernel_drops: u64,
    /// Replies by the plane of their B2. Of a socket that asked for kernel stamps, those under `app` had to do without.
    pub received_on: BTreeMap<Plane, u64>,
    /// Replies whose B3 was before their B2: the clock was stepped. They are in no histogram.
    pub clock_steps: u64,
    /// How often this host's clocks were seen to step; for two seconds after each, replies claim nothing of them.
    pub steps: Steps,
    /// Of the arrivals that the card stamped and that were told in UTC, those whose stamp was void, because a clock had stepped since it was last
    /// compared. Absent where nothing is told by a card's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic_void: Option<u64>,
    /// Replies by the plane of the stamp that came back of their departure: `kernel` is software, also where AF_XDP gave it in copy
    /// mode. Replies without one are missing here.
    pub sent_on: BTreeMap<Plane, u64>,
    /// Datagrams whose arrival the card stamped, whether or not its clock could be told in UTC and so become B2.
    pub nic_received: u64,
    /// Where the card was asked for stamps, by point (`B2`, `B3`): how many packets got theirs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hw_coverage: BTreeMap<&'static str, HwCoverage>,
    /// What came of the stamps of departures, by plane: the next reply of the session tells of each (RFC 8972 §4.7) that has come by
    /// then. Empty in stateless mode, which tells of none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub follow_ups: BTreeMap<Plane, FollowUps>,
    /// Replies that an ICMP message reported as not delivered.
    pub undelivered: u64,
    /// B3 - B2: what the sender takes for this host's share.
    pub residence: Option<Quantiles>,
    /// From B3, in the packet, to the hand-over to the driver: what `residence` does not hold and `wire` does.
    pub departure: Option<Quantiles>,
    /// The kernel's word on its clock, where it gave one.
    pub clock: Option<ClockQuality>,
    /// The card's clock, where its stamps are told in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_clock: Option<ClockFacts>,
    /// The AF_XDP sockets, one a queue; none on other datapaths.
    pub queues: Vec<QueueReport>,
    /// Requests to the reflector's port and addresses that the driver left to the stack, for want of an AF_XDP socket on their
    /// queue. They are counted by whatever socket takes them, and not here.
    pub handed_to_stack: u64,
    /// Replies that were to end on their way back because an authentic sender asked; absent where none may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_trace: Option<ReturnTraceCounts>,
    /// The stages of the time in this host by place; for metrics, and too much for a report.
    #[serde(skip)]
    pub places: Vec<(Place, Stages)>,
}

/// How many packets the card stamped at one point of the path. A card with few registers for transmit stamps cannot stamp all of them, and
/// then the others are not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HwCoverage {
    /// Packets that passed.
    pub packets: u64,
    /// Those that the card was asked to stamp.
    pub asked: u64,
    /// Those whose stamp came.
    pub stamped: u64,
}

impl HwCoverage {
    /// The share of the packets that were stamped, 0 to 1; `None` where none passed.
    pub fn share(self) -> Option<f64> {
        (self.packets > 0).then(|| self.stamped as f64 / self.packets as f64)
    }
}

impl From<SlotCounts> for HwCoverage {
    fn from(counts: SlotCounts) -> Self {
        Self { packets: counts.sends, asked: counts.asked, stamped: counts.stamped }
    }
}

/// The stamps of departures on one plane, by when they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowUps {
    /// Before the next reply of their session was made, which tells of them; of a session's last reply there is none to tell.
    pub in_time: u64,
    /// After it had been made: no reply tells of these.
    pub late: u64,
}

impl FollowUps {
    pub(crate) fn count(&mut self, known: Known) {
        *match known {
            Known::InTime => &mut self.in_time,
            Known::Late => &mut self.late,
        } += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.in_time += other.in_time;
        self.late += other.late;
    }
}

/// The account of one AF_XDP socket.
#[derive(Clone, Debug, Serialize)]
pub struct QueueReport {
    /// The receive queue.
    pub queue: u32,
    /// The CPU that its worker is pinned to; absent where it is not.
    pub cpu: Option<u32>,
    /// `copy` or `zero_copy`.
    pub bind_mode: &'static str,
    /// Datagrams that came through the socket.
    pub received: u64,
    /// Replies sent.
    pub replied: u64,
    /// `XDP_STATISTICS`: dropped for want of a frame, or because longer than one.
    pub rx_dropped: u64,
    /// `XDP_STATISTICS`: dropped because the rx ring was full.
    pub rx_ring_full: u64,
    /// `XDP_STATISTICS`: how often the fill ring was empty. In copy mode these are among `rx_dropped`.
    pub rx_fill_ring_empty: u64,
    /// `XDP_STATISTICS`: how often the kernel looked for something to send and found nothing.
    pub tx_ring_empty: u64,
    /// `XDP_STATISTICS`: entries of the fill and tx rings that the kernel did not take. Not 0: a fault of ours.
    pub invalid_descriptors: u64,
    /// Ring entries from the kernel that named no frame it had. Not 0: a fault, of the driver or ours.
    pub strays: u64,
    /// B3 - B2 on this queue.
    pub residence: Option<Quantiles>,
    /// From B3 to the transmit stamp on this queue.
    pub departure: Option<Quantiles>,
}

/// The shape of a distribution, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// How many values.
    pub count: u64,
    /// Median.
    pub p50: Interval,
    /// 99th percentile.
    pub p99: Interval,
    /// The largest.
    pub max: Interval,
}

/// A histogram of spans from 1 ns to a minute, to three digits, in memory that does not grow.
pub(crate) struct Spans(Histogram<u64>);

impl Spans {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds within the crate's limits"))
    }

    /// Records a span; false, and nothing recorded, where it points backwards.
    pub(crate) fn record(&mut self, span: Interval) -> bool {
        u64::try_from(span.as_nanos()).map(|nanos| self.0.saturating_record(nanos)).is_ok()
    }

    /// Adds what another recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("histograms of the same bounds");
    }

    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| Interval::from_nanos(self.0.value_at_quantile(quantile) as i64);
        (!self.0.is_empty()).then(|| Quantiles { count: self.0.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_spans() {
        let mut spans = Spans::new();
        assert_eq!(spans.quantiles(), None);
        assert!((1..=1000).all(|nanos| spans.record(Interval::from_nanos(nanos))));
        assert!(!spans.record(Interval::from_nanos(-1)));
        let nanos = Interval::from_nanos;
        let wanted = Quantiles { count: 1000, p50: nanos(500), p99: nanos(990), max: nanos(1000) };
        assert_eq!(spans.quantiles(), Some(wanted));
    }
}
