//! rtnetlink inside a namespace, with errors that say where and what was asked.

use std::io;

use netlink_packet_core::{Emitable, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use pathlab_guard::Rtnetlink;

use crate::{
    error::{Error, Result},
    netns::Namespace,
};

/// An rtnetlink socket that acts on the namespace in which it was opened, whichever thread uses it.
#[derive(Debug)]
pub struct Netlink {
    socket: Rtnetlink,
    namespace: String,
}

impl Netlink {
    /// Opens a socket inside `namespace`.
    ///
    /// # Errors
    /// Missing privilege to enter, or no socket to be had.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.run(|| Rtnetlink::open(None))??;
        Ok(Self { socket, namespace: namespace.name().to_owned() })
    }

    /// Name of the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Changes something; `request` says in words what, for the error.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<()> {
        self.socket.change(message).map_err(|source| self.refused(request, source))
    }

    /// Adds what must not be there yet.
    pub(crate) fn create(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<()> {
        self.socket.create(message).map_err(|source| self.refused(request, source))
    }

    /// Adds, or puts in the place of what is there.
    pub(crate) fn replace(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<()> {
        self.socket.replace(message).map_err(|source| self.refused(request, source))
    }

    /// Asks for one object.
    pub(crate) fn query(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<Vec<RouteNetlinkMessage>> {
        self.socket.query(message).map_err(|source| self.refused(request, source))
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage, request: &str) -> Result<Vec<RouteNetlinkMessage>> {
        self.socket.dump(message).map_err(|source| self.refused(request, source))
    }

    fn refused(&self, request: &str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Error::Privilege { action: format!("to {request} in namespace {}", self.namespace) };
        }
        Error::Netlink { namespace: self.namespace.clone(), request: request.to_owned(), source }
    }
}

/// Attributes one after the other, each padded to four bytes: the inside of a nested attribute.
pub(crate) fn nest<A: Nla>(attributes: &[A]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}
