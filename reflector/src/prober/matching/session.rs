//! The packets of one session that are in flight or lately settled, in a window of consecutive numbers.

use std::collections::VecDeque;

use pathlab_record::{ClockId, Interval, Monotonic, Outcome, Plane, Planes, Stamp, Time};
use pathlab_xdp::clock::Vouch;

use super::{
    super::{
        clocks::{Clocks, Ran},
        inside::{Earlier, FollowUp, Inside},
        legs::{Answered, Leg, Legs},
        passage::{Departure, Epochs, Ipdv, Passage, Reply},
    },
    Counts, Patience, Settled, Sink,
};
use crate::wire::CardWord;

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) counts: Counts,
    pub(super) next_seq: u32,
    /// Packets in flight or lately settled: consecutive sequence numbers, the last of them `next_seq - 1`.
    pub(super) window: VecDeque<Flight>,
    /// The last packet to leave the window, if it was received: the next one's partner for delay variation.
    predecessor: Option<Passage>,
    /// Highest sequence number answered in time, plus one: NextExp of RFC 4737.
    pub(super) next_expected: u32,
    /// What the reflector's own numbers say of lost packets.
    pub(super) legs: Legs,
    /// Whether the reflector tells when earlier replies left; unknown before its second reply.
    pub(super) follows: Option<bool>,
    /// Replies that had stamps of the reflector's host.
    told: u64,
    /// How often the reflector has begun to doubt its clocks, and whether it does so now.
    doubts: u32,
    doubting: bool,
    /// Answered packets that wait for the reflector to confirm its card, roughly in order of their replies.
    unsure: VecDeque<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) departure: Departure,
    pub(super) sent: Time<Monotonic>,
    pub(super) echo: u64,
    /// All of its stamps by the reflector's card had been taken by then.
    pub(super) stamped: Time<Monotonic>,
    /// What the reflector told of its host, until the packet is settled.
    pub(super) inside: Option<Box<Inside>>,
    /// Answered, and still waiting for these.
    pub(super) wants: Wants,
    pub(super) state: State,
}

/// What an answered packet waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Its transmit stamps.
    pub(super) stamp: bool,
    /// The reply that tells when its own left the reflector's host.
    pub(super) follow_up: bool,
    /// A look at the clock after its reply was read.
    pub(super) look: bool,
    /// The comparison of clocks that confirms the card's stamps.
    pub(super) vouch: bool,
    /// A word of the reflector on its card's clock, whose stamps have gone out before it could know: that it was confirmed later, or, from
    /// those that do not tell, that it has stepped.
    pub(super) word: bool,
}

/// Why the stamps of the reflector's card are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// One of its clocks has stepped.
    Void,
    /// Nobody has confirmed them.
    Unconfirmed,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Waiting,
    Answered(Answer),
    Settled { passage: Option<Passage>, reflector_seq: u32, duplicated: bool },
}

/// The first reply, and what is known of the clocks by which it was stamped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) outcome: Outcome,
    /// When the batch with the reply was taken.
    pub(super) read: Time<Monotonic>,
    pub(super) ran: Ran,
    pub(super) card: Vouch,
    /// How often the reflector had doubted its clocks by then.
    pub(super) doubts: u32,
}

impl Session {
    /// Takes the reflector's word on its clocks, as it stands in a reply; how often it has doubted them by now. What its card has stamped
    /// lately is void then.
    pub(super) fn word(&mut self, doubts: bool) -> u32 {
        self.doubts += u32::from(doubts && !self.doubting);
        self.doubting = doubts;
        for index in (0..self.window.len()).filter(|_| doubts) {
            self.by_doubt(index);
        }
        self.doubts
    }

    /// The same for a packet whose own reply says so, or the one that tells of its departure.
    pub(super) fn heed_doubt(&mut self, index: usize) {
        if self.doubting {
            self.by_doubt(index);
        }
    }

    /// Where the reflector says how far its card is confirmed, that is the better word.
    fn by_doubt(&mut self, index: usize) {
        if self.window[index].fit().is_none() {
            self.without_far_card(index, Why::Void);
        }
    }

    /// Leaves out what the reflector's card said of the packet at `index`.
    pub(super) fn without_far_card(&mut self, index: usize, why: Why) {
        let flight = &mut self.window[index];
        let Some(inside) = flight.inside.as_mut().filter(|inside| inside.by_card()) else { return };
        **inside = inside.without_card();
        let of_card = inside.received_on.is_none_or(|plane| plane == Plane::Nic);
        if let State::Answered(answer) = &mut flight.state
            && of_card
        {
            answer.reply.b2 = None;
        }
        match why {
            Why::Void => self.counts.reflector_nic_void += 1,
            Why::Unconfirmed => self.counts.reflector_nic_unconfirmed += 1,
        }
    }

    /// The packet `seq` waits until the reflector has confirmed its card beyond the instant by which all of its stamps had been taken.
    pub(super) fn unsure(&mut self, seq: u32) {
        self.unsure.push_back(seq);
    }

