//! A setting that is changed, and how it is taken back: noted before it is written, compared with what we set before it is written back.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{Error, Journal, Object, Result, beside::Beside, setting::Setting};

/// A setting with its value before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// What.
    pub setting: Setting,
    /// Whose it was: the port's index, the name that asked for the interrupt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The value to restore.
    pub was: String,
    /// The value that was asked for.
    pub wanted: String,
    /// What the kernel made of it; absent while it has not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// What the driver may set anew with it: as it was, and as it was when the kernel had answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// See [`Changed::beside`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside_set: Option<Beside>,
}

/// Where a change stands, for those who look on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// On the disk, and not on the host.
    Noted,
    /// On the host; what the kernel made of it is not on the disk.
    Written,
    /// Both.
    Settled,
}

/// How an object was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was there, and is not any more.
    Back,
    /// It was gone already.
    Gone,
    /// It has been changed by somebody else since, into this: theirs now.
    Left(String),
}

impl From<bool> for Taken {
    fn from(was_there: bool) -> Self {
        if was_there { Self::Back } else { Self::Gone }
    }
}

impl Changed {
    /// Reads the present value and all that may change with it. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Call`] when it cannot be read.
    pub fn read(setting: Setting, wanted: impl Into<String>) -> Result<Self> {
        let wanted = wanted.into();
        let was = setting.read().map_err(Error::call(format!("read what `{}` sets", command(&setting, &wanted))))?;
        let beside = setting.port().filter(|_| setting.resets_port()).map(Beside::read);
        Ok(Self { of: setting.owner(), was, wanted, set: None, beside, beside_set: None, setting })
    }

    /// Notes it in the journal, sets it, and notes what the kernel made of it.
    ///
    /// # Errors
    /// [`Error::Call`] when the kernel refuses it or does nothing: the journal then takes back what came before. [`Error::File`] when it cannot be
    /// noted: then nothing was set.
    pub fn make(mut self, journal: &mut Journal, mut watch: impl FnMut(Moment)) -> Result<Self> {
        let noted = Object::from(self.clone());
        journal.record(noted.clone())?;
        watch(Moment::Noted);
        self.write()?;
        watch(Moment::Written);
        let failed = Error::call(format!("read back `{}`", command(&self.setting, &self.wanted)));
        let now = self.setting.read().map_err(failed)?;
        if now == self.was && !self.setting.alike(&now, &self.wanted) {
            let source = io::Error::other("the driver took it and changed nothing");
            return Err(Error::Call { call: command(&self.setting, &self.wanted), source });
        }
        self.set = Some(now);
        self.beside_set = self.beside.as_ref().and(self.setting.port()).map(Beside::read);
        // First the better note: between the two both are there, and taking back either is right.
        journal.record(self.clone())?;
        journal.retract(noted)?;
        watch(Moment::Settled);
        Ok(self)
    }

    /// Sets it again after [`Changed::write_back`].
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn write(&self) -> Result<()> {
        self.setting.write(&self.wanted).map_err(Error::call(command(&self.setting, &self.wanted)))
    }

    /// Brings back what was, while the journal keeps its note: for those who change to and fro. A value that is neither what was nor what was set
    /// is left; the value is then returned.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn write_back(&self) -> Result<Option<String>> {
        Ok(match self.restore(false)? {
            Taken::Left(now) => Some(now),
            Taken::Back | Taken::Gone => None,
        })
    }

    /// Whether the kernel made something else of the wish, such as a power of two.
    pub fn made_another(&self) -> Option<&str> {
        self.set.as_deref().filter(|set| !self.setting.alike(set, &self.wanted))
    }

    pub(crate) fn restore(&self, force: bool) -> Result<Taken> {
        let back = || command(&self.setting, &self.was);
        let failed = |source| Error::Call { call: back(), source };
        if self.of.is_some() && self.setting.owner() != self.of {
            return Ok(Taken::Gone);
        }
        let now = match self.setting.read() {
            Err(error) if gone(&error) => return Ok(Taken::Gone),
            other => other.map_err(failed)?,
        };
        let before = self.beside.as_ref().and(self.setting.port()).map(Beside::read);
        let is_back = now == self.was || self.setting.alike(&now, &self.was);
        if !is_back {
            let ours = self.set.as_deref().is_none_or(|set| now == set || self.is_what_was_set(&now, set));
            if !ours && !force {
                return Ok(Taken::Left(now));
            }
            self.setting.write_back(&self.was).map_err(failed)?;
            let is = self.setting.read().map_err(failed)?;
            if !self.setting.alike(&is, &self.was) {
                return Err(failed(io::Error::other(format!("the driver made {is} of it"))));
            }
        }
        // Without the kernel's answer on the disk it may never have been written; what stands beside it is then as it was, or somebody else's.
        if is_back && self.set.is_none() {
            return Ok(Taken::Gone);
        }
        if let (Some(beside), Some(before), Some(port)) = (&self.beside, &before, self.setting.port()) {
            let left = beside.restore(port, before, self.beside_set.as_ref(), force).map_err(failed)?;
            if !left.is_empty() {
                return Ok(Taken::Left(left.join(", ")));
            }
        }
        Ok((!is_back).into())
    }

    /// As far as was asked for: under moderation by the rate, the delays that nobody set go up and down.
    fn is_what_was_set(&self, now: &str, set: &str) -> bool {
        self.setting.alike(set, &self.wanted) && self.setting.alike(now, &self.wanted)
    }
}

/// One line, as an operator would type it.
fn command(setting: &Setting, value: &str) -> String {
    setting.commands(value).join("; ")
}

/// The port, the queue or the parameter went away.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP))
}

impl From<Changed> for Object {
    fn from(changed: Changed) -> Self {
        Self::Changed(Box::new(changed))
    }
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (was {})", command(&self.setting, &self.wanted), self.was)
    }
}
