//! Giving up what a process needed to set things up and does not need to run, so that whoever takes it over has little.

use std::io;

use crate::sys;

/// What a thread may keep: the bits of `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing at all.
    Nothing,
    /// `CAP_NET_ADMIN`, for what has to be put back on an interface.
    NetAdmin,
}

impl Keep {
    fn bits(self) -> u64 {
        const CAP_NET_ADMIN: u32 = 12;
        match self {
            Self::Nothing => 0,
            Self::NetAdmin => 1 << CAP_NET_ADMIN,
        }
    }
}

/// Takes every other capability from the calling thread and from those that it starts from now on, for good: out of its bounding set too,
/// and no program that it executes gains any (`no_new_privs`). Threads that run already keep theirs: drop before starting them.
///
/// User and files stay as they are: root without capabilities still owns root's files.
///
/// # Errors
/// prctl(2), capset(2) as the kernel gave it. What a process does not have it gives up without an error.
pub fn drop_all_but(keep: Keep) -> io::Result<()> {
    sys::no_new_privileges()?;
    // From the bounding set only who has CAP_SETPCAP can take: without it there is nothing there to be gained either.
    for capability in (0..=sys::last_capability()?).filter(|capability| keep.bits() & 1 << capability == 0) {
        match sys::drop_from_bounding_set(capability) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => break,
            other => other?,
        }
    }
    sys::clear_ambient_set()?;
    let held = sys::permitted()?;
    sys::set_capabilities(held & keep.bits())
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// The hexadecimal sets and flags of this thread in proc_pid_status(5).
    fn status() -> impl Fn(&str) -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").expect("procfs");
        move |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
            u64::from_str_radix(line.trim(), 16).expect("a number")
        }
    }

    #[test]
    fn a_thread_and_those_it_starts_have_nothing_left() {
        if !crate::privilege::root_or_skip("a_thread_and_those_it_starts_have_nothing_left") {
            return;
        }
        for (keep, left) in [(Keep::Nothing, 0), (Keep::NetAdmin, 1 << 12)] {
            let inside = thread::spawn(move || {
                drop_all_but(keep).expect("drops");
                drop_all_but(keep).expect("and a second time");
                [status(), thread::spawn(status).join().expect("no panic")]
                    .map(|status| ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs"].map(status))
            });
            for sets in inside.join().expect("no panic") {
                assert_eq!(sets, [left, left, left, 0, 0, 1]);
            }
        }
        assert_ne!(status()("CapEff"), 0, "other threads keep theirs");
    }
}
