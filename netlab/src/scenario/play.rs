//! Who asks whom, and when: windows, clients, arms.

use std::net::SocketAddr;

use super::{
    Arms, Hops, Isp, Link, Node, Probe, Window,
    check::Source,
    file::{self, Text},
};
use crate::error::Result;

pub(super) fn windows(source: &Source<'_>, windows: Vec<file::Window>) -> Result<Vec<Window>> {
    let mut resolved: Vec<Window> = Vec::new();
    for window in windows {
        let (start, end) = (window.start.get_ref().0, window.end.get_ref().0);
        let name = window.name.get_ref();
        if resolved.iter().any(|other| other.name == *name) {
            return Err(source.error(&window.name, format!("there are two windows called {name}")));
        }
        if resolved.last().is_some_and(|last| start < last.end) {
            return Err(source.error(&window.start, format!("window {name} begins before the one above has ended")));
        }
        if end <= start {
            return Err(source.error(&window.end, format!("window {name} ends before it has begun")));
        }
        resolved.push(Window { name: window.name.into_inner(), kind: window.kind, start, end });
    }
    Ok(resolved)
}

pub(super) fn isps(source: &Source<'_>, isps: Vec<file::Isp>) -> Result<Vec<Isp>> {
    let mut resolved: Vec<Isp> = Vec::new();
    for isp in isps {
        let name = isp.name.get_ref();
        if resolved.iter().any(|other| other.name == *name) {
            return Err(source.error(&isp.name, format!("there are two ISPs called {name}")));
        }
        for text in &isp.prefixes {
            let own = source.prefix(text)?;
            let mut others = resolved.iter().flat_map(|isp| isp.prefixes.iter().map(move |prefix| (prefix, &isp.name)));
            if let Some((other, whose)) = others.find(|(other, _)| other.overlaps(own)) {
                return Err(source.error(text, format!("{own} overlaps with {other} of {whose}")));
            }
        }
        resolved.push(Isp { prefixes: source.prefixes(&isp.prefixes)?, name: isp.name.into_inner(), asn: isp.asn });
    }
    Ok(resolved)
}

pub(super) fn probe(source: &Source<'_>, probe: file::Probe, nodes: &[Node], isps: &[Isp]) -> Result<Probe> {
    let from = known(source, &probe.from, nodes)?;
    let (first, last) = *probe.client_ports.get_ref();
    if first == 0 {
        return Err(source.error(&probe.client_ports, "port 0 is no port"));
    }
    if last < first {
        return Err(source.error(&probe.client_ports, "the first port is above the last"));
    }
    let mut to: Vec<SocketAddr> = Vec::new();
    for text in &probe.to {
        let address = source.address(text)?;
        if !nodes.iter().flat_map(|node| &node.addresses).any(|own| own.address() == address) {
            return Err(source.error(text, format!("no node has the address {address}")));
        }
        if to.iter().any(|other| other.is_ipv6() == address.is_ipv6()) {
            return Err(source.error(text, format!("{address} is the second target of its family")));
        }
        to.push(SocketAddr::new(address, probe.port));
    }
    let ports = u64::from(last - first) + 1;
    let sessions = *probe.sessions.get_ref();
    for prefix in isps.iter().flat_map(|isp| &isp.prefixes) {
        if !from.any_address.iter().any(|held| held.contains(prefix.address()) && held.length() <= prefix.length()) {
            let problem = format!("node {} does not hold {prefix} of an ISP; list it in its any_address", from.name);
            return Err(source.error(&probe.from, problem));
        }
        if prefix.size().saturating_mul(ports) < sessions as u64 {
            let problem = format!("{prefix} with {ports} ports holds no {sessions} sessions");
            return Err(source.error(&probe.sessions, problem));
        }
    }
    Ok(Probe { from: probe.from.into_inner(), to, client_ports: (first, last), sessions, interval: probe.interval.0 })
}

pub(super) fn arms(source: &Source<'_>, arms: file::Arms, nodes: &[Node], links: &[Link]) -> Result<Arms> {
    known(source, &arms.node, nodes)?;
    let node = arms.node.get_ref();
    let control = hops(source, node, &arms.control, links)?;
    let canary = hops(source, node, &arms.canary, links)?;
    Ok(Arms { node: node.clone(), control, canary })
}

fn hops(source: &Source<'_>, node: &str, hops: &file::Hops, links: &[Link]) -> Result<Hops> {
    let hop = |wanted: &Option<file::Hop>, v6: bool| {
        let Some(wanted) = wanted else { return Ok(None) };
        if source.address(&wanted.via)?.is_ipv6() != v6 {
            let problem = format!("{} is not of the family of its key", wanted.via.get_ref());
            return Err(source.error(&wanted.via, problem));
        }
        source.hop(node, &wanted.via, &wanted.dev, links).map(Some)
    };
    Ok(Hops { v4: hop(&hops.v4, false)?, v6: hop(&hops.v6, true)? })
}

pub(super) fn known<'a>(source: &Source<'_>, name: &Text, nodes: &'a [Node]) -> Result<&'a Node> {
    let found = nodes.iter().find(|node| node.name == *name.get_ref());
    found.ok_or_else(|| source.error(name, format!("no node is called {}", name.get_ref())))
}
