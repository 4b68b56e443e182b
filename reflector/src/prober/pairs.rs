//! Two sessions that share their slots: what differs between them while everything else is the same.
//!
//! Sessions `2k` and `2k + 1` are a pair. Both send in one slot, back to back, and who goes first changes from slot to slot. Being second
//! costs something, so two slots of opposite order are averaged, in which that cancels out. Differences of neighbouring slots are
//! alike, so that counting each as news would make the interval too narrow: the median of each second is one observation.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use pathlab_record::{Interval, Outcome, Realtime, Stamp, Time};
use pathlab_stats::{Confidence, paired_median};
use serde::{Deserialize, Serialize};

use super::{matching::Settled, sessions::SessionSpec};

/// A median of differences second less first, in nanoseconds, with its interval at 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The estimate.
    pub median: f64,
    /// Lower limit; absent below six seconds of pairs.
    pub low: Option<f64>,
    /// Upper limit.
    pub high: Option<f64>,
    /// Seconds that it rests on.
    pub seconds: u64,
}

/// What differs between the two sessions of all pairs of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// Target of the first session.
    pub first: SocketAddr,
    /// Target of the second.
    pub second: SocketAddr,
    /// What tells the two apart, in words.
    pub by: String,
    /// Slots in which both were answered; two of them, of opposite order, are one difference.
    pub pairs: u64,
    /// Of the round trip, `A4 - A1` of the outermost stamps.
    pub rtt: Option<Difference>,
    /// Of the way to the reflector; only where both go to one host, whose clock cancels out.
    pub forward: Option<Difference>,
    /// Of the way back.
    #[serde(rename = "return")]
    pub back: Option<Difference>,
}

/// An observation that waits for its other half.
#[derive(Clone, Copy, Debug)]
struct Half {
    slot: Time<Realtime>,
    sent: Option<i64>,
    /// Round trip, forward, return.
    spans: Spans,
}

type Spans = [Option<i64>; 3];

/// One pair: halves that wait for their others, and a difference that waits for one of opposite order.
#[derive(Debug)]
struct Pair {
    kind: usize,
    /// Of the first session and of the second, in order of their slots.
    halves: [VecDeque<Half>; 2],
    turn: Option<(bool, Spans)>,
}

/// Halves that wait, of one pair; what is older had its chance.
const MOST_WAITING: usize = 8192;
/// Seconds that are kept: a day and a half.
const MOST_SECONDS: usize = 131_072;
const SECOND: i64 = 1_000_000_000;

#[derive(Debug)]
struct Kind {
    first: SocketAddr,
    second: SocketAddr,
    by: String,
    pairs: u64,
    series: [Series; 3],
}

/// One quantity: the differences of the second that goes on, and the medians of those before.
#[derive(Debug, Default)]
struct Series {
    second: i64,
    open: Vec<i64>,
    medians: VecDeque<f64>,
}

/// All pairs of a run.
#[derive(Debug)]
pub(super) struct Pairs {
    /// Slots nearer to each other than this are one.
    near: Interval,
    kinds: Vec<Kind>,
    pairs: Vec<Pair>,
}

impl Pairs {
    /// Of sessions two by two, whose slots lie `interval` apart.
    pub(super) fn new(specs: &[SessionSpec], interval: Duration) -> Self {
        let mut kinds: Vec<Kind> = Vec::new();
        let pairs = specs.chunks_exact(2).map(|pair| {
            let (first, second, by) = (pair[0].target, pair[1].target, told_apart(&pair[0], &pair[1]));
            let known = kinds.iter().position(|kind| (kind.first, kind.second, &kind.by) == (first, second, &by));
            let kind = known.unwrap_or_else(|| {
                kinds.push(Kind { first, second, by, pairs: 0, series: Default::default() });
                kinds.len() - 1
            });
            Pair { kind, halves: Default::default(), turn: None }
        });
        let pairs = pairs.collect();
        Self { near: Interval::from_nanos(interval.as_nanos() as i64 / 2), kinds, pairs }
    }

