//! Replies that are to end on their way back, and what came of them: bounded in number, in rate, and in how long they are remembered.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use pathlab_record::{Interval, Monotonic, Realtime, Time};

use super::{
    limit::{Limiter, Limits, RateLimit},
    table::Key,
};
use crate::wire::{MOST_REPORTS, ReturnReport};

/// Replies a second that may leave with a Hop Limit that was asked for: to one source, and in all.
const RATE: (u32, u32) = (200, 1000);
/// Sessions that may trace at the same time; one that is silent for [`IDLE`] makes room.
const MOST_SESSIONS: usize = 256;
const IDLE: Interval = Interval::from_nanos(60_000_000_000);
/// What nobody has answered after so long is told to be silent.
const PATIENCE: Interval = Interval::from_nanos(2_000_000_000);
/// Replies of a session that wait for their error, and reports that wait to be told.
const MOST_WAITING: usize = 512;
/// How often a report is told, as the reply that tells it may be lost.
const TELLINGS: u8 = 3;

/// How many replies were to end on their way, for the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReturnTraceCounts {
    /// Replies that left with the Hop Limit that was asked for.
    pub limited: u64,
    /// Replies that left with the usual one, because there were too many of late or too many sessions.
    pub refused: u64,
    /// Errors of routers about such replies.
    pub answered: u64,
}

/// What a reply tells, and how it is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Hop Limit of this reply; 0: the usual one.
    pub(super) given: u8,
    pub(super) limited: u32,
    pub(super) refused: u32,
    reports: [ReturnReport; MOST_REPORTS],
    count: usize,
}

impl Told {
    pub(super) fn reports(&self) -> &[ReturnReport] {
        &self.reports[..self.count]
    }
}

/// All sessions that trace.
pub(super) struct ReturnTraces {
    sessions: HashMap<Key, Session>,
    limiter: Limiter,
    counts: ReturnTraceCounts,
}

struct Session {
    last: Time<Monotonic>,
    limited: u32,
    refused: u32,
    waiting: VecDeque<Waiting>,
    /// With how often it has been told.
    reports: VecDeque<(ReturnReport, u8)>,
}

#[derive(Clone, Copy)]
struct Waiting {
    sequence: u32,
    sender_sequence: u32,
    sent: Time<Realtime>,
    asked: Time<Monotonic>,
}

/// An error about a reply, as the socket's error queue has it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyError<'a> {
    /// Where the reply was sent.
    pub peer: SocketAddr,
    /// Who says so.
    pub from: IpAddr,
    /// Type and code of the ICMP or ICMPv6 message.
    pub kind: (u8, u8),
    /// When it came.
    pub at: Time<Realtime>,
    /// What it quotes of the reply.
    pub quoted: &'a [u8],
}

impl ReturnTraces {
    pub(super) fn new() -> Self {
        let rate = |number| Some(RateLimit::per_second(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)));
        let limits = Limits { source: rate(RATE.0), prefix: None, total: rate(RATE.1) };
        Self { sessions: HashMap::new(), limiter: Limiter::new(limits), counts: ReturnTraceCounts::default() }
    }

    pub(super) fn counts(&self) -> ReturnTraceCounts {
        self.counts
    }

    /// An authentic request of a session asks that its reply leave with `hop_limit`, and has room for so many reports. `None` where there is no room
    /// for a further session.
    pub(super) fn ask(&mut self, key: Key, hop_limit: u8, room: usize, now: Time<Monotonic>) -> Option<Told> {
        if !self.sessions.contains_key(&key) {
            if self.sessions.len() >= MOST_SESSIONS {
                self.sessions.retain(|_, session| now - session.last <= IDLE);
            }
            if self.sessions.len() >= MOST_SESSIONS {
                self.counts.refused += u64::from(hop_limit > 0);
                return None;
            }
        }
        let admitted = hop_limit > 0 && self.limiter.admit(key.peer.ip(), now).is_ok();
        let empty =
            || Session { last: now, limited: 0, refused: 0, waiting: VecDeque::new(), reports: VecDeque::new() };
        let session = self.sessions.entry(key).or_insert_with(empty);
        if now - session.last > IDLE {
            *session = empty();
        }
        session.last = now;
        session.settle(now);
        session.limited = session.limited.wrapping_add(u32::from(admitted));
        session.refused = session.refused.wrapping_add(u32::from(hop_limit > 0 && !admitted));
        self.counts.limited += u64::from(admitted);
        self.counts.refused += u64::from(hop_limit > 0 && !admitted);
        let mut told = Told {
            given: if admitted { hop_limit } else { 0 },
            limited: session.limited,
            refused: session.refused,
            reports: [ReturnReport::silent(0); MOST_REPORTS],
            count: 0,
        };
        // What is to end on its way tells nobody anything.
        if !admitted {
            told.count = session.tell(&mut told.reports[..room.min(MOST_REPORTS)]);
        }
        Some(told)
    }

    /// A reply that is to end on its way is about to be sent.
    pub(super) fn sent(&mut self, key: &Key, sequence: u32, sender_sequence: u32, sent: Time<Realtime>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.waiting.len() == MOST_WAITING {
            session.waiting.pop_front();
        }
        let asked = session.last;
        session.waiting.push_back(Waiting { sequence, sender_sequence, sent, asked });
    }

    /// The kernel did not take it.
    pub(super) fn unsent(&mut self, key: &Key, sequence: u32) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.waiting.retain(|waiting| waiting.sequence != sequence);
        }
    }

    /// An error came about a reply; one that quotes no Sequence Number, or of no reply that waits, says nothing.
    pub(super) fn error(&mut self, error: &ReplyError<'_>) {
        let Some(sequence) = error.quoted.first_chunk().map(|octets| u32::from_be_bytes(*octets)) else { return };
        // The SSID stands in octets 26 and 27 of an authenticated base packet.
        let ssid = error.quoted.get(26..28);
        for (key, session) in &mut self.sessions {
            if key.peer != error.peer || ssid.is_some_and(|ssid| *ssid != key.ssid.to_be_bytes()) {
                continue;
            }
            let Some(place) = session.waiting.iter().position(|waiting| waiting.sequence == sequence) else { continue };
            let Some(Waiting { sender_sequence, sent, .. }) = session.waiting.remove(place) else { continue };
            let after = Duration::from_nanos(u64::try_from((error.at - sent).as_nanos()).unwrap_or(0));
            session.report(ReturnReport::answered(sender_sequence, error.from, error.kind, after));
            self.counts.answered += 1;
            return;
        }
    }
}

impl Session {
    /// What has waited long enough is silent.
    fn settle(&mut self, now: Time<Monotonic>) {
        while let Some(waiting) = self.waiting.front().copied().filter(|waiting| now - waiting.asked > PATIENCE) {
            self.waiting.pop_front();
            self.report(ReturnReport::silent(waiting.sender_sequence));
        }
    }

    fn report(&mut self, report: ReturnReport) {
        if self.reports.len() == MOST_WAITING {
            self.reports.pop_front();
        }
        self.reports.push_back((report, 0));
    }

    /// Fills `room` with reports, those first that have been told least often; how many.
    fn tell(&mut self, room: &mut [ReturnReport]) -> usize {
        let mut order: Vec<usize> = (0..self.reports.len()).collect();
        order.sort_by_key(|place| self.reports[*place].1);
        let count = order.len().min(room.len());
        for (room, place) in room.iter_mut().zip(order) {
            let (report, told) = &mut self.reports[place];
            *room = *report;
            *told += 1;
        }
        self.reports.retain(|(_, told)| *told < TELLINGS);
        count
    }
}
