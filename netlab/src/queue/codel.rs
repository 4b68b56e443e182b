//! CoDel in two faithful versions, because they do not drop the same packets: as RFC 8289 writes it, and as Linux computes it.
//!
//! Linux counts time in units of 1,024 ns, holds 1/√count in 16 bits and improves it by one Newton step a drop, which is far off for small
//! counts (include/net/codel_impl.h). Its third interval is 49 ms where the RFC's is 70.7 ms.

mod law;

use std::{collections::VecDeque, time::Duration};

use law::{Instant, Law};

use super::{Observer, Packet, Queue, Signal};

/// Whose CoDel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// RFC 8289, section 5, in nanoseconds.
    Rfc8289,
    /// include/net/codel_impl.h.
    Linux,
}

/// What CoDel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodelParameters {
    /// Wait that is good enough.
    pub target: Duration,
    /// How long the wait may be worse before a packet is dropped.
    pub interval: Duration,
    /// A queue of no more than this many bytes is never too long.
    pub mtu: u32,
    /// Packets that it holds at most.
    pub limit: usize,
    /// Mark those that can be marked instead of dropping them.
    pub ecn: bool,
}

impl Default for CodelParameters {
    /// 5 ms, 100 ms (RFC 8289, sections 4.2 and 4.3), Ethernet, 1,000 packets (sch_codel.c), no ECN.
    fn default() -> Self {
        Self {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
            mtu: 1514,
            limit: 1000,
            ecn: false,
        }
    }
}

/// A queue under CoDel.
#[derive(Clone, Debug)]
pub struct Codel {
    limit: usize,
    controller: Controller,
    waiting: Waiting,
}

impl Codel {
    /// An empty queue.
    pub fn new(flavour: Flavour, parameters: CodelParameters) -> Self {
        let controller = Controller::new(flavour, parameters);
        Self { limit: parameters.limit, controller, waiting: Waiting::default() }
    }
}

impl Queue for Codel {
    fn enqueue(&mut self, now: Duration, packet: Packet, observer: &mut dyn Observer) {
        if self.waiting.packets.len() >= self.limit {
            return observer.signal(now, packet, Signal::Overflow);
        }
        self.waiting.push(now, packet);
    }

    fn dequeue(&mut self, now: Duration, observer: &mut dyn Observer) -> Option<Packet> {
        self.controller.dequeue(now, &mut self.waiting, observer)
    }

    fn packets(&self) -> usize {
        self.waiting.packets.len()
    }

    fn bytes(&self) -> u64 {
        self.waiting.bytes
    }
}

/// Packets with the time at which each came.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    pub(super) packets: VecDeque<(Duration, Packet)>,
    pub(super) bytes: u64,
}

impl Waiting {
    pub(super) fn push(&mut self, now: Duration, packet: Packet) {
        self.bytes += u64::from(packet.bytes);
        self.packets.push_back((now, packet));
    }
}

/// Where a [`Controller`] takes its packets from.
pub(super) trait Source {
    /// The packet at the head, and when it came.
    fn pop(&mut self) -> Option<(Duration, Packet)>;

    /// Bytes that wait: no more than one packet's worth is never too long a queue.
    fn backlog(&self) -> u64;
}

impl Source for Waiting {
    fn pop(&mut self) -> Option<(Duration, Packet)> {
        let (since, packet) = self.packets.pop_front()?;
        self.bytes -= u64::from(packet.bytes);
        Some((since, packet))
    }

    fn backlog(&self) -> u64 {
        self.bytes
    }
}

/// The control law: which packets of a source are dropped or marked on their way out.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    parameters: CodelParameters,
    law: Law,
    dropping: bool,
    /// When the wait will have been too long for an interval; absent while it is not too long.
    first_above: Option<Instant>,
    drop_next: Instant,
    count: u32,
    last_count: u32,
}

impl Controller {
    pub(super) fn new(flavour: Flavour, parameters: CodelParameters) -> Self {
        Self {
            parameters,
            law: Law::of(flavour),
            dropping: false,
            first_above: None,
            drop_next: 0,
            count: 0,
            last_count: 0,
        }
    }

