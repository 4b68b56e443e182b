//! What can go wrong between this crate and the kernel, each with the interface and the next step.

use std::{io, net::IpAddr};

use crate::{AttachedMode, attach::mode_name};

/// An error of this crate. Which side is at fault stands in the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The interface does not exist in this network namespace.
    #[error("no interface {interface:?} in this network namespace; see `ip link`")]
    NoInterface {
        /// As given.
        interface: String,
    },
    /// A tunnel or the like, whose packets do not begin with an Ethernet header.
    #[error(
        "{interface} is not an Ethernet interface, and the XDP reflector answers Ethernet frames; use the socket datapath"
    )]
    NotEthernet {
        /// As given.
        interface: String,
    },
    /// Nobody said which addresses to answer for, and the interface has none.
    #[error("{interface} has no IP address to answer for; give it one, or name the addresses")]
    NoAddress {
        /// As given.
        interface: String,
    },
    /// The configuration asks to answer for an address that no single host has.
    #[error("cannot answer for {address}: not a unicast address")]
    NotUnicast {
        /// As configured.
        address: IpAddr,
    },
    /// More addresses than the program's table holds.
    #[error("{wanted} addresses to answer for, and the XDP reflector takes {limit}; name fewer")]
    TooManyAddresses {
        /// Addresses and broadcast addresses asked for.
        wanted: usize,
        /// What the map holds.
        limit: usize,
    },
    /// More prefixes than the program's allowlist holds.
    #[error("{wanted} prefixes in the allowlist, and the XDP reflector takes {limit}; name fewer, or wider ones")]
    TooManyPrefixes {
        /// Prefixes asked for.
        wanted: usize,
        /// What the map holds.
        limit: usize,
    },
    /// Port 0 in the configuration.
    #[error("port 0 cannot be answered; STAMP's port is 862")]
    PortZero,
    /// An Error Estimate that RFC 8762 forbids, or that speaks of PTP timestamps.
    #[error(
        "error estimate {value:#06x} is not one of NTP timestamps with a nonzero multiplier (RFC 8762, section 4.2.1)"
    )]
    ErrorEstimate {
        /// As given, host order.
        value: u16,
    },
    /// Somebody else's program is on the interface.
    #[error("{interface} already runs the XDP program {program:?} (id {id}, {mode}); stop its owner, or `ip link set dev {interface} xdp off`", mode = mode_name(*mode))]
    AlreadyAttached {
        /// As given.
        interface: String,
        /// The program's name, empty where it has none.
        program: String,
        /// The kernel's program id.
        id: u32,
        /// How it runs; `None` in hardware or in several modes at once.
        mode: Option<AttachedMode>,
    },
    /// Native mode was asked for, and the driver or its settings do not allow it.
    #[error("{interface} cannot run XDP in native mode: {why}; generic mode works on every interface")]
    NativeRefused {
        /// As given.
        interface: String,
        /// What the error number means here.
        why: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused to attach for another reason.
    #[error("cannot attach XDP to {interface}")]
    Attach {
        /// As given.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not privileged.
    #[error("not permitted to {action}: run as root, or with CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
    },
    /// The kernel does not take the program: too old, or a fault of ours.
    #[error("the kernel does not take the BPF program {program}; Linux 6.1 and later should")]
    Load {
        /// The program's name.
        program: &'static str,
        /// The loader's error, with the verifier's log.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map of a loaded program cannot be read or written.
    #[error("BPF map {map}")]
    Map {
        /// The map's name in the program.
        map: &'static str,
        /// The loader's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `BPF_PROG_TEST_RUN` failed.
    #[error("cannot test-run a frame of {length} octets (14 to about 3,500 are possible)")]
    TestRun {
        /// Octets of the frame.
        length: usize,
        /// The loader's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel's list of links or addresses cannot be read.
    #[error("cannot ask the kernel for {what}")]
    Netlink {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The transmit checksum setting of an interface cannot be read or changed.
    #[error("cannot {action} transmit checksum offload of {interface}")]
    Offload {
        /// As given.
        interface: String,
        /// `"read"` or `"set"`.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `adjtimex` failed.
    #[error("cannot read the TAI offset of the system clock")]
    Clock {
        /// The kernel's answer.
        source: io::Error,
    },
    /// What the card stamps cannot be read, or not be set as is needed.
    #[error("cannot {action} what the card of {interface} stamps; --timestamps software does without")]
    Hwtstamp {
        /// As given.
        interface: String,
        /// `"read"`, `"set"`, `"widen"` or `"restore"`.
        action: &'static str,
        /// The kernel's answer; `ERANGE` where the driver made something of the request that will not do.
        source: io::Error,
    },
    /// The card would have to stamp more, and ptp4l, whose setting that is, works on the port.
    #[error(
        "ptp4l (pid {pid}) works on {interface}, whose card stamps `{filter}` for it: stop it, or have the card stamp all packets before it \
         starts, or use --timestamps software"
    )]
    Ptp4l {
        /// As given.
        interface: String,
        /// The daemon.
        pid: u32,
        /// The receive filter that it has set.
        filter: &'static str,
    },
    /// The way back from a change of the port cannot be secured.
    #[error("the way back cannot be secured")]
    Guard(#[from] pathlab_guard::Error),
    /// A card's clock cannot be opened, or compared with the system's.
    #[error("{clock}: {call}; see `ethtool -T` and `ls -l /dev/ptp*`")]
    Phc {
        /// The device, or the interface.
        clock: String,
        /// The call that failed.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A value of [`crate::xsk::XskOptions`] outside its range.
    #[error("{option} = {value}: allowed is {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// As given.
        value: u32,
        /// The range.
        allowed: String,
    },
    /// The interface has fewer queues.
    #[error("{interface} queue {queue}: it has {queues} queues (0-{last}); see `ethtool -l {interface}`", last = queues.saturating_sub(1))]
    NoQueue {
        /// As given.
        interface: String,
        /// As given.
        queue: u32,
        /// What the driver has.
        queues: u32,
    },
    /// The driver does not say how many queues it has.
    #[error("{interface}: the driver does not tell its queues; name them, see `ethtool -l {interface}`")]
    Queues {
        /// As given.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another AF_XDP socket is bound to the queue.
    #[error("{interface} queue {queue}: another AF_XDP socket has it; see `ss --xdp -p`")]
    QueueTaken {
        /// As given.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Zero-copy was asked for, and the driver has none or not with these settings.
    #[error("{interface} queue {queue}: the driver refuses zero-copy AF_XDP; copy mode works with every driver")]
    ZeroCopyRefused {
        /// As given.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call on an AF_XDP socket failed.
    #[error("{interface} queue {queue}: {call} on an AF_XDP socket failed")]
    Xsk {
        /// As given.
        interface: String,
        /// The queue.
        queue: u32,
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket was given to a program on another interface, which could only drop its packets.
    #[error("the AF_XDP socket is bound to {socket}, and the program runs on {interface}")]
    OtherInterface {
        /// Where the socket is bound.
        socket: String,
        /// Where the program is.
        interface: String,
    },
    /// The card's receive stamps were asked for, and its driver gives none to XDP programs.
    #[error("{interface} gives no NIC stamps to XDP programs: {why}; the socket datapath may have them")]
    DeviceBoundRefused {
        /// As given.
        interface: String,
        /// What is missing.
        why: &'static str,
        /// The kernel's answer, where it was asked.
        source: Option<io::Error>,
    },
}

impl Error {
    /// `NotPermitted` where the kernel said so somewhere below, `otherwise` of the error where not.
    pub(crate) fn loading<E>(action: &'static str, error: E, otherwise: impl FnOnce(Box<E>) -> Self) -> Self
    where
        E: std::error::Error + 'static,
    {
        let mut below: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(cause) = below {
            // not EACCES: that is the verifier, and its log says why
            if cause.downcast_ref::<io::Error>().is_some_and(|io| io.raw_os_error() == Some(libc::EPERM)) {
                return Self::NotPermitted { action };
            }
            below = cause.source();
        }
        otherwise(Box::new(error))
    }
}
