//! The verdict as a document: whoever holds it, the runs and this program comes to the same bytes.

use std::{collections::BTreeMap, path::Path};

use pathlab_record::SessionKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Decision, Direction, Error, Experiment, Findings, Ingest, Ingested, Input, Reason, Registered, Remark, Remarks,
    judge, policy,
};

/// The form of `verdict.json`.
pub const SCHEMA: &str = "pathlab.verdict/1";

/// `verdict.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program that judged.
    pub version: String,
    /// What to do.
    pub decision: Decision,
    /// Why, in one sentence.
    pub sentence: String,
    /// Every check with its numbers; those that led to the decision first.
    pub reasons: Vec<Reason>,
    /// Seed of the assignment, of the bootstrap and of the re-drawn assignments.
    pub seed: u32,
    /// SHA-256 of the experiment's canonical JSON: equal before and after the data when the plan was kept.
    pub plan_sha256: String,
    /// When the plan was registered, if it was.
    pub registered: Registered,
    /// Which packets took the path under test.
    pub direction: Direction,
    /// The experiment as resolved.
    pub experiment: Experiment,
    /// Every number that the decision rests on.
    pub findings: Findings,
    /// The files that were read.
    pub inputs: Vec<Input>,
    /// What was left out or remarked.
    pub remarks: BTreeMap<Remark, Remarks>,
}

impl Verdict {
    pub(crate) fn new(experiment: &Experiment, seed: u32, ingested: &Ingested, findings: Findings) -> Self {
        let (decision, reasons) = policy::decide(experiment, &findings);
        let plan_sha256 = plan_sha256(experiment);
        let registered = Registered::new(&plan_sha256, &ingested.registrations, ingested.first_of_evenings());
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            decision,
            sentence: policy::sentence(decision, &reasons),
            reasons,
            seed,
            plan_sha256,
            registered,
            direction: Direction::of(experiment.steer.mode),
            experiment: experiment.clone(),
            findings,
            inputs: ingested.inputs().to_vec(),
            remarks: ingested.remarks().clone(),
        }
    }

    /// The bytes of `verdict.json`.
    pub fn to_json(&self) -> String {
        // Serialising into memory fails only for maps with keys that are no text, and there are none.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// The hash under which a plan can be registered before there are data. Where the seed lies is no part of it.
pub fn plan_sha256(experiment: &Experiment) -> String {
    let mut plan = experiment.clone();
    plan.experiment.seed_file = std::path::PathBuf::new();
    let canonical = serde_json::to_vec(&plan).unwrap_or_default();
    Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `verdict.json` that somebody gave us: what is needed to come to it again.
#[derive(Clone, Debug)]
pub struct Given {
    header: Header,
    text: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Header {
    schema: String,
    version: String,
    seed: u32,
    experiment: Experiment,
    inputs: Vec<Input>,
}

impl Given {
    /// Reads a `verdict.json`.
    ///
    /// # Errors
    /// [`Error::Verdict`] when it is none, or of another schema.
    pub fn read(text: &str) -> Result<Self, Error> {
        let header: Header = serde_json::from_str(text).map_err(|error| Error::Verdict { why: error.to_string() })?;
        if header.schema != SCHEMA {
            return Err(Error::Verdict { why: format!("its schema is {:?}, expected {SCHEMA:?}", header.schema) });
        }
        Ok(Self { header, text: text.to_owned() })
    }

    /// The experiment that was judged.
    pub fn experiment(&self) -> &Experiment {
        &self.header.experiment
    }

    /// The files that it rests on.
    pub fn inputs(&self) -> &[Input] {
        &self.header.inputs
    }

    /// Reads the runs again and judges them again.
    ///
    /// # Errors
    /// [`Error::InputChanged`] naming the first file that is not the same, [`Error::Differs`] when the verdict is another, and what
    /// [`judge`] refuses.
    pub fn replay<'p>(
        &self,
        runs: impl IntoIterator<Item = &'p Path>,
        bucket: impl Fn(u32, &SessionKey) -> Option<u16> + Sync,
    ) -> Result<Verdict, Error> {
        let mut ingest = Ingest::new(&self.header.experiment)?;
        ingest.runs(runs)?;
        self.replay_ingested(&ingest.finish(), bucket)
    }

    /// [`replay`](Self::replay) of data that are already read.
    ///
    /// # Errors
    /// The same.
    pub fn replay_ingested(
        &self,
        ingested: &Ingested,
        bucket: impl Fn(u32, &SessionKey) -> Option<u16> + Sync,
    ) -> Result<Verdict, Error> {
        self.same_inputs(ingested.inputs())?;
        let verdict = judge(&self.header.experiment, self.header.seed, ingested, bucket)?;
        let again = verdict.to_json();
        if again == self.text {
            return Ok(verdict);
        }
        let at = again.bytes().zip(self.text.bytes()).take_while(|(a, b)| a == b).count();
        let near = self.text.get(..).map_or_else(String::new, |text| {
            let from =
                text.char_indices().map(|(place, _)| place).take_while(|place| *place + 20 <= at).last().unwrap_or(0);
            text[from..].chars().take(60).filter(|c| !c.is_control()).collect()
        });
        Err(Error::Differs { at, near, version: self.header.version.clone() })
    }

    fn same_inputs(&self, inputs: &[Input]) -> Result<(), Error> {
        let changed = |name: &str, what: String| Err(Error::InputChanged { name: name.to_owned(), what });
        for wanted in &self.header.inputs {
            let of_name = || inputs.iter().filter(|input| input.name == wanted.name);
            if of_name().any(|input| input == wanted) {
                continue;
            }
            let Some(other) = of_name().next() else { return changed(&wanted.name, "is missing".to_owned()) };
            let what = match other.bytes == wanted.bytes {
                true => format!("has SHA-256 {}, the verdict rests on {}", other.sha256, wanted.sha256),
                false => format!("has {} bytes, the verdict rests on {}", other.bytes, wanted.bytes),
            };
            return changed(&wanted.name, what);
        }
        match inputs.iter().find(|input| !self.header.inputs.contains(input)) {
            Some(more) => changed(&more.name, "is not among the inputs of the verdict".to_owned()),
            None => Ok(()),
        }
    }
}
