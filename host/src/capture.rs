//! A capture: exactly what an audit reads, as a tree of plain files that somebody else can audit.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    audit::{Audit, Expectation},
    live::Live,
    source::{Recording, Source, Tree, Unread},
};

/// Schema of `capture.json`.
pub const SCHEMA: &str = "pathlab.host.capture/1";

/// `capture.json`, beside the tree: what the tree is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// [`SCHEMA`].
    pub schema: String,
    /// The ports that were looked at.
    pub ports: Vec<String>,
    /// Milliseconds between the two readings of the counters.
    pub window_ms: u64,
}

/// File name of the description.
const DESCRIPTION: &str = "capture.json";

impl Capture {
    /// Describes a capture of `ports`.
    pub fn new(ports: Vec<String>, window_ms: u64) -> Self {
        Self { schema: SCHEMA.into(), ports, window_ms }
    }

    /// Reads the description of a tree; one built by hand may have none, and is then of all ports in it.
    ///
    /// # Errors
    /// A folder that cannot be read, or a description that is not one.
    pub fn open(root: &Path) -> io::Result<Self> {
        let place = root.join(DESCRIPTION);
        match fs::read(&place) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", place.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let ports = Tree::new(root).list("port").map_err(|reason| match reason {
                    Unread::Absent => io::Error::new(
                        io::ErrorKind::NotFound,
                        format!("{}: no {DESCRIPTION} and no port/: this is no capture", root.display()),
                    ),
                    reason => io::Error::other(format!("{}: {reason}", root.display())),
                })?;
                Ok(Self::new(ports, 0))
            }
            Err(error) => Err(error),
        }
    }

    /// Audits `live` and writes all that was read to `root`, which must not exist yet.
    ///
    /// # Errors
    /// When the folder exists or cannot be written.
    pub fn write(&self, live: Live, expectation: &Expectation, root: &Path) -> io::Result<(Audit, usize)> {
        let recording = Recording::new(live);
        let audit = Audit::new(&recording, &self.ports, expectation);
        let mut files: BTreeMap<String, String> = recording.into_files();
        files.insert(DESCRIPTION.into(), serde_json::to_string_pretty(self)? + "\n");
        fs::create_dir(root)?;
        for (path, content) in &files {
            let place = root.join(path);
            fs::create_dir_all(place.parent().unwrap_or(root))?;
            fs::write(place, content)?;
        }
        Ok((audit, files.len()))
    }
}
