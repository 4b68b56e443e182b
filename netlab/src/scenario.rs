//! What a scenario file says, checked: every name resolves, every next hop is on its link, no address is given twice.

mod check;
mod file;
mod play;
mod sessions;
mod show;
mod topology;
mod units;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

pub use sessions::Session;

use crate::{
    cidr::IpCidr,
    error::{Error, Result},
    link::Route,
    qdisc::{Limit, TokenBucket},
    queue::Flavour,
};

/// Scenarios that are part of the command, by name.
const SHIPPED: [(&str, &str); 1] = [("demo", include_str!("../scenarios/demo.toml"))];

/// A network and what happens in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name, for reports.
    pub name: String,
    /// One line on what it plays.
    pub summary: String,
    /// The seed that it runs with unless another is given.
    pub seed: u64,
    /// Kernel features without which it cannot run here.
    pub needs: Vec<Feature>,
    /// Namespaces.
    pub nodes: Vec<Node>,
    /// What joins them.
    pub links: Vec<Link>,
    /// Whose clients they are.
    pub isps: Vec<Isp>,
    /// Who asks whom, and how often.
    pub probe: Option<Probe>,
    /// The ways back between which a steerer chooses.
    pub arms: Option<Arms>,
    /// Stretches of time with a name, in order, without overlap.
    pub windows: Vec<Window>,
    /// Traffic that fills queues.
    pub loads: Vec<Load>,
}

/// Something that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The token bucket qdisc, `sch_tbf`.
    Tbf,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name in the scenario.
    pub name: String,
    /// Addresses on its `lo`.
    pub addresses: Vec<IpCidr>,
    /// Prefixes of which each address is its own.
    pub any_address: Vec<IpCidr>,
    /// Prefixes that vanish here.
    pub black_hole: Vec<IpCidr>,
    /// Whether it forwards.
    pub forward: bool,
    /// Routes, beyond those that addresses bring along.
    pub routes: Vec<Route>,
}

/// A veth pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Both ends.
    pub ends: [LinkEnd; 2],
}

/// One end of a link and the direction in which it sends.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkEnd {
    /// The node.
    pub node: String,
    /// Interface name there.
    pub dev: String,
    /// Addresses of the interface.
    pub addresses: Vec<IpCidr>,
    /// What this end sends with; as fast as the machine can when absent.
    pub egress: Option<Bottleneck>,
    /// From the end of a packet's sending to its arrival at the other end.
    pub delay: Duration,
}

/// A rate and the queue before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// Bits per second, Ethernet headers included.
    pub rate: u64,
    /// Who waits for it, and who is dropped.
    pub queue: Discipline,
}

/// A queueing discipline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// First in, first out, as deep as that.
    TailDrop(Limit),
    /// CoDel (RFC 8289) with its defaults.
    Codel(Flavour),
    /// FQ-CoDel (RFC 8290) with its defaults.
    FqCodel(Flavour),
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TailDrop(Limit::Packets(packets)) => write!(f, "tail drop at {packets} packets"),
            Self::TailDrop(Limit::Bytes(bytes)) => write!(f, "tail drop at {bytes} bytes"),
            Self::Codel(Flavour::Linux) => f.write_str("CoDel"),
            Self::Codel(Flavour::Rfc8289) => f.write_str("CoDel as in RFC 8289"),
            Self::FqCodel(Flavour::Linux) => f.write_str("FQ-CoDel"),
            Self::FqCodel(Flavour::Rfc8289) => f.write_str("FQ-CoDel as in RFC 8290"),
        }
    }
}

impl Bottleneck {
    /// The same for the kernel's tbf, or `None` where the queue is no tail drop.
    pub fn token_bucket(self, mtu: u32) -> Option<TokenBucket> {
        let Discipline::TailDrop(limit) = self.queue else { return None };
        Some(TokenBucket { rate: self.rate, burst: self.burst(mtu), limit })
    }

    /// Depth of the bucket in bytes: two full packets or half a millisecond, whichever is more. Deep enough for the
    /// rate to be kept in spite of late timers, too shallow to be seen in the delay.
    pub fn burst(self, mtu: u32) -> u32 {
        let half_a_millisecond = u32::try_from(self.rate / 8 / 2000).unwrap_or(u32::MAX);
        half_a_millisecond.max(2 * (mtu + 18))
    }
}

