//! Where a run's files go, and how a run that came to nothing leaves nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Result;
use jiff::Timestamp;
use pathlab_record::{Error, Run, RunDirectory};

use crate::exit::Misuse;

/// `./runs/<UTC time>-<verb>`, with a number behind it where another run of the same second has that name.
pub(crate) fn default_path(verb: &str, started: Timestamp) -> PathBuf {
    let first = Path::new("runs").join(format!("{}-{verb}", started.strftime("%Y%m%dT%H%M%SZ")));
    let further = (2..).map(|number| PathBuf::from(format!("{}-{number}", first.display())));
    std::iter::once(first.clone()).chain(further).find(|path| !path.exists()).unwrap_or(first)
}

/// Makes a run directory, which goes away with the second value unless that is told to keep it.
pub(crate) fn create(path: &Path, about: &Run) -> Result<(RunDirectory, Scrap)> {
    let found = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("")).to_owned();
    let scrap = Scrap { path: path.to_owned(), found, kept: false };
    match RunDirectory::create(path, about) {
        Ok(directory) => Ok((directory, scrap)),
        Err(occupied @ Error::Occupied { .. }) => {
            scrap.keep();
            Err(Misuse::of(occupied))
        }
        Err(error) => Err(error.into()),
    }
}

/// What a run without a result would leave behind; dropping it removes that.
#[must_use]
pub(crate) struct Scrap {
    path: PathBuf,
    /// The directory that was there before, perhaps the run directory itself.
    found: PathBuf,
    kept: bool,
}

impl Scrap {
    /// There is a result.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What cannot be removed is not ours, or others have put something there.
        if self.path == self.found {
            let _ = empty(&self.path);
            return;
        }
        let _ = fs::remove_dir_all(&self.path);
        for parent in self.path.ancestors().skip(1).take_while(|ancestor| *ancestor != self.found) {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}
