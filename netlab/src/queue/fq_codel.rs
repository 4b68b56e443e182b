//! FQ-CoDel in two faithful versions: a queue for each flow under CoDel, so that a thin flow does not wait behind a fat one.
//!
//! ```text
//!  packet ─ hash ─► one of `flows` queues ─┬─ new list: just became busy, one quantum ahead of everybody
//!                                          └─ old list: in turn, a quantum each
//! ```
//!
//! RFC 8290 and Linux (net/sched/sch_fq_codel.c) schedule alike. They differ in CoDel itself, as [`Codel`](super::Codel) does, and in two
//! more places. The RFC holds CoDel's "no more than one packet waits" against the flow's own bytes, Linux against those of all flows
//! together, so that beside a fat flow a thin one may be dropped from. And when the limit makes Linux drop from the fattest flow, it
//! also raises that flow's count of drops.
//!
//! Flows are told apart by their hash alone, without the set associativity of CAKE; Linux's `memory_limit`, which counts what its buffers
//! take rather than the packets, is not modelled.

use std::{collections::VecDeque, time::Duration};

use super::{
    CodelParameters, Flavour, Observer, Packet, Queue, Signal,
    codel::{Controller, Source, Waiting},
};

/// What FQ-CoDel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FqCodelParameters {
    /// CoDel of each flow. Its `limit` is that of all flows together, in packets.
    pub codel: CodelParameters,
    /// Number of queues, at least 1.
    pub flows: u32,
    /// Bytes that a flow may send in its turn, at least 1.
    pub quantum: u32,
    /// Packets dropped at most from the fattest flow when the limit is passed, at least 1.
    pub drop_batch: u32,
}

impl Default for FqCodelParameters {
    /// RFC 8290, section 5.2, and sch_fq_codel.c: 10,240 packets, 1,024 queues, 1,514 bytes, 64 packets; ECN on, as Linux has it.
    fn default() -> Self {
        Self {
            codel: CodelParameters { limit: 10_240, ecn: true, ..CodelParameters::default() },
            flows: 1024,
            quantum: 1514,
            drop_batch: 64,
        }
    }
}

/// A queue for each flow.
#[derive(Clone, Debug)]
pub struct FqCodel {
    flavour: Flavour,
    parameters: FqCodelParameters,
    flows: Vec<Flow>,
    /// Places in `flows`, the next one first.
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    total: Total,
}

#[derive(Clone, Debug)]
struct Flow {
    controller: Controller,
    waiting: Waiting,
    /// Bytes that it may still send in this turn.
    credits: i64,
    /// On the new or the old list.
    listed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    packets: usize,
    bytes: u64,
}

/// One flow's packets as CoDel sees them.
struct FlowSource<'a> {
    waiting: &'a mut Waiting,
    total: &'a mut Total,
    flavour: Flavour,
}

impl Source for FlowSource<'_> {
    fn pop(&mut self) -> Option<(Duration, Packet)> {
        let (since, packet) = self.waiting.pop()?;
        self.total.packets -= 1;
        self.total.bytes -= u64::from(packet.bytes);
        Some((since, packet))
    }

    fn backlog(&self) -> u64 {
        match self.flavour {
            Flavour::Rfc8289 => self.waiting.bytes,
            Flavour::Linux => self.total.bytes,
        }
    }
}

impl FqCodel {
    /// Empty queues.
    pub fn new(flavour: Flavour, parameters: FqCodelParameters) -> Self {
        let flow = Flow {
            controller: Controller::new(flavour, parameters.codel),
            waiting: Waiting::default(),
            credits: 0,
            listed: false,
        };
        Self {
            flavour,
            parameters,
            flows: vec![flow; parameters.flows.max(1) as usize],
            new: VecDeque::new(),
            old: VecDeque::new(),
            total: Total::default(),
        }
    }

    /// The queue of a hash: its place between 0 and 2^32, scaled (`reciprocal_scale`).
    fn place(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.flows.len() as u64) >> 32) as usize
    }

    /// Makes room at the head of the flow with the most bytes: half of them, at most a batch.
    fn drop_from_the_fattest(&mut self, now: Duration, observer: &mut dyn Observer) {
        // the first of equals, as a scan for the largest finds it
        let Some(fattest) = (0..self.flows.len()).rev().max_by_key(|place| self.flows[*place].waiting.bytes) else {
            return;
        };
        let Flow { controller, waiting, .. } = &mut self.flows[fattest];
        let half = waiting.bytes >> 1;
        let (mut drops, mut bytes) = (0, 0);
        let mut source = FlowSource { waiting, total: &mut self.total, flavour: self.flavour };
        while let Some((_, packet)) = source.pop() {
            observer.signal(now, packet, Signal::Overflow);
            drops += 1;
            bytes += u64::from(packet.bytes);
            if drops >= self.parameters.drop_batch || bytes >= half {
                break;
            }
        }
        if self.flavour == Flavour::Linux {
            controller.overflowed(drops);
        }
    }
}

