//! What can be known of the offset between two hosts' clocks, and so of one-way delays: intervals that hold the truth.
//!
//! ```text
//! B2 - A1 = forward delay + offset      ≥ offset         lower hull: the most that the offset can be
//! B3 - A4 = offset - return delay       ≤ offset         upper hull: the least
//! forward delay is in [B2 - A1 - most, B2 - A1 - least], return delay in [A4 - B3 + least, A4 - B3 + most]
//! ```
//! The lower limit is the delay above the running minimum; the width is about the shortest wire round trip, which is what can be
//! known without synchronised clocks (RFC 7679, section 3.7.1). Where both ends say that their clocks are synchronised, the offset is
//! within the sum of their Error Estimates too.
//!
//! It rests on one assumption: that the clocks' rates do not change within a segment, at most a minute. A step of either clock
//! ends a segment; packets near it have no one-way delay.

use std::ops::Range;

use pathlab_record::{ClockId, Planes, Stamp, Stamps};
use serde::{Deserialize, Serialize};

use super::{
    hull::{LowerHull, Point},
    passage::Epochs,
};

/// One round trip as far as both clocks are concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TwoClocks {
    /// A1.
    pub(super) sent: i64,
    /// B2.
    pub(super) reached: i64,
    /// B3.
    pub(super) returned: i64,
    /// A4.
    pub(super) received: i64,
    /// Half-width of the interval that each of the four is known to, their largest, in nanoseconds.
    pub(super) uncertainty: u64,
    /// The clocks of both ends: a change of either begins a new segment.
    pub(super) clocks: (ClockId, ClockId),
    /// And so does a step of either that somebody saw.
    pub(super) epochs: Epochs,
    /// Sum of both ends' Error Estimates, where both say that they are synchronised.
    pub(super) synchronised: Option<u64>,
}

impl TwoClocks {
    /// From the stamps of a round trip: of each end the outermost pair on one clock.
    pub(super) fn of(stamps: &Stamps, synchronised: Option<u64>, epochs: Epochs) -> Option<Self> {
        let inwards = |planes: &Planes| [planes.nic, planes.xdp, planes.kernel, planes.app].into_iter().flatten();
        let pair = |first: &Planes, second: &Planes| {
            let on_one_clock = |a: Stamp| Some((a, inwards(second).find(|b| b.clock() == a.clock())?));
            inwards(first).find_map(on_one_clock)
        };
        let (sent, received) = pair(&stamps.a1, &stamps.a4)?;
        let (reached, returned) = pair(&stamps.b2, &stamps.b3)?;
        let uncertainty = [sent, received, reached, returned].map(Stamp::uncertainty).into_iter().max()?;
        Some(Self {
            sent: sent.nanos(),
            reached: reached.nanos(),
            returned: returned.nanos(),
            received: received.nanos(),
            uncertainty,
            clocks: (sent.clock(), reached.clock()),
            epochs,
            synchronised,
        })
    }

    /// What a forward delay and the offset make together.
    fn forward(&self) -> i64 {
        self.reached.wrapping_sub(self.sent)
    }

    /// The offset less a return delay.
    fn back(&self) -> i64 {
        self.returned.wrapping_sub(self.received)
    }
}

/// The limits of one delay in nanoseconds: the truth is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The delay above the running minimum.
    pub(super) low: u64,
    /// The same and what the offset may hide.
    pub(super) high: u64,
}

/// A stretch of time in which both clocks ran evenly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// First `A1` in nanoseconds of the probe's clock.
    pub from: i64,
    /// Last `A1`.
    pub to: i64,
    /// Round trips that it rests on.
    pub packets: u64,
    /// The reflector's clock less the probe's, at the middle, in nanoseconds: at least.
    pub offset_least: i64,
    /// And at most.
    pub offset_most: i64,
    /// How much faster the reflector's clock runs, in parts of 10⁹; absent where too few packets tell.
    pub rate_ppb: Option<i64>,
    /// Both ends' Error Estimates took part.
    pub synchronised: bool,
}

/// Rates of two clocks differ by at most so much: both may be slewed by 500 ppm (`adjtimex`).
const STEEPEST: f64 = 1e-3;
/// Stamps are whole nanoseconds, and fractions of 2⁻³² s on the wire.
const ROUNDING: f64 = 2.0;

/// The limits of the delays of one segment: the hulls, and what bounds the offset beside them.
#[derive(Debug)]
pub(super) struct Bounds {
    base: TwoClocks,
    most: LowerHull,
    /// Of the negatives.
    least: LowerHull,
    uncertainty: f64,
    synchronised: Option<f64>,
    pub(super) segment: Segment,
}

