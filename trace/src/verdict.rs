//! What may be said of a flow: no loss, this link, or too little to say.

use std::net::IpAddr;

use serde::Serialize;

use crate::blame::{Blame, Count};

/// Fewer packets to the destination than this say nothing.
pub const LEAST: u64 = 20;

/// How sure a verdict has to be, that there is loss and where.
const SURE: f64 = 0.95;

/// A hop by its place and the address that most of its answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Hops from this host, which is 0 itself.
    pub hop: u8,
    /// Absent where it never answered.
    pub address: Option<IpAddr>,
}

/// In which direction packets are lost, by a stateful reflector's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// On the way there.
    Forward,
    /// On the way back.
    Return,
    /// On both.
    Both,
    /// Nobody counted.
    Unknown,
}

/// What is said of one flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    /// No loss at the destination.
    None,
    /// Loss that persists to the destination begins between these two.
    Culprit {
        /// The last hop before it.
        from: End,
        /// The first hop behind it; next to `from` unless the hops between them say nothing.
        to: End,
        /// The direction.
        direction: Direction,
        /// Probability of that stretch among all.
        confidence: f64,
    },
    /// Nothing comes back from beyond this hop: dropped, or nobody there answers.
    BlackHole {
        /// The last hop that answers.
        after: End,
    },
    /// It cannot be said; why.
    Insufficient {
        /// What is lacking.
        why: String,
    },
}

impl Verdict {
    /// The blamed link by its hops.
    pub fn link(&self) -> Option<(u8, u8)> {
        match self {
            Self::Culprit { from, to, .. } => Some((from.hop, to.hop)),
            _ => None,
        }
    }
}

/// What [`judge`] looks at.
pub(crate) struct Seen<'a> {
    /// Who answers at each hop, the destination last.
    pub(crate) addresses: &'a [Option<IpAddr>],
    /// Whether a hop's answers tell what reaches it: it answers, and not seldom.
    pub(crate) telling: &'a [bool],
    pub(crate) blame: &'a Blame,
    pub(crate) destination: Count,
    pub(crate) direction: Direction,
    /// The path changed too often for one verdict.
    pub(crate) unstable: bool,
    /// This host's own link does not take packets of that length.
    pub(crate) too_long: bool,
}

pub(crate) fn judge(seen: &Seen<'_>) -> Verdict {
    let Seen { addresses, blame, destination, .. } = seen;
    let end = |hop: usize| End {
        hop: hop as u8,
        address: hop.checked_sub(1).and_then(|at| addresses.get(at).copied().flatten()),
    };
    if destination.sent < LEAST && seen.too_long {
        let why = "this host sends no packets of that length: they are longer than its own link takes";
        return Verdict::Insufficient { why: why.into() };
    }
    if destination.sent < LEAST {
        let why = format!("{} packets to the destination, of at least {LEAST}", destination.sent);
        return Verdict::Insufficient { why };
    }
    if seen.unstable {
        return Verdict::Insufficient { why: "the path changes too often to be one path".into() };
    }
    if destination.answered == 0 {
        let last = addresses.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        return Verdict::BlackHole { after: end(last) };
    }
    let lost = destination.sent - destination.answered;
    if blame.none > 1.0 - SURE {
        if lost == 0 || blame.none > SURE {
            return Verdict::None;
        }
        let why = format!(
            "{lost} of {} packets lost may be chance: probability {:.2} that no link loses",
            destination.sent, blame.none
        );
        return Verdict::Insufficient { why };
    }
    let mut links: Vec<usize> = (0..blame.first.len()).collect();
    links.sort_by(|a, b| blame.first[*b].total_cmp(&blame.first[*a]));
    let (mut low, mut high, mut sure) = (usize::MAX, 0, 0.0);
    for link in links {
        (low, high, sure) = (low.min(link), high.max(link), sure + blame.first[link]);
        if sure >= SURE {
            break;
        }
    }
    let confidence = blame.first[low..=high].iter().sum::<f64>();
    // Hops that say nothing may lie within the stretch; one that tells means that there are too few samples.
    if seen.telling[low..high].contains(&true) || high > low && high - low + 1 == blame.first.len() {
        let why =
            format!("packets are lost somewhere between hop {low} and hop {}; more rounds would tell where", high + 1);
        return Verdict::Insufficient { why };
    }
    Verdict::Culprit { from: end(low), to: end(high + 1), direction: seen.direction, confidence }
}
