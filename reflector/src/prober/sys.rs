//! The system calls of the probe's loop, one a function: epoll with nanosecond timeouts, and the processor time that it took.
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

/// `clock_gettime(CLOCK_THREAD_CPUTIME_ID)`: processor time of this thread, in user space and in the kernel.
pub(super) fn thread_cpu_time() -> Duration {
    let mut usage = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to this frame. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut usage) };
    Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32)
}
