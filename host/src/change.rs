//! What an audit would change, as settings with their values before and after; the commands there and back are printed from them.

use pathlab_guard::{Setting, ethtool::Group};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// What makes a finding good, and brings back what is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// In order.
    pub steps: Vec<Step>,
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A setting of the kernel or a port.
    Set {
        /// What.
        setting: Setting,
        /// The value that would be good.
        to: String,
        /// The value that it has.
        now: String,
    },
    /// Another program's business: a person types it.
    ByHand {
        /// The command.
        fix: String,
        /// The command that brings it back.
        undo: String,
    },
}

impl Step {
    /// The commands that an operator would type.
    pub fn fix(&self) -> Vec<String> {
        match self {
            Self::Set { setting, to, .. } => setting.commands(to),
            Self::ByHand { fix, .. } => vec![fix.clone()],
        }
    }

    /// The commands that bring back what is now.
    pub fn undo(&self) -> Vec<String> {
        match self {
            Self::Set { setting, now, .. } => setting.commands(now),
            Self::ByHand { undo, .. } => vec![undo.clone()],
        }
    }
}

impl Change {
    /// The commands that an operator would type, in order.
    pub fn fix(&self) -> Vec<String> {
        self.steps.iter().flat_map(Step::fix).collect()
    }

    /// The commands that bring back what is now.
    pub fn undo(&self) -> Vec<String> {
        self.steps.iter().flat_map(Step::undo).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// One command of a person, and its inverse.
    pub(crate) fn by_hand(fix: impl Into<String>, undo: impl Into<String>) -> Self {
        Self { steps: vec![Step::ByHand { fix: fix.into(), undo: undo.into() }] }
    }

    /// Rings, channels or moderation of a port.
    pub(crate) fn parameters(group: Group, port: &str, to: String, now: String) -> Self {
        let mut change = Self::default();
        change.set(Setting::Parameters { group, port: port.to_owned() }, to, now);
        change
    }

    pub(crate) fn set(&mut self, setting: Setting, to: impl Into<String>, now: impl Into<String>) {
        self.steps.push(Step::Set { setting, to: to.into(), now: now.into() });
    }

    /// A value written into a file of procfs or sysfs, and the value that it has now.
    pub(crate) fn write(&mut self, path: &str, value: &str, now: &str) {
        let setting = Setting::of_file(path).unwrap_or_else(|| Setting::File { path: path.to_owned() });
        self.set(setting, value, now);
    }

    /// A sysctl by its dotted name, and the value that it has now.
    pub(crate) fn sysctl(&mut self, name: &str, value: impl ToString, now: impl ToString) {
        self.set(Setting::Sysctl { path: name.replace('.', "/") }, value.to_string(), now.to_string());
    }
}

/// As commands: an audit is read by people and by programs that know ethtool.
impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut change = serializer.serialize_struct("Change", 2)?;
        change.serialize_field("fix", &self.fix())?;
        change.serialize_field("undo", &self.undo())?;
        change.end()
    }
}
