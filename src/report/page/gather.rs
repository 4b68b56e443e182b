//! Reads run directories and JSON documents into the model. What cannot be used is remarked; what cannot be read at all is an error.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use pathlab_canary::{Experiment, arm, bucket};
use pathlab_record::evidence::Record;
use pathlab_record::{Arm, Error, Labels, RecordedRun, SessionKey, Unsealed, Window, verify};
use serde_json::Value;

use super::{
    files::{Audit, VerdictFile},
    judged::Judged,
    ledger::Stages,
    model::{Cohort, Deed, Figure, Figures, Report, RunSeen, SCHEMA, Seal, arm_name},
    paths::{Paths, TRACE},
    sessions::{Collector, Hours},
};
use crate::exit::Misuse;

/// The file of a run that holds a verdict.
const VERDICT: &str = "verdict.json";

/// Everything that the paths tell; `made` is the time that the report bears.
pub(crate) fn gather(paths: &[PathBuf], made: Timestamp) -> Result<Report> {
    let mut found = Found::default();
    for path in paths {
        found.path(path)?;
    }
    if found.runs.is_empty() && found.audits.is_empty() {
        return Err(Misuse("nothing to report: give run directories, or the JSON of `host audit`".into()).into());
    }
    let experiment = found.verdicts.first().map(|(_, file)| (file.seed, file.experiment.clone()));
    let assignment = Assignment { experiment };
    let zone_name = found.zone(&assignment)?;
    let zone = TimeZone::get(&zone_name).with_context(|| format!("time zone {zone_name:?}"))?;
    let hours = assignment.experiment.as_ref().and_then(|(_, of)| Hours::parse(&of.windows.evening));
    let mut collector = Collector::new(zone, zone_name.clone(), hours);
    let mut stages = Stages::default();
    for run in &found.runs {
        read(run, &assignment, &mut collector, &mut stages, &mut found.remarks)?;
    }
    let outside = collector.outside;
    let (evenings, percentiles) = collector.finish();
    let mut remarks = found.remarks;
    for run in found.runs.iter().filter(|run| !run.is_sealed()) {
        remarks.push(remains(run)?);
    }
    if outside > 0 {
        remarks.push(format!("{outside} bins of sessions lie outside the evenings and are not shown"));
    }
    let verdicts: Vec<Judged> = found.verdicts.iter().map(|(run, file)| Judged::new(shown(run), file)).collect();
    let title = verdicts.first().map(|verdict| verdict.experiment.clone());
    let title = title.or_else(|| Some(paths.first()?.file_name()?.to_string_lossy().into_owned())).unwrap_or_default();
    Ok(Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        made,
        title,
        zone: zone_name,
        verdicts,
        figures: Figures {
            evenings: Figure::new(evenings),
            percentiles: Figure::new(percentiles),
            stages: Figure::new(stages.finish()),
            paths: Figure::new(found.paths),
        },
        audits: found.audits,
        runs: found.runs.iter().map(seen).collect::<Result<_>>()?,
        remarks,
    })
}

#[derive(Default)]
struct Found {
    runs: Vec<RecordedRun>,
    known: BTreeSet<PathBuf>,
    verdicts: Vec<(PathBuf, VerdictFile)>,
    audits: Vec<Audit>,
    paths: Vec<Paths>,
    remarks: Vec<String>,
}

