//! How long packets waited for their device, by transmit queue: what `bpf/sojourn.bpf.c` counts.

use std::collections::BTreeMap;

use aya::Btf;
use serde::Serialize;

use super::{
    Result,
    histogram::{self, Histogram},
    object::{Filter, Object},
    reading::Names,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sojourn.bpf.o"));
const PROGRAMS: [(&str, &str); 4] = [
    ("handed_over", "net_dev_queue"),
    ("started", "net_dev_start_xmit"),
    ("given_up", "kfree_skb"),
    ("consumed", "consume_skb"),
];
/// `struct sojourn` in words: the histogram, and the unmatched.
const WORDS: usize = histogram::WORDS + 1;

/// The programs.
#[derive(Debug)]
pub(crate) struct Sojourns(Object);

/// By interface and transmit queue, and what could not be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SojournCounts {
    queues: BTreeMap<(String, u32), (Histogram, u64)>,
    untracked: u64,
    uncounted: u64,
}

/// Waiting in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SojournReport {
    /// Transmit queues on which a packet started.
    pub queues: Vec<Sojourn>,
    /// Packets that were not timed because too many waited.
    pub untracked: u64,
    /// Starts on queues for which there was no room.
    pub uncounted: u64,
}

/// A transmit queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sojourn {
    /// Its interface.
    pub interface: String,
    /// Its number.
    pub queue: u32,
    /// From the handing over to the call of the driver, nanoseconds: through all qdiscs. Of an interface without any it is what the kernel needs itself.
    pub nanoseconds: Histogram,
    /// Packets that started and were not seen to be handed over: segments that the kernel cut itself, repeated starts, packets that went round the qdisc, and those
    /// that waited already or were not tracked.
    pub unmatched: u64,
}

impl Sojourns {
    pub(crate) fn attach(btf: &Btf, filter: &Filter) -> Result<Self> {
        Object::attach(OBJECT, &PROGRAMS, btf, filter, &[]).map(Self)
    }

    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    pub(crate) fn read(&self, names: &Names) -> Result<SojournCounts> {
        let [untracked, uncounted] = self.0.counters("SOJOURNS_COUNTED")?;
        let mut counts = SojournCounts { untracked, uncounted, ..SojournCounts::default() };
        for (key, words) in self.0.shared::<8, WORDS>("SOJOURNS")? {
            let [interface, queue] = [0, 4].map(|at| u32::from_ne_bytes(key[at..at + 4].try_into().expect("four")));
            let Some(interface) = names.of(interface) else { continue };
            let times = Histogram::of(&words[..histogram::WORDS]);
            counts.queues.insert((interface, queue), (times, words[histogram::WORDS]));
        }
        Ok(counts)
    }
}

impl SojournCounts {
    pub(crate) fn since(&self, earlier: &Self) -> SojournReport {
        let of = |((interface, queue), (times, unmatched)): (&(String, u32), &(Histogram, u64))| {
            let (before, before_unmatched) =
                earlier.queues.get(&(interface.clone(), *queue)).cloned().unwrap_or_default();
            Sojourn {
                interface: interface.clone(),
                queue: *queue,
                nanoseconds: times.since(&before),
                unmatched: unmatched.saturating_sub(before_unmatched),
            }
        };
        let used = |sojourn: &Sojourn| sojourn.nanoseconds.count() + sojourn.unmatched > 0;
        SojournReport {
            queues: self.queues.iter().map(of).filter(used).collect(),
            untracked: self.untracked.saturating_sub(earlier.untracked),
            uncounted: self.uncounted.saturating_sub(earlier.uncounted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_queues_that_were_used_in_it() {
        let queue = |number| ("eth0".to_owned(), number);
        let times = |nanoseconds: &[u64]| nanoseconds.iter().copied().collect::<Histogram>();
        let earlier = SojournCounts {
            queues: [(queue(0), (times(&[100]), 3)), (queue(1), (times(&[100]), 1))].into(),
            untracked: 1,
            uncounted: 0,
        };
        let mut now = earlier.clone();
        now.queues.insert(queue(0), (times(&[100, 2_000]), 3));
        now.queues.insert(queue(2), (times(&[]), 5));
        now.untracked = 4;
        let report = now.since(&earlier);
        let wanted = [(0, times(&[2_000]), 0), (2, times(&[]), 5)].map(|(queue, nanoseconds, unmatched)| Sojourn {
            interface: "eth0".into(),
            queue,
            nanoseconds,
            unmatched,
        });
        assert_eq!(report, SojournReport { queues: wanted.into(), untracked: 3, uncounted: 0 });
        assert_eq!(now.since(&now), SojournReport::default());
    }
}
