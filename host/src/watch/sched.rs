//! How long the threads of chosen processes waited for a processor: what `bpf/sched.bpf.c` counts.

use std::collections::BTreeMap;

use aya::Btf;
use serde::Serialize;

use super::{
    Error, Result,
    btf::Types,
    histogram::{self, Bucket, Histogram},
    object::{Filter, Object},
    process::thread_name,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sched.bpf.o"));
const PROGRAMS: [(&str, &str); 3] =
    [("woke_up", "sched_wakeup"), ("woke_up_new", "sched_wakeup_new"), ("switched", "sched_switch")];
/// `struct thread`: the process, a time, two counters, and a histogram.
const WORDS: usize = 4 + histogram::WORDS;

/// The programs.
#[derive(Debug)]
pub(crate) struct Sched(Object);

/// By the thread's number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SchedCounts {
    threads: BTreeMap<u32, Thread>,
    uncounted: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Thread {
    process: u32,
    name: Option<String>,
    runs: u64,
    preempted: u64,
    waiting: Option<u64>,
    wait: Histogram,
}

/// Threads of the chosen processes in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SchedReport {
    /// Those that ran or wait, the one with the longest p99 first, or that waits already for longer.
    pub threads: Vec<ThreadReport>,
    /// Wake-ups and switches of threads beyond the 1024 that have room.
    pub uncounted: u64,
}

/// A thread in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadReport {
    /// The process it belongs to.
    pub process: u32,
    /// Its number.
    pub thread: u32,
    /// Its name; absent where it has ended.
    pub name: Option<String>,
    /// How often it got a processor.
    pub runs: u64,
    /// How often it lost it while it could still run.
    pub preempted: u64,
    /// How long it could run and did not, in nanoseconds: from its wake-up, or from the moment it lost the processor, until it got one.
    pub wait: Histogram,
    /// Nanoseconds for which it waits already at the end of the window, which are not in `wait` yet; absent where it runs or sleeps.
    pub waiting: Option<u64>,
}

impl Sched {
    pub(crate) fn attach(types: &Types<'_>, btf: &Btf, filter: &Filter) -> Result<Self> {
        if types.arguments("sched_switch") < Some(4) {
            return Err(Error::Kernel {
                why: "sched_switch does not tell in what state a thread is left, which kernels do since 5.18",
            });
        }
        let mut object = Object::attach(OBJECT, &PROGRAMS, btf, filter, &[])?;
        object.prepare_clock()?;
        Ok(Self(object))
    }

    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    pub(crate) fn read(&self) -> Result<SchedCounts> {
        let [uncounted] = self.0.counters("EVENTS_LEFT_OUT")?;
        let entries = self.0.shared::<4, WORDS>("THREADS")?;
        // behind the entries: no event in them is of a later time
        let now = self.0.now()?;
        let threads = entries.iter().map(|(key, words)| Thread::of(u32::from_ne_bytes(*key), words, now)).collect();
        Ok(SchedCounts { threads, uncounted })
    }
}

impl Thread {
    fn of(number: u32, words: &[u64; WORDS], now: u64) -> (u32, Self) {
        let [process, runnable_since, runs, preempted] = *words.first_chunk().expect("longer");
        // the process is the first half of its word
        let process = u32::from_ne_bytes(*process.to_ne_bytes().first_chunk().expect("longer"));
        let name = thread_name(process, number);
        let waiting = (runnable_since > 0).then(|| now.saturating_sub(runnable_since));
        (number, Self { process, name, runs, preempted, waiting, wait: Histogram::of(&words[4..]) })
    }
}

impl SchedCounts {
    pub(crate) fn since(&self, earlier: &Self) -> SchedReport {
        let none = Thread::default();
        let of = |(number, now): (&u32, &Thread)| {
            let before = earlier.threads.get(number).unwrap_or(&none);
            ThreadReport {
                process: now.process,
                thread: *number,
                name: now.name.clone(),
                runs: now.runs.saturating_sub(before.runs),
                preempted: now.preempted.saturating_sub(before.preempted),
                wait: now.wait.since(&before.wait),
                waiting: now.waiting,
            }
        };
        let moved = |thread: &ThreadReport| thread.runs > 0 || thread.waiting.is_some();
        let mut threads: Vec<_> = self.threads.iter().map(of).filter(moved).collect();
        let longest = |thread: &ThreadReport| thread.wait.quantile(0.99).max(thread.waiting.map(Bucket::holding));
        threads.sort_by_cached_key(|thread| std::cmp::Reverse(longest(thread)));
        SchedReport { threads, uncounted: self.uncounted.saturating_sub(earlier.uncounted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_threads_that_ran_the_longest_wait_first() {
        let mut words = [0; WORDS];
        words[..4].copy_from_slice(&[0, 900, 3, 1]);
        words[0] = u64::from_ne_bytes([7_u32.to_ne_bytes(), [0; 4]].concat().try_into().expect("eight"));
        (words[4], words[5 + 10]) = (20, 2);
        let (number, waits) = Thread::of(9, &words, 1_000_900);
        assert_eq!(waits.waiting, Some(1_000_000));
        words[1] = 0;
        let (_, thread) = Thread::of(9, &words, 1_000_900);
        assert_eq!((number, thread.process, thread.runs, thread.preempted), (9, 7, 3, 1));
        assert_eq!(thread.wait, [10, 10].into_iter().collect());

        let waited =
            |nanoseconds: u64| Thread { runs: 4, wait: [10, 10, nanoseconds].into_iter().collect(), ..thread.clone() };
        let earlier = SchedCounts { threads: [(8, thread.clone()), (9, thread.clone())].into(), uncounted: 1 };
        let threads = [(8, thread.clone()), (9, waited(500)), (10, waited(90_000))].into();
        let now = SchedCounts { threads, uncounted: 3 };
        let report = now.since(&earlier);
        let told: Vec<_> =
            report.threads.iter().map(|thread| (thread.thread, thread.runs, thread.wait.count())).collect();
        assert_eq!((told, report.uncounted), (vec![(10, 4, 3), (9, 1, 1)], 2));
        assert_eq!(now.since(&now), SchedReport::default());
        // one that waits for the whole window does not run in it
        let starved = SchedCounts { threads: [(8, waits), (10, thread)].into(), uncounted: 3 };
        let told = starved.since(&starved).threads;
        assert_eq!(
            told.iter().map(|thread| (thread.thread, thread.runs, thread.waiting)).collect::<Vec<_>>(),
            [(8, 0, Some(1_000_000))]
        );
    }
}
