//! The undo journal: each object is on disk before it is on the host, so that whoever comes after a crash knows what to
//! take back.
//!
//! A journal is a file of JSON lines: who opened it, then one line for each object recorded or retracted, then perhaps
//! that it is kept.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{Error, Object, Process, Result, changed::Taken, netns};

const DEFAULT_DIR: &str = "/var/lib/pathlab/undo";

/// Where journals live: `PATHLAB_UNDO_DIR`, or `/var/lib/pathlab/undo`.
pub fn undo_dir() -> PathBuf {
    std::env::var_os("PATHLAB_UNDO_DIR").map_or_else(|| DEFAULT_DIR.into(), PathBuf::from)
}

/// First line of a journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    verb: String,
    id: String,
    owner: Process,
    /// Kernel objects do not outlive the boot that made them.
    boot: String,
    /// The network namespace in which `netns: None` means anything.
    netns_inode: u64,
    created: jiff::Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Open(Header),
    Record(Object),
    Retract(Object),
    Keep,
}

/// The journal of a running owner. Undone when dropped, unless [`Journal::keep`] was called.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    settled: bool,
}

impl Journal {
    /// Opens a new journal in [`undo_dir`], owned by this process. `id` is the experiment's or the lab's name.
    ///
    /// # Errors
    /// [`Error::JournalExists`] when one of this name is there; [`Error::JournalName`]; [`Error::File`].
    pub fn create(verb: &str, id: &str) -> Result<Self> {
        Self::create_in(&undo_dir(), verb, id)
    }

    /// Like [`Journal::create`] in another directory, made when missing.
    ///
    /// # Errors
    /// As [`Journal::create`].
    pub fn create_in(dir: &Path, verb: &str, id: &str) -> Result<Self> {
        let name = format!("{verb}-{id}");
        let sign = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if id.is_empty() || name.contains(sign) || name.starts_with(['-', '_', '.']) || name.len() > 200 {
            return Err(Error::JournalName { id: id.to_owned() });
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::file("create", dir))?;
        let path = dir.join(name).with_added_extension("jsonl");
        let file = loop {
            let file = match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if remove_unborn(&path) {
                        continue;
                    }
                    return Err(Error::JournalExists { path, id: id.to_owned() });
                }
                other => other.map_err(Error::file("create", &path))?,
            };
            file.lock().map_err(Error::file("lock", &path))?;
            // Somebody may have taken it for one whose author died before its first line.
            if file.metadata().is_ok_and(|meta| meta.nlink() > 0) {
                break file;
            }
        };
        let mut journal = Self { path, file, settled: false };
        journal.write([Line::Open(Header {
            verb: verb.to_owned(),
            id: id.to_owned(),
            owner: Process::current(),
            boot: boot_id()?,
            netns_inode: netns::current_inode()?,
            created: jiff::Timestamp::now(),
        })])?;
        journal.file.unlock().map_err(Error::file("unlock", &journal.path))?;
        // The name itself must survive a power cut, not only the contents.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::file("sync", dir))?;
        Ok(journal)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes an object that is about to be put on the host. When this returns, the note is on the disk.
    ///
    /// # Errors
    /// [`Error::File`]: then the object must not be created.
    pub fn record(&mut self, object: impl Into<Object>) -> Result<()> {
        self.write([Line::Record(object.into())])
    }

    /// Notes several objects with one sync.
    ///
    /// # Errors
    /// As [`Journal::record`].
    pub fn record_all(&mut self, objects: impl IntoIterator<Item = Object>) -> Result<()> {
        self.write(objects.into_iter().map(Line::Record))
    }

    /// Takes a note back: the object was not created after all, or belongs to somebody else, or was taken off the host
    /// already.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn retract(&mut self, object: impl Into<Object>) -> Result<()> {
        self.write([Line::Retract(object.into())])
    }

    /// Takes everything back, newest first, and removes the journal.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when something could not be taken back: the journal stays, and [`leftovers`] lists it.
    pub fn undo(mut self) -> Result<Undone> {
        self.settled = true;
        undo_file(&self.path, false)
    }

    /// Leaves everything on the host, with the journal, for a later [`Leftover::undo`].
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn keep(mut self) -> Result<PathBuf> {
        self.write([Line::Keep])?;
        self.settled = true;
        Ok(self.path.clone())
    }

    fn write(&mut self, lines: impl IntoIterator<Item = Line>) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text += &serde_json::to_string(&line).expect("a journal line has string keys only");
            text.push('\n');
        }
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(Error::file("write", &self.path))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.settled
            && let Err(error) = undo_file(&self.path, false)
        {
            warn!(%error, "the way back is incomplete");
        }
    }
}

