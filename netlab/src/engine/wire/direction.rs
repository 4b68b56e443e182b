//! One direction of a link with the frames in it, without a socket or a clock: frames and their stamps go in, and come out with the time at which they are due.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::frame::{self, Seen};
use crate::{
    engine::{
        LinkCount,
        line::{Departure, Line},
    },
    queue::{Packet, Signal},
};

/// What a frame meets between the end of its sending and the other end; called with that time and whether it is IPv6. `None`: it is lost.
pub(super) type Way = Box<dyn FnMut(Duration, bool) -> Option<Duration> + Send>;

/// A frame that waits or is on its way.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    is_ipv6: bool,
}

/// A queue, a rate, a way, and the frames in them.
pub(super) struct Direction {
    line: Line,
    way: Way,
    held: Vec<Held>,
    /// Places in `held` that can be used again.
    free: Vec<usize>,
    /// When each frame on its way is due, those of one instant in their order, and its place.
    flights: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    order: u64,
    /// The latest time that the line has seen.
    clock: Duration,
    signals: Vec<(Duration, Packet, Signal)>,
    count: LinkCount,
}

impl Direction {
    /// Empty.
    pub(super) fn new(line: Line, way: Way) -> Self {
        Self {
            line,
            way,
            held: Vec::new(),
            free: Vec::new(),
            flights: BinaryHeap::new(),
            order: 0,
            clock: Duration::ZERO,
            signals: Vec::new(),
            count: LinkCount::default(),
        }
    }

    /// A frame that was received at `stamp`. Stamps may go back by a little: two processors stamp, and one of them hands over first.
    pub(super) fn arrive(&mut self, stamp: Duration, bytes: &[u8]) {
        // What was sent until then has left the queue, whether anybody has looked or not.
        self.advance(stamp);
        let now = stamp.max(self.clock);
        self.clock = now;
        let place = self.free.pop().unwrap_or_else(|| {
            self.held.push(Held::default());
            self.held.len() - 1
        });
        let Seen { packet, is_ipv6 } = frame::see(bytes, place as u64);
        let held = &mut self.held[place];
        held.bytes.clear();
        held.bytes.extend_from_slice(bytes);
        held.is_ipv6 = is_ipv6;
        self.line.arrive(now, packet, &mut self.signals);
        self.settle();
        self.advance(now);
    }

    /// Lets the line send what it sends until `to`, each packet at its own time.
    pub(super) fn advance(&mut self, to: Duration) {
        while let Some(Departure { packet, start, end }) = self.line.depart(to, &mut self.signals) {
            self.clock = self.clock.max(start);
            self.settle();
            self.count.sent += 1;
            let place = packet.id as usize;
            match (self.way)(end, self.held[place].is_ipv6) {
                Some(due) => {
                    self.order += 1;
                    self.flights.push(Reverse((due, self.order, place)));
                }
                None => {
                    self.count.lost += 1;
                    self.free.push(place);
                }
            }
        }
        self.settle();
    }

    /// The next frame that is due at `now` at the latest: hands it to `send` with the time at which it was due.
    pub(super) fn release<T>(&mut self, now: Duration, send: impl FnOnce(Duration, &[u8]) -> T) -> Option<T> {
        let Reverse((due, _, place)) = *self.flights.peek()?;
        if due > now {
            return None;
        }
        self.flights.pop();
        self.free.push(place);
        Some(send(due, &self.held[place].bytes))
    }

    /// When a frame is due next.
    pub(super) fn due(&self) -> Option<Duration> {
        self.flights.peek().map(|Reverse((due, ..))| *due)
    }

    /// When something has to be looked at next: a frame that is due, or one whose sending starts.
    pub(super) fn next(&self) -> Option<Duration> {
        let starts = self.line.next().filter(|_| self.line.waiting() > 0);
        [self.due(), starts].into_iter().flatten().min()
    }

    /// What it did so far.
    pub(super) fn count(&self) -> LinkCount {
        self.count
    }

