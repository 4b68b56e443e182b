//! Where a run's lines go: the run directory, or memory.

use pathlab_record::{Error, LogInterval, RunDirectory, Sample, SessionBin};

use super::{progress::Progress, summary::ProbeReport};

/// Takes the lines of a run as they settle. The in-memory twin is [`Kept`]; `()` throws them away.
pub trait Output {
    /// Takes one line of `sessions.jsonl`.
    fn bin(&mut self, bin: SessionBin);
    /// Takes one line of `samples.jsonl`.
    fn sample(&mut self, sample: Sample);
    /// Takes one interval of `<log>.hlog`.
    fn interval(&mut self, log: &str, interval: LogInterval);
    /// Takes what happened since the last time, where [`ProbeOptions::progress`](super::ProbeOptions::progress) asks for it.
    fn progress(&mut self, _progress: Progress) {}
}

impl Output for () {
    fn bin(&mut self, _bin: SessionBin) {}
    fn sample(&mut self, _sample: Sample) {}
    fn interval(&mut self, _log: &str, _interval: LogInterval) {}
}

impl<O: Output> Output for &mut O {
    fn bin(&mut self, bin: SessionBin) {
        (**self).bin(bin);
    }
    fn sample(&mut self, sample: Sample) {
        (**self).sample(sample);
    }
    fn interval(&mut self, log: &str, interval: LogInterval) {
        (**self).interval(log, interval);
    }
    fn progress(&mut self, progress: Progress) {
        (**self).progress(progress);
    }
}

/// Lines in memory.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Lines of `sessions.jsonl`.
    pub bins: Vec<SessionBin>,
    /// Lines of `samples.jsonl`.
    pub samples: Vec<Sample>,
    /// Intervals, each with the name of its log.
    pub intervals: Vec<(String, LogInterval)>,
}

impl Output for Kept {
    fn bin(&mut self, bin: SessionBin) {
        self.bins.push(bin);
    }
    fn sample(&mut self, sample: Sample) {
        self.samples.push(sample);
    }
    fn interval(&mut self, log: &str, interval: LogInterval) {
        self.intervals.push((log.to_owned(), interval));
    }
}

/// A run directory. A full disk does not stop the measurement: the first error is kept and told by [`finish`](Self::finish).
#[derive(Debug)]
pub struct RunOutput {
    directory: RunDirectory,
    failed: Option<Error>,
}

impl RunOutput {
    /// Writes into `directory`, whose `run.json` says which sessions' samples to keep.
    pub fn new(directory: RunDirectory) -> Self {
        Self { directory, failed: None }
    }

    /// Adds the report as `probe.json`; gives the directory back, to be sealed.
    ///
    /// # Errors
    /// The first line that could not be written.
    pub fn finish(mut self, report: &ProbeReport) -> Result<RunDirectory, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut text = serde_json::to_vec_pretty(report).expect("a report has text keys only");
        text.push(b'\n');
        self.directory.artefact("probe.json", &text)?;
        Ok(self.directory)
    }

    fn write(&mut self, write: impl FnOnce(&mut RunDirectory) -> Result<(), Error>) {
        if self.failed.is_none() {
            self.failed = write(&mut self.directory).err();
        }
    }
}

impl Output for RunOutput {
    fn bin(&mut self, bin: SessionBin) {
        self.write(|directory| directory.session(&bin));
    }
    fn sample(&mut self, sample: Sample) {
        self.write(|directory| directory.sample(&sample).map(drop));
    }
    fn interval(&mut self, log: &str, interval: LogInterval) {
        self.write(|directory| directory.interval(log, &interval));
    }
}
