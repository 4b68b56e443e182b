//! The traffic of a scenario: UDP at a rate, game snapshots in bursts, TCP that takes what it gets.

use std::{net::IpAddr, time::Duration};

use super::{Node, Window, check::Source, faults::stretches, file, play::known};
use crate::error::Result;

/// UDP traffic that vanishes at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Node that sends.
    pub node: String,
    /// Where to.
    pub to: IpAddr,
    /// Bytes of UDP payload in each datagram.
    pub payload: u16,
    /// Mean bits per second, Ethernet headers included.
    pub rate: u64,
    /// Share by which the rate strays to either side, 0 to 1.
    pub wobble: f64,
    /// How long each rate lasts.
    pub period: Duration,
    /// When it sends: start and end from the start of the run, in order.
    pub during: Vec<(Duration, Duration)>,
    /// Share of the rate at points in time, in order, with straight lines between them; the whole rate all the time where it is empty.
    pub curve: Vec<(Duration, f64)>,
}

/// Game traffic from a server: at each tick one snapshot for each player, all at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Game {
    /// Node that sends.
    pub node: String,
    /// Where to; each player has a port of its own there.
    pub to: IpAddr,
    /// How many players.
    pub players: u16,
    /// Between two ticks.
    pub tick: Duration,
    /// Bytes of UDP payload of a snapshot.
    pub snapshot: u16,
    /// Now and then the whole state instead.
    pub keyframe: Option<Keyframe>,
    /// When it sends: start and end from the start of the run, in order.
    pub during: Vec<(Duration, Duration)>,
}

/// A burst of full packets for each player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyframe {
    /// Every so many ticks.
    pub every: u32,
    /// Packets for each player.
    pub packets: u16,
    /// Bytes of UDP payload of each.
    pub payload: u16,
}

/// TCP transfers without an end.
#[derive(Clone, Debug, PartialEq)]
pub struct Bulk {
    /// Its name, for expectations.
    pub name: String,
    /// Node that sends.
    pub node: String,
    /// The sender's address.
    pub from: IpAddr,
    /// The receiver's address.
    pub to: IpAddr,
    /// The receiver's node.
    pub receiver: String,
    /// Connections at once.
    pub flows: u16,
    /// Congestion control.
    pub congestion: Congestion,
    /// When it sends: start and end from the start of the run, in order.
    pub during: Vec<(Duration, Duration)>,
}

/// Congestion control of TCP, by its name in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681.
    Reno,
}

impl Congestion {
    /// Its name for `TCP_CONGESTION`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Reno => "reno",
        }
    }
}

impl Game {
    /// Payloads of the packets that each player gets at the tick of that number.
    pub fn packets(&self, tick: u64) -> (u16, u16) {
        match self.keyframe {
            Some(Keyframe { every, packets, payload }) if tick.is_multiple_of(u64::from(every)) => (packets, payload),
            _ => (1, self.snapshot),
        }
    }
}

/// What neither is padded nor fragmented.
fn payload(source: &Source<'_>, payload: &toml::Spanned<u16>) -> Result<u16> {
    match *payload.get_ref() {
        fits @ 18..=1452 => Ok(fits),
        _ => Err(source.error(payload, "a load's payload is 18 to 1452 bytes: neither padded nor fragmented")),
    }
}

pub(super) fn load(source: &Source<'_>, load: file::Load, nodes: &[Node], windows: &[Window]) -> Result<Load> {
    known(source, &load.node, nodes)?;
    if load.period.get_ref().0.is_zero() {
        return Err(source.error(&load.period, "a rate must last for some time"));
    }
    let mut curve: Vec<(Duration, f64)> = Vec::new();
    for point in &load.curve {
        let at = point.at.get_ref().0;
        if curve.last().is_some_and(|(last, _)| at <= *last) {
            return Err(source.error(&point.at, "the points of a curve follow one another in time"));
        }
        curve.push((at, point.share.0));
    }
    Ok(Load {
        to: source.address(&load.to)?,
        payload: payload(source, &load.payload)?,
        node: load.node.into_inner(),
        rate: load.rate.0,
        wobble: load.wobble.0,
        period: load.period.into_inner().0,
        during: stretches(source, &load.during, windows)?,
        curve,
    })
}

pub(super) fn game(source: &Source<'_>, game: file::Game, nodes: &[Node], windows: &[Window]) -> Result<Game> {
    known(source, &game.node, nodes)?;
    let rate = *game.tick_rate.get_ref();
    if !(1..=1000).contains(&rate) {
        return Err(source.error(&game.tick_rate, "a tick rate is 1 to 1000 a second"));
    }
    let players = *game.players.get_ref();
    if !(1..=10_000).contains(&players) {
        return Err(source.error(&game.players, "a game has 1 to 10000 players"));
    }
    let keyframe = game.keyframe.map(|keyframe| {
        let every = *keyframe.every.get_ref();
        if every == 0 {
            return Err(source.error(&keyframe.every, "every tick is 1"));
        }
        Ok(Keyframe { every, packets: keyframe.packets, payload: payload(source, &keyframe.payload)? })
    });
    Ok(Game {
        to: source.address(&game.to)?,
        players,
        tick: Duration::from_nanos(1_000_000_000 / u64::from(rate)),
        snapshot: payload(source, &game.snapshot)?,
        keyframe: keyframe.transpose()?,
        during: stretches(source, &game.during, windows)?,
        node: game.node.into_inner(),
    })
}

pub(super) fn bulks(
    source: &Source<'_>,
    bulks: Vec<file::Bulk>,
    nodes: &[Node],
    links: &[super::Link],
    windows: &[Window],
) -> Result<Vec<Bulk>> {
    let mut resolved: Vec<Bulk> = Vec::new();
    for bulk in bulks {
        let name = bulk.name.get_ref();
        if resolved.iter().any(|other| other.name == *name) {
            return Err(source.error(&bulk.name, format!("there are two bulks called {name}")));
        }
        let to = source.address(&bulk.to)?;
        let receiver = nodes.iter().find(|node| own_addresses(node, links).any(|own| own.address() == to));
        let receiver =
            receiver.or_else(|| nodes.iter().find(|node| node.any_address.iter().any(|prefix| prefix.contains(to))));
        let Some(receiver) = receiver else {
            return Err(source.error(&bulk.to, format!("no node has the address {to}")));
        };
        let sender = known(source, &bulk.node, nodes)?;
        let from = own_addresses(sender, links).map(|own| own.address()).find(|own| own.is_ipv6() == to.is_ipv6());
        let Some(from) = from else {
            let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
            return Err(source.error(&bulk.node, format!("node {} has no {family} address to send from", sender.name)));
        };
        if !(1..=64).contains(bulk.flows.get_ref()) {
            return Err(source.error(&bulk.flows, "a bulk has 1 to 64 flows"));
        }
        resolved.push(Bulk {
            receiver: receiver.name.clone(),
            node: sender.name.clone(),
            from,
            to,
            flows: bulk.flows.into_inner(),
            congestion: bulk.congestion,
            during: stretches(source, &bulk.during, windows)?,
            name: bulk.name.into_inner(),
        });
    }
    Ok(resolved)
}

/// Those of the node itself first, then those of its interfaces.
fn own_addresses<'a>(
    node: &'a Node,
    links: &'a [super::Link],
) -> impl Iterator<Item = &'a crate::cidr::IpCidr> + use<'a> {
    let ends = links.iter().flat_map(|link| &link.ends).filter(move |end| end.node == node.name);
    node.addresses.iter().chain(ends.flat_map(|end| &end.addresses))
}
