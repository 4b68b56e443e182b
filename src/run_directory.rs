//! Where a run's files go, and how a run that came to nothing leaves nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// `./runs/<UTC time>-<verb>`.
pub(crate) fn default_path(verb: &str, started: Timestamp) -> PathBuf {
    Path::new("runs").join(format!("{}-{verb}", started.strftime("%Y%m%dT%H%M%SZ")))
}

/// Removes the directory of a run that failed before it measured anything, and `runs` if that leaves it empty.
pub(crate) fn discard(path: &Path) {
    let removed = fs::remove_dir_all(path);
    if let (Ok(()), Some(parent)) = (removed, path.parent()) {
        // Fails while other runs are in it, as it should.
        let _ = fs::remove_dir(parent);
    }
}
