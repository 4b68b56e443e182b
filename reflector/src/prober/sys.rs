//! The system calls of the probe's loop, one a function: epoll with nanosecond timeouts, and what the thread takes of its host:
//! timer slack, scheduling class, CPUs, locked memory.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

/// `epoll_create1(EPOLL_CLOEXEC)`.
pub(super) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that the call returns is new and owned by nobody else.
    unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// `epoll_ctl`: adds `source` (or changes it, with `EPOLL_CTL_MOD`), level-triggered. `EPOLLERR` is always reported.
pub(super) fn epoll_control(
    epoll: &OwnedFd,
    operation: libc::c_int,
    source: BorrowedFd<'_>,
    events: u32,
    token: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: both descriptors are borrowed, hence open; the kernel copies one `epoll_event` from this frame.
    let rc = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, source.as_raw_fd(), &raw mut event) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `epoll_pwait2` (Linux 5.11): fills the front of `events`; how many. A signal ends the wait early with none.
pub(super) fn epoll_wait(epoll: &OwnedFd, events: &mut [libc::epoll_event], timeout: Duration) -> io::Result<usize> {
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos() as libc::c_long };
    // SAFETY: the kernel writes at most `events.len()` events into `events`, borrowed mutably until the call returns, and reads
    // one `timespec` from this frame. A null signal mask is allowed, its size then unused. The C library lacks the call on
    // some distributions that we run on, the kernel does not.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as libc::c_int,
            &raw const timeout,
            ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

/// `prctl(PR_SET_TIMERSLACK)`: how late the kernel may wake this thread, in nanoseconds; 0 gives the default (50 µs) back.
pub(super) fn set_timer_slack(nanoseconds: libc::c_ulong) {
    // SAFETY: no pointers. It cannot fail: any value is valid.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) };
}

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// `sched_getscheduler` and `sched_getparam` of this thread: policy with its flags, and real-time priority (0 where it has none).
pub(super) fn scheduler() -> io::Result<(libc::c_int, libc::c_int)> {
    // SAFETY: no pointers.
    let policy = done(unsafe { libc::sched_getscheduler(0) })?;
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel writes one `sched_param`, which lives on this frame.
    done(unsafe { libc::sched_getparam(0, &raw mut parameters) })?;
    Ok((policy, parameters.sched_priority))
}

/// `sched_setscheduler` of this thread.
pub(super) fn set_scheduler(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the kernel reads one `sched_param`, which lives on this frame.
    done(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
}

/// `sched_setaffinity`: this thread runs on these CPUs alone from now on.
pub(super) fn run_on(cpus: &[u32]) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as u32) {
        // SAFETY: the index is below CPU_SETSIZE, checked above.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    }
    // SAFETY: the kernel reads the true size of `set`, which lives on this frame.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

/// `mlockall` of what is mapped and what will be, each page from its first use on (`MCL_ONFAULT`, Linux 4.4).
pub(super) fn lock_memory() -> io::Result<()> {
    // SAFETY: no pointers; locking pages changes nothing that a program can see but the time that an access takes.
    done(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

/// `munlockall`. It cannot fail in a way that matters: what was not locked stays so.
pub(super) fn unlock_memory() {
    // SAFETY: no pointers.
    unsafe { libc::munlockall() };
}

/// `clock_gettime(CLOCK_THREAD_CPUTIME_ID)`: processor time of this thread, in user space and in the kernel.
pub(super) fn thread_cpu_time() -> Duration {
    let mut usage = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to this frame. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut usage) };
    Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32)
}
