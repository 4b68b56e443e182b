//! The process that takes back what `kill -9` leaves: it watches the controller and holds none of the objects itself.
//!
//! It is this program again, started with a hidden verb that calls [`watch`], before the controller opens anything that
//! the kernel ties to a process. It closes whatever it inherited, so it can keep no owner socket alive; it is in a
//! session of its own and ignores SIGINT, SIGTERM and SIGHUP, so that Ctrl-C, a closed terminal and a service manager's
//! stop reach the controller first. It ends with the controller.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tracing::{info, warn};

use crate::{Error, Journal, Leftover, Result, journal, sys};

/// Sent once by the guardian when it watches.
const READY: u8 = b'r';
/// Sent by the guardian when it was let go but has a journal to look after.
const STAYING: u8 = b's';

/// Long enough for an exec on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The controller's end. Dropping it lets the guardian go, which it does as soon as the journal is undone or kept.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    control: UnixStream,
}

impl Guardian {
    /// Starts the guardian of a journal: `/proc/self/exe` with `args`, then the journal's path. That must end in a call
    /// of [`watch`].
    ///
    /// Call it before opening any socket or descriptor that owns an object in the kernel. It returns when the guardian
    /// watches. What the guardian logs goes to this process's stderr.
    ///
    /// # Errors
    /// [`Error::Guardian`] when it does not come up; [`Error::Call`] when it cannot be started.
    pub fn spawn<'a>(journal: &Journal, args: impl IntoIterator<Item = &'a OsStr>) -> Result<Self> {
        let (control, theirs) = UnixStream::pair().map_err(Error::call("socketpair"))?;
        let child = Command::new("/proc/self/exe")
            .args(args)
            .arg(journal.path())
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(Error::call("start the guardian from /proc/self/exe"))?;
        let mut guardian = Self { child, control };
        guardian.expect_ready().map_err(|source| Error::Guardian { source })?;
        Ok(guardian)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still watches. It may be killed like any process.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn expect_ready(&mut self) -> io::Result<()> {
        self.control.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        self.control.read_exact(&mut byte)?;
        if byte[0] == READY { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let mut byte = [0];
        let let_go = self.control.shutdown(std::net::Shutdown::Write).and_then(|()| self.control.read(&mut byte));
        // Anything else: it has something to look after, or it is stuck. It ends by itself when this process does.
        if let Ok(0) = let_go {
            drop(self.child.wait());
        }
    }
}

/// The guardian's whole life: watches the owner of `journal` and takes everything back when it dies. For the hidden
/// verb of the command.
///
/// Call it first thing in `main`, before any thread, runtime or log file: it closes every descriptor above 2. Standard
/// input is the control socket that [`Guardian::spawn`] made.
///
/// # Errors
/// [`Error::Incomplete`] when something could not be taken back; [`Error::Call`] or [`Error::File`] when it cannot even
/// watch.
pub fn watch(journal: &Path) -> Result<()> {
    detach().map_err(Error::call("detach the guardian"))?;
    let owner = Leftover::read(journal)?.owner;
    let pidfd = owner.pidfd()?;
    let stdin = io::stdin();
    let mut control = UnixStream::from(stdin.as_fd().try_clone_to_owned().map_err(Error::call("dup"))?);
    drop(control.write_all(&[READY]));

    if let Some(pidfd) = pidfd {
        loop {
            let [died, let_go] = sys::readable([pidfd.as_fd(), control.as_fd()], None).map_err(Error::call("poll"))?;
            if died {
                break;
            }
            if let_go {
                if is_settled(journal) {
                    return Ok(());
                }
                drop(control.write_all(&[STAYING]));
                sys::readable([pidfd.as_fd()], None).map_err(Error::call("poll"))?;
                break;
            }
        }
    }
    if is_settled(journal) {
        return Ok(());
    }
    match journal::undo_file(journal, false) {
        Ok(undone) => {
            for (object, now) in &undone.left {
                warn!("{object}: somebody else has set it since, and it stays: {now}");
            }
            info!(pid = owner.pid, removed = undone.removed.len(), "the controller died; the host is as it was")
        }
        Err(error) => {
            warn!(pid = owner.pid, %error, "the controller died and the way back is incomplete");
            return Err(error);
        }
    }
    Ok(())
}

fn is_settled(journal: &Path) -> bool {
    match Leftover::read(journal) {
        Ok(left) => left.kept,
        Err(_) => !fs::exists(journal).unwrap_or(true),
    }
}

#[allow(unsafe_code)]
fn detach() -> io::Result<()> {
    // SAFETY: `watch` is documented to be the first thing that the process does, so nothing here owns a descriptor
    // above 2.
    unsafe { sys::close_inherited() }?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        sys::ignore(signal)?;
    }
    // Fails only for a process group leader, which a child of `spawn` is not.
    sys::new_session()?;
    // When memory runs out the guardian should be the last to go. Not allowed everywhere, and not needed.
    drop(fs::write("/proc/self/oom_score_adj", "-900"));
    Ok(())
}
