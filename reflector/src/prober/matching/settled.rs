//! What the rules say of one test packet when all is known of it.

use pathlab_record::{Interval, Ledger, Outcome, Planes, Realtime, Stamps, Time};

use super::super::{
    inside::Inside,
    passage::{Departure, Epochs, Ipdv, Passage},
};

/// Where settled packets go. The in-memory twin is `Vec<(usize, Settled)>`.
pub trait Sink {
    /// Takes what became of one packet of session `session`, or of a further reply to it ([`Outcome::Duplicate`]).
    fn settled(&mut self, session: usize, settled: Settled);
}

impl Sink for Vec<(usize, Settled)> {
    fn settled(&mut self, session: usize, settled: Settled) {
        self.push((session, settled));
    }
}

/// What became of one test packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// Its sequence number.
    pub seq: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Its slot.
    pub slot: Time<Realtime>,
    /// Every stamp that was got in time and is true.
    pub stamps: Stamps,
    /// The split of the round trip, where a reply came and no clock was set meanwhile.
    pub ledger: Option<Ledger>,
    /// `A4 - A1` of the outermost stamps, where a reply came and no clock was set meanwhile.
    pub rtt: Option<Interval>,
    /// `A4app - A1app`, likewise.
    pub rtt_app: Option<Interval>,
    /// Sum of both ends' Error Estimates in nanoseconds, where a reply came and both say that their clocks are synchronised.
    pub synchronised: Option<u64>,
    /// Which stretches without a step of either end's clock it lies in.
    pub epochs: Epochs,
    /// The pairs that this packet completed: with its predecessor, with its successor.
    pub ipdv: [Option<Ipdv>; 2],
}

impl Settled {
    pub(super) fn with_reply(seq: u32, outcome: Outcome, passage: &Passage, inside: Option<&Inside>) -> Self {
        let mut stamps = passage.stamps();
        if let Some(Inside { b2, b3, .. }) = inside {
            (stamps.b2, stamps.b3) = (*b2, *b3);
        }
        Self {
            ledger: Ledger::split(&stamps),
            rtt: Some(passage.rtt()),
            rtt_app: Some(passage.rtt_app()),
            synchronised: passage.reply.synchronised,
            epochs: passage.epochs,
            ..Self::without(seq, outcome, passage.departure.a0, stamps)
        }
    }

    /// The probe's clock was set while the packet was away: what is left is its slot, and what the reflector's clock says.
    pub(super) fn over_a_step(seq: u32, outcome: Outcome, passage: &Passage, inside: Option<&Inside>) -> Self {
        let whole = Self::with_reply(seq, outcome, passage, inside).stamps;
        let (a1, a4) = (Planes::default(), Planes::default());
        Self::without(seq, outcome, passage.departure.a0, Stamps { a1, a4, ..whole })
    }

    /// `even`: no clock was set since it was sent.
    pub(super) fn lost(seq: u32, outcome: Outcome, departure: &Departure, even: bool) -> Self {
        let whole = departure.stamps();
        let a1 = if even { whole.a1 } else { Planes::default() };
        Self::without(seq, outcome, departure.a0, Stamps { a1, ..whole })
    }

    fn without(seq: u32, outcome: Outcome, slot: Time<Realtime>, stamps: Stamps) -> Self {
        Self {
            seq,
            outcome,
            slot,
            stamps,
            ledger: None,
            rtt: None,
            rtt_app: None,
            synchronised: None,
            epochs: Epochs::default(),
            ipdv: [None, None],
        }
    }
}
