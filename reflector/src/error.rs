//! What can go wrong when a Session-Sender or a Session-Reflector is set up or runs.

use std::{io, net::SocketAddr};

/// Every error of this crate. What a peer sends is never one: that is counted instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another socket holds the port.
    #[error("{0}: the port is in use; see who has it with `ss -ulpn 'sport = :{port}'`", port = .0.port())]
    PortInUse(SocketAddr),
    /// No interface of this host has the address.
    #[error("{0}: no interface of this host has that address; `ip -brief address` lists them")]
    NoSuchAddress(SocketAddr),
    /// The port is below `net.ipv4.ip_unprivileged_port_start` and the process may not have it.
    #[error("{0}: a port below 1024 needs root or CAP_NET_BIND_SERVICE")]
    PrivilegedPort(SocketAddr),
    /// The interface to bind to does not exist here.
    #[error("interface {0}: not found in this network namespace; `ip -brief link` lists them")]
    NoSuchInterface(String),
    /// An option that was asked for and that the kernel refuses.
    #[error("{address}: the kernel refused {option}: {source}{hint}", hint = if .source.kind() == io::ErrorKind::PermissionDenied { "; it needs root or CAP_NET_ADMIN" } else { "" })]
    Option {
        /// The socket's address.
        address: SocketAddr,
        /// The option, by the kernel's name.
        option: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call failed that should not.
    #[error("{address}: {call}: {source}")]
    Socket {
        /// The socket's address.
        address: SocketAddr,
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The metrics cannot be served there.
    #[error("metrics on {address}: {source}; name another with --metrics ADDR:PORT")]
    Metrics {
        /// Where they were wanted.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Waiting for traffic failed.
    #[error("poll: {0}")]
    Wait(io::Error),
    /// The worker of a receive queue cannot be started.
    #[error("no thread for the worker of queue {queue}: {source}; see `ulimit -u`")]
    Thread {
        /// Its receive queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread of a reflector with several ended without saying why: a fault of ours.
    #[error("the worker of queue {queue} panicked")]
    Panicked {
        /// Its receive queue.
        queue: u32,
    },
    /// The reflector in the driver.
    #[error(transparent)]
    Xdp(#[from] pathlab_xdp::Error),
}
