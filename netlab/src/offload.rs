//! Transmit checksum offload, which veth must not claim: an XDP program that returns a packet would return it unfinished.
#![allow(unsafe_code)]

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsRawFd, RawFd},
};

use crate::{
    error::{Error, Result},
    netns::Namespace,
};

/// linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// As `ethtool -K INTERFACE tx off`.
pub(crate) fn disable_transmit_checksum(namespace: &Namespace, interface: &str) -> Result<()> {
    let attempt = || {
        // Any socket of the namespace will do as a handle; this one is never used to send.
        let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
        set_value(socket.as_raw_fd(), interface, &mut Value { command: ETHTOOL_STXCSUM, data: 0 })
    };
    namespace.run(attempt)?.map_err(|source| Error::Offload {
        namespace: namespace.name().to_owned(),
        interface: interface.to_owned(),
        source,
    })
}

fn set_value(socket: RawFd, interface: &str, value: &mut Value) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq: an empty name and a null pointer in its union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: the name ends with a zero, as one byte at least was left; ifru_data points at an ethtool_value that outlives the
    // call, and ETHTOOL_STXCSUM reads no more than that.
    let result = unsafe { libc::ioctl(socket, libc::SIOCETHTOOL, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
