//! Whether a tunnel's own packets leave the host. VXLAN and Geneve look the way to their other end up with the mark of the packet inside:
//! by our own rule they would go into the tunnel again, and the kernel drops every one of them.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoGeneve, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use pathlab_guard::{Family, Rtnetlink};

use super::{address_family, device, kernel};
use crate::steer::{Error, Result, plan::Plan};

/// Asks the kernel where a marked packet to the tunnel's other end would go. To be called when the rules stand and nothing is marked yet.
pub(in crate::steer) fn leads_out(plan: &Plan, rtnetlink: &mut Rtnetlink) -> Result<()> {
    for path in &plan.paths {
        let Some(remote) = other_end(&path.dev, rtnetlink)? else { continue };
        if way_to(remote, plan.mark, rtnetlink)? == Some(device(rtnetlink, &path.dev)?.index) {
            return Err(Error::TunnelIntoItself { dev: path.dev.clone(), remote, priority: plan.priority - 1 });
        }
    }
    Ok(())
}

/// Where the packets of a tunnel that keeps the mark go; `None` for other devices.
fn other_end(dev: &str, rtnetlink: &mut Rtnetlink) -> Result<Option<IpAddr>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(dev.to_owned()));
    let answer =
        rtnetlink.query(RouteNetlinkMessage::GetLink(question)).map_err(kernel("look at the canary device"))?;
    let attributes = answer.into_iter().flat_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => link.attributes,
        _ => Vec::new(),
    });
    let infos = attributes.flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos,
        _ => Vec::new(),
    });
    let mut ends = infos.filter_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => data.iter().find_map(|data| match data {
            InfoVxlan::Group(end) => Some(IpAddr::V4(*end)),
            InfoVxlan::Group6(end) => Some(IpAddr::V6(*end)),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Geneve(data)) => data.iter().find_map(|data| match data {
            InfoGeneve::Remote(end) => Some(IpAddr::V4(*end)),
            InfoGeneve::Remote6(end) => Some(IpAddr::V6(*end)),
            _ => None,
        }),
        _ => None,
    });
    Ok(ends.next())
}

/// Index of the device by which a marked packet leaves; `None` where there is no way.
fn way_to(remote: IpAddr, mark: u32, rtnetlink: &mut Rtnetlink) -> Result<Option<u32>> {
    let mut question = RouteMessage::default();
    question.header.address_family = address_family(Family::of(remote));
    question.header.destination_prefix_length = if remote.is_ipv4() { 32 } else { 128 };
    question.attributes.push(RouteAttribute::Destination(RouteAddress::from(remote)));
    question.attributes.push(RouteAttribute::Mark(mark));
    let answer = match rtnetlink.query(RouteNetlinkMessage::GetRoute(question)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => return Ok(None),
        other => other.map_err(kernel("look up the way to the tunnel's other end"))?,
    };
    let Some(RouteNetlinkMessage::NewRoute(route)) = answer.into_iter().next() else { return Ok(None) };
    Ok(route.attributes.into_iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(index),
        _ => None,
    }))
}
