//! Which reply belongs to which test packet, and what became of every packet that was sent: the rules, without socket or clock.
//!
//! ```text
//! sent ──reply in time──► answered ──A1kernel, or its wait is over──► Received
//!   ├───reply after the timeout──► answered ─────────────────────────► Late
//!   └───kept for twice the timeout without a reply───────────────────► Lost, LostForward, LostReturn
//! ```
//! From a reflector that tells in each reply when the one before left its host, an answered packet waits for that as well.
//! Every packet that was sent is settled exactly once; a further reply to it is a duplicate.

use std::{collections::VecDeque, time::Duration};

use pathlab_record::{Interval, Ledger, Monotonic, Outcome, Planes, Realtime, Stamp, Stamps, Time};

use super::{
    inside::{Earlier, FollowUp, Inside},
    legs::{Answered, Leg, Legs},
    passage::{Departure, Ipdv, Passage, Reply},
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
    /// Every stamp that was got in time.
    pub stamps: Stamps,
    /// The split of the round trip, where a reply came.
    pub ledger: Option<Ledger>,
    /// `A4 - A1` of the outermost stamps, where a reply came.
    pub rtt: Option<Interval>,
    /// `A4app - A1app`, where a reply came.
    pub rtt_app: Option<Interval>,
    /// Sum of both ends' Error Estimates in nanoseconds, where a reply came and both say that their clocks are synchronised.
    pub synchronised: Option<u64>,
    /// The pairs that this packet completed: with its predecessor, with its successor.
    pub ipdv: [Option<Ipdv>; 2],
}

/// Times that decide when to stop waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A reply later than this after its packet is [`Outcome::Late`]; twice this is the end of the wait.
    pub timeout: Duration,
    /// How long an answered packet waits for its `A1kernel`, which comes by another way and may come after the reply.
    pub stamp: Duration,
    /// Whether that wait is for the card's stamp as well, which comes last.
    pub nic: bool,
    /// How long an answered packet waits for the reply that tells when its own left the reflector's host. Zero: not at all.
    pub follow_up: Duration,
}

/// Counts of one session. `sent = received + late + lost()` once all is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Test packets that left.
    pub sent: u64,
    /// Answered within the timeout.
    pub received: u64,
    /// Answered after the timeout, but before the wait ended.
    pub late: u64,
    /// Lost on the way to the reflector, as its sequence numbers show.
    pub lost_forward: u64,
    /// Lost on the way back, as the reflector's sequence numbers show.
    pub lost_return: u64,
    /// Lost, and nobody knows where this very packet was.
    pub lost_unknown: u64,
    /// Of `lost_unknown`: so many were lost on the way to the reflector, as its count shows, though not which.
    pub unknown_forward: u64,
    /// Of `lost_unknown`: so many were lost on the way back.
    pub unknown_return: u64,
    /// Replies beyond the first.
    pub duplicates: u64,
    /// Replies in time that came after the reply to a later packet (RFC 4737, section 3).
    pub reordered: u64,
    /// Replies that fit no packet in flight: never sent, or given up long ago.
    pub stale: u64,
    /// Replies whose echoed timestamp is not the one that was sent.
    pub mismatched: u64,
    /// Settled with a reply, and `A1kernel` had come.
    pub kernel_sent: u64,
    /// Settled with a reply that carried `A4kernel`.
    pub kernel_received: u64,
    /// Answered, and a later reply told in time when that answer left the reflector.
    #[serde(default)]
    pub followed_up: u64,
}

impl Counts {
    /// Packets without a reply, whatever the direction.
    pub fn lost(&self) -> u64 {
        self.lost_forward + self.lost_return + self.lost_unknown
    }

    /// Adds another session's counts.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.late += other.late;
        self.lost_forward += other.lost_forward;
        self.lost_return += other.lost_return;
        self.lost_unknown += other.lost_unknown;
        self.unknown_forward += other.unknown_forward;
        self.unknown_return += other.unknown_return;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.stale += other.stale;
        self.mismatched += other.mismatched;
        self.kernel_sent += other.kernel_sent;
        self.kernel_received += other.kernel_received;
        self.followed_up += other.followed_up;
    }
}

/// All packets in flight of all sessions.
///
/// Memory is bounded by what this host sends: packets of the last two timeouts. Nothing that comes from the network makes it grow.
#[derive(Debug)]
pub struct Matching {
    patience: Patience,
    sessions: Vec<Session>,
    /// Everything in flight, in order of sending: when it was sent, and by which session.
    flights: VecDeque<(Time<Monotonic>, usize)>,
    /// Answered packets that still want their `A1kernel`, in order of their replies.
    wanting: VecDeque<(Time<Monotonic>, usize, u32)>,
    /// Answered packets that still want their `B3` beyond user space, in order of their replies.
    following: VecDeque<(Time<Monotonic>, usize, u32)>,
}

