//! What a run amounts to: counts and quantiles, as they stand in `run.json` and on the screen.

use std::{collections::BTreeMap, net::SocketAddr};

use pathlab_record::{Interval, Labels, Outcome, SparseHistogram, Stage, Term};
use serde::{Deserialize, Serialize};

use super::{
    engine::Strays,
    matching::{Counts, Settled},
    one_way::OneWayRow,
    pace::PacingReport,
    pairs::PairRow,
    services::Services,
};
use crate::{HwCoverage, clock::Steps};

/// Quantiles of one quantity in nanoseconds, each within 0.1 % (HdrHistogram, 3 digits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Values counted.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 95th percentile.
    pub p95: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

impl Quantiles {
    /// Of all values in the histogram; `None` when there is none.
    pub fn of(histogram: &SparseHistogram) -> Option<Self> {
        Some(Self {
            count: histogram.count(),
            min: histogram.min()?,
            p50: histogram.quantile(0.5)?,
            p90: histogram.quantile(0.9)?,
            p95: histogram.quantile(0.95)?,
            p99: histogram.quantile(0.99)?,
            p999: histogram.quantile(0.999)?,
            max: histogram.max()?,
        })
    }
}

/// How well the schedule was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Punctuality {
    /// Slots of the schedule; `slots = sent + skipped + refused`.
    pub slots: u64,
    /// Sent, however late.
    pub sent: u64,
    /// Given up because they were too late.
    pub skipped: u64,
    /// The host refused to send them.
    pub refused: u64,
    /// Sent within 50 µs after their slot.
    pub within_50us: u64,
    /// `A1app - A0` of what was sent.
    pub lateness: Option<Quantiles>,
}

/// The split of the round trips. Quantiles of each component and of the total: they do not add up, and are never subtracted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// `A4app - A0`: what a user who waits from the slot on would see.
    pub total: Option<Quantiles>,
    /// `probe_tx + probe_rx`.
    pub probe_host: Option<Quantiles>,
    /// Both directions of the path.
    pub wire: Option<Quantiles>,
    /// `residence`.
    pub reflector_host: Option<Quantiles>,
    /// Every part by its name in the ledger, such as `probe_tx`, or `probe_tx+wire` where a stamp was absent.
    pub parts: BTreeMap<String, Quantiles>,
    /// The stages of the reflector's host within `residence`, where it told them: `rx_kernel`, `app`, `tx_kernel`, or with their names
    /// joined where a stamp was absent.
    #[serde(default)]
    pub inner: BTreeMap<String, Quantiles>,
    /// Parts below zero, counted as zero above: a clock of the reflector's host that was set during the packet's flight, or stamps that lie
    /// closer together than their uncertainty.
    pub negative: u64,
}

/// One row of the report: all of it, one group of labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How many sessions.
    pub sessions: usize,
    /// What became of the packets.
    pub counts: Counts,
    /// Share of the sent that had no reply in time (RFC 7680: the late ones are lost), 0 to 1.
    pub loss: f64,
    /// The schedule.
    pub schedule: Punctuality,
    /// `A4 - A1` of the outermost stamps, the residence included.
    pub rtt: Option<Quantiles>,
    /// `A4app - A1app`: the same as user space sees it.
    pub rtt_app: Option<Quantiles>,
    /// IPDV from probe to reflector.
    pub ipdv_forward: Option<Quantiles>,
    /// IPDV from reflector to probe.
    pub ipdv_return: Option<Quantiles>,
    /// IPDV of the round trip.
    pub ipdv_round_trip: Option<Quantiles>,
    /// Share of the answered packets with an `A1kernel`, 0 to 1.
    pub kernel_sent_coverage: f64,
    /// Share of the answered packets with an `A4kernel`, 0 to 1.
    pub kernel_received_coverage: f64,
    /// Probe host, wire, reflector host.
    pub split: Split,
}

/// Sessions with the same values of the grouping labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// The labels that they share: `isp` where there is one, and `family`.
    pub labels: Labels,
    /// Their sum.
    #[serde(flatten)]
    pub row: Row,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its pseudonym, or its key as text.
    pub session: String,
    /// Its source, what the kernel chose included, unless names are pseudonyms.
    pub source: Option<SocketAddr>,
    /// The Session-Reflector.
    pub target: SocketAddr,
    /// Its labels.
    pub labels: Labels,
    /// What became of its packets.
    pub counts: Counts,
    /// `A4 - A1` of the outermost stamps.
    pub rtt: Option<Quantiles>,
    /// IPDV of the round trip.
    pub ipdv_round_trip: Option<Quantiles>,
}

/// A target from which nothing came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentTarget {
    /// The target.
    pub target: SocketAddr,
    /// Sessions to it.
    pub sessions: usize,
    /// What host or network say when asked, and what to check.
    pub why: String,
}

