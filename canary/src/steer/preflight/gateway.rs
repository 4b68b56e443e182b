//! Whether the gateway of the canary path answers: without a link-layer address every packet to it is lost.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use pathlab_guard::{Family, Rtnetlink};

use super::{address_family, kernel};
use crate::steer::{Error, Result, plan::Path};

/// Three requests a second apart are what ARP and neighbour discovery try before they give up.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(3_500);
const NEIGHBOUR_POLL: Duration = Duration::from_millis(5);

/// Lets the kernel resolve the gateway's link-layer address, and waits for the outcome.
pub(super) fn gateway_answers(rtnetlink: &mut Rtnetlink, index: u32, via: IpAddr, path: &Path) -> Result<()> {
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
