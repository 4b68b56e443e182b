//! Questions to the kernel before anything is put on the host: a canary path that cannot carry packets, or bits,
//! priorities and tables of somebody else, refuse the start.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteHeader, RouteMessage},
    rule::{RuleAttribute, RuleMessage},
};
use pathlab_guard::{Family, Rtnetlink};

use super::{
    Error, Result,
    nfnetlink::NftSocket,
    plan::{Path, Plan, ROUTE_TABLE},
    ruleset,
};
use crate::Mask;

/// Three requests a second apart are what ARP and neighbour discovery try before they give up.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(3_500);
const NEIGHBOUR_POLL: Duration = Duration::from_millis(5);

/// Asks everything; the first refusal is returned.
pub(super) fn check(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<()> {
    let comment = open_nft()?.table_comment(ruleset::TABLE)?;
    if let Some(comment) = comment {
        return Err(Error::Running { name: ruleset::experiment_of(&comment).to_owned() });
    }
    for path in &plan.paths {
        let index = device(rtnetlink, &path.dev)?;
        rules_are_free(plan, path.family, rtnetlink)?;
        if !routes(rtnetlink, path.family)?.is_empty() {
            return Err(Error::TableTaken { family: path.family, table: ROUTE_TABLE });
        }
        if let Some(via) = path.via {
            gateway_answers(rtnetlink, index, via, path)?;
        }
    }
    Ok(())
}

/// Whether our rules and routes are where they were put. Routes go with their device.
pub(super) fn in_place(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<bool> {
    for path in &plan.paths {
        let ours = |rule: &RuleMessage| priority(rule) == plan.priority && table(rule) == ROUTE_TABLE;
        if routes(rtnetlink, path.family)?.is_empty() || !rules(rtnetlink, path.family)?.iter().any(ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn open_nft() -> Result<NftSocket> {
    NftSocket::open().map_err(kernel("open an nf_tables socket"))
}

fn kernel(call: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Kernel { call, source }
}

fn device(rtnetlink: &mut Rtnetlink, dev: &str) -> Result<u32> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(dev.to_owned()));
    let answer = match rtnetlink.query(RouteNetlinkMessage::GetLink(question)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
        other => other.map_err(kernel("look for the canary device"))?,
    };
    let Some(RouteNetlinkMessage::NewLink(link)) = answer.into_iter().next() else {
        return Err(Error::NoDevice { dev: dev.to_owned() });
    };
    if !link.header.flags.contains(LinkFlags::Up | LinkFlags::Running) {
        return Err(Error::DeviceDown { dev: dev.to_owned() });
    }
    Ok(link.header.index)
}

fn rules_are_free(plan: &Plan, family: Family, rtnetlink: &mut Rtnetlink) -> Result<()> {
    for rule in rules(rtnetlink, family)? {
        let priority = priority(&rule);
        if priority == plan.priority {
            return Err(Error::PriorityTaken { family, priority });
        }
        let (mark, mask) = fwmark(&rule);
        if mask & plan.mask != 0 {
            return Err(Error::MarkTaken { family, priority, mark, mask, ours: Mask(plan.mask) });
        }
    }
    Ok(())
}

fn rules(rtnetlink: &mut Rtnetlink, family: Family) -> Result<Vec<RuleMessage>> {
    let mut question = RuleMessage::default();
    question.header.family = address_family(family);
    let answer = rtnetlink.dump(RouteNetlinkMessage::GetRule(question)).map_err(kernel("list the routing rules"))?;
    let rule = |message| match message {
        RouteNetlinkMessage::NewRule(rule) => Some(rule),
        _ => None,
    };
    Ok(answer.into_iter().filter_map(rule).collect())
}

fn priority(rule: &RuleMessage) -> u32 {
    let found = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    // The kernel leaves a zero out.
    found.unwrap_or(0)
}

fn table(rule: &RuleMessage) -> u32 {
    let found = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    found.unwrap_or(rule.header.table.into())
}

/// Value and mask; no mask when the rule does not look at the mark.
fn fwmark(rule: &RuleMessage) -> (u32, u32) {
    let mut found = (0, None);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(mark) => found.0 = *mark,
            RuleAttribute::FwMask(mask) => found.1 = Some(*mask),
            _ => {}
        }
    }
    (found.0, found.1.unwrap_or(if found.0 == 0 { 0 } else { u32::MAX }))
}

/// The routes of our table. The kernel filters, so that a full Internet table costs nothing here.
fn routes(rtnetlink: &mut Rtnetlink, family: Family) -> Result<Vec<RouteMessage>> {
    let mut question = RouteMessage::default();
    question.header.address_family = address_family(family);
    question.header.table = u8::try_from(ROUTE_TABLE).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    question.attributes.push(RouteAttribute::Table(ROUTE_TABLE));
    let answer = match rtnetlink.dump(RouteNetlinkMessage::GetRoute(question)) {
        // No such table yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
        other => other.map_err(kernel("list the routes of the canary table"))?,
    };
    let route = |message| match message {
        RouteNetlinkMessage::NewRoute(route) if route_table(&route) == ROUTE_TABLE => Some(route),
        _ => None,
    };
    Ok(answer.into_iter().filter_map(route).collect())
}

fn route_table(route: &RouteMessage) -> u32 {
    let found = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    found.unwrap_or(route.header.table.into())
}

/// Lets the kernel resolve the gateway's link-layer address, and waits for the outcome.
fn gateway_answers(rtnetlink: &mut Rtnetlink, index: u32, via: IpAddr, path: &Path) -> Result<()> {
    let silent = || Error::GatewaySilent { via, dev: path.dev.clone() };
    let deadline = Instant::now() + NEIGHBOUR_PATIENCE;
    let mut asked = false;
    loop {
        match neighbour(rtnetlink, index, via)? {
            Some(NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp) => return Ok(()),
            Some(NeighbourState::Failed) if asked => return Err(silent()),
            // An old answer proves nothing about now: ask that neighbour again.
            Some(NeighbourState::Stale | NeighbourState::Delay) => {
                resolve(rtnetlink, index, via, NeighbourState::Probe)?
            }
            None | Some(NeighbourState::None | NeighbourState::Failed) => {
                resolve(rtnetlink, index, via, NeighbourState::None)?;
            }
            Some(_) => {}
        }
        asked = true;
        if Instant::now() > deadline {
            return Err(silent());
        }
        std::thread::sleep(NEIGHBOUR_POLL);
    }
}

fn neighbour(rtnetlink: &mut Rtnetlink, index: u32, via: IpAddr) -> Result<Option<NeighbourState>> {
    let question = neighbour_message(index, via);
    let answer = match rtnetlink.query(RouteNetlinkMessage::GetNeighbour(question)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
        other => other.map_err(kernel("look the gateway up in the neighbour table"))?,
    };
    Ok(answer.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour.header.state),
        _ => None,
    }))
}

/// `NTF_USE` makes the kernel resolve a new entry as a packet would; `NUD_PROBE` makes it ask a known one again.
fn resolve(rtnetlink: &mut Rtnetlink, index: u32, via: IpAddr, state: NeighbourState) -> Result<()> {
    let mut message = neighbour_message(index, via);
    message.header.state = state;
    if state == NeighbourState::None {
        message.header.flags = NeighbourFlags::Use;
    }
    let request = RouteNetlinkMessage::NewNeighbour(message);
    let answer = rtnetlink.replace(request);
    answer.map_err(kernel("resolve the gateway"))
}

fn neighbour_message(index: u32, via: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(via));
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match via {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
