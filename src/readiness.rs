//! The service manager's `READY=1` (sd_notify(3)): a verb that serves says when it does, and the demo waits for that instead of sleeping.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Says `READY=1` to whoever set `NOTIFY_SOCKET`, if anybody did.
pub(crate) fn announce() {
    tell(b"READY=1");
}

/// Says `WATCHDOG=1` where a watchdog waits for it (`WATCHDOG_USEC`, sd_watchdog_enabled(3)).
pub(crate) fn alive() {
    if env::var_os("WATCHDOG_USEC").is_some() {
        tell(b"WATCHDOG=1");
    }
}

fn tell(word: &[u8]) {
    let Ok(name) = env::var("NOTIFY_SOCKET") else { return };
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(word, &to));
    if let Err(error) = sent {
        tracing::warn!("cannot tell {name} how we are: {error}");
    }
}

/// The waiting side of [`announce`].
pub(crate) struct Readiness {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Readiness {
    /// Listens at `path`, which must not exist; removed on drop.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        Ok(Self { socket: UnixDatagram::bind(path)?, path: path.to_owned() })
    }

    /// What to set `NOTIFY_SOCKET` to.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the child said `READY=1`; `gone` is asked now and then whether it ended instead.
    pub(crate) fn wait(&self, deadline: Instant, mut gone: impl FnMut() -> bool) -> io::Result<bool> {
        self.socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut message = [0; 64];
        while Instant::now() < deadline {
            match self.socket.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(true),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if gone() {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
