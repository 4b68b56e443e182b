//! Names one process for good: a process id alone is reused, so the start time goes with it.

use std::{fs, os::fd::OwnedFd, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, sys};

/// How long a killed process may take to be gone: its programs are taken off their devices one after the other, tens of milliseconds each,
/// and more on a busy host.
const REAP: Duration = Duration::from_secs(5);

/// A process by its id and its start time in clock ticks since boot (proc_pid_stat(5), field 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl Process {
    /// This process.
    pub fn current() -> Self {
        Self::of(std::process::id()).expect("a running process has a line in /proc/self/stat")
    }

    /// The process that has this id now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let (state, start_time) = stat(pid)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_time })
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// A descriptor that becomes readable when this process ends; `None` when it has ended.
    ///
    /// # Errors
    /// [`Error::Call`] when the kernel has no descriptor left.
    pub(crate) fn pidfd(&self) -> Result<Option<OwnedFd>> {
        let fd = match sys::pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(source) => return Err(Error::Call { call: format!("pidfd_open {}", self.pid), source }),
        };
        // The descriptor is of whoever has the id now: only the start time, read afterwards, says that it is the one
        // meant.
        Ok(self.is_alive().then_some(fd))
    }

    /// Kills it and waits until it is gone. `false` when it was gone before.
    ///
    /// # Errors
    /// [`Error::Call`] when it may not be killed, or is not gone within five seconds.
    pub fn kill(&self) -> Result<bool> {
        use std::os::fd::AsFd;
        let Some(fd) = self.pidfd()? else { return Ok(false) };
        match sys::pidfd_kill(fd.as_fd()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(source) => return Err(Error::Call { call: format!("kill {}", self.pid), source }),
        }
        let gone = sys::readable([fd.as_fd()], Some(REAP)).map_err(Error::call(format!("wait for {}", self.pid)))?;
        if gone[0] {
            return Ok(true);
        }
        Err(Error::Call { call: format!("kill {}", self.pid), source: std::io::ErrorKind::TimedOut.into() })
    }
}

fn stat(pid: u32) -> Option<(char, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in brackets and may hold anything, brackets and spaces too: count from the last
    // bracket.
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_id_is_another_process() {
        let me = Process::current();
        assert!(me.is_alive());
        assert!(!Process { start_time: me.start_time + 1, ..me }.is_alive());
        assert!(Process { start_time: me.start_time + 1, ..me }.pidfd().unwrap().is_none());
    }

    #[test]
    fn kill_is_idempotent_and_spares_a_namesake() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(!Process { start_time: process.start_time + 1, ..process }.kill().unwrap());
        assert!(process.is_alive());
        assert!(process.kill().unwrap());
        assert!(!process.kill().unwrap());
        child.wait().unwrap();
    }
}