/// Everything that a run says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// `pathlab.probe/1`.
    pub schema: String,
    /// Between two packets of a session, in nanoseconds.
    pub interval_ns: u64,
    /// First instant of the run (UTC).
    pub started: jiff::Timestamp,
    /// Last instant of the run (UTC).
    pub ended: jiff::Timestamp,
    /// Processor time of the probe's one thread, in nanoseconds.
    pub cpu_time_ns: u64,
    /// How the slots were kept, as far as this host was concerned.
    pub pacing: PacingReport,
    /// Which stamps bound `rtt`, in words.
    pub rtt_between: String,
    /// All sessions together.
    pub total: Row,
    /// By ISP and address family.
    pub groups: Vec<GroupRow>,
    /// Each session.
    pub sessions: Vec<SessionRow>,
    /// Delays one way to each of the first [`MOST_HOSTS`](super::MOST_HOSTS) reflectors, as intervals.
    pub one_way: Vec<OneWayRow>,
    /// What differs between sessions that shared their slots.
    pub pairs: Vec<PairRow>,
    /// Datagrams that belonged to nobody.
    pub strays: Strays,
    /// How often this host's clocks were seen to step.
    #[serde(default)]
    pub steps: Steps,
    /// What the reflectors said of the class of service of packets, and what both ends counted, where they were asked (`--tlv cos,direct`).
    #[serde(default)]
    pub services: Services,
    /// Datagrams that this host's kernel dropped at the probe's sockets.
    pub kernel_drops: u64,
    /// Where the card was asked for stamps, by point (`A1`, `A4`): how many packets got theirs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hw_coverage: BTreeMap<String, HwCoverage>,
    /// Targets from which nothing came back.
    pub silent: Vec<SilentTarget>,
    /// Whether the run was ended by request before its time.
    pub interrupted: bool,
}

/// The name of that schema.
pub const SCHEMA: &str = "pathlab.probe/1";

/// Histograms of one group while a run goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    sent: u64,
    skipped: u64,
    refused: u64,
    within_50us: u64,
    lateness: SparseHistogram,
    rtt: SparseHistogram,
    rtt_app: SparseHistogram,
    ipdv_forward: SparseHistogram,
    ipdv_return: SparseHistogram,
    ipdv_round_trip: SparseHistogram,
    total: SparseHistogram,
    probe_host: SparseHistogram,
    wire: SparseHistogram,
    reflector_host: SparseHistogram,
    parts: BTreeMap<Vec<Term>, SparseHistogram>,
    inner: BTreeMap<Vec<Stage>, SparseHistogram>,
    negative: u64,
}

/// The and the schedule's measure of a slot that was kept.
pub(super) const KEPT: i64 = 50_000;

impl Tally {
    pub(super) fn sent(&mut self, late: Interval) {
        self.sent += 1;
        self.within_50us += u64::from(late.as_nanos() <= KEPT);
        self.lateness.record(late.as_nanos().max(0) as u64);
    }

    pub(super) fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// How many have been refused so far.
    pub(super) fn refused(&mut self) -> u64 {
        self.refused += 1;
        self.refused
    }

    pub(super) fn settled(&mut self, settled: &Settled) {
        if settled.outcome != Outcome::Received {
            return;
        }
        let record = |histogram: &mut SparseHistogram, span: Option<Interval>| {
            if let Some(span) = span {
                histogram.record(span.as_nanos().max(0) as u64);
            }
        };
        record(&mut self.rtt, settled.rtt);
        record(&mut self.rtt_app, settled.rtt_app);
        for pair in settled.ipdv.into_iter().flatten() {
            self.ipdv_round_trip.record(pair.round_trip);
            self.ipdv_forward.extend(pair.forward);
            self.ipdv_return.extend(pair.back);
        }
        let Some(ledger) = &settled.ledger else { return };
        record(&mut self.total, Some(ledger.total()));
        record(&mut self.probe_host, ledger.probe_host());
        record(&mut self.wire, ledger.wire());
        record(&mut self.reflector_host, ledger.reflector_host());
        for (terms, span) in &ledger.parts {
            self.negative += u64::from(span.as_nanos() < 0);
            match self.parts.get_mut(terms) {
                Some(part) => record(part, Some(*span)),
                None => record(self.parts.entry(terms.clone()).or_default(), Some(*span)),
            }
        }
        for (stages, span) in ledger.inner.iter().flat_map(|inner| &inner.parts) {
            self.negative += u64::from(span.as_nanos() < 0);
            match self.inner.get_mut(stages) {
                Some(part) => record(part, Some(*span)),
                None => record(self.inner.entry(stages.clone()).or_default(), Some(*span)),
            }
        }
    }