impl Bounds {
    /// Of packets in order of sending; `None` where there is none or where they contradict an even rate.
    pub(super) fn of(packets: &[TwoClocks]) -> Option<Self> {
        let (base, end) = (*packets.first()?, packets.last()?);
        let since = |time: i64| time.wrapping_sub(base.sent);
        let relative = |difference: i64| difference.wrapping_sub(base.forward());
        let most =
            packets.iter().map(|packet| Point { at: since(packet.sent), difference: relative(packet.forward()) });
        let mut back: Vec<Point> = packets
            .iter()
            .map(|packet| Point { at: since(packet.received), difference: relative(packet.back()).wrapping_neg() })
            .collect();
        back.sort_unstable_by_key(|point| point.at);
        let mut bounds = Self {
            base,
            most: LowerHull::of(most)?,
            least: LowerHull::of(back.into_iter())?,
            uncertainty: 2.0 * packets.iter().map(|packet| packet.uncertainty).max()? as f64 + ROUNDING,
            synchronised: packets
                .iter()
                .map(|packet| packet.synchronised)
                .max()?
                .filter(|_| packets.iter().all(|packet| packet.synchronised.is_some()))
                .map(|error| error as f64),
            segment: Segment {
                from: base.sent,
                to: end.sent,
                packets: packets.len() as u64,
                offset_least: 0,
                offset_most: 0,
                rate_ppb: None,
                synchronised: false,
            },
        };
        if !bounds.agree() {
            bounds.synchronised = None;
            if !bounds.agree() {
                return None;
            }
        }
        let middle = since(end.sent) / 2;
        let (least, most) = bounds.offset(middle);
        let rate = bounds.most.slope(middle).zip(bounds.least.slope(middle));
        bounds.segment.offset_least = base.forward().wrapping_add(least.floor() as i64);
        bounds.segment.offset_most = base.forward().wrapping_add(most.ceil() as i64);
        bounds.segment.rate_ppb = rate.map(|(most, least)| ((most - least) / 2.0 * 1e9).round() as i64);
        bounds.segment.synchronised = bounds.synchronised.is_some();
        Some(bounds)
    }

    /// Whether any offset is left at all, at every time that a hull turns.
    fn agree(&self) -> bool {
        let times = self.most.vertices().chain(self.least.vertices()).map(|vertex| vertex.at);
        times.map(|at| self.offset(at)).all(|(least, most)| least <= most)
    }

    /// Least and most that the offset can be at a time, less the base's.
    fn offset(&self, at: i64) -> (f64, f64) {
        let least = -self.least.at(at, STEEPEST) - self.uncertainty;
        let most = self.most.at(at, STEEPEST) + self.uncertainty;
        let Some(error) = self.synchronised else { return (least, most) };
        let base = self.base.forward() as f64;
        (least.max(-error - base), most.min(error - base))
    }

    /// Forward and return.
    pub(super) fn limits(&self, packet: &TwoClocks) -> (Limits, Limits) {
        let relative = |difference: i64| difference.wrapping_sub(self.base.forward()) as f64;
        let limits = |low: f64, high: f64| Limits { low: low.max(0.0) as u64, high: high.ceil().max(0.0) as u64 };
        let (least, most) = self.offset(packet.sent.wrapping_sub(self.base.sent));
        let forward = relative(packet.forward());
        let there = limits(forward - most, forward - least);
        let (least, most) = self.offset(packet.received.wrapping_sub(self.base.sent));
        let back = relative(packet.back());
        (there, limits(least - back, most - back))
    }
}

/// Packets whose minima are compared to find steps.
pub(super) const BLOCK: usize = 32;
/// What is no step of a clock, in nanoseconds, and what even rates may add to it a second.
const NO_STEP: i64 = 200_000;
const DRIFT: f64 = 1e-4;

/// Parts packets, in order of sending, where a clock was changed, was seen to step, or must have stepped: the ranges between.
pub(super) fn ranges(packets: &[TwoClocks]) -> Vec<Range<usize>> {
    let mut from = 0;
    let mut parts = Vec::new();
    for run in packets.chunk_by(|a, b| (a.clocks, a.epochs) == (b.clocks, b.epochs)) {
        parts.extend(without_steps(run).into_iter().map(|range| from + range.start..from + range.end));
        from += run.len();
    }
    parts
}

