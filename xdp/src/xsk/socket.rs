//! One AF_XDP socket on one receive queue: makes it, moves packets through it, and says what it became.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    BusyPoll, CopyMode, Error, XskOptions,
    metadata::{BindMode, TX_METADATA_LENGTH},
    region::Region,
    ring::{Consumer, Entry, Layout, Producer, Ring},
    rings::{Completed, Received, Rings},
    sys,
    umem::{Frame, Umem},
};

/// `XDP_STATISTICS`: what the kernel counted on this socket since it was made, in its own words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets dropped for other reasons than those below, such as one longer than a frame has room for.
    pub rx_dropped: u64,
    /// Entries of the fill ring that named no frame: a fault of ours.
    pub rx_invalid_descs: u64,
    /// Entries of the tx ring that the kernel did not take: a fault of ours.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the rx ring was full: we are too slow.
    pub rx_ring_full: u64,
    /// Times that a packet came and the fill ring had no frame for it: too few frames, or given back too late.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that the kernel looked for something to send and found nothing.
    pub tx_ring_empty_descs: u64,
}

/// An AF_XDP socket bound to one queue of one interface, with its own UMEM.
///
/// It receives what an XDP program redirects to it (see [`super::Redirect`]) and sends past the qdisc. One thread uses it; the
/// kernel takes it back when it is dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct XskSocket {
    // Closed first: after that the kernel fills no frame any more, and the memory below may go.
    socket: OwnedFd,
    rings: Rings,
    mode: BindMode,
    interface: String,
    ifindex: u32,
    queue: u32,
    need_wakeup: bool,
    busy_poll: bool,
}

