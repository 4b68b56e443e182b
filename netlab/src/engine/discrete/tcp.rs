//! TCP as a bottleneck sees it: a window that grows until something is lost, in segments, without handshake or close.
//!
//! Loss recovery by SACK (RFC 6675, with its three duplicate acknowledgements), retransmission timer of RFC 6298 with Linux's least of 200 ms, CUBIC
//! (RFC 9438), which leaves slow start when delay grows as Linux does (HyStart), or NewReno's window (RFC 5681). Every segment is acknowledged at once. Arithmetic is on integers and on IEEE 754's exact operations
//! alone, so that a run is the same on every machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::scenario::Congestion;

/// Octets of a full segment in its Ethernet frame, without the IP header: payload, TCP header with timestamps, Ethernet.
pub(super) const SEGMENT: u32 = PAYLOAD + 32 + 14;
/// Octets of an acknowledgement, likewise.
pub(super) const ACKNOWLEDGEMENT: u32 = 32 + 14;
/// Octets of payload of a full segment in both families.
pub(super) const PAYLOAD: u32 = 1428;
/// RFC 6928.
const INITIAL_WINDOW: f64 = 10.0;
/// Segments: what a receiver of Linux lets in at most, 6 MB (`net.ipv4.tcp_rmem`).
const LARGEST_WINDOW: f64 = 4200.0;
/// RFC 9438, section 4.6.
const BETA: f64 = 0.7;
/// RFC 9438, section 4.1, in segments per second cubed.
const C: f64 = 0.4;
/// RFC 6675, section 2.
const DUPLICATES: usize = 3;
/// `TCP_RTO_MIN` of Linux.
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The receiver's word on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    /// All before this one have arrived.
    pub(super) next: u64,
    /// The one that has just arrived.
    pub(super) segment: u64,
    /// When that was sent.
    pub(super) sent: Duration,
}

/// One connection's receiver.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiver {
    next: u64,
    early: BTreeSet<u64>,
}

impl Receiver {
    /// A segment arrives: what is said of it, and how many have now arrived in order because of it.
    pub(super) fn arrive(&mut self, segment: u64, sent: Duration) -> (Acknowledgement, u64) {
        let before = self.next;
        if segment >= self.next {
            self.early.insert(segment);
        }
        while self.early.remove(&self.next) {
            self.next += 1;
        }
        (Acknowledgement { next: self.next, segment, sent }, self.next - before)
    }
}

/// What the sender knows of a segment that is not acknowledged yet.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    arrived: bool,
    lost: bool,
    /// On its way once more.
    again: bool,
}

/// One connection's sender.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    congestion: Congestion,
    /// Congestion window and slow start threshold, in segments.
    window: f64,
    threshold: f64,
    first: u64,
    next: u64,
    outstanding: BTreeMap<u64, Sent>,
    /// Loss recovery ends when this one is acknowledged.
    recovery: Option<u64>,
    cubic: Cubic,
    slow_start: SlowStart,
    smoothed: Option<(Duration, Duration)>,
    timeout: Duration,
    /// When the retransmission timer goes off.
    pub(super) deadline: Option<Duration>,
    pub(super) retransmitted: u64,
}

/// Where a round of slow start stands (Ha and Rhee, "Hybrid Slow Start for High-Bandwidth and Long-Distance Networks", 2008; the constants are those of
/// Linux's `tcp_cubic.c`).
#[derive(Clone, Copy, Debug, Default)]
struct SlowStart {
    /// Least round trip ever.
    least: Option<Duration>,
    /// The round ends when this one is acknowledged.
    until: u64,
    /// Round trips seen in it, and the least of them.
    samples: u32,
    of_round: Duration,
}

impl SlowStart {
    /// Whether the first eight round trips of this round are all longer than the least one by an eighth, and by 4 to 16 ms.
    fn ends(&mut self, rtt: Duration, acknowledged: u64, next: u64) -> bool {
        const SAMPLES: u32 = 8;
        let [shortest, longest] = [4, 16].map(Duration::from_millis);
        let least = self.least.map_or(rtt, |least| least.min(rtt));
        self.least = Some(least);
        if acknowledged >= self.until {
            (self.until, self.samples, self.of_round) = (next, 0, rtt);
        }
        if self.samples < SAMPLES {
            self.samples += 1;
            self.of_round = self.of_round.min(rtt);
        }
        self.samples == SAMPLES && self.of_round > least + (least / 8).clamp(shortest, longest)
    }
}

/// State of the cubic function.
#[derive(Clone, Copy, Debug, Default)]
struct Cubic {
    /// Window before the last reduction.
    most: f64,
    /// Since when the window grows, and from where.
    epoch: Option<(Duration, f64)>,
    /// Seconds until it is where it was.
    k: f64,
    /// What NewReno would have.
    friendly: f64,
}

