//! The system calls of packet sockets and of the wire's thread, one a function, and the ring of received frames that the kernel shares.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use libc::{c_int, c_uint};

/// linux/if_packet.h: `struct tpacket2_hdr`, whose layout the kernel promises.
const HEADER: usize = size_of::<libc::tpacket2_hdr>();

fn check(rc: c_int) -> io::Result<c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// `socket(AF_PACKET, SOCK_RAW, 0)`: hears nothing until it is bound to a protocol.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: a descriptor just made, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` of an integer.
pub(super) fn set(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is one int that outlives the call, and its size is given.
    check(unsafe {
        let length = size_of::<c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&value).cast(), length)
    })
    .map(drop)
}

/// `setsockopt(PACKET_RX_RING)`: `blocks` blocks of `block` bytes, each of them cut into frames of `frame` bytes.
fn set_ring(socket: BorrowedFd<'_>, block: u32, blocks: u32, frame: u32) -> io::Result<()> {
    let request = libc::tpacket_req {
        tp_block_size: block,
        tp_block_nr: blocks,
        tp_frame_size: frame,
        tp_frame_nr: block / frame * blocks,
    };
    // SAFETY: the kernel reads one `tpacket_req`, which lives on this frame.
    check(unsafe {
        let length = size_of::<libc::tpacket_req>() as libc::socklen_t;
        let value = ptr::from_ref(&request).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, value, length)
    })
    .map(drop)
}

/// `bind` to every protocol of one interface.
pub(super) fn bind(socket: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex as c_int;
    // SAFETY: the kernel reads one sockaddr_ll, which lives on this frame, and its size is given.
    check(unsafe {
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length)
    })
    .map(drop)
}

/// `getsockopt(PACKET_STATISTICS)`: frames that found the ring full since the last call.
pub(super) fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `statistics`; both live on this frame.
    check(unsafe {
        let value = ptr::from_mut(&mut statistics).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &raw mut length)
    })?;
    Ok(statistics.tp_drops)
}

/// `send` of one frame; never waits.
pub(super) fn send(socket: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `frame.len()` bytes of `frame`, which outlives the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `ppoll` until one of the descriptors has something to read, or `timeout` is over. A signal ends the wait early.
pub(super) fn wait(sockets: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos() as libc::c_long };
    // SAFETY: the kernel reads and writes `sockets.len()` pollfds, borrowed mutably until the call returns, and reads one timespec of
    // this frame. A null signal mask is allowed.
    let ready =
        unsafe { libc::ppoll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, &raw const timeout, ptr::null()) };
    match check(ready) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    }
}

/// The ring into which the kernel writes what a packet socket hears (TPACKET_V2, Documentation/networking/packet_mmap.rst).
///
/// Invariants: `base` is the start of a mapping of `frames * size` bytes that is unmapped only when this is dropped; `next < frames`; `size`
/// is a multiple of 16 and no less than the header, so that every frame begins with an aligned header within the mapping.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    frames: usize,
    size: usize,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone; whichever thread has the value may use it.
unsafe impl Send for Ring {}

impl Ring {
    /// Gives `socket` a ring of `blocks` blocks of `block` bytes in frames of `frame` bytes, all powers of two and pages.
    pub(super) fn new(socket: BorrowedFd<'_>, block: u32, blocks: u32, frame: u32) -> io::Result<Self> {
        set(socket, libc::SOL_PACKET, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as c_int)?;
        set_ring(socket, block, blocks, frame)?;
        let length = block as usize * blocks as usize;
        // SAFETY: with a null hint and without MAP_FIXED the kernel takes unused address space, so no memory of ours changes.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            libc::mmap(ptr::null_mut(), length, protection, flags, socket.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let (frames, size) = (length / frame as usize, frame as usize);
        debug_assert!(size.is_multiple_of(16) && size >= HEADER);
        Ok(Self { base, frames, size, next: 0 })
    }

    /// Hands the next frame to `take`, with the kernel's receive stamp since the epoch and whether the frame is whole, and gives its place back.
    /// `None` where nothing has come.
    pub(super) fn receive<T>(&mut self, take: impl FnOnce(Duration, &[u8], bool) -> T) -> Option<T> {
        // SAFETY: `next < frames`, so that the frame lies within the mapping.
        let place = unsafe { self.base.add(self.next * self.size) };
        // SAFETY: the header's first field, 32 bits wide and aligned (the struct's invariant); the kernel and we write it by turns, as atomics.
        let status = unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) };
        // Pairs with the kernel's write barrier before it sets the bit: what it wrote to the frame is seen.
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the frame is ours until the status is given back, so that nobody writes to it; the header is plain integers.
        let header = unsafe { place.cast::<libc::tpacket2_hdr>().read() };
        let (from, length) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        let inside = from >= HEADER && from + length <= self.size;
        let bytes: &[u8] = if inside {
            // SAFETY: within the frame, which is ours; the borrow ends before the status is given back below.
            unsafe { slice::from_raw_parts(place.as_ptr().add(from), length) }
        } else {
            &[]
        };
        let stamp = Duration::new(u64::from(header.tp_sec), header.tp_nsec.min(999_999_999));
        let taken = take(stamp, bytes, inside && header.tp_snaplen == header.tp_len);
        // Pairs with the kernel's read of the status: we are done with the bytes before it may write over them.
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.frames;
        Some(taken)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `new`, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.frames * self.size) };
    }
}

/// A descriptor to wait for, for reading.
pub(super) fn readable(socket: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

const _: () = assert!(size_of::<c_uint>() == 4);