    /// The next packet that is delivered; what is dropped or marked before it is told to `observer`.
    pub(super) fn dequeue(
        &mut self,
        now: Duration,
        source: &mut impl Source,
        observer: &mut dyn Observer,
    ) -> Option<Packet> {
        let (head, too_long) = self.take(now, source);
        let Some(packet) = head else {
            self.dropping = false;
            return None;
        };
        match (self.dropping, too_long) {
            (true, true) => self.keep_dropping(now, source, head, observer),
            (false, true) => self.start_dropping(now, source, packet, observer),
            (_, false) => {
                self.dropping = false;
                head
            }
        }
    }

    /// `drops` packets were taken from the source because there was no room: a stronger signal next time (sch_fq_codel.c,
    /// fq_codel_drop).
    pub(super) fn overflowed(&mut self, drops: u32) {
        self.count = self.count.wrapping_add(drops);
    }

    /// The packet at the head, and whether it has waited so long that it may be dropped.
    fn take(&mut self, now: Duration, source: &mut impl Source) -> (Option<Packet>, bool) {
        let Some((since, packet)) = source.pop() else {
            self.first_above = None;
            return (None, false);
        };
        let waited = self.law.span(self.law.instant(now), self.law.instant(since));
        if waited < self.law.units(self.parameters.target) || source.backlog() <= u64::from(self.parameters.mtu) {
            self.first_above = None;
            return (Some(packet), false);
        }
        let now = self.law.instant(now);
        match self.first_above {
            None => {
                self.first_above = Some(self.law.later(now, self.law.units(self.parameters.interval)));
                (Some(packet), false)
            }
            Some(first) => (Some(packet), self.law.is_over(now, first)),
        }
    }

    fn may_mark(&self, packet: Packet) -> bool {
        self.parameters.ecn && packet.ecn_capable
    }

    /// `from`, later by interval / √count.
    fn schedule(&mut self, from: Instant) {
        let interval = self.law.units(self.parameters.interval);
        self.drop_next = self.law.later(from, self.law.spacing(interval, self.count));
    }

    /// In the dropping state: drops as many as are due.
    fn keep_dropping(
        &mut self,
        now: Duration,
        source: &mut impl Source,
        mut head: Option<Packet>,
        observer: &mut dyn Observer,
    ) -> Option<Packet> {
        while self.dropping && self.law.is_due(self.law.instant(now), self.drop_next) {
            let packet = head?;
            self.count = self.count.wrapping_add(1);
            self.law.step(self.count);
            if self.may_mark(packet) {
                observer.signal(now, packet, Signal::Marked);
                self.schedule(self.drop_next);
                return head;
            }
            observer.signal(now, packet, Signal::Dropped);
            let still;
            (head, still) = self.take(now, source);
            self.dropping = still;
            if still {
                self.schedule(self.drop_next);
            }
        }
        head
    }

    /// The first drop, at a spacing that remembers the last time if that is not long ago.
    fn start_dropping(
        &mut self,
        now: Duration,
        source: &mut impl Source,
        packet: Packet,
        observer: &mut dyn Observer,
    ) -> Option<Packet> {
        let head = if self.may_mark(packet) {
            observer.signal(now, packet, Signal::Marked);
            Some(packet)
        } else {
            observer.signal(now, packet, Signal::Dropped);
            self.take(now, source).0
        };
        self.dropping = true;
        let since = self.law.span(self.law.instant(now), self.drop_next);
        let delta = self.count.wrapping_sub(self.last_count);
        if delta > 1 && since < 16 * self.law.units(self.parameters.interval) {
            self.count = delta;
            self.law.step(self.count);
        } else {
            self.count = 1;
            self.law.reset();
        }
        self.last_count = self.count;
        self.schedule(self.law.instant(now));
        head
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::vectors::run, *};

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn trace_a(flavour: Flavour) -> super::super::vectors::Run {
        let parameters = CodelParameters { mtu: 1500, limit: usize::MAX, ..CodelParameters::default() };
        let mut queue = Codel::new(flavour, parameters);
        run(&mut queue, 1500, MILLISECOND, Duration::from_micros(1200), Duration::from_secs(3))
    }

    #[test]
    fn trace_a_as_the_rfc() {
        let run = trace_a(Flavour::Rfc8289);
        let drops = [
            (109, 130.8),
            (194, 231.6),
            (254, 302.4),
            (303, 360.0),
            (346, 410.4),
            (384, 454.8),
            (419, 495.6),
            (451, 532.8),
            (482, 568.8),
            (511, 602.4),
            (538, 633.6),
            (564, 663.6),
        ];
        assert_eq!(run.first(12), drops);
        assert_eq!((run.offered, run.signals.len()), (3000, 270));
        assert_eq!(run.longest_wait, Duration::from_micros(275_800));
    }

