//! Reads `sessions.jsonl` line by line into what the judge needs of each session, and accounts for every line that there was.
//!
//! Memory grows with sessions and their windows, not with samples: bins are merged as they come. Whatever is not judged is counted under
//! a reason, with file and line for the first of each.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::IpAddr,
    path::Path,
};

use jiff::Timestamp;
use pathlab_record::{Arm, Labels, SessionBin, SessionKey, SparseHistogram};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Error, Evenings, Experiment, Metric, Place, Series, Window,
    stratum::{Cell, Family},
};

/// Name of the file in a run directory.
pub const SESSIONS: &str = "sessions.jsonl";

/// A line longer than this is not ours: 1 MiB.
const LONGEST_LINE: u64 = 1 << 20;
/// Lines named for each reason; the rest are only counted.
const NAMED: usize = 5;

/// One file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Run directory and file, such as `20261121-evening/sessions.jsonl`.
    pub name: String,
    /// SHA-256 of all its bytes, in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Number of lines.
    pub lines: u64,
}

/// Why a line was not judged, or judged with a remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remark {
    /// No JSON of a session bin: broken, with an unknown field, too long.
    Broken,
    /// The last line of the file ends in the middle.
    Truncated,
    /// It contradicts itself.
    Contradicts,
    /// No label `isp` or `asn`, or no address family.
    Unlabelled,
    /// The same source, session and bin were there before.
    Duplicate,
    /// In none of the windows.
    OutsideWindows,
    /// Partly in a window.
    StraddlesWindow,
    /// On a date that the experiment leaves out.
    Holiday,
    /// ISP or family differ from the session's first line. Judged by the first.
    Relabelled,
    /// The assigned arm differs from the session's first line. Left out.
    ArmChanged,
    /// Observed on another arm than assigned. Judged as assigned.
    CrossedOver,
    /// The bin's time zone is not the experiment's. Judged: instants are UTC.
    OtherZone,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "broken",
            Self::Truncated => "cut off",
            Self::Contradicts => "in contradiction with themselves",
            Self::Unlabelled => "without ISP or address family",
            Self::Duplicate => "duplicates",
            Self::OutsideWindows => "outside the windows",
            Self::StraddlesWindow => "partly in a window",
            Self::Holiday => "of a holiday",
            Self::Relabelled => "of sessions whose labels changed",
            Self::ArmChanged => "of sessions whose assigned arm changed",
            Self::CrossedOver => "of sessions seen on the other arm",
            Self::OtherZone => "of another time zone",
        })
    }
}

impl Remark {
    /// Whether such a line is judged all the same.
    pub fn judged(self) -> bool {
        matches!(self, Self::Relabelled | Self::CrossedOver | Self::OtherZone)
    }
}

/// How often a remark was made, and where first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remarks {
    /// Number of lines.
    pub lines: u64,
    /// The first of them: `file:line: what`.
    pub first: Vec<String>,
}

impl Remarks {
    /// One line for a person.
    pub(crate) fn in_words(&self, remark: Remark) -> String {
        format!("{remark:?}: {} lines, first {}", self.lines, self.first.first().map_or("", |first| first))
    }
}

/// What one session saw in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) dead: bool,
    /// By [`Series`].
    pub(crate) series: [SparseHistogram; 4],
}

/// One session over all its windows.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) key: Option<SessionKey>,
    pub(crate) cell: Cell,
    /// The arm that the lines name.
    pub(crate) arm: Option<Arm>,
    pub(crate) windows: BTreeMap<Window, Seen>,
    /// A labelled window may be shorter than a bin, so that two of them share one.
    bins: HashSet<(u16, Window, Timestamp, Timestamp)>,
}

/// Everything that was read, ready to be judged.
#[derive(Clone, Debug)]
pub struct Ingested {
    pub(crate) inputs: Vec<Input>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) remarks: BTreeMap<Remark, Remarks>,
    pub(crate) judged_lines: u64,
}

impl Ingested {
    /// The files, in the order of their names.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// What was left out or remarked, by reason.
    pub fn remarks(&self) -> &BTreeMap<Remark, Remarks> {
        &self.remarks
    }

