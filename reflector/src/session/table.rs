//! What a stateful Session-Reflector remembers of each session, in a bounded table: its own sequence number (RFC 8762 §4.3), what it
//! counted (RFC 8972 §4.5), and when its last replies left (§4.7).

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

use pathlab_record::{Interval, Monotonic, Plane, Planes, Stamp, Time};

/// A session that is silent for so long is over.
const IDLE: Interval = Interval::from_nanos(60_000_000_000);
/// A full table is searched for silent sessions no more often than this.
const SWEEP_EVERY: Interval = Interval::from_nanos(1_000_000_000);

/// What tells sessions apart: addresses, ports and SSID (RFC 8972 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) peer: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) local_port: u16,
    pub(super) ssid: u16,
}

struct Session {
    memory: Memory,
    last: Time<Monotonic>,
}

/// What is known of a session when a request of it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Number of the next reply, and how many there have been.
    pub(super) next: u32,
    /// Requests that came, this one among them.
    pub(super) received: u32,
    /// Replies that could not be sent.
    pub(super) unsent: u32,
    /// The last reply.
    pub(super) previous: Option<Departed>,
    /// The last reply of which more is known than B3 in user space; it may be an earlier one.
    pub(super) told: Option<Departed>,
}

/// When a departure's stamp came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The session's next reply will tell of it.
    InTime,
    /// That had been made.
    Late,
}

/// When a reply left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Departed {
    /// Its own number.
    pub(super) sequence: u32,
    /// The number of the request that it answered.
    pub(super) sender_sequence: u32,
    /// B3, by plane.
    pub(super) stamps: Planes,
}

/// At most so many sessions; a new one beyond finds no room until one has been silent for a minute.
pub(super) struct Sessions {
    most: usize,
    known: HashMap<Key, Session>,
    swept: Option<Time<Monotonic>>,
}

impl Sessions {
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: HashMap::new(), swept: None }
    }

    /// What is known of the session as its next reply is made, or `None` where it is new and there is no room.
    pub(super) fn next(&mut self, key: Key, now: Time<Monotonic>) -> Option<Memory> {
        if self.known.len() >= self.most && !self.known.contains_key(&key) {
            self.sweep(now);
        }
        let room = self.known.len() < self.most;
        let session = match self.known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if room => new.insert(Session { memory: Memory::default(), last: now }),
            Entry::Vacant(_) => return None,
        };
        if now - session.last > IDLE {
            session.memory = Memory::default();
        }
        session.last = now;
        let memory = &mut session.memory;
        memory.received = memory.received.wrapping_add(1);
        let known = *memory;
        memory.next = known.next.wrapping_add(1);
        Some(known)
    }

    /// A request of the session came and gets no reply; a session that is not known stays so.
    pub(super) fn refused(&mut self, key: &Key) {
        if let Some(session) = self.known.get_mut(key) {
            session.memory.received = session.memory.received.wrapping_add(1);
        }
    }

    /// The reply `sequence` to `sender_sequence` is about to be sent: B3 in user space.
    pub(super) fn sent(&mut self, key: &Key, sequence: u32, sender_sequence: u32, app: Stamp) {
        if let Some(session) = self.known.get_mut(key) {
            let stamps = Planes { app: Some(app), ..Planes::default() };
            session.memory.previous = Some(Departed { sequence, sender_sequence, stamps });
        }
    }

    /// The kernel did not take the reply that was last said to be sent.
    pub(super) fn unsent(&mut self, key: &Key, sequence: u32) {
        if let Some(session) = self.known.get_mut(key) {
            session.memory.unsent = session.memory.unsent.wrapping_add(1);
            session.memory.previous.take_if(|previous| previous.sequence == sequence);
        }
    }

    /// The reply `sequence` to `sender_sequence` has left, as `plane` says; whether that is known before the session's next reply is made.
    /// `None` where the session is not known any more.
    pub(super) fn departed(
        &mut self,
        key: &Key,
        sequence: u32,
        sender_sequence: u32,
        plane: Plane,
        stamp: Stamp,
    ) -> Option<Known> {
        let session = self.known.get_mut(key)?;
        let Memory { previous, told, .. } = &mut session.memory;
        let mut known = Known::Late;
        if let Some(previous) = previous.as_mut().filter(|previous| previous.sequence == sequence) {
            set(&mut previous.stamps, plane, stamp);
            known = Known::InTime;
        }
        match told {
            Some(told) if told.sequence == sequence => set(&mut told.stamps, plane, stamp),
            // a stamp of an earlier reply than the one that is told of comes too late
            Some(later) if sequence.wrapping_sub(later.sequence) >= 1 << 31 => {}
            _ => {
                let mut stamps = Planes::default();
                set(&mut stamps, plane, stamp);
                *told = Some(Departed { sequence, sender_sequence, stamps });
            }
        }
        Some(known)
    }

    fn sweep(&mut self, now: Time<Monotonic>) {
        if self.swept.is_some_and(|swept| now - swept < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.known.retain(|_, session| now - session.last <= IDLE);
    }
}

