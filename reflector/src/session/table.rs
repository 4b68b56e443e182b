//! What a stateful Session-Reflector remembers of each session: its own sequence number (RFC 8762 §4.3), in a bounded table.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

use pathlab_record::{Interval, Monotonic, Time};

/// A session that is silent for so long is over.
const IDLE: Interval = Interval::from_nanos(60_000_000_000);
/// A full table is searched for silent sessions no more often than this.
const SWEEP_EVERY: Interval = Interval::from_nanos(1_000_000_000);

/// What tells sessions apart: addresses, ports and SSID (RFC 8972 §3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) peer: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) local_port: u16,
    pub(super) ssid: u16,
}

struct Session {
    next: u32,
    last: Time<Monotonic>,
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

    /// The number of the next reply in the session, or `None` where it is new and there is no room.
    pub(super) fn next(&mut self, key: Key, now: Time<Monotonic>) -> Option<u32> {
        if self.known.len() >= self.most && !self.known.contains_key(&key) {
            self.sweep(now);
        }
        let room = self.known.len() < self.most;
        let session = match self.known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if room => new.insert(Session { next: 0, last: now }),
            Entry::Vacant(_) => return None,
        };
        if now - session.last > IDLE {
            session.next = 0;
        }
        let number = session.next;
        session.next = number.wrapping_add(1);
        session.last = now;
        Some(number)
    }

    fn sweep(&mut self, now: Time<Monotonic>) {
        if self.swept.is_some_and(|swept| now - swept < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.known.retain(|_, session| now - session.last <= IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        Key { peer: ([192, 0, 2, 1], port).into(), local: None, local_port: 862, ssid: 0 }
    }

    const fn second(n: i64) -> Time<Monotonic> {
        Time::from_nanos(n * 1_000_000_000)
    }

    #[test]
    fn each_session_counts_its_own_replies() {
        let mut sessions = Sessions::new(10);
        let numbers: Vec<_> = [1, 1, 2, 1, 2].map(|port| sessions.next(key(port), second(0)).expect("room")).into();
        assert_eq!(numbers, [0, 1, 0, 2, 1]);
        assert_eq!(sessions.next(key(1), second(61)), Some(0), "over after a minute of silence");
    }

    #[test]
    fn a_full_table_keeps_who_is_in_and_lets_others_in_after_silence() {
        let mut sessions = Sessions::new(2);
        assert_eq!(sessions.next(key(1), second(0)), Some(0));
        assert_eq!(sessions.next(key(2), second(0)), Some(0));
        assert_eq!(sessions.next(key(3), second(1)), None);
        assert_eq!(sessions.next(key(1), second(30)), Some(1));
        assert_eq!(sessions.next(key(3), second(61)), Some(0), "takes the room of the silent one");
        assert_eq!(sessions.next(key(1), second(61)), Some(2));
        assert_eq!(sessions.next(key(2), second(61)), None);
    }
}
