//! A UDP socket that says of every datagram when it passed which place in the host, on the way in and on the way out.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use pathlab_record::{Realtime, Time};
use pathlab_xdp::timestamping;

use super::{
    name::{SendControl, SocketName, domain, socket_address},
    receiver::{Datagram, Receiver},
    sender::{Numbering, SendId, Sender, SentPlane},
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
    /// Share the port with other sockets of the same user (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

impl SocketOptions {
    /// Receive and transmit stamps, without the queueing discipline's; everything else as the kernel has it.
    pub fn stamped() -> Self {
        Self { receive_stamps: true, transmit_stamps: true, ..Self::default() }
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
        let stamps = options.transmit_stamps || options.sched_stamps;
        let numbering = if !stamps || kernel_takes_stamp_ids(addr)? { Numbering::Ours } else { Numbering::Kernels };
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
        let stamps = options.transmit_stamps || options.sched_stamps;
        Ok(Self {
            receiver: Receiver::new(fd.clone()),
            sender: Sender::new(fd, stamps.then_some(numbering)),
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
    pub fn sent_stamps(&mut self, each: impl FnMut(SendId, SentPlane, Time<Realtime>)) -> io::Result<usize> {
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
    let stamping = timestamping::Options {
        receive: options.receive_stamps,
        transmit: options.transmit_stamps,
        transmit_sched: options.sched_stamps,
        drops: false,
        ..timestamping::Options::SOFTWARE
    };
    timestamping::enable(socket, stamping).map_err(|source| Error::Option {
        address,
        option: "SO_TIMESTAMPING",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the descriptor to report something; loopback answers at once, the deadline is for a broken test.
    fn wait(socket: &StampedSocket) {
        let mut polled = [sys::Polled::readable(socket)];
        sys::poll(&mut polled, 5000).expect("poll");
        assert!(polled[0].is_ready(), "nothing within five seconds");
    }

    fn pair(address: &str, options: &SocketOptions, numbering: Numbering) -> (StampedSocket, StampedSocket) {
        let address = address.parse().expect("an address");
        let bind = || StampedSocket::bind_with(address, options, numbering).expect("a free port");
        (bind(), bind())
    }

    fn receive_all(socket: &mut StampedSocket, count: usize, mut each: impl FnMut(Datagram<'_>)) {
        let mut seen = 0;
        while seen < count {
            wait(socket);
            seen += socket.receive(&mut each).expect("receive");
        }
        assert_eq!(seen, count);
    }

    fn stamps_of(socket: &mut StampedSocket, count: usize) -> Vec<(u32, SentPlane, Time<Realtime>)> {
        let mut stamps = Vec::new();
        while stamps.len() < count {
            wait(socket);
            socket.sent_stamps(|id, plane, time| stamps.push((id.0, plane, time))).expect("error queue");
        }
        stamps
    }

    #[test]
    fn every_datagram_is_stamped_on_every_plane_in_both_families() {
        for numbering in [Numbering::Ours, Numbering::Kernels] {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let options = SocketOptions { sched_stamps: true, dscp: Some(46), ..SocketOptions::stamped() };
                let (mut a, mut b) = pair(address, &options, numbering);
                // Receive stamping is turned on for the host by a deferred job: datagrams before that arrive without.
                loop {
                    a.send(b.local_addr(), None, b"warm").expect("send");
                    let mut stamped = false;
                    receive_all(&mut b, 1, |datagram| stamped = datagram.kernel.is_some());
                    if stamped {
                        break;
                    }
                }
                while a.sent_stamps(|_, _, _| {}).expect("error queue") > 0 {}

                let before = crate::clock::realtime_now();
                let sent: Vec<_> = (0..100)
                    .map(|i: u32| a.send(b.local_addr(), Some(a.local_addr().ip()), &i.to_be_bytes()).expect("send").0)
                    .collect();
                let mut next = 0_u32;
                let (from, to) = (a.local_addr(), b.local_addr());
                receive_all(&mut b, 100, |datagram| {
                    assert_eq!(datagram.payload, next.to_be_bytes());
                    assert_eq!((datagram.peer, datagram.local), (from, Some(to.ip())));
                    assert_eq!((datagram.ttl, datagram.traffic_class), (Some(255), Some(46 << 2)));
                    assert!(datagram.unicast && datagram.ifindex.is_some());
                    let kernel = datagram.kernel.expect("a stamp");
                    assert!(before <= kernel && kernel <= datagram.app);
                    next += 1;
                });
                let stamps = stamps_of(&mut a, 200);
                for plane in [SentPlane::Sched, SentPlane::Kernel] {
                    let ids: Vec<_> = stamps.iter().filter(|stamp| stamp.1 == plane).map(|stamp| stamp.0).collect();
                    assert_eq!(ids, sent, "{plane:?} {numbering:?} {address}");
                }
                assert!(stamps.iter().all(|stamp| stamp.2 >= before));
            }
        }
    }

    #[test]
    fn stamps_keep_to_their_sends_when_sends_fail_between_them() {
        for numbering in [Numbering::Ours, Numbering::Kernels] {
            let (mut a, mut b) = pair("127.0.0.1:0", &SocketOptions::stamped(), numbering);
            let too_long = vec![0; 65_600];
            let wanted: Vec<_> = (0..20)
                .map(|_| {
                    a.send(b.local_addr(), None, &too_long).expect_err("longer than UDP can carry");
                    a.send("127.0.0.1:0".parse().expect("an address"), None, b"").expect_err("port 0");
                    a.send("192.0.2.1:9".parse().expect("an address"), Some([203, 0, 113, 9].into()), b"")
                        .expect_err("not our address");
                    a.send(b.local_addr(), None, b"good").expect("send").0
                })
                .collect();
            let got: Vec<_> = stamps_of(&mut a, 20).iter().map(|stamp| stamp.0).collect();
            assert_eq!(got, wanted, "{numbering:?}");
            receive_all(&mut b, 20, |datagram| assert_eq!(datagram.payload, b"good"));
        }
    }

    #[test]
    fn an_icmp_error_is_reported_apart_and_disturbs_neither_half() {
        let (mut a, gone) = pair("127.0.0.1:0", &SocketOptions::stamped(), Numbering::Ours);
        let closed = gone.local_addr();
        drop(gone);
        let ids: Vec<_> = (0..3).map(|_| a.send(closed, None, b"anybody?").expect("send").0).collect();
        assert_eq!(a.receive(|_| ()).expect("a delayed error is not ours to return"), 0);
        let stamps = stamps_of(&mut a, 3);
        assert_eq!(stamps.iter().map(|stamp| stamp.0).collect::<Vec<_>>(), ids);
        let reports: Vec<_> = a.halves().1.undelivered().collect();
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|report| report.peer == closed
            && report.errno == libc::ECONNREFUSED
            && report.reporter == Some(closed.ip())));
    }

    #[test]
    fn a_wildcard_socket_knows_the_address_that_was_asked_and_answers_from_it() {
        let (mut a, _) = pair("127.0.0.1:0", &SocketOptions::stamped(), Numbering::Ours);
        let (mut any, _) = pair("0.0.0.0:0", &SocketOptions::stamped(), Numbering::Ours);
        let asked = SocketAddr::from(([127, 7, 7, 7], any.local_addr().port()));
        a.send(asked, None, b"ping").expect("send");
        let (mut peer, mut local) = (None, None);
        receive_all(&mut any, 1, |datagram| (peer, local) = (Some(datagram.peer), datagram.local));
        assert_eq!(local, Some(asked.ip()));
        any.send(peer.expect("a peer"), local, b"pong").expect("send");
        receive_all(&mut a, 1, |datagram| assert_eq!(datagram.peer, asked));
    }

    #[test]
    fn drops_of_a_full_buffer_are_counted_to_the_last() {
        let options = SocketOptions { receive_buffer: Some(4096), ..SocketOptions::default() };
        let (mut a, mut b) = pair("127.0.0.1:0", &options, Numbering::Ours);
        for _ in 0..500 {
            a.send(b.local_addr(), None, &[0; 500]).expect("send");
        }
        let mut received = 0;
        while b.receive(|_| received += 1).expect("receive") > 0 {}
        assert!(b.kernel_drops() > 0);
        assert_eq!(received + b.kernel_drops(), 500);
    }

    #[test]
    fn what_cannot_be_bound_is_said_in_one_sentence() {
        let taken = StampedSocket::bind("127.0.0.1:0".parse().expect("an address"), &SocketOptions::default())
            .expect("a free port");
        let error = StampedSocket::bind(taken.local_addr(), &SocketOptions::default()).err().expect("taken");
        assert!(matches!(error, Error::PortInUse(address) if address == taken.local_addr()));
        assert!(error.to_string().starts_with(&format!("{}: the port is in use", taken.local_addr())));

        let error = StampedSocket::bind("192.0.2.1:862".parse().expect("an address"), &SocketOptions::default());
        assert!(matches!(error.err().expect("not ours"), Error::NoSuchAddress(_)));

        let options = SocketOptions { device: Some("no-such-if0".into()), ..SocketOptions::default() };
        let error = StampedSocket::bind("127.0.0.1:0".parse().expect("an address"), &options).err().expect("none");
        assert!(matches!(error, Error::NoSuchInterface(name) if name == "no-such-if0"));
    }
}
