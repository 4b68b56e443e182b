//! The socket option that makes large packets for the kernel to cut, which no safe crate of ours offers.
#![allow(unsafe_code)]

use std::{io, net::UdpSocket, os::fd::AsRawFd};

/// `UDP_SEGMENT`: what is sent from now on is cut into datagrams of so many octets, as late as the device allows.
pub(crate) fn cut_into(socket: &UdpSocket, octets: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is the socket's, which outlives the call; the value is an int on the stack, and its length is told.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const octets).cast(), length)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
