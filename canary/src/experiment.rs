//! `canary.toml`: one experiment, from the share of sessions to the numbers that end it.
//!
//! Unknown keys are refused by name and line. Durations are written `500ms`, shares `15%`, bit masks `0x00ff0000`.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf};

use jiff::{SignedDuration, fmt::serde::duration::friendly::compact};
use pathlab_record::Prefix;
use pathlab_stats::Level;
use serde::{Deserialize, Serialize, de};

use crate::{Error, Metric, passive::Passive, window::Evenings};

/// A whole `canary.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name, seed and share.
    pub experiment: Identity,
    /// What identifies a session.
    #[serde(default)]
    pub key: Key,
    /// How and where canary sessions are sent.
    pub steer: Steer,
    /// What the game's own packets tell, for `canary measure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
    /// Which instants count, and as what.
    pub windows: Windows,
    /// What decides.
    pub policy: Policy,
    /// Absolute targets of the runbook, where there are any.
    #[serde(default)]
    pub acceptance: Option<Acceptance>,
}

/// `[experiment]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Name, used in tags and reports.
    pub name: String,
    /// File that holds the 32-bit seed of the assignment, as decimal or `0x` hexadecimal text.
    pub seed_file: PathBuf,
    /// Share of sessions on the canary arm.
    pub share: Share,
    /// The share that no ramp may exceed.
    pub cap_share: Share,
    /// When the seed is told to those who read the record of the experiment.
    #[serde(default)]
    pub disclose_seed: Disclose,
}

/// When the seed is told. The host's own root can always read it, in the seed file and in the packet filter's rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disclose {
    /// From the start.
    #[default]
    Always,
    /// When the experiment ends: until then nobody can pick sessions by their arm.
    AtEnd,
}

impl Identity {
    /// Whether nothing that is shown or written while it runs may hold the seed.
    pub fn seed_is_hidden(&self) -> bool {
        self.disclose_seed == Disclose::AtEnd
    }
}

/// `[key]`: what identifies a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Which bytes are hashed.
    pub from: KeyFrom,
    /// For `payload`: first byte after the UDP header.
    #[serde(default)]
    pub offset: Option<u16>,
    /// For `payload`: number of bytes.
    #[serde(default)]
    pub length: Option<u16>,
}

/// Which bytes of a packet make the session key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFrom {
    /// Client address and UDP port.
    #[default]
    ClientAddrPort,
    /// Client address alone.
    ClientAddr,
    /// A field of the UDP payload.
    Payload,
}

/// `[steer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steer {
    /// Whose packets are steered.
    pub mode: Mode,
    /// How long steering outlives a controller that hangs.
    #[serde(serialize_with = "compact::required")]
    pub lease: SignedDuration,
    /// The bits of the fwmark that are ours.
    pub mark_mask: Mask,
    /// Priority of our `ip rule`.
    pub priority: u32,
    /// More canary sessions than this halt the experiment.
    #[serde(default = "default_max_canary_sessions")]
    pub max_canary_sessions: u32,
    /// More packets of the canary arm in a second than this halt the experiment.
    #[serde(default)]
    pub max_canary_pps: Option<u32>,
    /// UDP source port of the server whose replies are steered; all UDP when absent.
    #[serde(default)]
    pub server_port: Option<u16>,
    /// Client prefixes that take part; empty means all.
    #[serde(default)]
    pub include: Vec<String>,
    /// Client prefixes that never take part.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Length in bytes of the longest IP packet that the server sends, where the canary path carries less than the
    /// control path, as a tunnel does.
    #[serde(default)]
    pub largest_packet: Option<u16>,
    /// Prefixes that the canary path's provider accepts as sources beside its own addresses.
    #[serde(default)]
    pub accepted_sources: Vec<String>,
    /// The alternate path.
    pub canary: Paths,
}