impl Found {
    /// A run directory with those in it, or a JSON document.
    fn path(&mut self, path: &Path) -> Result<()> {
        if path.is_file() {
            return self.document(path);
        }
        if !path.is_dir() {
            return Err(Misuse(format!("{}: no such run directory", path.display())).into());
        }
        let mut inner: Vec<PathBuf> = fs::read_dir(path)
            .with_context(|| path.display().to_string())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|entry| entry.join("run.json").is_file())
            .collect();
        inner.sort();
        let is_run = path.join("run.json").is_file();
        if !is_run && inner.is_empty() {
            return Err(Misuse(format!("{}: no run directory: it has no run.json", path.display())).into());
        }
        if is_run {
            self.run(path)?;
        }
        inner.iter().try_for_each(|run| self.run(run))
    }

    fn run(&mut self, path: &Path) -> Result<()> {
        if !self.known.insert(path.canonicalize().with_context(|| path.display().to_string())?) {
            return Ok(());
        }
        self.runs.push(RecordedRun::open(path)?);
        let trace = path.join(TRACE);
        if trace.is_file() {
            let text = fs::read_to_string(&trace).with_context(|| trace.display().to_string())?;
            self.paths.push(Paths::read(shown(path), &text)?);
        }
        let verdict = path.join(VERDICT);
        if verdict.is_file() {
            self.verdict(path, &verdict)?;
        }
        Ok(())
    }

    /// A verdict, and the runs that it rests on where they lie beside it.
    fn verdict(&mut self, run: &Path, file: &Path) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let verdict: VerdictFile = serde_json::from_str(&text)
            .with_context(|| format!("{}: no verdict of this version; judge again", file.display()))?;
        let of_inputs: BTreeSet<PathBuf> =
            verdict.inputs.iter().filter_map(|input| Some(Path::new(&input.name).parent()?.to_owned())).collect();
        for name in of_inputs.iter().filter(|name| !name.as_os_str().is_empty()) {
            let places = [run.join(name), run.join("..").join(name)];
            match places.iter().find(|place| place.join("run.json").is_file()) {
                Some(place) => self.run(place)?,
                None => self.remarks.push(format!(
                    "{}, on which the verdict of {} rests, is not beside it: give it on the command line",
                    name.display(),
                    run.display()
                )),
            }
        }
        self.verdicts.push((run.to_owned(), verdict));
        Ok(())
    }

    fn document(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{}: no JSON", path.display()))?;
        match value["schema"].as_str() {
            Some("pathlab.host/1") if value.get("entries").is_some() => {
                let audit: Audit = serde_json::from_value(value).with_context(|| path.display().to_string())?;
                self.audits.push(Audit { file: shown(path), ..audit });
                Ok(())
            }
            schema => bail!(
                "{}: a report shows run directories and the JSON of `host audit`, not {}",
                path.display(),
                schema.unwrap_or("a document without schema")
            ),
        }
    }

    /// That of the experiment, else that of the first bin, else UTC.
    fn zone(&self, assignment: &Assignment) -> Result<String> {
        if let Some((_, experiment)) = &assignment.experiment {
            return Ok(experiment.windows.zone.clone());
        }
        for run in &self.runs {
            if let Some(bin) = run.sessions()?.next() {
                let zone = bin?.zone;
                if TimeZone::get(&zone).is_ok() {
                    return Ok(zone);
                }
            }
        }
        Ok("UTC".to_owned())
    }
}

/// Which arm a session is on, where its line does not say so: what seed and key come to.
struct Assignment {
    experiment: Option<(u32, Experiment)>,
}

impl Assignment {
    fn of(&self, key: Option<SessionKey>) -> Option<Arm> {
        let (seed, experiment) = self.experiment.as_ref()?;
        let bucket = bucket(*seed, &key?, experiment.key.from)?;
        Some(arm(bucket, experiment.experiment.share))
    }
}

