//! The line through the cross-stamps of one card: bounds that hold for every clock that could have given them, no best guess alone.
//!
//! Let *f* be what `CLOCK_REALTIME` is ahead of the card, as a function of the card's time. A cross-stamp says that *f* lies in an
//! interval at one instant. Between two instants *Δ* apart the rate of *f* changes by at most [`Wander`]`.jump +
//! Wander.per_second · Δ`. So the tangent of *f* at the last cross-stamp passes every earlier interval once that is widened by
//! `jump · Δ + per_second · Δ² / 2`: offset and rate are those of the lines that do, the feasible set of a linear program in two
//! variables, whose ends follow from pairs of constraints (Fourier-Motzkin elimination). No clock is read here, and all sums are
//! of differences, so that nanoseconds since 1970 lose nothing.

use pathlab_record::{Reading, Realtime, Time};

use super::CrossStamp;

/// How much the rate between two clocks may change, and how large it may be at all. What goes beyond is found out as a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wander {
    /// Change at any time, such as by a daemon's corrections: a ratio, 1e-9 is one nanosecond a second.
    pub jump: f64,
    /// Change with time, such as by temperature: a ratio a second.
    pub per_second: f64,
    /// The largest rate error: a ratio.
    pub rate: f64,
}

impl Default for Wander {
    /// Daemons that correct by less than 20 ppb at a time, crystals that wander by less than 10 ppb a second, and 500 ppm of slew on top of
    /// the kernel's ±500 ppm for the rate itself.
    fn default() -> Self {
        Self { jump: 20e-9, per_second: 10e-9, rate: 1e-3 }
    }
}

impl Wander {
    /// What the rate's changes can add to a distance of `span` nanoseconds, in nanoseconds.
    pub(super) fn over(self, span: f64) -> f64 {
        span * (self.jump + self.per_second * span / 2e9)
    }
}

/// The tangent at the last cross-stamp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    /// The last cross-stamp by the card.
    pub(super) at: i64,
    /// The middle of what `CLOCK_REALTIME` can have shown then.
    utc: i64,
    /// Half of that range, in nanoseconds.
    pub(super) half_width: f64,
    /// Seconds that REALTIME gains on the card in a second: the middle of what is possible.
    pub(super) rate: f64,
    /// Half of that range.
    pub(super) rate_half_width: f64,
    wander: Wander,
}

impl Line {
    /// The line through `stamps`, in the order of their taking; `None` where no clock within `wander` can have given them.
    pub(super) fn through<'a>(
        stamps: impl DoubleEndedIterator<Item = &'a CrossStamp> + Clone,
        wander: Wander,
    ) -> Option<Self> {
        let last = stamps.clone().next_back()?;
        let constraints: Vec<_> = stamps.map(|stamp| Constraint::new(stamp, last, wander)).collect();
        let mut offset = (f64::NEG_INFINITY, f64::INFINITY);
        let mut rate = (-wander.rate, wander.rate);
        for a in &constraints {
            offset = (offset.0.max(a.low - wander.rate * a.age), offset.1.min(a.high + wander.rate * a.age));
            for b in &constraints {
                let between = b.age - a.age;
                if between > 0.0 {
                    // through the top of the younger and the bottom of the older, and the other way round
                    offset.1 = offset.1.min((a.high * b.age - b.low * a.age) / between);
                    offset.0 = offset.0.max((a.low * b.age - b.high * a.age) / between);
                    rate = (rate.0.max((a.low - b.high) / between), rate.1.min((a.high - b.low) / between));
                }
            }
        }
        (offset.0 <= offset.1 && rate.0 <= rate.1).then(|| {
            let middle = f64::midpoint(offset.0, offset.1);
            Self {
                at: last.phc,
                utc: last.realtime.as_nanos() + middle.round() as i64,
                // what rounding the middle loses
                half_width: (offset.1 - offset.0) / 2.0 + 0.5,
                rate: f64::midpoint(rate.0, rate.1),
                rate_half_width: (rate.1 - rate.0) / 2.0,
                wander,
            }
        })
    }

    /// What the half-width grows by, `span` nanoseconds after the last cross-stamp.
    pub(super) fn growth(&self, span: f64) -> f64 {
        self.rate_half_width * span + self.wander.over(span)
    }

    /// What REALTIME showed when the card showed `phc`, not before the last cross-stamp, and `widened` by so many nanoseconds.
    pub(super) fn tell(&self, phc: i64, widened: f64) -> Reading<Realtime> {
        let span = phc - self.at;
        let gained = (self.rate * span as f64).round() as i64;
        let uncertainty = self.half_width + self.growth(span as f64) + widened + 0.5;
        Reading::new(Time::from_nanos(self.utc + span + gained), uncertainty.ceil() as u64)
    }

    /// How far the middle of a cross-stamp lies from the line, in nanoseconds: a residual of the fit.
    pub(super) fn residual(&self, stamp: &CrossStamp) -> f64 {
        let span = stamp.phc.wrapping_sub(self.at);
        // wraps where the clock was set to another century: far off all the same
        stamp.realtime.as_nanos().wrapping_sub(self.utc).wrapping_sub(span) as f64 - self.rate * span as f64
    }
}