/// An internet service provider, the label of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isp {
    /// Its name.
    pub name: String,
    /// Its autonomous system.
    pub asn: u32,
    /// Where its clients live.
    pub prefixes: Vec<IpCidr>,
}

/// Who asks whom, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Node of the clients.
    pub from: String,
    /// The reflector's addresses, one for each family at most.
    pub to: Vec<SocketAddr>,
    /// First and last UDP port of the clients.
    pub client_ports: (u16, u16),
    /// Sessions of each ISP and family.
    pub sessions: usize,
    /// Time between two packets of one session.
    pub interval: Duration,
}

/// The ways back between which a steerer chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arms {
    /// Node that steers.
    pub node: String,
    /// The default.
    pub control: Hops,
    /// The alternate.
    pub canary: Hops,
}

/// A next hop for each family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    /// For IPv4.
    pub v4: Option<Hop>,
    /// For IPv6.
    pub v6: Option<Hop>,
}

/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Gateway.
    pub via: IpAddr,
    /// Interface.
    pub dev: String,
}

/// A stretch of time with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: WindowKind,
    /// From the start of the run.
    pub start: Duration,
    /// From the start of the run.
    pub end: Duration,
}

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// Both arms alike, to show that the comparison finds no difference where there is none.
    Prelude,
    /// Counts for the verdict.
    Evening,
}

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
}

impl Scenario {
    /// A shipped scenario by name, or a file by path: whatever holds a `/` or ends in `.toml`.
    ///
    /// # Errors
    /// An unknown name, an unreadable file, or one that [`Scenario::parse`] refuses.
    pub fn load(name_or_path: &str, variant: Option<&str>) -> Result<Self> {
        if name_or_path.contains('/') || name_or_path.ends_with(".toml") {
            return Self::read(Path::new(name_or_path), variant);
        }
        let text = SHIPPED.iter().find(|(name, _)| *name == name_or_path).map(|(_, text)| *text);
        let text = text.ok_or_else(|| Error::NoScenario {
            name: name_or_path.to_owned(),
            shipped: SHIPPED.map(|(name, _)| name).join(", "),
        })?;
        Self::parse(&format!("{name_or_path}.toml"), text, variant)
    }

    /// Names of the shipped scenarios.
    pub fn shipped() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// An unreadable file, or one that [`Scenario::parse`] refuses.
    pub fn read(path: &Path, variant: Option<&str>) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::ScenarioFile { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text, variant)
    }

    /// Parses a scenario; `file` is its name in errors. A variant replaces the summary and the loads.
    ///
    /// # Errors
    /// [`Error::Scenario`] with file, line and key: an unknown key, a value of the wrong kind, or a network that cannot be.
    pub fn parse(file: &str, text: &str, variant: Option<&str>) -> Result<Self> {
        let raw = file::parse(file, text)?;
        check::resolve(&check::Source { file, text }, raw, variant)
    }

    /// The other end of a link: its node and interface.
    pub fn peer_of(&self, node: &str, dev: &str) -> Option<(&str, &str)> {
        self.links.iter().find_map(|link| {
            let [left, right] = &link.ends;
            let is = |end: &LinkEnd| end.node == node && end.dev == dev;
            let peer = if is(left) { right } else { is(right).then_some(left)? };
            Some((peer.node.as_str(), peer.dev.as_str()))
        })
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// What the kernel engine cannot play of it, in words; `None` where it can play all.
    pub fn beyond_the_kernel(&self) -> Option<String> {
        self.links.iter().flat_map(|link| &link.ends).find_map(|end| {
            let place = format!("{}:{}", end.node, end.dev);
            if !end.delay.is_zero() {
                return Some(format!("{place} has a delay"));
            }
            let queue = end.egress?.queue;
            (!matches!(queue, Discipline::TailDrop(_))).then(|| format!("{place} has the queue {queue}"))
        })
    }

    /// When the last window ends; zero without windows.
    pub fn duration(&self) -> Duration {
        self.windows.last().map_or(Duration::ZERO, |window| window.end)
    }
}
