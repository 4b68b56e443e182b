//! Kernel parameters under `/proc/sys`, with the value to go back to.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, in_netns};

/// One kernel parameter and what it held before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// Named network namespace; `None` is the one in which the journal was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Path below `/proc/sys`, such as `net/ipv4/fwmark_reflect`. A path and not the dotted form: interface names may
    /// hold dots.
    pub path: String,
    /// The value to restore, without the line end.
    pub was: String,
}

impl Sysctl {
    /// Reads the present value, so that it can be recorded before [`Sysctl::write`].
    ///
    /// # Errors
    /// [`Error::File`] when the kernel has no such parameter; [`Error::NoNetns`].
    pub fn read(netns: Option<&str>, path: &str) -> Result<Self> {
        let file = full(path);
        let was = in_netns(netns, || fs::read_to_string(&file).map_err(Error::file("read", &file)))?;
        Ok(Self { netns: netns.map(str::to_owned), path: path.to_owned(), was: was.trim_end().to_owned() })
    }

    /// Writes another value.
    ///
    /// # Errors
    /// [`Error::File`] when the kernel refuses it; [`Error::NoNetns`].
    pub fn write(&self, value: &str) -> Result<()> {
        let file = full(&self.path);
        in_netns(self.netns.as_deref(), || fs::write(&file, value).map_err(Error::file("write", &file)))
    }

    /// Writes the former value. `false` when it held it already or the parameter went away with its device.
    pub(crate) fn restore(&self) -> Result<bool> {
        match Self::read(self.netns.as_deref(), &self.path) {
            Ok(now) if now.was == self.was => Ok(false),
            Err(Error::NoNetns { .. }) => Ok(false),
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.and_then(|_| self.write(&self.was)).map(|()| true),
        }
    }
}

fn full(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path.trim_start_matches('/'))
}
