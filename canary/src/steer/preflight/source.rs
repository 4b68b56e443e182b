//! Whether what leaves by the canary path may leave there: the source address must be one that the other provider
//! accepts, and the path must carry packets as long as the control path does.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric},
};
use pathlab_guard::{Family, Rtnetlink};

use super::{Device, address_family, kernel};
use crate::steer::{Error, Result, plan::Path, plan::Plan};

/// The way that a client's packets take without us.
pub(super) struct ControlPath {
    pub(super) device: Device,
    /// The address that the kernel gives to what is bound to none.
    pub(super) source: Option<IpAddr>,
    /// What the route says about the MTU.
    mtu: Option<u32>,
}

/// Where clients are looked for when no list says where they are. Nothing is sent there.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111))];

/// The control path of one family; `None` when no route leads to clients.
pub(super) fn control_path(plan: &Plan, family: Family, rtnetlink: &mut Rtnetlink) -> Result<Option<ControlPath>> {
    let included = plan.include.iter().map(|prefix| prefix.address());
    let to = included.chain(ANYWHERE).find(|address| Family::of(*address) == family);
    let mut question = RouteMessage::default();
    question.header.address_family = address_family(family);
    question.header.destination_prefix_length = if family == Family::V4 { 32 } else { 128 };
    question.attributes.extend(to.map(|to| RouteAttribute::Destination(RouteAddress::from(to))));
    let answer = match rtnetlink.query(RouteNetlinkMessage::GetRoute(question)) {
        Err(error) if no_route(&error) => return Ok(None),
        other => other.map_err(kernel("look up the control path"))?,
    };
    let Some(RouteNetlinkMessage::NewRoute(route)) = answer.into_iter().next() else { return Ok(None) };
    let (mut index, mut source, mut mtu) = (None, None, None);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(oif),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(address.into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(address.into()),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics
                    .iter()
                    .find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
            }
            _ => {}
        }
    }
    let Some(index) = index else { return Ok(None) };
    let mut question = LinkMessage::default();
    question.header.index = index;
    let answer =
        rtnetlink.query(RouteNetlinkMessage::GetLink(question)).map_err(kernel("look at the control device"))?;
    let device = answer.into_iter().find_map(Device::of_message);
    Ok(device.map(|device| ControlPath { device, source, mtu }))
}

fn no_route(error: &io::Error) -> bool {
    let codes = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::ESRCH, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Refuses a canary path that carries less than the control path, unless no packet of the server is that long.
pub(super) fn mtu_fits(plan: &Plan, path: &Path, canary: &Device, control: &ControlPath) -> Result<()> {
    let control_mtu = control.mtu.unwrap_or(control.device.mtu);
    let needed = plan.largest_packet.map_or(control_mtu, u32::from).min(control_mtu);
    if canary.mtu >= needed {
        return Ok(());
    }
    Err(Error::MtuDiffers {
        family: path.family,
        dev: path.dev.clone(),
        mtu: canary.mtu,
        control: control.device.name.clone(),
        control_mtu,
    })
}

/// Refuses when the server answers from an address of the control path's device: that provider's address, which the
/// other one drops (BCP 38). An address elsewhere, as on `lo`, is the operator's own.
pub(super) fn source_is_accepted(
    plan: &Plan,
    path: &Path,
    canary: &Device,
    control: &ControlPath,
    rtnetlink: &mut Rtnetlink,
) -> Result<()> {
    if control.device.index == canary.index {
        return Ok(());
    }
    let of_control = addresses(rtnetlink, control.device.index, path.family)?;
    let of_canary = addresses(rtnetlink, canary.index, path.family)?;
    let accepted = |source: &IpAddr| {
        !of_control.contains(source)
            || of_canary.contains(source)
            || plan.accepted_sources.iter().any(|prefix| prefix.contains(*source))
    };
    match sources(plan, path.family, control.source)?.into_iter().find(|source| !accepted(source)) {
        Some(source) => Err(Error::WrongSource {
            source_address: source,
            dev: path.dev.clone(),
            control: control.device.name.clone(),
        }),
        None => Ok(()),
    }
}

/// The addresses from which the server sends now: those that its sockets are bound to, and for unbound ones what the
/// route gives.
fn sources(plan: &Plan, family: Family, of_route: Option<IpAddr>) -> Result<BTreeSet<IpAddr>> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/udp",
        Family::V6 => "/proc/thread-self/net/udp6",
    };
    let table = fs::read_to_string(file).map_err(kernel("list the UDP sockets"))?;
    let bound = bound_addresses(&table, plan.server_port);
    let any_unbound = bound.is_empty() || bound.iter().any(IpAddr::is_unspecified);
    let named = bound.into_iter().filter(|address| !address.is_unspecified() && !address.is_loopback());
    Ok(named.chain(of_route.filter(|_| any_unbound)).collect())
}

/// Local addresses in a table of `/proc/net/udp`; those of one port, or of all ports.
fn bound_addresses(table: &str, port: Option<u16>) -> BTreeSet<IpAddr> {
    let local = |line: &str| {
        let (address, of_port) = line.split_ascii_whitespace().nth(1)?.split_once(':')?;
        let of_port = u16::from_str_radix(of_port, 16).ok()?;
        // The kernel prints each 32-bit word as its host reads it.
        let words = address.as_bytes().chunks(8).map(|word| u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok());
        let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
        let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        };
        port.is_none_or(|port| port == of_port).then_some(address)
    };
    table.lines().skip(1).filter_map(local).collect()
}

fn addresses(rtnetlink: &mut Rtnetlink, index: u32, family: Family) -> Result<BTreeSet<IpAddr>> {
    let mut question = AddressMessage::default();
    question.header.family = address_family(family);
    let answer = rtnetlink.dump(RouteNetlinkMessage::GetAddress(question)).map_err(kernel("list the addresses"))?;
    let address = |message| match message {
        RouteNetlinkMessage::NewAddress(address) if address.header.index == index => {
            let local = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            local.or_else(|| {
                address.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            })
        }
        _ => None,
    };
    Ok(answer.into_iter().filter_map(address).collect())
}

impl Device {
    /// What a link message says.
    pub(super) fn of_message(message: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(link) = message else { return None };
        let mut device = Self { index: link.header.index, name: String::new(), mtu: 0, flags: link.header.flags };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                _ => {}
            }
        }
        Some(device)
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_as_the_kernel_prints_them() {
        let head = "   sl  local_address rem_address   st ...\n";
        let v4 = format!("{head}  1: 0A0071CB:1E61 00000000:0000 07\n  2: 00000000:0035 00000000:0000 07\n");
        assert_eq!(bound_addresses(&v4, Some(7_777)), ["203.113.0.10".parse().unwrap()].into());
        assert_eq!(bound_addresses(&v4, None).len(), 2);
        let v6 = format!("{head}  1: B80D0120000000000000000010000000:1E61 0:0 07\nbroken\n");
        assert_eq!(bound_addresses(&v6, Some(7_777)), ["2001:db8::10".parse().unwrap()].into());
    }
}
