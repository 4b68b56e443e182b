//! Network namespaces by name, and the one in which a journal was written, so that an object is looked for where it was
//! put.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, linux::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use crate::{Error, Result, sys};

/// Where iproute2 keeps the named namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Runs `work` inside the named network namespace, or in the caller's own for `None`.
///
/// It runs on a thread of its own that ends with it, so the calling thread never changes its namespace. Sockets that
/// `work` opens stay in the namespace in which they were opened.
///
/// # Errors
/// [`Error::NoNetns`] without such a namespace, and whatever `work` returns.
pub fn in_netns<T: Send>(name: Option<&str>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(name) = name else { return work() };
    let file = match File::open(Path::new(NETNS_DIR).join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoNetns { name: name.to_owned() }),
        Err(source) => return Err(Error::Call { call: format!("open network namespace {name}"), source }),
    };
    inside(&file, work)
}

/// Runs `work` inside the namespace that `file` is open on.
pub(crate) fn inside<T: Send>(file: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        sys::enter_netns(file.as_fd()).map_err(Error::call("setns"))?;
        work()
    })
}

/// Runs `work` inside an empty network namespace that ends with it.
pub(crate) fn inside_new<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        sys::leave_netns().map_err(Error::call("unshare"))?;
        work()
    })
}

/// Runs `work` on a thread of its own that sees under `/sys` the ports of the network namespace it is in. `nsenter --net` and setns(2) leave
/// the view of another one in place, in which a port of the same name is another port.
///
/// # Errors
/// [`Error::Call`] where sysfs may not be mounted, and whatever `work` returns.
pub fn with_own_sysfs<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        mount_own_sysfs()?;
        work()
    })
}

/// For a thread that ends soon: nobody else sees the mount, and it goes with the thread.
pub(crate) fn mount_own_sysfs() -> Result<()> {
    sys::leave_mounts().map_err(Error::call("unshare the mounts"))?;
    sys::make_mounts_private().map_err(Error::call("make the mounts private"))?;
    match sys::mount_sysfs() {
        // The same sysfs is there already: it is the view that was wanted.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other.map_err(Error::call("mount sysfs")),
    }
}

pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// The inode that identifies the calling thread's network namespace, as `ip netns identify` compares them.
pub(crate) fn current_inode() -> Result<u64> {
    let path = "/proc/thread-self/ns/net";
    fs::metadata(path).map(|meta| meta.st_ino()).map_err(Error::file("stat", path))
}

/// Opens the network namespace with this inode through its name or through a process in it; `None` when it is gone.
pub(crate) fn find(inode: u64) -> Option<File> {
    path(inode).and_then(|path| File::open(path).ok())
}

/// The same in words: by its name, or by a process in it.
pub(crate) fn words(inode: u64) -> String {
    let Some(path) = path(inode) else { return "a network namespace that is gone".to_owned() };
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match path.strip_prefix("/proc").ok().and_then(|path| path.iter().next()) {
        Some(pid) => format!("the network namespace of process {}", pid.display()),
        None => format!("network namespace {}", last(&path)),
    }
}

fn path(inode: u64) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.st_ino() == inode);
    let named = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path().join("ns/net"));
    named.chain(of_processes).find(is_it)
}

/// Takes a named namespace away as `ip netns del` does. `false` when there was none.
pub(crate) fn delete(name: &str) -> Result<bool> {
    let path = Path::new(NETNS_DIR).join(name);
    match sys::unmount(&path) {
        // Not a mount point: a name whose namespace never came up.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(Error::call(format!("unmount network namespace {name}")))?,
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true).map_err(Error::file("remove", path)),
    }
}