impl XskSocket {
    /// Makes a socket, its UMEM and its rings, fills the fill ring, and binds it to `queue` of `interface`.
    ///
    /// Packets come only once the socket is in the map of an XDP program on that interface. Needs `CAP_NET_RAW`, and for a UMEM
    /// above `RLIMIT_MEMLOCK` `CAP_IPC_LOCK`.
    ///
    /// # Errors
    /// [`Error::Option`] for a value out of range; [`Error::NotPermitted`]; [`Error::NoInterface`], [`Error::NoQueue`]; [`Error::QueueTaken`] when
    /// another socket has the queue and has not released it within a second;
    /// [`Error::ZeroCopyRefused`] when zero-copy was asked for and is not to be had; [`Error::Xsk`] for any other call that
    /// the kernel refuses.
    pub fn bind(interface: &str, queue: u32, options: &XskOptions) -> Result<Self, Error> {
        let cut = options.check(sys::page_size())?;
        let name = CString::new(interface).map_err(|_| Error::NoInterface { interface: interface.to_owned() })?;
        let ifindex =
            sys::interface_index(&name).map_err(|_| Error::NoInterface { interface: interface.to_owned() })?;
        let failed = |call| move |source| Error::Xsk { interface: interface.to_owned(), queue, call, source };

        let socket = sys::socket().map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => Error::NotPermitted { action: "open an AF_XDP socket (CAP_NET_RAW)" },
            _ => failed("socket(AF_XDP)")(source),
        })?;
        let umem = Umem::new(cut, options.huge_pages).map_err(failed("mmap of the UMEM"))?;
        let tx_metadata = register(socket.as_fd(), &umem, options.tx_metadata)
            .map_err(failed("setsockopt(XDP_UMEM_REG), which RLIMIT_MEMLOCK limits,"))?;
        let mut rings = make_rings(socket.as_fd(), umem, options, tx_metadata).map_err(failed("making the rings"))?;
        if let Some(busy_poll) = options.busy_poll {
            enable_busy_poll(socket.as_fd(), busy_poll).map_err(failed("setsockopt(SO_BUSY_POLL)"))?;
        }
        rings.refill();
        bind_when_released(socket.as_fd(), ifindex, queue, options.bind_flags())
            .map_err(|source| explain_bind(&name, interface, queue, options.copy, source))?;
        let flags = sys::options(socket.as_fd()).map_err(failed("getsockopt(XDP_OPTIONS)"))?;
        let mode = if flags & libc::XDP_OPTIONS_ZEROCOPY != 0 { BindMode::ZeroCopy } else { BindMode::Copy };
        tracing::debug!(interface, queue, ?mode, tx_metadata, "AF_XDP socket bound");
        Ok(Self {
            socket,
            rings,
            mode,
            interface: interface.to_owned(),
            ifindex,
            queue,
            need_wakeup: options.need_wakeup,
            busy_poll: options.busy_poll.is_some(),
        })
    }

    /// Copy or zero-copy, as the kernel says (`XDP_OPTIONS`).
    pub fn mode(&self) -> BindMode {
        self.mode
    }

    /// Whether transmit stamps can be asked for: the kernel took `XDP_UMEM_TX_METADATA_LEN`.
    pub fn tx_metadata(&self) -> bool {
        self.rings.tx_metadata()
    }

    /// The interface, as given.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface's index when the socket was bound.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The receive queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// A free frame with an empty packet, to build one in; `None` while all are in use.
    pub fn frame(&mut self) -> Option<Frame> {
        self.rings.umem.take()
    }

    /// Gives a frame back; dropping it does the same, a little slower.
    ///
    /// # Panics
    /// When the frame is of another socket.
    pub fn recycle(&mut self, frame: Frame) {
        self.rings.umem.put(frame);
    }

    /// Moves at most `limit` packets to the end of `batch`, and gives free frames to the kernel for the next ones. Never waits.
    ///
    /// # Errors
    /// [`Error::Xsk`] when the kernel refuses to be woken: the interface is down or gone.
    pub fn receive(&mut self, batch: &mut Vec<Received>, limit: usize) -> Result<usize, Error> {
        let mut received = self.rings.receive(batch, limit);
        self.rings.refill();
        if self.rings.fill.need_wakeup() || (received == 0 && self.busy_poll) {
            tolerate(sys::wake_receive(self.socket.as_fd())).map_err(|source| self.failed("recvfrom", source))?;
            received += self.rings.receive(batch, limit - received);
        }
        Ok(received)
    }

    /// Writes a packet to the tx ring; it leaves with the next [`Self::flush`]. Its frame comes back by [`Self::complete`], with
    /// `cookie` and, where `stamp` asks for it and [`Self::tx_metadata`] allows it, a stamp.
    ///
    /// # Errors
    /// The frame itself when the ring is full: flush and complete, then try again.
    ///
    /// # Panics
    /// When the frame is of another socket, or its packet is empty.
    pub fn send(&mut self, frame: Frame, cookie: u64, stamp: bool) -> Result<(), Frame> {
        self.rings.send(frame, cookie, stamp)
    }

    /// Has the kernel send what is in the tx ring. Returns how many packets it has not taken yet: flush again for those.
    ///
    /// In copy mode the kernel sends 32 packets a call and answers `EAGAIN` for more; so long as it takes some, it is called again.
    ///
    /// # Errors
    /// [`Error::Xsk`] with `ENETDOWN` when the interface is down, `ENXIO` when it is gone.
    pub fn flush(&mut self) -> Result<u32, Error> {
        self.rings.tx.publish();
        let mut left = self.rings.tx.outstanding();
        let asleep = self.mode == BindMode::Copy || !self.need_wakeup || self.rings.tx.need_wakeup();
        while left > 0 && asleep {
            let kicked = sys::kick(self.socket.as_fd());
            let done = kicked.is_ok();
            tolerate(kicked).map_err(|source| self.failed("sendto", source))?;
            let before = std::mem::replace(&mut left, self.rings.tx.outstanding());
            if done || left == before {
                break;
            }
        }
        Ok(left)
    }

    /// Takes back at most `limit` frames that were sent, and tells of each at the end of `batch`. Never waits.
    pub fn complete(&mut self, batch: &mut Vec<Completed>, limit: usize) -> usize {
        self.rings.complete(self.mode, batch, limit)
    }

    /// Waits until a packet is there or `timeout` is over. `true`: there is one. Signals end the wait early.
    ///
    /// In copy mode this sends what is in the tx ring too.
    ///
    /// # Errors
    /// [`Error::Xsk`].
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        match sys::wait(self.socket.as_fd(), libc::POLLIN, timeout) {
            Err(source) if source.kind() == io::ErrorKind::Interrupted => Ok(false),
            other => other.map_err(|source| self.failed("ppoll", source)),
        }
    }

    /// What the kernel counted.
    ///
    /// # Errors
    /// [`Error::Xsk`].
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let counted =
            sys::statistics(self.socket.as_fd()).map_err(|source| self.failed("getsockopt(XDP_STATISTICS)", source))?;
        Ok(Statistics {
            rx_dropped: counted.rx_dropped,
            rx_invalid_descs: counted.rx_invalid_descs,
            tx_invalid_descs: counted.tx_invalid_descs,
            rx_ring_full: counted.rx_ring_full,
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: counted.tx_ring_empty_descs,
        })
    }

    /// Ring entries from the kernel that named no frame it had; they were skipped. Anything but 0 is a fault, of the driver or ours.
    pub fn strays(&self) -> u64 {
        self.rings.strays()
    }

    fn failed(&self, call: &'static str, source: io::Error) -> Error {
        Error::Xsk { interface: self.interface.clone(), queue: self.queue, call, source }
    }
}

