//! Follows one card's clock from cross-stamp to cross-stamp, states what a stamp's UTC is for sure, and takes back what a step spoilt.
//!
//! A stamp is told by the line through the cross-stamps up to the last good one before it, so that it is told the same whenever
//! one asks. The next cross-stamp is the test: only if the *whole* of it lies where stamps were told to be, were they told truly,
//! for then even a step too small to be seen lies within what was stated. That is why the stated uncertainty is wider than the
//! line's own by the width of a cross-stamp. Otherwise one of the clocks has stepped, or changed its rate beyond [`Wander`]: all stamps since the last
//! good cross-stamp are void, and the fit begins anew.

use std::collections::VecDeque;

use pathlab_record::{Interval, Monotonic, Reading, Realtime, Time};
use serde::Serialize;

use super::{CrossStamp, Wander, fit::Line};

/// Cross-stamps of a fit: 8 s of them, four a second.
const WINDOW: usize = 32;
/// Lines that are kept for stamps that come late: 1.3 s of them at the closest.
const LINES: usize = 32;
/// The longest time between two cross-stamps (ns): four a second.
const PERIOD: i64 = 250_000_000;
/// The shortest (ns), where cross-stamps are so narrow that the clocks' wander would show between longer ones.
const SHORTEST: i64 = 40_000_000;
/// While nothing can be told yet (ns).
const HURRY: i64 = 100_000_000;
/// A cross-stamp may come so much later than is due and still decide whether there was a step.
const LATENESS: f64 = 1.2;
/// A line tells no stamp that lies further from its last cross-stamp (ns), and none is tested by one.
pub(super) const HORIZON: i64 = 2_000_000_000;
/// No fit of a shorter span (ns) tells stamps …
const YOUNG: i64 = 1_000_000_000;
/// … and one of this span does, however little it knows of the rate.
const GROWN_UP: i64 = 2_000_000_000;
/// Cross-stamps that are wider than the narrowest by more than this are left out.
const WIDE: f64 = 1.25;
/// Voids that are remembered.
const VOIDS: usize = 64;

/// A span of time in which stamps were told that may not have been true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Void {
    /// When the last good cross-stamp before the step was begun.
    pub from: Time<Monotonic>,
    /// When the cross-stamp that showed it was there.
    pub to: Time<Monotonic>,
}

impl Void {
    /// Whether a card's stamp that was taken at `instant` is void.
    pub fn covers(&self, instant: Time<Monotonic>) -> bool {
        (self.from..=self.to).contains(&instant)
    }
}

/// Whether what a card stamped in a span of time is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouch {
    /// What was told of its stamps in UTC was true: a later cross-stamp says so.
    True {
        /// By so many nanoseconds at most the distance of two of them by the card's own clock differs from what `CLOCK_REALTIME` would
        /// say. `None` where nothing bounds it.
        drift: Option<u64>,
    },
    /// No cross-stamp has come since then; ask again after the next.
    NotYet,
    /// One of the clocks has stepped, or may have: nothing that was stamped then means anything.
    Void,
}

/// What a cross-stamp has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It agrees with what was told; or there was nothing to be told yet.
    Good,
    /// It is too wide to say anything, and left out; take another.
    Wide,
    /// It contradicts what was told, or cannot confirm it: the fit begins anew.
    Step(Void),
}

/// A line in force from its last cross-stamp on.
#[derive(Clone, Copy, Debug)]
struct Told {
    line: Line,
    /// What the undetected may add, in nanoseconds.
    allowance: f64,
    /// When the next cross-stamp should be taken, in nanoseconds after the last.
    due: i64,
    /// How long after the last cross-stamp a stamp can be told (ns): what is not known of the rate must not outgrow the rest.
    reach: i64,
}

/// The state of a fit, for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FitFacts {
    /// What UTC, by `CLOCK_REALTIME`, is ahead of the card at the last cross-stamp.
    pub offset: Interval,
    /// Its growth: parts per million by which the card is slow.
    pub rate_ppm: f64,
    /// What is said of a stamp at the last cross-stamp, in nanoseconds.
    pub uncertainty: u64,
    /// The largest distance of a cross-stamp's middle from the line, in nanoseconds.
    pub residual: u64,
    /// Half-width of the narrowest cross-stamp of the window, in nanoseconds.
    pub half_width: u64,
    /// Cross-stamps in the window.
    pub cross_stamps: usize,
}

/// The lines in force, newest last: all that it takes to tell a stamp.
#[derive(Clone, Debug, Default)]
pub struct Teller(VecDeque<Told>);

