//! One question with its answer: yes, no, or cannot tell, because; and what would help.

use serde::Serialize;

/// The three answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It works: seen, not assumed.
    Yes,
    /// It does not.
    No,
    /// Not found out.
    CannotTell,
}

/// One line of the examination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was asked.
    pub(crate) what: String,
    /// The answer.
    pub(crate) answer: Answer,
    /// What was seen, or why not.
    pub(crate) because: String,
    /// What to do about it; absent where there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Check {
    /// It works.
    pub(crate) fn yes(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { what: what.into(), answer: Answer::Yes, because: seen.into(), remedy: None }
    }

    /// It does not.
    pub(crate) fn no(what: impl Into<String>, because: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into()).filter(|words| !words.is_empty());
        Self { what: what.into(), answer: Answer::No, because: because.into(), remedy }
    }

    /// It was not found out.
    pub(crate) fn cannot_tell(what: impl Into<String>, because: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { answer: Answer::CannotTell, ..Self::no(what, because, remedy) }
    }
}
