//! Writes a run's lines on a thread of its own, so that neither text nor disk can make a slot late.

use std::{
    mem,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use pathlab_record::{LogInterval, Sample, SessionBin};

use super::{error::ProbeError, output::Output, progress::Progress};

#[allow(clippy::large_enum_variant)] // nearly all lines are the large one
enum Line {
    Bin(SessionBin),
    Sample(Sample),
    Interval(String, LogInterval),
    Progress(Progress),
}

/// Lines that are handed over together, so that the other thread is woken seldom.
const TOGETHER: usize = 128;
/// Hand-overs that may wait. A disk that falls further behind holds the probe back, which its lateness shows: no line is lost.
const WAITING: usize = 512;

/// An [`Output`] whose lines another thread writes, in their order.
pub struct Background<O> {
    lines: Vec<Line>,
    writer: SyncSender<Vec<Line>>,
    thread: JoinHandle<O>,
}

impl<O: Output + Send + 'static> Background<O> {
    /// Starts the thread, which writes to `output`.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(mut output: O) -> Result<Self, ProbeError> {
        let (writer, lines) = sync_channel::<Vec<Line>>(WAITING);
        let write = move || {
            for line in lines.into_iter().flatten() {
                match line {
                    Line::Bin(bin) => output.bin(bin),
                    Line::Sample(sample) => output.sample(sample),
                    Line::Interval(log, interval) => output.interval(&log, interval),
                    Line::Progress(progress) => output.progress(progress),
                }
            }
            output
        };
        let thread = thread::Builder::new().name("writer".into()).spawn(write);
        let thread = thread.map_err(|source| ProbeError::System { call: "clone", source })?;
        Ok(Self { lines: Vec::with_capacity(TOGETHER), writer, thread })
    }

    /// Waits until everything is written; gives the output back.
    ///
    /// # Panics
    /// If `output` did.
    pub fn finish(mut self) -> O {
        self.hand_over();
        drop(self.writer);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn push(&mut self, line: Line) {
        self.lines.push(line);
        if self.lines.len() == TOGETHER {
            self.hand_over();
        }
    }
}

impl<O> Background<O> {
    fn hand_over(&mut self) {
        let lines = mem::replace(&mut self.lines, Vec::with_capacity(TOGETHER));
        // It fails only where the thread panicked, which `finish` tells.
        let _ = self.writer.send(lines);
    }
}

impl<O: Output + Send + 'static> Output for Background<O> {
    fn bin(&mut self, bin: SessionBin) {
        self.push(Line::Bin(bin));
    }
    fn sample(&mut self, sample: Sample) {
        self.push(Line::Sample(sample));
    }
    fn interval(&mut self, log: &str, interval: LogInterval) {
        self.push(Line::Interval(log.to_owned(), interval));
    }
    fn progress(&mut self, progress: Progress) {
        // Somebody looks at it now.
        self.lines.push(Line::Progress(progress));
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use pathlab_record::SparseHistogram;

    use super::*;
    use crate::prober::Kept;

    #[test]
    fn every_line_arrives_in_its_order() {
        let mut background = Background::start(Kept::default()).unwrap();
        for second in 0..1000 {
            background.interval(
                "rtt",
                LogInterval {
                    labels: [].into(),
                    start: Timestamp::from_second(second).unwrap(),
                    length: SignedDuration::from_secs(1),
                    histogram: SparseHistogram::new(),
                },
            );
        }
        let kept = background.finish();
        let seconds: Vec<i64> = kept.intervals.iter().map(|(_, interval)| interval.start.as_second()).collect();
        assert_eq!(seconds, (0..1000).collect::<Vec<_>>());
    }
}
