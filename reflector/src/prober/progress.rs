//! What happened since somebody last looked: for a live view, which must not cost the schedule more than an addition.

use std::{mem, time::Duration};

use pathlab_record::{Interval, Outcome, SparseHistogram};

use super::matching::Settled;

/// What happened in a stretch of a run. Sums of stretches are stretches ([`add`](Self::add)).
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the counts are those of `Counts` and `Punctuality`
pub struct Progress {
    /// Its length.
    pub span: Duration,
    pub sent: u64,
    pub skipped: u64,
    pub refused: u64,
    pub received: u64,
    pub late: u64,
    pub lost_forward: u64,
    pub lost_return: u64,
    pub lost_unknown: u64,
    pub within_50us: u64,
    /// `A1app - A0`.
    pub lateness: SparseHistogram,
    /// `A4 - A1` of the outermost stamps.
    pub rtt: SparseHistogram,
    /// `probe_tx + probe_rx`.
    pub probe_host: SparseHistogram,
    /// Both directions of the path.
    pub wire: SparseHistogram,
    /// `residence`.
    pub reflector_host: SparseHistogram,
}

impl Progress {
    pub(super) fn settled(&mut self, settled: &Settled) {
        match settled.outcome {
            Outcome::Received => self.received += 1,
            Outcome::Late => self.late += 1,
            Outcome::LostForward => self.lost_forward += 1,
            Outcome::LostReturn => self.lost_return += 1,
            Outcome::Lost => self.lost_unknown += 1,
            Outcome::Duplicate => {}
        }
        if settled.outcome != Outcome::Received {
            return;
        }
        let nanos = |span: Option<Interval>| span.map(|span| span.as_nanos().max(0) as u64);
        self.rtt.extend(nanos(settled.rtt));
        if let Some(ledger) = &settled.ledger {
            self.probe_host.extend(nanos(ledger.probe_host()));
            self.wire.extend(nanos(ledger.wire()));
            self.reflector_host.extend(nanos(ledger.reflector_host()));
        }
    }

    /// Packets without a reply, whatever the direction.
    pub fn lost(&self) -> u64 {
        self.lost_forward + self.lost_return + self.lost_unknown
    }

    /// Adds another stretch.
    pub fn add(&mut self, other: &Self) {
        self.span += other.span;
        for (into, from) in [
            (&mut self.sent, other.sent),
            (&mut self.skipped, other.skipped),
            (&mut self.refused, other.refused),
            (&mut self.received, other.received),
            (&mut self.late, other.late),
            (&mut self.lost_forward, other.lost_forward),
            (&mut self.lost_return, other.lost_return),
            (&mut self.lost_unknown, other.lost_unknown),
            (&mut self.within_50us, other.within_50us),
        ] {
            *into += from;
        }
        for (into, from) in [
            (&mut self.lateness, &other.lateness),
            (&mut self.rtt, &other.rtt),
            (&mut self.probe_host, &other.probe_host),
            (&mut self.wire, &other.wire),
            (&mut self.reflector_host, &other.reflector_host),
        ] {
            into.merge(from);
        }
    }

    /// The stretch so far, `span` long; a new one begins.
    pub(super) fn take(&mut self, span: Duration) -> Self {
        Self { span, ..mem::take(self) }
    }
}
