//! Which way a session takes through a lab, asked of the kernel that will take it: its own choice among the next hops of every route.

use std::{collections::HashMap, net::SocketAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage},
};

use super::Lab;
use crate::{error::Result, netlink::Netlink, scenario::Session};

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// The sockets and interface numbers of a lab's nodes.
struct Kernels<'a> {
    lab: &'a Lab,
    sockets: HashMap<&'a str, Netlink>,
    indices: HashMap<(&'a str, &'a str), u32>,
}

impl Lab {
    /// The link ends that each session takes there and back, as node and interface, as routes are now.
    ///
    /// # Errors
    /// A node that knows no way, or missing privilege.
    pub fn ways(&self, sessions: &[Session]) -> Result<Vec<Vec<(String, String)>>> {
        let Some(probe) = &self.scenario.probe else { return Ok(Vec::new()) };
        let mut kernels = Kernels { lab: self, sockets: HashMap::new(), indices: HashMap::new() };
        for end in self.scenario.links.iter().flat_map(|link| &link.ends) {
            let socket = kernels.socket(&end.node)?;
            let index = socket.index(&end.dev)?;
            kernels.indices.insert((&end.node, &end.dev), index);
        }
        let mut ways = Vec::with_capacity(sessions.len());
        for session in sessions {
            let (mut way, reflector) = kernels.way(&probe.from, session.source, session.target)?;
            way.extend(kernels.way(&reflector, session.target, session.source)?.0);
            ways.push(way);
        }
        Ok(ways)
    }
}

impl<'a> Kernels<'a> {
    fn socket(&mut self, node: &'a str) -> Result<&mut Netlink> {
        if !self.sockets.contains_key(node) {
            let socket = Netlink::open(self.lab.namespace(node)?)?;
            self.sockets.insert(node, socket);
        }
        Ok(self.sockets.get_mut(node).expect("put there above"))
    }

    /// From `node` on, and the node where it ends.
    fn way(&mut self, node: &str, from: SocketAddr, to: SocketAddr) -> Result<(Vec<(String, String)>, String)> {
        let lab = self.lab;
        let mut way = Vec::new();
        let mut at = lab.scenario.node(node).map(|node| node.name.as_str()).unwrap_or_default();
        let mut came_by = None;
        // A loop would be the scenario's.
        for _ in 0..=lab.scenario.nodes.len() {
            let Some(dev) = self.out(at, came_by, from, to)? else { break };
            way.push((at.to_owned(), dev.to_owned()));
            let Some((peer, heard_by)) = lab.scenario.peer_of(at, dev) else { break };
            (at, came_by) = (peer, Some(heard_by));
        }
        Ok((way, at.to_owned()))
    }

    /// The interface by which `node` sends on what came by `came_by`; `None` where it is its own.
    fn out(
        &mut self,
        node: &'a str,
        came_by: Option<&'a str>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Option<&'a str>> {
        let mut message = RouteMessage::default();
        let bits = if to.is_ipv6() { 128 } else { 32 };
        message.header.address_family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.destination_prefix_length = bits;
        message.header.source_prefix_length = bits;
        message.attributes = vec![
            RouteAttribute::Destination(to.ip().into()),
            RouteAttribute::Source(from.ip().into()),
            RouteAttribute::IpProto(UDP),
            RouteAttribute::Sport(from.port()),
            RouteAttribute::Dport(to.port()),
        ];
        message
            .attributes
            .extend(came_by.and_then(|dev| self.indices.get(&(node, dev))).map(|index| RouteAttribute::Iif(*index)));
        let words = format!("ask for the way from {from} to {to}");
        let answers = self.socket(node)?.query(RouteNetlinkMessage::GetRoute(message), &words)?;
        let index = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            }),
            _ => None,
        });
        let found = self.indices.iter().find(|((of, _), known)| *of == node && Some(**known) == index);
        Ok(found.map(|((_, dev), _)| *dev))
    }
}