    /// Takes what became of a packet.
    pub(super) fn settled(&mut self, session: usize, settled: &Settled) {
        let (Outcome::Received, Some(rtt)) = (settled.outcome, settled.rtt) else { return };
        let Some(pair) = self.pairs.get_mut(session / 2) else { return };
        let kind = &mut self.kinds[pair.kind];
        let one_host = kind.first.ip() == kind.second.ip();
        // The offset between the two hosts' clocks stands in both halves and cancels out.
        let leg = |from: Option<Stamp>, to: Option<Stamp>| one_host.then_some(to?.nanos().wrapping_sub(from?.nanos()));
        let stamps = &settled.stamps;
        let half = Half {
            slot: settled.slot,
            sent: stamps.a1.app.map(Stamp::nanos),
            spans: [
                Some(rtt.as_nanos()),
                leg(stamps.a1.kernel.or(stamps.a1.app), stamps.b2.kernel.or(stamps.b2.app)),
                leg(stamps.b3.app.or(stamps.b3.kernel), stamps.a4.kernel.or(stamps.a4.app)),
            ],
        };
        let second = session % 2;
        let others = &mut pair.halves[1 - second];
        let place = others.partition_point(|other| (half.slot - other.slot) >= self.near);
        let is_other = |other: &Half| other.slot - half.slot < self.near;
        let Some(other) = others.get(place).copied().filter(is_other) else {
            let own = &mut pair.halves[second];
            if own.len() == MOST_WAITING {
                own.pop_front();
            }
            let place = own.partition_point(|earlier| earlier.slot <= half.slot);
            own.insert(place, half);
            return;
        };
        others.remove(place);
        let (first, second) = if second == 1 { (other, half) } else { (half, other) };
        kind.pairs += 1;
        let both = |a: &Spans, b: &Spans, of: fn(i64, i64) -> i64| -> Spans {
            std::array::from_fn(|index| Some(of(a[index]?, b[index]?)))
        };
        let differences = both(&second.spans, &first.spans, i64::wrapping_sub);
        let turned = second.sent < first.sent;
        match pair.turn.take() {
            Some((before, waited)) if before != turned => {
                let averages = both(&differences, &waited, |a, b| a / 2 + b / 2 + (a % 2 + b % 2) / 2);
                for (series, average) in kind.series.iter_mut().zip(averages) {
                    if let Some(average) = average {
                        series.push(first.slot.as_nanos().div_euclid(SECOND), average);
                    }
                }
            }
            _ => pair.turn = Some((turned, differences)),
        }
    }

    /// What was found, to be called when the run is over.
    pub(super) fn finish(self) -> Vec<PairRow> {
        let row = |kind: Kind| {
            let [rtt, forward, back] = kind.series.map(Series::finish);
            PairRow { first: kind.first, second: kind.second, by: kind.by, pairs: kind.pairs, rtt, forward, back }
        };
        self.kinds.into_iter().map(row).collect()
    }
}

impl Series {
    fn push(&mut self, second: i64, difference: i64) {
        if second != self.second {
            self.close();
            self.second = second;
        }
        self.open.push(difference);
    }

    fn close(&mut self) {
        let Some(middle) = self.open.len().checked_sub(1).map(|last| last / 2) else { return };
        let (_, median, _) = self.open.select_nth_unstable(middle);
        if self.medians.len() == MOST_SECONDS {
            self.medians.pop_front();
        }
        self.medians.push_back(*median as f64);
        self.open.clear();
    }

    fn finish(mut self) -> Option<Difference> {
        self.close();
        let pairs: Vec<(f64, f64)> = self.medians.iter().map(|median| (0.0, *median)).collect();
        let interval = paired_median(&pairs, Confidence::P95)?;
        let limit = |limit: f64| limit.is_finite().then_some(limit);
        let seconds = pairs.len() as u64;
        Some(Difference { median: interval.estimate, low: limit(interval.low), high: limit(interval.high), seconds })
    }
}