    /// Takes the word on the reflector's card from the reply to a packet that was `sent` then.
    pub(super) fn card_word(&mut self, session: usize, word: CardWord, sent: Time<Monotonic>, sink: &mut impl Sink) {
        // The request was read after it was sent: this is never too late, whatever the two hosts' clocks show.
        let confirmed = word.confirmed.map(|ago| sent + Interval::from_nanos(-ago.as_nanos()));
        while let Some(&seq) = self.unsure.front() {
            let waiting = self.index(seq).filter(|index| self.window[*index].wants.word);
            if let Some(index) = waiting {
                let flight = &self.window[index];
                if flight.fit() != Some(word.fit) {
                    self.without_far_card(index, Why::Void);
                } else if confirmed.is_none_or(|confirmed| confirmed < flight.stamped) {
                    return;
                }
                self.window[index].wants.word = false;
                self.settle_complete(session, index, sink);
            }
            self.unsure.pop_front();
        }
    }

    /// The wait for the reflector's word on the packet at `index` is over. Of one that would have said so no news is no good news.
    pub(super) fn give_up_word(&mut self, index: usize) {
        if std::mem::take(&mut self.window[index].wants.word) && self.window[index].fit().is_some() {
            self.without_far_card(index, Why::Unconfirmed);
        }
    }

    /// Where `seq` stands in the window.
    pub(super) fn index(&self, seq: u32) -> Option<usize> {
        let back = self.next_seq.wrapping_sub(seq) as usize;
        (1..=self.window.len()).contains(&back).then(|| self.window.len() - back)
    }

    fn seq(&self, index: usize) -> u32 {
        self.next_seq.wrapping_sub((self.window.len() - index) as u32)
    }

    /// Takes what the reply to the packet at `index` tells of an earlier one. A reflector that has told nothing by its second reply is
    /// not waited for.
    ///
    /// The number of the earlier packet, where that now waits for the reflector's word on its card.
    pub(super) fn learn(
        &mut self,
        session: usize,
        index: usize,
        now: Time<Monotonic>,
        follow_up: Option<FollowUp>,
        sink: &mut impl Sink,
    ) -> Option<u32> {
        self.told += 1;
        if let Some(FollowUp { reply, stamps }) = follow_up {
            self.follows = Some(true);
            let earlier = match reply {
                Earlier::Ours(seq) => self.index(seq),
                Earlier::Theirs(theirs) => self.answered_by(theirs, index),
            };
            return self.departed(session, earlier?, now, &stamps, sink);
        } else if self.told > 1 && self.follows.is_none() {
            self.follows = Some(false);
            for waiting in 0..self.window.len() {
                if std::mem::take(&mut self.window[waiting].wants.follow_up) {
                    self.settle_complete(session, waiting, sink);
                }
            }
        }
        None
    }

    /// The packet whose reply the reflector gave the number `theirs`, near the one at `index`.
    fn answered_by(&self, theirs: u32, index: usize) -> Option<usize> {
        const NEAR: usize = 64;
        let first = index.saturating_sub(NEAR);
        let near = self.window.range(first..self.window.len().min(index + NEAR));
        let place = near.enumerate().find(|(_, flight)| flight.reflector_seq() == Some(theirs))?.0;
        Some(first + place)
    }

    /// The reply to the packet at `index` left the reflector's host then.
    fn departed(
        &mut self,
        session: usize,
        index: usize,
        now: Time<Monotonic>,
        stamps: &Planes,
        sink: &mut impl Sink,
    ) -> Option<u32> {
        let seq = self.seq(index);
        let flight = &mut self.window[index];
        let inside = flight.inside.as_mut()?;
        let before = inside.b3.nic;
        inside.add(stamps);
        let unsure = inside.b3.nic != before && inside.card.is_some();
        if unsure {
            // Told in UTC since then, perhaps by another fit: to be confirmed again.
            flight.stamped = now;
            if !std::mem::replace(&mut flight.wants.word, true) {
                self.unsure.push_back(seq);
            }
        }
        if std::mem::take(&mut flight.wants.follow_up) {
            self.counts.followed_up += 1;
        }
        self.heed_doubt(index);
        self.settle_complete(session, index, sink);
        unsure.then_some(seq)
    }

    /// Settles the packet at `index` if it has been answered and waits for nothing more.
    pub(super) fn settle_complete(&mut self, session: usize, index: usize, sink: &mut impl Sink) {
        if self.window[index].wants == Wants::default() {
            self.settle_answered(session, index, sink);
        }
    }

