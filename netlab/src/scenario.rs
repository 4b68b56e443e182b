//! What a scenario file says, checked: every name resolves, every next hop is on its link, no address is given twice.

mod check;
mod conditions;
mod expect;
mod faults;
mod file;
mod load;
mod play;
mod sessions;
mod setting;
mod show;
mod topology;
mod units;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

pub(crate) use conditions::holds;
pub use conditions::{Conditions, Fault, Loss, Membership, Reorder, Shift};
pub use expect::{Bound, Counter, Expectation, Metric, Of, Quantity};
pub use load::{Bulk, Congestion, Game, Keyframe, Load};
pub use sessions::Session;

use crate::{
    cidr::IpCidr,
    engine::wire::Tolerance,
    error::{Error, Result},
    link::Route,
    qdisc::{Limit, TokenBucket},
    queue::Flavour,
};

/// Scenarios that are part of the command, by name.
const SHIPPED: [(&str, &str); 13] = [
    ("demo", include_str!("../scenarios/demo.toml")),
    ("baseline", include_str!("../scenarios/baseline.toml")),
    ("bufferbloat-pfifo", include_str!("../scenarios/bufferbloat-pfifo.toml")),
    ("bufferbloat-codel", include_str!("../scenarios/bufferbloat-codel.toml")),
    ("bufferbloat-fq-codel", include_str!("../scenarios/bufferbloat-fq-codel.toml")),
    ("microburst", include_str!("../scenarios/microburst.toml")),
    ("small-ring", include_str!("../scenarios/small-ring.toml")),
    ("evening", include_str!("../scenarios/evening.toml")),
    ("asymmetric-transit", include_str!("../scenarios/asymmetric-transit.toml")),
    ("v6-fault", include_str!("../scenarios/v6-fault.toml")),
    ("ecmp-fault", include_str!("../scenarios/ecmp-fault.toml")),
    ("path-shift", include_str!("../scenarios/path-shift.toml")),
    ("lossy-last-mile", include_str!("../scenarios/lossy-last-mile.toml")),
];

/// A network and what happens in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name, for reports.
    pub name: String,
    /// One line on what it plays.
    pub summary: String,
    /// The seed that it runs with unless another is given.
    pub seed: u64,
    /// How far a run by the wire engine may stray from it and still stand.
    pub tolerance: Tolerance,
    /// Kernel features without which the kernel engine cannot play it.
    pub needs: Vec<Feature>,
    /// Seed of the hash by which every node chooses among the next hops of a route.
    pub hash_seed: u32,
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
    /// Game traffic: snapshots for many players at once.
    pub games: Vec<Game>,
    /// TCP transfers that take what they get.
    pub bulks: Vec<Bulk>,
    /// What goes wrong, where and when.
    pub faults: Vec<Fault>,
    /// Routes that are others for a time.
    pub shifts: Vec<Shift>,
    /// What must come of a run.
    pub expectations: Vec<Expectation>,
}

/// Something that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The token bucket qdisc, `sch_tbf`.
    Tbf,
    /// `net.ipv4.fib_multipath_hash_seed`, since Linux 6.11: a flow takes the same next hop in every run.
    MultipathHashSeed,
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
    /// What happens to packets of IPv4 and of IPv6 between their sending and their arrival at the other end.
    pub conditions: [Conditions; 2],
    /// The card's ring into which this end receives.
    pub ring: Option<ReceiveRing>,
}

/// A receive ring and the host that empties it; see [`crate::queue::Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveRing {
    /// Packets that it holds.
    pub descriptors: u32,
    /// What the host takes for one packet.
    pub service: Duration,
    /// From the first packet in an empty ring until the host starts on it: interrupt coalescing and wake-up.
    pub wake: Duration,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// Both arms alike, to show that the comparison finds no difference where there is none.
    Prelude,
    /// Counts for the verdict.
    #[default]
    Evening,
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

    /// Parses a scenario; `file` is its name in errors. A variant replaces the summary, and loads, faults and expectations where it gives its own.
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

    /// What of it no engine with real packets plays, in words; `None` where they play all.
    pub fn beyond_real_packets(&self) -> Option<String> {
        let ring = self.links.iter().flat_map(|link| &link.ends).find(|end| end.ring.is_some());
        ring.map(|end| format!("{}:{} has a receive ring", end.node, end.dev))
    }

    /// When the last window ends; zero without windows.
    pub fn duration(&self) -> Duration {
        self.windows.last().map_or(Duration::ZERO, |window| window.end)
    }
}