fn told_apart(first: &SessionSpec, second: &SessionSpec) -> String {
    let mark = |spec: &SessionSpec| spec.mark.map_or_else(|| "no mark".to_owned(), |mark| format!("mark {mark}"));
    let source = |spec: &SessionSpec| {
        spec.source_address().map_or_else(|| "any source".to_owned(), |from| format!("from {from}"))
    };
    if first.target.is_ipv4() != second.target.is_ipv4() {
        let family = |spec: &SessionSpec| if spec.target.is_ipv4() { "IPv4" } else { "IPv6" };
        return format!("{} less {}", family(second), family(first));
    }
    if first.target != second.target {
        return format!("{} less {}", second.target, first.target);
    }
    if first.mark != second.mark {
        return format!("{} less {}", mark(second), mark(first));
    }
    format!("{} less {}", source(second), source(first))
}

#[cfg(test)]
mod tests {
    use pathlab_record::{ClockId, Stamps};

    use super::*;

    const MS: i64 = 1_000_000;

    fn specs(second: &str) -> Vec<SessionSpec> {
        ["192.0.2.1:862", second].map(|target| SessionSpec::new(target.parse().unwrap())).into()
    }

    /// A reply to what was sent so long after its slot.
    fn answered(slot: i64, after: i64, rtt: i64) -> Settled {
        let mut stamps = Stamps::default();
        stamps.a1.app = Stamp::new(slot + after, ClockId::Realtime, 0);
        Settled {
            seq: 0,
            outcome: Outcome::Received,
            slot: Time::from_nanos(slot),
            stamps,
            ledger: None,
            rtt: Some(Interval::from_nanos(rtt)),
            rtt_app: None,
            synchronised: None,
            epochs: Default::default(),
            ipdv: [None, None],
        }
    }

    #[test]
    fn neither_drift_nor_being_second_is_in_the_difference() {
        let mut pairs = Pairs::new(&specs("[2001:db8::1]:862"), Duration::from_millis(10));
        for slot in 1..2001_i64 {
            let at = slot * 10 * MS;
            // A queue that comes and goes within seconds, and what the one behind waits for, both far larger than the difference.
            let drift = (slot % 700) * MS / 10;
            let true_rtt = [20 * MS + drift, 20 * MS + drift + 300_000 + slot % 7 * 1000];
            let order = if slot % 2 == 0 { [0, 1] } else { [1, 0] };
            // Some slots have only one; slots are read off the clock within some nanoseconds.
            for (place, session) in order.into_iter().enumerate().filter(|(_, session)| slot % 50 != *session as i64) {
                let (after, behind) = (1000 + place as i64 * 9000, place as i64 * 2 * MS);
                pairs.settled(session, &answered(at + session as i64 * 40, after, true_rtt[session] + behind));
            }
        }
        let [row] = &pairs.finish()[..] else { panic!("one kind") };
        assert_eq!((row.pairs, row.by.as_str()), (1920, "IPv6 less IPv4"));
        let rtt = row.rtt.unwrap();
        assert!((20..=21).contains(&rtt.seconds));
        assert!(rtt.low.unwrap() <= 303_000.0 && rtt.high.unwrap() >= 303_000.0, "{rtt:?}");
        assert!(rtt.high.unwrap() - rtt.low.unwrap() < 7_000.0);
        assert_eq!(row.forward, None, "two hosts, two clocks");
    }

    #[test]
    fn too_short_a_run_has_no_limits() {
        let mut pairs = Pairs::new(&specs("192.0.2.2:862"), Duration::from_millis(10));
        for slot in 0..300 {
            let (first, second) = if slot % 2 == 0 { (1, 2) } else { (2, 1) };
            pairs.settled(0, &answered(slot * 10 * MS, first, 5 * MS));
            pairs.settled(1, &answered(slot * 10 * MS, second, 6 * MS));
        }
        let row = &pairs.finish()[0];
        let rtt = row.rtt.unwrap();
        assert_eq!((rtt.median, rtt.low, rtt.high, rtt.seconds), (1e6, None, None, 3));
    }

    #[test]
    fn what_never_meets_its_other_half_is_bounded() {
        let mut pairs = Pairs::new(&specs("192.0.2.2:862"), Duration::from_millis(1));
        for slot in 0..20_000 {
            pairs.settled(0, &answered(slot * MS, 1, 5 * MS));
        }
        assert_eq!(pairs.pairs[0].halves[0].len(), MOST_WAITING);
        assert_eq!(pairs.finish()[0].rtt, None);
    }
}