impl Sender {
    pub(super) fn new(congestion: Congestion) -> Self {
        Self {
            congestion,
            window: INITIAL_WINDOW,
            threshold: f64::INFINITY,
            first: 0,
            next: 0,
            outstanding: BTreeMap::new(),
            recovery: None,
            cubic: Cubic::default(),
            slow_start: SlowStart::default(),
            smoothed: None,
            timeout: Duration::from_secs(1),
            deadline: None,
            retransmitted: 0,
        }
    }

    /// Segments on their way, as far as can be told (RFC 6675, section 4, SetPipe).
    fn pipe(&self) -> usize {
        let on_its_way = |sent: &&Sent| !sent.arrived && (!sent.lost || sent.again);
        self.outstanding.values().filter(on_its_way).count()
    }

    /// The segments that may be sent now, in order.
    pub(super) fn send(&mut self, now: Duration) -> Vec<u64> {
        let room = (self.window as usize).saturating_sub(self.pipe());
        let mut segments = Vec::new();
        let mended = self.outstanding.iter_mut().filter(|(_, sent)| sent.lost && !sent.again && !sent.arrived);
        for (segment, sent) in mended.take(room) {
            sent.again = true;
            self.retransmitted += 1;
            segments.push(*segment);
        }
        while segments.len() < room {
            self.outstanding.insert(self.next, Sent::default());
            segments.push(self.next);
            self.next += 1;
        }
        if !segments.is_empty() && self.deadline.is_none() {
            self.deadline = Some(now + self.timeout);
        }
        segments
    }

    /// What the receiver says arrives.
    pub(super) fn acknowledge(&mut self, now: Duration, word: Acknowledgement) {
        self.measure(now - word.sent);
        let slow_start = self.congestion == Congestion::Cubic && self.window < self.threshold;
        if slow_start && self.slow_start.ends(now - word.sent, word.next, self.next) {
            self.threshold = self.window;
        }
        if let Some(sent) = self.outstanding.get_mut(&word.segment) {
            sent.arrived = true;
        }
        let mut newly = 0;
        while self.first < word.next {
            self.outstanding.remove(&self.first);
            self.first += 1;
            newly += 1;
        }
        if newly > 0 {
            self.deadline = (!self.outstanding.is_empty()).then_some(now + self.timeout);
            if self.recovery.is_some_and(|until| self.first >= until) {
                self.recovery = None;
            }
        }
        if self.finds_losses() && self.recovery.is_none() {
            self.recovery = Some(self.next);
            self.reduce();
        }
        if newly > 0 && self.recovery.is_none() {
            (0..newly).for_each(|_| self.grow(now));
        }
    }

    /// The timer has gone off: everything that did not arrive is lost.
    pub(super) fn time_out(&mut self, now: Duration) {
        for sent in self.outstanding.values_mut().filter(|sent| !sent.arrived) {
            (sent.lost, sent.again) = (true, false);
        }
        self.reduce();
        self.window = 1.0;
        self.recovery = Some(self.next);
        // RFC 6298, section 5.5
        self.timeout = (self.timeout * 2).min(LONGEST_TIMEOUT);
        self.deadline = Some(now + self.timeout);
    }

    /// RFC 6298, section 2.
    fn measure(&mut self, sample: Duration) {
        let (smoothed, variation) = match self.smoothed {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + sample) / 8, (variation * 3 + smoothed.abs_diff(sample)) / 4)
            }
        };
        self.smoothed = Some((smoothed, variation));
        self.timeout = (smoothed + 4 * variation).max(LEAST_TIMEOUT);
    }

    /// Whether any more are lost: those below three that have arrived.
    fn finds_losses(&mut self) -> bool {
        let mut found = false;
        let third = self.outstanding.iter().rev().filter(|(_, sent)| sent.arrived).nth(DUPLICATES - 1);
        let Some(third) = third.map(|(segment, _)| *segment) else { return false };
        for (_, sent) in self.outstanding.range_mut(..third) {
            if !sent.arrived && !sent.lost {
                sent.lost = true;
                found = true;
            }
        }
        found
    }

    fn reduce(&mut self) {
        let beta = match self.congestion {
            Congestion::Cubic => BETA,
            Congestion::Reno => 0.5,
        };
        // fast convergence, RFC 9438, section 4.7
        let Cubic { most, .. } = self.cubic;
        let most = if self.window < most { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.cubic = Cubic { most, epoch: None, ..self.cubic };
        self.window = (self.window * beta).max(2.0);
        self.threshold = self.window;
    }

    /// One more segment was acknowledged.
    fn grow(&mut self, now: Duration) {
        if self.window < self.threshold {
            self.window += 1.0;
        } else if self.congestion == Congestion::Reno {
            self.window += 1.0 / self.window;
        } else {
            self.cubic(now);
        }
        self.window = self.window.min(LARGEST_WINDOW);
    }

    /// RFC 9438, sections 4.2 to 4.5.
    fn cubic(&mut self, now: Duration) {
        let Cubic { most, .. } = self.cubic;
        let (start, from) = *self.cubic.epoch.get_or_insert((now, self.window));
        if start == now {
            self.cubic.k = if most > from { cube_root((most - from) / C) } else { 0.0 };
            self.cubic.friendly = from;
        }
        let rtt = self.smoothed.map_or(0.0, |(smoothed, _)| smoothed.as_secs_f64());
        let t = (now - start).as_secs_f64() + rtt - self.cubic.k;
        let target = (C * t * t * t + most.max(from)).clamp(self.window, 1.5 * self.window);
        self.cubic.friendly += 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        if target > self.window {
            self.window += (target - self.window) / self.window;
        }
        self.window = self.window.max(self.cubic.friendly);
    }
}

