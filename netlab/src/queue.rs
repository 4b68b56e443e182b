//! Queues as pure code: time and packets go in, packets come out, and each packet that is dropped comes back with its reason.
//!
//! Nothing here reads a clock or draws a random number, so the same arrivals give the same drops on any machine.

use std::time::Duration;

mod codel;
mod droptail;
mod fq_codel;
mod ring;
mod token_bucket;

pub use codel::{Codel, CodelParameters, Flavour};
pub use droptail::DropTail;
pub use fq_codel::{FqCodel, FqCodelParameters};
pub use ring::{Advice, Burst, Ring, RingOutcome};
pub use token_bucket::TokenBucket;

/// A packet as a queue sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The caller's number for it.
    pub id: u64,
    /// Bytes that it takes on the link.
    pub bytes: u32,
    /// Hash of the flow that it belongs to.
    pub flow: u32,
    /// Its ECN field allows a mark instead of a drop (RFC 3168, section 5).
    pub ecn_capable: bool,
}

/// Why a packet is not delivered as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Refused on arrival: the queue was full.
    Overflow,
    /// Dropped on departure: packets have waited too long.
    Dropped,
    /// Delivered with the congestion mark.
    Marked,
}

/// Told of every packet that is dropped or marked.
pub trait Observer {
    /// `packet` met `signal` at `now`.
    fn signal(&mut self, now: Duration, packet: Packet, signal: Signal);
}

impl Observer for Vec<(Duration, Packet, Signal)> {
    fn signal(&mut self, now: Duration, packet: Packet, signal: Signal) {
        self.push((now, packet, signal));
    }
}

/// A queue in front of a link. `now` never goes back from one call to the next.
pub trait Queue: Send {
    /// A packet arrives.
    fn enqueue(&mut self, now: Duration, packet: Packet, observer: &mut dyn Observer);

    /// The link is free: the packet to send next.
    fn dequeue(&mut self, now: Duration, observer: &mut dyn Observer) -> Option<Packet>;

    /// Packets that wait.
    fn packets(&self) -> usize;

    /// Bytes that wait.
    fn bytes(&self) -> u64;
}

#[cfg(test)]
mod vectors {
    //! Arrivals at a steady pace through a link that takes a fixed time for each packet.

    use super::*;

    /// What came of a run.
    pub(super) struct Run {
        pub(super) offered: u64,
        pub(super) signals: Vec<(Duration, Packet, Signal)>,
        pub(super) longest_wait: Duration,
    }

    impl Run {
        pub(super) fn first(&self, count: usize) -> Vec<(u64, f64)> {
            let at = |(now, packet, _): &(Duration, Packet, Signal)| (packet.id, now.as_nanos() as f64 / 1e6);
            self.signals.iter().take(count).map(at).collect()
        }
    }

    /// One packet of `bytes` every `gap` for `length`, numbered from 0; the link takes `service` for each. A departure comes before an arrival at
    /// the same instant.
    pub(super) fn run(queue: &mut dyn Queue, bytes: u32, gap: Duration, service: Duration, length: Duration) -> Run {
        let mut run = Run { offered: 0, signals: Vec::new(), longest_wait: Duration::ZERO };
        let mut free_at = Duration::ZERO;
        loop {
            let arrival = gap * run.offered as u32;
            if arrival >= length && queue.packets() == 0 {
                return run;
            }
            if queue.packets() > 0 && (free_at <= arrival || arrival >= length) {
                if let Some(packet) = queue.dequeue(free_at, &mut run.signals) {
                    run.longest_wait = run.longest_wait.max(free_at - gap * packet.id as u32);
                    free_at += service;
                }
                continue;
            }
            let packet = Packet { id: run.offered, bytes, flow: 0, ecn_capable: false };
            run.offered += 1;
            queue.enqueue(arrival, packet, &mut run.signals);
            free_at = free_at.max(arrival);
        }
    }
}
