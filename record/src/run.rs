//! `run.json`: under what circumstances a run was made.

use std::{collections::BTreeMap, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::{Digest, Labels};

/// The circumstances of a run, written before anything is measured.
///
/// ```
/// # use pathlab_record::Run;
/// # use serde_json::json;
/// let started = "2026-11-21T10:00:00Z".parse()?;
/// let run = Run {
///     options: json!({"target": "192.0.2.1:862", "interval": "10ms", "count": 1000}),
///     labels: [("isp".to_owned(), json!("NTT"))].into(),
///     ..Run::new("probe", started)
/// };
/// # Ok::<(), jiff::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// `pathlab.run/1`.
    pub schema: Schema,
    /// The verb that measured, such as `probe`.
    pub verb: String,
    /// Version of pathlab.
    pub version: String,
    /// When it started (UTC), as the caller's clock said.
    pub started: Timestamp,
    /// Options as resolved: defaults filled in, `auto` replaced by what it picked.
    #[serde(default)]
    pub options: Value,
    /// Facts of the host: kernel, machine, processors, network interface and driver ...
    #[serde(default)]
    pub host: BTreeMap<String, Value>,
    /// State of the clocks: synchronised or not, estimated and maximum error, TAI offset, time zone database ...
    #[serde(default)]
    pub clock: BTreeMap<String, Value>,
    /// Labels that hold for the whole run.
    #[serde(default)]
    pub labels: Labels,
    /// Which sessions have their samples kept.
    #[serde(default)]
    pub keep_samples: KeepSamples,
}

impl Run {
    /// A run of `verb` by this version; the rest is empty, and every sample is kept.
    pub fn new(verb: &str, started: Timestamp) -> Self {
        Self {
            schema: Schema,
            verb: verb.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            options: Value::Null,
            host: BTreeMap::new(),
            clock: BTreeMap::new(),
            labels: Labels::new(),
            keep_samples: KeepSamples::All,
        }
    }
}

/// The schema of `run.json`: the text `pathlab.run/1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schema;

impl Schema {
    const NAME: &'static str = "pathlab.run/1";
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::NAME)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)? {
            name if name == Self::NAME => Ok(Self),
            other => Err(de::Error::custom(format_args!("schema {other:?}, expected {:?}", Self::NAME))),
        }
    }
}

/// Which sessions have their raw samples kept: always whole sessions, chosen by the SHA-256 of the pseudonym, so that neither the
/// order of arrival nor the outcome has a say. Histograms and session bins are complete whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepSamples {
    /// Every session.
    #[default]
    All,
    /// The so many sessions whose hash is lowest.
    Sessions(usize),
    /// The sessions whose hash lies in the lowest so many parts of one (0 to 1).
    Share(f64),
}

impl KeepSamples {
    /// The first 64 bits of the SHA-256 of a session's name: what is compared.
    pub(crate) fn rank(session: &str) -> u64 {
        let digest = Digest::of(session.as_bytes());
        digest.as_bytes()[..8].iter().fold(0, |rank, byte| rank << 8 | u64::from(*byte))
    }

    /// Whether a share keeps a session of this rank.
    pub(crate) fn in_share(share: f64, rank: u64) -> bool {
        (rank as f64) < share * 2.0_f64.powi(64)
    }
}

impl FromStr for KeepSamples {
    type Err = String;

    /// `all`, a number of sessions such as `1000`, or a share such as `15%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not \"all\", a number of sessions, or a share such as 15%");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Share(percent / 100.0)),
                _ => Err(wrong()),
            },
            None if text == "all" => Ok(Self::All),
            None => text.parse().map(Self::Sessions).map_err(|_| wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_it_is_and_what_was_kept() {
        let run = Run { keep_samples: KeepSamples::Share(0.15), ..Run::new("probe", Timestamp::UNIX_EPOCH) };
        let text = serde_json::to_string(&run).unwrap();
        assert!(text.starts_with(r#"{"schema":"pathlab.run/1","verb":"probe""#), "{text}");
        assert!(text.ends_with(r#""keep_samples":{"share":0.15}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
        let error = serde_json::from_str::<Run>(&text.replace("run/1", "run/2")).unwrap_err().to_string();
        assert!(error.contains("pathlab.run/2"), "{error}");
    }

    #[test]
    fn policies_as_typed() {
        assert_eq!("all".parse(), Ok(KeepSamples::All));
        assert_eq!("1000".parse(), Ok(KeepSamples::Sessions(1000)));
        assert_eq!("25%".parse(), Ok(KeepSamples::Share(0.25)));
        for wrong in ["", "-1", "101%", "NaN%", "some"] {
            wrong.parse::<KeepSamples>().unwrap_err();
        }
    }

    #[test]
    fn a_share_keeps_about_its_share_and_its_ends_are_exact() {
        let kept =
            |share| (0..10_000).filter(|n| KeepSamples::in_share(share, KeepSamples::rank(&n.to_string()))).count();
        assert_eq!((kept(0.0), kept(1.0)), (0, 10_000));
        let tenth = kept(0.1);
        assert!((900..1100).contains(&tenth), "{tenth}"); // fixed input: always the same number
    }
}