/// A journal as found on the disk.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The file.
    pub path: PathBuf,
    /// What wrote it: `canary`, `lab`, `demo`.
    pub verb: String,
    /// The experiment or lab.
    pub id: String,
    /// The process that wrote it.
    pub owner: Process,
    /// When.
    pub created: jiff::Timestamp,
    /// Left on the host on purpose.
    pub kept: bool,
    /// The last line was cut off by a crash. Its object was never created: the note comes first.
    pub torn: bool,
    /// What is on the host, oldest first.
    pub objects: Vec<Object>,
    boot: String,
    netns_inode: u64,
}

impl Leftover {
    /// Reads a journal.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::JournalHeader`] when its first line cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(Error::file("read", path))?;
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let header = match serde_json::from_slice(lines.next().unwrap_or_default()) {
            Ok(Line::Open(header)) => header,
            Ok(_) => {
                return Err(Error::JournalHeader {
                    path: path.into(),
                    source: serde::de::Error::custom("no `open` line"),
                });
            }
            Err(source) => return Err(Error::JournalHeader { path: path.into(), source }),
        };
        let Header { verb, id, owner, boot, netns_inode, created } = header;
        let mut journal = Self {
            path: path.to_owned(),
            verb,
            id,
            owner,
            created,
            kept: false,
            torn: false,
            objects: Vec::new(),
            boot,
            netns_inode,
        };
        for line in lines {
            match serde_json::from_slice(line) {
                Ok(Line::Record(object)) => journal.objects.push(object),
                Ok(Line::Retract(object)) => journal.objects.retain(|other| *other != object),
                Ok(Line::Keep) => journal.kept = true,
                Ok(Line::Open(_)) | Err(_) => journal.torn = true,
            }
        }
        Ok(journal)
    }

    /// Nobody will undo this but an operator: its owner is gone, or it was kept on purpose.
    pub fn is_orphan(&self) -> bool {
        self.kept || !self.owner.is_alive()
    }

    /// Whether the host was started anew since, so that what the kernel alone held is gone.
    pub fn is_of_another_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot != self.boot)
    }

    /// Which network namespace it is about, in words; `None` for the calling thread's, and after a reboot.
    pub fn elsewhere(&self) -> Option<String> {
        let here = netns::current_inode().is_ok_and(|inode| inode == self.netns_inode);
        (!here && !self.is_of_another_boot()).then(|| netns::words(self.netns_inode))
    }

    /// Takes everything back, newest first, and removes the journal unless something in it was left to somebody else.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when something could not be taken back.
    pub fn undo(self) -> Result<Undone> {
        undo_file(&self.path, false)
    }

    /// Like [`Leftover::undo`], over what others have set since, too.
    ///
    /// # Errors
    /// As [`Leftover::undo`].
    pub fn undo_by_force(self) -> Result<Undone> {
        undo_file(&self.path, true)
    }

    fn undo_objects(&self, force: bool) -> (Undone, Vec<Error>) {
        let mut undone = Undone { torn: self.torn, ..Undone::default() };
        let mut failed = Vec::new();
        let other_boot = self.is_of_another_boot();
        let here = other_boot || netns::current_inode().is_ok_and(|inode| inode == self.netns_inode);
        let elsewhere = if here { None } else { netns::find(self.netns_inode) };
        let homeless = !here && elsewhere.is_none();
        // Ports are found in /sys, which shows the namespace of whoever mounted it.
        let in_sysfs = !other_boot && self.objects.iter().any(|object| matches!(object, Object::Changed(_)));
        let mut work = || {
            if in_sysfs {
                netns::mount_own_sysfs()?;
            }
            for object in self.objects.iter().rev() {
                let gone = other_boot && object.is_volatile() || homeless && object.is_of_its_netns();
                let result = if gone { Ok(Taken::Gone) } else { object.undo(force) };
                match result {
                    Ok(Taken::Back) => undone.removed.push(object.clone()),
                    Ok(Taken::Gone) => undone.gone.push(object.clone()),
                    Ok(Taken::Left(now)) => undone.left.push((object.clone(), now)),
                    Err(error) => failed.push(error),
                }
            }
            Ok(())
        };
        let home = if here {
            if in_sysfs { netns::on_a_thread(work) } else { work() }
        } else if let Some(namespace) = elsewhere {
            netns::inside(&namespace, work)
        } else {
            // The namespace took its own objects along; files and what is in named namespaces may still be there.
            netns::inside_new(work)
        };
        failed.extend(home.err());
        (undone, failed)
    }
}

