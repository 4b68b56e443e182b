//! The system calls that no safe crate of ours offers: one a function.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
};

/// `ETHTOOL_STXCSUM` (linux/ethtool.h).
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Most datagrams in one [`send_copies`].
pub(crate) const BATCH: usize = 64;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// As `ethtool -K INTERFACE tx off`, in the network namespace of `socket`.
pub(crate) fn disable_transmit_checksum(socket: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: all-zero bytes are a valid ifreq: an empty name and a null pointer in its union.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut value).cast();
    // SAFETY: at least one byte of the name was left zero; ifru_data points at an ethtool_value that outlives the call, and
    // ETHTOOL_STXCSUM reads no more than that.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives a socket a send buffer of `bytes`, beyond the system's limit.
pub(crate) fn force_send_buffer(socket: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is one int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            ptr::from_ref(&bytes).cast(),
            mem::size_of_val(&bytes) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends `copies` datagrams of the same `payload`, at most [`BATCH`], on a connected socket; how many were taken.
pub(crate) fn send_copies(socket: BorrowedFd<'_>, payload: &[u8], copies: usize) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: all-zero bytes are valid mmsghdrs: no address, no control data, no vectors.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &mut vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = copies.min(BATCH) as libc::c_uint;
    // SAFETY: `count` headers are initialised, each with one vector over `payload`, which the kernel only reads; all outlive the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Lets `command` start inside `namespace` and be killed when the thread that starts it ends.
pub(crate) fn start_inside(command: &mut Command, namespace: OwnedFd) {
    let parent = std::process::id();
    let prepare = move || {
        enter(namespace.as_raw_fd())?;
        die_with_parent(parent)
    };
    // SAFETY: between fork and exec the closure makes plain system calls only: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Lets `command` start inside `namespace`, and live on when its parent ends.
pub(crate) fn start_of_its_own(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: between fork and exec, or before an exec without a fork, the closure makes one plain system call: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || enter(namespace.as_raw_fd())) };
}

fn enter(namespace: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointer; a descriptor that is no network namespace is an error.
    let result = unsafe { libc::setns(namespace, libc::CLONE_NEWNET) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn die_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes one integer and no pointer.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes nothing and cannot fail.
    let now = unsafe { libc::getppid() };
    // The parent may have died before the line above; then no signal will come.
    if now as u32 == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}
