//! Turns settled packets into tallies, session bins and samples while the run goes on, in memory bounded by what is still open.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use pathlab_record::{Interval, Labels, Outcome, Realtime, Sample, SessionBin, SessionKey, SparseHistogram, Time};

use super::{
    engine::{Now, Watch, settled_after},
    matching::{Counts, Matching, Patience, Settled, Sink},
    sessions::SessionSpec,
    summary::{GroupRow, Quantiles, Row, SessionRow, Tally},
};

/// Where lines go. The in-memory twin is [`Kept`]; `()` throws them away.
pub trait Output {
    /// Takes one line of `sessions.jsonl`.
    fn bin(&mut self, bin: SessionBin);
    /// Takes one line of `samples.jsonl`.
    fn sample(&mut self, sample: Sample);
}

impl<O: Output> Output for &mut O {
    fn bin(&mut self, bin: SessionBin) {
        (**self).bin(bin);
    }
    fn sample(&mut self, sample: Sample) {
        (**self).sample(sample);
    }
}

impl Output for () {
    fn bin(&mut self, _bin: SessionBin) {}
    fn sample(&mut self, _sample: Sample) {}
}

/// Lines in memory.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Lines of `sessions.jsonl`.
    pub bins: Vec<SessionBin>,
    /// Lines of `samples.jsonl`.
    pub samples: Vec<Sample>,
}

impl Output for Kept {
    fn bin(&mut self, bin: SessionBin) {
        self.bins.push(bin);
    }
    fn sample(&mut self, sample: Sample) {
        self.samples.push(sample);
    }
}

/// How to record.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Width of a session bin; bins begin at whole multiples of it since 1970 (UTC).
    pub bin: Duration,
    /// IANA time zone that windows are to be understood in.
    pub zone: String,
    /// Of how many sessions, spread evenly, to keep the samples. Whole sessions, or none of their samples.
    pub keep_samples: usize,
}

/// A session that ends with so many unanswered packets in a row died; fewer are loss.
const SILENT_PACKETS: u32 = 10;

/// Watches a run.
pub struct Recorder<O> {
    output: O,
    recording: Recording,
    patience: Patience,
    sessions: Vec<Session>,
    groups: Vec<(Labels, Tally)>,
    /// Bins that begin before this one are written.
    written_to: i64,
}

struct Session {
    name: String,
    key: Option<SessionKey>,
    spec: SessionSpec,
    group: usize,
    kept: bool,
    open: VecDeque<(i64, Bin)>,
    rtt: SparseHistogram,
    ipdv_round_trip: SparseHistogram,
    last_settled: u32,
    last_received: Option<u32>,
}

#[derive(Default)]
struct Bin {
    received: u64,
    lost: u64,
    lost_forward: u64,
    lost_return: u64,
    late: u64,
    duplicates: u64,
    rtt: SparseHistogram,
    ipdv_forward: SparseHistogram,
    ipdv_return: SparseHistogram,
    ipdv_round_trip: SparseHistogram,
}

impl<O: Output> Recorder<O> {
    /// Records `specs`; `keys` are their sources as used, where known.
    pub fn new(
        specs: &[SessionSpec],
        keys: &[Option<SocketAddr>],
        patience: Patience,
        recording: Recording,
        output: O,
    ) -> Self {
        let mut groups: Vec<(Labels, Tally)> = Vec::new();
        let kept = recording.keep_samples.min(specs.len());
        let session = |(index, spec): (usize, &SessionSpec)| {
            let spec = SessionSpec { labels: spec.labels_with_family(), ..spec.clone() };
            let shared: Labels = ["isp", "family"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), spec.labels.get(name)?.clone())))
                .collect();
            let group = groups.iter().position(|(labels, _)| *labels == shared).unwrap_or_else(|| {
                groups.push((shared, Tally::default()));
                groups.len() - 1
            });
            let key = keys.get(index).copied().flatten().map(SessionKey);
            Session {
                name: key.map_or_else(|| format!("session-{index}"), |key| key.to_string()),
                key,
                group,
                // Every (len / kept)-th, to the nearest.
                kept: index * kept / specs.len() != (index + 1) * kept / specs.len(),
                open: VecDeque::new(),
                rtt: SparseHistogram::new(),
                ipdv_round_trip: SparseHistogram::new(),
                last_settled: 0,
                last_received: None,
                spec,
            }
        };
        let sessions = specs.iter().enumerate().map(session).collect();
        Self { output, recording, patience, sessions, groups, written_to: i64::MIN }
    }

    /// Writes what is still open; to be called when the run is over.
    pub fn close(&mut self) {
        self.write_before(i64::MAX, true);
    }

    /// The rows of the report.
    pub fn rows(&self, matching: &Matching) -> (Row, Vec<GroupRow>, Vec<SessionRow>) {
        let mut sums = vec![(0, Counts::default()); self.groups.len()];
        let mut rows = Vec::with_capacity(self.sessions.len());
        for (index, session) in self.sessions.iter().enumerate() {
            let counts = *matching.counts(index);
            sums[session.group].0 += 1;
            sums[session.group].1.add(&counts);
            rows.push(SessionRow {
                session: session.name.clone(),
                target: session.spec.target,
                labels: session.spec.labels.clone(),
                counts,
                rtt: Quantiles::of(&session.rtt),
                ipdv_round_trip: Quantiles::of(&session.ipdv_round_trip),
            });
        }
        let (mut whole, mut counts) = (Tally::default(), Counts::default());
        let mut groups = Vec::with_capacity(self.groups.len());
        for ((labels, tally), (sessions, sum)) in self.groups.iter().zip(sums) {
            whole.merge(tally);
            counts.add(&sum);
            groups.push(GroupRow { labels: labels.clone(), row: tally.row(sessions, sum) });
        }
        (whole.row(self.sessions.len(), counts), groups, rows)
    }

    fn bin_of(&self, slot: Time<Realtime>) -> i64 {
        slot.as_nanos().div_euclid(self.recording.bin.as_nanos() as i64)
    }

    fn open_bin(&mut self, session: usize, slot: Time<Realtime>) -> &mut Bin {
        let index = self.bin_of(slot);
        let open = &mut self.sessions[session].open;
        let place = match open.iter().position(|(open, _)| *open >= index) {
            Some(place) if open[place].0 == index => place,
            place => {
                let place = place.unwrap_or(open.len());
                open.insert(place, (index, Bin::default()));
                place
            }
        };
        &mut open[place].1
    }

    /// Writes the bins with an index below `index`.
    fn write_before(&mut self, index: i64, last: bool) {
        let width = self.recording.bin.as_nanos() as i64;
        for session in &mut self.sessions {
            while session.open.front().is_some_and(|(open, _)| *open < index) {
                let Some((place, bin)) = session.open.pop_front() else { break };
                let edge = |place: i64| {
                    Timestamp::from_nanosecond(i128::from(place) * i128::from(width)).unwrap_or(Timestamp::MAX)
                };
                let some = |histogram: SparseHistogram| (!histogram.is_empty()).then_some(histogram);
                let silent = match session.last_received {
                    Some(received) => session.last_settled.wrapping_sub(received),
                    None => session.last_settled.saturating_add(1),
                };
                self.output.bin(SessionBin {
                    session: session.name.clone(),
                    key: session.key,
                    arm_assigned: session.spec.arm,
                    arm_seen: None,
                    labels: session.spec.labels.clone(),
                    start: edge(place),
                    end: edge(place + 1),
                    zone: self.recording.zone.clone(),
                    sent: bin.received + bin.lost,
                    received: bin.received,
                    lost: bin.lost,
                    lost_forward: bin.lost_forward,
                    lost_return: bin.lost_return,
                    duplicates: bin.duplicates,
                    late: bin.late,
                    dead: last && session.open.is_empty() && silent >= SILENT_PACKETS,
                    rtt: some(bin.rtt),
                    ipdv_forward: some(bin.ipdv_forward),
                    ipdv_return: some(bin.ipdv_return),
                    ipdv_round_trip: some(bin.ipdv_round_trip),
                    clock_sync_age_s: None,
                    source: "probe".to_owned(),
                });
            }
        }
    }
}

