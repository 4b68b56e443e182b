//! A hog on one processor makes the thread wait that is pinned there, and no other.

use std::{
    fs, process,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use pathlab_guard::privilege::root_or_skip;
use pathlab_host::watch::{Reading, SchedReport, ThreadReport, Watch, WatchOptions};

use super::support::{sh, this_thread};

/// The hog works for so long, and rests as long.
const BURST: Duration = Duration::from_millis(40);
/// The threads wake up so often.
const NAP: Duration = Duration::from_millis(2);
const PHASE: Duration = Duration::from_millis(1_500);

#[test]
fn a_hog_moves_the_wait_of_the_thread_beside_it_alone() {
    if !root_or_skip("sched::a_hog_moves_the_wait_of_the_thread_beside_it_alone") {
        return;
    }
    let options = WatchOptions { processes: vec![process::id()], ..WatchOptions::default() };
    let watch = Watch::begin(&options).expect("a watch");
    assert_eq!(watch.lacks(), [""; 0]);
    let (over, hogging) = (AtomicBool::new(false), AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    // How late each wake-up was by the thread's own account.
    let late: [Mutex<Vec<Duration>>; 2] = Default::default();
    thread::scope(|scope| {
        // whatever happens, the threads end
        let _over = Over(&over);
        // Real time, so that whatever else runs on this machine does not make them wait.
        for (name, processor, priority) in [("beside", 0, 10), ("apart", 1, 10), ("hog", 0, 20)] {
            let (tell, over, hogging, late) = (tell.clone(), &over, &hogging, &late);
            let thread = move || {
                let number = this_thread();
                sh(&format!("taskset -pc {processor} {number} >/dev/null && chrt -f -p {priority} {number}"));
                tell.send((name, number)).expect("somebody listens");
                while !over.load(Ordering::Relaxed) {
                    if name == "hog" && hogging.load(Ordering::Relaxed) {
                        let until = Instant::now() + BURST;
                        while Instant::now() < until {}
                        thread::sleep(BURST);
                    } else {
                        let due = Instant::now() + NAP;
                        thread::sleep(NAP);
                        late[usize::from(name == "apart")].lock().expect("whole").push(due.elapsed());
                    }
                }
            };
            thread::Builder::new().name(name.into()).spawn_scoped(scope, thread).expect("a thread");
        }
        let numbers: Vec<(&str, u32)> = told.iter().take(3).collect();
        let number = |wanted: &str| numbers.iter().find(|(name, _)| *name == wanted).expect("told").1;
        let threads = [number("beside"), number("apart")];
        let phase = || {
            late.iter().for_each(|late| late.lock().expect("whole").clear());
            let first = Bracket::of(&watch, threads);
            thread::sleep(PHASE);
            let last = Bracket::of(&watch, threads);
            let report = last.reading.since(&first.reading).sched.expect("watched");
            assert_eq!(report.uncounted, 0);
            let [beside, apart] = late.each_ref().map(|late| late.lock().expect("whole").clone());
            [(threads[0], beside), (threads[1], apart)].map(|(thread, mut late)| {
                late.sort_unstable();
                let saw = late[late.len() * 98 / 100] >= BURST / 2;
                let found = of(&report, thread).clone();
                let wait = [0.5, 0.99, 1.0].map(|q| found.wait.quantile(q).map(|bucket| bucket.middle()));
                eprintln!("{:?} ran {} times after {wait:?} ns; it saw a hog: {saw}", found.name, found.runs);
                first.agrees(&last, &found);
                (found, saw)
            })
        };
        let quiet = phase();
        hogging.store(true, Ordering::Relaxed);
        let hogged = phase();

        // One that waits is told before it is over.
        let deadline = Instant::now() + Duration::from_secs(10);
        let waits = || {
            let (now, none) = (watch.read().expect("a reading"), Reading::default());
            of(&now.since(&none).sched.expect("watched"), threads[0]).waiting >= Some(BURST.as_nanos() as u64 / 4)
        };
        while !waits() {
            assert!(Instant::now() < deadline, "the hog goes on, and nobody waits");
        }
        let names = quiet.iter().map(|(thread, _)| thread.name.as_deref());
        assert!(names.eq([Some("beside"), Some("apart")]), "{quiet:?}");
        let long =
            |found: &ThreadReport| found.wait.quantile(0.99).expect("it ran").middle() >= BURST.as_nanos() as u64 / 2;
        assert!(long(&hogged[0].0) && hogged[0].1, "{hogged:?}");
        // A machine that keeps a whole processor for itself is a hog as well, for which the thread's own clock speaks.
        for (found, saw) in quiet.iter().chain(&hogged[1..]) {
            assert!(!long(found) || *saw, "{found:?}");
        }
        // Most of its wake-ups are in the hog's rests.
        assert!(hogged[0].0.wait.quantile(0.5) < hogged[0].0.wait.max(), "{hogged:?}");
    });
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn of(report: &SchedReport, thread: u32) -> &ThreadReport {
    report.threads.iter().find(|found| found.thread == thread).unwrap_or_else(|| panic!("no {thread}: {report:?}"))
}

/// A reading between two looks at what the scheduler itself counts.
struct Bracket {
    before: [Option<u64>; 2],
    reading: Reading,
    after: [Option<u64>; 2],
    threads: [u32; 2],
}

impl Bracket {
    fn of(watch: &Watch, threads: [u32; 2]) -> Self {
        let before = threads.map(account);
        let reading = watch.read().expect("a reading");
        Self { before, reading, after: threads.map(account), threads }
    }

    /// What was found between two readings lies between what the scheduler says inside of them and around them.
    fn agrees(&self, last: &Self, found: &ThreadReport) {
        let at = self.threads.iter().position(|thread| *thread == found.thread).expect("one of both");
        let (Some(inner), Some(outer)) = (self.after[at].zip(last.before[at]), self.before[at].zip(last.after[at]))
        else {
            return eprintln!("this kernel has no /proc/PID/schedstat");
        };
        let [least, most] = [inner, outer].map(|(first, last)| last - first);
        // Some kernels switch without a word now and then: 6.18 in a virtual machine two times in a thousand.
        assert!((least - least / 50..=most).contains(&found.runs), "{least} to {most}: {found:?}");
        assert!((found.runs - found.runs / 50..=found.runs).contains(&found.wait.count()), "{found:?}");
    }
}

/// How often a thread got a processor: `/proc/PID/schedstat`, sched-stats.rst of the kernel. The time on the run queue beside it is not comparable: where an idle
/// processor is woken up, the scheduler's clock stands still until it has switched.
fn account(thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split_whitespace().nth(2)?.parse().ok()
}
