//! The real network: a connected UDP socket a flow, and a raw socket for ICMP where that is allowed.
//!
//! With `CAP_NET_RAW` the whole quotation is seen, so that routers which quote only eight octets of the datagram are understood. Without, errors
//! come by the sockets' error queues (`IP_RECVERR`), which keep the payload alone; what quotes too little is counted as unmatched.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use pathlab_record::{Realtime, Time};
use pathlab_reflector::clock::realtime_now;
use pathlab_xdp::timestamping::{self, CONTROL_SPACE, Control, Options};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Arrival, Departure, Error, Flow, Network, icmp, icmp::Kind, sys};

/// Sockets of some flows to one destination.
#[derive(Debug)]
pub struct Sockets {
    flows: Vec<(Socket, Flow)>,
    raw: Option<Socket>,
    opened: Time<Realtime>,
    buffer: Vec<u8>,
    v6: bool,
}

impl Sockets {
    /// Opens `count` flows to `target`, from `port` upwards, or from ports that the kernel picks; either way they stay as they are.
    ///
    /// # Errors
    /// [`Error::Socket`]: a port is taken, or there is no way to the target.
    pub fn open(target: SocketAddr, count: u16, port: Option<u16>) -> Result<Self, Error> {
        let flow = |number: u16| {
            let port = port.map(|port| port.saturating_add(number));
            udp(target, port.unwrap_or(0)).map_err(|source| Error::Socket { target, port, source })
        };
        let flows = (0..count).map(flow).collect::<Result<Vec<_>, _>>()?;
        let v6 = target.is_ipv6();
        let raw = raw(v6).ok();
        for (socket, _) in flows.iter().filter(|_| raw.is_none()) {
            let (level, name) =
                if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
            sys::set_option(socket.as_fd(), level, name, 1).map_err(|source| Error::Socket { target, port, source })?;
        }
        Ok(Self { flows, raw, opened: realtime_now(), buffer: vec![0; 65_536], v6 })
    }

    /// Whether routers that quote as little as they may are understood.
    pub fn sees_short_quotations(&self) -> bool {
        self.raw.is_some()
    }

    /// One message of a socket or its error queue; `None` when there is none.
    fn take(
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        flags: i32,
    ) -> Result<Option<(usize, Control, sys::Received)>, Error> {
        let mut control = [0_u64; CONTROL_SPACE / 8];
        match sys::receive(socket, buffer, &mut control, flags) {
            Ok(received) => {
                use zerocopy::IntoBytes;
                let parsed = Control::parse(&control.as_bytes()[..received.control]);
                Ok(Some((received.payload, parsed, received)))
            }
            // What an ICMP error left on the connected socket; the error itself comes by another way.
            Err(error) if timestamping::is_delayed_error(&error) => {
                Ok(Some((0, Control::default(), sys::Received { payload: 0, control: 0, name: [0; _] })))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(Error::Receive(error)),
        }
    }

    fn since_opened(&self, stamp: Option<Time<Realtime>>) -> Duration {
        let at = stamp.unwrap_or_else(realtime_now);
        Duration::from_nanos(u64::try_from((at - self.opened).as_nanos()).unwrap_or(0))
    }
}

fn udp(target: SocketAddr, port: u16) -> io::Result<(Socket, Flow)> {
    let any: SocketAddr = if target.is_ipv4() { ([0; 4], port).into() } else { ([0_u16; 8], port).into() };
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
    timestamping::enable(socket.as_fd(), Options { receive: true, ..Options::default() })?;
    // Never cut in pieces, on this host or on the way: a piece without ports is no packet of the flow.
    let (level, name, probe) = if target.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    };
    sys::set_option(socket.as_fd(), level, name, probe)?;
    socket.bind(&any.into())?;
    socket.connect(&target.into())?;
    let source = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    // The scope of a link-local address is no part of what packets carry.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
    Ok((socket, Flow { source: plain(source), target: plain(target) }))
}

fn raw(v6: bool) -> io::Result<Socket> {
    let (domain, protocol) = if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    timestamping::enable(socket.as_fd(), Options { receive: true, ..Options::default() })?;
    Ok(socket)
}

impl Network for Sockets {
    fn flows(&self) -> Vec<Flow> {
        self.flows.iter().map(|(_, flow)| *flow).collect()
    }

    fn now(&self) -> Duration {
        self.since_opened(None)
    }

    fn opened(&self) -> Time<Realtime> {
        self.opened
    }

    fn send(&mut self, flow: usize, ttl: u8, payload: &[u8]) -> Result<Departure, Error> {
        let (socket, Flow { target, .. }) = &self.flows[flow];
        // An error that came in since the last send is told by the next one, which then has not been sent.
        for _ in 0..4 {
            match sys::send(socket.as_fd(), self.v6, ttl, payload) {
                Ok(()) => return Ok(Departure::Sent),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Departure::TooLong),
                Err(error) if timestamping::is_delayed_error(&error) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EPERM)) => {
                    return Ok(Departure::Held);
                }
                Err(source) => return Err(Error::Send { target: *target, source }),
            }
        }
        Ok(Departure::Held)
    }

    fn wait(&mut self, until: Duration, each: &mut dyn FnMut(Duration, Arrival)) -> Result<(), Error> {
        let sockets: Vec<BorrowedFd<'_>> =
            self.flows.iter().map(|(socket, _)| socket).chain(&self.raw).map(|socket| socket.as_fd()).collect();
        let left = until.saturating_sub(self.now());
        // Rounded up: a wait that ends early is only a further turn.
        let timeout = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        sys::poll(&sockets, timeout).map_err(Error::Receive)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        for (place, (socket, _)) in self.flows.iter().enumerate() {
            while let Some((length, control, _)) = Self::take(socket.as_fd(), &mut buffer, 0)? {
                if length > 0 {
                    each(
                        self.since_opened(control.software),
                        Arrival::Datagram { flow: place, payload: buffer[..length].to_vec() },
                    );
                }
            }
            while self.raw.is_none()
                && let Some((length, control, _)) = Self::take(socket.as_fd(), &mut buffer, libc::MSG_ERRQUEUE)?
            {
                let Some(error) = control.error else { continue };
                let (Some(from), Some(kind)) = (error.reporter, Kind::new(self.v6, error.kind, error.code, error.info))
                else {
                    continue;
                };
                let payload = buffer[..length].to_vec();
                each(self.since_opened(control.software), Arrival::Queued { flow: place, from, kind, payload });
            }
        }
        if let Some(raw) = &self.raw {
            while let Some((length, control, received)) = Self::take(raw.as_fd(), &mut buffer, 0)? {
                let message = &buffer[..length];
                let read = if self.v6 {
                    icmp::parse_v6(message).map(|error| (sender_v6(&received.name), error))
                } else {
                    icmp::parse_v4(message)
                };
                // Whatever else this host hears by ICMP is not about a probe.
                if let Ok((from, error)) = read {
                    each(self.since_opened(control.software), Arrival::Icmp { from, error });
                }
            }
        }
        self.buffer = buffer;
        Ok(())
    }
}

/// `struct sockaddr_in6 { family, port, flowinfo, address, scope }`.
fn sender_v6(name: &[u8]) -> std::net::IpAddr {
    let octets: Option<[u8; 16]> = name.get(8..24).and_then(|octets| octets.try_into().ok());
    octets.unwrap_or_default().into()
}