impl<O: Output> Sink for Recorder<O> {
    fn settled(&mut self, session: usize, settled: Settled) {
        let group = self.sessions[session].group;
        self.groups[group].1.settled(&settled);

        let nanos = |span: Option<Interval>| span.map(|span| span.as_nanos().max(0) as u64);
        let bin = self.open_bin(session, settled.slot);
        match settled.outcome {
            Outcome::Received => {
                bin.received += 1;
                bin.rtt.extend(nanos(settled.rtt));
            }
            Outcome::Duplicate => bin.duplicates += 1,
            Outcome::Late => {
                bin.lost += 1;
                bin.late += 1;
            }
            Outcome::LostForward => {
                bin.lost += 1;
                bin.lost_forward += 1;
            }
            Outcome::LostReturn => {
                bin.lost += 1;
                bin.lost_return += 1;
            }
            Outcome::Lost => bin.lost += 1,
        }
        for pair in settled.ipdv.into_iter().flatten() {
            // A pair belongs to the later packet's bin, so that no bin has more pairs than packets.
            let bin = self.open_bin(session, pair.slot);
            bin.ipdv_round_trip.record(pair.round_trip);
            bin.ipdv_forward.extend(pair.forward);
            bin.ipdv_return.extend(pair.back);
        }

        let entry = &mut self.sessions[session];
        entry.last_settled = entry.last_settled.max(settled.seq);
        if settled.outcome == Outcome::Received {
            entry.last_received = entry.last_received.max(Some(settled.seq));
            entry.rtt.extend(nanos(settled.rtt));
            entry.ipdv_round_trip.extend(settled.ipdv.into_iter().flatten().map(|pair| pair.round_trip));
        }
        if entry.kept {
            self.output.sample(Sample {
                seq: settled.seq,
                session: entry.name.clone(),
                arm: entry.spec.arm,
                labels: entry.spec.labels.clone(),
                outcome: settled.outcome,
                stamps: settled.stamps,
                ledger: settled.ledger,
            });
        }
    }
}

impl<O: Output> Watch for Recorder<O> {
    fn sent(&mut self, session: usize, _slot: Time<Realtime>, late: Interval) {
        self.groups[self.sessions[session].group].1.sent(late);
    }

    fn skipped(&mut self, session: usize, _slot: Time<Realtime>) {
        self.groups[self.sessions[session].group].1.skipped();
    }

    fn refused(&mut self, session: usize, _slot: Time<Realtime>, error: &io::Error) {
        // Once a session's group: the counter has the rest.
        let tally = &mut self.groups[self.sessions[session].group].1;
        if tally.refused() == 1 {
            let spec = &self.sessions[session].spec;
            tracing::warn!(target = %spec.target, source = ?spec.source, %error, "this host refused to send, further ones are counted");
        }
    }

    fn turn(&mut self, now: Now) {
        let wait = Interval::from_nanos(-(settled_after(self.patience).as_nanos() as i64));
        let closed = self.bin_of(now.realtime + wait);
        if closed > self.written_to {
            self.written_to = closed;
            self.write_before(closed, false);
        }
    }
}
