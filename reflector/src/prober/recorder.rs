//! Turns settled packets into tallies, session bins and samples while the run goes on, in memory bounded by what is still open.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use pathlab_record::{
    Interval, Labels, LogInterval, Monotonic, Outcome, Realtime, Salt, Sample, SessionBin, SessionKey, SparseHistogram,
    Time,
};

use super::{
    engine::{Now, Watch, settled_after},
    matching::{Counts, Matching, Patience, Settled, Sink},
    offset::TwoClocks,
    one_way::{OneWay, OneWayRow},
    output::Output,
    pairs::{PairRow, Pairs},
    progress::Progress,
    sessions::SessionSpec,
    summary::{GroupRow, KEPT, Quantiles, Row, SessionRow, Tally},
};

/// What has not been told to the output yet.
struct Telling {
    every: Interval,
    since: Option<Time<Monotonic>>,
    progress: Progress,
}

/// How to record.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Width of a session bin; bins begin at whole multiples of it since 1970 (UTC).
    pub bin: Duration,
    /// IANA time zone that windows are to be understood in.
    pub zone: String,
    /// With a salt sessions appear under pseudonyms and without their keys; else under their addresses and ports.
    pub salt: Option<Salt>,
}

/// The most hosts that one-way delays are worked out for: what each needs is bounded, to some 300 kB.
pub const MOST_HOSTS: usize = 256;
/// Sessions whose closed bins are written between two looks at the schedule.
const SESSIONS_A_TURN: usize = 4;
/// A session that ends with so many unanswered packets in a row died; fewer are loss.
const SILENT_PACKETS: u32 = 10;

/// Watches a run.
pub struct Recorder<O> {
    output: O,
    recording: Recording,
    patience: Patience,
    sessions: Vec<Session>,
    groups: Vec<(Labels, Tally)>,
    /// Each group by bin, for the interval logs; joins the group's sum when its bin is closed.
    intervals: BTreeMap<(i64, usize), Tally>,
    /// Clocks of the reflectors' hosts against ours.
    one_way: Vec<(IpAddr, OneWay)>,
    /// Whose turn it is to work some of its delays out.
    one_way_turn: usize,
    pairs: Option<Pairs>,
    /// The newest slot that was used, and how late its first packet left.
    first_of_pair: Option<(Time<Realtime>, Interval)>,
    telling: Option<Telling>,
    /// Bins before the first are written or being written; the second is the session whose turn it is.
    writing: (i64, usize),
}

