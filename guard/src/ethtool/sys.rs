//! What ethtool netlink does not tell, or not on every kernel, by ioctl: one call a function.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

/// linux/ethtool.h
const GDRVINFO: u32 = 0x3;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GRXFH: u32 = 0x29;
const SRXFH: u32 = 0x2a;
const GSSET_INFO: u32 = 0x37;
const GRXFHINDIR: u32 = 0x38;
const SRXFHINDIR: u32 = 0x39;
const SET_OF_STATISTICS: u32 = 1;
const NAME: usize = 32;

/// No driver has more statistics than this by far (mlx5 with 64 queues: about 3,000).
const MOST: u32 = 65_536;

/// `ETHTOOL_GDRVINFO`: driver, its version, and the bus address, as text.
///
/// # Errors
/// As the kernel gave it: `EOPNOTSUPP`, `ENODEV`.
pub fn driver(interface: &str) -> io::Result<[String; 3]> {
    // struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32], and 64 octets more
    let mut argument = Buffer::new(196);
    argument.set_u32(0, GDRVINFO);
    call(interface, &mut argument)?;
    Ok([argument.text(4), argument.text(36), argument.text(100)])
}

/// `ETHTOOL_GSTRINGS` and `ETHTOOL_GSTATS`: the driver's own statistics, in its order.
///
/// # Errors
/// As the kernel gave it: `EOPNOTSUPP` where the driver has none, `ENODEV`.
pub fn statistics(interface: &str) -> io::Result<Vec<(String, u64)>> {
    // struct ethtool_sset_info: cmd, reserved, sset_mask (64 bits), data[]: a length for each set asked for
    let mut sets = Buffer::new(20);
    sets.set_u32(0, GSSET_INFO);
    sets.set_u32(if cfg!(target_endian = "big") { 12 } else { 8 }, 1 << SET_OF_STATISTICS);
    call(interface, &mut sets)?;
    let count = sets.u32(16);
    if count == 0 || count > MOST {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    // struct ethtool_gstrings: cmd, string_set, len, data[len * 32]
    let mut names = Buffer::new(12 + count as usize * NAME);
    names.set_u32(0, GSTRINGS);
    names.set_u32(4, SET_OF_STATISTICS);
    names.set_u32(8, count);
    call(interface, &mut names)?;
    // struct ethtool_stats: cmd, n_stats, data[n_stats]
    let mut values = Buffer::new(8 + count as usize * 8);
    values.set_u32(0, GSTATS);
    values.set_u32(4, count);
    call(interface, &mut values)?;
    let count = count.min(names.u32(8)).min(values.u32(4)) as usize;
    Ok((0..count).map(|at| (names.text(12 + at * NAME), values.u64(8 + at * 8))).collect())
}

/// `ETHTOOL_GRXFH`: which fields of a flow are hashed to choose its receive queue (`RXH_*`).
///
/// # Errors
/// As the kernel gave it: `EOPNOTSUPP` where the driver does not say, `ENODEV`.
pub fn flow_hash(interface: &str, flow: u32) -> io::Result<u64> {
    // struct ethtool_rxnfc: cmd, flow_type, data (64 bits), a flow's specification, which stays zero; 192 octets in all
    let mut argument = Buffer::new(256);
    argument.set_u32(0, GRXFH);
    argument.set_u32(4, flow);
    call(interface, &mut argument)?;
    Ok(argument.u64(8))
}

/// `ETHTOOL_SRXFH`: sets those fields.
///
/// # Errors
/// As the kernel gave it: `EINVAL` for fields that the card cannot hash, `EOPNOTSUPP`, `EPERM`, `ENODEV`.
pub fn set_flow_hash(interface: &str, flow: u32, fields: u64) -> io::Result<()> {
    let mut argument = Buffer::new(256);
    argument.set_u32(0, SRXFH);
    argument.set_u32(4, flow);
    argument.set_u64(8, fields);
    call(interface, &mut argument)
}

/// `ETHTOOL_SRXFHINDIR`: sets the table, entry by entry; an empty one brings the driver's own back.
///
/// # Errors
/// As the kernel gave it: `EINVAL` for a table of another size or with a queue that is not there, `EOPNOTSUPP`, `EPERM`, `ENODEV`.
pub fn set_indirection(interface: &str, table: &[u32]) -> io::Result<()> {
    let size = u32::try_from(table.len()).ok().filter(|size| *size <= MOST);
    let size = size.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut argument = Buffer::new(8 + table.len() * 4);
    argument.set_u32(0, SRXFHINDIR);
    argument.set_u32(4, size);
    for (at, queue) in table.iter().enumerate() {
        argument.set_u32(8 + at * 4, *queue);
    }
    call(interface, &mut argument)
}

/// `ETHTOOL_GRXFHINDIR`: the receive queue of each entry of the RSS table, for kernels whose ethtool netlink does not tell (before 6.3).
///
/// # Errors
/// As the kernel gave it: `EOPNOTSUPP` where the driver has no table, `ENODEV`.
pub fn indirection(interface: &str) -> io::Result<Vec<u32>> {
    // struct ethtool_rxfh_indir: cmd, size, ring_index[size]
    let mut argument = Buffer::new(8);
    argument.set_u32(0, GRXFHINDIR);
    call(interface, &mut argument)?;
    let size = argument.u32(4);
    if size == 0 || size > MOST {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let mut argument = Buffer::new(8 + size as usize * 4);
    argument.set_u32(0, GRXFHINDIR);
    argument.set_u32(4, size);
    call(interface, &mut argument)?;
    Ok((0..size as usize).map(|at| argument.u32(8 + at * 4)).collect())
}

/// A structure of the kernel's as octets, aligned for its widest member.
struct Buffer(Vec<u64>);

impl Buffer {
    fn new(octets: usize) -> Self {
        Self(vec![0; octets.div_ceil(8)])
    }

    fn octets<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|offset| self.0[(at + offset) / 8].to_ne_bytes()[(at + offset) % 8])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.octets(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.octets(at))
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        let mut word = self.0[at / 8].to_ne_bytes();
        word[at % 8..at % 8 + 4].copy_from_slice(&value.to_ne_bytes());
        self.0[at / 8] = u64::from_ne_bytes(word);
    }

    /// At a multiple of eight.
    fn set_u64(&mut self, at: usize, value: u64) {
        self.0[at / 8] = value;
    }

    fn text(&self, at: usize) -> String {
        let octets: [u8; NAME] = self.octets(at);
        String::from_utf8_lossy(octets.split(|octet| *octet == 0).next().unwrap_or_default()).into_owned()
    }
}

/// `ioctl(SIOCETHTOOL)`.
fn call(interface: &str, argument: &mut Buffer) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV)); // longer than any name
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = argument.0.as_mut_ptr().cast();
    // any socket of this namespace will do
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // A count in the argument bounds what the kernel copies: it takes the smaller of it and the driver's, or refuses
    // (net/ethtool/ioctl.c: ethtool_get_strings, ethtool_get_stats, ethtool_get_rxfh_indir).
    // SAFETY: the request lives on this frame and points at the argument, borrowed mutably until the call returns. The functions of this file,
    // its only callers, allot what their command's structure takes whole, and those with a count as many entries as they write into it.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
