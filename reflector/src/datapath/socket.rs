//! A UDP socket that says of every datagram when it passed which place in the host, on the way in and on the way out.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use pathlab_xdp::timestamping;

use super::{
    name::{SendControl, SocketName, domain, socket_address},
    receiver::{Datagram, Receiver},
    sender::{Numbering, SendId, Sender, SentStamp},
    slots::TransmitSlots,
};
use crate::{Error, sys};

/// TTL and hop limit of everything sent, so that the receiver can count the hops (RFC 8762 §4.3.1, Session-Sender TTL).
const TTL: i32 = 255;

/// How a [`StampedSocket`] is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Stamp what arrives, in the kernel.
    pub receive_stamps: bool,
    /// Stamp what leaves, at the hand-over to the driver.
    pub transmit_stamps: bool,
    /// Stamp what leaves at the entry into the queueing discipline as well.
    pub sched_stamps: bool,
    /// Ask the card when datagrams came. Its receive filter is for somebody else to set; where it does not stamp, the stamp is absent.
    pub nic_receive_stamps: bool,
    /// Ask the card when datagrams left, as often as it has room. All sockets of one card share its slots: clone them.
    pub nic_transmit_stamps: Option<TransmitSlots>,
    /// Receive buffer in bytes, beyond `net.core.rmem_max` where the process may; the kernel's default if absent.
    /// It holds transmit stamps, too.
    pub receive_buffer: Option<u32>,
    /// Poll the device queue from the system call for so long (`SO_BUSY_POLL`), to the microsecond.
    pub busy_poll: Option<Duration>,
    /// Take and give datagrams by this interface alone (`SO_BINDTODEVICE`).
    pub device: Option<String>,
    /// fwmark of everything sent (`SO_MARK`).
    pub mark: Option<u32>,
    /// DSCP of everything sent, 0 to 63.
    pub dscp: Option<u8>,
    /// Hear of datagrams that were not delivered ([`Sender::undelivered`]), on kernels before 6.13 instead of transmit stamps.
    pub report_errors: bool,
    /// Share the port with other sockets of the same user (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

impl SocketOptions {
    /// Receive and transmit stamps, without the queueing discipline's; everything else as the kernel has it.
    pub fn stamped() -> Self {
        Self { receive_stamps: true, transmit_stamps: true, ..Self::default() }
    }

    /// Whether anything is to be said of a send.
    fn any_transmit_stamps(&self) -> bool {
        self.transmit_stamps || self.sched_stamps || self.nic_transmit_stamps.is_some()
    }

    fn timestamping(&self) -> timestamping::Options {
        timestamping::Options {
            receive: self.receive_stamps,
            // The kernel numbers the sends that ask for a stamp: beside the card's, which not every send asks for, every send has one.
            transmit: self.transmit_stamps || self.nic_transmit_stamps.is_some(),
            transmit_sched: self.sched_stamps,
            receive_nic: self.nic_receive_stamps,
            transmit_nic: self.nic_transmit_stamps.is_some(),
            drops: false,
            ..timestamping::Options::SOFTWARE
        }
    }
}

/// A bound, unconnected UDP socket with kernel timestamps. One socket serves any number of sessions.
///
/// It never waits: [`poll`](https://man7.org/linux/man-pages/man2/poll.2.html) it through [`AsFd`]. `POLLIN` means datagrams,
/// `POLLERR` transmit stamps. Buffers are allocated once, when it is made.
pub struct StampedSocket {
    receiver: Receiver,
    sender: Sender,
    local: SocketAddr,
}

impl StampedSocket {
    /// Binds to `addr`. On a wildcard address every datagram says which address it was sent to ([`Datagram::local`]), to be
    /// given back to [`StampedSocket::send`]. An IPv6 wildcard does not take IPv4.
    ///
    /// # Errors
    /// The port is in use or privileged, the address or interface is not of this host, or the kernel refuses an option: never
    /// silently left out.
    pub fn bind(addr: SocketAddr, options: &SocketOptions) -> Result<Self, Error> {
        let numbering = if !options.any_transmit_stamps() || kernel_takes_stamp_ids(addr)? {
            Numbering::Ours
        } else if options.report_errors {
            let unstamped = SocketOptions {
                transmit_stamps: false,
                sched_stamps: false,
                nic_transmit_stamps: None,
                ..options.clone()
            };
            return Self::bind_with(addr, &unstamped, Numbering::Ours);
        } else {
            Numbering::Kernels
        };
        Self::bind_with(addr, options, numbering)
    }