impl Queue for FqCodel {
    fn enqueue(&mut self, now: Duration, packet: Packet, observer: &mut dyn Observer) {
        let place = self.place(packet.flow);
        let flow = &mut self.flows[place];
        flow.waiting.push(now, packet);
        self.total.packets += 1;
        self.total.bytes += u64::from(packet.bytes);
        if !flow.listed {
            flow.listed = true;
            flow.credits = i64::from(self.parameters.quantum);
            self.new.push_back(place);
        }
        if self.total.packets > self.parameters.codel.limit {
            self.drop_from_the_fattest(now, observer);
        }
    }

    fn dequeue(&mut self, now: Duration, observer: &mut dyn Observer) -> Option<Packet> {
        loop {
            let from_new = !self.new.is_empty();
            let list = if from_new { &mut self.new } else { &mut self.old };
            let place = *list.front()?;
            let flow = &mut self.flows[place];
            if flow.credits <= 0 {
                flow.credits += i64::from(self.parameters.quantum);
                list.pop_front();
                self.old.push_back(place);
                continue;
            }
            let mut source = FlowSource { waiting: &mut flow.waiting, total: &mut self.total, flavour: self.flavour };
            if let Some(packet) = flow.controller.dequeue(now, &mut source, observer) {
                flow.credits -= i64::from(packet.bytes);
                return Some(packet);
            }
            list.pop_front();
            // A new flow that has run dry waits for a round of the old ones, or it could starve them by coming back each time.
            if from_new && !self.old.is_empty() {
                self.old.push_back(place);
            } else {
                flow.listed = false;
            }
        }
    }

    fn packets(&self) -> usize {
        self.total.packets
    }

