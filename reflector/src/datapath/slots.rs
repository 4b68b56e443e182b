//! The registers in which a card keeps transmit stamps, as tickets: some cards have one, and a send that asks while it is taken gets no stamp.
//!
//! So not every send asks. [`TransmitSlots`] is shared by all sockets of a card and hands out as many tickets as the driver has registers;
//! a ticket comes back with its stamp, or after a second, which is when drivers give up themselves.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pathlab_record::{Interval, Monotonic, Time};

/// How long a stamp may take: i40e and ixgbe clear a stuck transmit stamp after a second or more (`i40e_ptp_tx_hang`, `ixgbe_ptp_tx_hang`).
const PATIENCE: Interval = Interval::from_nanos(1_000_000_000);

/// One send among all sockets of a card: the socket's descriptor and the send's number.
pub(super) type Ticket = (i32, u32);

/// How many transmit stamps of the card may be on their way at once. Clones share the slots.
#[derive(Clone)]
pub struct TransmitSlots(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// `None`: as many as one likes.
    limit: Option<usize>,
    taken: VecDeque<(Ticket, Time<Monotonic>)>,
    counts: SlotCounts,
}

/// What became of the sends through [`TransmitSlots`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Sends.
    pub sends: u64,
    /// Those that asked the card for a stamp; the others found every slot taken.
    pub asked: u64,
    /// Those whose stamp came.
    pub stamped: u64,
    /// Those whose stamp had not come after a second.
    pub overdue: u64,
}

impl TransmitSlots {
    /// `limit` stamps on their way at once; `None` for cards that report each with its packet's completion.
    pub fn new(limit: Option<u32>) -> Self {
        Self(Arc::new(Mutex::new(State { limit: limit.map(|limit| limit as usize), ..State::default() })))
    }

    /// The account so far.
    pub fn counts(&self) -> SlotCounts {
        self.state().counts
    }

    /// Whether this send may ask. Its ticket is out then.
    pub(super) fn take(&self, ticket: Ticket, now: Time<Monotonic>) -> bool {
        let mut state = self.state();
        state.counts.sends += 1;
        let free = state.limit.is_none_or(|limit| {
            while state.taken.front().is_some_and(|(_, since)| now - *since >= PATIENCE) {
                state.taken.pop_front();
                state.counts.overdue += 1;
            }
            state.taken.len() < limit
        });
        if free {
            state.counts.asked += 1;
            if state.limit.is_some() {
                state.taken.push_back((ticket, now));
            }
        }
        free
    }

    /// The send of this ticket did not leave.
    pub(super) fn give_back(&self, ticket: Ticket) {
        let mut state = self.state();
        state.counts.sends -= 1;
        let before = state.taken.len();
        state.taken.retain(|(taken, _)| *taken != ticket);
        // Without a limit there are no tickets: every send asked.
        if state.limit.is_none() || state.taken.len() < before {
            state.counts.asked -= 1;
        }
    }

    /// The stamp of this ticket came.
    pub(super) fn arrived(&self, ticket: Ticket) {
        let mut state = self.state();
        state.counts.stamped += 1;
        state.taken.retain(|(taken, _)| *taken != ticket);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two of its statements' effects that matter: counts and a queue.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TransmitSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

/// The same slots, not only as many.
impl PartialEq for TransmitSlots {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TransmitSlots {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Time<Monotonic> {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn one_slot_is_asked_again_when_its_stamp_has_come_or_its_second_is_over() {
        let slots = TransmitSlots::new(Some(1));
        let other_socket = slots.clone();
        assert!(slots.take((3, 0), at(0)));
        assert!(!other_socket.take((4, 0), at(1)), "one card, one register");
        slots.arrived((3, 0));
        assert!(other_socket.take((4, 1), at(2)));
        assert!(!slots.take((3, 1), at(1001)));
        assert!(slots.take((3, 2), at(1002)));
        assert_eq!(slots.counts(), SlotCounts { sends: 5, asked: 3, stamped: 1, overdue: 1 });
    }

    #[test]
    fn a_send_that_did_not_leave_holds_no_slot_and_was_none() {
        for limit in [Some(1), None] {
            let slots = TransmitSlots::new(limit);
            assert!(slots.take((3, 0), at(0)));
            slots.give_back((3, 0));
            assert_eq!(slots.counts(), SlotCounts::default());
            assert!(slots.take((3, 1), at(0)));
        }
    }

    #[test]
    fn four_slots_are_four_and_no_limit_is_none() {
        let four = TransmitSlots::new(Some(4));
        assert_eq!((0..9).filter(|id| four.take((3, *id), at(0))).count(), 4);
        let many = TransmitSlots::new(None);
        assert_eq!((0..9).filter(|id| many.take((3, *id), at(0))).count(), 9);
    }
}
