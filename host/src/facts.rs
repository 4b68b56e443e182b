//! What a rule asks of a source, parsed; and a note of every path that it looked at, so that no rule can forget to say.

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use crate::{
    audit::Seen,
    cpus::Cpus,
    source::{Source, Unread},
};

/// A source, and what was read of it since the last [`Facts::seen`].
pub(crate) struct Facts<'a> {
    source: &'a dyn Source,
    seen: RefCell<Vec<Seen>>,
}

/// A fact that is missing: which, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub(crate) struct Missing {
    pub(crate) path: String,
    pub(crate) reason: Unread,
}

/// Longer values are shown by their length.
const SHOWN: usize = 100;

impl<'a> Facts<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Self { source, seen: RefCell::default() }
    }

    /// What was read since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.take()
    }

    /// The text at a path.
    pub(crate) fn text(&self, path: &str) -> Result<String, Missing> {
        let read = self.source.read(path);
        let value = match &read {
            Ok(text) => shown(text),
            Err(reason) => reason.to_string(),
        };
        self.note(path, value);
        read.map_err(|reason| Missing { path: path.to_owned(), reason })
    }

    /// The text without the white space around it.
    pub(crate) fn line(&self, path: &str) -> Result<String, Missing> {
        Ok(self.text(path)?.trim().to_owned())
    }

    /// One number.
    pub(crate) fn number(&self, path: &str) -> Result<i64, Missing> {
        let line = self.line(path)?;
        line.parse().map_err(|_| odd(path, &line, "a number"))
    }

    /// One number, or `None` where there is no such thing.
    pub(crate) fn number_if_there(&self, path: &str) -> Result<Option<i64>, Missing> {
        if_there(self.number(path))
    }

    /// A list of CPUs.
    pub(crate) fn cpus(&self, path: &str) -> Result<Cpus, Missing> {
        let line = self.line(path)?;
        Cpus::list(&line).ok_or_else(|| odd(path, &line, "a list of CPUs"))
    }

    /// A mask of CPUs.
    pub(crate) fn mask(&self, path: &str) -> Result<Cpus, Missing> {
        let line = self.line(path)?;
        Cpus::mask(&line).ok_or_else(|| odd(path, &line, "a mask of CPUs"))
    }

    /// What was told over a socket.
    pub(crate) fn told<T: DeserializeOwned>(&self, path: &str) -> Result<T, Missing> {
        let text = self.text(path)?;
        serde_json::from_str(&text).map_err(|error| odd(path, &error.to_string(), "what pathlab host capture writes"))
    }

    /// The names in a folder.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>, Missing> {
        let read = self.source.list(path);
        let value = match &read {
            Ok(names) => shown(&names.join(" ")),
            Err(reason) => reason.to_string(),
        };
        self.note(path, value);
        read.map_err(|reason| Missing { path: path.to_owned(), reason })
    }

    /// The receive (`rx`) or transmit (`tx`) queues of a port, by number.
    pub(crate) fn queues(&self, port: &str, direction: &str) -> Result<Vec<u32>, Missing> {
        let names = self.list(&format!("sys/class/net/{port}/queues"))?;
        let mut queues: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix(direction)?.strip_prefix('-')?.parse().ok()).collect();
        queues.sort_unstable();
        Ok(queues)
    }

    /// CPUs that run.
    pub(crate) fn online(&self) -> Result<Cpus, Missing> {
        self.cpus("sys/devices/system/cpu/online")
    }

    /// CPUs near the port: those of its NUMA node, all where the host has no such thing.
    pub(crate) fn local(&self, port: &str) -> Result<Cpus, Missing> {
        let online = self.online()?;
        match self.cpus(&format!("sys/class/net/{port}/device/local_cpulist")) {
            Ok(local) if !local.shared(&online).is_empty() => Ok(local.shared(&online)),
            Ok(_) => Ok(online),
            Err(missing) if missing.reason == Unread::Absent => Ok(online),
            Err(missing) => Err(missing),
        }
    }

    fn note(&self, path: &str, value: String) {
        let mut seen = self.seen.borrow_mut();
        if !seen.iter().any(|earlier| earlier.path == path) {
            seen.push(Seen { path: path.to_owned(), value });
        }
    }
}

/// `None` in place of a thing that is not there.
pub(crate) fn if_there<T>(read: Result<T, Missing>) -> Result<Option<T>, Missing> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(missing) if missing.reason == Unread::Absent => Ok(None),
        Err(missing) => Err(missing),
    }
}

fn odd(path: &str, found: &str, wanted: &str) -> Missing {
    let found: String = found.chars().take(SHOWN).collect();
    Missing { path: path.to_owned(), reason: Unread::Refused(format!("{found:?} is not {wanted}")) }
}

/// A value as it stands in an audit: one line that cannot carry control characters.
fn shown(text: &str) -> String {
    let text = text.trim();
    if text.len() > SHOWN || text.contains('\n') {
        format!("{} lines, {} octets", text.lines().count(), text.len())
    } else {
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
    }
}
