//! What can go wrong at the edge: the host's doing, never the network's.

use std::{io, net::SocketAddr};

/// Why a trace came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket for a flow.
    #[error("no flow to {target}{}: {source}", .port.map(|port| format!(" from port {port}")).unwrap_or_default())]
    Socket {
        /// Where to.
        target: SocketAddr,
        /// From which port, if one was asked for.
        port: Option<u16>,
        /// What the kernel said.
        source: io::Error,
    },
    /// A probe was refused by this host for another reason than full buffers or no route.
    #[error("sending to {target}: {source}")]
    Send {
        /// Where to.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Arrivals could not be read.
    #[error("reading answers: {0}")]
    Receive(io::Error),
}
