//! The system calls that std does not offer, one function each.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use crate::HwtstampConfig;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves the calling thread into the network namespace behind `fd`; setns(2).
pub(crate) fn enter_netns(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a flag and touches no memory of ours; the borrow keeps the descriptor open.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop)
}

/// Moves the calling thread into a new, empty network namespace; unshare(2).
pub(crate) fn leave_netns() -> io::Result<()> {
    // SAFETY: unshare takes a flag and touches no memory of ours.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }.into()).map(drop)
}

/// Gives the calling thread mounts of its own, at first the same; unshare(2).
pub(crate) fn leave_mounts() -> io::Result<()> {
    // SAFETY: unshare takes a flag and touches no memory of ours.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()).map(drop)
}

/// What the calling thread mounts from now on stays its own; mount(2) with `MS_PRIVATE`.
pub(crate) fn make_mounts_private() -> io::Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the target is a NUL-terminated literal; a change of propagation ignores the other pointers, which may be null.
    check(unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) }.into())
        .map(drop)
}

/// Mounts sysfs over `/sys`: it shows the devices of the calling thread's network namespace; mount(2).
pub(crate) fn mount_sysfs() -> io::Result<()> {
    let kind = c"sysfs".as_ptr();
    // SAFETY: source, target and kind are NUL-terminated literals; sysfs takes no data, so that may be null.
    check(unsafe { libc::mount(kind, c"/sys".as_ptr(), kind, 0, std::ptr::null()) }.into()).map(drop)
}

/// Takes a mount off its place at once and lets it go when nobody uses it any more; umount2(2) with `MNT_DETACH`.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the pointer is a NUL-terminated string that outlives the call.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into()).map(drop)
}

/// A descriptor that becomes readable when the process ends; pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call succeeded, so it returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// SIGKILL to exactly the process that the descriptor stands for; pidfd_send_signal(2).
pub(crate) fn pidfd_kill(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means that the kernel fills it in as kill(2) would.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(result).map(drop)
}

/// Which of the descriptors are readable or hung up, after waiting at most `limit` (for ever if `None`); poll(2).
pub(crate) fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], limit: Option<Duration>) -> io::Result<[bool; N]> {
    let mut set = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout = limit.map_or(-1, |limit| limit.as_millis().try_into().unwrap_or(i32::MAX));
    loop {
        // SAFETY: `set` is an array of N pollfd that lives over the call; the borrows keep its descriptors open.
        match check(unsafe { libc::poll(set.as_mut_ptr(), N as libc::nfds_t, timeout) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|_| set.map(|entry| entry.revents != 0)),
        }
    }
}

/// Leaves the terminal's session and process group; setsid(2).
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: setsid has no arguments.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// `SIOCGHWTSTAMP` or `SIOCSHWTSTAMP`: the setting after the call.
pub(crate) fn hwtstamp(interface: &str, request: libc::c_ulong, config: HwtstampConfig) -> io::Result<HwtstampConfig> {
    let mut argument =
        libc::hwtstamp_config { flags: config.flags, tx_type: config.tx_type, rx_filter: config.rx_filter };
    // SAFETY: all-zero is a valid ifreq: an empty name and a union of plain data.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV)); // longer than any name
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    ifreq.ifr_ifru.ifru_data = (&raw mut argument).cast();
    // any socket of this namespace will do
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request and what it points at live on this frame, and both commands of this function read and write one
    // `struct hwtstamp_config`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request as libc::Ioctl, &raw mut ifreq) }.into())?;
    Ok(HwtstampConfig { flags: argument.flags, tx_type: argument.tx_type, rx_filter: argument.rx_filter })
}

/// Ignores a signal from now on; signal(2).
pub(crate) fn ignore(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code of ours can run in signal context.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from 3 up; close_range(2).
///
/// # Safety
/// Nothing in this process may use or close such a descriptor afterwards: no value that owns one may be live.
pub(crate) unsafe fn close_inherited() -> io::Result<()> {
    // SAFETY: close_range takes three integers; that nobody owns the descriptors is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) }).map(drop)
}

/// Executing a program gains nothing from now on; prctl(2), `PR_SET_NO_NEW_PRIVS`.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: this option takes integers alone.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Takes one capability from the bounding set; prctl(2), `PR_CAPBSET_DROP`.
pub(crate) fn drop_from_bounding_set(capability: u32) -> io::Result<()> {
    // SAFETY: this option takes integers alone.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }.into()).map(drop)
}

/// Empties the ambient set; prctl(2), `PR_CAP_AMBIENT_CLEAR_ALL`.
pub(crate) fn clear_ambient_set() -> io::Result<()> {
    // SAFETY: this option takes integers alone.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }.into()).map(drop)
}

/// The highest capability that this kernel knows.
pub(crate) fn last_capability() -> io::Result<u32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `struct __user_cap_header_struct`: version 3, the calling thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl CapabilityHeader {
    const THIS_THREAD: Self = Self { version: 0x2008_0522, pid: 0 };
}

/// `struct __user_cap_data_struct`, of which version 3 takes two: the lower 32 capabilities and the upper.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What the calling thread may have; capget(2).
pub(crate) fn permitted() -> io::Result<u64> {
    let mut header = CapabilityHeader::THIS_THREAD;
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 reads and writes one header and writes two data structs; all live on this frame.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Makes `set` all that the calling thread has and may have, and lets it pass nothing on; capset(2).
pub(crate) fn set_capabilities(set: u64) -> io::Result<()> {
    let mut header = CapabilityHeader::THIS_THREAD;
    let half = |bits: u64| CapabilityData { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(set), half(set >> 32)];
    // SAFETY: version 3 reads one header, and writes it where the version is wrong, and reads two data structs; all live on this frame.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}
