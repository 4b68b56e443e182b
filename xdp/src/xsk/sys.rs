//! The system calls of AF_XDP, one a function, so that the socket itself is safe code.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    io,
    mem::{self, MaybeUninit},
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    time::Duration,
};

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `mmap`, readable and writable; a new mapping at an address of the kernel's choice.
pub(crate) fn map(
    length: usize,
    flags: libc::c_int,
    file: Option<BorrowedFd<'_>>,
    offset: u64,
) -> io::Result<NonNull<u8>> {
    let fd = file.map_or(-1, |file| file.as_raw_fd());
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: with a null hint and without MAP_FIXED the kernel takes unused address space, so no memory of ours changes. Those
    // who call pass no other flags than MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_POPULATE and MAP_HUGETLB.
    let address = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(ptr::null_mut(), length, protection, flags, fd, offset)
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// `madvise(MADV_HUGEPAGE)`: asks for pages of 2 MiB where the kernel has some to give; it may well give none.
pub(crate) fn prefer_huge_pages(base: NonNull<u8>, length: usize) -> io::Result<()> {
    // SAFETY: this advice changes neither what memory holds nor whether it is mapped, wherever it is.
    check(unsafe { libc::madvise(base.as_ptr().cast(), length, libc::MADV_HUGEPAGE) })
}

/// `munmap`.
///
/// # Safety
/// `base` and `length` are those of one [`map`], and nothing refers to that memory any more.
pub(crate) unsafe fn unmap(base: NonNull<u8>, length: usize) {
    // SAFETY: the caller's promise. It cannot fail for a mapping that exists, and there is nothing to do if it did.
    unsafe { libc::munmap(base.as_ptr().cast(), length) };
}

/// `socket(AF_XDP, SOCK_RAW)`.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd: RawFd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: a descriptor just made, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` with a value that the kernel copies.
fn set<T: Copy>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`, which lives until the call returns. Those who call pass
    // integers and structs of integers without padding.
    check(unsafe {
        let length = size_of::<T>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    })
}

/// `getsockopt` into a struct that a kernel may know a shorter form of: what it does not write stays zero.
///
/// # Safety
/// `T` is made of integers: every bit pattern is a value.
unsafe fn get<T>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`; both live on this frame.
    let rc = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    check(rc)?;
    // SAFETY: zeroed, then overwritten with integers, and the caller says that all bit patterns are values.
    Ok(unsafe { value.assume_init() })
}

/// `XDP_UMEM_REG`: gives the kernel the memory in `registration.addr`.
///
/// # Safety
/// `addr..addr + len` is a mapping that nothing else uses, and of which frames that the kernel is given by the fill and tx rings
/// are not looked at before they come back.
pub(crate) unsafe fn register_umem(socket: BorrowedFd<'_>, registration: libc::xdp_umem_reg) -> io::Result<()> {
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, registration)
}

/// `XDP_UMEM_FILL_RING` and its three like: makes a ring of `size` entries.
pub(crate) fn make_ring(socket: BorrowedFd<'_>, ring: libc::c_int, size: u32) -> io::Result<()> {
    set(socket, libc::SOL_XDP, ring, size)
}

/// An integer option of `SOL_SOCKET`.
pub(crate) fn set_socket_option(socket: BorrowedFd<'_>, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, name, value)
}

/// `XDP_MMAP_OFFSETS`.
pub(crate) fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: a struct of integers.
    unsafe { get(socket, libc::XDP_MMAP_OFFSETS) }
}

/// `XDP_STATISTICS`.
pub(crate) fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: a struct of integers.
    unsafe { get(socket, libc::XDP_STATISTICS) }
}

/// `XDP_OPTIONS`: its flags.
pub(crate) fn options(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: a struct of one integer.
    unsafe { get::<libc::xdp_options>(socket, libc::XDP_OPTIONS) }.map(|options| options.flags)
}

/// `bind` to one queue of one interface.
pub(crate) fn bind(socket: BorrowedFd<'_>, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the kernel reads `size_of(sockaddr_xdp)` bytes of `address`, which lives until the call returns.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_xdp>() as libc::socklen_t)
    })
}

/// An empty `sendto`: send what is in the tx ring.
pub(crate) fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address, with lengths of zero.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    check(sent as libc::c_int)
}

/// An empty `recvfrom`: run the driver's receive side, and look at the fill ring.
pub(crate) fn wake_receive(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address, with lengths of zero.
    let received = unsafe {
        libc::recvfrom(socket.as_raw_fd(), ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut())
    };
    check(received as libc::c_int)
}

/// `ppoll` for one descriptor: whether one of `events` came before `timeout`.
pub(crate) fn wait(socket: BorrowedFd<'_>, events: i16, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one pollfd and one timespec, both on this frame; a null mask leaves the signals as they are.
    let ready = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, ptr::null()) };
    check(ready)?;
    Ok(poll.revents & events != 0)
}

/// `if_nametoindex`, in this thread's network namespace.
pub(crate) fn interface_index(name: &CStr) -> io::Result<u32> {
    // SAFETY: a string that ends in NUL.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// `struct ethtool_channels` (`include/uapi/linux/ethtool.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct EthtoolChannels {
    cmd: u32,
    maximum: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `ETHTOOL_GCHANNELS`: how many queues a socket can be bound to, the larger of receive and transmit.
pub(crate) fn queues(interface: &CStr) -> io::Result<u32> {
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..EthtoolChannels::default() };
    // SAFETY: all-zero is a valid ifreq: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = interface.to_bytes_with_nul();
    if name.len() > request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // Any socket of this namespace will do.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the kernel writes one ethtool_channels behind `ifru_data`, for which there is room on this frame.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) })?;
    Ok(channels.combined + channels.rx.max(channels.tx))
}

/// `sysconf(_SC_PAGESIZE)`.
pub(crate) fn page_size() -> u32 {
    // SAFETY: takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(size).unwrap_or(4096)
}

/// `BPF_PROG_LOAD` of an XDP program bound to one device (`BPF_F_XDP_DEV_BOUND_ONLY`), looked up in this thread's network
/// namespace. What the verifier says goes to `log`, with a NUL at its end; a log without room asks for none. One that is too short
/// makes the kernel refuse a sound program (`ENOSPC`).
pub(crate) fn load_device_bound(
    name: &CStr,
    instructions: &[u64],
    ifindex: u32,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
    const BPF_XDP: u32 = 37;

    /// The head of `union bpf_attr`, `struct prog_load`; the kernel takes what is missing as zero.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().take(15).zip(name.to_bytes()) {
        *to = *from;
    }
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(instructions.len()).map_err(too_long)?,
        insns: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(too_long)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: BPF_F_XDP_DEV_BOUND_ONLY,
        prog_name,
        prog_ifindex: ifindex,
        expected_attach_type: BPF_XDP,
    };
    // SAFETY: the kernel reads `size_of::<ProgLoad>()` bytes of a structure without padding, `insn_cnt` instructions of 8 bytes
    // and a string that ends in NUL, and writes at most `log_size` bytes to `log`, which is borrowed for that; all outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<ProgLoad>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so this is a new descriptor that nobody else owns; descriptors are ints.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