impl AsFd for XskSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Registers the UMEM, with transmit metadata if asked for and known to the kernel; whether it is.
fn register(socket: BorrowedFd<'_>, umem: &Umem, tx_metadata: bool) -> io::Result<bool> {
    if tx_metadata {
        match umem.register(socket, libc::XDP_UMEM_TX_METADATA_LEN, TX_METADATA_LENGTH as u32) {
            // A kernel before 6.8 refuses the flag.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => return other.map(|()| true),
        }
    }
    umem.register(socket, 0, 0).map(|()| false)
}

fn make_rings(socket: BorrowedFd<'_>, umem: Umem, options: &XskOptions, tx_metadata: bool) -> io::Result<Rings> {
    for (ring, size) in [
        (libc::XDP_UMEM_FILL_RING, options.fill_ring),
        (libc::XDP_UMEM_COMPLETION_RING, options.completion_ring),
        (libc::XDP_RX_RING, options.rx_ring),
        (libc::XDP_TX_RING, options.tx_ring),
    ] {
        sys::make_ring(socket, ring, size)?;
    }
    let at = sys::ring_offsets(socket)?;
    let fill = (&at.fr, libc::XDP_UMEM_PGOFF_FILL_RING, options.fill_ring);
    let completion = (&at.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING, options.completion_ring);
    let rx = (&at.rx, libc::XDP_PGOFF_RX_RING as u64, options.rx_ring);
    let tx = (&at.tx, libc::XDP_PGOFF_TX_RING as u64, options.tx_ring);
    Ok(Rings::new(
        Producer::new(map_ring(socket, fill)?),
        Consumer::new(map_ring(socket, completion)?),
        Consumer::new(map_ring(socket, rx)?),
        Producer::new(map_ring(socket, tx)?),
        umem,
        tx_metadata,
    ))
}

fn map_ring<T: Entry>(
    socket: BorrowedFd<'_>,
    (at, page_offset, size): (&libc::xdp_ring_offset, u64, u32),
) -> io::Result<Ring<T>> {
    let layout = Layout {
        producer: at.producer as usize,
        consumer: at.consumer as usize,
        flags: at.flags as usize,
        entries: at.desc as usize,
    };
    let region = Arc::new(Region::ring(socket, layout.length::<T>(size), page_offset)?);
    Ring::new(&region, layout, size)
        .ok_or_else(|| io::Error::other("the kernel's ring layout does not fit its mapping"))
}

fn enable_busy_poll(socket: BorrowedFd<'_>, busy_poll: BusyPoll) -> io::Result<()> {
    sys::set_socket_option(socket, libc::SO_PREFER_BUSY_POLL, 1)?;
    sys::set_socket_option(socket, libc::SO_BUSY_POLL, busy_poll.microseconds.into())?;
    sys::set_socket_option(socket, libc::SO_BUSY_POLL_BUDGET, busy_poll.budget.into())
}

/// The answers by which the kernel says "not all, and not an error": out of its budget of a call, of buffers, or of places in
/// the completion ring. What is left is left in the tx ring.
fn tolerate(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS)) => Ok(()),
        other => other,
    }
}

/// How long the kernel may take to release a queue whose socket was closed; milliseconds on an idle host.
const RELEASE: Duration = Duration::from_secs(1);

/// A worker of the kernel's releases a queue some time after its socket was closed, and tells nobody: so a reflector that is
/// started again would find its own queue taken.
fn bind_when_released(socket: BorrowedFd<'_>, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
    let deadline = Instant::now() + RELEASE;
    loop {
        match sys::bind(socket, ifindex, queue, flags) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            answer => return answer,
        }
    }
}

/// What an error number of `bind` means (`net/xdp/xsk.c`, `xsk_bind`; `net/xdp/xsk_buff_pool.c`, `xp_assign_dev`).
fn explain_bind(name: &CStr, interface: &str, queue: u32, copy: CopyMode, source: io::Error) -> Error {
    let interface = interface.to_owned();
    match source.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) if copy == CopyMode::ZeroCopy && queue_exists(name, queue) => {
            Error::ZeroCopyRefused { interface, queue, source }
        }
        Some(libc::EINVAL) if !queue_exists(name, queue) => {
            Error::NoQueue { interface, queue, queues: sys::queues(name).unwrap_or(0) }
        }
        Some(libc::EBUSY) => Error::QueueTaken { interface, queue },
        _ => Error::Xsk { interface, queue, call: "bind", source },
    }
}

/// Where the driver does not tell how many queues it has, the kernel's answer stays as it is.
fn queue_exists(name: &CStr, queue: u32) -> bool {
    sys::queues(name).is_ok_and(|queues| queue < queues) || sys::queues(name).is_err()
}
