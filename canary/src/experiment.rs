//! `canary.toml`: one experiment, from the share of sessions to the numbers that end it.
//!
//! Unknown keys are refused by name and line. Durations are written `500ms`, shares `15%`, bit masks `0x00ff0000`.

use std::{fmt, net::IpAddr, path::PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize, de};

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
    pub lease: SignedDuration,
    /// The bits of the fwmark that are ours.
    pub mark_mask: Mask,
    /// Priority of our `ip rule`.
    pub priority: u32,
    /// More canary sessions than this halt the experiment.
    #[serde(default = "default_max_canary_sessions")]
    pub max_canary_sessions: u32,
    /// UDP source port of the server whose replies are steered; all UDP when absent.
    #[serde(default)]
    pub server_port: Option<u16>,
    /// Client prefixes that take part; empty means all.
    #[serde(default)]
    pub include: Vec<String>,
    /// Client prefixes that never take part.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// The alternate path.
    pub canary: Paths,
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
    pub bin: SignedDuration,
    /// Civil dates left out, each of them named in the verdict.
    #[serde(default)]
    pub holidays: Vec<jiff::civil::Date>,
}

/// `[policy]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The metric that decides, such as `rtt.p95`.
    pub metric: String,
    /// How much worse a stratum may be and still count as not inferior.
    pub margin: SignedDuration,
    /// The cohort in which an improvement is claimed.
    pub target: Target,
    /// Metrics that may not get worse.
    #[serde(default)]
    pub guardrails: Vec<String>,
    /// Fewest canary sessions in a stratum and evening.
    #[serde(default = "default_min_sessions")]
    pub min_sessions: u32,
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
    pub rtt_p95: SignedDuration,
    /// Upper limit of p95 IPDV.
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