struct Session {
    name: String,
    key: Option<SessionKey>,
    spec: SessionSpec,
    group: usize,
    /// Its host's place in `one_way`.
    host: Option<usize>,
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
        let mut hosts: HashMap<IpAddr, usize> = HashMap::new();
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
            let name = match (&key, &recording.salt) {
                (Some(key), Some(salt)) => salt.pseudonym(key),
                (Some(key), None) => key.to_string(),
                (None, _) => format!("session-{index}"),
            };
            Session {
                name,
                key: key.filter(|_| recording.salt.is_none()),
                group,
                host: match hosts.len() {
                    MOST_HOSTS => hosts.get(&spec.target.ip()).copied(),
                    next => Some(*hosts.entry(spec.target.ip()).or_insert(next)),
                },
                open: VecDeque::new(),
                rtt: SparseHistogram::new(),
                ipdv_round_trip: SparseHistogram::new(),
                last_settled: 0,
                last_received: None,
                spec,
            }
        };
        let sessions = specs.iter().enumerate().map(session).collect();
        let mut one_way: Vec<_> = hosts.keys().map(|host| (*host, OneWay::default())).collect();
        one_way.sort_unstable_by_key(|(host, _)| hosts[host]);
        Self {
            output,
            recording,
            patience,
            sessions,
            groups,
            intervals: BTreeMap::new(),
            one_way,
            one_way_turn: 0,
            pairs: None,
            first_of_pair: None,
            telling: None,
            writing: (i64::MIN, usize::MAX),
        }
    }

    /// Writes what is still open; to be called when the run is over.
    pub fn close(&mut self) {
        self.writing = (i64::MAX, 0);
        self.write_sessions(usize::MAX, true);
        self.write_intervals();
    }

    /// Compares the sessions two by two, whose slots lie `interval` apart.
    pub fn pair(&mut self, interval: Duration) {
        let specs: Vec<SessionSpec> = self.sessions.iter().map(|session| session.spec.clone()).collect();
        self.pairs = Some(Pairs::new(&specs, interval));
    }

    /// Tells the output what happened, so often.
    pub fn tell_progress(&mut self, every: Duration) {
        let every = Interval::from_nanos(every.as_nanos() as i64);
        self.telling = Some(Telling { every, since: None, progress: Progress::default() });
    }

    /// Differences within pairs; to be called once, when the run is over.
    pub fn pairs(&mut self) -> Vec<PairRow> {
        self.pairs.take().map_or_else(Vec::new, Pairs::finish)
    }

    /// Delays one way; to be called once, when the run is over.
    pub fn one_way(&mut self) -> Vec<OneWayRow> {
        self.one_way.iter_mut().filter_map(|(host, one_way)| one_way.finish(*host)).collect()
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
                source: session.key.as_ref().map(|key| key.0),
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

    /// The bin of a slot. Where the clock was set, a slot may lie in a bin that is closed: it goes into the first that is open.
    fn bin_of(&self, slot: Time<Realtime>) -> i64 {
        slot.as_nanos().div_euclid(self.recording.bin.as_nanos() as i64).max(self.writing.0)
    }

    fn tally(&mut self, session: usize, slot: Time<Realtime>) -> &mut Tally {
        let key = (self.bin_of(slot), self.sessions[session].group);
        self.intervals.entry(key).or_default()
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

    /// Writes the closed bins of the next `most` sessions: a few at a time, because thousands at once would make slots late.
    fn write_sessions(&mut self, most: usize, last: bool) {
        let (before, first) = self.writing;
        let end = first.saturating_add(most).min(self.sessions.len());
        for session in self.sessions.get_mut(first..end).unwrap_or_default() {
            while session.open.front().is_some_and(|(place, _)| *place < before) {
                let Some((place, bin)) = session.open.pop_front() else { break };
                let dead = last && session.open.is_empty() && session.silent() >= SILENT_PACKETS;
                let (start, end) = (edge(place, self.recording.bin), edge(place + 1, self.recording.bin));
                self.output.bin(session.line(bin, start, end, &self.recording.zone, dead));
            }
        }
        self.writing.1 = end;
    }

    fn write_intervals(&mut self) {
        while let Some(entry) = self.intervals.first_entry()
            && entry.key().0 < self.writing.0
        {
            let ((place, group), tally) = entry.remove_entry();
            let text = |(name, value): (&String, &serde_json::Value)| {
                (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            };
            let (labels, sum) = &mut self.groups[group];
            sum.merge(&tally);
            for (log, histogram) in tally.logs() {
                let interval = LogInterval {
                    labels: labels.iter().map(text).collect(),
                    start: edge(place, self.recording.bin),
                    length: SignedDuration::try_from(self.recording.bin).unwrap_or(SignedDuration::MAX),
                    histogram: histogram.clone(),
                };
                self.output.interval(&log, interval);
            }
        }
    }
}

/// Where the bin at `place` begins.
fn edge(place: i64, width: Duration) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(place) * width.as_nanos() as i128).unwrap_or(Timestamp::MAX)
}

impl Session {
    /// How many packets in a row, up to the last, had no reply in time.
    fn silent(&self) -> u32 {
        match self.last_received {
            Some(received) => self.last_settled.wrapping_sub(received),
            None => self.last_settled.saturating_add(1),
        }
    }

    fn line(&self, bin: Bin, start: Timestamp, end: Timestamp, zone: &str, dead: bool) -> SessionBin {
        let some = |histogram: SparseHistogram| (!histogram.is_empty()).then_some(histogram);
        SessionBin {
            session: self.name.clone(),
            key: self.key,
            arm_assigned: self.spec.arm,
            arm_seen: None,
            labels: self.spec.labels.clone(),
            start,
            end,
            zone: zone.to_owned(),
            sent: bin.received + bin.lost,
            received: bin.received,
            lost: bin.lost,
            lost_forward: bin.lost_forward,
            lost_return: bin.lost_return,
            loss_episodes: None,
            duplicates: bin.duplicates,
            late: bin.late,
            dead,
            loss_unmeasured: false,
            rtt: some(bin.rtt),
            residence: None,
            ipdv_forward: some(bin.ipdv_forward),
            ipdv_return: some(bin.ipdv_return),
            ipdv_round_trip: some(bin.ipdv_round_trip),
            clock_sync_age_s: None,
            source: "probe".to_owned(),
        }
    }
}

