//! veth pairs and what is put on them: addresses, routes, neighbours.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType},
};

use crate::{
    cidr::IpCidr,
    error::{Error, Result},
    netlink::Netlink,
    netns::Namespace,
    sys, sysctl,
};

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where the end lives.
    pub namespace: &'a Namespace,
    /// Its interface name there, at most 15 bytes and without a dot.
    pub interface: &'a str,
    /// Its hardware address; the kernel's choice when absent.
    pub mac: Option<MacAddress>,
}

/// Makes a veth pair with both ends up, and transmit checksum offload and duplicate address detection off on both.
///
/// Each end is born in its own namespace, so the caller's never shows it.
///
/// # Errors
/// A name that is taken or too long, missing privilege, or a kernel without veth.
pub fn veth(left: End<'_>, right: End<'_>, mtu: u32) -> Result<()> {
    let mut netlink = Netlink::open(left.namespace)?;
    let mut peer = end(right, mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(right.namespace.file().as_raw_fd()));
    let mut message = end(left, mtu);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let words = format!("make veth pair {} - {}:{}", left.interface, right.namespace.name(), right.interface);
    netlink.create(RouteNetlinkMessage::NewLink(message), &words)?;
    for end in [left, right] {
        disable_transmit_checksum(end)?;
        // A link-local address under duplicate address detection cannot ask for neighbours for more than a second.
        sysctl::set(end.namespace, &format!("net.ipv6.conf.{}.accept_dad", end.interface), "0")?;
        sysctl::set(end.namespace, &format!("net.ipv6.conf.{}.accept_ra", end.interface), "0")?;
        Netlink::open(end.namespace)?.up(end.interface)?;
    }
    Ok(())
}

/// An XDP program that returns a packet would return it with its checksum unfinished.
fn disable_transmit_checksum(end: End<'_>) -> Result<()> {
    let attempt = || {
        // Any socket of the namespace will do as a handle; this one never sends.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        sys::disable_transmit_checksum(socket.as_fd(), end.interface)
    };
    end.namespace.run(attempt)?.map_err(|source| Error::Offload {
        namespace: end.namespace.name().to_owned(),
        interface: end.interface.to_owned(),
        source,
    })
}

fn end(end: End<'_>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.interface.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    if let Some(mac) = end.mac {
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
    }
    message
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Action {
    /// Send it on.
    #[default]
    Forward,
    /// Take every address of the prefix as one's own (`ip route add local`).
    Local,
    /// Drop it without an answer.
    BlackHole,
}

/// A route, as `ip route` would take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpCidr,
    /// What happens there.
    pub action: Action,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Interface; needed unless the route is a black hole.
    pub dev: Option<String>,
    /// Source address for packets that have none yet.
    pub source: Option<IpAddr>,
    /// Next hops between which a hash of the flow chooses, instead of gateway and interface; empty where there is one way.
    pub members: Vec<Member>,
}

/// A next hop of an ECMP route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Gateway.
    pub via: IpAddr,
    /// Interface.
    pub dev: String,
    /// Its share among its siblings, 1 to 255.
    pub weight: u8,
}

impl Route {
    /// A route to `to` by way of `via` on `dev`.
    pub fn via(to: IpCidr, via: IpAddr, dev: &str) -> Self {
        Self {
            to,
            action: Action::Forward,
            via: Some(via),
            dev: Some(dev.to_owned()),
            source: None,
            members: Vec::new(),
        }
    }

    /// A route to `to` by all of `members`, each flow by one.
    pub fn multipath(to: IpCidr, members: Vec<Member>) -> Self {
        Self { to, action: Action::Forward, via: None, dev: None, source: None, members }
    }

    /// All of `to` is this host: one route instead of as many addresses.
    ///
    /// IPv6 sockets may use such an address as source only with `net.ipv6.ip_nonlocal_bind` set.
    pub fn local(to: IpCidr) -> Self {
        Self { to, action: Action::Local, via: None, dev: Some("lo".to_owned()), source: None, members: Vec::new() }
    }

    /// `to` vanishes.
    pub fn black_hole(to: IpCidr) -> Self {
        // IPv6 hangs even a route to nowhere on an interface.
        let dev = to.is_ipv6().then(|| "lo".to_owned());
        Self { to, action: Action::BlackHole, via: None, dev, source: None, members: Vec::new() }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Forward => {}
            Action::Local => f.write_str("local ")?,
            Action::BlackHole => f.write_str("blackhole ")?,
        }
        write!(f, "{}", self.to)?;
        self.via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        self.dev.iter().try_for_each(|dev| write!(f, " dev {dev}"))?;
        self.members
            .iter()
            .try_for_each(|Member { via, dev, weight }| write!(f, " nexthop via {via} dev {dev} weight {weight}"))?;
        self.source.iter().try_for_each(|source| write!(f, " src {source}"))
    }
}

