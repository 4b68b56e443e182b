//! The system calls of this crate, one a function, so that every other file is safe code.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use libc::{c_int, c_void, socklen_t};
use pathlab_xdp::timestamping::CONTROL_SPACE;

/// The longest socket address in use here, `sockaddr_in6`.
pub(crate) const NAME_SPACE: usize = size_of::<libc::sockaddr_in6>();

fn done(rc: c_int) -> io::Result<c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// `socket(domain, SOCK_DGRAM | SOCK_CLOEXEC, 0)`.
pub(crate) fn datagram_socket(domain: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that the call returns is new and owned by nobody else.
    unsafe {
        let fd = done(libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `bind` to the socket address in `name`.
pub(crate) fn bind(socket: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `name.len()` bytes from `name`, which outlives the call; it checks the content itself.
    let rc = unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), name.len() as socklen_t) };
    done(rc).map(drop)
}

/// `getsockname`: the bytes of the socket address that the socket is bound to.
pub(crate) fn socket_name(socket: BorrowedFd<'_>) -> io::Result<[u8; NAME_SPACE]> {
    let mut name = [0; NAME_SPACE];
    let mut length = NAME_SPACE as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the true size of `name`, and the length; both live on this frame.
    let rc = unsafe { libc::getsockname(socket.as_raw_fd(), name.as_mut_ptr().cast(), &raw mut length) };
    done(rc).map(|_| name)
}

/// `setsockopt` with the bytes of `value`.
pub(crate) fn set_socket_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes from `value`, which outlives the call.
    let rc =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as socklen_t) };
    done(rc).map(drop)
}

/// `getsockopt(SO_MEMINFO)`, word `SK_MEMINFO_DROPS`: datagrams that the kernel dropped at this socket; wraps.
pub(crate) fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut words = [0_u32; 16];
    let mut length = size_of_val(&words) as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the true size of `words`, and the length; both live on this frame.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    done(rc).map(|_| words[libc::SK_MEMINFO_DROPS as usize])
}

/// `sendmsg` of one datagram to the socket address in `name`, with ready control messages.
pub(crate) fn send_message(
    socket: BorrowedFd<'_>,
    name: &[u8],
    control: &[u8],
    payload: &[u8],
    flags: c_int,
) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: `msghdr` is plain data for which all zeroes is a value (padding included on other C libraries).
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len() as socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len() as _;
    // SAFETY: every pointer comes from a slice or local that outlives the call, with its true length; sendmsg only reads them.
    let rc = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One datagram for [`send_messages`].
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// The socket address that it goes to.
    pub(crate) name: &'a [u8],
    /// Its control messages.
    pub(crate) control: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// The most datagrams of one [`send_messages`].
pub(crate) const SEND_MOST: usize = 32;

/// `sendmmsg` of the first [`SEND_MOST`] datagrams at most, never waiting: how many went. An error is the first one's, and nothing went.
pub(crate) fn send_messages(socket: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let count = messages.len().min(SEND_MOST);
    // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is a value.
    let (mut parts, mut headers): ([libc::iovec; SEND_MOST], [libc::mmsghdr; SEND_MOST]) =
        unsafe { std::mem::zeroed() };
    for ((message, part), header) in messages.iter().zip(&mut parts).zip(&mut headers) {
        *part = libc::iovec { iov_base: message.payload.as_ptr().cast_mut().cast(), iov_len: message.payload.len() };
        header.msg_hdr.msg_name = message.name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = message.name.len() as socklen_t;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = message.control.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_controllen = message.control.len() as _;
    }
    // SAFETY: the first `count` headers point into slices that outlive the call and to the iovec of the same place, with their true
    // lengths; sendmmsg reads those and writes the headers' `msg_len` alone.
    let rc = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT as _)
    };
    done(rc).map(|sent| sent as usize)
}

/// Buffers of one `recvmmsg`, allocated once.
pub(crate) struct Batch {
    names: Box<[[u8; NAME_SPACE]]>,
    controls: Box<[Aligned]>,
    payloads: Box<[u8]>,
    /// Bytes of payload buffer per datagram.
    stride: usize,
    filled: Box<[Filled]>,
}

/// Control messages begin with a `size_t`: the buffer is aligned to it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Aligned([u8; CONTROL_SPACE]);

#[derive(Clone, Copy, Default)]
struct Filled {
    control: usize,
    payload: usize,
}

