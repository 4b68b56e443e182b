//! What can be compared between two arms, by the names that stand in `canary.toml`.

use std::{fmt, str::FromStr};

use pathlab_stats::Level;
use serde::{Deserialize, Serialize, de};

/// A metric. Larger is worse for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// A quantile in which every session weighs the same, written `rtt.p95`.
    Quantile {
        /// Of what.
        series: Series,
        /// Which.
        level: Level,
    },
    /// Share of packets lost, written `loss`: the mean of the sessions' shares.
    Loss,
    /// Share of sessions in the far tail, the dead ones among them, written `tail_sessions`.
    TailSessions,
    /// Complaints or tickets for each session, written `complaints`.
    Complaints,
}

/// A latency of which quantiles are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Series {
    /// Round-trip time.
    Rtt,
    /// IPDV (RFC 3393) of the round trip, written `ipdv`.
    Ipdv,
    /// IPDV from probe to reflector, or from client to server.
    IpdvForward,
    /// IPDV from reflector to probe, or from server to client: the direction that steering changes.
    IpdvReturn,
}

impl Series {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Rtt, Self::Ipdv, Self::IpdvForward, Self::IpdvReturn];

    fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Ipdv => "ipdv",
            Self::IpdvForward => "ipdv_forward",
            Self::IpdvReturn => "ipdv_return",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantile { series, level } => write!(f, "{}.{level}", series.name()),
            Self::Loss => f.write_str("loss"),
            Self::TailSessions => f.write_str("tail_sessions"),
            Self::Complaints => f.write_str("complaints"),
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quantile = || {
            let (series, level) = text.split_once(".p")?;
            let series = Series::ALL.into_iter().find(|known| known.name() == series)?;
            let level = Level::new(level.parse::<f64>().ok()? / 100.0).ok()?;
            Some(Self::Quantile { series, level })
        };
        match text {
            "loss" => Ok(Self::Loss),
            "tail_sessions" => Ok(Self::TailSessions),
            "complaints" => Ok(Self::Complaints),
            _ => quantile().ok_or_else(|| {
                format!(
                    "`{text}` is no metric: write `loss`, `tail_sessions`, `complaints`, or a quantile of `rtt`, `ipdv`, `ipdv_forward` or \
                     `ipdv_return` such as `rtt.p95`"
                )
            }),
        }
    }
}

impl Serialize for Metric {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "rtt.p50",
            "rtt.p99.9",
            "ipdv.p95",
            "ipdv_forward.p99",
            "ipdv_return.p95",
            "loss",
            "tail_sessions",
            "complaints",
        ] {
            assert_eq!(name.parse::<Metric>().unwrap().to_string(), name);
        }
        for wrong in ["", "rtt", "rtt.p100", "rtt.p0", "rtt.pp95", "jitter.p95", "Loss"] {
            assert!(wrong.parse::<Metric>().is_err(), "{wrong}");
        }
    }
}
