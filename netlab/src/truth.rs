//! What was really wrong, where and when, so that a detector can be scored against it.

use std::time::Duration;

use serde::Serialize;

use crate::{
    link::{Action, Route},
    scenario::{Conditions, Fault, LinkEnd, Scenario, Shift},
};

/// Every fault that a scenario injects, and every path that shifts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// `pathlab.truth/1`.
    pub schema: &'static str,
    /// The scenario.
    pub scenario: String,
    /// The seed of the run.
    pub seed: u64,
    /// In the order of the file, each stretch of time on its own.
    pub faults: Vec<Injected>,
}

/// One fault for one stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Injected {
    /// Its name in the scenario.
    pub name: String,
    /// `delay`, `loss`, `reordering`, `down` or `path_shift`; several may hold.
    pub kinds: Vec<&'static str>,
    /// The link end that sends, as `node:interface`; of a path shift the one that it shifts to.
    pub at: String,
    /// Node at the other end: packets from `at` to it are harmed.
    pub towards: String,
    /// Hops from the probe's client to that link end on the way there, from 1; absent where no request passes it.
    pub hop_forward: Option<usize>,
    /// Likewise from the reflector for replies.
    pub hop_return: Option<usize>,
    /// Families, 4 and 6.
    pub families: Vec<u8>,
    /// The ECMP routes of which the link end is a next hop.
    pub members: Vec<Member>,
    /// Nanoseconds from the start of the run.
    pub start_ns: u64,
    /// Nanoseconds from the start of the run.
    pub end_ns: u64,
    /// Nanoseconds by which packets are later; zero for a path shift, whose difference is that of the paths.
    pub add_delay_ns: u64,
    /// Share of packets lost meanwhile, the link's own loss included.
    pub loss: f64,
    /// Share of packets held back meanwhile.
    pub reordered: f64,
}

/// One of an ECMP route's next hops.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    /// Destination of the route.
    pub to: String,
    /// Which, from 0.
    pub member: usize,
    /// Of how many.
    pub of: usize,
}

impl Truth {
    /// That of a run of `scenario`.
    pub fn of(scenario: &Scenario, seed: u64) -> Self {
        let faults = scenario.faults.iter().flat_map(|fault| of_fault(scenario, fault));
        let shifts = scenario.shifts.iter().flat_map(|shift| of_shift(scenario, shift));
        Self {
            schema: "pathlab.truth/1",
            scenario: scenario.name.clone(),
            seed,
            faults: faults.chain(shifts).collect(),
        }
    }
}

fn of_fault(scenario: &Scenario, fault: &Fault) -> Vec<Injected> {
    let families = fault.family.map_or(vec![4, 6], |family| vec![family]);
    let own = end(scenario, &fault.node, &fault.dev).map_or([Conditions::default(); 2], |end| end.conditions);
    // Of two families with their own conditions the worse one tells the share.
    let under = families.iter().map(|family| fault.apply(own[usize::from(*family == 6)]));
    let (loss, reordered) = under.fold((0.0, 0.0), |(loss, reordered): (f64, f64), conditions| {
        let lost = if conditions.down { 1.0 } else { conditions.loss.share };
        (loss.max(lost), reordered.max(conditions.reorder.share))
    });
    let kinds = [
        (!fault.add_delay.is_zero(), "delay"),
        (fault.loss.is_some(), "loss"),
        (fault.reorder.is_some(), "reordering"),
        (fault.down, "down"),
    ];
    let template = Injected {
        kinds: kinds.iter().filter(|(holds, _)| *holds).map(|(_, kind)| *kind).collect(),
        add_delay_ns: nanoseconds(fault.add_delay),
        loss,
        reordered,
        ..injected(scenario, &fault.name, &fault.node, &fault.dev, families)
    };
    stretches(template, &fault.during)
}

fn of_shift(scenario: &Scenario, shift: &Shift) -> Vec<Injected> {
    let family = if shift.to.is_ipv6() { 6 } else { 4 };
    let template = injected(scenario, &shift.name, &shift.node, &shift.dev, vec![family]);
    // Its way there may only exist while the route is shifted, so that the hop of the link end that it leaves is told.
    let left = scenario.node(&shift.node).and_then(|node| {
        node.routes.iter().find(|route| route.to.network() == shift.to.network()).and_then(|route| route.dev.clone())
    });
    let left = left.map(|dev| injected(scenario, &shift.name, &shift.node, &dev, vec![family]));
    let hops = left.map_or((None, None), |left| (left.hop_forward, left.hop_return));
    let template = Injected { kinds: vec!["path_shift"], hop_forward: hops.0, hop_return: hops.1, ..template };
    stretches(template, &shift.during)
}

fn injected(scenario: &Scenario, name: &str, node: &str, dev: &str, families: Vec<u8>) -> Injected {
    let members = scenario.memberships(node, dev).into_iter();
    let members = members.filter(|member| families.contains(&if member.to.is_ipv6() { 6 } else { 4 }));
    let hop = |there: bool| families.iter().find_map(|family| hop(scenario, node, dev, *family == 6, there));
    Injected {
        name: name.to_owned(),
        kinds: Vec::new(),
        at: format!("{node}:{dev}"),
        towards: scenario.peer_of(node, dev).map_or_else(String::new, |(peer, _)| peer.to_owned()),
        hop_forward: hop(true),
        hop_return: hop(false),
        members: members
            .map(|member| Member { to: member.to.to_string(), member: member.member, of: member.of })
            .collect(),
        families,
        start_ns: 0,
        end_ns: 0,
        add_delay_ns: 0,
        loss: 0.0,
        reordered: 0.0,
    }
}