impl Experiment {
    /// Reads a `canary.toml` whose name `file` stands in messages.
    ///
    /// # Errors
    /// What is wrong, with file and line: broken TOML, an unknown key, a value of the wrong kind or out of range.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, Error> {
        let experiment: Self = toml::from_str(text).map_err(|error| Error::Toml {
            file: file.to_owned(),
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            why: error.message().trim_end().replace('\n', ", "),
        })?;
        experiment.check().map_err(|why| Error::Experiment { file: file.to_owned(), why })?;
        Ok(experiment)
    }

    /// What is out of range, as a sentence that names the key; values of the wrong kind never get this far.
    fn check(&self) -> Result<(), String> {
        let Identity { name, share, cap_share, .. } = &self.experiment;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(format!("experiment.name {name:?}: write 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        if share.buckets() == 0 || share > cap_share {
            return Err(format!(
                "experiment.share {share} must be above 0% and at most experiment.cap_share {cap_share}"
            ));
        }
        match (self.key.from, self.key.offset, self.key.length) {
            (KeyFrom::Payload, Some(_), Some(1..=32)) | (KeyFrom::ClientAddr | KeyFrom::ClientAddrPort, None, None) => {
            }
            (KeyFrom::Payload, ..) => {
                return Err("key.from \"payload\" needs key.offset and a key.length of 1 to 32 bytes".into());
            }
            _ => return Err("key.offset and key.length belong to key.from \"payload\" alone: remove them".into()),
        }
        self.steer.check()?;
        if let Some(passive) = &self.passive {
            passive.check()?;
        }
        self.windows.check()?;
        let (looks, evenings) = (&self.policy.looks, self.windows.evenings);
        let ascend = looks.is_sorted_by(|a, b| a < b) && looks.first() != Some(&0);
        let sound = ascend && looks.last() == Some(&evenings);
        if !looks.is_empty() && !sound {
            return Err(format!(
                "policy.looks {looks:?}: write ascending numbers of evenings, the last one {evenings}"
            ));
        }
        self.policy.check()
    }
}

impl Steer {
    fn check(&self) -> Result<(), String> {
        let Self { lease, priority, server_port, canary, .. } = self;
        if !(SignedDuration::from_millis(100)..=SignedDuration::from_secs(60)).contains(lease) {
            return Err(format!("steer.lease {lease:#} is outside 100ms to 60s"));
        }
        if !(1..=32_765).contains(priority) {
            return Err(format!(
                "steer.priority {priority} is outside 1 to 32765, where rules of the main table begin"
            ));
        }
        if *server_port == Some(0) {
            return Err("steer.server_port 0 is no port: leave it out to steer all UDP".into());
        }
        let lists = [&self.include, &self.exclude, &self.accepted_sources];
        let prefixes = ["include", "exclude", "accepted_sources"].into_iter().zip(lists);
        for (list, prefix) in prefixes.flat_map(|(list, all)| all.iter().map(move |prefix| (list, prefix))) {
            prefix.parse::<Prefix>().map_err(|wrong| format!("steer.{list}: {wrong}"))?;
        }
        if canary.v4.is_none() && canary.v6.is_none() {
            return Err("steer.canary has neither v4 nor v6: name the alternate path of at least one family".into());
        }
        let via = |hop: &Option<Hop>| hop.as_ref().and_then(|hop| hop.via);
        if via(&canary.v4).is_some_and(|via| via.is_ipv6()) || via(&canary.v6).is_some_and(|via| via.is_ipv4()) {
            return Err("steer.canary: a gateway is of the other address family than its key".into());
        }
        Ok(())
    }
}

impl Windows {
    fn check(&self) -> Result<(), String> {
        Evenings::new(self)?;
        if !(1..=60).contains(&self.evenings) {
            return Err(format!("windows.evenings {} is outside 1 to 60", self.evenings));
        }
        if !(SignedDuration::from_mins(5)..=SignedDuration::from_mins(30)).contains(&self.bin) {
            return Err(format!("windows.bin {:#} is outside 5min to 30min", self.bin));
        }
        Ok(())
    }
}

