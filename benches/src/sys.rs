//! The system calls of the benches, one a function.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::{Child, ExitStatus},
    time::Duration,
};

/// `sched_setaffinity`: this thread, and what it starts, run on these CPUs alone.
///
/// # Errors
/// None of them is there.
pub fn pin_to(cpus: &[usize]) -> io::Result<()> {
    if cpus.iter().any(|cpu| *cpu >= libc::CPU_SETSIZE as usize) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu_set_t` is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: the index is below CPU_SETSIZE, checked above.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the kernel reads the true size of `set`, which lives on this frame.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

/// What the kernel says of a process that ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// As `waitpid` has it.
    pub status: ExitStatus,
    /// Processor time, its own and the kernel's for it.
    pub processor: Duration,
    /// The most memory that it had at once.
    pub peak_bytes: u64,
}

/// `wait4`: waits for a child to end.
///
/// # Errors
/// As the kernel says.
#[allow(clippy::needless_pass_by_value)] // its number is free once it has been waited for
pub fn wait(child: Child) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: `rusage` is made of integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to `status` and `usage`, which live on this frame; the child is ours, taken by value, and nobody waited for it.
    done(unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage) })?;
    let span = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Ok(Ended {
        status: ExitStatus::from_raw(status),
        processor: span(usage.ru_utime) + span(usage.ru_stime),
        peak_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

/// `statvfs`: bytes that are free to anybody in the file system of a path.
///
/// # Errors
/// No such path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statvfs` is made of integers, for which zero is a value.
    let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a zero byte and outlives the call; the kernel writes to `facts`, which lives on this frame.
    done(unsafe { libc::statvfs(path.as_ptr(), &raw mut facts) })?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// `pidfd_open`.
///
/// # Errors
/// No such process.
pub fn pidfd(process: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that the call returns is new and owned by nobody else.
    unsafe {
        let fd = done(libc::syscall(libc::SYS_pidfd_open, process as libc::pid_t, 0) as libc::c_int)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `pidfd_getfd`: a descriptor of another process, as one of ours.
///
/// # Errors
/// No such descriptor, or no right to trace that process.
pub fn descriptor_of(process: BorrowedFd<'_>, descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that the call returns is new and owned by nobody else.
    unsafe {
        let fd = done(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) as libc::c_int)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `setsockopt(SO_RCVBUFFORCE)`: the receive buffer in bytes, of which the kernel makes twice as much.
///
/// # Errors
/// Not a socket, or no `CAP_NET_ADMIN`.
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the kernel reads one int from `bytes`, which lives on this frame.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const bytes).cast(), length)
    };
    done(rc).map(drop)
}

/// `clock_gettime(CLOCK_THREAD_CPUTIME_ID)`: processor time of the calling thread.
///
/// # Errors
/// As the kernel says.
pub fn thread_time() -> io::Result<std::time::Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which lives on this frame.
    done(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) })?;
    Ok(std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// `kill` of a child that has not been waited for, so that its number is still its own.
///
/// # Errors
/// As the kernel says.
pub fn signal(child: &std::process::Child, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::kill(child.id() as libc::pid_t, signal) }).map(drop)
}

/// `kill(SIGTERM)` of a child that has not been waited for, so that its number is still its own.
///
/// # Errors
/// As the kernel says.
pub fn terminate(child: &std::process::Child) -> io::Result<()> {
    signal(child, libc::SIGTERM)
}

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}
