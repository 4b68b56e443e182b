//! Clock domains as types, so that subtracting a TAI instant from a REALTIME one does not compile.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Add, Sub},
};

use serde::{Deserialize, Serialize};

/// A clock domain. Implemented by the marker types of this module alone.
pub trait Clock: Copy + Eq + Ord + fmt::Debug + private::Sealed {
    /// The domain's name as it stands in `samples.jsonl`.
    const NAME: &'static str;
}

mod private {
    pub trait Sealed {}
}

macro_rules! domain {
    ($(#[$doc:meta])* $name:ident = $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {}
        impl private::Sealed for $name {}
        impl Clock for $name {
            const NAME: &'static str = $text;
        }
    };
}

domain!(
    /// `CLOCK_REALTIME`: UTC as this host believes it; may step.
    Realtime = "realtime"
);
domain!(
    /// `CLOCK_TAI`: no leap seconds; equals REALTIME where nobody set the offset.
    Tai = "tai"
);
domain!(
    /// `CLOCK_MONOTONIC`: never steps, means nothing on another host.
    Monotonic = "monotonic"
);

/// An instant of one clock domain, in nanoseconds since that domain's epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time<C>(i64, PhantomData<C>);

impl<C: Clock> Time<C> {
    /// The instant `nanoseconds` after the domain's epoch.
    pub const fn from_nanos(nanoseconds: i64) -> Self {
        Self(nanoseconds, PhantomData)
    }

    /// Nanoseconds since the domain's epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }
}

impl<C: Clock> fmt::Debug for Time<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns {}", self.0, C::NAME)
    }
}

/// A signed span of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Interval(i64);

impl Interval {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `nanoseconds`, negative when it points backwards.
    pub const fn from_nanos(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// The span in nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The span in milliseconds, for display.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add for Interval {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Sub for Interval {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl<C: Clock> Sub for Time<C> {
    type Output = Interval;
    fn sub(self, earlier: Self) -> Interval {
        Interval(self.0.wrapping_sub(earlier.0))
    }
}

impl<C: Clock> Add<Interval> for Time<C> {
    type Output = Self;
    fn add(self, span: Interval) -> Self {
        Self::from_nanos(self.0.wrapping_add(span.0))
    }
}

/// What a clock showed at some event, and how surely: the event was at `time`, give or take `uncertainty`, *by this clock*.
///
/// How far the clock itself is from UTC is another matter, which cancels out of every difference within one host: it stands in the
/// STAMP Error Estimate and belongs to one-way delay alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reading<C: Clock> {
    /// The middle of the interval that holds the truth.
    pub time: Time<C>,
    /// Half its width, in nanoseconds.
    pub uncertainty: u64,
}

impl<C: Clock> Reading<C> {
    /// `time` give or take `uncertainty` nanoseconds.
    pub const fn new(time: Time<C>, uncertainty: u64) -> Self {
        Self { time, uncertainty }
    }
}

impl<C: Clock> From<Time<C>> for Reading<C> {
    /// A reading without stated uncertainty.
    fn from(time: Time<C>) -> Self {
        Self::new(time, 0)
    }
}
