//! Which reply belongs to which test packet, and what became of every packet that was sent: the rules, without socket or clock.
//!
//! ```text
//! sent ──reply in time──► answered ──a look at the clocks, A1kernel──► Received
//!   ├───reply after the timeout──► answered ─────────────────────────► Late
//!   └───kept for twice the timeout without a reply───────────────────► Lost, LostForward, LostReturn
//! ```
//! From a reflector that tells in each reply when the one before left its host, an answered packet waits for that as well; where the
//! card has stamped it, for the next comparison of that card's clock. Each of these waits ends.
//! Every packet that was sent is settled exactly once; a further reply to it is a duplicate.

mod counts;
mod session;
mod settled;

use std::{collections::VecDeque, time::Duration};

use pathlab_record::{Interval, Monotonic, Outcome, Realtime, Stamp, Time};
use pathlab_xdp::clock::Vouch;

use self::session::{Answer, Flight, Session, State, Wants};
pub use self::{
    counts::Counts,
    settled::{Settled, Sink},
};
use super::{
    clocks::{Clocks, Ran},
    inside::{FollowUp, Inside},
    legs::Answered,
    passage::{Departure, Epochs, Passage, Reply},
};

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
    /// How long the card's stamps of an answered packet wait to be confirmed; they are left out then.
    pub confirm: Duration,
}

/// All packets in flight of all sessions.
///
/// Memory is bounded by what this host sends: packets of the last two timeouts, or of [`Patience::keep`]. Nothing that comes from the network makes it grow.
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
    /// Answered packets that the reflector's card has stamped, in order of their replies.
    doubtful: VecDeque<(Time<Monotonic>, usize, u32)>,
    /// Answered packets whose clock nobody has looked at since, in order of their replies.
    looking: VecDeque<(usize, u32)>,
    /// Answered packets whose stamps by the card are not confirmed, and when all of those had been read.
    vouching: VecDeque<(Time<Monotonic>, usize, u32)>,
    /// Further replies, until somebody has looked at the clock.
    again: Vec<Again>,
}

/// A reply beyond the first.
#[derive(Debug)]
struct Again {
    session: usize,
    sent: Time<Monotonic>,
    read: Time<Monotonic>,
    passage: Passage,
    inside: Option<Inside>,
}

