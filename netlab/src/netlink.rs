//! One blocking rtnetlink socket inside a namespace: a request, its answers, and the kernel's own words when it refuses.

use std::io;

use netlink_packet_core::{
    Emitable, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{
    error::{Error, Result},
    netns::Namespace,
};

/// `struct nlmsghdr`, echoed at the head of an error's payload.
const HEADER: usize = 16;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h).
const ATTR_MESSAGE: u16 = 1;

/// An rtnetlink socket that acts on the namespace in which it was opened, whichever thread uses it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    namespace: String,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket inside `namespace`.
    ///
    /// # Errors
    /// Missing privilege to enter, or no socket to be had.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.run(connect)?.map_err(|source| Error::Netlink {
            namespace: namespace.name().to_owned(),
            request: "open a netlink socket".to_owned(),
            reason: None,
            source,
        })?;
        Ok(Self { socket, namespace: namespace.name().to_owned(), sequence: 0 })
    }

    /// Name of the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Sends a change and waits for its acknowledgement; `request` says in words what is asked, for the error.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16, request: &str) -> Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
            .map_err(|refusal| self.explain(refusal, request))
    }

    /// Asks for one object.
    pub(crate) fn query(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK).map_err(|refusal| self.explain(refusal, request))
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP).map_err(|refusal| self.explain(refusal, request))
    }

    fn explain(&self, refusal: Refusal, request: &str) -> Error {
        if refusal.source.kind() == io::ErrorKind::PermissionDenied {
            return Error::Privilege { action: format!("to {request} in namespace {}", self.namespace) };
        }
        Error::Netlink {
            namespace: self.namespace.clone(),
            request: request.to_owned(),
            reason: refusal.reason,
            source: refusal.source,
        }
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> std::result::Result<Vec<RouteNetlinkMessage>, Refusal> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while rest.len() >= HEADER {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(HEADER, rest.len());
                rest = &rest[length..];
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) | NetlinkPayload::Done(_) => {
                        return Ok(answers);
                    }
                    NetlinkPayload::Error(error) => return Err(Refusal::from(error)),
                    _ => {}
                }
            }
        }
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Without them the errors are as true, only less clear.
    let _ = socket.set_cap_ack(true);
    let _ = socket.set_ext_ack(true);
    Ok(socket)
}

#[derive(Debug)]
struct Refusal {
    reason: Option<String>,
    source: io::Error,
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self { reason: None, source }
    }
}

impl From<ErrorMessage> for Refusal {
    fn from(error: ErrorMessage) -> Self {
        let attributes = error.header.get(HEADER..).unwrap_or_default();
        let reason = NlasIterator::new(attributes)
            .flatten()
            .find(|attribute| attribute.kind() == ATTR_MESSAGE)
            .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
        Self { reason, source: error.to_io() }
    }
}

/// Attributes one after the other, each padded to four bytes: the inside of a nested attribute.
pub(crate) fn nest<A: Nla>(attributes: &[A]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}
