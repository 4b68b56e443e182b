//! Reads measurements line by line into one model, and accounts for every line that there was.
//!
//! ```text
//! sessions.jsonl ──────────────► bins of sessions ─┐
//! samples (CSV, JSONL) ─► bins ─►                  ├─► sessions ─► judge: may promote
//! *.hlog with a session ───────►                  ─┘
//! *.hlog without, cohorts.jsonl ─► bins of cohorts ─► pooled: describe, may roll back, never promote
//! *.tsv, *.mmdb, CSV with a prefix ─► table of networks ─► ISP of sessions that no label places
//! ```
//!
//! `sessions.jsonl` is read on all cores, chunk by chunk, and taken in the order of its lines: the verdict is that of one core. Memory grows with sessions and their windows, not with samples: bins are merged as they come. Whatever is not judged is counted under
//! a reason, with file and line for the first of each. Quantiles alone are refused: they can be neither merged nor weighed.

mod chunks;
mod cohort;
mod complaints;
mod log;
mod placing;
mod pooled;
mod ranges;
mod remark;
mod samples;
mod session;
mod told;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    hash::RandomState,
    io::{self, BufRead, BufReader, Read},
    num::NonZero,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use hashbrown::HashTable;
use jiff::Timestamp;
use pathlab_record::{AsnTableBuilder, SessionBin};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cohort::{Bucket, COHORTS, CohortBin};
pub(crate) use complaints::Complaints;
pub(crate) use pooled::{Block, Pooled, quantile as pooled_quantile};
pub use remark::{Remark, Remarks};
pub(crate) use session::{Bin, ByWindow, Seen, Session};

use crate::{Error, Evenings, Experiment, Metric, PLAN, Registration, Series, Window, stratum::Cell};
use chunks::{Chunk, Chunks};
use remark::{Account, Line};
use samples::{Columns, Samples};
use told::{Lines, Reading};

/// Name of the file in a run directory.
pub const SESSIONS: &str = "sessions.jsonl";

/// Endings of tables of networks: text and MaxMind DB. One in CSV is told by its header.
const TABLE: &str = "tsv";
const MMDB: &str = "mmdb";
/// Chunks that are read ahead of those that are taken, for each core.
const AHEAD: usize = 3;

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
#[derive(Debug)]
enum Form {
    /// Not known yet: JSON whose first good line will tell.
    Json,
    Sessions,
    /// `samples.jsonl` of the probe, or JSON with the names of [`Columns`].
    JsonSamples,
    Csv(Option<Columns>),
    Complaints(complaints::Columns),
    Log,
    Cohorts,
    /// A table of networks.
    Asns,
}

