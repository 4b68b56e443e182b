//! The whole tree of queueing disciplines, as the kernel itself counts it: what waits in each, and what each dropped or held back.

use std::collections::BTreeMap;

use serde::Serialize;

use super::reading::Names;
use crate::{port::Qdisc, qdisc};

/// By interface and place in its tree, the root first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Qdiscs(BTreeMap<(String, Place), Qdisc>);

/// `false` of a root; its parent and its own handle, in tc's notation.
type Place = (bool, String, String);

/// A queueing discipline in a window. What a child counts, its parent counts as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QdiscReport {
    /// Whose packets it holds.
    pub interface: String,
    /// `tbf`, `fq_codel`, ...
    pub kind: String,
    /// In tc's notation, `1:`; `0:` of what the kernel made by itself.
    pub handle: String,
    /// `root`, or the class that it hangs on, `1:1`.
    pub parent: String,
    /// Packets that wait at the end of the window.
    pub waiting: u32,
    /// Octets that wait.
    pub waiting_octets: u32,
    /// Packets that left it; one that stands for several segments (GSO) counts as so many.
    pub packets: u64,
    /// Octets that left it.
    pub octets: u64,
    /// Packets that it gave up.
    pub drops: u32,
    /// Times that it held a packet back, or refused one, for its limits.
    pub overlimits: u32,
    /// Times that the driver gave a packet back, its ring being full.
    pub requeues: u32,
}

impl Qdiscs {
    /// Those of `interfaces`, all where there are none.
    pub(crate) fn read(names: &Names, interfaces: &[u32]) -> std::io::Result<Self> {
        let all = qdisc::everywhere()?.into_iter();
        let watched = all.filter(|(index, _)| interfaces.is_empty() || interfaces.contains(index));
        let named = watched.filter_map(|(index, qdisc)| {
            let place = (qdisc.parent != "root", qdisc.parent.clone(), qdisc.handle.clone());
            Some(((names.of(index)?, place), qdisc))
        });
        Ok(Self(named.collect()))
    }

    pub(crate) fn since(&self, earlier: &Self) -> Vec<QdiscReport> {
        let of = |(place, now): (&(String, Place), &Qdisc)| {
            // Octets only grow: where there are fewer, or of another kind, it is a new one that took the place.
            let same = |before: &&Qdisc| before.kind == now.kind && before.octets <= now.octets;
            let before = earlier.0.get(place).filter(same).cloned().unwrap_or_default();
            QdiscReport {
                interface: place.0.clone(),
                kind: now.kind.clone(),
                handle: now.handle.clone(),
                parent: now.parent.clone(),
                waiting: now.queued,
                waiting_octets: now.backlog,
                // counted in 32 bits
                packets: now.packets.wrapping_sub(before.packets).into(),
                octets: now.octets - before.octets,
                drops: now.drops.wrapping_sub(before.drops),
                overlimits: now.overlimits.wrapping_sub(before.overlimits),
                requeues: now.requeues.wrapping_sub(before.requeues),
            }
        };
        self.0.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(tbf: Qdisc) -> Qdiscs {
        let child =
            Qdisc { kind: "pfifo".into(), handle: "2:".into(), parent: "1:1".into(), queued: 4, ..Qdisc::default() };
        let all = [child, Qdisc { kind: "tbf".into(), handle: "1:".into(), parent: "root".into(), ..tbf }];
        let place = |qdisc: &Qdisc| (qdisc.parent != "root", qdisc.parent.clone(), qdisc.handle.clone());
        Qdiscs(all.into_iter().map(|qdisc| (("eth0".to_owned(), place(&qdisc)), qdisc)).collect())
    }

    #[test]
    fn the_root_comes_first_and_counts_what_came_in_the_window() {
        let earlier = tree(Qdisc { packets: u32::MAX - 1, octets: 500, drops: 2, ..Qdisc::default() });
        let now = tree(Qdisc {
            packets: 3,
            octets: 900,
            drops: 7,
            overlimits: 9,
            queued: 1,
            backlog: 100,
            ..Qdisc::default()
        });
        let report = now.since(&earlier);
        let kinds: Vec<&str> = report.iter().map(|qdisc| qdisc.kind.as_str()).collect();
        assert_eq!(kinds, ["tbf", "pfifo"]);
        let tbf = &report[0];
        assert_eq!((tbf.packets, tbf.octets, tbf.drops, tbf.overlimits, tbf.requeues), (5, 400, 5, 9, 0));
        assert_eq!((tbf.waiting, tbf.waiting_octets, report[1].waiting), (1, 100, 4));
    }

    #[test]
    fn another_that_took_the_place_began_at_zero() {
        let earlier = tree(Qdisc { packets: 40, octets: 500, drops: 8, ..Qdisc::default() });
        let tbf = &tree(Qdisc { packets: 3, octets: 90, drops: 1, ..Qdisc::default() }).since(&earlier)[0];
        assert_eq!((tbf.packets, tbf.octets, tbf.drops), (3, 90, 1));
    }
}
