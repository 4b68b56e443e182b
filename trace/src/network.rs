//! The edge as a small trait, so that a whole trace runs in a unit test.

use std::{net::IpAddr, time::Duration};

use pathlab_record::{Realtime, Time};

use crate::{Error, Flow, icmp::IcmpError, icmp::Kind};

/// Something that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A datagram on a flow's socket.
    Datagram {
        /// The flow's place.
        flow: usize,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// An ICMP error about a packet that may be ours.
    Icmp {
        /// Who sent it.
        from: IpAddr,
        /// What it says.
        error: IcmpError,
    },
    /// The same by a socket's error queue, which keeps the quoted payload alone.
    Queued {
        /// The flow's place.
        flow: usize,
        /// Who sent it.
        from: IpAddr,
        /// What it says.
        kind: Kind,
        /// What was quoted of the payload; empty where the router quotes no more than it must.
        payload: Vec<u8>,
    },
}

/// What became of a packet on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It left.
    Sent,
    /// This host's own link does not take so long a packet.
    TooLong,
    /// No room, or forbidden.
    Held,
}

/// Sends the packets of some flows, and hears what comes back.
pub trait Network {
    /// The flows, in order of their places.
    fn flows(&self) -> Vec<Flow>;

    /// Time since the network was opened.
    fn now(&self) -> Duration;

    /// Wall-clock time at [`Network::now`]'s zero.
    fn opened(&self) -> Time<Realtime>;

    /// Sends a datagram of the flow at this place.
    ///
    /// # Errors
    /// [`Error::Send`]: nothing can be sent at all.
    fn send(&mut self, flow: usize, ttl: u8, payload: &[u8]) -> Result<Departure, Error>;

    /// Waits until `until`, or a little after the first arrivals; hands each over with the time at which it came.
    ///
    /// # Errors
    /// [`Error::Receive`]: nothing can be heard at all.
    fn wait(&mut self, until: Duration, each: &mut dyn FnMut(Duration, Arrival)) -> Result<(), Error>;
}
