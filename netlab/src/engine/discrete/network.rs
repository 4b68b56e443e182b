//! A scenario's nodes and links as tables: where a packet goes from a node, and what waits at each link end.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::LinkCount;
use crate::{
    cidr::IpCidr,
    link::Action,
    queue::{Codel, CodelParameters, DropTail, FqCodel, FqCodelParameters, Packet, Queue, Signal},
    scenario::{Bottleneck, Discipline, Hops, Node, Scenario},
};

/// What a node does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is for this node.
    Local,
    /// Out of this link end.
    Send(usize),
    BlackHole,
    Unroutable,
}

/// One direction of a link.
pub(super) struct LinkEnd {
    node: String,
    dev: String,
    /// Node at the other end.
    pub(super) peer: usize,
    /// Bits per second, where there is a queue.
    pub(super) rate: u64,
    /// Absent where it is as fast as it goes.
    pub(super) queue: Option<Box<dyn Queue>>,
    pub(super) delay: Duration,
    /// A packet is on its way out.
    pub(super) busy: bool,
    pub(super) count: LinkCount,
    /// What the discipline has said and nobody has counted yet.
    pub(super) signals: Vec<(Duration, Packet, Signal)>,
}

struct Table {
    name: String,
    forward: bool,
    /// The longest first; of equal ones the first given.
    routes: Vec<(IpCidr, Verdict)>,
}

pub(super) struct Network {
    tables: Vec<Table>,
    pub(super) ends: Vec<LinkEnd>,
    /// Node, and its link ends for replies on the canary arm: IPv4, IPv6.
    canary: Option<(usize, [Option<usize>; 2])>,
}

impl Network {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let node_of = |name: &str| scenario.nodes.iter().position(|node| node.name == name).expect("checked");
        let mut ends = Vec::new();
        for link in &scenario.links {
            for (own, other) in [(&link.ends[0], &link.ends[1]), (&link.ends[1], &link.ends[0])] {
                ends.push(LinkEnd {
                    node: own.node.clone(),
                    dev: own.dev.clone(),
                    peer: node_of(&other.node),
                    rate: own.egress.map_or(0, |egress| egress.rate),
                    queue: own.egress.map(|egress| queue(egress, link.mtu)),
                    delay: own.delay,
                    busy: false,
                    count: LinkCount::default(),
                    signals: Vec::new(),
                });
            }
        }
        let end_of = |node: &str, dev: &str| ends.iter().position(|end| end.node == node && end.dev == dev);
        let tables = scenario.nodes.iter().map(|node| table(scenario, node, &end_of)).collect();
        let canary = scenario.arms.as_ref().map(|arms| {
            let Hops { v4, v6 } = &arms.canary;
            let end = |hop: &crate::scenario::Hop| end_of(&arms.node, &hop.dev);
            (node_of(&arms.node), [v4.as_ref().and_then(end), v6.as_ref().and_then(end)])
        });
        Self { tables, ends, canary }
    }

    /// A node that the scenario is known to have.
    pub(super) fn node(&self, name: &str) -> usize {
        self.tables.iter().position(|table| table.name == name).expect("checked when the scenario was read")
    }

    pub(super) fn forwards(&self, node: usize) -> bool {
        self.tables[node].forward
    }

    pub(super) fn route(&self, node: usize, to: IpAddr) -> Verdict {
        let found = self.tables[node].routes.iter().find(|(prefix, _)| prefix.contains(to));
        found.map_or(Verdict::Unroutable, |(_, verdict)| *verdict)
    }

    /// The link end of the canary arm at `node`, in the family of `to`.
    pub(super) fn canary(&self, node: usize, to: IpAddr) -> Option<usize> {
        let (at, ends) = self.canary?;
        (at == node).then_some(ends[usize::from(to.is_ipv6())]).flatten()
    }

    /// What each link end with a queue did.
    pub(super) fn counts(&self) -> BTreeMap<(String, String), LinkCount> {
        let queued = self.ends.iter().filter(|end| end.queue.is_some());
        queued.map(|end| ((end.node.clone(), end.dev.clone()), end.count)).collect()
    }
}

fn table(scenario: &Scenario, node: &Node, end_of: &dyn Fn(&str, &str) -> Option<usize>) -> Table {
    let whole = |address: IpAddr| {
        IpCidr::new(address, if address.is_ipv6() { 128 } else { 32 }).expect("the family's full length")
    };
    let mut routes: Vec<(IpCidr, Verdict)> = Vec::new();
    for own in &node.addresses {
        routes.push((whole(own.address()), Verdict::Local));
    }
    routes.extend(node.any_address.iter().map(|prefix| (*prefix, Verdict::Local)));
    routes.extend(node.black_hole.iter().map(|prefix| (*prefix, Verdict::BlackHole)));
    for end in scenario.links.iter().flat_map(|link| &link.ends).filter(|end| end.node == node.name) {
        for own in &end.addresses {
            routes.push((whole(own.address()), Verdict::Local));
            routes.extend(end_of(&node.name, &end.dev).map(|end| (*own, Verdict::Send(end))));
        }
    }
    for route in &node.routes {
        let verdict = match route.action {
            Action::Local => Some(Verdict::Local),
            Action::BlackHole => Some(Verdict::BlackHole),
            Action::Forward => route.dev.as_deref().and_then(|dev| end_of(&node.name, dev)).map(Verdict::Send),
        };
        routes.extend(verdict.map(|verdict| (route.to, verdict)));
    }
    routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.length()));
    Table { name: node.name.clone(), forward: node.forward, routes }
}

/// The queue of a link end whose packets are of `mtu` bytes at most.
pub(in crate::engine) fn queue(egress: Bottleneck, mtu: u32) -> Box<dyn Queue> {
    // an Ethernet frame
    let mtu = mtu + 14;
    let codel = CodelParameters { mtu, ..CodelParameters::default() };
    match egress.queue {
        Discipline::TailDrop(limit) => Box::new(DropTail::new(limit)),
        Discipline::Codel(flavour) => Box::new(Codel::new(flavour, codel)),
        Discipline::FqCodel(flavour) => {
            let default = FqCodelParameters::default();
            let codel = CodelParameters { mtu, ..default.codel };
            Box::new(FqCodel::new(flavour, FqCodelParameters { codel, quantum: mtu, ..default }))
        }
    }
}
