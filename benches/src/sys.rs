//! The system calls of the benches, one a function.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// `sched_setaffinity`: this thread, and what it starts, run on `cpu` alone.
///
/// # Errors
/// No such CPU.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu_set_t` is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index is below CPU_SETSIZE, checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the true size of `set`, which lives on this frame.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
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

/// `kill(SIGTERM)` of a child that has not been waited for, so that its number is still its own.
///
/// # Errors
/// As the kernel says.
pub fn terminate(child: &std::process::Child) -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) }).map(drop)
}

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}
