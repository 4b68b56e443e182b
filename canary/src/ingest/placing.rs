//! Puts what a line told where it belongs: to its session in its window, or to its cohort.

use std::hash::BuildHasher;

use serde_json::Value;

use super::{
    Ingest, Refused,
    cohort::CohortBin,
    remark::{Line, Remark},
    session::{Bin, Noted, Session},
    told::{self, Told},
};
use crate::{Window, stratum::Cell};

impl Ingest {
    pub(super) fn take_line(&mut self, told: Told, at: Line<'_>) -> Result<(), Refused> {
        self.take(told, at)?;
        self.out.judged_lines += 1;
        Ok(())
    }

    /// Puts a bin to its session.
    pub(super) fn take(&mut self, told: Told, at: Line<'_>) -> Result<(), Refused> {
        let Told { name, session: named, key, cell, arm, arm_seen, window, until, bin, seen, .. } = told;
        let refused = |remark| Err(Refused { remark, what: named.clone() });
        if let Some(until) = until {
            let latest = self.latest.entry(window).or_insert(until);
            *latest = until.max(*latest);
        }
        let source = self.source(&told.source);
        let cell = self.cell(cell);
        let (sessions, hasher) = (&mut self.out.sessions, &self.hasher);
        let hash = |name: &str| hasher.hash_one(name);
        let same = |place: &u32| *sessions[*place as usize].name == *name;
        let place = match self.index.find(hash(&name), same) {
            Some(place) => *place as usize,
            None => {
                let place = sessions.len();
                let name = name.into_boxed_str();
                let (windows, bins) = (Default::default(), Vec::new());
                let of = |place: &u32, sessions: &[Session]| hash(&sessions[*place as usize].name);
                self.index.insert_unique(hash(&name), place as u32, |place| of(place, sessions));
                sessions.push(Session { name, key, cell, arm, windows, bins });
                place
            }
        };
        let session = &mut sessions[place];
        let noted = session.note(window, Bin { source, ..bin });
        if noted == Noted::Again {
            return refused(Remark::Duplicate);
        }
        let relabelled = session.cell != cell;
        if session.arm.is_some() && arm.is_some() && session.arm != arm {
            session.bins.pop();
            return refused(Remark::ArmChanged);
        }
        session.arm = session.arm.or(arm);
        let crossed = window != Window::Aa && arm_seen.is_some() && session.arm.is_some() && arm_seen != session.arm;
        session.windows.entry(window).add(seen);
        for (remark, applies) in [
            (Remark::UnknownIsp, told.unknown_isp),
            (Remark::Relabelled, relabelled),
            (Remark::CrossedOver, crossed),
            (Remark::OtherZone, told.other_zone),
            (Remark::ClockJump, noted == Noted::Over),
        ] {
            if applies {
                self.account.add(remark, at, &named);
            }
        }
        Ok(())
    }

    pub(super) fn take_cohort(&mut self, bin: &CohortBin) -> Result<(), Refused> {
        let refused = |remark, what: String| Err(Refused { remark, what });
        let counts = bin.counts().map_err(|what| Refused { remark: Remark::Contradicts, what })?;
        let (cell, _) = told::cell_of(&bin.labels, None, None)?;
        let labelled = bin.labels.get(Window::LABEL).and_then(Value::as_str).map(str::parse);
        let place = match labelled {
            None => self.reading.evenings.place_of(bin.start, bin.end),
            Some(Ok(window)) => self.reading.evenings.listed(window),
            Some(Err(_)) => return refused(Remark::Contradicts, "label window is neither aa nor a date".to_owned()),
        };
        let window = told::window(place, bin.start)?;
        if !self.out.pooled.add(cell, bin.arm, window, bin, &counts) {
            return refused(Remark::Duplicate, format!("{} {}", bin.source, bin.start));
        }
        self.out.judged_lines += 1;
        Ok(())
    }

    fn source(&mut self, source: &str) -> u16 {
        let known = self.sources.iter().position(|known| known == source).unwrap_or_else(|| {
            self.sources.push(source.to_owned());
            self.sources.len() - 1
        });
        // More sources than that share a number: a duplicate among them is then seen where there is none, and counted.
        u16::try_from(known).unwrap_or(u16::MAX)
    }

    fn cell(&mut self, cell: Cell) -> u16 {
        let next = self.cells.len().min(usize::from(u16::MAX)) as u16;
        *self.cells.entry(cell).or_insert(next)
    }
}
