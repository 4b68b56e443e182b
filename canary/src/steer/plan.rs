//! What will be created, worked out before anything is touched: a plan is a pure function of the experiment and the
//! seed.

use std::{fmt, fs, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, path::Path as FilePath, time::Duration};

use pathlab_guard::{Family, Object, Route, Rule};
use pathlab_record::Prefix;

use super::{Error, Result, ruleset};
use crate::{Experiment, Hop, Key, KeyFrom, Mode, Share, assignment::MAX_KEY};

/// The routing table of the canary path.
pub const ROUTE_TABLE: u32 = 222;

/// Shares outside are no canary: too small to see anything, or no longer a minority. In buckets.
const SHARES: std::ops::RangeInclusive<u16> = 100..=5_000;

/// Shorter leases run out on a busy host, longer ones are no safeguard. In milliseconds.
const LEASES: std::ops::RangeInclusive<u128> = 100..=10_000;

/// A key may lie anywhere in a packet that passes every path unfragmented.
const MAX_OFFSET: u16 = 1_200;

/// Everything that steering puts on the host. Its `Display` is what an operator reads before it is applied, in nft's
/// and iproute2's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) seed: u32,
    /// Left out of what is shown.
    pub(crate) hides_seed: bool,
    pub(crate) share: Share,
    pub(crate) cap: Share,
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) server_port: Option<u16>,
    pub(crate) lease: Duration,
    pub(crate) mark: u32,
    pub(crate) mask: u32,
    pub(crate) priority: u32,
    pub(crate) max_canary_sessions: u32,
    pub(crate) max_canary_pps: Option<u32>,
    pub(crate) include: Vec<Prefix>,
    pub(crate) exclude: Vec<Prefix>,
    pub(crate) largest_packet: Option<u16>,
    pub(crate) accepted_sources: Vec<Prefix>,
    pub(crate) paths: Vec<Path>,
}

/// The canary path of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) family: Family,
    pub(crate) via: Option<IpAddr>,
    pub(crate) dev: String,
}

