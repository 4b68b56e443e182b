//! The rules of the Session-Reflector (RFC 8762 §4.3): which datagram gets a reply, what stands in it, and why another gets none.
//!
//! No I/O and no clock here: stamps and time are arguments. STAMP has no magic number, so any datagram of 44 octets or more is a
//! test packet; what keeps the reflector from being an amplifier is that a reply is never longer than its request, goes to one
//! unicast address and never to a reflector's port, and that prefixes and rates can be limited.

mod arrival;
pub(crate) mod departing;
mod extensions;
mod limit;
mod reason;
mod return_trace;
mod table;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use pathlab_record::{Monotonic, Plane, Prefix, Reading, Realtime, Stamp, Time};
use pathlab_xdp::clock::Assurance;
use zerocopy::{FromBytes, IntoBytes};

pub use arrival::Arrival;
pub(crate) use arrival::nic_stamp;
pub use limit::{Limiter, Limits, RateLimit};
pub use reason::{Reason, Tally};
pub use return_trace::{ReplyError, ReturnTraceCounts};

use crate::{
    keys::{Key as Secret, Keys},
    wire::{
        AUTHENTICATED_LEN, AUTHENTICATED_PART, AuthenticatedReflectedPacket, AuthenticatedSenderPacket, BASE_LEN,
        ErrorEstimate, ReflectedPacket, SenderPacket, ptp_shape,
    },
};
use extensions::Context;
pub use extensions::Integrity;
use return_trace::ReturnTraces;
pub(crate) use table::Known;
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
    /// IPv4 TOS or IPv6 traffic class as it arrived: six bits DSCP, two bits ECN.
    pub traffic_class: Option<u8>,
    /// B2, on every plane there is.
    pub arrival: Arrival,
    /// UDP payload.
    pub payload: &'a [u8],
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the head of the reply buffer to the peer, after [`SessionReflector::finish`].
    Reply(Reply),
    /// Send nothing.
    Refused(Reason),
}

/// A reply that stands in a buffer, and is not finished before its B3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    len: usize,
    sequence: u32,
    sender_sequence: u32,
    ssid: u16,
    /// Its TLVs get an HMAC, because the request's was right.
    sign_extensions: bool,
    /// [`Reply::dscp`].
    dscp: Option<u8>,
    /// [`Reply::hop_limit`].
    hop_limit: Option<u8>,
    /// Absent in stateless mode.
    session: Option<Key>,
}

impl Reply {
    /// Octets of the reply: always as many as the request has.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// The DSCP with which it is to leave, where the sender asked about one (RFC 8972 §4.4).
    pub fn dscp(&self) -> Option<u8> {
        self.dscp
    }

    /// The TTL or Hop Limit with which it is to leave, where the sender asked that it end on its way.
    pub fn hop_limit(&self) -> Option<u8> {
        self.hop_limit
    }
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
    /// With keys, what is not authenticated gets no reply; with keys for TLVs alone, TLVs that fail their HMAC are not answered.
    pub keys: Option<Arc<Keys>>,
    /// DSCPs that a sender may ask replies to have (RFC 8972 §4.4): bit N for DSCP N. None in the default.
    pub allowed_dscp: u64,
    /// Senders may ask that replies end on their way back, to be told where ([`ReturnTrace`](crate::wire::ReturnTrace)): in authenticated mode with
    /// sessions alone, at most 200 a second to one source and 1,000 in all.
    pub return_trace: bool,
    /// Answer requests from our own port where they are shaped like PTP ([`ptp_shape`]) and come from the allowlist, which must not be empty.
    pub ptp_shaped: bool,
}

/// The Session-Reflector as a function from requests to replies.
pub struct SessionReflector {
    allow: Vec<Prefix>,
    limiter: Option<Arc<Limiter>>,
    sessions: Option<Sessions>,
    keys: Option<Arc<Keys>>,
    allowed_dscp: u64,
    return_traces: Option<ReturnTraces>,
    ptp_shaped: bool,
    error_estimate: ErrorEstimate,
    assurance: Assurance,
}

impl SessionReflector {
    /// A reflector by `rules` whose clock is as good as `error_estimate` says.
    pub fn new(rules: Rules, error_estimate: ErrorEstimate) -> Self {
        Self {
            allow: rules.allow,
            limiter: rules.limiter,
            sessions: rules.sessions.map(Sessions::new),
            keys: rules.keys,
            allowed_dscp: rules.allowed_dscp,
            return_traces: rules.return_trace.then(ReturnTraces::new),
            ptp_shaped: rules.ptp_shaped,
            error_estimate,
            assurance: Assurance::default(),
        }
    }

    /// The Error Estimate of replies from now on.
    pub fn set_error_estimate(&mut self, error_estimate: ErrorEstimate) {
        self.error_estimate = error_estimate;
    }

