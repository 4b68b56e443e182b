//! The split of the reflector host's own time, where it tells its stamps: an identity in integer nanoseconds within `residence`.
//!
//! ```text
//! B2nic ─rx_nic─ B2xdp ─rx_xdp─ B2kernel ─rx_kernel─ B2app ─app─ B3app ─tx_kernel─ B3kernel ─tx_nic─ B3nic
//! ```
//!
//! Only what lies between the two stamps that bound `residence` is split. Where a stamp between them is absent, the stages that it would
//! part are one. Where the two are on a clock of their own (the card's) and those between on another, the stages outside the latter are
//! one: they are the residence without what lies between.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Interval, Planes, Stamp};

/// A stage of the reflector host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// From the wire to the XDP program: `B2xdp - B2nic`.
    RxNic,
    /// From the XDP program to the stack: `B2kernel - B2xdp`.
    RxXdp,
    /// Through the stack, the socket's queue and the wakeup: `B2app - B2kernel`.
    RxKernel,
    /// The reflector itself: `B3app - B2app`.
    App,
    /// Through the stack and the queueing discipline: `B3kernel - B3app`.
    TxKernel,
    /// From the driver to the wire: `B3nic - B3kernel`.
    TxNic,
}

impl Stage {
    /// Every stage, in the order in which a packet passes them.
    pub const ALL: [Self; 6] = [Self::RxNic, Self::RxXdp, Self::RxKernel, Self::App, Self::TxKernel, Self::TxNic];

    /// The stage's key in `samples.jsonl`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RxNic => "rx_nic",
            Self::RxXdp => "rx_xdp",
            Self::RxKernel => "rx_kernel",
            Self::App => "app",
            Self::TxKernel => "tx_kernel",
            Self::TxNic => "tx_nic",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|stage| stage.name() == text);
        named.ok_or_else(|| format!("unknown stage of the reflector host {text:?}"))
    }
}

/// The parts of one residence, in path order of their first stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The stages that each part holds (more than one where they are merged), and its length. No stage stands twice.
    pub parts: Vec<(Vec<Stage>, Interval)>,
}

/// One of the seven places of a stamp, in path order, and the stamp.
type Point = (usize, Stamp);

impl Inner {
    /// Splits the residence between `b2` and `b3`, which are stamps of these planes on one clock; `None` where nothing parts it.
    pub(super) fn split(b2: &Planes, b3: &Planes, (from, to): (Stamp, Stamp)) -> Option<Self> {
        let all = [b2.nic, b2.xdp, b2.kernel, b2.app, b3.app, b3.kernel, b3.nic];
        let points: Vec<Point> =
            all.into_iter().enumerate().filter_map(|(place, stamp)| Some((place, stamp?))).collect();
        let first = points.iter().copied().find(|(place, stamp)| *place < 4 && *stamp == from)?;
        let last = points.iter().copied().rfind(|(place, stamp)| *place >= 4 && *stamp == to)?;
        let between: Vec<Point> = points.into_iter().filter(|(place, _)| first.0 < *place && *place < last.0).collect();
        let mut parts = Vec::new();
        let of_clock = |clock| between.iter().copied().filter(move |(_, stamp)| stamp.clock() == clock);
        if of_clock(from.clock()).next().is_some() {
            cut(first, of_clock(from.clock()).chain([last]), &mut parts);
        } else {
            let begin = *between.first()?;
            let end = of_clock(begin.1.clock()).next_back().filter(|end| end.0 > begin.0)?;
            let outside = (first.0..begin.0).chain(end.0..last.0).map(|place| Stage::ALL[place]).collect();
            parts.push((outside, span(from, to) - span(begin.1, end.1)));
            cut(begin, of_clock(begin.1.clock()).skip(1), &mut parts);
        }
        parts.sort_unstable();
        Some(Self { parts })
    }

    /// The length of a stage that stands alone.
    pub fn stage(&self, stage: Stage) -> Option<Interval> {
        self.parts.iter().find(|(part, _)| *part == [stage]).map(|(_, length)| *length)
    }

    /// The sum of all parts: the residence.
    pub fn total(&self) -> Interval {
        self.parts.iter().fold(Interval::ZERO, |sum, (_, length)| sum + *length)
    }
}

fn cut(first: Point, others: impl Iterator<Item = Point>, parts: &mut Vec<(Vec<Stage>, Interval)>) {
    others.fold(first, |before, point| {
        parts.push((Stage::ALL[before.0..point.0].to_vec(), span(before.1, point.1)));
        point
    });
}

fn span(from: Stamp, to: Stamp) -> Interval {
    Interval::from_nanos(to.nanos().wrapping_sub(from.nanos()))
}