/// `low ≤ offset - rate · age ≤ high`, offsets against the last cross-stamp's.
struct Constraint {
    age: f64,
    low: f64,
    high: f64,
}

impl Constraint {
    fn new(stamp: &CrossStamp, last: &CrossStamp, wander: Wander) -> Self {
        let age = last.phc - stamp.phc;
        let ahead = (stamp.realtime - last.realtime).as_nanos().wrapping_add(age) as f64;
        let age = age as f64;
        let half_width = stamp.half_width as f64 + wander.over(age);
        Self { age, low: ahead - half_width, high: ahead + half_width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026 by both clocks: differences of such values must lose nothing.
    const EPOCH: i64 = 1_792_000_000_000_000_000;
    const RIGID: Wander = Wander { jump: 0.0, per_second: 0.0, rate: 1e-3 };

    fn stamp(phc: i64, ahead: i64, half_width: u64) -> CrossStamp {
        CrossStamp {
            phc: EPOCH + phc,
            realtime: Time::from_nanos(EPOCH + phc + ahead),
            half_width,
            began: Time::from_nanos(phc),
            ended: Time::from_nanos(phc),
        }
    }

    #[test]
    fn two_exact_cross_stamps_are_a_line() {
        // 100 ppm: 100 000 ns in a second
        let stamps = [stamp(0, 7_000_000_000, 0), stamp(1_000_000_000, 7_000_100_000, 0)];
        let line = Line::through(stamps.iter(), RIGID).expect("a line");
        assert_eq!(line.rate, 1e-4);
        let told = line.tell(EPOCH + 1_500_000_000, 0.0);
        assert_eq!(told, Reading::new(Time::from_nanos(EPOCH + 8_500_150_000), 1));
    }

    #[test]
    fn the_ends_are_those_of_the_worst_lines() {
        // ±10 at both ends of a second: the rate is within ±20 ns/s, and half a second later another ±10 are lost
        let stamps = [stamp(0, 0, 10), stamp(1_000_000_000, 0, 10)];
        let line = Line::through(stamps.iter(), RIGID).expect("a line");
        assert_eq!((line.half_width, line.rate_half_width * 1e9), (10.5, 20.0));
        assert_eq!(line.tell(EPOCH + 1_500_000_000, 0.0).uncertainty, 21);
    }

    #[test]
    fn a_narrow_old_cross_stamp_narrows_a_wide_new_one() {
        let stamps = [stamp(0, 0, 10), stamp(500_000_000, 0, 10), stamp(1_000_000_000, 0, 1000)];
        let line = Line::through(stamps.iter(), RIGID).expect("a line");
        // -10 to 10 at the half, sloping by at most 40 ns/s from there
        assert_eq!(line.half_width, 30.5);
    }

    #[test]
    fn clocks_that_cannot_be_are_no_line() {
        let bent = [stamp(0, 0, 10), stamp(1_000_000_000, 100, 10), stamp(2_000_000_000, 0, 10)];
        assert_eq!(Line::through(bent.iter(), RIGID), None);
        let softer = Wander { per_second: 200e-9, ..RIGID };
        assert!(Line::through(bent.iter(), softer).is_some(), "±40 in a second is within 200 ns/s²");
        let fast = [stamp(0, 0, 10), stamp(1_000_000_000, 2_000_000, 10)];
        assert_eq!(Line::through(fast.iter(), RIGID), None, "2000 ppm");
    }
}
