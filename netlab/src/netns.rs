//! Named network namespaces: made with a clash check, entered by a guard that always goes back, removed when dropped.
//!
//! The mounting and unmounting under `/run/netns` is netns-rs's. Added here: an exclusive creation (netns-rs mounts over a
//! namespace of the same name), iproute2's lock on the directory (two racing first creations would stack two mounts on it), and
//! an entry guard that also goes back on panic.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    marker::PhantomData,
    path::Path,
    process::Command,
};

use netns_rs::NetNs;

use crate::{
    error::{Error, Result},
    sys,
};

/// Where named namespaces live, for us as for `ip netns`.
pub const DIRECTORY: &str = "/var/run/netns";

/// A named network namespace. Dropping one that was created, and not kept, removes it with all that is inside.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    netns: Option<NetNs>,
    owned: bool,
}

impl Namespace {
    /// Makes a namespace in which nothing is up, not even `lo`.
    ///
    /// # Errors
    /// A name that is taken or unusable, missing privilege, or the kernel's own refusal.
    pub fn create(name: &str) -> Result<Self> {
        check(name)?;
        let failed = |source| namespace_error(name, "create", source);
        fs::create_dir_all(DIRECTORY).map_err(failed)?;
        let _lock = lock().map_err(failed)?;
        OpenOptions::new().write(true).create_new(true).open(Path::new(DIRECTORY).join(name)).map_err(failed)?;
        match NetNs::new(name) {
            Ok(netns) => Ok(Self { name: name.to_owned(), netns: Some(netns), owned: true }),
            Err(source) => {
                let _ = fs::remove_file(Path::new(DIRECTORY).join(name));
                Err(failed(into_io(source)))
            }
        }
    }

    /// Opens a namespace that somebody else made; dropping it leaves it there.
    ///
    /// # Errors
    /// No such namespace, or missing privilege.
    pub fn open(name: &str) -> Result<Self> {
        check(name)?;
        let netns = NetNs::get(name).map_err(|source| namespace_error(name, "open", into_io(source)))?;
        Ok(Self { name: name.to_owned(), netns: Some(netns), owned: false })
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The open namespace, for `setns` or `IFLA_NET_NS_FD`.
    pub fn file(&self) -> &File {
        self.netns().file()
    }

    /// Moves this thread into the namespace until the guard is dropped.
    ///
    /// Sockets belong to the namespace in which they were opened, whatever their thread does afterwards.
    ///
    /// # Errors
    /// Missing privilege.
    pub fn enter(&self) -> Result<Entered> {
        let previous = netns_rs::get_from_current_thread()
            .map_err(|source| namespace_error("current", "open", into_io(source)))?;
        self.netns().enter().map_err(|source| namespace_error(&self.name, "enter", into_io(source)))?;
        Ok(Entered { previous, not_send: PhantomData })
    }

    /// Runs `work` inside the namespace.
    ///
    /// # Errors
    /// As [`Namespace::enter`].
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let _inside = self.enter()?;
        Ok(work())
    }

    /// `program` as a command that starts inside the namespace, and is killed when the thread that starts it ends.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let namespace = self.file().try_clone().map_err(|source| namespace_error(&self.name, "open", source))?;
        let mut command = Command::new(program);
        sys::start_inside(&mut command, namespace.into());
        Ok(command)
    }

    /// `program` as a command that starts inside the namespace and lives on by itself; also one to be put in the place of this process.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn command_of_its_own(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let namespace = self.file().try_clone().map_err(|source| namespace_error(&self.name, "open", source))?;
        let mut command = Command::new(program);
        sys::start_of_its_own(&mut command, namespace.into());
        Ok(command)
    }

    /// Leaves the namespace in place when this value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }

    /// Removes the name now; the kernel frees the rest when the last process and socket inside are gone.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(mut self) -> Result<()> {
        self.owned = false;
        self.unmount()
    }

    fn unmount(&mut self) -> Result<()> {
        let Some(netns) = self.netns.take() else { return Ok(()) };
        let failed = |source| namespace_error(&self.name, "remove", source);
        let _lock = lock().map_err(failed)?;
        netns.remove().map_err(|source| failed(into_io(source)))
    }

    fn netns(&self) -> &NetNs {
        self.netns.as_ref().expect("only remove and drop take it, and both end the value")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Err(error) = self.unmount() {
            eprintln!("pathlab: {error}");
        }
    }
}

/// This thread is inside a namespace; dropping the guard takes it back to where it was.
///
/// A namespace belongs to a thread, so the guard may not travel to another one:
///
/// ```compile_fail
/// fn send<T: Send>(_: T) {}
/// send(pathlab_netlab::netns::Namespace::open("x").unwrap().enter().unwrap());
/// ```
#[derive(Debug)]
#[must_use = "the thread goes back at once when the guard is dropped"]
pub struct Entered {
    previous: NetNs,
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(error) = self.previous.enter() {
            // Going on would configure the wrong network, the host's own perhaps.
            eprintln!("pathlab: cannot go back to the previous network namespace: {error}");
            std::process::abort();
        }
    }
}