#[derive(Debug, Default)]
struct Session {
    counts: Counts,
    next_seq: u32,
    /// Packets in flight or lately settled: consecutive sequence numbers, the last of them `next_seq - 1`.
    window: VecDeque<Flight>,
    /// The last packet to leave the window, if it was received: the next one's partner for delay variation.
    predecessor: Option<Passage>,
    /// Highest sequence number answered in time, plus one: NextExp of RFC 4737.
    next_expected: u32,
    /// What the reflector's own numbers say of lost packets.
    legs: Legs,
    /// Whether the reflector tells when earlier replies left; unknown before its second reply.
    follows: Option<bool>,
    /// Replies that had stamps of the reflector's host.
    told: u64,
}

#[derive(Clone, Debug)]
struct Flight {
    departure: Departure,
    echo: u64,
    /// What the reflector told of its host, until the packet is settled.
    inside: Option<Box<Inside>>,
    /// Answered, and still waiting for these.
    wants_stamp: bool,
    wants_follow_up: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Answered(Reply, Outcome),
    Settled { passage: Option<Passage>, reflector_seq: u32, duplicated: bool },
}

impl Matching {
    /// Rules for `sessions` sessions, nothing sent yet.
    pub fn new(sessions: usize, patience: Patience) -> Self {
        let sessions = std::iter::repeat_with(Session::default).take(sessions).collect();
        Self { patience, sessions, flights: VecDeque::new(), wanting: VecDeque::new(), following: VecDeque::new() }
    }

    /// The sequence number of the session's next test packet. RFC 8762, section 4.1.1: it starts at zero.
    pub fn next_seq(&self, session: usize) -> u32 {
        self.sessions[session].next_seq
    }

    /// Counts of one session so far.
    pub fn counts(&self, session: usize) -> &Counts {
        &self.sessions[session].counts
    }

    /// Packets not settled yet, or settled so lately that a duplicate could still be told.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether no sent packet is without an answer or still wants a stamp.
    pub fn all_answered(&self) -> bool {
        let settled = |flight: &Flight| matches!(flight.state, State::Settled { .. });
        self.sessions.iter().all(|session| session.window.iter().all(settled))
    }

    /// Notes that the packet [`next_seq`](Self::next_seq) of `session` has left, carrying `echo` as its timestamp.
    pub fn sent(&mut self, session: usize, now: Time<Monotonic>, departure: Departure, echo: u64) {
        let entry = &mut self.sessions[session];
        entry.next_seq = entry.next_seq.wrapping_add(1);
        entry.counts.sent += 1;
        entry.window.push_back(Flight {
            departure,
            echo,
            inside: None,
            wants_stamp: false,
            wants_follow_up: false,
            state: State::Waiting,
        });
        self.flights.push_back((now, session));
    }

    /// Takes a transmit stamp from the error queue.
    pub fn sent_stamp(&mut self, session: usize, seq: u32, stamp: TransmitStamp, sink: &mut impl Sink) {
        let entry = &mut self.sessions[session];
        let Some(index) = entry.index(seq) else { return };
        let flight = &mut entry.window[index];
        match stamp {
            TransmitStamp::Sched(time) => flight.departure.a1_sched = Some(time),
            TransmitStamp::Kernel(time) => flight.departure.a1_kernel = Some(time),
            TransmitStamp::Nic(stamp) => flight.departure.a1_nic = Some(stamp),
        }
        if self.patience.has_all(&flight.departure) {
            flight.wants_stamp = false;
            entry.settle_complete(session, index, sink);
        }
    }

    /// Takes a reply that came on the session's address, port and peer; whether it answers a packet of the session.
    pub fn reply(&mut self, session: usize, now: Time<Monotonic>, reply: Reply, sink: &mut impl Sink) -> bool {
        self.reply_inside(session, now, reply, None, None, sink)
    }