    #[test]
    fn trace_a_as_linux() {
        let run = trace_a(Flavour::Linux);
        let drops = [(109, 130.8), (194, 231.6), (236, 280.8), (284, 337.2), (326, 386.4), (364, 430.8)];
        assert_eq!(run.first(6), drops);
        let numbers: Vec<u64> = run.first(12).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers[6..], [398, 431, 461, 490, 517, 543]);
        assert_eq!((run.offered, run.signals.len()), (3000, 274));
    }

    /// What tells CoDel from emulators that drop the packet behind: those lose 110, 195, 255 at the same times and in the same number.
    #[test]
    fn the_packet_that_waited_is_dropped_and_not_the_one_behind_it() {
        for (flavour, third) in [(Flavour::Rfc8289, (254, 302.4)), (Flavour::Linux, (236, 280.8))] {
            let run = trace_a(flavour);
            assert_eq!(run.first(3), [(109, 130.8), (194, 231.6), third], "{flavour:?}");
            let dropped: Vec<u64> = run.signals.iter().map(|(_, packet, _)| packet.id).collect();
            assert!(dropped.is_sorted() && dropped.windows(2).all(|pair| pair[0] < pair[1]), "each once, in order");
            for id in &dropped {
                assert!(!dropped.contains(&(id + 1)), "{flavour:?}: {id} and the one behind it");
            }
            for (now, packet, signal) in &run.signals {
                assert_eq!(*signal, Signal::Dropped);
                // When the link is free: a whole number of sendings after the first packet came.
                assert_eq!(now.as_nanos() % 1_200_000, 0, "{flavour:?}: {} at {now:?}", packet.id);
                let waited = *now - MILLISECOND * packet.id as u32;
                assert!(waited >= CodelParameters::default().target, "{flavour:?}: {} waited {waited:?}", packet.id);
            }
        }
    }

    #[test]
    fn a_link_that_keeps_up_drops_nothing() {
        for flavour in [Flavour::Rfc8289, Flavour::Linux] {
            let mut queue = Codel::new(flavour, CodelParameters::default());
            let run = run(&mut queue, 1500, MILLISECOND, MILLISECOND, Duration::from_secs(3));
            assert_eq!((run.offered, run.signals.len()), (3000, 0));
        }
    }

    #[test]
    fn what_can_be_marked_is_marked_and_delivered() {
        for flavour in [Flavour::Rfc8289, Flavour::Linux] {
            let mut queue = Codel::new(flavour, CodelParameters { ecn: true, ..CodelParameters::default() });
            let mut signals = Vec::new();
            for id in 0..500 {
                queue.enqueue(Duration::ZERO, Packet { id, bytes: 1500, flow: 0, ecn_capable: true }, &mut signals);
            }
            let delivered = (0..500).filter_map(|slot| queue.dequeue(MILLISECOND * slot, &mut signals)).count();
            assert_eq!(delivered, 500);
            assert!(signals.len() > 5 && signals.iter().all(|(_, _, signal)| *signal == Signal::Marked), "{signals:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_unseen_and_order_is_kept(
            steps in prop::collection::vec((0u64..5_000_000, 40u32..1514, any::<bool>()), 1..400),
            linux: bool,
        ) {
            let flavour = if linux { Flavour::Linux } else { Flavour::Rfc8289 };
            let mut queue = Codel::new(flavour, CodelParameters { limit: 64, ..CodelParameters::default() });
            let (mut now, mut signals, mut delivered) = (Duration::ZERO, Vec::new(), Vec::new());
            let mut offered = 0;
            for (wait, bytes, arrives) in steps {
                now += Duration::from_nanos(wait);
                if arrives {
                    queue.enqueue(now, Packet { id: offered, bytes, flow: 0, ecn_capable: false }, &mut signals);
                    offered += 1;
                } else {
                    delivered.extend(queue.dequeue(now, &mut signals).map(|packet| packet.id));
                }
            }
            prop_assert!(delivered.is_sorted());
            prop_assert_eq!(delivered.len() + signals.len() + queue.packets(), offered as usize);
        }
    }
}