/// Names of all namespaces under `/run/netns`, sorted.
///
/// # Errors
/// An unreadable directory; an absent one is an empty list.
pub fn list() -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(namespace_error(DIRECTORY, "list", source)),
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// iproute2 takes the same lock (ip/ipnetns.c, netns_add).
fn lock() -> io::Result<File> {
    let directory = File::open(DIRECTORY)?;
    directory.lock()?;
    Ok(directory)
}

fn check(name: &str) -> Result<()> {
    let usable = name.len() <= 200
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if usable { Ok(()) } else { Err(Error::NamespaceName { name: name.to_owned() }) }
}

fn namespace_error(name: &str, action: &'static str, source: io::Error) -> Error {
    let name = name.to_owned();
    match source.kind() {
        io::ErrorKind::AlreadyExists => Error::NamespaceExists { name },
        io::ErrorKind::NotFound => Error::NamespaceMissing { name },
        io::ErrorKind::PermissionDenied => Error::Privilege { action: format!("to {action} network namespace {name}") },
        _ => Error::Namespace { name, action, source },
    }
}

fn into_io(error: netns_rs::Error) -> io::Error {
    use netns_rs::Error::*;
    match error {
        CreateNsDirError(source) | CreateNsError(source) | OpenNsError(_, source) => source,
        CloseNsError(errno)
        | MountError(_, errno)
        | UnmountError(_, errno)
        | UnshareError(errno)
        | SetnsError(errno) => io::Error::from_raw_os_error(errno as i32),
        JoinThreadError(message) => io::Error::other(message),
    }
}

#[cfg(test)]
mod tests {
    use pathlab_guard::privilege::root_or_skip;

    use super::*;

    fn name(test: &str) -> String {
        format!("plnl-{test}-{}", std::process::id())
    }

    fn here() -> io::Result<std::path::PathBuf> {
        fs::read_link("/proc/thread-self/ns/net")
    }

    #[test]
    fn a_namespace_lives_as_long_as_its_value() {
        if !root_or_skip("a_namespace_lives_as_long_as_its_value") {
            return;
        }
        let name = name("life");
        let made = Namespace::create(&name).expect("create");
        assert!(list().expect("list").contains(&name));
        drop(made);
        assert!(!list().expect("list").contains(&name));
    }

    #[test]
    fn entering_ends_with_the_guard_also_on_panic() {
        if !root_or_skip("entering_ends_with_the_guard_also_on_panic") {
            return;
        }
        let namespace = Namespace::create(&name("panic")).expect("create");
        let before = here().expect("link");
        {
            let _inside = namespace.enter().expect("enter");
            assert_ne!(here().expect("link"), before);
        }
        assert_eq!(here().expect("link"), before);
        let caught = std::panic::catch_unwind(|| {
            let _inside = namespace.enter().expect("enter");
            panic!("on purpose");
        });
        assert!(caught.is_err());
        assert_eq!(here().expect("link"), before);
    }

    #[test]
    fn a_taken_name_is_refused_and_left_alone() {
        if !root_or_skip("a_taken_name_is_refused_and_left_alone") {
            return;
        }
        let name = name("taken");
        let first = Namespace::create(&name).expect("create");
        let inode = first.run(here).expect("enter").expect("link");
        let refusal = Namespace::create(&name).expect_err("taken");
        assert!(matches!(refusal, Error::NamespaceExists { .. }), "{refusal}");
        let again = Namespace::open(&name).expect("still there");
        assert_eq!(again.run(here).expect("enter").expect("link"), inode);
    }

    #[test]
    fn racing_creations_all_succeed_and_all_go() {
        if !root_or_skip("racing_creations_all_succeed_and_all_go") {
            return;
        }
        std::thread::scope(|scope| {
            for index in 0..8 {
                let name = name(&format!("race{index}"));
                scope.spawn(move || drop(Namespace::create(&name).expect("create")));
            }
        });
        let left: Vec<_> = list().expect("list").into_iter().filter(|left| left.starts_with(&name("race"))).collect();
        assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn a_path_is_no_name() {
        for wrong in ["", "..", "a/b", "-x", ".hidden", "a b"] {
            assert!(matches!(Namespace::open(wrong), Err(Error::NamespaceName { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn an_absent_namespace_is_named() {
        let error = Namespace::open("plnl-absent").expect_err("absent");
        assert_eq!(
            error.to_string(),
            "network namespace plnl-absent does not exist; `ip netns list` shows those that do"
        );
    }
}
