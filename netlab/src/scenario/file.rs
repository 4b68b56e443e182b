//! The file as it is written: its keys, with the places of those values that are checked against one another.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    Congestion, Feature, WindowKind,
    units::{Queue, Rate, Share, Span},
};
use crate::error::{Error, Result};

/// Text with its place in the file.
pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) summary: String,
    pub(super) seed: u64,
    pub(super) tolerance: Option<Span>,
    #[serde(default)]
    pub(super) needs: Vec<Feature>,
    #[serde(default)]
    pub(super) hash_seed: u32,
    #[serde(default)]
    pub(super) node: Vec<Node>,
    #[serde(default)]
    pub(super) link: Vec<Link>,
    #[serde(default)]
    pub(super) isp: Vec<Isp>,
    pub(super) probe: Option<Probe>,
    pub(super) arms: Option<Arms>,
    #[serde(default)]
    pub(super) window: Vec<Window>,
    #[serde(default)]
    pub(super) load: Vec<Load>,
    #[serde(default)]
    pub(super) game: Vec<Game>,
    #[serde(default)]
    pub(super) bulk: Vec<Bulk>,
    #[serde(default)]
    pub(super) fault: Vec<Fault>,
    #[serde(default)]
    pub(super) shift: Vec<Shift>,
    #[serde(default)]
    pub(super) expect: Vec<Expect>,
    #[serde(default)]
    pub(super) variant: BTreeMap<String, Variant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Text,
    #[serde(default)]
    pub(super) addresses: Vec<Text>,
    #[serde(default)]
    pub(super) any_address: Vec<Text>,
    #[serde(default)]
    pub(super) black_hole: Vec<Text>,
    #[serde(default)]
    pub(super) forward: bool,
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) to: Text,
    pub(super) via: Option<Text>,
    pub(super) dev: Option<Text>,
    #[serde(default)]
    pub(super) hops: Vec<Member>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) via: Text,
    pub(super) dev: Text,
    pub(super) weight: Option<Spanned<u8>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    #[serde(default = "ethernet")]
    pub(super) mtu: Spanned<u32>,
    pub(super) ends: [LinkEnd; 2],
}

