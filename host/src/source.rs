//! Where facts come from: this host or a tree of files that was captured on another, read the same way.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::Serialize;

/// Why a thing could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unread {
    /// The kernel, driver or card does not have it.
    #[error("not there")]
    Absent,
    /// It exists, and the user may not read it.
    #[error("permission denied")]
    Denied,
    /// What the kernel or the driver said instead.
    #[error("{0}")]
    Refused(String),
}

impl Unread {
    /// The three reasons told apart by the kernel's answer. `EOPNOTSUPP` is a driver's way to say that it has no such thing.
    pub fn from_io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::EOPNOTSUPP | libc::ENODEV) => Self::Absent,
            Some(libc::EACCES | libc::EPERM) => Self::Denied,
            // The code alone: the words differ between C libraries, and captures are compared byte by byte.
            Some(code) => Self::Refused(format!("error {code}")),
            None => Self::Refused(error.to_string()),
        }
    }

    fn parse(text: &str) -> Self {
        match text.trim() {
            "not there" => Self::Absent,
            "permission denied" => Self::Denied,
            other => Self::Refused(other.to_owned()),
        }
    }
}

/// Text by path, without the leading `/`. Beside `proc/` and `sys/` there are `port/IF/...` (what ethtool netlink and ioctl tell, as
/// JSON), `qdisc/IF`, `xdp_sockets`, `services` and `before/...`: counters as they were a window earlier.
pub trait Source {
    /// The text at a path.
    ///
    /// # Errors
    /// [`Unread`].
    fn read(&self, path: &str) -> Result<String, Unread>;

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// [`Unread`].
    fn list(&self, path: &str) -> Result<Vec<String>, Unread>;
}

/// Largest file that is read: `/proc/interrupts` of 1,024 CPUs and 4,096 interrupts is below.
pub(crate) const LARGEST: u64 = 64 << 20;

/// A host as plain files below a folder.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// Stands beside what could not be read when the tree was captured, with the reason.
const UNREAD: &str = ".unread";
/// Stands beside a folder whose names were listed.
const ENTRIES: &str = ".entries";

impl Tree {
    /// The tree below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A capture comes from somebody else: no path and no link in it may lead out of it.
    fn place(&self, path: &str) -> Result<PathBuf, Unread> {
        if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(Unread::Refused(format!("{path} leads out of the tree")));
        }
        let place = self.root.join(path);
        if let Ok(real) = place.canonicalize() {
            let root = self.root.canonicalize().map_err(|error| Unread::from_io(&error))?;
            if !real.starts_with(root) {
                return Err(Unread::Refused(format!("{path} is a link out of the tree")));
            }
        }
        Ok(place)
    }
}

impl Source for Tree {
    fn read(&self, path: &str) -> Result<String, Unread> {
        if let Ok(reason) = fs::read_to_string(self.place(&format!("{path}{UNREAD}"))?) {
            return Err(Unread::parse(&reason));
        }
        text(&self.place(path)?)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, Unread> {
        if let Ok(reason) = fs::read_to_string(self.place(&format!("{path}{ENTRIES}{UNREAD}"))?) {
            return Err(Unread::parse(&reason));
        }
        if let Ok(names) = fs::read_to_string(self.place(&format!("{path}{ENTRIES}"))?) {
            return Ok(names.lines().map(str::to_owned).collect());
        }
        names(&self.place(path)?)
    }
}

/// A file's text, up to [`LARGEST`] octets.
pub(crate) fn text(place: &Path) -> Result<String, Unread> {
    use io::Read;
    let mut bytes = Vec::new();
    let file = fs::File::open(place).map_err(|error| Unread::from_io(&error))?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| Unread::from_io(&error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A folder's names, sorted; numbers by value.
pub(crate) fn names(place: &Path) -> Result<Vec<String>, Unread> {
    let entries = fs::read_dir(place).map_err(|error| Unread::from_io(&error))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.retain(|name| !name.ends_with(UNREAD) && !name.ends_with(ENTRIES));
    names.sort_by_cached_key(|name| (name.parse::<u64>().ok(), name.clone()));
    Ok(names)
}

/// Hands on what another source gives and remembers it.
#[derive(Debug)]
pub struct Recording<S> {
    inner: S,
    files: RefCell<BTreeMap<String, String>>,
}

impl<S: Source> Recording<S> {
    /// Records what is read of `inner` from now on.
    pub fn new(inner: S) -> Self {
        Self { inner, files: RefCell::default() }
    }

    /// What was read, as the files of a tree that reads the same: content by relative path.
    pub fn into_files(self) -> BTreeMap<String, String> {
        self.files.into_inner()
    }

    fn remember(&self, path: String, read: &Result<String, Unread>) {
        let (path, content) = match read {
            Ok(text) => (path, text.clone()),
            Err(reason) => (format!("{path}{UNREAD}"), format!("{reason}\n")),
        };
        self.files.borrow_mut().insert(path, content);
    }
}

impl<S: Source> Source for Recording<S> {
    fn read(&self, path: &str) -> Result<String, Unread> {
        let read = self.inner.read(path);
        self.remember(path.to_owned(), &read);
        read
    }

    fn list(&self, path: &str) -> Result<Vec<String>, Unread> {
        let names = self.inner.list(path);
        let lines = names.clone().map(|names| names.iter().map(|name| format!("{name}\n")).collect());
        self.remember(format!("{path}{ENTRIES}"), &lines);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_tree_reads_as_the_host_did() {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir_all(host.path().join("proc/irq/9")).unwrap();
        fs::create_dir_all(host.path().join("proc/irq/10")).unwrap();
        fs::write(host.path().join("proc/irq/9/affinity"), "0-3\n").unwrap();
        let recording = Recording::new(Tree::new(host.path()));
        let reads = ["proc/irq/9/affinity", "proc/irq/10/affinity", "proc/nothing"];
        let seen = reads.map(|path| recording.read(path));
        let listed = recording.list("proc/irq");
        assert_eq!(listed, Ok(vec!["9".into(), "10".into()]));
        let unlisted = recording.list("sys/none");

        let copy = tempfile::tempdir().unwrap();
        for (path, content) in recording.into_files() {
            let place = copy.path().join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, content).unwrap();
        }
        let tree = Tree::new(copy.path());
        assert_eq!(reads.map(|path| tree.read(path)), seen);
        assert_eq!(tree.list("proc/irq"), listed);
        assert_eq!(tree.list("sys/none"), unlisted);
    }

    #[test]
    fn nothing_outside_the_tree_is_read() {
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", tree.path().join("link")).unwrap();
        let tree = Tree::new(tree.path());
        assert!(matches!(tree.read("../etc/hostname"), Err(Unread::Refused(_))));
        assert!(matches!(tree.read("link"), Err(Unread::Refused(_))));
    }
}
