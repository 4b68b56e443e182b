//! Nodes and links: every name resolves, every next hop is on its link, no address is given twice.

use std::{collections::HashSet, time::Duration};

use toml::Spanned;

use super::{
    Bottleneck, Discipline, Feature, Hop, Link, LinkEnd, Node, ReceiveRing,
    check::Source,
    faults::conditions,
    file,
    units::{Queue, Rate},
};
use crate::{
    cidr::IpCidr,
    error::Result,
    link::{Member, Route},
};

pub(super) fn names(source: &Source<'_>, nodes: &[file::Node]) -> Result<()> {
    let mut seen = HashSet::new();
    for node in nodes {
        let name = node.name.get_ref();
        if !(1..=32).contains(&name.len()) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(
                source.error(&node.name, format!("{name:?} cannot name a node: use 1 to 32 letters, digits or `-`"))
            );
        }
        if !seen.insert(name) {
            return Err(source.error(&node.name, format!("there are two nodes called {name}")));
        }
    }
    Ok(())
}

/// A file says itself what it takes to play it with the kernel's own means.
pub(super) fn needs(source: &Source<'_>, file: &file::File) -> Result<()> {
    let with_tail_drop = |end: &&file::LinkEnd| {
        end.queue.as_ref().is_some_and(|queue| matches!(queue.get_ref().0, Discipline::TailDrop(_)))
    };
    let ends = file.link.iter().flat_map(|link| &link.ends);
    let shaped = ends.filter(with_tail_drop).find_map(|end| end.rate.as_ref());
    if let Some(rate) = shaped.filter(|_| !file.needs.contains(&Feature::Tbf)) {
        return Err(source.error(rate, "a rate takes the kernel's tbf; list it as needs = [\"tbf\"]"));
    }
    let multipath = file.node.iter().flat_map(|node| &node.routes).find(|route| !route.hops.is_empty());
    if let Some(route) = multipath.filter(|_| !file.needs.contains(&Feature::MultipathHashSeed)) {
        let problem = "a fixed choice of next hops takes a seed of the kernel's hash; list it as needs = [\"multipath_hash_seed\"]";
        return Err(source.error(&route.to, problem));
    }
    Ok(())
}

pub(super) fn links(source: &Source<'_>, links: Vec<file::Link>, nodes: &[file::Node]) -> Result<Vec<Link>> {
    let mut devices = HashSet::new();
    links
        .into_iter()
        .map(|link| {
            if !(1280..=65535).contains(link.mtu.get_ref()) {
                return Err(source.error(&link.mtu, "an MTU is 1280 bytes, the least of IPv6, to 65535"));
            }
            let [left, right] = &link.ends;
            if left.node.get_ref() == right.node.get_ref() {
                return Err(source.error(&right.node, "both ends of the link are the same node"));
            }
            for end in &link.ends {
                resolves(source, end, nodes)?;
                if !devices.insert((end.node.get_ref().clone(), end.dev.get_ref().clone())) {
                    let problem = format!("node {} has an interface {} already", end.node.get_ref(), end.dev.get_ref());
                    return Err(source.error(&end.dev, problem));
                }
            }
            one_subnet(source, left, right)?;
            one_subnet(source, right, left)?;
            let [left, right] = link.ends;
            Ok(Link { mtu: link.mtu.into_inner(), ends: [end(source, left)?, end(source, right)?] })
        })
        .collect()
}

fn resolves(source: &Source<'_>, end: &file::LinkEnd, nodes: &[file::Node]) -> Result<()> {
    if !nodes.iter().any(|node| node.name.get_ref() == end.node.get_ref()) {
        return Err(source.error(&end.node, format!("no node is called {}", end.node.get_ref())));
    }
    let dev = end.dev.get_ref();
    let usable = (1..=15).contains(&dev.len()) && dev.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if usable && !["lo", "all", "default"].contains(&dev.as_str()) {
        return Ok(());
    }
    Err(source.error(&end.dev, format!("{dev:?} cannot name an interface: use 1 to 15 letters, digits or `-`")))
}

/// Each address of `end` has a neighbour at `other`.
fn one_subnet(source: &Source<'_>, end: &file::LinkEnd, other: &file::LinkEnd) -> Result<()> {
    let others = source.prefixes(&other.addresses)?;
    for text in &end.addresses {
        let own = source.prefix(text)?;
        if !others.iter().any(|other| other.network() == own.network()) {
            return Err(source.error(text, format!("the other end of the link has no address in {}", own.network())));
        }
    }
    Ok(())
}