impl Matching {
    /// Rules for `sessions` sessions, nothing sent yet.
    pub fn new(sessions: usize, patience: Patience) -> Self {
        let sessions = std::iter::repeat_with(Session::default).take(sessions).collect();
        let (flights, wanting, following, doubtful, looking, vouching, again) = Default::default();
        Self { patience, sessions, flights, wanting, following, doubtful, looking, vouching, again }
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

    /// Whether the stamps of any packet still wait to be confirmed.
    pub fn is_confirming(&self) -> bool {
        !self.vouching.is_empty()
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
            sent: now,
            echo,
            stamped: now,
            inside: None,
            wants: Wants::default(),
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
            flight.wants.stamp = false;
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
            State::Answered(first) => {
                entry.counts.duplicates += 1;
                entry.legs.heard_again(first.reply.reflector_seq, reply.reflector_seq);
                return true;
            }
            State::Settled { duplicated, reflector_seq, .. } => {
                entry.counts.duplicates += 1;
                entry.legs.heard_again(*reflector_seq, reply.reflector_seq);
                // One sample a packet at most: a peer that repeats itself fills a counter, not a disk.
                if !std::mem::replace(duplicated, true) {
                    // The card's stamps of it are not waited for.
                    let reply = Reply { a4_nic: None, ..reply };
                    let passage = Passage { departure, reply, epochs: Epochs::default() };
                    let inside = inside.map(Inside::without_card);
                    self.again.push(Again { session, sent: flight.sent, read: now, passage, inside });
                }
                return true;
            }
        }
        entry.legs.heard(Answered { ours: reply.seq, theirs: reply.reflector_seq });
        // By the clock that never steps, as far as it saw the packet; how long the reply lay in the socket, the other one has to say.
        let in_socket = reply.a4_kernel.map_or(Interval::ZERO, |kernel| (reply.a4_app - kernel).max(Interval::ZERO));
        let outcome = if now - flight.sent - in_socket > self.patience.timeout() {
            Outcome::Late
        } else {
            match reply.seq.wrapping_sub(entry.next_expected) {
                ahead if ahead < 1 << 31 => entry.next_expected = reply.seq.wrapping_add(1),
                _ => entry.counts.reordered += 1,
            }
            Outcome::Received
        };
        let doubts = entry.word(reply.in_doubt);
        let sent = entry.window[index].sent;
        if let Some(word) = inside.and_then(|inside| inside.card) {
            entry.card_word(session, word, sent, sink);
        }
        if inside.is_some()
            && let Some(earlier) = entry.learn(session, index, now, follow_up, sink)
        {
            self.doubtful.push_back((now, session, earlier));
        }
        let flight = &mut entry.window[index];
        flight.state =
            State::Answered(Answer { reply, outcome, read: now, ran: Ran::NotYet, card: Vouch::NotYet, doubts });
        flight.wants = Wants {
            stamp: !self.patience.has_all(&departure) && !self.patience.stamp.is_zero(),
            follow_up: inside.is_some() && entry.follows != Some(false) && !self.patience.follow_up.is_zero(),
            look: true,
            vouch: false,
            word: inside.is_some_and(|inside| inside.by_card()),
        };
        flight.inside = inside.map(Box::new);
        flight.stamped = now;
        let wants = flight.wants;
        if wants.word {
            entry.unsure(reply.seq);
        }
        entry.heed_doubt(index);
        if wants.word {
            self.doubtful.push_back((now, session, reply.seq));
        }
        if wants.stamp {
            self.wanting.push_back((now, session, reply.seq));
        }
        if wants.follow_up {
            self.following.push_back((now, session, reply.seq));
        }
        self.looking.push_back((session, reply.seq));
        true
    }

    /// Settles what is known to be true, or not to be: to be called after each look at the clocks, with whatever `clocks` know by then.
    pub fn confirm(&mut self, now: Time<Monotonic>, clocks: &Clocks, sink: &mut impl Sink) {
        while let Some(&(session, seq)) = self.looking.front() {
            let entry = &mut self.sessions[session];
            let flight = entry.index(seq).map(|index| (index, &mut entry.window[index]));
            if let Some((index, flight)) = flight
                && let State::Answered(answer) = &mut flight.state
            {
                answer.ran = clocks.ran(flight.sent, answer.read);
                match answer.ran {
                    Ran::NotYet => break,
                    Ran::Even(_) => flight.wants.vouch = answer.reply.a4_nic.is_some(),
                    // Where a step lies between, the reply came in time if it was read in time.
                    Ran::Stepped if answer.read - flight.sent <= self.patience.timeout() => {
                        answer.outcome = Outcome::Received;
                    }
                    Ran::Stepped => answer.outcome = Outcome::Late,
                }
                flight.wants.look = false;
                if let (true, Some(looked)) = (flight.wants.vouch, clocks.looked()) {
                    self.vouching.push_back((looked, session, seq));
                }
                entry.settle_complete(session, index, sink);
            }
            self.looking.pop_front();
        }
        while let Some(&(read, session, seq)) = self.vouching.front() {
            let entry = &mut self.sessions[session];
            let flight = entry.index(seq).map(|index| (index, &mut entry.window[index]));
            if let Some((index, flight)) = flight
                && let State::Answered(answer) = &mut flight.state
            {
                answer.card = clocks.vouch(flight.sent, read);
                if answer.card == Vouch::NotYet && (now - read).as_nanos() < self.patience.confirm.as_nanos() as i64 {
                    break;
                }
                flight.wants.vouch = false;
                entry.settle_complete(session, index, sink);
            }
            self.vouching.pop_front();
        }
        let known = |again: &mut Again| clocks.ran(again.sent, again.read) != Ran::NotYet;
        for Again { session, sent, read, passage, inside } in self.again.extract_if(.., known) {
            let (seq, inside) = (passage.reply.seq, inside.as_ref());
            let settled = match clocks.ran(sent, read) {
                Ran::Even(_) => Settled::with_reply(seq, Outcome::Duplicate, &passage, inside),
                _ => Settled::over_a_step(seq, Outcome::Duplicate, &passage, inside),
            };
            sink.settled(session, settled);
        }
    }