    /// The same with what the reply tells of the reflector's host, and of an earlier reply.
    pub fn reply_inside(
        &mut self,
        session: usize,
        now: Time<Monotonic>,
        reply: Reply,
        inside: Option<Inside>,
        follow_up: Option<FollowUp>,
        sink: &mut impl Sink,
    ) -> bool {
        let entry = &mut self.sessions[session];
        let Some(index) = entry.index(reply.seq) else {
            entry.counts.stale += 1;
            return false;
        };
        let flight = &mut entry.window[index];
        if flight.echo != reply.echo {
            entry.counts.mismatched += 1;
            return false;
        }
        let departure = flight.departure;
        match &mut flight.state {
            State::Waiting => {}
            State::Answered(first, _) => {
                entry.counts.duplicates += 1;
                entry.legs.heard_again(first.reflector_seq, reply.reflector_seq);
                return true;
            }
            State::Settled { duplicated, reflector_seq, .. } => {
                entry.counts.duplicates += 1;
                entry.legs.heard_again(*reflector_seq, reply.reflector_seq);
                // One sample a packet at most: a peer that repeats itself fills a counter, not a disk.
                if !std::mem::replace(duplicated, true) {
                    let passage = Passage { departure, reply };
                    sink.settled(
                        session,
                        Settled::with_reply(reply.seq, Outcome::Duplicate, &passage, inside.as_ref()),
                    );
                }
                return true;
            }
        }
        entry.legs.heard(Answered { ours: reply.seq, theirs: reply.reflector_seq });
        let arrived = reply.a4_kernel.unwrap_or(reply.a4_app);
        let outcome = if (arrived - departure.a1_app).as_nanos() > self.patience.timeout.as_nanos() as i64 {
            Outcome::Late
        } else {
            match reply.seq.wrapping_sub(entry.next_expected) {
                ahead if ahead < 1 << 31 => entry.next_expected = reply.seq.wrapping_add(1),
                _ => entry.counts.reordered += 1,
            }
            Outcome::Received
        };
        if inside.is_some() {
            entry.learn(session, index, follow_up, sink);
        }
        let flight = &mut entry.window[index];
        flight.state = State::Answered(reply, outcome);
        flight.wants_stamp = !self.patience.has_all(&departure) && !self.patience.stamp.is_zero();
        flight.wants_follow_up = inside.is_some() && entry.follows != Some(false) && !self.patience.follow_up.is_zero();
        flight.inside = inside.map(Box::new);
        if flight.wants_stamp {
            self.wanting.push_back((now, session, reply.seq));
        }
        if flight.wants_follow_up {
            self.following.push_back((now, session, reply.seq));
        }
        entry.settle_complete(session, index, sink);
        true
    }

    /// Ends the waits that are over at `now`.
    pub fn expire(&mut self, now: Time<Monotonic>, sink: &mut impl Sink) {
        let over = |since: Time<Monotonic>, wait: Duration| (now - since).as_nanos() >= wait.as_nanos() as i64;
        while let Some(&(since, session, seq)) = self.wanting.front()
            && over(since, self.patience.stamp)
        {
            self.wanting.pop_front();
            let entry = &mut self.sessions[session];
            if let Some(index) = entry.index(seq) {
                entry.window[index].wants_stamp = false;
                entry.settle_complete(session, index, sink);
            }
        }
        while let Some(&(since, session, seq)) = self.following.front()
            && over(since, self.patience.follow_up)
        {
            self.following.pop_front();
            let entry = &mut self.sessions[session];
            if let Some(index) = entry.index(seq) {
                entry.window[index].wants_follow_up = false;
                entry.settle_complete(session, index, sink);
            }
        }
        while let Some(&(since, session)) = self.flights.front()
            && over(since, self.patience.timeout * 2)
        {
            self.flights.pop_front();
            self.sessions[session].retire(session, sink);
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_expiry(&self) -> Option<Time<Monotonic>> {
        let after = |since: Time<Monotonic>, wait: Duration| since + Interval::from_nanos(wait.as_nanos() as i64);
        let stamp = self.wanting.front().map(|&(since, ..)| after(since, self.patience.stamp));
        let follow_up = self.following.front().map(|&(since, ..)| after(since, self.patience.follow_up));
        let flight = self.flights.front().map(|&(since, _)| after(since, self.patience.timeout * 2));
        [stamp, follow_up, flight].into_iter().flatten().min()
    }

    /// Settles everything as it stands: the run is over.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        self.wanting.clear();
        self.following.clear();
        while let Some((_, session)) = self.flights.pop_front() {
            self.sessions[session].retire(session, sink);
        }
    }
}

/// A transmit stamp of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitStamp {
    /// Entry into the queueing discipline.
    Sched(Time<Realtime>),
    /// Hand-over to the driver.
    Kernel(Time<Realtime>),
    /// The wire.
    Nic(Stamp),
}

impl Patience {
    /// Whether no stamp is waited for any more.
    fn has_all(&self, departure: &Departure) -> bool {
        departure.a1_kernel.is_some() && (!self.nic || departure.a1_nic.is_some())
    }
}

impl Session {
    /// Where `seq` stands in the window.
    fn index(&self, seq: u32) -> Option<usize> {
        let back = self.next_seq.wrapping_sub(seq) as usize;
        (1..=self.window.len()).contains(&back).then(|| self.window.len() - back)
    }

