//! Delays to and from each host, one way, as intervals: gathered while a run goes on, a segment of both clocks' even running at a time.

use std::{collections::VecDeque, net::IpAddr};

use pathlab_record::SparseHistogram;
use serde::{Deserialize, Serialize};

use super::{
    offset::{BLOCK, Bounds, Segment, TwoClocks, ranges},
    summary::Quantiles,
};

/// Delays one way of all packets, as quantiles of their lower and of their upper limits: the true quantile is between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneWayQuantiles {
    /// Of the delays above the running minimum.
    pub at_least: Quantiles,
    /// Of the delays if the whole of the shortest round trip lay on this leg.
    pub at_most: Quantiles,
}

/// What was found of the delays to and from one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneWayRow {
    /// The reflector's address.
    pub target: IpAddr,
    /// From probe to reflector.
    pub forward: OneWayQuantiles,
    /// From reflector to probe.
    #[serde(rename = "return")]
    pub back: OneWayQuantiles,
    /// Round trips without one-way delay: near a step of a clock, or in contradiction to even rates.
    pub void: u64,
    /// Where both clocks ran evenly: the last [`MOST_SEGMENTS`] stretches.
    pub segments: Vec<Segment>,
}

/// Stretches that are kept of each host.
pub const MOST_SEGMENTS: usize = 1_000;
/// A segment is at most so long, in nanoseconds, because no crystal runs evenly for longer.
const LONGEST: i64 = 60_000_000_000;
/// And holds at most so many packets, which bounds memory and the time that it takes to close it.
const MOST_PACKETS: usize = 4096;
/// Packets of a segment that wait for the next, so that a step near its end is seen.
const TAIL: usize = 2 * BLOCK;
/// Packets whose limits are worked out at once: many would make a slot late.
const AT_ONCE: usize = 16;

/// Gathers the round trips to one host, closes segments, works out limits a few at a time.
#[derive(Debug, Default)]
pub(super) struct OneWay {
    open: Vec<TwoClocks>,
    closed: Vec<(Bounds, Vec<TwoClocks>)>,
    forward: [SparseHistogram; 2],
    back: [SparseHistogram; 2],
    void: u64,
    segments: VecDeque<Segment>,
}

impl OneWay {
    /// Takes a round trip, roughly in order of sending.
    pub(super) fn push(&mut self, packet: TwoClocks) {
        let long = self.open.first().is_some_and(|first| packet.sent.wrapping_sub(first.sent).abs() > LONGEST);
        if self.open.len() >= MOST_PACKETS || long && self.open.len() > 2 * TAIL {
            self.close(TAIL);
        }
        self.open.push(packet);
    }

    /// Works out some of what is closed.
    pub(super) fn turn(&mut self) {
        self.work(AT_ONCE);
    }

    /// Works out everything; the row, where any packet has limits.
    pub(super) fn finish(&mut self, target: IpAddr) -> Option<OneWayRow> {
        self.close(0);
        self.work(usize::MAX);
        let quantiles = |[low, high]: &[SparseHistogram; 2]| {
            Some(OneWayQuantiles { at_least: Quantiles::of(low)?, at_most: Quantiles::of(high)? })
        };
        Some(OneWayRow {
            target,
            forward: quantiles(&self.forward)?,
            back: quantiles(&self.back)?,
            void: self.void,
            segments: self.segments.iter().copied().collect(),
        })
    }

    /// Closes what is open but for the last `tail` packets, which take part in the hulls and wait for the next segment themselves.
    fn close(&mut self, tail: usize) {
        // After a step back the probe's clock shows the same times again.
        self.open.sort_unstable_by_key(|packet| (packet.epochs.probe, packet.sent));
        let end = self.open.len().saturating_sub(tail);
        let mut covered = 0;
        for range in ranges(&self.open) {
            let packets = &self.open[range.clone()];
            let own = &packets[..end.saturating_sub(range.start).min(packets.len())];
            if own.is_empty() {
                continue;
            }
            if let Some(bounds) = Bounds::of(packets) {
                covered += own.len();
                if self.segments.len() == MOST_SEGMENTS {
                    self.segments.pop_front();
                }
                self.segments.push_back(bounds.segment);
                self.closed.push((bounds, own.to_vec()));
            }
        }
        self.void += (end - covered) as u64;
        self.open.drain(..end);
    }

    fn work(&mut self, mut most: usize) {
        while let Some((bounds, packets)) = self.closed.last_mut() {
            for packet in packets.drain(packets.len().saturating_sub(most)..) {
                most -= 1;
                let (forward, back) = bounds.limits(&packet);
                for (histograms, limits) in [(&mut self.forward, forward), (&mut self.back, back)] {
                    histograms[0].record(limits.low);
                    histograms[1].record(limits.high);
                }
            }
            if !packets.is_empty() {
                return;
            }
            self.closed.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prober::offset::tests::{MS, Truth, US, play};

    #[test]
    fn rate_and_offset_are_found_and_the_width_is_the_shortest_round_trip() {
        let truth = Truth { offset: 123 * MS, ppm: 80.0, forward: 7 * MS, back: 8 * MS, spread: 2 * MS, step: None };
        let mut one_way = OneWay::default();
        for (packet, ..) in play(truth, 3000, 7) {
            one_way.push(packet);
            one_way.turn();
        }
        let row = one_way.finish("192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!((row.void, row.segments.len(), row.forward.at_least.count), (0, 1, 3000));
        let segment = row.segments[0];
        assert!((segment.rate_ppb.unwrap() - 80_000).abs() < 2_000, "{segment:?}");
        let middle = 123 * MS + 80 * 15_000;
        assert!((segment.offset_least..=segment.offset_most).contains(&middle), "{segment:?}");
        let width = segment.offset_most - segment.offset_least;
        assert!((15 * MS - 10 * US..16 * MS).contains(&width), "{width}");
        // Forward 7 ms and a queue: from nothing above the minimum to that and the whole round trip.
        assert!(row.forward.at_least.p50 < 500_000 && row.forward.at_most.p50 > 15_000_000, "{:?}", row.forward);
    }

    #[test]
    fn long_runs_are_bounded_and_lose_no_packet() {
        let truth = Truth { offset: 0, ppm: 10.0, forward: MS, back: MS, spread: MS, step: Some((9_000, 40 * MS)) };
        let mut one_way = OneWay::default();
        for (packet, ..) in play(truth, 20_000, 9) {
            one_way.push(packet);
            one_way.turn();
            assert!(one_way.open.len() <= MOST_PACKETS);
        }
        let row = one_way.finish("::1".parse().unwrap()).unwrap();
        assert_eq!(row.forward.at_least.count + row.void, 20_000);
        assert!(row.void <= 2 * BLOCK as u64, "{}", row.void);
        assert!(row.segments.len() >= 4);
    }
}
