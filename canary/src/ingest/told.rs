//! What one line of `sessions.jsonl` tells, as far as it can be said without the lines before it: the part of the reading that is done on
//! all cores.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use pathlab_record::{Arm, AsnTable, Labels, SessionBin, SessionKey, Window};
use serde_json::Value;

use super::{Refused, broken, chunks::Chunk, remark::Remark, session::*};
use crate::{
    Evenings, Place,
    stratum::{Cell, Family, UNKNOWN},
};

/// What decides how a line is understood.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) evenings: Evenings,
    pub(super) zone: String,
    /// By [`Series`](crate::Series): which distributions are kept.
    pub(super) wanted: [bool; 4],
    /// What tells an ISP where no label does.
    pub(super) asns: Option<Arc<AsnTable>>,
}

/// One bin of one session.
#[derive(Debug)]
pub(super) struct Told {
    /// As it is known: its key, or its pseudonym.
    pub(super) name: String,
    /// As the line has it.
    pub(super) session: String,
    pub(super) key: Option<SessionKey>,
    pub(super) cell: Cell,
    pub(super) arm: Option<Arm>,
    pub(super) arm_seen: Option<Arm>,
    pub(super) window: Window,
    /// The end of the bin, where the clock and not a label placed it.
    pub(super) until: Option<Timestamp>,
    pub(super) source: String,
    pub(super) other_zone: bool,
    /// The ISP is in no label and not in the table.
    pub(super) unknown_isp: bool,
    pub(super) bin: Bin,
    pub(super) seen: Seen,
}

/// A chunk of lines, read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// All of them, blank ones too.
    pub(super) number: u64,
    /// Number within the chunk, and what came of it; blank lines are left out.
    pub(super) told: Vec<(u64, Result<Told, Refused>)>,
}

impl Reading {
    /// Reads a chunk of `sessions.jsonl`.
    pub(super) fn chunk(&self, chunk: &Chunk) -> Lines {
        let mut lines = Lines { number: u64::from(chunk.too_long), told: Vec::new() };
        if chunk.too_long {
            lines.told.push((1, Err(too_long())));
        }
        for (line, ended) in chunk.lines() {
            lines.number += 1;
            if !line.is_empty() {
                lines.told.push((lines.number, self.line(line).map_err(|refused| refused.cut_off(!ended))));
            }
        }
        lines
    }

    /// Reads a line of it.
    pub(super) fn line(&self, line: &[u8]) -> Result<Told, Refused> {
        let bin = serde_json::from_slice(line).map_err(|error| broken(Some(error)))?;
        self.bin(bin, true)
    }

    /// The same of a bin that is decoded. Packets that are not `counted` came in another line.
    pub(super) fn bin(&self, mut bin: SessionBin, counted: bool) -> Result<Told, Refused> {
        if let Err(error) = bin.check() {
            return Err(Refused { remark: Remark::Contradicts, what: error.to_string() });
        }
        if !counted || bin.loss_unmeasured {
            (bin.sent, bin.received) = (0, 0);
        }
        let (cell, unknown_isp) = cell_of(&bin.labels, bin.key, self.asns.as_deref())?;
        let window = window(self.evenings.place(&bin), bin.start)?;
        let until = bin.window().is_none().then_some(bin.end);
        let name = bin.key.map_or_else(|| bin.session.clone(), |key| key.to_string());
        let kept = Bin::of(&bin);
        let mut series = [bin.rtt, bin.ipdv_round_trip, bin.ipdv_forward, bin.ipdv_return];
        for (series, _) in series.iter_mut().zip(self.wanted).filter(|(_, wanted)| !wanted) {
            *series = None;
        }
        let seen = Seen {
            sent: bin.sent,
            lost: bin.lost,
            episodes: bin.loss_episodes.unwrap_or(0),
            dead: bin.dead,
            share: share_of(&bin.labels),
            series: series.map(Option::unwrap_or_default),
        };
        Ok(Told {
            name,
            session: bin.session,
            key: bin.key,
            cell,
            arm: bin.arm_assigned,
            arm_seen: bin.arm_seen,
            window,
            until,
            source: bin.source,
            other_zone: bin.zone != self.zone,
            unknown_isp,
            bin: kept,
            seen,
        })
    }
}

pub(super) fn too_long() -> Refused {
    Refused { remark: Remark::Broken, what: "longer than 1 MiB".to_owned() }
}

/// The window of a place, or why it is in none.
pub(super) fn window(place: Place, start: Timestamp) -> Result<Window, Refused> {
    let (remark, what) = match place {
        Place::In(window) => return Ok(window),
        Place::Holiday(date) => (Remark::Holiday, date.to_string()),
        Place::Straddles(date) => (Remark::StraddlesWindow, date.to_string()),
        Place::Outside => (Remark::OutsideWindows, start.to_string()),
    };
    Err(Refused { remark, what })
}

/// The label `share`, such as `15%`: what part of the sessions was on the canary at the time.
fn share_of(labels: &Labels) -> Option<u16> {
    let share: crate::Share = labels.get("share")?.as_str()?.parse().ok()?;
    Some(share.buckets())
}

/// ISP and address family, and whether the ISP is unknown: from labels, or else from the table by the client's address.
pub(super) fn cell_of(
    labels: &Labels,
    key: Option<SessionKey>,
    asns: Option<&AsnTable>,
) -> Result<(Cell, bool), Refused> {
    let text = |label: &str| match labels.get(label)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let address = key.map(|SessionKey(client)| client.ip().to_canonical());
    let isp = text("isp").or_else(|| text("asn").map(|asn| format!("AS{}", asn.trim_start_matches("AS"))));
    let (isp, unknown) = match (isp, asns) {
        (Some(isp), _) => (Some(isp), false),
        (None, None) => (None, false),
        (None, Some(asns)) => match address.and_then(|address| asns.of(address)) {
            Some(network) => (Some(network.name.clone()), false),
            None => (Some(UNKNOWN.to_owned()), true),
        },
    };
    let family = match (text("family").as_deref(), address) {
        (Some("4" | "ipv4"), _) | (None, Some(IpAddr::V4(_))) => Some(Family::V4),
        (Some("6" | "ipv6"), _) | (None, Some(IpAddr::V6(_))) => Some(Family::V6),
        (Some(_), _) | (None, None) => None,
    };
    let cell = isp.zip(family).map(|(isp, family)| Cell { isp, family });
    let what = "no label `isp` or `asn`, or no address family".to_owned();
    cell.map(|cell| (cell, unknown)).ok_or(Refused { remark: Remark::Unlabelled, what })
}