    /// Settles the packet at `index` if it has been answered and not settled yet.
    fn settle_answered(&mut self, session: usize, index: usize, sink: &mut impl Sink) {
        if matches!(self.window[index].state, State::Answered(_)) {
            self.give_up_word(index);
        }
        let flight = &mut self.window[index];
        let State::Answered(answer) = flight.state else { return };
        let inside = flight.inside.take();
        let (reply, departure) = (answer.reply, flight.departure);
        self.counts.kernel_sent += u64::from(departure.a1_kernel.is_some());
        self.counts.kernel_received += u64::from(reply.a4_kernel.is_some());
        let (settled, kept) = match answer.ran {
            Ran::Even(probe) => {
                let epochs = Epochs { probe, reflector: Some(answer.doubts) };
                let passage = self.vouched(Passage { departure, reply, epochs }, answer.card);
                let settled = Settled::with_reply(reply.seq, answer.outcome, &passage, inside.as_deref());
                (settled, Some(passage).filter(|_| answer.outcome == Outcome::Received))
            }
            // Nobody has looked: that is no better.
            Ran::Stepped | Ran::NotYet => {
                self.counts.clock_steps += 1;
                let passage = Passage { departure, reply, epochs: Epochs::default() };
                (Settled::over_a_step(reply.seq, answer.outcome, &passage, inside.as_deref()), None)
            }
        };
        match answer.outcome {
            Outcome::Received => self.counts.received += 1,
            _ => self.counts.late += 1,
        }
        let settled = Settled { ipdv: kept.map_or([None, None], |kept| self.ipdv(index, &kept)), ..settled };
        self.window[index].state =
            State::Settled { passage: kept, reflector_seq: reply.reflector_seq, duplicated: false };
        sink.settled(session, settled);
    }

    /// The pairs that the packet at `index` completes.
    fn ipdv(&self, index: usize, passage: &Passage) -> [Option<Ipdv>; 2] {
        let before = match index.checked_sub(1) {
            Some(before) => self.window[before].received(),
            None => self.predecessor.as_ref(),
        };
        let after = self.window.get(index + 1).and_then(Flight::received);
        [
            before.and_then(|before| Passage::ipdv(before, passage)),
            after.and_then(|after| Passage::ipdv(passage, after)),
        ]
    }

    /// Leaves out the card's stamps unless they are known to be true, and states what is known of those on its own clock.
    fn vouched(&mut self, mut passage: Passage, vouch: Vouch) -> Passage {
        let Some((a1, a4)) = passage.nic() else { return passage };
        let bounded = |drift: u64| {
            // of a distance, half of it at either end
            let state = |stamp: Stamp| Stamp::new(stamp.nanos(), stamp.clock(), drift.div_ceil(2));
            (state(a1), state(a4))
        };
        (passage.departure.a1_nic, passage.reply.a4_nic) = match (vouch, a1.clock()) {
            (Vouch::True { .. }, ClockId::Realtime) => (Some(a1), Some(a4)),
            (Vouch::True { drift: Some(drift) }, _) => bounded(drift),
            (Vouch::Void, _) => {
                self.counts.nic_void += 1;
                (None, None)
            }
            (Vouch::True { drift: None } | Vouch::NotYet, _) => {
                self.counts.nic_unconfirmed += 1;
                (None, None)
            }
        };
        passage
    }

    /// Takes the oldest packet out of the window; if nobody answered it, it is lost now.
    pub(super) fn retire(&mut self, session: usize, patience: Patience, clocks: &Clocks, sink: &mut impl Sink) {
        self.settle_answered(session, 0, sink);
        let seq = self.seq(0);
        let Some(mut flight) = self.window.pop_front() else { return };
        self.predecessor = flight.received().copied();
        let first = seq.wrapping_add(1);
        let later = self.window.iter().enumerate().filter_map(|(index, flight)| {
            Some(Answered { ours: first.wrapping_add(index as u32), theirs: flight.reflector_seq()? })
        });
        let Some(theirs) = flight.reflector_seq() else {
            let outcome = match self.legs.retire_lost(seq, self.next_seq, later) {
                Leg::Forward => Outcome::LostForward,
                Leg::Return => Outcome::LostReturn,
                Leg::Unknown => Outcome::Lost,
            };
            match outcome {
                Outcome::LostForward => self.counts.lost_forward += 1,
                Outcome::LostReturn => self.counts.lost_return += 1,
                _ => self.counts.lost_unknown += 1,
            }
            let until = flight.sent + patience.timeout();
            if !matches!(clocks.vouch(flight.sent, until), Vouch::True { .. }) {
                flight.departure.a1_nic = None;
            }
            let even = matches!(clocks.ran(flight.sent, until), Ran::Even(_));
            sink.settled(session, Settled::lost(seq, outcome, &flight.departure, even));
            return;
        };
        let (forward, back) = self.legs.retire_answered(Answered { ours: seq, theirs }, later);
        self.counts.unknown_forward += forward;
        self.counts.unknown_return += back;
    }
}

impl Flight {
    fn received(&self) -> Option<&Passage> {
        match &self.state {
            State::Settled { passage, .. } => passage.as_ref(),
            _ => None,
        }
    }

    /// The fit of the reflector's card by which it was stamped, where that is told.
    fn fit(&self) -> Option<u16> {
        Some(self.inside.as_ref()?.card?.fit)
    }

    pub(super) fn reflector_seq(&self) -> Option<u32> {
        match &self.state {
            State::Waiting => None,
            State::Answered(answer) => Some(answer.reply.reflector_seq),
            State::Settled { reflector_seq, .. } => Some(*reflector_seq),
        }
    }
}
