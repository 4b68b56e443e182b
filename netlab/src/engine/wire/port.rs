//! An interface of the router: what it hears with the kernel's stamp, and what it sends, past the stack in both directions.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use super::sys::{self, Ring};

/// Bytes of the ring; at 2,048 a frame these are 4,096 frames, 40 ms at 100,000 packets a second.
const RING: u32 = 8 << 20;
/// Bytes that the kernel puts before a frame in the ring (TPACKET2_HDRLEN, alignment, room for a MAC header), rounded up.
const OVERHEAD: u32 = 128;
const ETHERNET: u32 = 14;
/// Frames sent and not yet taken by the other end of the veth: as many as a burst may hold.
const SEND_BUFFER: libc::c_int = 16 << 20;

/// A packet socket with its ring.
pub(super) struct Port {
    // Unmapped before the socket is closed; either order is sound.
    ring: Ring,
    socket: OwnedFd,
    drops: u64,
}

impl Port {
    /// Opens the interface of that index in the calling thread's namespace for packets of `mtu` bytes.
    ///
    /// TPACKET_V2, because version 3 hands frames over by the block, a millisecond late at the earliest.
    pub(super) fn open(ifindex: u32, mtu: u32) -> io::Result<Self> {
        let socket = sys::socket()?;
        let frame = (mtu + ETHERNET + OVERHEAD).next_power_of_two();
        let block = frame.max(1 << 16);
        let ring = Ring::new(socket.as_fd(), block, RING.max(block * 4) / block, frame)?;
        sys::set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        sys::set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        sys::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        sys::bind(socket.as_fd(), ifindex)?;
        Ok(Self { ring, socket, drops: 0 })
    }

    /// Hands the next frame to `take` with its stamp since the epoch, and whether it is whole; `None` where nothing has come.
    pub(super) fn receive<T>(&mut self, take: impl FnOnce(Duration, &[u8], bool) -> T) -> Option<T> {
        self.ring.receive(take)
    }

    /// Sends a frame; the other end has it when this returns.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        sys::send(self.socket.as_fd(), frame)
    }

    /// Frames that found the ring full, since it was opened.
    pub(super) fn drops(&mut self) -> io::Result<u64> {
        self.drops += u64::from(sys::drops(self.socket.as_fd())?);
        Ok(self.drops)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
