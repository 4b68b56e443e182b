//! The rules of the Session-Reflector (RFC 8762 §4.3): which datagram gets a reply, what stands in it, and why another gets none.
//!
//! No I/O and no clock here: stamps and time are arguments. STAMP has no magic number, so any datagram of 44 octets or more is a
//! test packet; what keeps the reflector from being an amplifier is that a reply is never longer than its request, goes to one
//! unicast address and never to a reflector's port, and that prefixes and rates can be limited.

mod limit;
mod reason;
mod table;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use pathlab_record::{Monotonic, Prefix, Realtime, Time};
use zerocopy::{FromBytes, IntoBytes};

pub use limit::{Limiter, Limits, RateLimit};
pub use reason::{Reason, Tally};

use crate::wire::{BASE_LEN, ErrorEstimate, ReflectedPacket, SenderPacket};
use table::{Key, Sessions};

/// What the rules know of one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who sent it.
    pub peer: SocketAddr,
    /// The destination address in its IP header.
    pub local: Option<IpAddr>,
    /// The port it came to.
    pub local_port: u16,
    /// False where the destination is a multicast or broadcast address.
    pub unicast: bool,
    /// TTL or hop limit as it arrived; 0 is written where it is unknown.
    pub ttl: Option<u8>,
    /// B2, on the best plane there is.
    pub received: Time<Realtime>,
    /// UDP payload.
    pub payload: &'a [u8],
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the first `len` bytes of the reply buffer to the peer, after [`write_send_time`].
    Reply {
        /// Always the length of the request.
        len: usize,
    },
    /// Send nothing.
    Refused(Reason),
}

/// Who gets replies, and how many.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Sources that get replies; empty: all.
    pub allow: Vec<Prefix>,
    /// How many replies; absent: no limit. Clones of these rules share what it admits.
    pub limiter: Option<Arc<Limiter>>,
    /// Stateful mode with at most so many sessions: replies carry their own sequence numbers, so that the sender can tell a lost
    /// request from a lost reply. Absent: stateless, replies carry the request's number.
    pub sessions: Option<usize>,
}

/// The Session-Reflector as a function from requests to replies.
pub struct SessionReflector {
    allow: Vec<Prefix>,
    limiter: Option<Arc<Limiter>>,
    sessions: Option<Sessions>,
    error_estimate: ErrorEstimate,
}

impl SessionReflector {
    /// A reflector by `rules` whose clock is as good as `error_estimate` says.
    pub fn new(rules: Rules, error_estimate: ErrorEstimate) -> Self {
        Self { allow: rules.allow, limiter: rules.limiter, sessions: rules.sessions.map(Sessions::new), error_estimate }
    }

    /// The Error Estimate of replies from now on.
    pub fn set_error_estimate(&mut self, error_estimate: ErrorEstimate) {
        self.error_estimate = error_estimate;
    }

    /// Judges one datagram and writes the reply, all but B3, to the head of `reply`. What follows the base packet in the request
    /// follows it in the reply as it came.
    ///
    /// `now` is for rates and silent sessions alone. Never panics, whatever arrives; a `reply` shorter than the request is
    /// [`Reason::TooLong`].
    pub fn respond(&mut self, request: &Request<'_>, now: Time<Monotonic>, reply: &mut [u8]) -> Verdict {
        match self.try_respond(request, now, reply) {
            Ok(len) => Verdict::Reply { len },
            Err(reason) => Verdict::Refused(reason),
        }
    }

    fn try_respond(&mut self, request: &Request<'_>, now: Time<Monotonic>, reply: &mut [u8]) -> Result<usize, Reason> {
        let Ok((sender, rest)) = SenderPacket::parse(request.payload) else { return Err(Reason::Short) };
        admissible(request)?;
        let source = request.peer.ip();
        if !self.allow.is_empty() && !self.allow.iter().any(|prefix| prefix.contains(source)) {
            return Err(Reason::NotAllowed);
        }
        let len = request.payload.len();
        let reply = reply.get_mut(..len).ok_or(Reason::TooLong)?;
        if let Some(limiter) = &self.limiter {
            limiter.admit(source, now)?;
        }
        let sequence = match &mut self.sessions {
            Some(sessions) => {
                let Request { peer, local, local_port, .. } = *request;
                let key = Key { peer, local, local_port, ssid: sender.ssid.get() };
                sessions.next(key, now).ok_or(Reason::SessionsFull)?.into()
            }
            None => sender.sequence,
        };
        // RFC 8762 §4.3.1, RFC 8972 §3
        let base = ReflectedPacket {
            sequence,
            timestamp: request.received.into(),
            error_estimate: self.error_estimate,
            ssid: sender.ssid,
            receive_timestamp: request.received.into(),
            sender_sequence: sender.sequence,
            sender_timestamp: sender.timestamp,
            sender_error_estimate: sender.error_estimate,
            mbz: [0; 2],
            sender_ttl: request.ttl.unwrap_or(0),
            mbz_tail: [0; 3],
        };
        let (head, tail) = reply.split_at_mut(BASE_LEN);
        head.copy_from_slice(base.as_bytes());
        tail.copy_from_slice(rest);
        Ok(len)
    }
}

/// Writes B3 into a reply made by [`SessionReflector::respond`]: apart from it, so that it can be the last thing before the send.
/// What is shorter than a base packet is left alone.
pub fn write_send_time(reply: &mut [u8], sent: Time<Realtime>) {
    if let Ok((packet, _)) = ReflectedPacket::mut_from_prefix(reply) {
        packet.timestamp = sent.into();
    }
}

/// The addresses and ports to which no reply may go.
fn admissible(request: &Request<'_>) -> Result<(), Reason> {
    if request.peer.port() == request.local_port {
        return Err(Reason::SourcePortOurs);
    }
    if request.peer.port() == 0 {
        return Err(Reason::SourcePortZero);
    }
    match request.peer.ip() {
        ip if ip.is_multicast() => return Err(Reason::SourceMulticast),
        IpAddr::V4(Ipv4Addr::BROADCAST) => return Err(Reason::SourceBroadcast),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => return Err(Reason::SourceUnspecified),
        IpAddr::V6(v6) if v6.is_unspecified() => return Err(Reason::SourceUnspecified),
        _ => {}
    }
    let group = |ip: IpAddr| ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || ip.is_unspecified();
    if !request.unicast || request.local.is_some_and(group) {
        return Err(Reason::DestinationGroup);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
