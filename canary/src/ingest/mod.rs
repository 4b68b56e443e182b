//! Reads measurements line by line into one model, and accounts for every line that there was.
//!
//! ```text
//! sessions.jsonl ──────────────► bins of sessions ─┐
//! samples (CSV, JSONL) ─► bins ─►                  ├─► sessions ─► judge: may promote
//! *.hlog with a session ───────►                  ─┘
//! *.hlog without, cohorts.jsonl ─► bins of cohorts ─► pooled: describe, may roll back, never promote
//! ```
//!
//! Memory grows with sessions and their windows, not with samples: bins are merged as they come. Whatever is not judged is counted under
//! a reason, with file and line for the first of each. Quantiles alone are refused: they can be neither merged nor weighed.

mod cohort;
mod log;
mod pooled;
mod ranges;
mod remark;
mod samples;
mod session;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::IpAddr,
    path::Path,
};

use jiff::Timestamp;
use pathlab_record::{Labels, SessionBin, SessionKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use cohort::{Bucket, COHORTS, CohortBin};
pub(crate) use pooled::{Block, Pooled, quantile as pooled_quantile};
pub use remark::{Remark, Remarks};
pub(crate) use session::{Bin, Seen, Session};

use crate::{
    Error, Evenings, Experiment, Metric, Place, Series, Window,
    stratum::{Cell, Family},
};
use remark::{Account, Line};
use samples::{Columns, Samples};

/// Name of the file in a run directory.
pub const SESSIONS: &str = "sessions.jsonl";

/// A line longer than this is not ours: 1 MiB.
const LONGEST_LINE: u64 = 1 << 20;

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

/// What the lines of a file are.
#[derive(Clone, Debug)]
enum Form {
    /// Not known yet: JSON whose first good line will tell.
    Json,
    Sessions,
    /// `samples.jsonl` of the probe, or JSON with the names of [`Columns`].
    JsonSamples,
    Csv(Option<Columns>),
    Log,
    Cohorts,
}

/// Everything that was read, ready to be judged.
#[derive(Clone, Debug)]
pub struct Ingested {
    pub(crate) inputs: Vec<Input>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) pooled: Pooled,
    pub(crate) remarks: BTreeMap<Remark, Remarks>,
    pub(crate) judged_lines: u64,
    /// The last evening, where its data end before it does: until when there are data, and when it closes.
    pub(crate) in_progress: Option<(Window, Timestamp, Timestamp)>,
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
    index: HashMap<Box<str>, u32>,
    cells: HashMap<Cell, u16>,
    samples: Samples,
    /// Last instant of data in each evening that was placed by the clock.
    latest: BTreeMap<Window, Timestamp>,
    account: Account,
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
        wanted[Series::Ipdv as usize] = experiment.acceptance.is_some();
        for metric in experiment.policy.guardrails.iter().chain([&experiment.policy.metric]) {
            if let Metric::Quantile { series, .. } = metric {
                wanted[*series as usize] = true;
            }
        }
        let out = Ingested {
            inputs: Vec::new(),
            cells: Vec::new(),
            sessions: Vec::new(),
            pooled: Pooled::new(),
            remarks: BTreeMap::new(),
            judged_lines: 0,
            in_progress: None,
        };
        Ok(Self {
            samples: Samples::new(experiment.windows.bin, evenings.clone()),
            evenings,
            zone: experiment.windows.zone.clone(),
            wanted,
            sources: Vec::new(),
            index: HashMap::new(),
            cells: HashMap::new(),
            latest: BTreeMap::new(),
            account: Account::default(),
            out,
        })
    }

    /// Reads a run directory (its `sessions.jsonl`, or else its `cohorts.jsonl`), or one file: `.csv`, `.hlog`, or JSON lines.
    ///
    /// # Errors
    /// [`Error::Input`] when it cannot be read, [`Error::QuantilesOnly`] when it has nothing but quantiles. Broken lines are no error:
    /// they are counted.
    pub fn run(&mut self, path: &Path) -> Result<(), Error> {
        let file = match path.is_dir() {
            true if !path.join(SESSIONS).exists() && path.join(COHORTS).exists() => path.join(COHORTS),
            true => path.join(SESSIONS),
            false => path.to_owned(),
        };
        let refused = |source| Error::Input { path: file.clone(), source };
        let whole = file.canonicalize().map_err(refused)?;
        let tail: Vec<_> = whole.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
        let name = tail.into_iter().rev().collect::<Vec<_>>().join("/");
        let reader = BufReader::with_capacity(1 << 20, File::open(&file).map_err(refused)?);
        self.read(&name, reader, refused)
    }

    /// Reads lines under a name that stands for them in the verdict; its ending tells the form.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn lines(&mut self, name: &str, reader: impl BufRead) -> Result<(), Error> {
        self.read(name, reader, |source| Error::Input { path: name.into(), source })
    }

    fn read(
        &mut self,
        name: &str,
        mut reader: impl BufRead,
        refused: impl Fn(io::Error) -> Error,
    ) -> Result<(), Error> {
        let mut form = match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("csv") => Form::Csv(None),
            Some("hlog") => Form::Log,
            _ => Form::Json,
        };
        let mut input = Input { name: name.to_owned(), sha256: String::new(), bytes: 0, lines: 0 };
        let mut hash = Sha256::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut length = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(&refused)? as u64;
            if length == 0 {
                break;
            }
            hash.update(&line);
            input.lines += 1;
            let ended = line.last() == Some(&b'\n');
            let at = Line { file: name, number: input.lines };
            if !ended && length == LONGEST_LINE {
                length += skip_line(&mut reader, &mut hash).map_err(&refused)?;
                self.account.add(Remark::Broken, at, "longer than 1 MiB");
            } else if !line.trim_ascii().is_empty()
                && let Err(Refused { remark, what }) = self.line(&mut form, line.trim_ascii(), at)?
            {
                match remark {
                    Remark::Broken if !ended => self.account.add(Remark::Truncated, at, "ends in the middle"),
                    _ => self.account.add(remark, at, &what),
                }
            }
            input.bytes += length;
        }
        input.sha256 = hex(&hash.finalize());
        self.out.inputs.push(input);
        Ok(())
    }

    /// One line that is not blank.
    fn line(&mut self, form: &mut Form, line: &[u8], at: Line<'_>) -> Result<Result<(), Refused>, Error> {
        if matches!(form, Form::Json) {
            match Self::form_of(line, at)? {
                Some(known) => *form = known,
                None => return Ok(Err(broken(serde_json::from_slice::<Value>(line).err()))),
            }
        }
        Ok(match form {
            Form::Json | Form::Sessions => serde_json::from_slice(line)
                .map_err(|error| broken(Some(error)))
                .and_then(|bin| self.take_line(bin, at)),
            Form::Cohorts => serde_json::from_slice(line)
                .map_err(|error| broken(Some(error)))
                .and_then(|bin: CohortBin| self.take_cohort(&bin, at)),
            Form::JsonSamples => self.samples.json(line, at, &self.zone, &mut self.account),
            Form::Csv(columns) => match columns {
                Some(columns) => self.samples.row(columns, line, at, &self.zone, &mut self.account),
                None => {
                    *columns = Some(Columns::of(line, at, &mut self.account)?);
                    Ok(())
                }
            },
            Form::Log => match log::read(line, &self.zone) {
                Ok(log::Interval::None) => Ok(()),
                Ok(log::Interval::Session(bin, counted)) => self.take_counted(*bin, at, counted),
                Ok(log::Interval::Cohort(bin)) => self.take_cohort(&bin, at),
                Err(what) => Err(Refused { remark: Remark::Broken, what }),
            },
        })
    }

    /// What a line of JSON is the first of; `None` when it is no object.
    fn form_of(line: &[u8], at: Line<'_>) -> Result<Option<Form>, Error> {
        let Ok(Value::Object(object)) = serde_json::from_slice(line) else { return Ok(None) };
        let has = |name: &str| object.contains_key(name);
        let names: Vec<&str> = object.keys().map(String::as_str).collect();
        samples::refuse_quantiles(&names, at)?;
        let sample = has("stamps") || (has("session") && samples::RTT.iter().any(|(name, _)| has(name)));
        Ok(Some(match sample {
            true => Form::JsonSamples,
            false if has("buckets") || (has("rtt") && !has("session")) => Form::Cohorts,
            false => Form::Sessions,
        }))
    }

    /// Takes a bin that is already decoded, as if it had been read from line `number` of `name`.
    pub fn bin(&mut self, name: &str, number: u64, bin: SessionBin) {
        let at = Line { file: name, number };
        if let Err(Refused { remark, what }) = self.take_line(bin, at) {
            self.account.add(remark, at, &what);
        }
    }

    /// What was read. The order in which files were given makes no difference to the verdict; the order of lines within one does only where
    /// lines contradict each other.
    pub fn finish(mut self) -> Ingested {
        let width = self.samples.width();
        let samples =
            std::mem::replace(&mut self.samples, Samples::new(jiff::SignedDuration::ZERO, self.evenings.clone()));
        for (bin, rows, file, number) in samples.into_bins(&self.zone.clone()) {
            let at = Line { file: &file, number };
            match self.take(bin, at, true) {
                Ok(()) => self.out.judged_lines += rows,
                Err(Refused { remark, what }) => self.account.add_lines(remark, rows, at, &what),
            }
        }
        let mut cells: Vec<_> = self.cells.into_iter().collect();
        cells.sort_unstable_by_key(|(_, place)| *place);
        self.out.cells = cells.into_iter().map(|(cell, _)| cell).collect();
        self.out.inputs.sort_unstable_by(|a, b| (&a.name, &a.sha256).cmp(&(&b.name, &b.sha256)));
        self.out.sessions.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.out.remarks = self.account.0;
        self.out.in_progress = self.latest.last_key_value().and_then(|(window, until)| {
            let Window::Evening(date) = window else { return None };
            let (_, closes) = self.evenings.of(*date)?;
            (closes.duration_since(*until) >= width).then_some((*window, *until, closes))
        });
        self.out
    }

    fn take_line(&mut self, bin: SessionBin, at: Line<'_>) -> Result<(), Refused> {
        self.take_counted(bin, at, true)
    }

    fn take_counted(&mut self, bin: SessionBin, at: Line<'_>, counted: bool) -> Result<(), Refused> {
        self.take(bin, at, counted)?;
        self.out.judged_lines += 1;
        Ok(())
    }

    fn take(&mut self, mut bin: SessionBin, at: Line<'_>, counted: bool) -> Result<(), Refused> {
        let refused = |remark, what: &str| Err(Refused { remark, what: what.to_owned() });
        if let Err(error) = bin.check() {
            return refused(Remark::Contradicts, &error.to_string());
        }
        if !counted || bin.loss_unmeasured {
            (bin.sent, bin.received) = (0, 0);
        }
        let Some(cell) = cell_of(&bin.labels, bin.key) else {
            return refused(Remark::Unlabelled, "no label `isp` or `asn`, or no address family");
        };
        let window = self.window(self.evenings.place(&bin), bin.start)?;
        if bin.window().is_none() {
            let latest = self.latest.entry(window).or_insert(bin.end);
            *latest = bin.end.max(*latest);
        }
        let source = self.source(&bin.source);
        let cell = self.cell(cell);
        let name = bin.key.map_or_else(|| bin.session.as_str().into(), |key| key.to_string().into_boxed_str());
        let next = self.out.sessions.len() as u32;
        let place = match self.index.get(&name) {
            Some(place) => *place,
            None => {
                self.index.insert(name.clone(), next);
                let (key, arm) = (bin.key, bin.arm_assigned);
                let session = Session { name, key, cell, arm, windows: Default::default(), bins: Vec::new() };
                self.out.sessions.push(session);
                next
            }
        };
        let session = &mut self.out.sessions[place as usize];
        if !session.note(window, Bin::of(&bin, source)) {
            return refused(Remark::Duplicate, &bin.session);
        }
        let relabelled = session.cell != cell;
        if session.arm.is_some() && bin.arm_assigned.is_some() && session.arm != bin.arm_assigned {
            session.bins.pop();
            return refused(Remark::ArmChanged, &bin.session);
        }
        session.arm = session.arm.or(bin.arm_assigned);
        let crossed =
            window != Window::Aa && bin.arm_seen.is_some() && session.arm.is_some() && bin.arm_seen != session.arm;
        let seen = session.windows.entry(window);
        seen.sent = seen.sent.saturating_add(bin.sent);
        seen.lost = seen.lost.saturating_add(bin.lost);
        seen.episodes = seen.episodes.saturating_add(bin.loss_episodes.unwrap_or(0));
        seen.dead |= bin.dead;
        seen.share = seen.share.or_else(|| share_of(&bin.labels));
        let series = [&mut bin.rtt, &mut bin.ipdv_round_trip, &mut bin.ipdv_forward, &mut bin.ipdv_return];
        for ((kept, new), wanted) in seen.series.iter_mut().zip(series).zip(self.wanted) {
            match new.take() {
                Some(new) if wanted && kept.is_empty() => *kept = new,
                Some(new) if wanted => kept.merge(&new),
                _ => {}
            }
        }
        for (remark, applies) in [
            (Remark::Relabelled, relabelled),
            (Remark::CrossedOver, crossed),
            (Remark::OtherZone, bin.zone != self.zone),
        ] {
            if applies {
                self.account.add(remark, at, &bin.session);
            }
        }
        Ok(())
    }

    fn take_cohort(&mut self, bin: &CohortBin, _at: Line<'_>) -> Result<(), Refused> {
        let refused = |remark, what: String| Err(Refused { remark, what });
        let counts = bin.counts().map_err(|what| Refused { remark: Remark::Contradicts, what })?;
        let Some(cell) = cell_of(&bin.labels, None) else {
            return refused(Remark::Unlabelled, "no label `isp` or `asn`, or no address family".to_owned());
        };
        let labelled = bin.labels.get(Window::LABEL).and_then(Value::as_str).map(str::parse);
        let place = match labelled {
            None => self.evenings.place_of(bin.start, bin.end),
            Some(Ok(window)) => self.evenings.listed(window),
            Some(Err(_)) => return refused(Remark::Contradicts, "label window is neither aa nor a date".to_owned()),
        };
        let window = self.window(place, bin.start)?;
        if !self.out.pooled.add(cell, bin.arm, window, bin, &counts) {
            return refused(Remark::Duplicate, format!("{} {}", bin.source, bin.start));
        }
        self.out.judged_lines += 1;
        Ok(())
    }

    fn window(&self, place: Place, start: Timestamp) -> Result<Window, Refused> {
        let (remark, what) = match place {
            Place::In(window) => return Ok(window),
            Place::Holiday(date) => (Remark::Holiday, date.to_string()),
            Place::Straddles(date) => (Remark::StraddlesWindow, date.to_string()),
            Place::Outside => (Remark::OutsideWindows, start.to_string()),
        };
        Err(Refused { remark, what })
    }

    fn source(&mut self, source: &str) -> u16 {
        let known = self.sources.iter().position(|known| known == source).unwrap_or_else(|| {
            self.sources.push(source.to_owned());
            self.sources.len() - 1
        });
        // More sources than that share a number: a duplicate among them is then seen where there is none, and counted.
        u16::try_from(known).unwrap_or(u16::MAX)
    }

    fn cell(&mut self, cell: Cell) -> u16 {
        let next = self.cells.len().min(usize::from(u16::MAX)) as u16;
        *self.cells.entry(cell).or_insert(next)
    }
}

/// Why a line is not judged.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) remark: Remark,
    pub(crate) what: String,
}

fn broken(error: Option<serde_json::Error>) -> Refused {
    let what = error.map_or_else(|| "no JSON object".to_owned(), |error| error.to_string());
    Refused { remark: Remark::Broken, what }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// The label `share`, such as `15%`: what part of the sessions was on the canary at the time.
fn share_of(labels: &Labels) -> Option<u16> {
    let share: crate::Share = labels.get("share")?.as_str()?.parse().ok()?;
    Some(share.buckets())
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
mod tests;