fn stretches(template: Injected, during: &[(Duration, Duration)]) -> Vec<Injected> {
    let one = |(start, end): &(Duration, Duration)| Injected {
        start_ns: nanoseconds(*start),
        end_ns: nanoseconds(*end),
        ..template.clone()
    };
    during.iter().map(one).collect()
}

fn end<'a>(scenario: &'a Scenario, node: &str, dev: &str) -> Option<&'a LinkEnd> {
    scenario.links.iter().flat_map(|link| &link.ends).find(|end| end.node == node && end.dev == dev)
}

/// How many link ends a packet passes up to and including this one, on its way from client to reflector or back, by any member of an ECMP route and on
/// either arm.
fn hop(scenario: &Scenario, node: &str, dev: &str, v6: bool, there: bool) -> Option<usize> {
    let probe = scenario.probe.as_ref()?;
    let target = probe.to.iter().find(|to| to.is_ipv6() == v6)?.ip();
    let reflector = scenario.nodes.iter().find(|node| node.addresses.iter().any(|own| own.address() == target))?;
    let client = scenario.isps.iter().flat_map(|isp| &isp.prefixes).find(|prefix| prefix.is_ipv6() == v6)?.address();
    let (start, to) = if there { (probe.from.as_str(), target) } else { (reflector.name.as_str(), client) };
    let mut layer = vec![start];
    let mut seen = layer.clone();
    for distance in 1..=scenario.nodes.len() {
        let mut next = Vec::new();
        for at in layer {
            for out in ways(scenario, at, to) {
                if at == node && out == dev {
                    return Some(distance);
                }
                let Some((peer, _)) = scenario.peer_of(at, out) else { continue };
                if !seen.contains(&peer) {
                    seen.push(peer);
                    next.push(peer);
                }
            }
        }
        layer = next;
    }
    None
}

/// The interfaces by which a node may send to `to`: none where it is its own.
fn ways<'a>(scenario: &'a Scenario, at: &str, to: std::net::IpAddr) -> Vec<&'a str> {
    let Some(node) = scenario.node(at) else { return Vec::new() };
    if node.addresses.iter().any(|own| own.address() == to) || node.any_address.iter().any(|own| own.contains(to)) {
        return Vec::new();
    }
    let matching = |route: &&Route| route.action == Action::Forward && route.to.contains(to);
    let longest = node.routes.iter().filter(matching).max_by_key(|route| route.to.length());
    let mut ways: Vec<&str> = longest
        .map(|route| route.members.iter().map(|member| member.dev.as_str()).chain(route.dev.as_deref()).collect())
        .unwrap_or_default();
    if let Some(arms) = scenario.arms.as_ref().filter(|arms| arms.node == at) {
        let hop = if to.is_ipv6() { &arms.canary.v6 } else { &arms.canary.v4 };
        ways.extend(hop.iter().map(|hop| hop.dev.as_str()));
    }
    ways
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(name: &str) -> Truth {
        let scenario = Scenario::load(name, None).expect("shipped");
        Truth::of(&scenario, scenario.seed)
    }

    #[test]
    fn a_fault_of_an_ecmp_member_names_hop_direction_family_member_and_time() {
        let truth = truth("ecmp-fault");
        let [fault] = truth.faults.as_slice() else { panic!("{truth:?}") };
        assert_eq!((fault.at.as_str(), fault.towards.as_str()), ("edge:m2", "m2"));
        assert_eq!((fault.hop_forward, fault.hop_return), (Some(2), None));
        assert_eq!((fault.kinds.as_slice(), fault.families.as_slice()), (&["loss"][..], &[4, 6][..]));
        assert!(fault.members.iter().all(|member| (member.member, member.of) == (1, 4)), "{:?}", fault.members);
        assert_eq!(fault.members.len(), 2);
        assert!(fault.start_ns < fault.end_ns);
    }

    #[test]
    fn a_fault_of_one_family_is_of_no_other() {
        let truth = truth("v6-fault");
        assert!(truth.faults.len() > 1, "it comes and goes");
        for fault in &truth.faults {
            assert_eq!(fault.families, [6]);
            assert!(fault.hop_return.is_some() && fault.hop_forward.is_none(), "{fault:?}");
        }
    }

    #[test]
    fn a_path_shift_is_told_with_where_it_goes() {
        let truth = truth("path-shift");
        assert!(truth.faults.iter().all(|fault| fault.kinds == ["path_shift"]), "{truth:?}");
        assert!(truth.faults.iter().any(|fault| fault.hop_forward.is_some()), "{truth:?}");
    }

    #[test]
    fn a_clean_line_has_no_faults() {
        assert_eq!(truth("baseline").faults, []);
    }
}