impl Teller {
    /// What REALTIME showed when the card showed `phc`. `None` before the first line of this fit, and long after the last.
    ///
    /// Ask before 2 s have passed. A card's clock that has stepped back shows values a second time: such a stamp is told by the new
    /// fit, and lies in a [`Void`] by the instant of its taking.
    pub fn tell(&self, phc: i64) -> Option<Reading<Realtime>> {
        let told = self.0.iter().rev().find(|told| told.line.at <= phc)?;
        let in_reach = phc.wrapping_sub(told.line.at) <= told.reach;
        in_reach.then(|| told.line.tell(phc, told.allowance))
    }

    /// The most that is said of any stamp by the lines in force.
    pub fn uncertainty(&self) -> Option<u64> {
        let most = |told: &Told| told.line.tell(told.line.at + told.reach, told.allowance).uncertainty;
        self.0.iter().map(most).max()
    }

    /// How long to wait for the next cross-stamp, in nanoseconds.
    pub fn due(&self) -> i64 {
        self.0.back().map_or(HURRY, |told| told.due)
    }
}

/// One card's clock against `CLOCK_REALTIME`. No clock is read here: cross-stamps are arguments.
#[derive(Clone, Debug)]
pub struct Track {
    wander: Wander,
    window: VecDeque<CrossStamp>,
    teller: Teller,
    voids: VecDeque<Void>,
    steps: u64,
}

impl Track {
    /// Nothing known yet, of clocks that keep to `wander`.
    pub fn new(wander: Wander) -> Self {
        let (window, teller, voids) = Default::default();
        Self { wander, window, teller, voids, steps: 0 }
    }

    /// Takes a cross-stamp, in the order of their taking.
    pub fn observe(&mut self, stamp: CrossStamp) -> Observation {
        let Some(last) = self.window.back() else {
            self.window.push_back(stamp);
            return Observation::Good;
        };
        let (from, age) = (last.began, stamp.phc.wrapping_sub(last.phc));
        // beyond any rate error: further sums would not be of small differences
        let (shortest, longest) = ((stamp.began - last.ended).as_nanos(), (stamp.ended - last.began).as_nanos());
        let jumped = age <= 0 || age < shortest - shortest / 64 || age > longest + longest / 64;
        let narrowest = self.narrowest();
        let wide = stamp.half_width as f64 > WIDE * narrowest;
        if jumped {
            return self.begin_anew(from, stamp);
        }
        match self.teller.0.back() {
            Some(told) if age <= HORIZON => match told.test(&stamp) {
                Some(true) if !wide => {}
                None | Some(true) if wide => return Observation::Wide,
                _ => return self.begin_anew(from, stamp),
            },
            Some(_) => return self.begin_anew(from, stamp),
            // too wide for a fit that has told nothing; it may be the rule from now on
            None if wide && age <= HORIZON => return Observation::Wide,
            None => {}
        }
        self.window.push_back(stamp);
        if self.window.len() > WINDOW {
            self.make_room();
        }
        let Some(line) = Line::through(self.window.iter(), self.wander) else { return self.begin_anew(from, stamp) };
        self.force(line);
        Observation::Good
    }

    /// What tells stamps from here on.
    pub fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The system clock was set, as another watch has seen at `now`: the fit begins anew, and what was told since the last good
    /// cross-stamp is void.
    pub fn clock_was_set(&mut self, now: Time<Monotonic>) {
        if let Some(last) = self.window.back() {
            self.end(Void { from: last.began, to: now });
            self.window.clear();
        }
    }

    /// Says that the teller of before the last step was in use until `now`: the void is that much longer.
    pub fn last_void_ended(&mut self, now: Time<Monotonic>) {
        if let Some(void) = self.voids.back_mut() {
            void.to = void.to.max(now);
        }
    }

