//! A scenario's nodes and links as tables: where a packet goes from a node, and what waits at each link end.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    cidr::IpCidr,
    engine::{LinkCount, line::Line},
    impairment::Impairment,
    link::Action,
    queue::{Packet, Ring, Signal},
    scenario::{self, Hops, Node, Scenario, holds},
    seeded::SplitMix64,
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

/// By which a packet's flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Source and destination.
    pub(super) ports: (u16, u16),
}

/// One direction of a link. The end at the other side of that of index `i` is `i ^ 1`.
pub(super) struct LinkEnd {
    node: String,
    dev: String,
    /// Its own node.
    pub(super) at: usize,
    /// Absent where it is as fast as it goes.
    pub(super) line: Option<Line>,
    /// What happens to packets of IPv4 and of IPv6 once they are sent.
    pub(super) impairments: [Impairment; 2],
    /// Into which this end receives.
    pub(super) ring: Option<ReceiveRing>,
    pub(super) count: LinkCount,
    /// What the discipline has said and nobody has counted yet.
    pub(super) signals: Vec<(Duration, Packet, Signal)>,
}

/// A ring whose host sleeps when there is nothing to do.
pub(super) struct ReceiveRing {
    ring: Ring,
    wake: Duration,
    done: Duration,
}

impl ReceiveRing {
    fn new(ring: scenario::ReceiveRing) -> Self {
        Self { ring: Ring::new(ring.descriptors, ring.service), wake: ring.wake, done: Duration::ZERO }
    }

    /// When the host will be done with a packet that comes at `now`; `None` where it is lost.
    pub(super) fn arrive(&mut self, now: Duration) -> Option<Duration> {
        if self.done <= now {
            self.ring.asleep_until(now + self.wake);
        }
        let done = self.ring.arrive(now)?;
        self.done = done;
        Some(done)
    }
}

enum Target {
    One(Verdict),
    /// Link ends with their weights.
    Several(Vec<(usize, u8)>),
}

struct Entry {
    to: IpCidr,
    target: Target,
    /// When it is another link end.
    shifts: Vec<(Vec<(Duration, Duration)>, usize)>,
}

struct Table {
    name: String,
    forward: bool,
    /// The longest first; of equal ones the first given.
    routes: Vec<Entry>,
}

pub(super) struct Network {
    tables: Vec<Table>,
    pub(super) ends: Vec<LinkEnd>,
    /// Node, and its link ends for replies on the canary arm: IPv4, IPv6.
    canary: Option<(usize, [Option<usize>; 2])>,
    hash_seed: u32,
}

impl Network {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let node_of = |name: &str| scenario.nodes.iter().position(|node| node.name == name).expect("checked");
        let mut ends = Vec::new();
        for link in &scenario.links {
            for own in &link.ends {
                ends.push(LinkEnd {
                    node: own.node.clone(),
                    dev: own.dev.clone(),
                    at: node_of(&own.node),
                    line: own.egress.map(|_| Line::of(own, link.mtu)),
                    impairments: [false, true].map(|v6| Impairment::new(scenario, own, v6, seed)),
                    ring: own.ring.map(ReceiveRing::new),
                    count: LinkCount::default(),
                    signals: Vec::new(),
                });
            }
        }
        let end_of = |node: &str, dev: &str| ends.iter().position(|end| end.node == node && end.dev == dev);
        let tables = scenario.nodes.iter().map(|node| table(scenario, node, &end_of)).collect();
        let canary = scenario.arms.as_ref().map(|arms| {
            let Hops { v4, v6 } = &arms.canary;
            let end = |hop: &scenario::Hop| end_of(&arms.node, &hop.dev);
            (node_of(&arms.node), [v4.as_ref().and_then(end), v6.as_ref().and_then(end)])
        });
        Self { tables, ends, canary, hash_seed: scenario.hash_seed }
    }

    /// A node that the scenario is known to have.
    pub(super) fn node(&self, name: &str) -> usize {
        self.tables.iter().position(|table| table.name == name).expect("checked when the scenario was read")
    }

    pub(super) fn forwards(&self, node: usize) -> bool {
        self.tables[node].forward
    }

    /// Where a packet goes from `node`; without a time, where it goes when no route is shifted.
    pub(super) fn route(&self, node: usize, tuple: Tuple, at: Option<Duration>) -> Verdict {
        let Some(entry) = self.tables[node].routes.iter().find(|entry| entry.to.contains(tuple.to)) else {
            return Verdict::Unroutable;
        };
        let shifted = at.and_then(|at| entry.shifts.iter().find(|(during, _)| holds(during, at)));
        match (&entry.target, shifted) {
            (_, Some((_, end))) => Verdict::Send(*end),
            (Target::One(verdict), None) => *verdict,
            (Target::Several(members), None) => Verdict::Send(member(members, hash(self.hash_seed, tuple))),
        }
    }

    /// The link end of the canary arm at `node`, in the family of `to`.
    pub(super) fn canary(&self, node: usize, to: IpAddr) -> Option<usize> {
        let (at, ends) = self.canary?;
        (at == node).then_some(ends[usize::from(to.is_ipv6())]).flatten()
    }

    /// The link ends by which a packet goes from `node` when no route is shifted, the first by `by` if that is given, and where it ends.
    pub(super) fn way(&self, mut node: usize, tuple: Tuple, by: Option<usize>) -> (Vec<usize>, usize) {
        let mut ends = Vec::new();
        let mut by = by.map(Verdict::Send);
        while let Verdict::Send(end) = by.take().unwrap_or_else(|| self.route(node, tuple, None)) {
            ends.push(end);
            node = self.ends[end ^ 1].at;
            if ends.len() > self.ends.len() || !self.forwards(node) {
                break;
            }
        }
        (ends, node)
    }

    /// Node and interface of a link end.
    pub(super) fn place(&self, end: usize) -> (String, String) {
        let LinkEnd { node, dev, .. } = &self.ends[end];
        (node.clone(), dev.clone())
    }

    /// What each link end did at which anything can happen to a packet.
    pub(super) fn counts(&self) -> BTreeMap<(String, String), LinkCount> {
        let harmless = |end: &LinkEnd| {
            let quiet = end.impairments.iter().all(|impairment| impairment.only_delays().is_some());
            end.line.is_none() && end.ring.is_none() && quiet
        };
        let others = self.ends.iter().filter(|end| !harmless(end));
        others.map(|end| ((end.node.clone(), end.dev.clone()), end.count)).collect()
    }
}

