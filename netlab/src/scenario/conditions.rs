//! What a link does to packets beyond its rate and queue, for each family apart, and the faults and path shifts that change it for a time.

use std::{net::IpAddr, time::Duration};

use super::{LinkEnd, Scenario};
use crate::{cidr::IpCidr, link::Member};

/// What a direction of a link does to the packets of one family after it has sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// From the end of a packet's sending to its arrival at the other end.
    pub delay: Duration,
    /// What never arrives.
    pub loss: Loss,
    /// What arrives behind its successors.
    pub reorder: Reorder,
    /// Nothing arrives.
    pub down: bool,
}

/// Random loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Share of packets lost, 0 to 1.
    pub share: f64,
    /// Mean length of a run of losses, above 1: a Gilbert channel (E. N. Gilbert, Bell System Technical Journal 39, 1960) whose bad state loses
    /// everything. Absent where each packet is lost or not on its own.
    pub burst: Option<f64>,
}

/// Packets that are held back, so that others overtake them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reorder {
    /// Share of packets held back, 0 to 1.
    pub share: f64,
    /// For how long.
    pub hold: Duration,
}

/// Something that is wrong with one direction of a link for a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Its name, for the truth file.
    pub name: String,
    /// Node that sends.
    pub node: String,
    /// Its interface.
    pub dev: String,
    /// 4 or 6; both where absent.
    pub family: Option<u8>,
    /// Added to the link's own delay.
    pub add_delay: Duration,
    /// In place of the link's own.
    pub loss: Option<Loss>,
    /// In place of the link's own.
    pub reorder: Option<Reorder>,
    /// Nothing arrives.
    pub down: bool,
    /// When: start and end from the start of the run, in order.
    pub during: Vec<(Duration, Duration)>,
}

/// A route that is another one for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Its name, for the truth file.
    pub name: String,
    /// Node whose route it is.
    pub node: String,
    /// Destination of the route, as the node has it.
    pub to: IpCidr,
    /// Gateway meanwhile.
    pub via: IpAddr,
    /// Interface meanwhile.
    pub dev: String,
    /// When: start and end from the start of the run, in order.
    pub during: Vec<(Duration, Duration)>,
}

/// The ECMP route to whose members a link end belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Destination of the route.
    pub to: IpCidr,
    /// Which of its next hops, from 0.
    pub member: usize,
    /// How many it has.
    pub of: usize,
}

/// Whether one of the stretches holds `at`.
pub(crate) fn holds(during: &[(Duration, Duration)], at: Duration) -> bool {
    during.iter().any(|(start, end)| (*start..*end).contains(&at))
}

impl Fault {
    /// Whether it harms packets of that family sent by that link end.
    pub fn harms(&self, end: &LinkEnd, v6: bool) -> bool {
        self.node == end.node && self.dev == end.dev && self.family.is_none_or(|family| (family == 6) == v6)
    }

    /// Whether it is there at `at`.
    pub fn is_active(&self, at: Duration) -> bool {
        holds(&self.during, at)
    }

    /// What becomes of `conditions` under it.
    pub fn apply(&self, conditions: Conditions) -> Conditions {
        Conditions {
            delay: conditions.delay + self.add_delay,
            loss: self.loss.unwrap_or(conditions.loss),
            reorder: self.reorder.unwrap_or(conditions.reorder),
            down: conditions.down || self.down,
        }
    }
}

impl Scenario {
    /// The ECMP routes of which a link end is a next hop.
    pub fn memberships(&self, node: &str, dev: &str) -> Vec<Membership> {
        let routes = self.node(node).map(|node| node.routes.as_slice()).unwrap_or_default();
        let membership = |route: &crate::link::Route| {
            let member = route.members.iter().position(|member: &Member| member.dev == dev)?;
            Some(Membership { to: route.to, member, of: route.members.len() })
        };
        routes.iter().filter_map(membership).collect()
    }
}
