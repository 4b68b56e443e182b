//! The closed list of things that pathlab puts on a host, and for each how it is taken back.

use std::{fmt, fs, io, net::IpAddr, path::PathBuf};

use netlink_packet_route::{
    AddressFamily, IpProtocol, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};
use serde::{Deserialize, Serialize};

use crate::{Changed, Error, Hwtstamp, Process, Result, Rtnetlink, Sysctl, changed::Taken, netns};

/// The `protocol` tag of our rules and routes: says whose they are, and keeps the way back from ever deleting a like
/// one of somebody else.
pub const PROTOCOL: u8 = 222;

/// Something on the host, and all that is needed to take it back.
///
/// `netns` is the name of a network namespace in `/run/netns`; `None` is the namespace in which the journal was
/// written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A named network namespace.
    Netns {
        /// Its name in `/run/netns`.
        name: String,
    },
    /// A network device. Deleting one end of a veth pair deletes both.
    Link {
        /// Where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        netns: Option<String>,
        /// Its name.
        name: String,
    },
    /// A policy routing rule.
    Rule(Rule),
    /// A route.
    Route(Route),
    /// A kernel parameter with a changed value.
    Sysctl(Sysctl),
    /// What a card stamps, changed.
    Hwtstamp(Hwtstamp),
    /// A setting of a port, an interrupt or the kernel, changed on purpose and for longer than a process.
    Changed(Box<Changed>),
    /// A file or a socket in the file system.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A process, killed without a chance to clean up: it must own nothing that is not in the journal.
    Process(Process),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// `ip rule`: packets with this mark, or UDP packets from this port, use this table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// IPv4 and IPv6 have a list of rules each.
    pub family: Family,
    /// Place in the list, 0 first.
    pub priority: u32,
    /// Value of the mark under the mask.
    pub fwmark: u32,
    /// Bits of the mark that are compared; 0: the mark does not matter.
    pub mask: u32,
    /// Of UDP packets alone; from this port, or from every port where it is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_source_port: Option<u16>,
    /// To this prefix alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<(IpAddr, u8)>,
    /// Table to use.
    pub table: u32,
}

/// `ip route`: one unicast route. Its family is that of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Destination.
    pub to: IpAddr,
    /// Length of the destination's prefix; 0 is the default route.
    pub prefix: u8,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Device.
    pub dev: String,
    /// The source address of what is bound to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Table.
    pub table: u32,
}

