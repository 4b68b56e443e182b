//! ISP by address family by window: what is compared with what.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use pathlab_record::{Arm, SessionKey};
use serde::{Deserialize, Serialize};

use crate::{
    Experiment, KeyFrom, Share, Window,
    ingest::{Ingested, Seen, Session},
};

/// The ISP of whom neither a label nor a table of networks places.
pub const UNKNOWN: &str = "unknown";

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// ISP and address family; with a window it is a stratum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// Label `isp`, or `AS` and the label `asn`.
    pub isp: String,
    /// Address family.
    pub family: Family,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.isp, self.family)
    }
}

/// What a session is resampled and assigned together with: all sessions of its client where the key is the client's address, otherwise itself alone.
pub(crate) fn whole_of<'a>(experiment: &Experiment, session: &'a Session) -> Cow<'a, str> {
    match (experiment.key.from, session.key) {
        (KeyFrom::ClientAddr, Some(SessionKey(client))) => Cow::Owned(client.ip().to_canonical().to_string()),
        _ => Cow::Borrowed(&session.name),
    }
}

/// Share of sessions on the canary when a session came, 0 to 1.
pub(crate) fn share_of(experiment: &Experiment, session: &Session) -> f64 {
    let told = session.windows.0.iter().find_map(|(_, seen)| seen.share);
    told.map_or(experiment.experiment.share.fraction(), |buckets| f64::from(buckets) / f64::from(Share::BUCKETS))
}

/// What is assigned to an arm and resampled as a whole: a session, or all sessions of a client where the key is the client's address.
#[derive(Clone, Debug)]
pub(crate) struct Unit<'a> {
    pub(crate) key: Option<SessionKey>,
    pub(crate) canary: bool,
    /// Share of sessions on the canary when it came, 0 to 1.
    pub(crate) share: f64,
    pub(crate) sessions: Vec<&'a Session>,
}

impl<'a> Unit<'a> {
    /// What its sessions saw in a window.
    pub(crate) fn seen(&self, window: Window) -> impl Iterator<Item = &'a Seen> {
        self.sessions.iter().filter_map(move |session| session.windows.get(&window))
    }
}

/// All units, numbered cell by cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Population<'a> {
    pub(crate) cells: Vec<Cell>,
    /// Units of cell `c` are `units[offsets[c]..offsets[c + 1]]`.
    pub(crate) offsets: Vec<usize>,
    pub(crate) units: Vec<Unit<'a>>,
    /// Sessions without an arm and without a key to compute it from.
    pub(crate) without_arm: u64,
    /// Sessions on another arm than seed and key say, out of those for which that can be said.
    pub(crate) misassigned: u64,
    pub(crate) assignable: u64,
}

impl<'a> Population<'a> {
    /// Puts the sessions into cells and units; `canary` is the assignment by seed.
    pub(crate) fn new(
        experiment: &Experiment,
        ingested: &'a Ingested,
        canary: impl Fn(&SessionKey, f64) -> Option<bool>,
    ) -> Self {
        let mut population = Self::default();
        let mut cells: BTreeMap<&Cell, BTreeMap<Cow<'a, str>, Unit<'a>>> = BTreeMap::new();
        for session in &ingested.sessions {
            if session.windows.is_empty() {
                continue;
            }
            let share = share_of(experiment, session);
            let computed = session.key.as_ref().and_then(|key| canary(key, share));
            let stated = session.arm.map(|arm| arm == Arm::Canary);
            if let (Some(computed), Some(stated)) = (computed, stated) {
                population.assignable += 1;
                population.misassigned += u64::from(computed != stated);
            }
            let Some(canary) = stated.or(computed) else {
                population.without_arm += 1;
                continue;
            };
            // The arm is part of the name, so that a client with sessions on both arms is two units, not a wrong one.
            let name = match whole_of(experiment, session) {
                Cow::Owned(client) => Cow::Owned(format!("{client} {canary}")),
                own => own,
            };
            let units = cells.entry(&ingested.cells[usize::from(session.cell)]).or_default();
            let unit =
                units.entry(name).or_insert_with(|| Unit { key: session.key, canary, share, sessions: Vec::new() });
            unit.sessions.push(session);
        }
        for (cell, units) in cells {
            population.cells.push(cell.clone());
            population.offsets.push(population.units.len());
            population.units.extend(units.into_values());
        }
        population.offsets.push(population.units.len());
        population
    }

    /// The numbers of a cell's units.
    pub(crate) fn range(&self, cell: usize) -> std::ops::Range<usize> {
        self.offsets[cell]..self.offsets[cell + 1]
    }

    /// Sessions of a cell seen in a window: control, canary.
    pub(crate) fn sessions(&self, cell: usize, window: Window) -> [u64; 2] {
        let mut sessions = [0; 2];
        for unit in &self.units[self.range(cell)] {
            sessions[usize::from(unit.canary)] += unit.seen(window).count() as u64;
        }
        sessions
    }

    /// The windows that any session was seen in, in order.
    pub(crate) fn windows(&self) -> Vec<Window> {
        let sessions = self.units.iter().flat_map(|unit| &unit.sessions);
        let windows = sessions.flat_map(|session| session.windows.keys().copied());
        windows.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }
}
