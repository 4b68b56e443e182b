//! The audit: every rule asked of every port, each answer with what was read, what would be good, why, and how to get there and back.

use serde::Serialize;

use crate::{
    change::Change,
    cpus::Cpus,
    facts::{Facts, Missing},
    rules::{RULES, Scope},
    source::Source,
};

/// What the host is to be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The largest burst that has to be held, in packets; absent: rings are judged by their losses and their delay alone.
    pub burst: Option<u32>,
    /// The longest that moderation or a full ring may hold a packet, in microseconds.
    pub budget_us: u32,
    /// Where the service's threads run; absent: anywhere near the port.
    pub cpus: Option<Cpus>,
}

impl Default for Expectation {
    fn default() -> Self {
        Self { burst: None, budget_us: 1_000, cpus: None }
    }
}

/// The four answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not as it should be.
    Finding,
    /// This host, port or driver has no such thing.
    NotApplicable,
    /// Not found out, because.
    CannotRead,
}

/// Something that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// From where: a file without the leading `/`, or one of the paths of [`Source`].
    pub path: String,
    /// The value when it is short; else its size; or why it could not be read.
    pub value: String,
}

/// One rule's answer about one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the rule.
    pub rule: u8,
    /// Its name.
    pub name: &'static str,
    /// A port's name, or `host`.
    pub subject: String,
    /// The answer.
    pub state: State,
    /// What was found, or why not.
    pub because: String,
    /// What would be good.
    pub good: &'static str,
    /// Who says so.
    pub source: &'static str,
    /// What was read.
    pub read: Vec<Seen>,
    /// How to change it; absent where there is nothing to change, or no command that could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// What a rule comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine(String),
    Finding(String, Option<Change>),
    NotApplicable(String),
}

impl Outcome {
    pub(crate) fn fine(because: impl Into<String>) -> Judged {
        Ok(Self::Fine(because.into()))
    }

    pub(crate) fn finding(because: impl Into<String>, change: Change) -> Judged {
        Ok(Self::Finding(because.into(), Some(change)))
    }

    /// A finding that no command mends.
    pub(crate) fn remark(because: impl Into<String>) -> Judged {
        Ok(Self::Finding(because.into(), None))
    }

    pub(crate) fn not_applicable(because: impl Into<String>) -> Judged {
        Ok(Self::NotApplicable(because.into()))
    }
}

/// `1 queue`, `2 queues`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A rule's answer, or the fact that it lacks.
pub(crate) type Judged = Result<Outcome, Missing>;

/// All answers, in the order of the rules and of the ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// One for each rule and subject.
    pub entries: Vec<Entry>,
}

impl Audit {
    /// Asks every rule. The same source and expectation give the same audit.
    pub fn new(source: &dyn Source, ports: &[String], expectation: &Expectation) -> Self {
        let facts = Facts::new(source);
        let mut entries = Vec::new();
        for rule in RULES {
            let mut enter = |subject: &str, judged: Judged| {
                let (state, because, change) = match judged {
                    Ok(Outcome::Fine(because)) => (State::Ok, because, None),
                    Ok(Outcome::Finding(because, change)) => (State::Finding, because, change),
                    Ok(Outcome::NotApplicable(because)) => (State::NotApplicable, because, None),
                    Err(missing) => (State::CannotRead, missing.to_string(), None),
                };
                entries.push(Entry {
                    rule: rule.number,
                    name: rule.name,
                    subject: subject.to_owned(),
                    state,
                    because,
                    good: rule.good,
                    source: rule.source,
                    read: facts.seen(),
                    change,
                });
            };
            match rule.scope {
                Scope::Host(judge) => enter("host", judge(&facts, expectation)),
                Scope::Port(judge) => ports.iter().for_each(|port| enter(port, judge(&facts, expectation, port))),
            }
        }
        Self { entries }
    }

    /// How many have that answer.
    pub fn count(&self, state: State) -> usize {
        self.entries.iter().filter(|entry| entry.state == state).count()
    }
}