/// A line of a run; `None`, with a remark, where one that was killed has broken off.
fn line<T>(run: &RecordedRun, read: Result<T, Error>, remarks: &mut Vec<String>) -> Result<Option<T>> {
    match read {
        Ok(line) => Ok(Some(line)),
        Err(error @ Error::Line { .. }) if !run.is_sealed() => {
            remarks.push(format!("{error}: what follows in that file is left out"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn read(
    run: &RecordedRun,
    assignment: &Assignment,
    collector: &mut Collector,
    stages: &mut Stages,
    remarks: &mut Vec<String>,
) -> Result<()> {
    let mut arms: HashMap<String, Arm> = HashMap::new();
    for bin in run.sessions()? {
        let Some(bin) = line(run, bin, remarks)? else { break };
        let arm = bin.arm_assigned.or_else(|| assignment.of(bin.key));
        // A session keeps its key outside the evenings, where nothing was steered.
        let placed = collector.add(cohort(&bin.labels, bin.key, arm), &bin);
        if let Some(arm) = arm.filter(|_| placed) {
            arms.insert(bin.session, arm);
        }
    }
    let name = run.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    for sample in run.samples()? {
        let Some(sample) = line(run, sample, remarks)? else { break };
        let Some(ledger) = &sample.ledger else { continue };
        let arm = sample.arm.or_else(|| arms.get(&sample.session).copied());
        let window = sample.labels.get(Window::LABEL).or_else(|| run.run.labels.get(Window::LABEL));
        let group = match (arm, window.and_then(Value::as_str)) {
            (Some(arm), Some("aa")) => format!("{}, prelude", arm_name(Some(arm))),
            (Some(arm), _) => arm_name(Some(arm)).to_owned(),
            (None, _) => name.clone(),
        };
        stages.add(&group, ledger);
    }
    Ok(())
}

/// By the labels `isp` (or `asn`) and `family`; the family also by the address.
fn cohort(labels: &Labels, key: Option<SessionKey>, arm: Option<Arm>) -> Cohort {
    let text = |label: &str| match labels.get(label)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let asn = || text("asn").map(|asn| format!("AS{}", asn.trim_start_matches("AS")));
    let isp = text("isp").or_else(asn).unwrap_or_else(|| "no ISP named".to_owned());
    let family = match (text("family").as_deref(), key.map(|SessionKey(client)| client.ip().to_canonical())) {
        (Some("4" | "ipv4"), _) | (None, Some(IpAddr::V4(_))) => 4,
        (Some("6" | "ipv6"), _) | (None, Some(IpAddr::V6(_))) => 6,
        _ => 0,
    };
    Cohort { isp, family, arm }
}

/// What a run that was killed holds, and where it is cut.
fn remains(run: &RecordedRun) -> Result<String> {
    let found = Unsealed::read(run.path())?;
    let files = found.files.iter().map(|file| format!("; {file}"));
    Ok(format!("{} was never sealed: {}{}", shown(run.path()), found.chain(), files.collect::<String>()))
}

fn seen(run: &RecordedRun) -> Result<RunSeen> {
    let told = |key: &str| run.run.host.get(key).and_then(Value::as_str).map(str::to_owned);
    let host: Vec<String> = ["name", "kernel", "processor"].into_iter().filter_map(told).collect();
    let deeds_of = |records: &[Record]| {
        let of_files = |action: &str| ["start", "write", "seal", "report"].contains(&action);
        let deeds = records.iter().filter(|record| !of_files(&record.action)).map(|record| Deed {
            time: record.time,
            actor: record.actor.clone(),
            action: record.action.clone(),
        });
        deeds.collect()
    };
    let (seal, deeds) = match verify(run.path()) {
        Ok(found) => {
            let sealed = found.sealed.to_string();
            (Seal::Whole { sealed, records: found.records.len() }, deeds_of(&found.records))
        }
        Err(Error::Unsealed { .. }) => (Seal::Unsealed, deeds_of(&Unsealed::read(run.path())?.records)),
        Err(Error::Evidence { fault, .. }) => (Seal::Broken(fault.to_string()), Vec::new()),
        Err(other) => return Err(other.into()),
    };
    Ok(RunSeen {
        path: shown(run.path()),
        verb: run.run.verb.clone(),
        version: run.run.version.clone(),
        started: run.run.started,
        host: host.join(", "),
        seal,
        deeds,
    })
}

/// The last two parts of a path: enough to tell runs apart, and nothing of the machine.
fn shown(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        std::path::Component::Normal(part) => Some(part.to_string_lossy()),
        _ => None,
    });
    let parts: Vec<_> = parts.collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// ISPs and families in order, with their arms.
pub(super) fn places<T>(items: &[T], cohort: impl Fn(&T) -> &Cohort) -> BTreeMap<(String, u8), Vec<&T>> {
    let mut places: BTreeMap<(String, u8), Vec<&T>> = BTreeMap::new();
    for item in items {
        let of = cohort(item);
        places.entry((of.isp.clone(), of.family)).or_default().push(item);
    }
    places
}