    /// Lines that are judged: all others are counted in [`remarks`](Self::remarks).
    pub fn judged_lines(&self) -> u64 {
        self.judged_lines
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

/// Reads files one after the other.
#[derive(Debug)]
pub struct Ingest {
    evenings: Evenings,
    zone: String,
    wanted: [bool; 4],
    sources: Vec<String>,
    index: HashMap<String, usize>,
    out: Ingested,
}

impl Ingest {
    /// An empty ingest for this experiment: its windows and metrics say what to keep.
    ///
    /// # Errors
    /// [`Error::Experiment`] when the windows are no windows.
    pub fn new(experiment: &Experiment) -> Result<Self, Error> {
        let name = || experiment.experiment.name.clone();
        let evenings = Evenings::new(&experiment.windows).map_err(|why| Error::Experiment { file: name(), why })?;
        let mut wanted = [false; 4];
        wanted[Series::Rtt as usize] = true; // the far tail is one of round trips
        for metric in experiment.policy.guardrails.iter().chain([&experiment.policy.metric]) {
            if let Metric::Quantile { series, .. } = metric {
                wanted[*series as usize] = true;
            }
        }
        let out = Ingested { inputs: Vec::new(), sessions: Vec::new(), remarks: BTreeMap::new(), judged_lines: 0 };
        let zone = experiment.windows.zone.clone();
        Ok(Self { evenings, zone, wanted, sources: Vec::new(), index: HashMap::new(), out })
    }

    /// Reads the `sessions.jsonl` of a run directory, or that file itself.
    ///
    /// # Errors
    /// [`Error::Input`] when it cannot be read. Broken lines are no error: they are counted.
    pub fn run(&mut self, path: &Path) -> Result<(), Error> {
        let file = if path.is_dir() { path.join(SESSIONS) } else { path.to_owned() };
        let refused = |source| Error::Input { path: file.clone(), source };
        let whole = file.canonicalize().map_err(refused)?;
        let tail: Vec<_> = whole.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
        let name = tail.into_iter().rev().collect::<Vec<_>>().join("/");
        let reader = BufReader::with_capacity(1 << 20, File::open(&file).map_err(refused)?);
        self.lines(&name, reader).map_err(refused)
    }

    /// Reads lines under a name that stands for them in the verdict.
    ///
    /// # Errors
    /// What the reader says.
    pub fn lines(&mut self, name: &str, mut reader: impl BufRead) -> io::Result<()> {
        let mut input = Input { name: name.to_owned(), sha256: String::new(), bytes: 0, lines: 0 };
        let mut hash = Sha256::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut length = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? as u64;
            if length == 0 {
                break;
            }
            hash.update(&line);
            input.lines += 1;
            let ended = line.last() == Some(&b'\n');
            let at = Line { file: name, number: input.lines };
            if !ended && length == LONGEST_LINE {
                length += skip_line(&mut reader, &mut hash)?;
                self.remark(Remark::Broken, at, "longer than 1 MiB");
            } else if !line.trim_ascii().is_empty() {
                match serde_json::from_slice(&line) {
                    Ok(bin) => self.take(bin, at),
                    Err(_) if !ended => self.remark(Remark::Truncated, at, "ends in the middle"),
                    Err(error) => self.remark(Remark::Broken, at, &error.to_string()),
                }
            }
            input.bytes += length;
        }
        input.sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.out.inputs.push(input);
        Ok(())
    }

    /// Takes a bin that is already decoded, as if it had been read from line `number` of `name`.
    pub fn bin(&mut self, name: &str, number: u64, bin: SessionBin) {
        self.take(bin, Line { file: name, number });
    }

    /// What was read. The order in which files were given makes no difference to the verdict; the order of lines within one does only where
    /// lines contradict each other.
    pub fn finish(mut self) -> Ingested {
        self.out.inputs.sort_unstable_by(|a, b| (&a.name, &a.sha256).cmp(&(&b.name, &b.sha256)));
        self.out.sessions.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for session in &mut self.out.sessions {
            session.bins = HashSet::new();
        }
        self.out
    }

    fn take(&mut self, bin: SessionBin, at: Line<'_>) {
        if let Err(error) = bin.check() {
            return self.remark(Remark::Contradicts, at, &error.to_string());
        }
        let Some(cell) = cell_of(&bin.labels, bin.key) else {
            return self.remark(Remark::Unlabelled, at, "no label `isp` or `asn`, or no address family");
        };
        let window = match self.evenings.place(&bin) {
            Place::In(window) => window,
            Place::Holiday(date) => return self.remark(Remark::Holiday, at, &date.to_string()),
            Place::Straddles(date) => return self.remark(Remark::StraddlesWindow, at, &date.to_string()),
            Place::Outside => return self.remark(Remark::OutsideWindows, at, &bin.start.to_string()),
        };
        let source = self.source(&bin.source);
        let name = bin.key.map_or_else(|| bin.session.clone(), |key| key.to_string());
        let next = self.out.sessions.len();
        let place = *self.index.entry(name.clone()).or_insert(next);
        if place == next {
            let (key, arm) = (bin.key, bin.arm_assigned);
            let cell = cell.clone();
            let session = Session { name, key, cell, arm, windows: BTreeMap::new(), bins: HashSet::new() };
            self.out.sessions.push(session);
        }
        let session = &mut self.out.sessions[place];
        if !session.bins.insert((source, window, bin.start, bin.end)) {
            return self.remark(Remark::Duplicate, at, &bin.session);
        }
        let relabelled = session.cell != cell;
        if session.arm.is_some() && bin.arm_assigned.is_some() && session.arm != bin.arm_assigned {
            return self.remark(Remark::ArmChanged, at, &bin.session);
        }
        session.arm = session.arm.or(bin.arm_assigned);
        let crossed =
            window != Window::Aa && bin.arm_seen.is_some() && session.arm.is_some() && bin.arm_seen != session.arm;
        let seen = session.windows.entry(window).or_default();
        seen.sent = seen.sent.saturating_add(bin.sent);
        seen.lost = seen.lost.saturating_add(bin.lost);
        seen.dead |= bin.dead;
        let series = [&bin.rtt, &bin.ipdv_round_trip, &bin.ipdv_forward, &bin.ipdv_return];
        for ((kept, new), wanted) in seen.series.iter_mut().zip(series).zip(self.wanted) {
            if let (Some(new), true) = (new, wanted) {
                kept.merge(new);
            }
        }
        self.out.judged_lines += 1;
        for (remark, applies) in [
            (Remark::Relabelled, relabelled),
            (Remark::CrossedOver, crossed),
            (Remark::OtherZone, bin.zone != self.zone),
        ] {
            if applies {
                self.remark(remark, at, &bin.session);
            }
        }
    }

    fn source(&mut self, source: &str) -> u16 {
        let known = self.sources.iter().position(|known| known == source).unwrap_or_else(|| {
            self.sources.push(source.to_owned());
            self.sources.len() - 1
        });
        // More sources than that share a number: a duplicate among them is then seen where there is none, and counted.
        u16::try_from(known).unwrap_or(u16::MAX)
    }

    fn remark(&mut self, remark: Remark, at: Line<'_>, what: &str) {
        let remarks = self.out.remarks.entry(remark).or_default();
        remarks.lines += 1;
        if remarks.first.len() < NAMED {
            let what: String = what.chars().filter(|c| !c.is_control()).take(160).collect();
            remarks.first.push(format!("{}:{}: {what}", at.file, at.number));
        }
    }
}

#[derive(Clone, Copy)]
struct Line<'a> {
    file: &'a str,
    number: u64,
}

