//! The system calls of this crate, one a function, so that every other file is safe code.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use crate::{
    AttachedMode,
    nic::{Rings, TsInfo},
};

/// `setsockopt` with an `int`.
pub(crate) fn set_socket_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of(int)` bytes from `value`, which lives on this frame until the call returns; the
    // descriptor is borrowed, hence open.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `getsockopt(SO_DOMAIN)`: the address family the socket was made with.
pub(crate) fn socket_domain(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut domain: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `domain` and the new length to `length`; both live on this frame,
    // and `length` says the true size of `domain`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut length,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(domain) }
}

/// `BPF_LINK_CREATE` for an XDP program. The link, and with it the program's place, goes when the descriptor is closed.
pub(crate) fn bpf_link_create_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: AttachedMode) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

    /// The head of `union bpf_attr`, `struct link_create`; the kernel takes what is missing as zero.
    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: match mode {
            AttachedMode::Native => XDP_FLAGS_DRV_MODE,
            AttachedMode::Generic => XDP_FLAGS_SKB_MODE,
        },
    };
    // SAFETY: the kernel reads `size_of::<LinkCreate>()` bytes of the structure, which has no padding and lives on this frame;
    // the program's descriptor is borrowed, hence open.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so this is a new descriptor that nobody else owns; descriptors are ints.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `BPF_LINK_DETACH`: the program leaves its place now, whoever else holds the link.
pub(crate) fn bpf_link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let link_fd = link.as_raw_fd().cast_unsigned();
    // SAFETY: `struct link_detach` of `union bpf_attr` is this one u32, which the kernel reads from this frame; the descriptor
    // is borrowed, hence open.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const link_fd, size_of::<u32>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `SIOCETHTOOL` with a `struct ethtool_value`: returns the value after the call.
pub(crate) fn ethtool_value(interface: &str, command: u32, value: u32) -> io::Result<u32> {
    let mut argument = [command, value];
    ethtool(interface, &mut argument)?;
    Ok(argument[1])
}

/// `ETHTOOL_GDRVINFO`: the driver's name.
pub(crate) fn ethtool_driver(interface: &str) -> io::Result<String> {
    const ETHTOOL_GDRVINFO: u32 = 0x3;
    // struct ethtool_drvinfo: cmd, driver[32], and 160 octets more
    let mut argument = [0; 196 / 4];
    argument[0] = ETHTOOL_GDRVINFO;
    ethtool(interface, &mut argument)?;
    let name: Vec<u8> =
        argument[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// `ETHTOOL_GET_TS_INFO`.
pub(crate) fn ethtool_ts_info(interface: &str) -> io::Result<TsInfo> {
    const ETHTOOL_GET_TS_INFO: u32 = 0x41;
    // struct ethtool_ts_info: cmd, so_timestamping, phc_index, tx_types, reserved[3], rx_filters, reserved[3]
    let mut argument = [0; 11];
    argument[0] = ETHTOOL_GET_TS_INFO;
    ethtool(interface, &mut argument)?;
    Ok(TsInfo {
        so_timestamping: argument[1],
        phc: u32::try_from(argument[2].cast_signed()).ok(),
        tx_types: argument[3],
        rx_filters: argument[7],
    })
}

/// `ETHTOOL_GRINGPARAM`.
pub(crate) fn ethtool_rings(interface: &str) -> io::Result<Rings> {
    const ETHTOOL_GRINGPARAM: u32 = 0x10;
    // struct ethtool_ringparam: cmd, the largest rx, rx_mini, rx_jumbo, tx; the present rx, rx_mini, rx_jumbo, tx
    let mut argument = [0; 9];
    argument[0] = ETHTOOL_GRINGPARAM;
    ethtool(interface, &mut argument)?;
    Ok(Rings { rx: argument[5], rx_max: argument[1], tx: argument[8], tx_max: argument[4] })
}

/// `ioctl(SIOCETHTOOL)` with a command's structure as words, the command first.
fn ethtool<const WORDS: usize>(interface: &str, argument: &mut [u32; WORDS]) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV)); // longer than any name
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = argument.as_mut_ptr().cast();
    // any socket of this namespace will do
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request lives on this frame and points at `argument`, borrowed mutably until the call returns. The commands used in
    // this file read and write a structure of exactly as many words as their callers give, all of them 32-bit.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