    /// Counts what the queue said, marks what is to be marked, and forgets what was dropped.
    fn settle(&mut self) {
        for (_, packet, signal) in self.signals.drain(..) {
            let place = packet.id as usize;
            match signal {
                Signal::Overflow => self.count.overflowed += 1,
                Signal::Dropped => self.count.dropped += 1,
                Signal::Marked => {
                    self.count.marked += 1;
                    frame::mark(&mut self.held[place].bytes);
                    continue;
                }
            }
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{qdisc::Limit, queue::DropTail};

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn direction(rate: Option<u64>, packets: u32, delay: Duration) -> Direction {
        let line = Line::new(rate, Box::new(DropTail::new(Limit::Packets(packets))));
        Direction::new(line, Box::new(move |sent, _| Some(sent + delay)))
    }

    fn due(direction: &mut Direction, now: Duration) -> Vec<(Duration, u8)> {
        std::iter::from_fn(|| direction.release(now, |due, bytes| (due, bytes[0]))).collect()
    }

    /// 1250 bytes at 10 Mbit/s take 1 ms.
    #[test]
    fn nobody_looking_for_long_changes_no_time_and_no_drop() {
        let run = |looks: &[u64]| {
            let mut direction = direction(Some(10_000_000), 5, 7 * MILLISECOND);
            let mut out = Vec::new();
            let mut looks = looks.iter().map(|at| Duration::from_micros(*at)).peekable();
            // Twice as many as the line takes.
            for number in 0..40_u8 {
                let arrival = Duration::from_micros(500) * u32::from(number);
                while let Some(look) = looks.next_if(|look| *look <= arrival) {
                    direction.advance(look);
                    out.extend(due(&mut direction, look));
                }
                direction.arrive(arrival, &[number; 1250]);
            }
            direction.advance(Duration::from_secs(1));
            out.extend(due(&mut direction, Duration::from_secs(1)));
            (out, direction.count())
        };
        let seldom = run(&[]);
        let often = run(&(0..400).map(|look| look * 50 + 13).collect::<Vec<_>>());
        assert_eq!(seldom, often);
        let (out, count) = seldom;
        assert_eq!((count.sent + count.overflowed, out.len() as u64), (40, count.sent));
        let times: Vec<_> = out.iter().map(|(due, _)| *due).collect();
        assert!(times.iter().zip(1..).all(|(due, number)| *due == (7 + number) * MILLISECOND), "{times:?}");
    }

    #[test]
    fn a_held_back_frame_is_overtaken() {
        let line = Line::new(None, Box::new(DropTail::new(Limit::Packets(u32::MAX))));
        let mut number = 0;
        let way = move |sent, _| {
            number += 1;
            (number != 3).then_some(sent + if number == 1 { 5 * MILLISECOND } else { MILLISECOND })
        };
        let mut direction = Direction::new(line, Box::new(way));
        for number in 0..4_u8 {
            direction.arrive(MILLISECOND * u32::from(number), &[number; 60]);
        }
        assert_eq!(direction.next(), Some(2 * MILLISECOND));
        let out: Vec<u8> = due(&mut direction, Duration::from_secs(1)).into_iter().map(|(_, number)| number).collect();
        assert_eq!(out, [1, 3, 0]);
        assert_eq!((direction.count().sent, direction.next()), (4, None));
    }

    #[test]
    fn a_stamp_that_goes_back_is_taken_for_the_latest_seen() {
        let mut direction = direction(None, u32::MAX, MILLISECOND);
        direction.arrive(5 * MILLISECOND, &[0; 60]);
        direction.arrive(4 * MILLISECOND, &[1; 60]);
        assert_eq!(due(&mut direction, Duration::from_secs(1)), [(6 * MILLISECOND, 0), (6 * MILLISECOND, 1)]);
    }

    #[test]
    fn places_are_used_again() {
        let mut direction = direction(Some(1_000_000_000), 2, MILLISECOND);
        for number in 0..1000 {
            let now = MILLISECOND * 3 * number;
            (0..4).for_each(|_| direction.arrive(now, &[7; 1000]));
            direction.advance(now + MILLISECOND * 2);
            due(&mut direction, now + MILLISECOND * 2);
        }
        assert!(direction.held.len() <= 4, "{}", direction.held.len());
        assert_eq!(direction.count().sent + direction.count().overflowed, 4000);
    }
}
