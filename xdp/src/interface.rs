//! What an interface is and has, asked over rtnetlink in the caller's network namespace, before anything is attached to it.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{AttachedMode, Error, xsk::sys};

/// One interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Its packets begin with an Ethernet header.
    pub(crate) ethernet: bool,
    pub(crate) veth: bool,
    pub(crate) program: Option<AttachedProgram>,
}

/// An XDP program that is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttachedProgram {
    pub(crate) id: u32,
    /// `None` in hardware or in several modes at once.
    pub(crate) mode: Option<AttachedMode>,
}

impl Interface {
    /// The interface of that name.
    pub(crate) fn find(name: &str) -> Result<Self, Error> {
        let missing = || Error::NoInterface { interface: name.to_owned() };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(missing());
        }
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let replies = ask(RouteNetlinkMessage::GetLink(request), 0).map_err(|source| match source.raw_os_error() {
            Some(libc::ENODEV) => missing(),
            _ => Error::Netlink { what: "an interface", source },
        })?;
        let link = replies.into_iter().find_map(|reply| match reply {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.map(|link| Self::from_message(name, &link)).ok_or_else(missing)
    }

    fn from_message(name: &str, link: &LinkMessage) -> Self {
        let is_veth = |info: &LinkInfo| *info == LinkInfo::Kind(InfoKind::Veth);
        Self {
            name: name.to_owned(),
            index: link.header.index,
            ethernet: matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
            veth: link
                .attributes
                .iter()
                .any(|at| matches!(at, LinkAttribute::LinkInfo(infos) if infos.iter().any(is_veth))),
            program: link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => attached_program(xdp),
                _ => None,
            }),
        }
    }

    /// Its receive queues.
    pub(crate) fn queues(&self) -> Result<u32, Error> {
        CString::new(self.name.as_str())
            .map_err(io::Error::from)
            .and_then(|name| sys::queues(&name))
            .map_err(|source| Error::Queues { interface: self.name.clone(), source })
    }

    /// The addresses of the interface, and the broadcast addresses of its IPv4 networks.
    pub(crate) fn addresses(&self) -> Result<(Vec<IpAddr>, Vec<Ipv4Addr>), Error> {
        let replies = ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
            .map_err(|source| Error::Netlink { what: "the addresses of an interface", source })?;
        let mut own = Vec::new();
        let mut broadcast = Vec::new();
        for reply in replies {
            let RouteNetlinkMessage::NewAddress(message) = reply else { continue };
            if message.header.index != self.index {
                continue;
            }
            // IFA_LOCAL is the own end where there is one: on a point-to-point link IFA_ADDRESS is the peer.
            let mut address = None;
            let mut local = None;
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Address(ip) => address = Some(ip),
                    AddressAttribute::Local(ip) => local = Some(ip),
                    AddressAttribute::Broadcast(ip) => broadcast.push(ip),
                    _ => {}
                }
            }
            own.extend(local.or(address));
        }
        Ok((own, broadcast))
    }
}

fn attached_program(attributes: &[LinkXdp]) -> Option<AttachedProgram> {
    let mut id = 0;
    let mut mode = None;
    let mut attached = false;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => return None,
            LinkXdp::Attached(how) => {
                attached = true;
                mode = match how {
                    XdpAttached::Driver => Some(AttachedMode::Native),
                    XdpAttached::SocketBuffer => Some(AttachedMode::Generic),
                    _ => None,
                };
            }
            LinkXdp::ProgId(program) => id = *program,
            LinkXdp::DrvProgId(program) | LinkXdp::SkbProgId(program) | LinkXdp::HwProgId(program) if id == 0 => {
                id = *program
            }
            _ => {}
        }
    }
    attached.then_some(AttachedProgram { id, mode })
}

/// The name of the interface that has this address; `None` where none of this network namespace has.
///
/// # Errors
/// [`Error::Netlink`].
pub fn interface_of(address: IpAddr) -> Result<Option<String>, Error> {
    let failed = |what| move |source| Error::Netlink { what, source };
    let replies = ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
        .map_err(failed("the addresses of this host"))?;
    let holder = replies.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewAddress(message) => {
            let is_it = |at: &AddressAttribute| {
                matches!(at, AddressAttribute::Address(ip) | AddressAttribute::Local(ip) if *ip == address)
            };
            message.attributes.iter().any(is_it).then_some(message.header.index)
        }
        _ => None,
    });
    // 127.0.0.0/8 is all loopback, whatever the addresses say.
    let holder = holder.or_else(|| address.is_loopback().then_some(1));
    let Some(index) = holder else { return Ok(None) };
    Ok(links()?.into_iter().find(|link| link.index == index).map(|link| link.name))
}

/// All interfaces of this network namespace, in order of their index.
///
/// # Errors
/// [`Error::Netlink`].
pub(crate) fn links() -> Result<Vec<Interface>, Error> {
    let replies = ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
        .map_err(|source| Error::Netlink { what: "the interfaces of this host", source })?;
    let mut links: Vec<_> = replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewLink(link) => {
                let name = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                })?;
                Some(Interface::from_message(&name, &link))
            }
            _ => None,
        })
        .collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// One question to rtnetlink and all of its answers.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(question));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut replies = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match reply.payload {
                NetlinkPayload::InnerMessage(inner) => replies.push(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(replies),
                _ => {}
            }
            let length = (reply.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(replies);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn loopback_is_found_with_its_addresses() {
        let lo = Interface::find("lo").expect("lo");
        assert_eq!((lo.index, lo.ethernet, lo.veth, lo.program), (1, true, false, None));
        assert!(links().expect("links").contains(&lo));
        assert_eq!(interface_of(Ipv4Addr::LOCALHOST.into()).expect("addresses"), Some("lo".into()));
        assert_eq!(interface_of(Ipv4Addr::new(192, 0, 2, 222).into()).expect("addresses"), None);
        let (own, _) = lo.addresses().expect("addresses");
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()) || own.contains(&Ipv6Addr::LOCALHOST.into()), "{own:?}");
    }

    #[test]
    fn a_missing_interface_is_one_clear_sentence() {
        for name in ["", "nowhere0", "a-name-longer-than-the-kernel-takes"] {
            let error = Interface::find(name).expect_err("not there");
            assert_eq!(error.to_string(), format!("no interface {name:?} in this network namespace; see `ip link`"));
        }
    }

    #[test]
    fn attached_programs_are_read_in_every_mode() {
        let read = |how, id| attached_program(&[LinkXdp::Attached(how), LinkXdp::ProgId(id)]);
        assert_eq!(read(XdpAttached::None, 0), None);
        assert_eq!(read(XdpAttached::Driver, 7), Some(AttachedProgram { id: 7, mode: Some(AttachedMode::Native) }));
        assert_eq!(
            read(XdpAttached::SocketBuffer, 8),
            Some(AttachedProgram { id: 8, mode: Some(AttachedMode::Generic) })
        );
        let several = [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(5), LinkXdp::SkbProgId(6)];
        assert_eq!(attached_program(&several), Some(AttachedProgram { id: 5, mode: None }));
    }
}
