//! A plan that was written down before there were data: what turns a good result into a prediction that came true.
//!
//! `canary register` puts `plan.json` into a sealed run directory. Given to the judge beside the data, it makes the verdict say
//! when the plan was registered, and whether it is the one that was judged.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, Experiment, Mode, plan_sha256};

/// Name of the file in a run directory.
pub const PLAN: &str = "plan.json";
/// The form of `plan.json`.
const SCHEMA: &str = "pathlab.plan/1";

/// `plan.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    schema: String,
    /// When it was written down.
    pub registered: Timestamp,
    /// SHA-256 of the experiment's canonical JSON.
    pub plan_sha256: String,
    /// The experiment as resolved.
    pub experiment: Experiment,
}

impl Registration {
    /// Of this experiment, now.
    pub fn new(experiment: &Experiment, now: Timestamp) -> Self {
        let plan_sha256 = plan_sha256(experiment);
        Self { schema: SCHEMA.to_owned(), registered: now, plan_sha256, experiment: experiment.clone() }
    }

    /// The bytes of `plan.json`.
    pub fn to_json(&self) -> String {
        // As with a verdict: nothing in it can fail to be written into memory.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a `plan.json` called `name`.
    ///
    /// # Errors
    /// [`Error::Plan`] when it is none, or when its hash is not that of its experiment.
    pub fn read(name: &str, text: &str) -> Result<Self, Error> {
        let refused = |why: String| Error::Plan { name: name.to_owned(), why };
        let plan: Self = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        if plan.schema != SCHEMA {
            return Err(refused(format!("its schema is {:?}, expected {SCHEMA:?}", plan.schema)));
        }
        let real = plan_sha256(&plan.experiment);
        if plan.plan_sha256 != real {
            return Err(refused(format!("it says {} and its experiment has SHA-256 {real}", plan.plan_sha256)));
        }
        Ok(plan)
    }
}

/// What a verdict says about its plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registered {
    /// When the plan that was judged was first registered; null where it was not.
    pub at: Option<Timestamp>,
    /// Whether that was before the first data of an evening; null where there is none of either, and where it was within the first bin, whose
    /// data may have begun before or after.
    pub before_the_evenings: Option<bool>,
    /// SHA-256 of plans that were registered and not judged.
    pub others: Vec<String>,
}

impl Registered {
    /// Of the plan with this hash, data beginning somewhere within `first`.
    pub(crate) fn new(plan: &str, registrations: &[Registration], first: Option<(Timestamp, Timestamp)>) -> Self {
        let (same, others): (Vec<_>, Vec<_>) = registrations.iter().partition(|of| of.plan_sha256 == plan);
        let at = same.iter().map(|of| of.registered).min();
        let mut others: Vec<String> = others.iter().map(|of| of.plan_sha256.clone()).collect();
        others.sort_unstable();
        others.dedup();
        let before_the_evenings = at.zip(first).and_then(|(at, (start, end))| match at {
            at if at < start => Some(true),
            at if at >= end => Some(false),
            _ => None,
        });
        Self { at, before_the_evenings, others }
    }

    /// For a person.
    pub fn text(&self) -> String {
        // To the second: the rest is in the JSON.
        let at = self.at.map(|at| Timestamp::from_second(at.as_second()).unwrap_or(at));
        let text = match (at, self.before_the_evenings) {
            (None, _) => "plan not registered".to_owned(),
            (Some(at), Some(true)) => format!("plan registered {at}, before the evenings"),
            (Some(at), Some(false)) => format!("plan registered {at}, when there were data already"),
            (Some(at), None) => format!("plan registered {at}; bins do not tell whether the data had begun"),
        };
        match self.others.len() {
            0 => text,
            others => format!("{text}; {others} other plan registered: {}", self.others.join(", ")),
        }
    }
}

/// Which packets took the path under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Those from the server to its clients: a server's, or a router's, own routing decides about no others.
    ServerToClient,
}

impl Direction {
    /// Of an experiment.
    pub fn of(mode: Mode) -> Self {
        match mode {
            Mode::Host | Mode::Router => Self::ServerToClient,
        }
    }

    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::ServerToClient => "packets from the server to its clients; the way to the server was not changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_back_and_a_changed_one_is_refused() {
        let experiment = Experiment::from_toml("x", crate::experiment::tests::EXAMPLE).unwrap();
        let plan = Registration::new(&experiment, "2026-11-20T08:00:00Z".parse().unwrap());
        assert_eq!(Registration::read("x", &plan.to_json()).unwrap(), plan);
        let changed = plan.to_json().replace("\"margin\": \"2ms\"", "\"margin\": \"9ms\"");
        let refusal = Registration::read("run/plan.json", &changed).unwrap_err().to_string();
        assert!(refusal.starts_with("run/plan.json: ") && refusal.contains("its experiment has SHA-256"), "{refusal}");
        assert!(Registration::read("x", "{}").is_err());
    }

    #[test]
    fn the_first_registration_of_the_judged_plan_counts() {
        let experiment = Experiment::from_toml("x", crate::experiment::tests::EXAMPLE).unwrap();
        let mut other = experiment.clone();
        other.windows.evenings = 3;
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let plans = [
            Registration::new(&experiment, at("2026-11-22T08:00:00Z")),
            Registration::new(&experiment, at("2026-11-20T08:00:00Z")),
            Registration::new(&other, at("2026-11-19T08:00:00Z")),
        ];
        let sha256 = plan_sha256(&experiment);
        let first = Some((at("2026-11-21T10:00:00Z"), at("2026-11-21T10:10:00Z")));
        let registered = Registered::new(&sha256, &plans, first);
        assert_eq!((registered.at, registered.before_the_evenings), (Some(plans[1].registered), Some(true)));
        assert_eq!(registered.others, [plan_sha256(&other)]);
        let late = Registered::new(&sha256, &plans[..1], first);
        assert!(late.text().contains("when there were data already"), "{}", late.text());
        let meanwhile = [Registration::new(&experiment, at("2026-11-21T10:04:00.25Z"))];
        let meanwhile = Registered::new(&sha256, &meanwhile, first);
        assert_eq!(meanwhile.before_the_evenings, None, "the bin may hold data of before and after");
        assert!(
            meanwhile.text().starts_with("plan registered 2026-11-21T10:04:00Z; bins do not"),
            "{}",
            meanwhile.text()
        );
        assert_eq!(Registered::new(&sha256, &[], first).text(), "plan not registered");
    }
}