/// Parts packets of the same clocks at steps that nobody saw.
///
/// A step moves the shortest forward difference and the longest return difference by the same amount, which no queue does: the
/// blocks before and after are compared, and the one in between, in which it happened, belongs to no range.
fn without_steps(packets: &[TwoClocks]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    let extremes = |block: &[TwoClocks]| {
        let forward = block.iter().map(TwoClocks::forward).min().unwrap_or(0);
        let back = block.iter().map(TwoClocks::back).max().unwrap_or(0);
        (forward, back)
    };
    let mut index = BLOCK;
    while index + 2 * BLOCK <= packets.len() {
        let (before, after) = (&packets[index - BLOCK..index], &packets[index + BLOCK..index + 2 * BLOCK]);
        let ((forward, back), (forward_after, back_after)) = (extremes(before), extremes(after));
        let (there, back) = (forward_after.wrapping_sub(forward), back_after.wrapping_sub(back));
        let span = after[BLOCK - 1].sent.wrapping_sub(before[0].sent);
        let least = NO_STEP + (DRIFT * span as f64) as i64;
        let alike = (there.wrapping_sub(back)).unsigned_abs() <= (there.unsigned_abs() / 8).max(20_000);
        if alike && there.unsigned_abs().min(back.unsigned_abs()) > least as u64 {
            ranges.push(start..index);
            start = index + BLOCK;
            index = start + BLOCK;
        } else {
            index += BLOCK;
        }
    }
    ranges.push(start..packets.len());
    ranges.retain(|range| !range.is_empty());
    ranges
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    pub(in super::super) const US: i64 = 1_000;
    pub(in super::super) const MS: i64 = 1_000_000;
    const EPOCH: i64 = 1_792_000_000_000_000_000;

    /// Two clocks and the way between them.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Truth {
        pub(in super::super) offset: i64,
        pub(in super::super) ppm: f64,
        pub(in super::super) forward: i64,
        pub(in super::super) back: i64,
        pub(in super::super) spread: i64,
        /// After so many packets the reflector's clock steps by so much.
        pub(in super::super) step: Option<(usize, i64)>,
    }

    /// Packets with what their delays truly were.
    pub(in super::super) fn play(truth: Truth, packets: usize, seed: u64) -> Vec<(TwoClocks, i64, i64)> {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let far = |time: i64, index: usize| {
            let step = truth.step.filter(|(at, _)| index >= *at).map_or(0, |(_, by)| by);
            EPOCH + time + truth.offset + (truth.ppm * 1e-6 * time as f64) as i64 + step
        };
        let one = |index: usize| {
            let sent = index as i64 * 10 * MS;
            // Most packets wait little, some long.
            let mut queue = || (truth.spread as f64 * dice.random::<f64>().powi(3)) as i64;
            let (forward, back) = (truth.forward + queue(), truth.back + queue());
            let returned = sent + forward + 20 * US;
            let packet = TwoClocks {
                sent: EPOCH + sent,
                reached: far(sent + forward, index),
                returned: far(returned, index),
                received: EPOCH + returned + back,
                uncertainty: 0,
                clocks: (ClockId::Realtime, ClockId::Realtime),
                epochs: Epochs::default(),
                synchronised: None,
            };
            (packet, forward, back)
        };
        (0..packets).map(one).collect()
    }

    /// The limits of every packet that has some, as [`OneWay::close`] finds them.
    fn limits(packets: &[TwoClocks]) -> Vec<Option<(Limits, Limits)>> {
        let mut limits = vec![None; packets.len()];
        for range in ranges(packets) {
            if let Some(bounds) = Bounds::of(&packets[range.clone()]) {
                for index in range {
                    limits[index] = Some(bounds.limits(&packets[index]));
                }
            }
        }
        limits
    }

    /// A rate moves what a leg of some milliseconds shows by less than this: the hulls speak of the sender's time.
    fn holds(limits: Limits, truth: i64, ppm: f64) -> bool {
        let slack = (truth as f64 * ppm.abs() * 1e-6).ceil() as i64 + 2;
        limits.low as i64 - slack <= truth && truth <= limits.high as i64 + slack
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_truth_is_within_whatever_the_clocks_do(
            offset in -1_000_000_000_000..1_000_000_000_000i64, ppm in -200.0..200.0f64,
            (forward, back, spread) in (10 * US..100 * MS, 10 * US..100 * MS, 0..50 * MS),
            packets in 1..1500usize, seed: u64,
        ) {
            let truth = Truth { offset, ppm, forward, back, spread, step: None };
            let played = play(truth, packets, seed);
            let only: Vec<TwoClocks> = played.iter().map(|(packet, ..)| *packet).collect();
            for ((_, forward, back), found) in played.iter().zip(limits(&only)) {
                let (there, return_) = found.expect("nothing stepped");
                prop_assert!(holds(there, *forward, ppm), "{:?} {}", there, forward);
                prop_assert!(holds(return_, *back, ppm), "{:?} {}", return_, back);
            }
        }

        #[test]
        fn a_step_is_found_and_the_truth_within_on_both_sides(
            at in 70..900usize, by in prop_oneof![-500 * MS..-2 * MS, 2 * MS..500 * MS], ppm in -50.0..50.0f64, seed: u64,
        ) {
            let truth =
                Truth { offset: 5 * MS, ppm, forward: 7 * MS, back: 8 * MS, spread: 300 * US, step: Some((at, by)) };
            let played = play(truth, 1000, seed);
            let only: Vec<TwoClocks> = played.iter().map(|(packet, ..)| *packet).collect();
            let mut void = 0;
            for ((_, forward, back), found) in played.iter().zip(limits(&only)) {
                let Some((there, return_)) = found else { void += 1; continue };
                prop_assert!(holds(there, *forward, ppm), "{:?} {}", there, forward);
                prop_assert!(holds(return_, *back, ppm), "{:?} {}", return_, back);
            }
            prop_assert!((1..=2 * BLOCK).contains(&void), "{} void", void);
        }
    }

    #[test]
    fn synchronised_clocks_narrow_it_unless_they_contradict() {
        let truth = Truth { offset: 300 * US, ppm: 0.0, forward: 7 * MS, back: 8 * MS, spread: MS, step: None };
        for (error, believed) in [(500 * US as u64, true), (100 * MS as u64, true)] {
            let mut packets: Vec<TwoClocks> = play(truth, 500, 3).into_iter().map(|(packet, ..)| packet).collect();
            packets.iter_mut().for_each(|packet| packet.synchronised = Some(error));
            let bounds = Bounds::of(&packets).unwrap();
            assert_eq!(bounds.segment.synchronised, believed);
            let (forward, _) = bounds.limits(&packets[250]);
            let width = forward.high - forward.low;
            assert!(width <= (2 * error).min(16 * MS as u64), "{width}");
            if error < MS as u64 {
                assert!(forward.low as i64 > 6 * MS, "{forward:?}");
            }
        }
        // An offset of a second, and both say that they are right to half a millisecond.
        let wrong = Truth { offset: 1000 * MS, ..truth };
        let mut packets: Vec<TwoClocks> = play(wrong, 500, 3).into_iter().map(|(packet, ..)| packet).collect();
        packets.iter_mut().for_each(|packet| packet.synchronised = Some(500_000));
        assert!(!Bounds::of(&packets).unwrap().segment.synchronised);
    }

    #[test]
    fn the_outermost_pair_on_one_clock_of_each_end_counts() {
        let at = |nanoseconds, clock| Stamp::new(nanoseconds, clock, 5);
        let both =
            |app, nic| Planes { app: at(app, ClockId::Realtime), nic: at(nic, ClockId::Phc(0)), ..Planes::default() };
        let app = |app| Planes { app: at(app, ClockId::Realtime), ..Planes::default() };
        let stamps =
            Stamps { a1: both(10, 110), a4: both(40, 140), b2: both(20, 220), b3: app(30), ..Stamps::default() };
        let found = TwoClocks::of(&stamps, None, Epochs::default()).unwrap();
        assert_eq!((found.sent, found.received, found.reached, found.returned), (110, 140, 20, 30));
        assert_eq!(found.clocks, (ClockId::Phc(0), ClockId::Realtime));
        assert_eq!(TwoClocks::of(&Stamps { b2: Planes::default(), ..stamps }, None, Epochs::default()), None);
    }

    #[test]
    fn a_step_that_was_seen_ends_a_segment_however_small_and_costs_no_packet() {
        let truth = Truth { offset: 0, ppm: 0.0, forward: MS, back: MS, spread: 0, step: Some((100, 50 * US)) };
        let mut packets: Vec<TwoClocks> = play(truth, 200, 3).into_iter().map(|(packet, ..)| packet).collect();
        assert_eq!(ranges(&packets), Vec::from_iter(std::iter::once(0..200)), "nobody would know by the packets alone");
        packets[100..].iter_mut().for_each(|packet| packet.epochs.reflector = Some(1));
        assert_eq!(ranges(&packets), [0..100, 100..200]);
    }
}