    fn bytes(&self) -> u64 {
        self.total.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLAVOURS: [Flavour; 2] = [Flavour::Rfc8289, Flavour::Linux];
    /// A hash for each of 1,024 queues.
    const fn hash(queue: u32) -> u32 {
        queue << 22
    }

    fn packet(id: u64, queue: u32, bytes: u32) -> Packet {
        Packet { id, bytes, flow: hash(queue), ecn_capable: false }
    }

    /// Numbers of what comes out at `now`, until nothing does.
    fn drain(queue: &mut FqCodel, now: Duration) -> Vec<u64> {
        std::iter::from_fn(|| queue.dequeue(now, &mut Vec::new())).map(|packet| packet.id).collect()
    }

    #[test]
    fn flows_take_turns_by_bytes_and_a_new_one_goes_first() {
        for flavour in FLAVOURS {
            let mut queue = FqCodel::new(flavour, FqCodelParameters::default());
            let now = Duration::ZERO;
            // Flow 1: packets of 1514; flow 2: of 757, two of which are a quantum.
            (0..3).for_each(|id| queue.enqueue(now, packet(id, 1, 1514), &mut Vec::new()));
            (10..16).for_each(|id| queue.enqueue(now, packet(id, 2, 757), &mut Vec::new()));
            let taken: Vec<_> = (0..3).filter_map(|_| queue.dequeue(now, &mut Vec::new())).map(|p| p.id).collect();
            assert_eq!(taken, [0, 10, 11], "a quantum each");
            queue.enqueue(now, packet(20, 3, 100), &mut Vec::new());
            // Both old flows are out of credits; the new one has all of its own.
            assert_eq!(drain(&mut queue, now), [20, 1, 12, 13, 2, 14, 15]);
            assert_eq!((queue.packets(), queue.bytes()), (0, 0));
        }
    }

    #[test]
    fn a_flow_that_ran_dry_waits_a_round_before_it_is_new_again() {
        for flavour in FLAVOURS {
            let mut queue = FqCodel::new(flavour, FqCodelParameters::default());
            let now = Duration::ZERO;
            (0..4).for_each(|id| queue.enqueue(now, packet(id, 1, 1514), &mut Vec::new()));
            assert_eq!(queue.dequeue(now, &mut Vec::new()).map(|p| p.id), Some(0));
            // Flow 1 goes to the old list when it is next looked at; flow 2 sends one packet and is dry.
            queue.enqueue(now, packet(10, 2, 100), &mut Vec::new());
            let taken: Vec<_> = (0..2).filter_map(|_| queue.dequeue(now, &mut Vec::new())).map(|p| p.id).collect();
            assert_eq!(taken, [10, 1]);
            // Back at once: it is on the old list still, and waits its turn behind nobody but gets no second start.
            queue.enqueue(now, packet(11, 2, 100), &mut Vec::new());
            assert!(queue.new.is_empty());
            assert_eq!(drain(&mut queue, now), [11, 2, 3]);
        }
    }

    #[test]
    fn a_full_queue_drops_from_the_head_of_the_fattest_flow() {
        for flavour in FLAVOURS {
            let codel = CodelParameters { limit: 100, ..FqCodelParameters::default().codel };
            let mut queue = FqCodel::new(flavour, FqCodelParameters { codel, ..FqCodelParameters::default() });
            let mut signals = Vec::new();
            queue.enqueue(Duration::ZERO, packet(1000, 7, 100), &mut signals);
            (0..99).for_each(|id| queue.enqueue(Duration::ZERO, packet(id, 1, 1000), &mut signals));
            assert!(signals.is_empty());
            queue.enqueue(Duration::ZERO, packet(99, 1, 1000), &mut signals);
            // Half of its 100,000 bytes, which is under 64 packets.
            let dropped: Vec<_> = signals.iter().map(|(_, packet, signal)| (packet.id, *signal)).collect();
            assert_eq!(dropped, (0..50).map(|id| (id, Signal::Overflow)).collect::<Vec<_>>());
            assert_eq!((queue.packets(), queue.bytes()), (51, 50 * 1000 + 100));
            let raised = flavour == Flavour::Linux;
            assert_eq!(format!("{:?}", queue.flows[queue.place(hash(1))].controller).contains("count: 50"), raised);
        }
    }

    /// A game flow of 100-byte packets every 15 ms beside three bulk flows that offer twice the link: 10 Mbit/s, 20 s.
    #[test]
    fn a_thin_flow_waits_for_little_more_than_what_is_on_the_link() {
        for flavour in FLAVOURS {
            let mut queue = FqCodel::new(flavour, FqCodelParameters::default());
            let (mut signals, mut waits) = (Vec::new(), Vec::new());
            let (gap, end) = (Duration::from_micros(600), Duration::from_secs(20));
            let mut free_at = Duration::ZERO;
            let mut arrivals: Vec<(Duration, Packet)> =
                (0..33_000).map(|n| (gap * n, packet(u64::from(n), 1 + n % 3, 1514))).collect();
            arrivals
                .extend((0..1300).map(|n| (Duration::from_millis(15) * n, packet(1_000_000 + u64::from(n), 9, 100))));
            arrivals.sort_by_key(|(at, packet)| (*at, packet.id));
            let sent_at: std::collections::HashMap<u64, Duration> =
                arrivals.iter().map(|(at, p)| (p.id, *at)).collect();
            for (at, arriving) in arrivals.into_iter().filter(|(at, _)| *at < end) {
                while free_at <= at {
                    let Some(leaving) = queue.dequeue(free_at, &mut signals) else {
                        free_at = at;
                        break;
                    };
                    if leaving.id >= 1_000_000 {
                        waits.push(free_at - sent_at[&leaving.id]);
                    }
                    free_at += Duration::from_nanos(u64::from(leaving.bytes) * 800);
                }
                queue.enqueue(at, arriving, &mut signals);
            }
            assert!(waits.len() > 1250, "{}", waits.len());
            let thin_lost = signals.iter().filter(|(_, packet, _)| packet.id >= 1_000_000).count();
            assert_eq!(thin_lost, 0, "{flavour:?}");
            // One bulk packet takes 1.2 ms; the one on the link, and one quantum of another new flow at most.
            let longest = waits.iter().max().expect("waits");
            assert!(*longest <= Duration::from_micros(2 * 1212), "{flavour:?} {longest:?}");
            let bulk: Vec<_> = (1..4).map(|q| signals.iter().filter(|(_, p, _)| p.flow == hash(q)).count()).collect();
            assert!(bulk.iter().all(|drops| *drops > 100), "bulk is dropped from: {bulk:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_unseen_and_each_flow_keeps_its_order(
            steps in prop::collection::vec((0u64..5_000_000, 40u32..1514, 0u32..5, any::<bool>()), 1..500),
            linux: bool,
            limit in 5..100usize,
        ) {
            let flavour = if linux { Flavour::Linux } else { Flavour::Rfc8289 };
            let codel = CodelParameters { limit, ..FqCodelParameters::default().codel };
            let mut queue = FqCodel::new(flavour, FqCodelParameters { codel, ..FqCodelParameters::default() });
            let (mut now, mut signals, mut delivered) = (Duration::ZERO, Vec::new(), Vec::new());
            let (mut offered, mut bytes_in) = (0, 0);
            for (wait, bytes, flow, arrives) in steps {
                now += Duration::from_nanos(wait);
                if arrives {
                    queue.enqueue(now, packet(offered, flow, bytes), &mut signals);
                    offered += 1;
                    bytes_in += u64::from(bytes);
                } else {
                    delivered.extend(queue.dequeue(now, &mut signals));
                }
                prop_assert!(queue.packets() <= limit);
            }
            let out: u64 = delivered.iter().chain(signals.iter().map(|(_, p, _)| p)).map(|p| u64::from(p.bytes)).sum();
            prop_assert_eq!(delivered.len() + signals.len() + queue.packets(), offered as usize);
            prop_assert_eq!(out + queue.bytes(), bytes_in);
            for flow in 0..5 {
                prop_assert!(delivered.iter().filter(|p| p.flow == hash(flow)).map(|p| p.id).is_sorted());
            }
        }
    }
}