fn set(planes: &mut Planes, plane: Plane, stamp: Stamp) {
    *match plane {
        Plane::App => &mut planes.app,
        Plane::Sched => &mut planes.sched,
        Plane::Kernel => &mut planes.kernel,
        Plane::Xdp => &mut planes.xdp,
        Plane::Nic => &mut planes.nic,
    } = Some(stamp);
}

#[cfg(test)]
mod tests {
    use pathlab_record::{ClockId, Realtime};

    use super::*;

    fn key(port: u16) -> Key {
        Key { peer: ([192, 0, 2, 1], port).into(), local: None, local_port: 862, ssid: 0 }
    }

    fn app(nanos: i64) -> Stamp {
        Time::<Realtime>::from_nanos(nanos).into()
    }

    const fn second(n: i64) -> Time<Monotonic> {
        Time::from_nanos(n * 1_000_000_000)
    }

    fn number(sessions: &mut Sessions, port: u16, at: i64) -> Option<u32> {
        sessions.next(key(port), second(at)).map(|memory| memory.next)
    }

    #[test]
    fn each_session_counts_its_own_replies() {
        let mut sessions = Sessions::new(10);
        let numbers: Vec<_> = [1, 1, 2, 1, 2].map(|port| number(&mut sessions, port, 0).expect("room")).into();
        assert_eq!(numbers, [0, 1, 0, 2, 1]);
        assert_eq!(number(&mut sessions, 1, 61), Some(0), "over after a minute of silence");
    }

    #[test]
    fn a_session_counts_what_came_and_what_was_not_sent() {
        let mut sessions = Sessions::new(1);
        sessions.refused(&key(1));
        let first = sessions.next(key(1), second(0)).expect("room");
        assert_eq!((first.next, first.received, first.unsent), (0, 1, 0), "refused before it was known");
        sessions.refused(&key(1));
        sessions.sent(&key(1), 0, 70, app(5));
        sessions.unsent(&key(1), 0);
        let second = sessions.next(key(1), second(0)).expect("room");
        assert_eq!((second.next, second.received, second.unsent, second.previous), (1, 3, 1, None));
    }

    #[test]
    fn a_departure_is_told_once_its_stamps_have_come() {
        let mut sessions = Sessions::new(1);
        let stamp = |nanos| Stamp::new(nanos, ClockId::Realtime, 0);
        let depart = |sessions: &mut Sessions, sequence, plane, nanos| {
            sessions.departed(&key(1), sequence, sequence + 70, plane, stamp(nanos).expect("not zero"))
        };
        let next = |sessions: &mut Sessions| {
            let memory = sessions.next(key(1), second(0)).expect("room");
            sessions.sent(&key(1), memory.next, memory.next + 70, app(100 + i64::from(memory.next)));
            memory
        };
        assert_eq!(next(&mut sessions).previous, None);
        assert_eq!(depart(&mut sessions, 0, Plane::Kernel, 7), Some(Known::InTime));
        assert_eq!(depart(&mut sessions, 0, Plane::Nic, 8), Some(Known::InTime));
        let memory = next(&mut sessions);
        let stamps = Planes { kernel: stamp(7), nic: stamp(8), ..Planes::default() };
        assert_eq!(memory.told, Some(Departed { sequence: 0, sender_sequence: 70, stamps }));
        let stamps = Planes { app: stamp(100), ..stamps };
        assert_eq!(memory.previous, Some(Departed { sequence: 0, sender_sequence: 70, stamps }));

        // Replies 1 and 2 go out of one batch: when 2 is made, nothing is known of 1 but B3 in user space.
        let memory = next(&mut sessions);
        assert_eq!(memory.previous.map(|previous| (previous.sequence, previous.stamps.kernel)), Some((1, None)));
        assert_eq!(memory.told.map(|told| told.sequence), Some(0));
        assert_eq!(depart(&mut sessions, 2, Plane::Kernel, 9), Some(Known::InTime));
        assert_eq!(depart(&mut sessions, 1, Plane::Kernel, 8), Some(Known::Late));
        let memory = next(&mut sessions);
        assert_eq!(memory.told.map(|told| (told.sequence, told.stamps.kernel)), Some((2, stamp(9))));
        assert_eq!(sessions.departed(&key(2), 0, 0, Plane::Kernel, stamp(1).expect("not zero")), None);
    }

    #[test]
    fn a_full_table_keeps_who_is_in_and_lets_others_in_after_silence() {
        let mut sessions = Sessions::new(2);
        assert_eq!(number(&mut sessions, 1, 0), Some(0));
        assert_eq!(number(&mut sessions, 2, 0), Some(0));
        assert_eq!(number(&mut sessions, 3, 1), None);
        assert_eq!(number(&mut sessions, 1, 30), Some(1));
        assert_eq!(number(&mut sessions, 3, 61), Some(0), "takes the room of the silent one");
        assert_eq!(number(&mut sessions, 1, 61), Some(2));
        assert_eq!(number(&mut sessions, 2, 61), None);
    }
}
