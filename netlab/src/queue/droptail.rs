//! First in, first out, and whoever finds it full is refused: what most bottlenecks do.

use std::{collections::VecDeque, time::Duration};

use super::{Observer, Packet, Queue, Signal};
use crate::qdisc::Limit;

/// A tail-drop queue, as the kernel's pfifo or bfifo.
#[derive(Clone, Debug)]
pub struct DropTail {
    limit: Limit,
    waiting: VecDeque<Packet>,
    bytes: u64,
}

impl DropTail {
    /// An empty queue that holds `limit`.
    pub fn new(limit: Limit) -> Self {
        Self { limit, waiting: VecDeque::new(), bytes: 0 }
    }
}

impl Queue for DropTail {
    fn enqueue(&mut self, now: Duration, packet: Packet, observer: &mut dyn Observer) {
        let fits = match self.limit {
            Limit::Packets(packets) => self.waiting.len() < packets as usize,
            Limit::Bytes(bytes) => self.bytes + u64::from(packet.bytes) <= u64::from(bytes),
        };
        if !fits {
            return observer.signal(now, packet, Signal::Overflow);
        }
        self.bytes += u64::from(packet.bytes);
        self.waiting.push_back(packet);
    }

    fn dequeue(&mut self, _now: Duration, _observer: &mut dyn Observer) -> Option<Packet> {
        let packet = self.waiting.pop_front()?;
        self.bytes -= u64::from(packet.bytes);
        Some(packet)
    }

    fn packets(&self) -> usize {
        self.waiting.len()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{super::vectors::run, *};

    #[test]
    fn a_full_queue_waits_its_length_over_its_rate() {
        // 50 packets of 1500 bytes at 10 Mbit/s: the last one waits while the 50 before it are sent.
        let mut queue = DropTail::new(Limit::Packets(50));
        let service = Duration::from_micros(1200);
        let run = run(&mut queue, 1500, Duration::from_micros(600), service, Duration::from_secs(2));
        assert_eq!(run.longest_wait, Duration::from_millis(60));
        let delivered = run.offered - run.signals.len() as u64;
        // Two seconds of the link, and what the queue still held.
        assert_eq!(delivered, 2_000_000 / 1200 + 1 + 50);
    }

    #[test]
    fn a_limit_in_bytes_refuses_the_large_before_the_small() {
        let mut queue = DropTail::new(Limit::Bytes(3000));
        let mut signals = Vec::new();
        for (id, bytes) in [(0, 1500), (1, 1400), (2, 1500), (3, 100), (4, 1)] {
            queue.enqueue(Duration::ZERO, Packet { id, bytes, flow: 0, ecn_capable: false }, &mut signals);
        }
        assert_eq!(signals.iter().map(|(_, packet, _)| packet.id).collect::<Vec<_>>(), [2, 4]);
        assert_eq!((queue.packets(), queue.bytes()), (3, 3000));
    }
}