    /// How far the card's clock is confirmed, for those who ask for the stages of this host. To be said before the arrivals of a batch are
    /// told in UTC: a stamp that was told by an earlier fit must not go out under the name of a later one.
    pub fn set_assurance(&mut self, assurance: Assurance) {
        self.assurance = assurance;
    }

    /// Judges one datagram and writes the reply, all but what [`finish`](Self::finish) adds, to the head of `reply`. What follows the
    /// base packet in the request follows it in the reply: TLVs answered as RFC 8972 has it, in place.
    ///
    /// `now` is for rates and silent sessions alone. Never panics, whatever arrives; a `reply` shorter than the request is
    /// [`Reason::TooLong`].
    pub fn respond(&mut self, request: &Request<'_>, now: Time<Monotonic>, reply: &mut [u8]) -> Verdict {
        match self.try_respond(request, now, reply) {
            Ok(reply) => Verdict::Reply(reply),
            Err(reason) => Verdict::Refused(reason),
        }
    }

    /// Writes B3 and then the HMACs into a reply that [`respond`](Self::respond) made, at its head still: the last thing before the send.
    ///
    /// What is shorter than the reply is left alone.
    pub fn finish(&mut self, reply: &Reply, sent: impl Into<Reading<Realtime>>, bytes: &mut [u8]) {
        let sent = sent.into();
        let Some(bytes) = bytes.get_mut(..reply.len) else { return };
        let key = self.keys.as_ref().and_then(|keys| keys.find(reply.ssid));
        let (base, extensions) = bytes.split_at_mut(self.base_len());
        let sequence = reply.sequence.to_be_bytes();
        let signing = key.filter(|_| reply.sign_extensions).map(|key| (&sequence[..], key));
        extensions::finish(extensions, sent.into(), signing);
        if base.len() == BASE_LEN {
            if let Ok(packet) = ReflectedPacket::mut_from_bytes(base) {
                packet.timestamp = sent.time.into();
            }
        } else if let Ok(packet) = AuthenticatedReflectedPacket::mut_from_bytes(base) {
            packet.timestamp = sent.time.into();
            if let Some(key) = key {
                packet.hmac = key.hmac(&[&packet.as_bytes()[..AUTHENTICATED_PART]]);
            }
        }
        if let (Some(sessions), Some(key)) = (&mut self.sessions, &reply.session) {
            sessions.sent(key, reply.sequence, reply.sender_sequence, sent.into());
        }
        if let (Some(traces), Some(key), Some(_)) = (&mut self.return_traces, &reply.session, reply.hop_limit) {
            traces.sent(key, reply.sequence, reply.sender_sequence, sent.time);
        }
    }

    /// The kernel did not take a reply that was finished.
    pub fn unsent(&mut self, reply: &Reply) {
        if let (Some(sessions), Some(key)) = (&mut self.sessions, &reply.session) {
            sessions.unsent(key, reply.sequence);
        }
        if let (Some(traces), Some(key), Some(_)) = (&mut self.return_traces, &reply.session, reply.hop_limit) {
            traces.unsent(key, reply.sequence);
        }
    }

    /// An ICMP error came about a reply: if it was to end on its way, a later reply of its session tells of it.
    pub fn reply_error(&mut self, error: &ReplyError<'_>) {
        if let Some(traces) = &mut self.return_traces {
            traces.error(error);
        }
    }

    /// How many replies were to end on their way; `None` where no sender may ask for that.
    pub fn return_trace_counts(&self) -> Option<ReturnTraceCounts> {
        self.return_traces.as_ref().map(ReturnTraces::counts)
    }

    /// A reply has left, as `plane` says: the next reply of its session tells of it (RFC 8972 §4.7), unless that has been made before
    /// this was known. In stateless mode nothing is remembered, and nothing told: `None`.
    pub(crate) fn departed(&mut self, reply: &Reply, plane: Plane, stamp: Stamp) -> Option<Known> {
        let (sessions, key) = self.sessions.as_mut().zip(reply.session.as_ref())?;
        sessions.departed(key, reply.sequence, reply.sender_sequence, plane, stamp)
    }