impl Object {
    /// Takes it back; with `force` also where somebody else has changed it since.
    pub(crate) fn undo(&self, force: bool) -> Result<Taken> {
        let was_there = match self {
            Self::Changed(changed) => return changed.restore(force),
            Self::Netns { name } => netns::delete(name),
            Self::Link { netns, name } => delete_link(netns.as_deref(), name),
            Self::Rule(rule) => rule.undo(),
            Self::Route(route) => route.undo(),
            Self::Sysctl(sysctl) => sysctl.restore(),
            Self::Hwtstamp(hwtstamp) => hwtstamp.restore(),
            Self::File { path } => match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                other => other.map(|()| true).map_err(Error::file("remove", path)),
            },
            Self::Process(process) => process.kill(),
        };
        was_there.map(Taken::from)
    }

    /// Whether it is a setting that went with the network namespace in which it was made.
    pub(crate) fn is_of_its_netns(&self) -> bool {
        matches!(self, Self::Changed(changed) if changed.setting.is_of_a_netns())
    }

    /// Whether the kernel alone holds it, so that a reboot takes it away.
    pub(crate) fn is_volatile(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn af(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

impl Rule {
    /// Puts it on the host.
    ///
    /// # Errors
    /// [`Error::Netlink`] with the request in iproute2's words; `EEXIST` when the same rule exists.
    pub fn add(&self, to: &mut Rtnetlink) -> Result<()> {
        to.create(RouteNetlinkMessage::NewRule(self.message()))
            .map_err(|source| Error::Netlink { request: self.command("add"), source })
    }

    /// Takes it off again. `false` when there was none.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn delete(&self, from: &mut Rtnetlink) -> Result<bool> {
        let answer = from.change(RouteNetlinkMessage::DelRule(self.message()));
        was_there(answer, &[libc::ENOENT, libc::EAFNOSUPPORT], || self.command("del"))
    }

    /// The same in iproute2's words; `verb` is `add` or `del`.
    pub fn command(&self, verb: &str) -> String {
        format!("ip {} rule {verb} {}", self.family, self.words())
    }

    /// What it matches and does.
    fn words(&self) -> String {
        let Self { priority, fwmark, mask, table, .. } = self;
        let to = self.to.map(|(to, length)| format!("to {to}/{length} ")).unwrap_or_default();
        let mark = if *mask == 0 { String::new() } else { format!("fwmark {fwmark:#x}/{mask:#x} ") };
        let udp = match self.udp_source_port {
            None => String::new(),
            Some(0) => "ipproto udp ".to_owned(),
            Some(port) => format!("ipproto udp sport {port} "),
        };
        format!("{to}{mark}{udp}lookup {table} priority {priority} protocol {PROTOCOL}")
    }

    fn undo(&self) -> Result<bool> {
        Rtnetlink::open(self.netns.as_deref()).and_then(|mut from| self.delete(&mut from)).or_else(gone_with_netns)
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.af();
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        ];
        if self.mask != 0 {
            message.attributes.extend([RuleAttribute::FwMark(self.fwmark), RuleAttribute::FwMask(self.mask)]);
        }
        if let Some(port) = self.udp_source_port {
            message.attributes.push(RuleAttribute::IpProtocol(IpProtocol::Udp));
            let range = RulePortRange { start: port, end: port };
            message.attributes.extend((port != 0).then_some(RuleAttribute::SourcePortRange(range)));
        }
        if let Some((to, length)) = self.to {
            message.header.dst_len = length;
            message.attributes.push(RuleAttribute::Destination(to));
        }
        message
    }
}

impl Route {
    /// Puts it on the host.
    ///
    /// # Errors
    /// [`Error::Netlink`] with the request in iproute2's words; `EEXIST` when a route to the same place exists in the
    /// table.
    pub fn add(&self, to: &mut Rtnetlink) -> Result<()> {
        let failed = |source| Error::Netlink { request: self.command("add"), source };
        let index = link_index(to, &self.dev).map_err(failed)?;
        let mut message = self.message(if self.via.is_some() { RouteScope::Universe } else { RouteScope::Link });
        message.attributes.push(RouteAttribute::Oif(index));
        to.create(RouteNetlinkMessage::NewRoute(message)).map_err(failed)
    }

    /// Takes it off again. `false` when there was none.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn delete(&self, from: &mut Rtnetlink) -> Result<bool> {
        // `NoWhere` matches every scope, as `ip route del` asks for.
        let answer = from.change(RouteNetlinkMessage::DelRoute(self.message(RouteScope::NoWhere)));
        was_there(answer, &[libc::ESRCH, libc::ENOENT, libc::EAFNOSUPPORT], || self.command("del"))
    }

    /// The same in iproute2's words; `verb` is `add` or `del`.
    pub fn command(&self, verb: &str) -> String {
        format!("ip {} route {verb} {}", Family::of(self.to), self.words())
    }

    /// Where it leads, and by which way.
    fn words(&self) -> String {
        let Self { to, prefix, dev, table, .. } = self;
        let to = if *prefix == 0 { "default".to_owned() } else { format!("{to}/{prefix}") };
        let via = self.via.map(|via| format!(" via {via}")).unwrap_or_default();
        let source = self.source.map(|source| format!(" src {source}")).unwrap_or_default();
        format!("{to}{via} dev {dev}{source} table {table} protocol {PROTOCOL}")
    }

    fn undo(&self) -> Result<bool> {
        Rtnetlink::open(self.netns.as_deref()).and_then(|mut from| self.delete(&mut from)).or_else(gone_with_netns)
    }

    fn message(&self, scope: RouteScope) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = Family::of(self.to).af();
        message.header.destination_prefix_length = self.prefix;
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message.header.protocol = RouteProtocol::from(PROTOCOL);
        message.header.scope = scope;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Table(self.table));
        if self.prefix > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(self.to)));
        }
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
        message.attributes.extend(self.via.map(|via| RouteAttribute::Gateway(RouteAddress::from(via))));
        message
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |netns: &Option<String>| netns.as_ref().map(|name| format!(" in netns {name}")).unwrap_or_default();
        match self {
            Self::Netns { name } => write!(f, "netns {name}"),
            Self::Link { netns, name } => write!(f, "link {name}{}", place(netns)),
            Self::Rule(rule) => write!(f, "ip {} rule {}{}", rule.family, rule.words(), place(&rule.netns)),
            Self::Route(route) => {
                write!(f, "ip {} route {}{}", Family::of(route.to), route.words(), place(&route.netns))
            }
            Self::Sysctl(Sysctl { netns, path, was }) => write!(f, "sysctl {path} (was {was}){}", place(netns)),
            Self::Hwtstamp(Hwtstamp { netns, interface, was, .. }) => {
                write!(
                    f,
                    "stamps of {interface}'s card (was tx {}, rx filter {}){}",
                    was.tx_type,
                    was.rx_filter,
                    place(netns)
                )
            }
            Self::Changed(changed) => changed.fmt(f),
            Self::File { path } => write!(f, "file {}", path.display()),
            Self::Process(process) => write!(f, "process {}", process.pid),
        }
    }
}

