//! Whether the kernel's shapers kept their rates: what a timer is late beyond the depth of a bucket is lost for good, and every delay behind it longer than
//! its scenario says. Beyond what is tolerated a run is invalid rather than wrong, as under the wire engine.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    netlink::Netlink,
    netns::Namespace,
    qdisc::QdiscStatistics,
    scenario::LinkEnd,
};

/// How often the counters are read. A queue that can run empty in that time is not judged, as it might have done so unseen.
const EVERY: Duration = Duration::from_millis(10);
/// Time under load without which a rate is not judged.
const LEAST: Duration = Duration::from_millis(200);
/// Share of its rate by which a shaper may be off. A tail-drop queue is then that share longer or shorter; CoDel, which answers to what comes beyond the
/// rate, moves by more where that is little.
const TOLERATED: f64 = 0.02;

/// What a shaper did while there was always something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShaperGrade {
    /// Node that sends.
    pub node: String,
    /// Its interface.
    pub dev: String,
    /// Bits per second that it was to send, Ethernet headers included.
    pub rate: u64,
    /// For how long it was seen with a queue that cannot have run empty.
    pub busy: Duration,
    /// Bytes that it sent meanwhile.
    pub bytes: u64,
}

impl ShaperGrade {
    /// Bits per second that it sent while it had a queue; `None` where that was not for long enough to say.
    pub fn kept(&self) -> Option<f64> {
        (self.busy >= LEAST).then(|| self.bytes as f64 * 8.0 / self.busy.as_secs_f64())
    }

    /// Why the run does not stand for this shaper's sake; `None` where it does.
    pub fn objection(&self) -> Option<String> {
        let kept = self.kept()?;
        let off = kept / self.rate as f64 - 1.0;
        (off.abs() > TOLERATED).then(|| {
            let Self { node, dev, rate, .. } = self;
            let (kept, rate, off) = (kept / 1e6, *rate as f64 / 1e6, off * 100.0);
            let allowed = TOLERATED * 100.0;
            format!("{node}:{dev}: the kernel sent {kept:.2} Mbit/s of {rate:.2} while there was a queue ({off:+.1} %, tolerated are {allowed} %): its timers come late")
        })
    }
}

/// The counters of a shaper at a moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Duration,
    counters: QdiscStatistics,
}

/// One shaper, and what has been seen of it.
#[derive(Debug)]
struct Pace {
    grade: ShaperGrade,
    /// Bytes: depth of the bucket, and the longest frame.
    burst: u32,
    frame: u32,
    last: Option<Reading>,
}

impl Pace {
    fn of(end: &LinkEnd, mtu: u32) -> Option<Self> {
        let egress = end.egress?;
        let grade = ShaperGrade {
            node: end.node.clone(),
            dev: end.dev.clone(),
            rate: egress.rate,
            busy: Duration::ZERO,
            bytes: 0,
        };
        Some(Self { grade, burst: egress.burst(mtu), frame: mtu + 14, last: None })
    }

    /// Takes the time since the last reading into account if the queue cannot have been empty in it.
    fn see(&mut self, now: Reading) {
        let Some(last) = self.last.replace(now) else { return };
        let span = now.at.saturating_sub(last.at);
        if self.was_busy(last.counters, now.counters, span) {
            self.grade.busy += span;
            self.grade.bytes += now.counters.bytes.saturating_sub(last.counters.bytes);
        }
    }

    fn was_busy(&self, before: QdiscStatistics, after: QdiscStatistics, span: Duration) -> bool {
        // Not seen for long, as happens where timers are late: to leave that out would hide what is looked for.
        if span > 5 * EVERY {
            return before.backlog > 0 && after.backlog > 0;
        }
        let sent = u128::from(self.grade.rate) * span.as_nanos() / 8_000_000_000 + u128::from(self.burst);
        // A queue that manages itself drops from those that wait.
        let dropped = u128::from(after.drops.wrapping_sub(before.drops)) * u128::from(self.frame);
        u128::from(before.backlog) > sent + dropped
    }
}

/// Reads the shapers of a running lab; dropping it ends it.
#[derive(Debug)]
pub struct Shapers {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Result<Vec<ShaperGrade>>>>,
}

