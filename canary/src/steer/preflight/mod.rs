//! Questions to the kernel before anything is put on the host: a canary path that cannot carry packets, or bits,
//! priorities and tables of somebody else, refuse the start.
//!
//! No rule of ours needs connection tracking, so its absence is no reason to refuse.

mod gateway;
mod marks;
mod reverse_path;
mod source;
pub(super) mod tunnel;

use std::{io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage},
};
use pathlab_guard::{Family, Rtnetlink};

use super::{
    Error, Result,
    nfnetlink::NftSocket,
    plan::{Path, Plan, ROUTE_TABLE},
    promote::PROMOTED_TABLE,
    ruleset,
};
use crate::Mode;

/// A device as the kernel describes it.
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    mtu: u32,
    flags: LinkFlags,
}

/// Asks everything; the first refusal is returned.
pub(super) fn check(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<()> {
    let mut nft = open_nft()?;
    let comment = nft.table_comment(ruleset::TABLE)?;
    if let Some(comment) = comment {
        return Err(Error::Running { name: ruleset::experiment_of(&comment).to_owned() });
    }
    marks::filters_are_free(plan, &mut nft)?;
    every_family_has_a_path(plan, rtnetlink)?;
    for path in &plan.paths {
        let canary = device(rtnetlink, &path.dev)?;
        if !routes(rtnetlink, path.family, PROMOTED_TABLE)?.is_empty() {
            return Err(Error::Promoted { family: path.family, table: PROMOTED_TABLE });
        }
        marks::routing_rules_are_free(plan, path.family, rtnetlink)?;
        if !routes(rtnetlink, path.family, ROUTE_TABLE)?.is_empty() {
            return Err(Error::TableTaken { family: path.family, table: ROUTE_TABLE });
        }
        if path.family == Family::V4 {
            reverse_path::lets_pass(plan, &path.dev)?;
        }
        if let Some(control) = source::control_path(plan, path.family, rtnetlink)? {
            source::mtu_fits(plan, path, &canary, &control)?;
            // A router's packets carry the addresses of the hosts behind it.
            if plan.mode == Mode::Host {
                source::source_is_accepted(plan, path, &canary, &control, rtnetlink)?;
            }
        }
        if let Some(via) = path.via {
            gateway::gateway_answers(rtnetlink, canary.index, via, path)?;
        }
    }
    Ok(())
}

/// Asks what a promotion rests on, while the experiment may still run. Returns the source addresses of the control
/// path.
pub(super) fn check_promotion(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<Vec<(Family, Option<IpAddr>)>> {
    every_family_has_a_path(plan, rtnetlink)?;
    let mut sources = Vec::new();
    for path in &plan.paths {
        let canary = device(rtnetlink, &path.dev)?;
        if !routes(rtnetlink, path.family, PROMOTED_TABLE)?.is_empty() {
            return Err(Error::Promoted { family: path.family, table: PROMOTED_TABLE });
        }
        marks::routing_rules_are_free(plan, path.family, rtnetlink)?;
        if let Some(via) = path.via {
            gateway::gateway_answers(rtnetlink, canary.index, via, path)?;
        }
        let control = source::control_path(plan, path.family, rtnetlink)?;
        sources.push((path.family, control.and_then(|control| control.source)));
    }
    Ok(sources)
}

/// Refuses a family in which clients are reached but no canary path was given: its canary sessions would be on control
/// in truth and on canary in the analysis.
fn every_family_has_a_path(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let has_path = plan.paths.iter().any(|path| path.family == family);
        if !has_path && plan.takes_part(family) && source::control_path(plan, family, rtnetlink)?.is_some() {
            return Err(Error::NoPath { family });
        }
    }
    Ok(())
}

/// By what a family's packets leave.
pub(super) struct Devices {
    pub(super) canary: Device,
    /// Where a route leads to clients.
    pub(super) control: Option<Device>,
}

/// The devices of both paths, for every family that is steered.
pub(super) fn devices(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<Vec<(Family, Devices)>> {
    let of_family = |path: &Path| {
        let control = source::control_path(plan, path.family, rtnetlink)?.map(|control| control.device);
        Ok((path.family, Devices { canary: device(rtnetlink, &path.dev)?, control }))
    };
    plan.paths.iter().map(of_family).collect()
}

/// Whether our rules and routes are where they were put. Routes go with their device.
pub(super) fn in_place(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<bool> {
    for path in &plan.paths {
        let rule = marks::routing_rule_stands(plan, path.family, rtnetlink)?;
        if !rule || routes(rtnetlink, path.family, ROUTE_TABLE)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether nobody else has come to use our bits of the mark or our priority.
pub(super) fn undisturbed(plan: &Plan, rtnetlink: &mut Rtnetlink, nft: &mut NftSocket) -> Result<()> {
    marks::filters_are_free(plan, nft)?;
    plan.paths.iter().try_for_each(|path| marks::routing_rules_are_free(plan, path.family, rtnetlink))
}

pub(super) fn open_nft() -> Result<NftSocket> {
    NftSocket::open().map_err(kernel("open an nf_tables socket"))
}

fn kernel(call: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Kernel { call, source }
}

/// The devices of the canary path that this network namespace does not have.
///
/// # Errors
/// Where rtnetlink does not open or does not answer.
pub fn missing_devices(plan: &Plan) -> Result<Vec<&str>> {
    let mut rtnetlink = Rtnetlink::open(None)?;
    let mut missing = Vec::new();
    for Path { dev, .. } in &plan.paths {
        if !missing.contains(&dev.as_str()) && find_device(&mut rtnetlink, dev)?.is_none() {
            missing.push(dev.as_str());
        }
    }
    Ok(missing)
}

fn device(rtnetlink: &mut Rtnetlink, dev: &str) -> Result<Device> {
    let device = find_device(rtnetlink, dev)?.ok_or_else(|| Error::NoDevice { dev: dev.to_owned() })?;
    if !device.flags.contains(LinkFlags::Up | LinkFlags::Running) {
        return Err(Error::DeviceDown { dev: dev.to_owned() });
    }
    Ok(device)
}

fn find_device(rtnetlink: &mut Rtnetlink, dev: &str) -> Result<Option<Device>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(dev.to_owned()));
    let answer = match rtnetlink.query(RouteNetlinkMessage::GetLink(question)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
        other => other.map_err(kernel("look for the canary device"))?,
    };
    Ok(answer.into_iter().find_map(Device::of_message))
}

/// The routes of a table of ours. The kernel filters, so that a full Internet table costs nothing here.
fn routes(rtnetlink: &mut Rtnetlink, family: Family, table: u32) -> Result<Vec<RouteMessage>> {
    let mut question = RouteMessage::default();
    question.header.address_family = address_family(family);
    question.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    question.attributes.push(RouteAttribute::Table(table));
    let answer = match rtnetlink.dump(RouteNetlinkMessage::GetRoute(question)) {
        // No such table yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
        other => other.map_err(kernel("list the routes of the canary table"))?,
    };
    let route = |message| match message {
        RouteNetlinkMessage::NewRoute(route) if route_table(&route) == table => Some(route),
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

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
