//! The system calls of this crate, one a function, so that every other file is safe code.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use libc::{c_int, socklen_t};

/// `setsockopt` with an `int`.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads the true size of `value`, which lives on this frame; the descriptor is borrowed, hence open.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<c_int>() as socklen_t)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A control message with one `int`: `struct cmsghdr { size_t len; int level; int type; int value; }`, padded to a word.
#[repr(C, align(8))]
struct IntMessage {
    len: usize,
    level: c_int,
    kind: c_int,
    value: c_int,
    padding: c_int,
}

/// `sendmsg` of one datagram on a connected socket, with this TTL (`IP_TTL`) or Hop Limit (`IPV6_HOPLIMIT`).
pub(crate) fn send(socket: BorrowedFd<'_>, v6: bool, ttl: u8, payload: &[u8]) -> io::Result<()> {
    let (level, kind) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) } else { (libc::IPPROTO_IP, libc::IP_TTL) };
    let len = size_of::<IntMessage>() - size_of::<c_int>();
    let mut control = IntMessage { len, level, kind, value: ttl.into(), padding: 0 };
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: `msghdr` is plain data for which all zeroes is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = size_of::<IntMessage>() as _;
    // SAFETY: every pointer is to a slice or local that outlives the call, with its true length; sendmsg only reads them.
    let rc = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What [`receive`] brought.
pub(crate) struct Received {
    /// Bytes in the payload buffer.
    pub(crate) payload: usize,
    /// Bytes in the control buffer.
    pub(crate) control: usize,
    /// The socket address that it came from.
    pub(crate) name: [u8; size_of::<libc::sockaddr_in6>()],
}

/// `recvmsg` of one message, never waiting; `flags` may be `MSG_ERRQUEUE`.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    payload: &mut [u8],
    control: &mut [u64],
    flags: c_int,
) -> io::Result<Received> {
    let mut received = Received { payload: 0, control: 0, name: [0; _] };
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: `msghdr` is plain data for which all zeroes is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = received.name.as_mut_ptr().cast();
    header.msg_namelen = received.name.len() as socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(control) as _;
    // SAFETY: every pointer is to a local or to a slice that is borrowed mutably until the call returns, with its true length.
    let rc = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    received.payload = (rc as usize).min(payload.len());
    received.control = (header.msg_controllen as usize).min(size_of_val(control));
    Ok(received)
}

/// `poll` until one of `sockets` has something to read, an error, or `timeout` milliseconds are over. A signal ends it early.
pub(crate) fn poll(sockets: &[BorrowedFd<'_>], timeout: c_int) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: the kernel reads and writes `len` entries of `polled`, which outlives the call; the descriptors are borrowed, hence open.
    let rc = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    match rc {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error())
            .or_else(|error| if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }),
    }
}
