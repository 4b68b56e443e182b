//! `case.toml`: what a person knows of a case and no instrument measures (who, what, when, where, why, how), what would be good, and what is asked for.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::exit::Misuse;

/// A case as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) who: Option<String>,
    pub(crate) what: Option<String>,
    pub(crate) when: Option<String>,
    #[serde(rename = "where")]
    pub(crate) place: Option<String>,
    pub(crate) why: Option<String>,
    pub(crate) how: Option<String>,
    /// What the provider is asked for.
    #[serde(default)]
    pub(crate) requests: Vec<String>,
    #[serde(default)]
    pub(crate) targets: Targets,
    /// What people found out by other means.
    #[serde(default)]
    pub(crate) stated: Vec<Stated>,
}

/// What would be good.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Targets {
    #[serde(default, deserialize_with = "span")]
    pub(crate) rtt_p95: Option<Duration>,
    /// Share from 0 to 1.
    #[serde(default, deserialize_with = "share")]
    pub(crate) loss: Option<f64>,
}

/// A fact that somebody states.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stated {
    pub(crate) bone: Bone,
    #[serde(rename = "for")]
    pub(crate) speaks_for: Option<String>,
    pub(crate) against: Option<String>,
    /// Who says so.
    pub(crate) by: String,
}

/// A bone of the fishbone diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bone {
    Network,
    Host,
    Capacity,
    Application,
    Dns,
    Change,
    Ddos,
}

impl Bone {
    pub(crate) const ALL: [Self; 7] =
        [Self::Network, Self::Host, Self::Capacity, Self::Application, Self::Dns, Self::Change, Self::Ddos];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Network => "Network and peering",
            Self::Host => "Host, kernel, NIC",
            Self::Capacity => "Capacity and matchmaking",
            Self::Application => "Application and tick",
            Self::Dns => "DNS, geo, policy",
            Self::Change => "Change and configuration",
            Self::Ddos => "DDoS and security",
        }
    }
}

impl Case {
    /// Reads the file; what is wrong with it is the user's to mend.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|error| Misuse(format!("{}: cannot be read: {error}", path.display())))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Misuse(format!("{}, line {line}: {}", path.display(), error.message())).into()
        })
    }
}

fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    crate::duration::parse(&text).map(Some).map_err(D::Error::custom)
}

fn share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let text = String::deserialize(from)?;
    let share = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
    match share.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Ok(Some(percent / 100.0)),
        None => Err(D::Error::custom(format!("{text:?} is no share: write such as \"0.5%\""))),
    }
}