/// As iproute2's option: `-4` or `-6`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        })
    }
}

impl From<Rule> for Object {
    fn from(rule: Rule) -> Self {
        Self::Rule(rule)
    }
}

impl From<Route> for Object {
    fn from(route: Route) -> Self {
        Self::Route(route)
    }
}

impl From<Hwtstamp> for Object {
    fn from(hwtstamp: Hwtstamp) -> Self {
        Self::Hwtstamp(hwtstamp)
    }
}

impl From<Sysctl> for Object {
    fn from(sysctl: Sysctl) -> Self {
        Self::Sysctl(sysctl)
    }
}

fn was_there(answer: io::Result<()>, absent: &[i32], request: impl FnOnce() -> String) -> Result<bool> {
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|code| absent.contains(&code)) => Ok(false),
        other => other.map(|()| true).map_err(|source| Error::Netlink { request: request(), source }),
    }
}

fn gone_with_netns(error: Error) -> Result<bool> {
    if matches!(error, Error::NoNetns { .. }) { Ok(false) } else { Err(error) }
}

fn delete_link(netns: Option<&str>, name: &str) -> Result<bool> {
    let mut from = match Rtnetlink::open(netns) {
        Ok(from) => from,
        Err(error) => return gone_with_netns(error),
    };
    let answer = from.change(RouteNetlinkMessage::DelLink(link_named(name)));
    was_there(answer, &[libc::ENODEV], || format!("ip link del {name}"))
}

fn link_named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn link_index(at: &mut Rtnetlink, name: &str) -> io::Result<u32> {
    let links = at.query(RouteNetlinkMessage::GetLink(link_named(name)))?;
    links
        .into_iter()
        .find_map(|link| match link {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        })
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_routes_read_as_iproute2_writes_them() {
        let rule = Rule {
            netns: None,
            family: Family::V6,
            priority: 10_000,
            fwmark: 0x1_0000,
            mask: 0xff_0000,
            udp_source_port: None,
            to: None,
            table: 222,
        };
        assert_eq!(
            rule.command("add"),
            "ip -6 rule add fwmark 0x10000/0xff0000 lookup 222 priority 10000 protocol 222"
        );
        let to = Some(("2001:db8::".parse().unwrap(), 32));
        let rule = Rule { fwmark: 0, mask: 0, udp_source_port: Some(7_777), to, ..rule };
        assert_eq!(
            rule.command("add"),
            "ip -6 rule add to 2001:db8::/32 ipproto udp sport 7777 lookup 222 priority 10000 protocol 222"
        );
        let route = Route {
            netns: None,
            to: "0.0.0.0".parse().unwrap(),
            prefix: 0,
            via: Some("192.0.2.1".parse().unwrap()),
            dev: "eth1".into(),
            source: None,
            table: 222,
        };
        assert_eq!(route.command("add"), "ip -4 route add default via 192.0.2.1 dev eth1 table 222 protocol 222");
    }
}