/// By Newton's method: no library's cube root is the same everywhere.
fn cube_root(x: f64) -> f64 {
    let mut root = if x > 1.0 { x } else { 1.0 };
    for _ in 0..60 {
        root = (2.0 * root + x / (root * root)) / 3.0;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    /// Every segment sent in one round arrives, but for those that `loses` names; returns how many were sent.
    fn round(sender: &mut Sender, receiver: &mut Receiver, now: Duration, loses: impl Fn(u64) -> bool) -> usize {
        let segments = sender.send(now);
        for segment in segments.iter().filter(|segment| !loses(**segment)) {
            let (word, _) = receiver.arrive(*segment, now);
            sender.acknowledge(now + RTT, word);
        }
        segments.len()
    }

    #[test]
    fn slow_start_doubles_and_a_loss_costs_three_tenths() {
        let (mut sender, mut receiver) = (Sender::new(Congestion::Cubic), Receiver::default());
        let sent: Vec<usize> = (0..4).map(|n| round(&mut sender, &mut receiver, RTT * n, |_| false)).collect();
        assert_eq!(sent, [10, 20, 40, 80]);
        // 150 were sent; 151 is lost, found by those behind it and sent again, once.
        round(&mut sender, &mut receiver, RTT * 4, |segment| segment == 151);
        assert!(sender.recovery.is_some());
        assert!((sender.window - 0.7 * 161.0).abs() < 1.0, "{}", sender.window);
        round(&mut sender, &mut receiver, RTT * 5, |_| false);
        assert_eq!((sender.retransmitted, sender.recovery), (1, None));
        assert_eq!(receiver.next, sender.next);
    }

    #[test]
    fn a_silent_network_is_met_with_one_segment_after_the_timeout() {
        let (mut sender, mut receiver) = (Sender::new(Congestion::Reno), Receiver::default());
        assert_eq!(round(&mut sender, &mut receiver, RTT, |_| true), 10);
        assert!(sender.send(RTT * 2).is_empty());
        let deadline = sender.deadline.expect("runs");
        sender.time_out(deadline);
        assert_eq!(sender.send(deadline), [0]);
        assert_eq!(sender.deadline, Some(deadline + Duration::from_secs(2)));
    }

    #[test]
    fn cubic_is_back_where_it_was_after_k() {
        // far away, so that NewReno would be slower
        const LONG: Duration = Duration::from_millis(200);
        let (mut sender, mut receiver) = (Sender::new(Congestion::Cubic), Receiver::default());
        sender.window = 100.0;
        sender.reduce();
        // K = cbrt(30 / 0.4) = 4.22 s
        let mut now = Duration::ZERO;
        while now < Duration::from_millis(4_200) {
            now += LONG;
            for segment in sender.send(now) {
                let (word, _) = receiver.arrive(segment, now);
                sender.acknowledge(now + LONG, word);
            }
        }
        assert!((97.0..=101.0).contains(&sender.window), "{}", sender.window);
    }

    #[test]
    fn slow_start_ends_when_delay_grows() {
        let (mut sender, mut receiver) = (Sender::new(Congestion::Cubic), Receiver::default());
        round(&mut sender, &mut receiver, RTT, |_| false);
        assert_eq!((sender.window, sender.threshold), (20.0, f64::INFINITY));
        let now = RTT * 3;
        for segment in sender.send(now) {
            let (word, _) = receiver.arrive(segment, now);
            // 5 ms in a queue
            sender.acknowledge(now + RTT + Duration::from_millis(5), word);
        }
        // at the eighth of the round
        assert_eq!(sender.threshold, 27.0);
    }

    #[test]
    fn cube_roots() {
        for x in [0.001, 1.0, 27.0, 75.0, 1e9] {
            assert!((cube_root(x).powi(3) / x - 1.0).abs() < 1e-9, "{x}");
        }
    }
}