    /// The spans whose stamps are void, oldest first; the last 64 of them.
    pub fn voids(&self) -> impl Iterator<Item = Void> + '_ {
        self.voids.iter().copied()
    }

    /// What is known of the stamps that the card took between two instants. To be asked within some seconds: the last 64 voids and 8 s of
    /// cross-stamps are remembered.
    pub fn vouch(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Vouch {
        if self.voids.iter().any(|void| void.from <= to && from <= void.to) {
            return Vouch::Void;
        }
        match self.confirmed_until() {
            Some(confirmed) if confirmed >= to => Vouch::True { drift: self.drift(from, to) },
            _ => Vouch::NotYet,
        }
    }

    /// Bounds what the card's clock gained or lost on the system's between any two instants of a span, by the cross-stamps around it.
    ///
    /// Over these two it gained *D*, give or take their half-widths: by a rate of at most [`Wander::rate`], and by a step that is too small
    /// to be seen where the fit is young. Within the span it gained the same less what the rate did outside of it.
    fn drift(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Option<u64> {
        let before = self.window.iter().rfind(|stamp| stamp.ended <= from)?;
        let after = self.window.iter().find(|stamp| stamp.began >= to)?;
        let by_card = after.phc.wrapping_sub(before.phc);
        let gained = by_card.wrapping_sub((after.realtime - before.realtime).as_nanos());
        let bound = gained.unsigned_abs() + before.half_width + after.half_width;
        Some(bound.saturating_add((self.wander.rate * by_card as f64).ceil() as u64))
    }

    /// The last good cross-stamp: what was stamped since then is not confirmed yet.
    pub fn confirmed_until(&self) -> Option<Time<Monotonic>> {
        self.window.back().map(|stamp| stamp.began)
    }

    /// How often the fit had to begin anew.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state of the fit; `None` while it tells nothing.
    pub fn facts(&self) -> Option<FitFacts> {
        let told = self.teller.0.back()?;
        let now = told.line.tell(told.line.at, told.allowance);
        let residual = |stamp| told.line.residual(stamp).abs();
        Some(FitFacts {
            offset: Interval::from_nanos(now.time.as_nanos().wrapping_sub(told.line.at)),
            rate_ppm: told.line.rate * 1e6,
            uncertainty: now.uncertainty,
            residual: self.window.iter().map(residual).fold(0.0, f64::max).ceil() as u64,
            half_width: self.narrowest() as u64,
            cross_stamps: self.window.len(),
        })
    }

    fn narrowest(&self) -> f64 {
        self.window.iter().map(|stamp| stamp.half_width).min().unwrap_or(u64::MAX) as f64
    }

    /// Lets the oldest cross-stamp go; or every other one, where they were taken so often that a whole window of them spans too little.
    fn make_room(&mut self) {
        let (first, last) = (self.window.front().map(|stamp| stamp.phc), self.window.back().map(|stamp| stamp.phc));
        if first.zip(last).is_some_and(|(first, last)| last - first < GROWN_UP) {
            let mut place = self.window.len();
            self.window.retain(|_| {
                place -= 1;
                place.is_multiple_of(2)
            });
        } else {
            self.window.pop_front();
        }
    }

    /// Lets `line` tell stamps from here on, once it is good enough.
    fn force(&mut self, line: Line) {
        let narrowest = self.narrowest().max(1.0);
        let span = self.window.front().map_or(0, |first| line.at - first.phc);
        // what both ends of the test need of the allowance, beside the width of a cross-stamp: see `Told::test`
        let growths = |due: i64| 2.0 * line.growth(LATENESS * due as f64);
        let spare = 2.0 * (WIDE - 1.02) * narrowest;
        let mut due = PERIOD;
        while due > SHORTEST && growths(due) > spare {
            due = (due / 5 * 4).max(SHORTEST);
        }
        if span < YOUNG || span < GROWN_UP && growths(due) > spare {
            return;
        }
        let allowance = 2.04 * narrowest + growths(due).max(spare) + 2.0;
        let mut reach = HORIZON;
        while reach > 2 * due && line.growth(reach as f64) > narrowest / 2.0 {
            reach = (reach / 5 * 4).max(2 * due);
        }
        if self.teller.0.len() == LINES {
            self.teller.0.pop_front();
        }
        self.teller.0.push_back(Told { line, allowance, due, reach });
    }

    fn begin_anew(&mut self, from: Time<Monotonic>, stamp: CrossStamp) -> Observation {
        let void = Void { from, to: stamp.ended };
        self.end(void);
        self.window = [stamp].into();
        Observation::Step(void)
    }

    fn end(&mut self, void: Void) {
        self.steps += 1;
        // where nothing was told, nothing is void
        if !self.teller.0.is_empty() {
            if self.voids.len() == VOIDS {
                self.voids.pop_front();
            }
            self.voids.push_back(void);
        }
        self.teller.0.clear();
    }
}

impl Told {
    /// Whether a cross-stamp confirms every stamp that was told since the last one; `None` where it is too wide or too late to say.
    ///
    /// At a distance *d* stamps were told within `h + g(d) + allowance` of the line. Let the far edge of the cross-stamp lie within
    /// `h + allowance - g(d)` of it. Then *f*, which leaves the line by at most *g* on its way back, was within what was told all along.
    /// Without a step the far edge lies within `h + g(d)` and twice the cross-stamp's half-width.
    fn test(&self, stamp: &CrossStamp) -> Option<bool> {
        let (off, half_width) = (self.line.residual(stamp).abs(), stamp.half_width as f64);
        let growth = self.line.growth((stamp.phc - self.line.at) as f64);
        if off + half_width <= self.line.half_width + self.allowance - growth {
            return Some(true);
        }
        let apart = off - half_width > self.line.half_width + growth;
        let decisive = 2.0 * (half_width + growth) <= self.allowance;
        (apart || decisive).then_some(false)
    }
}