/// One message out of a [`Batch`].
pub(crate) struct Message<'a> {
    pub(crate) name: &'a [u8; NAME_SPACE],
    pub(crate) control: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Batch {
    /// Room for `count` messages of at most `stride` bytes each. Pages are touched when first written.
    pub(crate) fn new(count: usize, stride: usize) -> Self {
        Self {
            names: vec![[0; NAME_SPACE]; count].into(),
            controls: vec![Aligned([0; CONTROL_SPACE]); count].into(),
            payloads: vec![0; count * stride].into(),
            stride,
            filled: vec![Filled::default(); count].into(),
        }
    }

    /// How many messages one call can bring.
    pub(crate) fn capacity(&self) -> usize {
        self.filled.len()
    }

    /// One `recvmmsg`, never waiting; returns how many messages it brought.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, flags: c_int) -> io::Result<usize> {
        const MOST: usize = 64;
        let count = self.capacity().min(MOST);
        // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is a value.
        let (mut parts, mut headers): ([libc::iovec; MOST], [libc::mmsghdr; MOST]) = unsafe { std::mem::zeroed() };
        let buffers = self.names.iter_mut().zip(&mut self.controls);
        let payloads = self.payloads.chunks_mut(self.stride.max(1)).map(<[u8]>::as_mut_ptr);
        let payloads = payloads.chain(std::iter::repeat(ptr::null_mut()));
        for (((name, control), payload), (part, header)) in
            buffers.zip(payloads).zip(parts.iter_mut().zip(&mut headers)).take(count)
        {
            *part = libc::iovec { iov_base: payload.cast::<c_void>(), iov_len: self.stride };
            name[..2].fill(0);
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_SPACE as socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_SPACE as _;
        }
        // SAFETY: `count` headers are filled in above. Each points to its own name, control and payload buffer of `self`, which is
        // borrowed mutably until this returns, with the true length of each; `parts` lives on this frame. No timeout pointer.
        let got = done(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                (flags | libc::MSG_DONTWAIT) as _,
                ptr::null_mut(),
            )
        })? as usize;
        for (filled, header) in self.filled.iter_mut().zip(&headers).take(got) {
            *filled = Filled {
                control: header.msg_hdr.msg_controllen.min(CONTROL_SPACE),
                payload: (header.msg_len as usize).min(self.stride),
            };
        }
        Ok(got)
    }

    /// The first `count` messages of the last [`Batch::receive`].
    pub(crate) fn messages(&self, count: usize) -> impl Iterator<Item = Message<'_>> {
        (0..count.min(self.capacity())).map(|i| Message {
            name: &self.names[i],
            control: &self.controls[i].0[..self.filled[i].control],
            payload: &self.payloads[i * self.stride..][..self.filled[i].payload],
        })
    }
}

/// `clock_gettime` in nanoseconds. Both clocks in use here exist on every Linux, so there is no error to report.
pub(crate) fn clock_nanos(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to `now`, which lives on this frame.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut now) };
    debug_assert_eq!(rc, 0, "a clock that every kernel has");
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// `eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)`.
pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that the call returns is new and owned by nobody else.
    unsafe {
        let fd = done(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `write` of the eight bytes that raise an eventfd by one.
pub(crate) fn raise_event(event: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: the kernel reads eight bytes from `one`, which lives on this frame.
    let rc = unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What [`poll`] is asked about one descriptor, and its answer.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Polled<'fd>(libc::pollfd, std::marker::PhantomData<BorrowedFd<'fd>>);

impl<'fd> Polled<'fd> {
    /// Asks whether there is something to read; an error queue that is not empty is reported unasked.
    pub(crate) fn readable(source: &'fd impl AsFd) -> Self {
        let fd = source.as_fd().as_raw_fd();
        Self(libc::pollfd { fd, events: libc::POLLIN, revents: 0 }, std::marker::PhantomData)
    }

    /// Whether anything at all was reported.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }

    /// Whether the error queue was not empty.
    pub(crate) fn has_errors(&self) -> bool {
        self.0.revents & libc::POLLERR != 0
    }
}

/// `poll` until one of `sources` is ready or `timeout` milliseconds are over (-1: no limit). An interrupting signal ends it early.
pub(crate) fn poll(sources: &mut [Polled<'_>], timeout: c_int) -> io::Result<()> {
    // SAFETY: `Polled` is a transparent `pollfd`, so the slice is `len` of them, borrowed mutably until the call returns; its
    // descriptors are borrowed, hence open.
    let rc = unsafe { libc::poll(sources.as_mut_ptr().cast(), sources.len() as libc::nfds_t, timeout) };
    match done(rc) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            sources.iter_mut().for_each(|source| source.0.revents = 0);
            Ok(())
        }
        other => other.map(drop),
    }
}

/// `getcpu`: the CPU that the calling thread runs on, and its NUMA node.
pub(crate) fn current_cpu() -> io::Result<(u32, u32)> {
    let (mut cpu, mut node) = (0_u32, 0_u32);
    // SAFETY: the kernel writes one `unsigned` each to `cpu` and `node`, which live on this frame; the third argument is unused.
    let rc = unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, ptr::null_mut::<c_void>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok((cpu, node)) }
}

/// `sched_setaffinity`: this thread runs on `cpu` alone from now on.
pub(crate) fn pin_to(cpu: u32) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as u32 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu_set_t` is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index is below CPU_SETSIZE, checked above.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: the kernel reads the true size of `set`, which lives on this frame.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}