/// Everything that was read, ready to be judged.
#[derive(Clone, Debug)]
pub struct Ingested {
    pub(crate) inputs: Vec<Input>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) pooled: Pooled,
    pub(crate) remarks: BTreeMap<Remark, Remarks>,
    /// Where a file of them was given.
    pub(crate) complaints: Option<Complaints>,
    /// Plans that were written down before.
    pub(crate) registrations: Vec<Registration>,
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

    /// First and last instant of the earliest bin of evenings: the data began somewhere within.
    pub(crate) fn first_of_evenings(&self) -> Option<(Timestamp, Timestamp)> {
        let bins = self.sessions.iter().flat_map(|session| &session.bins);
        let (start, end) =
            bins.filter(|(window, _)| *window != Window::Aa).map(|(_, bin)| (bin.start, bin.end)).min()?;
        Some((Timestamp::from_microsecond(start).ok()?, Timestamp::from_microsecond(end).ok()?))
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

/// Reads files one after the other.
#[derive(Debug)]
pub struct Ingest {
    reading: Reading,
    sources: Vec<String>,
    /// Places in the list of sessions by name.
    index: HashTable<u32>,
    hasher: RandomState,
    cells: HashMap<Cell, u16>,
    samples: Samples,
    /// Last instant of data in each evening that was placed by the clock.
    latest: BTreeMap<Window, Timestamp>,
    account: Account,
    /// All tables of networks so far: `reading` has what they make.
    asns: AsnTableBuilder,
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
            complaints: None,
            registrations: Vec::new(),
            judged_lines: 0,
            in_progress: None,
        };
        Ok(Self {
            samples: Samples::new(experiment.windows.bin, evenings.clone()),
            reading: Reading { evenings, zone: experiment.windows.zone.clone(), wanted, asns: None },
            sources: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            cells: HashMap::new(),
            latest: BTreeMap::new(),
            account: Account::default(),
            asns: AsnTableBuilder::default(),
            out,
        })
    }

    /// Reads runs and files, tables of networks before all others and by their names: the order in which they were given makes no difference.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn runs<'p>(&mut self, paths: impl IntoIterator<Item = &'p Path>) -> Result<(), Error> {
        let (mut tables, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_table(path));
        tables.sort_by_key(|path| name_of(path).ok());
        tables.into_iter().chain(others).try_for_each(|path| self.run(path))
    }

    /// Reads a run directory (its `sessions.jsonl`, or else its `cohorts.jsonl`, and its `plan.json`), or one file: `.csv`, `.hlog`, JSON lines,
    /// `plan.json`, or a table of networks, which tells the ISP of what is read after it.
    ///
    /// # Errors
    /// [`Error::Input`] when it cannot be read, [`Error::Table`] for a MaxMind DB that is damaged, [`Error::QuantilesOnly`] when it has nothing but quantiles. Broken lines are no error:
    /// they are counted.
    pub fn run(&mut self, path: &Path) -> Result<(), Error> {
        if path.is_dir() && path.join(PLAN).exists() {
            self.plan(&path.join(PLAN))?;
            if !path.join(SESSIONS).exists() && !path.join(COHORTS).exists() {
                return Ok(());
            }
        } else if path.is_file() && path.ends_with(PLAN) {
            return self.plan(path);
        }
        let file = match path.is_dir() {
            true if !path.join(SESSIONS).exists() && path.join(COHORTS).exists() => path.join(COHORTS),
            true => path.join(SESSIONS),
            false => path.to_owned(),
        };
        let refused = |source| Error::Input { path: file.clone(), source };
        let name = name_of(&file)?;
        let reader = BufReader::with_capacity(1 << 16, File::open(&file).map_err(refused)?);
        self.read(&name, reader, refused)
    }

    /// Reads a plan that was registered.
    fn plan(&mut self, file: &Path) -> Result<(), Error> {
        let name = name_of(file)?;
        let text = std::fs::read_to_string(file).map_err(|source| Error::Input { path: file.to_owned(), source })?;
        self.out.registrations.push(Registration::read(&name, &text)?);
        let (bytes, lines) = (text.len() as u64, text.lines().count() as u64);
        self.out.inputs.push(Input {
            name,
            sha256: pathlab_record::Digest::of(text.as_bytes()).to_string(),
            bytes,
            lines,
        });
        Ok(())
    }

    /// Reads lines under a name that stands for them in the verdict; its ending tells the form.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn lines(&mut self, name: &str, reader: impl BufRead) -> Result<(), Error> {
        self.read(name, reader, |source| Error::Input { path: name.into(), source })
    }

    fn read(&mut self, name: &str, reader: impl BufRead, refused: impl Fn(io::Error) -> Error) -> Result<(), Error> {
        let mut form = match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("csv") => Form::Csv(None),
            Some("hlog") => Form::Log,
            Some(TABLE) => Form::Asns,
            Some(MMDB) => return self.mmdb(name, reader, refused),
            _ => Form::Json,
        };
        self.asns.begin();
        let mut chunks = Chunks::new(reader);
        let mut lines = 0;
        while let Some(chunk) = chunks.next().map_err(&refused)? {
            // The first chunk of sessions is read here, whatever its form: most files are no longer than that.
            if matches!(form, Form::Sessions) {
                self.on_all_cores(name, chunk, &mut chunks, &mut lines).map_err(&refused)?;
                break;
            }
            self.chunk(&mut form, &chunk, name, &mut lines)?;
        }
        if matches!(form, Form::Asns) {
            self.reading.asns = Some(Arc::new(self.asns.clone().build()));
        }
        self.out.inputs.push(chunks.input(name, lines));
        Ok(())
    }

    /// Reads a MaxMind DB, which has no lines.
    fn mmdb(
        &mut self,
        name: &str,
        mut reader: impl BufRead,
        refused: impl Fn(io::Error) -> Error,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(refused)?;
        self.asns.mmdb(&bytes).map_err(|why| Error::Table { name: name.to_owned(), why })?;
        self.reading.asns = Some(Arc::new(self.asns.clone().build()));
        let sha256 = pathlab_record::Digest::of(&bytes).to_string();
        self.out.inputs.push(Input { name: name.to_owned(), sha256, bytes: bytes.len() as u64, lines: 0 });
        Ok(())
    }

    /// Takes a chunk of any form, line by line.
    fn chunk(&mut self, form: &mut Form, chunk: &Chunk, name: &str, lines: &mut u64) -> Result<(), Error> {
        if chunk.too_long {
            *lines += 1;
            self.refuse(told::too_long(), Line { file: name, number: *lines });
        }
        for (line, ended) in chunk.lines() {
            *lines += 1;
            let at = Line { file: name, number: *lines };
            if !line.is_empty()
                && let Err(refused) = self.line(form, line, at)?
            {
                self.refuse(refused.cut_off(!ended), at);
            }
        }
        Ok(())
    }

    /// Takes sessions from here to the end of the file: read by as many threads as there are cores, taken in their order.
    fn on_all_cores(
        &mut self,
        name: &str,
        first: Chunk,
        chunks: &mut Chunks<impl BufRead>,
        lines: &mut u64,
    ) -> io::Result<()> {
        let reading = self.reading.clone();
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let (jobs, taken) = mpsc::channel::<(usize, Chunk)>();
        let (answers, done) = mpsc::channel::<(usize, Lines)>();
        let taken = Mutex::new(taken);
        thread::scope(|scope| {
            for _ in 0..cores {
                let (reading, taken, answers) = (&reading, &taken, answers.clone());
                scope.spawn(move || {
                    // The lock is held while waiting for a chunk, not while reading it.
                    let next = || taken.lock().ok().and_then(|chunks| chunks.recv().ok());
                    while let Some((place, chunk)) = next() {
                        if answers.send((place, reading.chunk(&chunk))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(answers);
            // Dropped at the end or with an error, which ends the threads.
            let jobs = jobs;
            let mut first = Some(first);
            let (mut sent, mut next) = (0, 0);
            let mut early: BTreeMap<usize, Lines> = BTreeMap::new();
            loop {
                while sent < next + AHEAD * cores
                    && let Some(chunk) = first.take().map_or_else(|| chunks.next(), |chunk| Ok(Some(chunk)))?
                {
                    let gone = |_| io::Error::other("no thread is left to read it");
                    jobs.send((sent, chunk)).map_err(gone)?;
                    sent += 1;
                }
                if next == sent {
                    return Ok(());
                }
                while !early.contains_key(&next) {
                    let (place, read) = done.recv().map_err(|_| io::Error::other("a thread that read it panicked"))?;
                    early.insert(place, read);
                }
                let read = early.remove(&next).unwrap_or_default();
                next += 1;
                for (number, told) in read.told {
                    let at = Line { file: name, number: *lines + number };
                    if let Err(refused) = told.and_then(|told| self.take_line(told, at)) {
                        self.refuse(refused, at);
                    }
                }
                *lines += read.number;
            }
        })
    }

    fn refuse(&mut self, Refused { remark, what }: Refused, at: Line<'_>) {
        self.account.add(remark, at, &what);
    }

    /// One line that is not blank.
    fn line(&mut self, form: &mut Form, line: &[u8], at: Line<'_>) -> Result<Result<(), Refused>, Error> {
        if matches!(form, Form::Json) {
            match Self::form_of(line, at)? {
                Some(known) => *form = known,
                None => return Ok(Err(broken(serde_json::from_slice::<Value>(line).err()))),
            }
        }
        let unreadable = |what| Refused { remark: Remark::Broken, what };
        if matches!(form, Form::Csv(None)) && AsnTableBuilder::is_header(line) {
            *form = Form::Asns;
        }
        if matches!(form, Form::Csv(None)) && complaints::Columns::are(line) {
            *form = Form::Complaints(complaints::Columns::of(line, at, &mut self.account)?);
            self.out.complaints.get_or_insert_default();
            return Ok(Ok(()));
        }
        Ok(match form {
            Form::Json | Form::Sessions => self.reading.line(line).and_then(|told| self.take_line(told, at)),
            Form::Cohorts => serde_json::from_slice(line)
                .map_err(|error| broken(Some(error)))
                .and_then(|bin: CohortBin| self.take_cohort(&bin)),
            Form::JsonSamples => self.samples.json(line, at, &self.reading.zone, &mut self.account),
            Form::Csv(columns) => match columns {
                Some(columns) => self.samples.row(columns, line, at, &self.reading.zone, &mut self.account),
                None => {
                    *columns = Some(Columns::of(line, at, &mut self.account)?);
                    Ok(())
                }
            },
            Form::Complaints(columns) => {
                let row = columns.row(line, &self.reading.evenings, self.out.complaints.get_or_insert_default());
                self.out.judged_lines += u64::from(row.is_ok());
                row
            }
            Form::Asns => self.asns.line(line).map_err(unreadable),
            Form::Log => match log::read(line, &self.reading.zone) {
                Ok(log::Interval::None) => Ok(()),
                Ok(log::Interval::Session(bin, counted)) => {
                    self.reading.bin(*bin, counted).and_then(|told| self.take_line(told, at))
                }
                Ok(log::Interval::Cohort(bin)) => self.take_cohort(&bin),
                Err(what) => Err(unreadable(what)),
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
        if let Err(refused) = self.reading.bin(bin, true).and_then(|told| self.take_line(told, at)) {
            self.refuse(refused, at);
        }
    }

    /// What was read. The order in which files were given makes no difference to the verdict; the order of lines within one does only where
    /// lines contradict each other.
    pub fn finish(mut self) -> Ingested {
        let width = self.samples.width();
        let empty = Samples::new(jiff::SignedDuration::ZERO, self.reading.evenings.clone());
        let samples = std::mem::replace(&mut self.samples, empty);
        for (bin, rows, file, number) in samples.into_bins(&self.reading.zone.clone()) {
            let at = Line { file: &file, number };
            match self.reading.bin(bin, true).and_then(|told| self.take(told, at)) {
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
            let (_, closes) = self.reading.evenings.of(*date)?;
            (closes.duration_since(*until) >= width).then_some((*window, *until, closes))
        });
        self.out
    }
}

/// Why a line is not judged.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) remark: Remark,
    pub(crate) what: String,
}

impl Refused {
    /// The same of a line that did not end: it was cut off rather than written so.
    fn cut_off(self, cut: bool) -> Self {
        match self.remark {
            Remark::Broken if cut => Self { remark: Remark::Truncated, what: "ends in the middle".to_owned() },
            _ => self,
        }
    }
}

fn broken(error: Option<serde_json::Error>) -> Refused {
    let what = error.map_or_else(|| "no JSON object".to_owned(), |error| error.to_string());
    Refused { remark: Remark::Broken, what }
}

/// Whether a file is a table of networks. One that cannot be read is told so when it is its turn.
fn is_table(path: &Path) -> bool {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some(TABLE | MMDB) => true,
        Some("csv") => File::open(path).is_ok_and(|file| {
            let mut header = Vec::new();
            let line = BufReader::new(file.take(4_096)).read_until(b'\n', &mut header);
            line.is_ok() && AsnTableBuilder::is_header(header.trim_ascii_end())
        }),
        _ => false,
    }
}

/// The name of a file in a verdict: its directory and itself.
fn name_of(file: &Path) -> Result<String, Error> {
    let whole = file.canonicalize().map_err(|source| Error::Input { path: file.to_owned(), source })?;
    let tail: Vec<_> = whole.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
    Ok(tail.into_iter().rev().collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests;