/// Reads on to the end of a line without keeping it.
fn skip_line(reader: &mut impl BufRead, hash: &mut Sha256) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |at| at + 1);
        hash.update(&buffer[..length]);
        reader.consume(length);
        skipped += length as u64;
        if end.is_some() || length == 0 {
            return Ok(skipped);
        }
    }
}

fn cell_of(labels: &Labels, key: Option<SessionKey>) -> Option<Cell> {
    let text = |label: &str| match labels.get(label)? {
        serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let isp = text("isp").or_else(|| text("asn").map(|asn| format!("AS{}", asn.trim_start_matches("AS"))))?;
    let family = match (text("family").as_deref(), key) {
        (Some("4" | "ipv4"), _) => Family::V4,
        (Some("6" | "ipv6"), _) => Family::V6,
        (Some(_), _) | (None, None) => return None,
        (None, Some(SessionKey(address))) => match address.ip() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        },
    };
    Some(Cell { isp, family })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::EXAMPLE;

    fn line(session: &str, more: &str) -> String {
        format!(
            r#"{{"session":"{session}","labels":{{"isp":"NTT","family":4}},"start":"2026-11-21T10:00:00Z","end":"2026-11-21T10:10:00Z","zone":"Asia/Tokyo","sent":0,"received":0,"lost":0,"source":"probe"{more}}}"#
        )
    }

    fn ingest(text: &str) -> Ingested {
        let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
        let mut ingest = Ingest::new(&experiment).unwrap();
        ingest.lines("run/sessions.jsonl", text.as_bytes()).unwrap();
        ingest.finish()
    }

    fn count(ingested: &Ingested, remark: Remark) -> u64 {
        ingested.remarks.get(&remark).map_or(0, |remarks| remarks.lines)
    }

    #[test]
    fn every_line_is_judged_or_counted_with_its_place() {
        let good = line("a", "");
        let lines = [
            good.clone(),
            good.clone(),
            line("a", "").replace("\"sent\":0", "\"sent\":1"),
            "{not json".to_owned(),
            line("b", ",\"colour\":1"),
            line("c", "").replace("\"isp\":\"NTT\",", ""),
            line("d", "").replace("T10:", "T01:"),
            line("e", "").replace("T10:00", "T09:55"),
            line("f", "").replace("Asia/Tokyo", "UTC"),
            line("a", ",\"arm_assigned\":\"canary\",\"arm_seen\":\"control\"").replace("T10:", "T11:"),
            line("a", ",\"arm_assigned\":\"control\"").replace("T10:", "T12:"),
            line("a", "").replace("T10:", "T13:").replace("NTT", "KDDI"),
            String::new(),
            "x".repeat(2 << 20),
        ];
        let text = lines.join("\n") + "\n" + &good[..40];
        let ingested = ingest(&text);
        for (remark, lines) in [
            (Remark::Duplicate, 1),
            (Remark::Contradicts, 1),
            (Remark::Broken, 3),
            (Remark::Unlabelled, 1),
            (Remark::OutsideWindows, 1),
            (Remark::StraddlesWindow, 1),
            (Remark::OtherZone, 1),
            (Remark::CrossedOver, 1),
            (Remark::ArmChanged, 1),
            (Remark::Relabelled, 1),
            (Remark::Truncated, 1),
        ] {
            assert_eq!(count(&ingested, remark), lines, "{remark:?} {:?}", ingested.remarks);
        }
        assert_eq!(
            ingested.remarks[&Remark::Contradicts].first,
            ["run/sessions.jsonl:3: session \"a\": sent 1 is not received 0 + lost 0"]
        );
        let left_out: u64 =
            ingested.remarks.iter().filter(|(remark, _)| !remark.judged()).map(|(_, remarks)| remarks.lines).sum();
        let empty = 1;
        assert_eq!(ingested.judged_lines + left_out + empty, ingested.inputs[0].lines);
        assert_eq!(ingested.inputs[0].bytes, text.len() as u64);
        let whole: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ingested.inputs[0].sha256, whole);
    }

    #[test]
    fn bins_of_a_window_are_one_distribution() {
        let histogram: SparseHistogram = [1_000, 2_000].into_iter().collect();
        let rtt = format!(",\"rtt\":\"{}\"", histogram.to_base64());
        let bin = |hour: &str| {
            line("a", &rtt).replace("T10:", hour).replace("\"sent\":0,\"received\":0", "\"sent\":2,\"received\":2")
        };
        let ingested = ingest(&[bin("T10:"), bin("T11:")].join("\n"));
        let session = &ingested.sessions[0];
        assert_eq!(session.windows.len(), 1);
        let seen = session.windows.values().next().unwrap();
        assert_eq!((seen.sent, seen.series[Series::Rtt as usize].count()), (4, 4));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_lose_a_line(bytes: Vec<u8>) {
            let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
            let mut ingest = Ingest::new(&experiment).unwrap();
            ingest.lines("x", bytes.as_slice()).unwrap();
            let blank = bytes.split(|byte| *byte == b'\n').filter(|line| line.trim_ascii().is_empty()).count() as u64;
            let blank = blank - u64::from(bytes.is_empty() || bytes.ends_with(b"\n"));
            let ingested = ingest.finish();
            let counted: u64 = ingested.remarks.values().map(|remarks| remarks.lines).sum();
            proptest::prop_assert_eq!(ingested.inputs[0].lines, counted + blank);
        }
    }
}
