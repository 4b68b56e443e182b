//! Asks the kernel and the card for timestamps on a UDP socket, because user space sees a packet only after the scheduler has had its say.
//!
//! ```text
//!  send() ─► qdisc ─► driver ─► card ─► wire ─► card ─► driver ─► stack ─► recv()
//!            │ sched  │ kernel  │ nic           │ nic              │ kernel
//!            └──┬─────┴─────────┘               └──────┬───────────┘
//!           error queue: Control.transmit          Control of the datagram
//! ```
//!
//! The card stamps only what its receive filter lets it ([`hwtstamp`]), and some cards have a register for one transmit stamp at a time:
//! so a transmit stamp of the card is asked for by a control message of one send ([`transmit_request`]), never by the socket for all.
//!
//! Receive stamps arrive as control messages of the datagram itself. Transmit stamps arrive on the socket's error queue
//! (`recvmsg` with `MSG_ERRQUEUE`; `poll` reports `POLLERR`), numbered by [`TransmitReport::id`]. Both buffers are read by
//! [`Control::parse`]. Source: `Documentation/networking/timestamping.rst`.

mod control;
pub mod hwtstamp;
pub mod ptp4l;

use std::{io, os::fd::BorrowedFd};

pub use control::{Control, DeliveryError, LocalAddress, TransmitKind, TransmitReport, is_delayed_error};

use crate::sys;

/// Bytes of control buffer that hold everything [`Options`] can ask for about one datagram, on either queue.
///
/// Give each `msghdr` this much, and treat `MSG_CTRUNC` as a bug.
pub const CONTROL_SPACE: usize = 320;

/// What the kernel is to report beside each datagram. Everything is off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `SOF_TIMESTAMPING_RX_SOFTWARE`: when the stack took the datagram from the driver.
    ///
    /// The kernel turns stamping on for the whole host when the first socket asks; datagrams already in flight
    /// then arrive without a stamp.
    pub receive: bool,
    /// `SOF_TIMESTAMPING_TX_SOFTWARE`: when the datagram was handed to the driver.
    pub transmit: bool,
    /// `SOF_TIMESTAMPING_TX_SCHED`: when the datagram entered the queueing discipline.
    pub transmit_sched: bool,
    /// `SOF_TIMESTAMPING_RX_HARDWARE`: when the card took the datagram off the wire, where it stamps at all. The kernel does not say when
    /// it cannot: the stamp is absent then.
    pub receive_nic: bool,
    /// Report the card's transmit stamps of the sends that ask for one by [`transmit_request`].
    pub transmit_nic: bool,
    /// `IP_PKTINFO`, `IPV6_RECVPKTINFO`: the address it was sent to and the interface.
    pub packet_info: bool,
    /// `IP_RECVTTL`, `IPV6_RECVHOPLIMIT`.
    pub hop_limit: bool,
    /// `IP_RECVTOS`, `IPV6_RECVTCLASS`: DSCP and ECN.
    pub traffic_class: bool,
    /// `SO_RXQ_OVFL`: datagrams that this socket has lost to a full receive buffer.
    pub drops: bool,
}

impl Options {
    /// All of them except the queueing-discipline stamp.
    pub const SOFTWARE: Self = Self {
        receive: true,
        transmit: true,
        transmit_sched: false,
        receive_nic: false,
        transmit_nic: false,
        packet_info: true,
        hop_limit: true,
        traffic_class: true,
        drops: true,
    };

    fn timestamping_flags(self) -> libc::c_uint {
        let mut flags = 0;
        if self.receive {
            flags |= libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
        }
        if self.transmit {
            flags |= libc::SOF_TIMESTAMPING_TX_SOFTWARE;
        }
        if self.transmit_sched {
            flags |= libc::SOF_TIMESTAMPING_TX_SCHED;
        }
        if self.receive_nic {
            flags |= libc::SOF_TIMESTAMPING_RX_HARDWARE | libc::SOF_TIMESTAMPING_RAW_HARDWARE;
        }
        if self.transmit_nic {
            // Without OPT_TX_SWHW (Linux 4.13) the card's stamp would cost the driver's.
            flags |= libc::SOF_TIMESTAMPING_RAW_HARDWARE | libc::SOF_TIMESTAMPING_OPT_TX_SWHW;
        }
        if self.transmit || self.transmit_sched || self.transmit_nic {
            flags |= libc::SOF_TIMESTAMPING_SOFTWARE
                | libc::SOF_TIMESTAMPING_OPT_ID
                | libc::SOF_TIMESTAMPING_OPT_TSONLY
                | libc::SOF_TIMESTAMPING_OPT_CMSG;
        }
        flags
    }
}

/// What one send asks for, as the `u32` of its control message `SOL_SOCKET`, `SO_TIMESTAMPING`: what the socket was set up for
/// ([`Options::transmit`], [`Options::transmit_sched`]) and, with `nic`, the card's stamp. The message replaces the socket's own wish.
///
/// Source: `__sock_cmsg_send` in `net/core/sock.c`, which takes bits of `SOF_TIMESTAMPING_TX_RECORD_MASK` alone.
pub fn transmit_request(options: Options, nic: bool) -> u32 {
    let mut flags = 0;
    for (wanted, flag) in [
        (options.transmit, libc::SOF_TIMESTAMPING_TX_SOFTWARE),
        (options.transmit_sched, libc::SOF_TIMESTAMPING_TX_SCHED),
        (nic, libc::SOF_TIMESTAMPING_TX_HARDWARE),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    flags
}

/// `SOF_TIMESTAMPING_OPT_RX_FILTER` (Linux 6.12, `include/uapi/linux/net_tstamp.h`): no receive stamp that this socket did not ask for.
const OPT_RX_FILTER: libc::c_uint = 1 << 17;

/// Turns on what `options` names on a UDP socket of either family; what it does not name is left as it was.
///
/// Transmit reports count sends from 0 from this call on. Call it before the first send, and once.
///
/// # Errors
/// The first `setsockopt` that the kernel refuses, as it gave it. `EBADF` and `ENOTSOCK` are ours; `EINVAL` for
/// `SO_TIMESTAMPING` means a kernel older than 4.0.
pub fn enable(socket: BorrowedFd<'_>, options: Options) -> io::Result<()> {
    let v6 = sys::socket_domain(socket)? == libc::AF_INET6;
    let flags = options.timestamping_flags();
    if flags != 0 {
        let set = |flags: libc::c_uint| {
            sys::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags as libc::c_int)
        };
        match set(flags | OPT_RX_FILTER) {
            // A kernel that does not know the flag: then a stamp that another process asked for may come along.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(flags)?,
            other => other?,
        }
    }
    if options.drops {
        sys::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    }
    // An IPv6 socket that also carries IPv4 reports IPv4 datagrams by the IPv4 options: both are set.
    for (wanted, v4_name, v6_name) in [
        (options.packet_info, libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO),
        (options.hop_limit, libc::IP_RECVTTL, libc::IPV6_RECVHOPLIMIT),
        (options.traffic_class, libc::IP_RECVTOS, libc::IPV6_RECVTCLASS),
    ] {
        if !wanted {
            continue;
        }
        sys::set_socket_option(socket, libc::IPPROTO_IP, v4_name, 1)?;
        if v6 {
            sys::set_socket_option(socket, libc::IPPROTO_IPV6, v6_name, 1)?;
        }
    }
    Ok(())
}