    fn bind_with(addr: SocketAddr, options: &SocketOptions, numbering: Numbering) -> Result<Self, Error> {
        let failed = |call| move |source| Error::Socket { address: addr, call, source };
        let fd = Arc::new(sys::datagram_socket(domain(&addr)).map_err(failed("socket"))?);
        configure(fd.as_fd(), addr, options, numbering)?;
        sys::bind(fd.as_fd(), SocketName::from(addr).as_bytes()).map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::PortInUse(addr),
            Some(libc::EADDRNOTAVAIL) => Error::NoSuchAddress(addr),
            Some(libc::EACCES) => Error::PrivilegedPort(addr),
            _ => failed("bind")(source),
        })?;
        let name = sys::socket_name(fd.as_fd()).map_err(failed("getsockname"))?;
        let nic = options.nic_transmit_stamps.clone().map(|slots| (options.timestamping(), slots));
        Ok(Self {
            receiver: Receiver::new(fd.clone()),
            sender: Sender::new(fd, options.any_transmit_stamps().then_some(numbering), nic),
            local: socket_address(&name).unwrap_or(addr),
        })
    }

    /// The address it is bound to, with the port that the kernel chose if that was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// [`Receiver::receive`].
    ///
    /// # Errors
    /// As there.
    pub fn receive(&mut self, each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        self.receiver.receive(each)
    }

    /// [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId> {
        self.sender.send(to, from, payload)
    }

    /// [`Sender::sent_stamps`].
    ///
    /// # Errors
    /// As there.
    pub fn sent_stamps(&mut self, each: impl FnMut(SendId, SentStamp)) -> io::Result<usize> {
        self.sender.sent_stamps(each)
    }

    /// [`Receiver::kernel_drops`].
    pub fn kernel_drops(&self) -> u64 {
        self.receiver.kernel_drops()
    }

    /// [`Sender::undelivered_total`].
    pub fn undelivered_total(&self) -> u64 {
        self.sender.undelivered_total()
    }

    /// Both halves at once, to answer a datagram while it still lies in the receive buffer.
    pub fn halves(&mut self) -> (&mut Receiver, &mut Sender) {
        (&mut self.receiver, &mut self.sender)
    }

    /// Both halves for good, one for each of two threads.
    pub fn into_halves(self) -> (Receiver, Sender) {
        (self.receiver, self.sender)
    }
}

impl AsFd for StampedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Whether the kernel knows `SCM_TS_OPT_ID`. Asked by an empty datagram that a socket sends to itself: control messages are read
/// before the route is looked up, so that the answer is the same where the loopback interface is down.
fn kernel_takes_stamp_ids(addr: SocketAddr) -> Result<bool, Error> {
    let failed = |call| move |source| Error::Socket { address: addr, call, source };
    let socket = sys::datagram_socket(libc::AF_INET).map_err(failed("socket"))?;
    let stamps = timestamping::Options { transmit: true, ..Default::default() };
    timestamping::enable(socket.as_fd(), stamps).map_err(failed("setsockopt(SO_TIMESTAMPING)"))?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    sys::bind(socket.as_fd(), SocketName::from(any).as_bytes()).map_err(failed("bind"))?;
    let name = sys::socket_name(socket.as_fd()).map_err(failed("getsockname"))?;
    let port = socket_address(&name).unwrap_or(any).port();
    let itself = SocketName::from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut control = SendControl::new();
    control.stamp_id(0);
    let sent = sys::send_message(socket.as_fd(), itself.as_bytes(), control.as_bytes(), &[], libc::MSG_DONTWAIT);
    Ok(sent.err().is_none_or(|error| error.raw_os_error() != Some(libc::EINVAL)))
}

fn configure(
    socket: BorrowedFd<'_>,
    address: SocketAddr,
    options: &SocketOptions,
    numbering: Numbering,
) -> Result<(), Error> {
    let v6 = address.is_ipv6();
    let set = |option, level, name, value: i32| {
        sys::set_socket_option(socket, level, name, &value.to_ne_bytes()).map_err(|source| Error::Option {
            address,
            option,
            source,
        })
    };
    if let Some(device) = &options.device {
        let name = CString::new(device.as_str()).map_err(|_| Error::NoSuchInterface(device.clone()))?;
        sys::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_bytes_with_nul()).map_err(
            |source| match source.raw_os_error() {
                Some(libc::ENODEV | libc::EINVAL) => Error::NoSuchInterface(device.clone()),
                _ => Error::Option { address, option: "SO_BINDTODEVICE", source },
            },
        )?;
    }
    if options.reuse_port {
        set("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if let Some(bytes) = options.receive_buffer {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        set("SO_RCVBUFFORCE", libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .or_else(|_| set("SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))?;
    }
    if let Some(span) = options.busy_poll {
        let micros = i32::try_from(span.as_micros()).unwrap_or(i32::MAX);
        set("SO_BUSY_POLL", libc::SOL_SOCKET, libc::SO_BUSY_POLL, micros)?;
    }
    if let Some(mark) = options.mark {
        set("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
    }
    if let Some(dscp) = options.dscp {
        let class = i32::from(dscp & 0x3f) << 2;
        if v6 {
            set("IPV6_TCLASS", libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class)?;
        } else {
            set("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS, class)?;
        }
    }
    let report_errors = numbering == Numbering::Ours;
    if v6 {
        set("IPV6_V6ONLY", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        set("IPV6_UNICAST_HOPS", libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, TTL)?;
        set("IPV6_RECVERR", libc::IPPROTO_IPV6, libc::IPV6_RECVERR, report_errors.into())?;
    } else {
        set("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL, TTL)?;
        set("IP_RECVERR", libc::IPPROTO_IP, libc::IP_RECVERR, report_errors.into())?;
    }
    timestamping::enable(socket, options.timestamping()).map_err(|source| Error::Option {
        address,
        option: "SO_TIMESTAMPING",
        source,
    })
}

#[cfg(test)]
mod tests;
