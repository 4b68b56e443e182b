//! A queue and the rate at which it is sent, in logical time alone.
//!
//! ```text
//!  arrive ─► queue ─► depart: one packet after another at the rate
//! ```
//!
//! The next packet's sending starts at the logical end of the one before, not when somebody looked: whoever calls late gets the times that would have
//! been, so that being late does not add up.

use std::time::Duration;

use crate::{
    qdisc::Limit,
    queue::{Codel, CodelParameters, DropTail, FqCodel, FqCodelParameters, Observer, Packet, Queue},
    scenario::{Bottleneck, Discipline, LinkEnd},
};

/// A packet that is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The packet.
    pub packet: Packet,
    /// When its sending started.
    pub start: Duration,
    /// When its sending ends, and that of the next may start.
    pub end: Duration,
}

/// One direction of a link. Times never go back from one call to the next.
pub struct Line {
    /// Bits per second; as fast as it goes when absent.
    rate: Option<u64>,
    queue: Box<dyn Queue>,
    /// When the next sending may start; absent while nothing is sent and nothing waits.
    next: Option<Duration>,
}

impl Line {
    /// An idle line. `rate` is in bits per second and not zero; a line without one never lets anything wait.
    pub fn new(rate: Option<u64>, queue: Box<dyn Queue>) -> Self {
        Self { rate, queue, next: None }
    }

    /// The idle line of a link end; `mtu` is that of its link.
    pub fn of(end: &LinkEnd, mtu: u32) -> Self {
        match end.egress {
            Some(egress) => Self::new(Some(egress.rate), queue(egress, mtu)),
            // Nothing waits in it.
            None => Self::new(None, Box::new(DropTail::new(Limit::Packets(u32::MAX)))),
        }
    }

    /// A packet comes at `now`. True where the line was idle: it may depart at once.
    pub fn arrive(&mut self, now: Duration, packet: Packet, observer: &mut dyn Observer) -> bool {
        self.queue.enqueue(now, packet, observer);
        let idle = self.next.is_none();
        self.next.get_or_insert(now);
        idle
    }

    /// When the next sending starts, if it is not later than `to`: the packet that is sent then. `None` where there is none; its queue may then
    /// hold nothing, or the line be busy beyond `to`.
    pub fn depart(&mut self, to: Duration, observer: &mut dyn Observer) -> Option<Departure> {
        let start = self.next.filter(|next| *next <= to)?;
        let Some(packet) = self.queue.dequeue(start, observer) else {
            self.next = None;
            return None;
        };
        let end = start + self.takes(packet.bytes);
        self.next = Some(end);
        Some(Departure { packet, start, end })
    }

    /// When [`Line::depart`] has something to do next; `None` while the line is idle.
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.queue.packets()
    }

    fn takes(&self, bytes: u32) -> Duration {
        self.rate
            .map_or(Duration::ZERO, |rate| Duration::from_nanos((u64::from(bytes) * 8 * 1_000_000_000).div_ceil(rate)))
    }
}

/// The queue of a link end whose packets are of `mtu` bytes at most.
fn queue(egress: Bottleneck, mtu: u32) -> Box<dyn Queue> {
    // an Ethernet frame
    let mtu = mtu + 14;
    let codel = CodelParameters { mtu, ..CodelParameters::default() };
    match egress.queue {
        Discipline::TailDrop(limit) => Box::new(DropTail::new(limit)),
        Discipline::Codel(flavour) => Box::new(Codel::new(flavour, codel)),
        Discipline::FqCodel(flavour) => {
            let default = FqCodelParameters::default();
            let codel = CodelParameters { mtu, ..default.codel };
            Box::new(FqCodel::new(flavour, FqCodelParameters { codel, quantum: mtu, ..default }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    fn packet(id: u64) -> Packet {
        Packet { id, bytes: 1250, flow: 0, ecn_capable: false }
    }

    fn line(rate: Option<u64>) -> Line {
        Line::new(rate, Box::new(DropTail::new(Limit::Packets(100))))
    }

    /// 1250 bytes at 10 Mbit/s take 1 ms.
    #[test]
    fn whoever_looks_late_gets_the_times_that_would_have_been() {
        let mut line = line(Some(10_000_000));
        for id in 0..5 {
            line.arrive(MICROSECOND * id as u32, packet(id), &mut Vec::new());
        }
        let departures: Vec<_> =
            std::iter::from_fn(|| line.depart(Duration::from_secs(1), &mut Vec::new())).map(|d| d.end).collect();
        assert_eq!(departures, (1..6).map(Duration::from_millis).collect::<Vec<_>>());
        assert_eq!(line.next(), None);
        // Idle since: the next one starts when it comes.
        let late = Duration::from_millis(77);
        assert!(line.arrive(late, packet(9), &mut Vec::new()));
        assert_eq!(line.depart(late, &mut Vec::new()).map(|d| d.start), Some(late));
        assert_eq!(line.depart(late, &mut Vec::new()), None);
        assert_eq!(line.next(), Some(late + Duration::from_millis(1)));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut line = line(None);
        for id in 0..3 {
            let now = MICROSECOND * id as u32;
            line.arrive(now, packet(id), &mut Vec::new());
            let departure = line.depart(now, &mut Vec::new()).expect("at once");
            assert_eq!((departure.start, departure.end), (now, now));
            assert_eq!(line.depart(now, &mut Vec::new()), None);
        }
    }
}