/// What [`Journal::undo`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Taken back, newest first.
    pub removed: Vec<Object>,
    /// Found gone already.
    pub gone: Vec<Object>,
    /// Changed by somebody else since, into this, and left so: the journal stays, for [`Leftover::undo_by_force`].
    pub left: Vec<(Object, String)>,
    /// The journal ended in a torn line.
    pub torn: bool,
}

/// All journals of [`undo_dir`], those of running owners too. Files that are none are reported in their place.
pub fn all() -> Vec<Result<Leftover>> {
    let paths = fs::read_dir(undo_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    paths.sort();
    paths.retain(|path| !remove_unborn(path));
    paths.iter().map(|path| Leftover::read(path)).collect()
}

/// Removes a journal whose author died before its first line: nothing was recorded, so nothing is on the host.
fn remove_unborn(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    // An author at work holds the lock.
    if file.try_lock().is_err() {
        return false;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).is_ok() && !bytes.contains(&b'\n') && fs::remove_file(path).is_ok()
}

/// The journals of [`undo_dir`] that only an operator can settle: the owner is gone, or they were kept on purpose.
pub fn leftovers() -> Vec<Leftover> {
    all().into_iter().flatten().filter(Leftover::is_orphan).collect()
}

pub(crate) fn undo_file(path: &Path, force: bool) -> Result<Undone> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Undone::default()),
        other => other.map_err(Error::file("open", path))?,
    };
    // A guardian and an operator's rollback may come at once. The second must not undo what a third has created since.
    file.lock().map_err(Error::file("lock", path))?;
    let locked = file.metadata().map_err(Error::file("stat", path))?.ino();
    if fs::metadata(path).ok().map(|meta| meta.ino()) != Some(locked) {
        return Ok(Undone::default());
    }
    let journal = Leftover::read(path)?;
    let (undone, mut failed) = journal.undo_objects(force);
    if failed.is_empty() && !undone.left.is_empty() {
        return Ok(undone);
    }
    if failed.is_empty() {
        fs::remove_file(path).map_err(Error::file("remove", path))?;
        return Ok(undone);
    }
    Err(Error::Incomplete {
        failed: failed.len(),
        of: journal.objects.len(),
        first: Box::new(failed.swap_remove(0)),
        path: path.to_owned(),
    })
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|id| id.trim().to_owned()).map_err(Error::file("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> Object {
        fs::write(path, "").unwrap();
        Object::File { path: path.to_owned() }
    }

    #[test]
    fn undo_goes_backwards_skips_what_was_retracted_and_removes_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| file(&dir.path().join(name)));
        let mut journal = Journal::create_in(&dir.path().join("undo"), "test", "order").unwrap();
        journal.record_all([a.clone(), b.clone()]).unwrap();
        journal.record(c.clone()).unwrap();
        journal.retract(b.clone()).unwrap();
        let path = journal.path().to_owned();
        let undone = journal.undo().unwrap();
        assert_eq!(undone, Undone { removed: vec![c, a], ..Undone::default() });
        assert!(dir.path().join("b").exists() && !path.exists());
    }

    #[test]
    fn a_journal_without_its_first_line_is_in_nobodys_way_unless_its_author_is_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test-unborn.jsonl");
        fs::write(&path, "{\"open\":").unwrap();
        let author = File::open(&path).unwrap();
        author.lock().unwrap();
        assert!(!remove_unborn(&path));
        assert!(matches!(Journal::create_in(dir.path(), "test", "unborn"), Err(Error::JournalExists { .. })));
        drop(author);
        let journal = Journal::create_in(dir.path(), "test", "unborn").unwrap();
        assert!(!remove_unborn(journal.path()));
    }

    #[test]
    fn a_dropped_journal_undoes_itself_and_a_kept_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let object = file(&dir.path().join("a"));
        let mut journal = Journal::create_in(dir.path(), "test", "drop").unwrap();
        journal.record(object).unwrap();
        drop(journal);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let mut journal = Journal::create_in(dir.path(), "test", "keep").unwrap();
        journal.record(file(&dir.path().join("a"))).unwrap();
        let path = journal.keep().unwrap();
        assert!(dir.path().join("a").exists());
        let left = Leftover::read(&path).unwrap();
        assert!(left.kept && left.is_orphan() && left.owner.is_alive());
        assert_eq!(left.undo().unwrap().removed.len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_is_taken_once_and_must_be_a_file_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::create_in(dir.path(), "test", "one").unwrap();
        assert!(matches!(Journal::create_in(dir.path(), "test", "one"), Err(Error::JournalExists { .. })));
        drop(first);
        Journal::create_in(dir.path(), "test", "one").unwrap();
        for id in ["", "a/b", "../x", "a b"] {
            assert!(matches!(Journal::create_in(dir.path(), "test", id), Err(Error::JournalName { .. })), "{id:?}");
        }
    }

    #[test]
    fn any_cut_of_a_journal_reads_as_a_prefix_of_its_objects() {
        let dir = tempfile::tempdir().unwrap();
        let objects = [1, 2, 3].map(|n| Object::Netns { name: format!("n{n}") });
        let mut journal = Journal::create_in(dir.path(), "test", "torn").unwrap();
        let path = journal.path().to_owned();
        let head = fs::read(&path).unwrap().len();
        journal.record_all(objects.clone()).unwrap();
        let whole = fs::read(&path).unwrap();
        let cut = dir.path().join("cut");
        for end in 0..=whole.len() {
            fs::write(&cut, &whole[..end]).unwrap();
            let Ok(read) = Leftover::read(&cut) else {
                assert!(end < head, "cut at {end}");
                continue;
            };
            assert_eq!(read.objects, objects[..read.objects.len()]);
            let at_line_end =
                whole[..end].ends_with(b"\n") || end + 1 == whole.len() || whole[end..].starts_with(b"\n");
            assert_eq!(read.torn, !at_line_end, "cut at {end}");
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_undone_keeps_its_journal() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().join("full");
        fs::create_dir(&full).unwrap();
        let mut journal = Journal::create_in(dir.path(), "test", "stuck").unwrap();
        let path = journal.path().to_owned();
        journal.record(Object::File { path: full.clone() }).unwrap();
        journal.record(file(&dir.path().join("a"))).unwrap();
        assert!(matches!(journal.undo(), Err(Error::Incomplete { failed: 1, of: 2, .. })));
        assert!(!dir.path().join("a").exists(), "one failure does not stop the rest");
        fs::remove_dir(full).unwrap();
        let again = Leftover::read(&path).unwrap().undo().unwrap();
        assert_eq!((again.removed.len(), again.gone.len()), (0, 2));
    }
}