    /// Every histogram that is not empty, by the name of its interval log: a file name, where merged parts are `probe_tx-wire`.
    pub(super) fn logs(&self) -> impl Iterator<Item = (String, &SparseHistogram)> {
        let fixed = [
            ("lateness", &self.lateness),
            ("rtt", &self.rtt),
            ("rtt_app", &self.rtt_app),
            ("ipdv_forward", &self.ipdv_forward),
            ("ipdv_return", &self.ipdv_return),
            ("ipdv_round_trip", &self.ipdv_round_trip),
            ("total", &self.total),
        ];
        let fixed = fixed.into_iter().map(|(name, histogram)| (name.to_owned(), histogram));
        let parts = self.parts.iter().map(|(terms, part)| (part_name(terms).replace('+', "-"), part));
        let inner = self
            .inner
            .iter()
            .map(|(stages, part)| (format!("reflector_{}", stage_name(stages).replace('+', "-")), part));
        fixed.chain(parts).chain(inner).filter(|(_, histogram)| !histogram.is_empty())
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.skipped += other.skipped;
        self.refused += other.refused;
        self.within_50us += other.within_50us;
        self.negative += other.negative;
        for (into, from) in [
            (&mut self.lateness, &other.lateness),
            (&mut self.rtt, &other.rtt),
            (&mut self.rtt_app, &other.rtt_app),
            (&mut self.ipdv_forward, &other.ipdv_forward),
            (&mut self.ipdv_return, &other.ipdv_return),
            (&mut self.ipdv_round_trip, &other.ipdv_round_trip),
            (&mut self.total, &other.total),
            (&mut self.probe_host, &other.probe_host),
            (&mut self.wire, &other.wire),
            (&mut self.reflector_host, &other.reflector_host),
        ] {
            into.merge(from);
        }
        for (terms, part) in &other.parts {
            self.parts.entry(terms.clone()).or_default().merge(part);
        }
        for (stages, part) in &other.inner {
            self.inner.entry(stages.clone()).or_default().merge(part);
        }
    }

    /// The row of `sessions` sessions whose counts add up to `counts`.
    pub(super) fn row(&self, sessions: usize, counts: Counts) -> Row {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let answered = counts.received + counts.late;
        let named = |(terms, part): (&Vec<Term>, &SparseHistogram)| Some((part_name(terms), Quantiles::of(part)?));
        Row {
            sessions,
            counts,
            loss: share(counts.lost() + counts.late, counts.sent),
            schedule: Punctuality {
                slots: self.sent + self.skipped + self.refused,
                sent: self.sent,
                skipped: self.skipped,
                refused: self.refused,
                within_50us: self.within_50us,
                lateness: Quantiles::of(&self.lateness),
            },
            rtt: Quantiles::of(&self.rtt),
            rtt_app: Quantiles::of(&self.rtt_app),
            ipdv_forward: Quantiles::of(&self.ipdv_forward),
            ipdv_return: Quantiles::of(&self.ipdv_return),
            ipdv_round_trip: Quantiles::of(&self.ipdv_round_trip),
            kernel_sent_coverage: share(counts.kernel_sent, answered),
            kernel_received_coverage: share(counts.kernel_received, answered),
            split: Split {
                total: Quantiles::of(&self.total),
                probe_host: Quantiles::of(&self.probe_host),
                wire: Quantiles::of(&self.wire),
                reflector_host: Quantiles::of(&self.reflector_host),
                parts: self.parts.iter().filter_map(named).collect(),
                inner: self
                    .inner
                    .iter()
                    .filter_map(|(stages, part)| Some((stage_name(stages), Quantiles::of(part)?)))
                    .collect(),
                negative: self.negative,
            },
        }
    }
}

/// A part of the reflector's host by its name in `samples.jsonl`, such as `rx_nic+rx_xdp`.
fn stage_name(stages: &[Stage]) -> String {
    stages.iter().map(|stage| stage.name()).collect::<Vec<_>>().join("+")
}

/// A part of the ledger by its name in `samples.jsonl`, such as `probe_tx+wire`.
fn part_name(terms: &[Term]) -> String {
    terms.iter().map(|term| term.name()).collect::<Vec<_>>().join("+")
}

/// Says in words which stamps bound the round trip.
pub(super) fn rtt_between(row: &Row) -> String {
    let point = |name: &str, coverage: f64| match coverage {
        1.0 => format!("{name}kernel"),
        0.0 => format!("{name}app"),
        part => format!("{name}kernel ({:.1} %, else {name}app)", part * 100.0),
    };
    format!("{} - {}", point("A4", row.kernel_received_coverage), point("A1", row.kernel_sent_coverage))
}
