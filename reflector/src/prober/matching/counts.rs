//! What became of the packets of one session, as numbers.

use serde::{Deserialize, Serialize};

/// Counts of one session. `sent = received + late + lost()` once all is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Answered, and `CLOCK_REALTIME` of the probe was set while they were away: of the probe's stamps only the slot is left.
    #[serde(default)]
    pub clock_steps: u64,
    /// Answered, and the card's stamps were taken back: its clock or the system's had stepped since they were last compared.
    #[serde(default)]
    pub nic_void: u64,
    /// Answered, and the card's stamps were left out because no comparison of the clocks came in time to confirm them.
    #[serde(default)]
    pub nic_unconfirmed: u64,
    /// Answered, and the stamps of the reflector's card were left out, because it said that one of its clocks had stepped.
    #[serde(default)]
    pub reflector_nic_void: u64,
    /// Answered, and the stamps of the reflector's card were left out, because no later reply of it came in time to confirm them.
    #[serde(default)]
    pub reflector_nic_unconfirmed: u64,
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
        self.clock_steps += other.clock_steps;
        self.nic_void += other.nic_void;
        self.nic_unconfirmed += other.nic_unconfirmed;
        self.reflector_nic_void += other.reflector_nic_void;
        self.reflector_nic_unconfirmed += other.reflector_nic_unconfirmed;
    }
}