/// `{"rx_kernel":1210,"app":590,"tx_kernel":410}`; merged stages under their joined names.
impl Serialize for Inner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = |part: &[Stage]| part.iter().map(|stage| stage.name()).collect::<Vec<_>>().join("+");
        serializer.collect_map(self.parts.iter().map(|(part, length)| (name(part), length)))
    }
}

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Vec::new();
        for (name, length) in BTreeMap::<String, Interval>::deserialize(deserializer)? {
            let part: Vec<Stage> =
                name.split('+').map(str::parse).collect::<Result<_, _>>().map_err(de::Error::custom)?;
            parts.push((part, length));
        }
        let mut stages: Vec<Stage> = parts.iter().flat_map(|(part, _)| part).copied().collect();
        stages.sort_unstable();
        let twice = stages.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || parts.iter().any(|(part, _)| !part.is_sorted()) {
            return Err(de::Error::custom("a stage of the reflector host stands once, in path order"));
        }
        parts.sort_unstable();
        Ok(Self { parts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ClockId;

    fn real(nanos: i64) -> Option<Stamp> {
        Stamp::new(nanos, ClockId::Realtime, 0)
    }

    fn phc(nanos: i64) -> Option<Stamp> {
        Stamp::new(nanos, ClockId::Phc(0), 0)
    }

    fn json(b2: Planes, b3: Planes, bounds: (Option<Stamp>, Option<Stamp>)) -> String {
        let inner = Inner::split(&b2, &b3, (bounds.0.expect("B2"), bounds.1.expect("B3")));
        serde_json::to_string(&inner).expect("text")
    }

    #[test]
    fn every_stamp_on_one_clock_parts_every_stage() {
        let b2 = Planes { nic: real(100), xdp: real(101), kernel: real(103), app: real(107), ..Planes::default() };
        let b3 = Planes { app: real(115), kernel: real(131), nic: real(163), ..Planes::default() };
        assert_eq!(
            json(b2, b3, (b2.nic, b3.nic)),
            r#"{"rx_nic":1,"rx_xdp":2,"rx_kernel":4,"app":8,"tx_kernel":16,"tx_nic":32}"#
        );
        let kernel = (Planes { nic: None, xdp: None, ..b2 }, Planes { nic: None, ..b3 });
        assert_eq!(json(kernel.0, kernel.1, (b2.kernel, b3.kernel)), r#"{"rx_kernel":4,"app":8,"tx_kernel":16}"#);
        let fewer = (Planes { app: None, xdp: None, ..b2 }, Planes { app: None, ..b3 });
        assert_eq!(
            json(fewer.0, fewer.1, (b2.nic, b3.nic)),
            r#"{"rx_nic+rx_xdp":3,"rx_kernel+app+tx_kernel":28,"tx_nic":32}"#
        );
        let bare = (Planes { app: real(107), ..Planes::default() }, Planes { app: real(115), ..Planes::default() });
        assert_eq!(json(bare.0, bare.1, (bare.0.app, bare.1.app)), "null", "nothing lies between");
    }

    #[test]
    fn a_cards_own_clock_leaves_its_two_ends_in_one() {
        let b2 = Planes { nic: phc(5), kernel: real(1000), app: real(1004), ..Planes::default() };
        let b3 = Planes { app: real(1012), kernel: real(1028), nic: phc(105), ..Planes::default() };
        assert_eq!(
            json(b2, b3, (b2.nic, b3.nic)),
            r#"{"rx_nic+rx_xdp+tx_nic":72,"rx_kernel":4,"app":8,"tx_kernel":16}"#
        );
    }

    #[test]
    fn a_broken_line_is_refused() {
        for (broken, why) in [
            (r#"{"rx":1}"#, "unknown stage"),
            (r#"{"app":1,"rx_nic+app":1}"#, "stands once"),
            (r#"{"app+rx_nic":1}"#, "path order"),
        ] {
            let error = serde_json::from_str::<Inner>(broken).expect_err(broken).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    fn any_planes() -> impl Strategy<Value = Planes> {
        let stamp = || {
            proptest::option::of((any::<i64>(), 0..2_u32)).prop_map(|stamp| {
                stamp.and_then(|(nanos, clock)| {
                    Stamp::new(nanos, if clock == 0 { ClockId::Realtime } else { ClockId::Phc(0) }, 0)
                })
            })
        };
        (stamp(), stamp(), stamp(), stamp()).prop_map(|(app, kernel, xdp, nic)| Planes {
            app,
            sched: None,
            kernel,
            xdp,
            nic,
        })
    }

    proptest! {
        #[test]
        fn the_parts_are_the_residence_and_no_stage_stands_twice(b2 in any_planes(), b3 in any_planes()) {
            let ends = [b3.nic, b3.kernel, b3.app].into_iter().flatten();
            let begins: Vec<Stamp> = [b2.nic, b2.xdp, b2.kernel, b2.app].into_iter().flatten().collect();
            for to in ends {
                for &from in begins.iter().filter(|from| from.clock() == to.clock()) {
                    let Some(inner) = Inner::split(&b2, &b3, (from, to)) else { continue };
                    prop_assert_eq!(Some(inner.total()), to.since(from));
                    let line = serde_json::to_string(&inner).expect("text");
                    prop_assert_eq!(serde_json::from_str::<Inner>(&line).expect("a line"), inner);
                }
            }
        }
    }
}