fn ethernet() -> Spanned<u32> {
    Spanned::new(0..0, 1500)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkEnd {
    pub(super) node: Text,
    pub(super) dev: Text,
    #[serde(default)]
    pub(super) addresses: Vec<Text>,
    pub(super) rate: Option<Spanned<Rate>>,
    pub(super) queue: Option<Spanned<Queue>>,
    pub(super) delay: Option<Span>,
    pub(super) loss: Option<Spanned<Share>>,
    pub(super) burst: Option<Spanned<f64>>,
    pub(super) reorder: Option<Spanned<Share>>,
    pub(super) hold: Option<Spanned<Span>>,
    pub(super) v4: Option<Conditions>,
    pub(super) v6: Option<Conditions>,
    pub(super) ring: Option<Ring>,
}

impl LinkEnd {
    /// What is written for both families.
    pub(super) fn both(&self) -> Conditions {
        let Self { delay, loss, burst, reorder, hold, .. } = self;
        Conditions {
            delay: *delay,
            loss: loss.clone(),
            burst: burst.clone(),
            reorder: reorder.clone(),
            hold: hold.clone(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conditions {
    pub(super) delay: Option<Span>,
    pub(super) loss: Option<Spanned<Share>>,
    pub(super) burst: Option<Spanned<f64>>,
    pub(super) reorder: Option<Spanned<Share>>,
    pub(super) hold: Option<Spanned<Span>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ring {
    pub(super) descriptors: Spanned<u32>,
    pub(super) service: Span,
    pub(super) wake: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Isp {
    pub(super) name: Text,
    pub(super) asn: u32,
    pub(super) prefixes: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub(super) from: Text,
    pub(super) to: Vec<Text>,
    pub(super) port: u16,
    pub(super) client_ports: Spanned<(u16, u16)>,
    pub(super) sessions: Spanned<usize>,
    pub(super) interval: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arms {
    pub(super) node: Text,
    pub(super) control: Hops,
    pub(super) canary: Hops,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hops {
    pub(super) v4: Option<Hop>,
    pub(super) v6: Option<Hop>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hop {
    pub(super) via: Text,
    pub(super) dev: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    pub(super) name: Text,
    #[serde(default)]
    pub(super) kind: WindowKind,
    pub(super) start: Spanned<Span>,
    pub(super) end: Spanned<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    pub(super) node: Text,
    pub(super) to: Text,
    pub(super) payload: Spanned<u16>,
    pub(super) rate: Rate,
    pub(super) wobble: Share,
    pub(super) period: Spanned<Span>,
    pub(super) during: Vec<Text>,
    #[serde(default)]
    pub(super) curve: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Point {
    pub(super) at: Spanned<Span>,
    pub(super) share: Share,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Game {
    pub(super) node: Text,
    pub(super) to: Text,
    pub(super) players: Spanned<u16>,
    pub(super) tick_rate: Spanned<u16>,
    pub(super) snapshot: Spanned<u16>,
    pub(super) keyframe: Option<Keyframe>,
    pub(super) during: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keyframe {
    pub(super) every: Spanned<u32>,
    pub(super) packets: u16,
    pub(super) payload: Spanned<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bulk {
    pub(super) name: Text,
    pub(super) node: Text,
    pub(super) to: Text,
    #[serde(default = "one_flow")]
    pub(super) flows: Spanned<u16>,
    #[serde(default)]
    pub(super) congestion: Congestion,
    pub(super) during: Vec<Text>,
}

fn one_flow() -> Spanned<u16> {
    Spanned::new(0..0, 1)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) name: Text,
    pub(super) at: Text,
    pub(super) family: Option<Spanned<u8>>,
    pub(super) add_delay: Option<Span>,
    pub(super) loss: Option<Spanned<Share>>,
    pub(super) burst: Option<Spanned<f64>>,
    pub(super) reorder: Option<Spanned<Share>>,
    pub(super) hold: Option<Spanned<Span>>,
    #[serde(default)]
    pub(super) down: bool,
    pub(super) during: Vec<Text>,
    pub(super) on: Option<Spanned<Span>>,
    pub(super) off: Option<Spanned<Span>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shift {
    pub(super) name: Text,
    pub(super) node: Text,
    pub(super) to: Text,
    pub(super) via: Text,
    pub(super) dev: Text,
    pub(super) during: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) what: Text,
    pub(super) at: Option<Text>,
    pub(super) bulk: Option<Text>,
    pub(super) window: Option<Text>,
    pub(super) isp: Option<Text>,
    pub(super) family: Option<Spanned<u8>>,
    pub(super) arm: Option<Spanned<Arm>>,
    pub(super) via: Option<Text>,
    pub(super) above: Option<Of>,
    pub(super) at_least: Option<Text>,
    pub(super) at_most: Option<Text>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Of {
    pub(super) window: Option<Text>,
    pub(super) isp: Option<Text>,
    pub(super) family: Option<Spanned<u8>>,
    pub(super) arm: Option<Spanned<Arm>>,
    pub(super) via: Option<Text>,
}

impl Of {
    /// The first key that is written, and its place.
    pub(super) fn first(&self) -> Option<(&'static str, usize)> {
        fn place<T>(key: &'static str, value: &Option<Spanned<T>>) -> Option<(&'static str, usize)> {
            value.as_ref().map(|value| (key, value.span().start))
        }
        let Self { window, isp, family, arm, via } = self;
        let others = [place("isp", isp), place("family", family), place("arm", arm), place("via", via)];
        others.into_iter().flatten().next().or_else(|| place("window", window))
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Arm {
    Control,
    Canary,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    pub(super) summary: String,
    pub(super) load: Option<Vec<Load>>,
    pub(super) game: Option<Vec<Game>>,
    pub(super) bulk: Option<Vec<Bulk>>,
    pub(super) fault: Option<Vec<Fault>>,
    pub(super) shift: Option<Vec<Shift>>,
    pub(super) expect: Option<Vec<Expect>>,
}

/// Parses the file; an error names its line and its key.
pub(super) fn parse(file: &str, text: &str) -> Result<File> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map_or(0, |span| span.start);
        let problem = error.message().lines().next().unwrap_or("cannot be read").to_owned();
        scenario_error(file, text, place, problem)
    })
}

/// A complaint about what stands at byte `place` of `text`.
pub(super) fn scenario_error(file: &str, text: &str, place: usize, problem: String) -> Error {
    let before = text.get(..place).unwrap_or(text);
    let line = before.lines().count().max(1) + usize::from(before.ends_with('\n') && !before.is_empty());
    Error::Scenario { file: file.to_owned(), line, key: key_at(text, place), problem }
}

/// The key whose value stands at `place`: the word before the last `=` at or before it on its line, or the word itself.
fn key_at(text: &str, place: usize) -> String {
    let start = text.get(..place).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let column = place.saturating_sub(start).min(line.len());
    let is_key = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let word = |text: &str| -> String {
        let end = text.trim_end_matches([' ', '"']);
        end.rsplit(|c| !is_key(c)).next().unwrap_or_default().to_owned()
    };
    match line.get(..column).and_then(|before| before.rfind('=').map(|equals| word(&before[..equals]))) {
        Some(key) if !line.get(column..).is_some_and(begins_with_key) => key,
        _ => {
            let rest = line.get(column..).unwrap_or_default().trim_start_matches(['[', ' ', '"']);
            rest.split(|c| !is_key(c)).next().unwrap_or_default().to_owned()
        }
    }
}

/// Whether the text is `key =`, as an unknown key inside an inline table is.
fn begins_with_key(rest: &str) -> bool {
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).unwrap_or(rest.len());
    end > 0 && rest[end..].trim_start().starts_with('=')
}