fn end(source: &Source<'_>, end: file::LinkEnd) -> Result<LinkEnd> {
    let conditions = conditions(source, &end)?;
    let addresses = source.prefixes(&end.addresses)?;
    let egress = egress(source, end.rate, end.queue)?;
    let ring = end.ring.map(|ring| match *ring.descriptors.get_ref() {
        0 => Err(source.error(&ring.descriptors, "a ring has one descriptor at least")),
        descriptors => Ok(ReceiveRing {
            descriptors,
            service: ring.service.0,
            wake: ring.wake.map_or(Duration::ZERO, |wake| wake.0),
        }),
    });
    Ok(LinkEnd {
        node: end.node.into_inner(),
        dev: end.dev.into_inner(),
        addresses,
        egress,
        conditions,
        ring: ring.transpose()?,
    })
}

fn egress(
    source: &Source<'_>,
    rate: Option<Spanned<Rate>>,
    queue: Option<Spanned<Queue>>,
) -> Result<Option<Bottleneck>> {
    match (rate, queue) {
        (Some(rate), Some(queue)) => Ok(Some(Bottleneck { rate: rate.get_ref().0, queue: queue.get_ref().0 })),
        (Some(rate), None) => {
            Err(source.error(&rate, "a rate needs a queue beside it, such as queue = \"100 packets\""))
        }
        (None, Some(queue)) => Err(source.error(&queue, "a queue needs a rate beside it, such as rate = \"30mbit\"")),
        (None, None) => Ok(None),
    }
}

pub(super) fn nodes(source: &Source<'_>, nodes: Vec<file::Node>, links: &[Link]) -> Result<Vec<Node>> {
    nodes
        .into_iter()
        .map(|node| {
            let routes = node.routes.iter().map(|wanted| route(source, node.name.get_ref(), wanted, links));
            Ok(Node {
                routes: routes.collect::<Result<_>>()?,
                addresses: source.prefixes(&node.addresses)?,
                any_address: source.prefixes(&node.any_address)?,
                black_hole: source.prefixes(&node.black_hole)?,
                forward: node.forward,
                name: node.name.into_inner(),
            })
        })
        .collect()
}

fn route(source: &Source<'_>, node: &str, wanted: &file::Route, links: &[Link]) -> Result<Route> {
    let to = source.prefix(&wanted.to)?;
    let hop = |via: &file::Text, dev: &file::Text| {
        let hop = source.hop(node, via, dev, links)?;
        if hop.via.is_ipv6() != to.is_ipv6() {
            return Err(source.error(via, format!("{} is not of the family of {to}", hop.via)));
        }
        Ok(hop)
    };
    match (&wanted.via, &wanted.dev, wanted.hops.as_slice()) {
        (Some(via), Some(dev), []) => hop(via, dev).map(|hop| Route::via(to, hop.via, &hop.dev)),
        (None, None, [_, _, ..]) => {
            let members = wanted.hops.iter().map(|member| {
                let Hop { via, dev } = hop(&member.via, &member.dev)?;
                let weight = member.weight.as_ref().map_or(1, |weight| *weight.get_ref());
                match (weight, &member.weight) {
                    (0, Some(text)) => Err(source.error(text, "a weight is 1 to 255")),
                    _ => Ok(Member { via, dev, weight }),
                }
            });
            Ok(Route::multipath(to, members.collect::<Result<_>>()?))
        }
        _ => Err(source.error(&wanted.to, "a route has via and dev, or two hops or more, each with via and dev")),
    }
}

/// No address belongs to two interfaces, nor to an interface and to a prefix of clients.
pub(super) fn no_clash(source: &Source<'_>, links: &[file::Link], nodes: &[file::Node]) -> Result<()> {
    let mut singles: Vec<IpCidr> = Vec::new();
    let of_links = links.iter().flat_map(|link| &link.ends).flat_map(|end| &end.addresses);
    for text in of_links.chain(nodes.iter().flat_map(|node| &node.addresses)) {
        let own = source.prefix(text)?;
        if singles.iter().any(|other| other.address() == own.address()) {
            return Err(source.error(text, format!("address {} is given twice", own.address())));
        }
        singles.push(own);
    }
    let mut prefixes: Vec<IpCidr> = Vec::new();
    for text in nodes.iter().flat_map(|node| &node.any_address) {
        let own = source.prefix(text)?;
        let inside = singles.iter().find(|single| own.contains(single.address()));
        if let Some(other) = inside.or_else(|| prefixes.iter().find(|other| other.overlaps(own))) {
            return Err(source.error(text, format!("{own} overlaps with {other}")));
        }
        prefixes.push(own);
    }
    Ok(())
}