/// The same for every packet of a flow; another seed spreads flows otherwise.
fn hash(seed: u32, tuple: Tuple) -> u32 {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (from, to) = (bits(tuple.from), bits(tuple.to));
    let ports = u64::from(tuple.ports.0) << 16 | u64::from(tuple.ports.1);
    let words = [from as u64, (from >> 64) as u64, to as u64, (to >> 64) as u64, ports];
    let mixed = words.into_iter().fold(u64::from(seed), |state, word| SplitMix64(state ^ word).next());
    (mixed >> 32) as u32
}

/// The member in whose share of the range the hash lies.
fn member(members: &[(usize, u8)], hash: u32) -> usize {
    let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut at = (u64::from(hash) * total) >> 32;
    for (end, weight) in members {
        match at.checked_sub(u64::from(*weight)) {
            Some(beyond) => at = beyond,
            None => return *end,
        }
    }
    unreachable!("the place is below the sum of the weights")
}

fn table(scenario: &Scenario, node: &Node, end_of: &dyn Fn(&str, &str) -> Option<usize>) -> Table {
    let whole = |address: IpAddr| {
        IpCidr::new(address, if address.is_ipv6() { 128 } else { 32 }).expect("the family's full length")
    };
    let mut routes: Vec<Entry> = Vec::new();
    let mut add = |to: IpCidr, target: Target| routes.push(Entry { to, target, shifts: Vec::new() });
    for own in &node.addresses {
        add(whole(own.address()), Target::One(Verdict::Local));
    }
    node.any_address.iter().for_each(|prefix| add(*prefix, Target::One(Verdict::Local)));
    node.black_hole.iter().for_each(|prefix| add(*prefix, Target::One(Verdict::BlackHole)));
    for end in scenario.links.iter().flat_map(|link| &link.ends).filter(|end| end.node == node.name) {
        for own in &end.addresses {
            add(whole(own.address()), Target::One(Verdict::Local));
            if let Some(end) = end_of(&node.name, &end.dev) {
                add(*own, Target::One(Verdict::Send(end)));
            }
        }
    }
    for route in &node.routes {
        let one = |dev: &str| end_of(&node.name, dev).map(Verdict::Send);
        let target = match route.action {
            Action::Local => Some(Target::One(Verdict::Local)),
            Action::BlackHole => Some(Target::One(Verdict::BlackHole)),
            Action::Forward if route.members.is_empty() => route.dev.as_deref().and_then(one).map(Target::One),
            Action::Forward => {
                let ends =
                    route.members.iter().filter_map(|member| Some((end_of(&node.name, &member.dev)?, member.weight)));
                Some(Target::Several(ends.collect()))
            }
        };
        let Some(target) = target else { continue };
        let of_route =
            scenario.shifts.iter().filter(|shift| shift.node == node.name && shift.to.network() == route.to.network());
        let shifts =
            of_route.filter_map(|shift| Some((shift.during.clone(), end_of(&node.name, &shift.dev)?))).collect();
        routes.push(Entry { to: route.to, target, shifts });
    }
    routes.sort_by_key(|entry| std::cmp::Reverse(entry.to.length()));
    Table { name: node.name.clone(), forward: node.forward, routes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_by_weight_and_stay_where_they_are() {
        let members = [(0, 1), (1, 3)];
        let tuple = |port: u16| Tuple {
            from: "198.18.0.7".parse().expect("address"),
            to: "203.0.113.10".parse().expect("address"),
            ports: (port, 862),
        };
        let chosen = |seed| (0..20_000).map(|port| member(&members, hash(seed, tuple(port)))).collect::<Vec<_>>();
        let by_second = chosen(12345).iter().filter(|end| **end == 1).count();
        // 3 of 4, within four standard deviations
        assert!((14_750..15_250).contains(&by_second), "{by_second}");
        assert_eq!(chosen(12345), chosen(12345));
        assert_ne!(chosen(12345), chosen(1));
    }

    #[test]
    fn a_ring_that_was_empty_wakes_its_host_first() {
        let [service, wake] = [1, 50].map(Duration::from_micros);
        let mut ring = ReceiveRing::new(scenario::ReceiveRing { descriptors: 2, service, wake });
        assert_eq!(ring.arrive(Duration::ZERO), Some(wake + service));
        assert_eq!(ring.arrive(service), Some(wake + 2 * service));
        assert_eq!(ring.arrive(2 * service), None);
        let late = Duration::from_millis(1);
        assert_eq!(ring.arrive(late), Some(late + wake + service));
    }
}