impl Policy {
    fn check(&self) -> Result<(), String> {
        if !matches!(self.metric, Metric::Quantile { .. }) {
            return Err(format!(
                "policy.metric {} is no quantile: write such as \"rtt.p95\", and {0} as a guardrail",
                self.metric
            ));
        }
        if self.margin <= SignedDuration::ZERO {
            let sign = if self.margin.is_negative() { "-" } else { "" };
            return Err(format!("policy.margin {sign}{:#} must be above zero", self.margin.abs()));
        }
        if self.guardrails.contains(&self.metric) {
            return Err(format!("policy.guardrails repeats policy.metric {}: remove it there", self.metric));
        }
        for (metric, margin) in &self.margins {
            let fits = matches!(
                (metric, margin),
                (Metric::Quantile { .. }, Margin::Time(_))
                    | (Metric::Loss | Metric::TailSessions | Metric::Complaints, Margin::Share(_))
            );
            if !fits || self.margin_of(*metric) <= 0.0 || *metric == self.metric || !self.guardrails.contains(metric) {
                return Err(format!(
                    "policy.margins {metric}: write a duration above zero for a latency, a share above 0% for a rate, for a metric of policy.guardrails"
                ));
            }
        }
        if self.min_sessions == 0 {
            return Err("policy.min_sessions 0 would judge on nothing: write at least 1, or leave it out for 72".into());
        }
        if !(2_000..=100_000).contains(&self.replicates) {
            return Err(format!("policy.replicates {} is outside 2000 to 100000", self.replicates));
        }
        Ok(())
    }
}

fn default_max_canary_sessions() -> u32 {
    20_000
}

/// Whose packets are steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// This host's own replies.
    Host,
    /// Packets that this host forwards.
    Router,
}

/// `[steer.canary]`: the alternate path, by address family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// For IPv4.
    #[serde(default)]
    pub v4: Option<Hop>,
    /// For IPv6.
    #[serde(default)]
    pub v6: Option<Hop>,
}

/// A gateway, a device, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// Gateway.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Device.
    pub dev: String,
}

/// `[windows]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// Local time of day, half-open, such as `19:00-24:00`.
    pub evening: String,
    /// IANA time zone.
    pub zone: String,
    /// Evenings that must agree.
    pub evenings: u32,
    /// Width of a bin.
    #[serde(serialize_with = "compact::required")]
    pub bin: SignedDuration,
    /// Civil dates left out, each of them named in the verdict.
    #[serde(default)]
    pub holidays: Vec<jiff::civil::Date>,
}

/// `[policy]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The metric that decides, such as `rtt.p95`: a quantile.
    pub metric: Metric,
    /// How much worse a stratum may be and still count as not inferior.
    #[serde(serialize_with = "compact::required")]
    pub margin: SignedDuration,
    /// The cohort in which an improvement is claimed.
    pub target: Target,
    /// Metrics that may not get worse.
    #[serde(default)]
    pub guardrails: Vec<Metric>,
    /// How much worse a guardrail may be, such as `loss = "0.5%"`, where [`Policy::margin_of`] shall not be the default.
    #[serde(default)]
    pub margins: BTreeMap<Metric, Margin>,
    /// Fewest canary sessions in a stratum and evening.
    #[serde(default = "default_min_sessions")]
    pub min_sessions: u32,
    /// Numbers of evenings after which a promotion may be decided, ascending, the last of them `windows.evenings`; only that one when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looks: Vec<u32>,
    /// Bootstrap replicates, and as many re-drawn assignments.
    #[serde(default = "default_replicates")]
    pub replicates: u32,
}

impl Policy {
    /// The looks for promotion out of so many evenings.
    pub(crate) fn looks(&self, evenings: u32) -> Vec<u32> {
        if self.looks.is_empty() { vec![evenings] } else { self.looks.clone() }
    }