    fn seq(&self, index: usize) -> u32 {
        self.next_seq.wrapping_sub((self.window.len() - index) as u32)
    }

    /// Takes what the reply to the packet at `index` tells of an earlier one. A reflector that has told nothing by its second reply is
    /// not waited for.
    fn learn(&mut self, session: usize, index: usize, follow_up: Option<FollowUp>, sink: &mut impl Sink) {
        self.told += 1;
        if let Some(FollowUp { reply, stamps }) = follow_up {
            self.follows = Some(true);
            let earlier = match reply {
                Earlier::Ours(seq) => self.index(seq),
                Earlier::Theirs(theirs) => self.answered_by(theirs, index),
            };
            if let Some(earlier) = earlier {
                self.departed(session, earlier, &stamps, sink);
            }
        } else if self.told > 1 && self.follows.is_none() {
            self.follows = Some(false);
            for waiting in 0..self.window.len() {
                if std::mem::take(&mut self.window[waiting].wants_follow_up) {
                    self.settle_complete(session, waiting, sink);
                }
            }
        }
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
    fn departed(&mut self, session: usize, index: usize, stamps: &Planes, sink: &mut impl Sink) {
        let flight = &mut self.window[index];
        let Some(inside) = &mut flight.inside else { return };
        inside.add(stamps);
        if std::mem::take(&mut flight.wants_follow_up) {
            self.counts.followed_up += 1;
        }
        self.settle_complete(session, index, sink);
    }

    /// Settles the packet at `index` if it has been answered and waits for nothing more.
    fn settle_complete(&mut self, session: usize, index: usize, sink: &mut impl Sink) {
        let flight = &self.window[index];
        if !flight.wants_stamp && !flight.wants_follow_up {
            self.settle_answered(session, index, sink);
        }
    }

    /// Settles the packet at `index` if it has been answered and not settled yet.
    fn settle_answered(&mut self, session: usize, index: usize, sink: &mut impl Sink) {
        let flight = &mut self.window[index];
        let State::Answered(reply, outcome) = flight.state else { return };
        let passage = Passage { departure: flight.departure, reply };
        let inside = flight.inside.take();
        let mut settled = Settled::with_reply(reply.seq, outcome, &passage, inside.as_deref());
        self.counts.kernel_sent += u64::from(passage.departure.a1_kernel.is_some());
        self.counts.kernel_received += u64::from(reply.a4_kernel.is_some());
        let mut kept = None;
        if outcome == Outcome::Received {
            self.counts.received += 1;
            let before = match index.checked_sub(1) {
                Some(before) => self.window[before].received(),
                None => self.predecessor.as_ref(),
            };
            let after = self.window.get(index + 1).and_then(Flight::received);
            settled.ipdv = [
                before.map(|before| Passage::ipdv(before, &passage)),
                after.map(|after| Passage::ipdv(&passage, after)),
            ];
            kept = Some(passage);
        } else {
            self.counts.late += 1;
        }
        self.window[index].state =
            State::Settled { passage: kept, reflector_seq: reply.reflector_seq, duplicated: false };
        sink.settled(session, settled);
    }

    /// Takes the oldest packet out of the window; if nobody answered it, it is lost now.
    fn retire(&mut self, session: usize, sink: &mut impl Sink) {
        self.settle_answered(session, 0, sink);
        let seq = self.seq(0);
        let Some(flight) = self.window.pop_front() else { return };
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
            sink.settled(session, Settled::lost(seq, outcome, &flight.departure));
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

    fn reflector_seq(&self) -> Option<u32> {
        match &self.state {
            State::Waiting => None,
            State::Answered(reply, _) => Some(reply.reflector_seq),
            State::Settled { reflector_seq, .. } => Some(*reflector_seq),
        }
    }
}

impl Settled {
    fn with_reply(seq: u32, outcome: Outcome, passage: &Passage, inside: Option<&Inside>) -> Self {
        let mut stamps = passage.stamps();
        if let Some(Inside { b2, b3 }) = inside {
            (stamps.b2, stamps.b3) = (*b2, *b3);
        }
        Self {
            seq,
            outcome,
            slot: passage.departure.a0,
            ledger: Ledger::split(&stamps),
            stamps,
            rtt: Some(passage.rtt()),
            rtt_app: Some(passage.rtt_app()),
            synchronised: passage.reply.synchronised,
            ipdv: [None, None],
        }
    }

    fn lost(seq: u32, outcome: Outcome, departure: &Departure) -> Self {
        let stamps = departure.stamps();
        Self {
            seq,
            outcome,
            slot: departure.a0,
            stamps,
            ledger: None,
            rtt: None,
            rtt_app: None,
            synchronised: None,
            ipdv: [None, None],
        }
    }
}

#[cfg(test)]
mod tests;
