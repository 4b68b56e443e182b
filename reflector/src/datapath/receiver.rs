//! The receiving half of a [`StampedSocket`](super::StampedSocket): datagrams in batches, each with what the kernel knows of it.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use pathlab_record::{Realtime, Time};
use pathlab_xdp::timestamping::{Control, is_delayed_error};

use super::name::socket_address;
use crate::{clock::realtime_now, sys};

/// Datagrams of one system call.
const BATCH: usize = 32;

/// Room for any UDP datagram, so that none is ever cut; the odd cache line keeps the buffers from sharing cache sets.
const STRIDE: usize = 65_536 + 64;

/// One datagram as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub peer: SocketAddr,
    /// The destination address in its IP header.
    pub local: Option<IpAddr>,
    /// False where the destination is a multicast or broadcast address of this host.
    pub unicast: bool,
    /// The interface it came by.
    pub ifindex: Option<u32>,
    /// IPv4 TTL or IPv6 hop limit as it arrived.
    pub ttl: Option<u8>,
    /// IPv4 TOS or IPv6 traffic class: six bits DSCP, two bits ECN.
    pub traffic_class: Option<u8>,
    /// When the stack took it from the driver; absent where stamping is off or has only just been turned on.
    pub kernel: Option<Time<Realtime>>,
    /// When the card took it off the wire, in nanoseconds of the card's own clock; absent where the card did not stamp it.
    pub nic: Option<i64>,
    /// When the system call that brought it returned; the same for every datagram of that call.
    pub app: Time<Realtime>,
    /// UDP payload, whole.
    pub payload: &'a [u8],
}

/// The receiving half.
pub struct Receiver {
    fd: Arc<OwnedFd>,
    batch: sys::Batch,
    drops: Cell<u64>,
}

impl Receiver {
    pub(super) fn new(fd: Arc<OwnedFd>) -> Self {
        Self { fd, batch: sys::Batch::new(BATCH, STRIDE), drops: Cell::new(0) }
    }

    /// Takes what is there, up to one batch, without waiting; returns how many. Zero: the queue was empty.
    ///
    /// # Errors
    /// The kernel's answer to `recvmmsg`. An ICMP error that waits on the socket is none: it goes to
    /// [`Sender::undelivered`](super::Sender::undelivered).
    pub fn receive(&mut self, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let count = self.receive_batch()?;
        let app = realtime_now();
        for message in self.batch.messages(count) {
            let control = Control::parse(message.control);
            // A name of another family cannot be; were it so, the datagram must still be counted.
            let peer = socket_address(message.name).unwrap_or(SocketAddr::from(([0; 4], 0)));
            each(Datagram {
                peer,
                local: control.local.map(|local| local.destination),
                unicast: control.local.is_none_or(|local| {
                    local.destination == local.source_for_reply && !local.destination.is_multicast()
                }),
                ifindex: control.local.map(|local| local.ifindex),
                ttl: control.hop_limit,
                traffic_class: control.traffic_class,
                kernel: control.software,
                nic: control.hardware,
                app,
                payload: message.payload,
            });
        }
        Ok(count)
    }

    /// Datagrams that reached this socket and that the kernel dropped there (full receive buffer, bad checksum) since it was
    /// made. The kernel counts in 32 bits: ask at least once in 2³² drops.
    pub fn kernel_drops(&self) -> u64 {
        let seen = self.drops.get();
        if let Ok(now) = sys::socket_drops(self.fd.as_fd()) {
            self.drops.set(seen + u64::from(now.wrapping_sub(seen as u32)));
        }
        self.drops.get()
    }

    fn receive_batch(&mut self) -> io::Result<usize> {
        // Each attempt takes one delayed error off the socket; a flood of them must not hold us here.
        for _ in 0..16 {
            match self.batch.receive(self.fd.as_fd(), 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if is_delayed_error(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
        Ok(0)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