    /// Ends the waits that are over at `now`; after [`confirm`](Self::confirm), because what is given up is settled as it stands.
    pub fn expire(&mut self, now: Time<Monotonic>, clocks: &Clocks, sink: &mut impl Sink) {
        let over = |since: Time<Monotonic>, wait: Duration| (now - since).as_nanos() >= wait.as_nanos() as i64;
        while let Some(&(since, session, seq)) = self.wanting.front()
            && over(since, self.patience.stamp)
        {
            self.wanting.pop_front();
            let entry = &mut self.sessions[session];
            if let Some(index) = entry.index(seq) {
                entry.window[index].wants.stamp = false;
                entry.settle_complete(session, index, sink);
            }
        }
        while let Some(&(since, session, seq)) = self.following.front()
            && over(since, self.patience.follow_up)
        {
            self.following.pop_front();
            let entry = &mut self.sessions[session];
            if let Some(index) = entry.index(seq) {
                entry.window[index].wants.follow_up = false;
                entry.settle_complete(session, index, sink);
            }
        }
        while let Some(&(since, session, seq)) = self.doubtful.front()
            && over(since, self.patience.word())
        {
            self.doubtful.pop_front();
            let entry = &mut self.sessions[session];
            if let Some(index) = entry.index(seq) {
                entry.give_up_word(index);
                entry.settle_complete(session, index, sink);
            }
        }
        while let Some(&(since, session)) = self.flights.front()
            && over(since, self.patience.keep())
        {
            self.flights.pop_front();
            self.sessions[session].retire(session, self.patience, clocks, sink);
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_expiry(&self) -> Option<Time<Monotonic>> {
        let after = |since: Time<Monotonic>, wait: Duration| since + Interval::from_nanos(wait.as_nanos() as i64);
        let stamp = self.wanting.front().map(|&(since, ..)| after(since, self.patience.stamp));
        let follow_up = self.following.front().map(|&(since, ..)| after(since, self.patience.follow_up));
        let word = self.doubtful.front().map(|&(since, ..)| after(since, self.patience.word()));
        let card = self.vouching.front().map(|&(since, ..)| after(since, self.patience.confirm));
        let flight = self.flights.front().map(|&(since, _)| after(since, self.patience.keep()));
        [stamp, follow_up, word, card, flight].into_iter().flatten().min()
    }

    /// Settles everything as it stands: the run is over.
    pub fn finish(&mut self, now: Time<Monotonic>, clocks: &Clocks, sink: &mut impl Sink) {
        self.confirm(now, clocks, sink);
        for waits in [&mut self.wanting, &mut self.following, &mut self.doubtful, &mut self.vouching] {
            waits.clear();
        }
        while let Some((_, session)) = self.flights.pop_front() {
            self.sessions[session].retire(session, self.patience, clocks, sink);
        }
    }
}

/// How long the word of a reflector on its card's clock takes beyond its next replies: it compares clocks four times a second.
const WORD: Duration = Duration::from_secs(1);

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
    /// How long packets are kept: for twice the timeout, that late replies are told from lost packets, and until their stamps can be confirmed.
    pub fn keep(&self) -> Duration {
        (self.timeout * 2).max(self.confirm).max(self.timeout + self.word())
    }

    /// How long the stamps of the reflector's card wait for its word: it knows a quarter of a second later, and says so in the reply after that.
    fn word(&self) -> Duration {
        if self.follow_up.is_zero() { Duration::ZERO } else { self.follow_up * 2 + WORD }
    }

    fn timeout(&self) -> Interval {
        Interval::from_nanos(self.timeout.as_nanos() as i64)
    }

    /// Whether no stamp is waited for any more.
    fn has_all(&self, departure: &Departure) -> bool {
        departure.a1_kernel.is_some() && (!self.nic || departure.a1_nic.is_some())
    }
}

#[cfg(test)]
mod tests;
