//! How long softirqs waited and ran, by vector and processor: what `bpf/softirq.bpf.c` counts. They serve every namespace, so that none is left out.

use std::collections::BTreeMap;

use aya::Btf;
use serde::Serialize;

use super::{
    Result,
    histogram::{self, Histogram},
    object::{Filter, Object},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/softirq.bpf.o"));
const PROGRAMS: [(&str, &str); 3] =
    [("raised", "softirq_raise"), ("entered", "softirq_entry"), ("left", "softirq_exit")];
/// include/linux/interrupt.h and `/proc/softirqs`.
const VECTORS: [&str; 10] =
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];
/// `struct vector`: exits, entries, raises, two times, and two histograms.
const WORDS: usize = 5 + 2 * histogram::WORDS;

/// The programs.
#[derive(Debug)]
pub(crate) struct Softirqs(Object);

/// By vector and processor.
pub(crate) type SoftirqCounts = BTreeMap<(&'static str, u32), Softirq>;

/// One vector on one processor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Softirq {
    entries: u64,
    raises: u64,
    wait: Histogram,
    run: Histogram,
}

/// One vector on one processor in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SoftirqReport {
    /// As `/proc/softirqs` calls it.
    pub vector: &'static str,
    /// The processor's number.
    pub processor: u32,
    /// How often it was raised; raises before it is served are served together.
    pub raises: u64,
    /// How often it began to run.
    pub entries: u64,
    /// From the first raise until it ran, in nanoseconds.
    pub wait: Histogram,
    /// How long it ran, in nanoseconds; there is one that runs across the end of the window.
    pub run: Histogram,
}

impl Softirqs {
    pub(crate) fn attach(btf: &Btf) -> Result<Self> {
        Object::attach(OBJECT, &PROGRAMS, btf, &Filter::default(), &[]).map(Self)
    }

    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    pub(crate) fn read(&self) -> Result<SoftirqCounts> {
        let mut counts = SoftirqCounts::new();
        for (number, vector) in (0..).zip(VECTORS) {
            let parts = self.0.entry::<WORDS>("SOFTIRQS", number)?;
            counts.extend((0..).zip(&parts).map(|(processor, words)| ((vector, processor), Softirq::of(words))));
        }
        Ok(counts)
    }
}

impl Softirq {
    fn of(words: &[u64; WORDS]) -> Self {
        let [_exits, entries, raises] = *words.first_chunk().expect("longer");
        let (wait, run) = words[5..].split_at(histogram::WORDS);
        Self { entries, raises, wait: Histogram::of(wait), run: Histogram::of(run) }
    }
}

/// Those that were raised or ran, in the order of the vectors.
pub(crate) fn since(now: &SoftirqCounts, earlier: &SoftirqCounts) -> Vec<SoftirqReport> {
    let none = Softirq::default();
    let of = |((vector, processor), now): (&(&'static str, u32), &Softirq)| {
        let before = earlier.get(&(*vector, *processor)).unwrap_or(&none);
        SoftirqReport {
            vector,
            processor: *processor,
            raises: now.raises.saturating_sub(before.raises),
            entries: now.entries.saturating_sub(before.entries),
            wait: now.wait.since(&before.wait),
            run: now.run.since(&before.run),
        }
    };
    let mut reports: Vec<_> = now.iter().map(of).filter(|report| report.raises + report.entries > 0).collect();
    let place = |report: &SoftirqReport| VECTORS.iter().position(|vector| *vector == report.vector);
    reports.sort_by_key(|report| (place(report), report.processor));
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_vectors_that_moved_in_their_order() {
        let mut words = [0; WORDS];
        words[..5].copy_from_slice(&[4, 5, 9, 1, 2]);
        (words[5], words[6 + 100]) = (70, 3);
        (words[5 + histogram::WORDS], words[6 + histogram::WORDS]) = (0, 4);
        let softirq = Softirq::of(&words);
        assert_eq!((softirq.entries, softirq.raises, softirq.wait.sum(), softirq.wait.count()), (5, 9, 70, 3));
        assert_eq!((softirq.run.sum(), softirq.run.count()), (0, 4));

        let earlier = SoftirqCounts::from([(("RCU", 0), softirq.clone()), (("NET_RX", 1), Softirq::default())]);
        let mut now = earlier.clone();
        now.insert(("RCU", 0), Softirq { raises: 10, ..softirq.clone() });
        now.insert(("NET_RX", 1), softirq.clone());
        let told: Vec<_> = since(&now, &earlier)
            .into_iter()
            .map(|report| (report.vector, report.processor, report.raises, report.entries, report.wait.count()))
            .collect();
        assert_eq!(told, [("NET_RX", 1, 9, 5, 3), ("RCU", 0, 1, 0, 0)]);
        assert_eq!(since(&now, &now), []);
    }
}