impl Shapers {
    /// Starts to read those of `ends`, each with its namespace and the MTU of its link.
    pub(crate) fn watch<'a>(ends: impl Iterator<Item = (&'a Namespace, &'a LinkEnd, u32)>) -> Result<Self> {
        let mut watched = Vec::new();
        for (namespace, end, mtu) in ends {
            if let Some(pace) = Pace::of(end, mtu) {
                watched.push((Netlink::open(namespace)?, pace));
            }
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("shapers".into())
            .spawn(move || read(watched, &stopped))
            .map_err(|source| Error::Shapers { source })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends it and says how each shaper did.
    ///
    /// # Errors
    /// An interface that somebody took away.
    pub fn stop(mut self) -> Result<Vec<ShaperGrade>> {
        self.join()
    }

    fn join(&mut self) -> Result<Vec<ShaperGrade>> {
        self.stop.take();
        match self.thread.take() {
            Some(thread) => thread.join().expect("the thread that reads the shapers does not panic"),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Shapers {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn read(mut watched: Vec<(Netlink, Pace)>, stopped: &mpsc::Receiver<()>) -> Result<Vec<ShaperGrade>> {
    let start = Instant::now();
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        for (netlink, pace) in &mut watched {
            let counters = netlink.statistics_of("tbf", &pace.grade.dev)?;
            pace.see(Reading { at: start.elapsed(), counters });
        }
    }
    Ok(watched.into_iter().map(|(_, pace)| pace.grade).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 Mbit/s, 1,250 bytes in a millisecond.
    fn pace() -> Pace {
        let grade = ShaperGrade { node: "a".into(), dev: "b".into(), rate: 10_000_000, busy: Duration::ZERO, bytes: 0 };
        Pace { grade, burst: 3036, frame: 1514, last: None }
    }

    /// Every so many milliseconds the bytes sent by then, and those that wait.
    fn seen(every: u64, readings: impl IntoIterator<Item = (u64, u32)>) -> ShaperGrade {
        let mut pace = pace();
        for (tick, (bytes, backlog)) in (0..).zip(readings) {
            let counters = QdiscStatistics { bytes, backlog, ..QdiscStatistics::default() };
            pace.see(Reading { at: Duration::from_millis(tick * every), counters });
        }
        pace.grade
    }

    #[test]
    fn a_rate_that_is_kept_under_load_stands() {
        let grade = seen(10, (0..50).map(|tick| (tick * 12_500, 60_000)));
        assert_eq!((grade.busy, grade.bytes), (Duration::from_millis(490), 49 * 12_500));
        assert_eq!(grade.kept(), Some(10e6));
        assert_eq!(grade.objection(), None);
    }

    #[test]
    fn late_timers_under_load_are_an_objection() {
        let grade = seen(10, (0..50).map(|tick| (tick * 10_000, 60_000)));
        let objection = grade.objection().expect("a fifth too slow");
        assert_eq!(
            objection,
            "a:b: the kernel sent 8.00 Mbit/s of 10.00 while there was a queue (-20.0 %, tolerated are 2 %): its timers come late"
        );
    }

    #[test]
    fn a_link_that_is_not_full_is_not_judged() {
        // Half of the rate, as no more came; a queue of two packets now and then.
        let grade = seen(10, (0..50).map(|tick| (tick * 6_250, 2484 * (tick % 2) as u32)));
        assert_eq!((grade.busy, grade.objection()), (Duration::ZERO, None));
    }

    #[test]
    fn a_reader_that_is_late_itself_hides_nothing() {
        let grade = seen(100, (0..5).map(|tick| (tick * 60_000, 60_000)));
        assert!(grade.objection().expect("half of the rate").contains("4.80 Mbit/s of 10.00"), "{grade:?}");
    }

    #[test]
    fn what_a_queue_drops_of_its_own_may_have_emptied_it() {
        let mut pace = pace();
        for tick in 0..50 {
            let counters = QdiscStatistics {
                bytes: u64::from(tick) * 6_250,
                drops: tick * 40,
                backlog: 60_000,
                ..QdiscStatistics::default()
            };
            pace.see(Reading { at: EVERY * tick, counters });
        }
        assert_eq!(pace.grade.busy, Duration::ZERO);
    }
}