    /// By how much the canary may be worse in `metric`, in nanoseconds or as a share from 0 to 1.
    ///
    /// By default the policy's margin for latencies, twice as much beyond p95 (where the same number of sessions says less), half a percentage
    /// point of loss or of complaints for each session, and two percentage points of sessions in the far tail.
    pub fn margin_of(&self, metric: Metric) -> f64 {
        let nanoseconds = |duration: SignedDuration| duration.as_nanos() as f64;
        match (self.margins.get(&metric), metric) {
            (Some(Margin::Time(duration)), _) => nanoseconds(*duration),
            (Some(Margin::Share(share)), _) => share.fraction(),
            (None, Metric::Quantile { level, .. }) if level > Level::P95 && metric != self.metric => {
                2.0 * nanoseconds(self.margin)
            }
            (None, Metric::Quantile { .. }) => nanoseconds(self.margin),
            (None, Metric::Loss | Metric::Complaints) => 0.005,
            (None, Metric::TailSessions) => 0.02,
        }
    }
}

/// How much worse a guardrail may be: a duration for a latency, a share for a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// Of a latency.
    Time(SignedDuration),
    /// Of a rate, in percentage points.
    Share(Share),
}

impl Serialize for Margin {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Time(duration) => to.collect_str(&format_args!("{duration:#}")),
            Self::Share(share) => share.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Margin {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.ends_with('%') {
            return text.parse().map(Self::Share).map_err(de::Error::custom);
        }
        text.parse().map(Self::Time).map_err(|_| {
            de::Error::custom(format!(
                "`{text}` is no margin: write a duration such as `2ms` or a share such as `0.5%`"
            ))
        })
    }
}

fn default_replicates() -> u32 {
    2_000
}

fn default_min_sessions() -> u32 {
    // No distribution-free 97.5 % upper limit of p95 exists before n = 72: 0.95^n <= 0.025.
    72
}

/// `[policy] target`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Labels `isp` of the target cohort; empty means every one.
    #[serde(default)]
    pub isp: Vec<String>,
}

/// `[acceptance]`: the runbook's definition of done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// Upper limit of p95 round-trip time.
    #[serde(serialize_with = "compact::required")]
    pub rtt_p95: SignedDuration,
    /// Upper limit of p95 IPDV.
    #[serde(serialize_with = "compact::required")]
    pub ipdv_p95: SignedDuration,
    /// Upper limit of loss.
    pub loss: Share,
}

/// A share in hundredths of a percent, 0 to 10,000: the number of buckets it takes. Written `15%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u16);

impl Share {
    /// All buckets.
    pub const BUCKETS: u16 = 10_000;

    /// A share of `buckets` out of [`Share::BUCKETS`]; `None` above the whole.
    pub fn from_buckets(buckets: u16) -> Option<Self> {
        (buckets <= Self::BUCKETS).then_some(Self(buckets))
    }

    /// How many of the 10,000 buckets it takes.
    pub fn buckets(self) -> u16 {
        self.0
    }

    /// The share as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::BUCKETS)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
    }
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no share: write a percentage from 0% to 100%, such as `15%` or `0.5%`");
        let percent: f64 = text.strip_suffix('%').ok_or_else(wrong)?.trim().parse().map_err(|_| wrong())?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(wrong());
        }
        Ok(Self((percent * 100.0).round() as u16))
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Bits of a fwmark, written `0x00ff0000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask(pub u32);

impl Serialize for Mask {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:#010x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mask {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.strip_prefix("0x")
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .filter(|mask| *mask != 0)
            .map(Self)
            .ok_or_else(|| {
                de::Error::custom(format!(
                    "`{text}` is no mark mask: write non-zero hexadecimal bits, such as `0x00ff0000`"
                ))
            })
    }
}

#[cfg(test)]
pub(crate) mod tests;