impl Plan {
    /// Works out what `experiment` needs.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::AboveCap`], naming the key of `canary.toml` that cannot be steered by.
    pub fn new(experiment: &Experiment, seed: u32) -> Result<Self> {
        let Experiment { experiment: identity, key, steer, .. } = experiment;
        let lease = Duration::try_from(steer.lease).unwrap_or_default();
        let mut paths = Vec::new();
        for (family, name, hop) in [
            (Family::V4, "steer.canary.v4.via", &steer.canary.v4),
            (Family::V6, "steer.canary.v6.via", &steer.canary.v6),
        ] {
            let Some(Hop { via, dev }) = hop else { continue };
            if let Some(via) = via.filter(|via| Family::of(*via) != family) {
                return Err(config(name, via, "write an address of this family"));
            }
            paths.push(Path { family, via: *via, dev: dev.clone() });
        }
        let plan = Self {
            name: identity.name.clone(),
            seed,
            hides_seed: identity.seed_is_hidden(),
            share: identity.share,
            cap: identity.cap_share,
            key: key.clone(),
            mode: steer.mode,
            server_port: steer.server_port,
            lease,
            mark: steer.mark_mask.0 & steer.mark_mask.0.wrapping_neg(),
            mask: steer.mark_mask.0,
            priority: steer.priority,
            max_canary_sessions: steer.max_canary_sessions,
            max_canary_pps: steer.max_canary_pps,
            include: prefixes("steer.include", &steer.include)?,
            exclude: prefixes("steer.exclude", &steer.exclude)?,
            largest_packet: steer.largest_packet,
            accepted_sources: prefixes("steer.accepted_sources", &steer.accepted_sources)?,
            paths,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let sign = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if self.name.is_empty() || self.name.len() > 64 || self.name.contains(sign) || self.name.starts_with('.') {
            return Err(config("experiment.name", &self.name, "use up to 64 letters, digits, `-`, `_` and `.`"));
        }
        self.allows(self.share)?;
        if !LEASES.contains(&self.lease.as_millis()) {
            return Err(config("steer.lease", format!("{:?}", self.lease), "choose 100ms to 10s"));
        }
        if self.paths.is_empty() {
            return Err(config("steer.canary", "{}", "give a path for v4, for v6 or for both"));
        }
        if self.mode == Mode::Router && self.server_port.is_none() {
            let reason = "mode = \"router\" needs it, to tell packets to clients from packets of clients";
            return Err(config("steer.server_port", "absent", reason));
        }
        if self.max_canary_sessions == 0 {
            return Err(config("steer.max_canary_sessions", 0, "allow at least one session"));
        }
        if self.max_canary_pps == Some(0) {
            return Err(config("steer.max_canary_pps", 0, "allow at least one packet a second, or leave it out"));
        }
        let Key { from, offset, length } = &self.key;
        match (from, offset, length) {
            (KeyFrom::Payload, Some(offset), Some(length)) => {
                if *length == 0 || usize::from(*length) > MAX_KEY {
                    return Err(config("key.length", length, "a session id has 1 to 32 bytes"));
                }
                if *offset > MAX_OFFSET {
                    return Err(config("key.offset", offset, "a session id lies in the first 1200 bytes"));
                }
            }
            (KeyFrom::Payload, ..) => {
                return Err(config("key.from", "\"payload\"", "also give `offset` and `length`, in bytes"));
            }
            (_, None, None) => {}
            _ => return Err(config("key.offset", "given", "only `from = \"payload\"` has `offset` and `length`")),
        }
        Ok(())
    }

    /// Whether this share may be steered.
    pub(crate) fn allows(&self, share: Share) -> Result<()> {
        if !SHARES.contains(&share.buckets()) {
            return Err(config("experiment.share", share, "choose 1% to 50%"));
        }
        if share > self.cap {
            return Err(Error::AboveCap { share, cap: self.cap });
        }
        Ok(())
    }

    /// Whether clients of this family take part: not when all of them are excluded, or only others included.
    pub(crate) fn takes_part(&self, family: Family) -> bool {
        let of_family = |prefix: &&Prefix| Family::of(prefix.address()) == family;
        let included = self.include.is_empty() || self.include.iter().any(|prefix| of_family(&prefix));
        included && !self.exclude.iter().filter(of_family).any(|prefix| prefix.length() == 0)
    }

    /// The routes, then the rules that lead to them. The nf_tables table is not among them: it goes with the socket
    /// that owns it.
    pub fn objects(&self) -> Vec<Object> {
        let routes = self.routes().map(Object::from);
        routes.chain(self.rules().map(Object::from)).collect()
    }

    /// Kernel parameters that are set to 1 while it steers, below `/proc/sys`. With them a route that an ICMP error
    /// changes is looked up with the error's mark. They also let replies that the kernel makes by itself carry the mark
    /// of what they answer, whoever set it.
    pub fn sysctls(&self) -> Vec<&'static str> {
        let path = |path: &Path| match path.family {
            Family::V4 => "net/ipv4/fwmark_reflect",
            Family::V6 => "net/ipv6/fwmark_reflect",
        };
        // A router passes errors on to the host that they are for.
        if self.mode == Mode::Host { self.paths.iter().map(path).collect() } else { Vec::new() }
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = Route> {
        self.paths.iter().map(|Path { family, via, dev }| {
            let to = match family {
                Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            Route { netns: None, to, prefix: 0, via: *via, dev: dev.clone(), source: None, table: ROUTE_TABLE }
        })
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = Rule> {
        let Self { priority, mark, mask, .. } = *self;
        self.paths.iter().map(move |Path { family, .. }| Rule {
            netns: None,
            family: *family,
            priority,
            fwmark: mark,
            mask,
            udp_source_port: None,
            to: None,
            table: ROUTE_TABLE,
        })
    }
}

/// In the order in which it is applied: sysctls, routes, rules, and last the table that begins to mark.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sysctl in self.sysctls() {
            writeln!(f, "sysctl -w {sysctl}=1")?;
        }
        for route in self.routes() {
            writeln!(f, "{}", route.command("add"))?;
        }
        for rule in self.rules() {
            writeln!(f, "{}", rule.command("add"))?;
        }
        f.write_str(&ruleset::render(self))
    }
}

/// Reads the seed of the assignment.
///
/// # Errors
/// [`Error::Seed`] when the file cannot be read or holds no 32-bit number.
pub fn read_seed(path: &FilePath) -> Result<u32> {
    let wrong = |reason: String| Error::Seed { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let text = text.trim();
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|error| wrong(error.to_string()))
}

fn config(key: &'static str, value: impl ToString, reason: &'static str) -> Error {
    Error::Config { key, value: value.to_string(), reason }
}

fn prefixes(key: &'static str, texts: &[String]) -> Result<Vec<Prefix>> {
    let parse =
        |text: &String| text.parse().map_err(|_| config(key, text, "write a prefix with no bits past its length"));
    texts.iter().map(parse).collect()
}
