//! The way back as replies tell that ended on it: how long it is, who is met at each hop from the reflector, what changed.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{Change, tracer::AHEAD};

/// The way back of one flow, hops counted from the reflector.
#[derive(Clone, Debug, Default)]
pub struct WayBack {
    /// Hops to this host, itself included; absent as long as no reply with a Hop Limit that was asked for has come through.
    pub distance: Option<u8>,
    /// Changes in order of time.
    pub changes: Vec<Change>,
    /// The reflector does not take part.
    pub refused: bool,
    highest: u8,
    at_hop: BTreeMap<u8, IpAddr>,
}

impl WayBack {
    /// How many hops to ask for.
    pub(crate) fn asks(&self) -> u8 {
        match self.distance {
            _ if self.refused => 0,
            Some(distance) => distance - 1,
            None => self.highest.saturating_add(AHEAD),
        }
    }

    /// A reply with this Hop Limit, at least 1, has come through.
    pub(crate) fn through(&mut self, hop_limit: u8) {
        self.distance = Some(self.distance.map_or(hop_limit, |known| known.min(hop_limit)));
    }

    /// A reply with this Hop Limit ended at a router.
    pub(crate) fn met(&mut self, hop: u8, from: IpAddr, number: u32, at: Duration) {
        self.highest = self.highest.max(hop);
        let before = self.at_hop.insert(hop, from);
        if before.is_some_and(|before| before != from) {
            self.changes.push(Change { at, number, hop: Some(hop), before, after: Some(from) });
        }
        if self.distance.is_some_and(|distance| distance <= hop) {
            // It has become longer than it was: how long is open again.
            self.distance = None;
            self.changes.push(Change { at, number, hop: None, before: None, after: None });
        }
    }
}