    fn try_respond(&mut self, request: &Request<'_>, now: Time<Monotonic>, reply: &mut [u8]) -> Result<Reply, Reason> {
        let (sender, rest) = self.parse(request.payload)?;
        admissible(request, self.may_come_from_our_port(request))?;
        let source = request.peer.ip();
        if !self.allow.is_empty() && !self.allow.iter().any(|prefix| prefix.contains(source)) {
            return Err(Reason::NotAllowed);
        }
        let len = request.payload.len();
        let reply = reply.get_mut(..len).ok_or(Reason::TooLong)?;
        // Before anything is remembered or counted against its source, which anybody can claim to be (RFC 8762 §4.4).
        let key = self.authentic(sender.ssid.get(), request.payload)?;
        let authenticated = key.is_some() && self.base_len() == AUTHENTICATED_LEN;
        let integrity = Integrity::of(rest, sender.sequence.as_bytes(), key, authenticated);
        let Request { peer, local, local_port, .. } = *request;
        let key_of_session = Key { peer, local, local_port, ssid: sender.ssid.get() };
        if let Some(Err(reason)) = self.limiter.as_ref().map(|limiter| limiter.admit(source, now)) {
            if let Some(sessions) = &mut self.sessions {
                sessions.refused(&key_of_session);
            }
            return Err(reason);
        }
        let memory = match &mut self.sessions {
            Some(sessions) => Some(sessions.next(key_of_session, now).ok_or(Reason::SessionsFull)?),
            None => None,
        };
        let sequence = memory.map_or(sender.sequence, |memory| memory.next.into());
        let received = request.arrival.received().into();
        // RFC 8762 §4.3.1, RFC 8972 §3
        let base = ReflectedPacket {
            sequence,
            timestamp: received,
            error_estimate: self.error_estimate,
            ssid: sender.ssid,
            receive_timestamp: received,
            sender_sequence: sender.sequence,
            sender_timestamp: sender.timestamp,
            sender_error_estimate: sender.error_estimate,
            mbz: [0; 2],
            sender_ttl: request.ttl.unwrap_or(0),
            mbz_tail: [0; 3],
        };
        let (head, tail) = reply.split_at_mut(self.base_len());
        if head.len() == BASE_LEN {
            head.copy_from_slice(base.as_bytes());
        } else {
            head.copy_from_slice(AuthenticatedReflectedPacket::from(base).as_bytes());
        }
        tail.copy_from_slice(rest);
        let verified = authenticated && integrity == Integrity::Verified;
        let asked = extensions::return_trace(tail).filter(|_| verified && memory.is_some());
        let return_trace = match (&mut self.return_traces, asked) {
            (Some(traces), Some((hop_limit, room))) => traces.ask(key_of_session, hop_limit, room, now),
            _ => None,
        };
        let context = Context {
            return_trace: return_trace.as_ref(),
            arrival: &request.arrival,
            traffic_class: request.traffic_class.unwrap_or(0),
            allowed_dscp: self.allowed_dscp,
            error_estimate: self.error_estimate,
            assurance: self.assurance,
            now,
            memory: memory.as_ref(),
        };
        let dscp = extensions::dscp(tail, integrity, &context);
        extensions::reflect(tail, integrity, &context);
        Ok(Reply {
            len,
            sequence: sequence.get(),
            sender_sequence: sender.sequence.get(),
            ssid: sender.ssid.get(),
            sign_extensions: integrity == Integrity::Verified,
            dscp,
            hop_limit: return_trace.map(|told| told.given).filter(|given| *given > 0),
            session: memory.map(|_| key_of_session),
        })
    }

    /// Length of the base packets of this mode.
    fn base_len(&self) -> usize {
        if self.keys.as_ref().is_some_and(|keys| keys.authenticate()) { AUTHENTICATED_LEN } else { BASE_LEN }
    }

    /// The fields of the base packet, and what follows it.
    fn parse<'a>(&self, payload: &'a [u8]) -> Result<(SenderPacket, &'a [u8]), Reason> {
        let (plain, rest) = SenderPacket::parse(payload).map_err(|_| Reason::Short)?;
        if self.base_len() == BASE_LEN {
            return Ok((*plain, rest));
        }
        let (packet, rest) = AuthenticatedSenderPacket::parse(payload).map_err(|_| Reason::Unauthenticated)?;
        Ok((packet.plain(), rest))
    }

    /// What is shaped like PTP comes from the port that it goes to, for cards stamp nothing else; the allowlist is asked afterwards.
    fn may_come_from_our_port(&self, request: &Request<'_>) -> bool {
        let shaped = request.local_port == ptp_shape::PORT && ptp_shape::is_request(request.payload);
        self.ptp_shaped && !self.allow.is_empty() && shaped
    }

    /// The key of the packet's session, with which its base packet has been checked in authenticated mode.
    fn authentic(&self, ssid: u16, payload: &[u8]) -> Result<Option<&Secret>, Reason> {
        let Some(keys) = &self.keys else { return Ok(None) };
        let key = keys.find(ssid);
        if keys.authenticate() {
            let (packet, _) = AuthenticatedSenderPacket::parse(payload).map_err(|_| Reason::Unauthenticated)?;
            let verified = key.ok_or(Reason::NoKey)?.verifies(&[&payload[..AUTHENTICATED_PART]], &packet.hmac);
            if !verified {
                return Err(Reason::BadHmac);
            }
        }
        Ok(key)
    }
}

/// The addresses and ports to which no reply may go.
fn admissible(request: &Request<'_>, from_our_port: bool) -> Result<(), Reason> {
    if request.peer.port() == request.local_port && !from_our_port {
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