impl<O: Output> Sink for Recorder<O> {
    fn settled(&mut self, session: usize, settled: Settled) {
        self.tally(session, settled.slot).settled(&settled);
        if let Some(pairs) = &mut self.pairs {
            pairs.settled(session, &settled);
        }
        if let Some(telling) = &mut self.telling {
            telling.progress.settled(&settled);
        }
        let clocks = TwoClocks::of(&settled.stamps, settled.synchronised, settled.epochs);
        if let (Outcome::Received, Some(host)) = (settled.outcome, self.sessions[session].host)
            && let Some(clocks) = clocks
        {
            self.one_way[host].1.push(clocks);
        }

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
        let later = |than: u32| settled.seq.wrapping_sub(than) < 1 << 31;
        if later(entry.last_settled) {
            entry.last_settled = settled.seq;
        }
        if settled.outcome == Outcome::Received {
            if entry.last_received.is_none_or(later) {
                entry.last_received = Some(settled.seq);
            }
            entry.rtt.extend(nanos(settled.rtt));
            entry.ipdv_round_trip.extend(settled.ipdv.into_iter().flatten().map(|pair| pair.round_trip));
        }
        self.output.sample(Sample {
            seq: settled.seq,
            session: entry.name.clone(),
            arm: entry.spec.arm,
            labels: entry.spec.labels.clone(),
            outcome: settled.outcome,
            stamps: settled.stamps,
            ledger: settled.ledger,
            one_way: clocks.and_then(|clocks| clocks.alone()),
        });
    }
}

impl<O: Output> Watch for Recorder<O> {
    fn sent(&mut self, session: usize, slot: Time<Realtime>, late: Interval) {
        // Of a pair the second goes behind the first by design, and keeps the slot as well as that did.
        let late = match self.first_of_pair.replace((slot, late)) {
            Some((same, first)) if self.pairs.is_some() && same == slot => first,
            _ => late,
        };
        self.tally(session, slot).sent(late);
        if let Some(Telling { progress, .. }) = &mut self.telling {
            progress.sent += 1;
            progress.within_50us += u64::from(late.as_nanos() <= KEPT);
            progress.lateness.record(late.as_nanos().max(0) as u64);
        }
    }

    fn skipped(&mut self, session: usize, _slot: Time<Realtime>) {
        self.groups[self.sessions[session].group].1.skipped();
        if let Some(telling) = &mut self.telling {
            telling.progress.skipped += 1;
        }
    }

    fn refused(&mut self, session: usize, _slot: Time<Realtime>, error: &io::Error) {
        if let Some(telling) = &mut self.telling {
            telling.progress.refused += 1;
        }
        // Once a session's group: the counter has the rest.
        let tally = &mut self.groups[self.sessions[session].group].1;
        if tally.refused() == 1 {
            let target = self.sessions[session].spec.target;
            tracing::warn!("this host refused to send to {target}, and further ones are counted: {error}");
        }
    }

    fn turn(&mut self, now: Now) {
        self.one_way_turn = (self.one_way_turn + 1) % self.one_way.len().max(1);
        if let Some((_, one_way)) = self.one_way.get_mut(self.one_way_turn) {
            one_way.turn();
        }
        if let Some(telling) = &mut self.telling {
            let span = now.monotonic - *telling.since.get_or_insert(now.monotonic);
            if span >= telling.every {
                telling.since = Some(now.monotonic);
                let progress = telling.progress.take(Duration::from_nanos(span.as_nanos() as u64));
                self.output.progress(progress);
            }
        }
        let wait = Interval::from_nanos(-(settled_after(self.patience).as_nanos() as i64));
        let closed = self.bin_of(now.realtime + wait);
        if self.writing.1 < self.sessions.len() {
            self.write_sessions(SESSIONS_A_TURN, false);
        } else if closed > self.writing.0 {
            self.writing = (closed, 0);
            self.write_intervals();
        }
    }
}