impl Netlink {
    /// Index of an interface.
    ///
    /// # Errors
    /// [`Error::NoInterface`].
    pub fn index(&mut self, interface: &str) -> Result<u32> {
        Ok(self.link(interface)?.header.index)
    }

    /// Packets that the driver of an interface gave up instead of sending: for veth those that found the ring of the other end full, before
    /// Linux 6.17, or nothing behind it that took them.
    ///
    /// # Errors
    /// [`Error::NoInterface`].
    pub fn tx_dropped(&mut self, interface: &str) -> Result<u64> {
        let counted = self.link(interface)?.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(counted) => Some(counted.tx_dropped),
            _ => None,
        });
        Ok(counted.unwrap_or(0))
    }

    fn link(&mut self, interface: &str) -> Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(interface.to_owned()));
        let missing =
            |namespace: &str| Error::NoInterface { namespace: namespace.to_owned(), interface: interface.to_owned() };
        let answers = match self.query(RouteNetlinkMessage::GetLink(message), "look up an interface") {
            Err(Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {
                return Err(missing(self.namespace()));
            }
            answers => answers?,
        };
        answers
            .into_iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .ok_or_else(|| missing(self.namespace()))
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// No such interface, or missing privilege.
    pub fn up(&mut self, interface: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(interface)?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), &format!("set {interface} up"))
    }

    /// Adds an address, for IPv6 without duplicate address detection, so that it serves at once.
    ///
    /// # Errors
    /// An address that is there already, no such interface, or missing privilege.
    pub fn add_address(&mut self, interface: &str, address: IpCidr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.address());
        message.header.prefix_len = address.length();
        message.header.index = self.index(interface)?;
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes =
            vec![AddressAttribute::Local(address.address()), AddressAttribute::Address(address.address())];
        let words = format!("add address {address} to {interface}");
        self.create(RouteNetlinkMessage::NewAddress(message), &words)
    }

    /// Adds a route to the main table, or to the local one when that is its action.
    ///
    /// # Errors
    /// A gateway that cannot be reached, a route that is there already, or missing privilege.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route(route)?;
        self.create(RouteNetlinkMessage::NewRoute(message), &format!("add route {route}"))
    }

    /// Puts `route` in the place of the one to the same destination.
    ///
    /// # Errors
    /// A gateway that cannot be reached, or missing privilege.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route(route)?;
        self.replace(RouteNetlinkMessage::NewRoute(message), &format!("replace route {route}"))
    }

    fn route(&mut self, route: &Route) -> Result<RouteMessage> {
        /// `RT_TABLE_LOCAL` (linux/rtnetlink.h).
        const TABLE_LOCAL: u8 = 255;
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(route.to.address());
        header.destination_prefix_length = route.to.length();
        header.protocol = RouteProtocol::Static;
        (header.table, header.kind, header.scope) = match route.action {
            Action::Local => (TABLE_LOCAL, RouteType::Local, RouteScope::Host),
            Action::BlackHole => (RouteHeader::RT_TABLE_MAIN, RouteType::BlackHole, RouteScope::Universe),
            Action::Forward if route.via.is_some() || !route.members.is_empty() => {
                (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast, RouteScope::Universe)
            }
            Action::Forward => (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast, RouteScope::Link),
        };
        let to = route.to.network().address();
        message.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(via) = route.via {
            message.attributes.push(RouteAttribute::Gateway(via.into()));
        }
        if let Some(dev) = &route.dev {
            message.attributes.push(RouteAttribute::Oif(self.index(dev)?));
        }
        if let Some(source) = route.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        let mut next_hops = Vec::new();
        for Member { via, dev, weight } in &route.members {
            let mut next_hop = RouteNextHop::default();
            next_hop.interface_index = self.index(dev)?;
            next_hop.hops = weight.saturating_sub(1);
            next_hop.attributes = vec![RouteAttribute::Gateway((*via).into())];
            next_hops.push(next_hop);
        }
        if !next_hops.is_empty() {
            message.attributes.push(RouteAttribute::MultiPath(next_hops));
        }
        Ok(message)
    }

    /// Adds a neighbour that never expires, so that no packet waits for ARP or neighbour discovery.
    ///
    /// # Errors
    /// No such interface, or missing privilege.
    pub fn add_neighbour(&mut self, interface: &str, address: IpAddr, mac: MacAddress) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.index(interface)?;
        message.header.state = NeighbourState::Permanent;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes =
            vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
        let words = format!("add neighbour {address} {mac} to {interface}");
        self.create(RouteNetlinkMessage::NewNeighbour(message), &words)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}
