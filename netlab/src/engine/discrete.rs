//! The virtual engine: a scenario as discrete events, bit-exact and much faster than life, for laptops that cannot play it and for tests that must not vary.
//!
//! ```text
//!  slot, load ──► node ─ longest prefix ─► link end: queue ─ rate ─ delay ──► node ─ … ─► reflector ──► back
//! ```
//!
//! Time is in integer nanoseconds, ties are broken by the order in which events were made, and whatever is left to chance comes from the
//! seed. Hosts take no time: a reply leaves when its request arrives, so that what is left of a round trip is the network's alone. A link
//! sends one packet after another at its rate; the kernel's token bucket may send a few packets faster after a pause, so that the two
//! differ by less than the bucket.
//!
//! Packets that no node wants or knows a way for are counted, not lost in silence.

pub(super) mod network;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::IpAddr,
    time::Duration,
};

use network::{LinkEnd, Network, Verdict};

use crate::{
    load::{Pacer, TICK},
    queue::{Packet, Signal},
    scenario::{Scenario, Session},
};

/// Octets of a STAMP test packet in its Ethernet frame: base packet, UDP, Ethernet; the IP header comes on top.
const STAMP_FRAME: u32 = 44 + 8 + 14;

/// One test packet of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Index into the sessions.
    pub session: usize,
    /// When it was sent, from the start of the run.
    pub sent: Duration,
    /// Until its reply came back; `None` where request or reply was dropped.
    pub rtt: Option<Duration>,
}

/// What a link end did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCount {
    /// Packets sent on.
    pub sent: u64,
    /// Packets that found the queue full.
    pub overflowed: u64,
    /// Packets that the discipline dropped from the queue.
    pub dropped: u64,
    /// Packets that it marked.
    pub marked: u64,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Every test packet, in the order of sending.
    pub probes: Vec<Probed>,
    /// Every link end that queues, by node and interface.
    pub links: BTreeMap<(String, String), LinkCount>,
    /// Packets of the loads.
    pub load_packets: u64,
    /// Packets for which some node had no route, or which went round for too long.
    pub unroutable: u64,
}

/// Plays the whole of `scenario`. The sessions are those of [`Scenario::sessions`]; the replies of those of which `canary` is true take the
/// canary arm.
pub fn play(scenario: &Scenario, seed: u64, canary: impl Fn(&Session) -> bool) -> Outcome {
    let sessions = scenario.sessions(seed);
    let on_canary: Vec<bool> = sessions.iter().map(canary).collect();
    let mut run = Run {
        network: Network::new(scenario),
        events: BinaryHeap::new(),
        made: 0,
        flights: Vec::new(),
        free: Vec::new(),
        outcome: Outcome { probes: Vec::new(), links: BTreeMap::new(), load_packets: 0, unroutable: 0 },
    };
    let interval = scenario.probe.as_ref().map_or(Duration::ZERO, |probe| probe.interval);
    for session in 0..sessions.len() {
        let first = interval.mul_f64(session as f64 / sessions.len() as f64);
        run.schedule(first, Event::Slot(session));
    }
    let mut pacers: Vec<Pacer<'_>> =
        (0_u64..).zip(&scenario.loads).map(|(index, load)| Pacer::new(load, seed.wrapping_add(index))).collect();
    for load in 0..pacers.len() {
        run.schedule(TICK, Event::Tick(load));
    }
    let end = scenario.duration();
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        match event {
            Event::Slot(session) if now < end => {
                let Session { source, target, .. } = &sessions[session];
                let from = run.network.node(&scenario.probe.as_ref().expect("it has sessions").from);
                let probe = run.outcome.probes.len();
                run.outcome.probes.push(Probed { session, sent: now, rtt: None });
                let kind = Kind::Request { probe, session };
                let flight = Flight::new(kind, source.ip(), target.ip(), STAMP_FRAME, session as u64);
                run.launch(now, from, flight);
                run.schedule(now + interval, event);
            }
            Event::Tick(load) if now < end => {
                let Some(about) = scenario.loads.get(load) else { continue };
                let from = run.network.node(&about.node);
                for _ in 0..pacers[load].take(now) {
                    run.outcome.load_packets += 1;
                    let flow = sessions.len() as u64 + load as u64;
                    let any = IpAddr::from([0, 0, 0, 0]);
                    // without IP: added by the flight
                    let ip = if about.to.is_ipv6() { 40 } else { 20 };
                    let bytes = u32::try_from(about.frame()).unwrap_or(u32::MAX) - ip;
                    run.launch(now, from, Flight::new(Kind::Load, any, about.to, bytes, flow));
                }
                run.schedule(now + TICK, event);
            }
            Event::Slot(_) | Event::Tick(_) => {}
            Event::Arrive { node, flight } => run.arrive(now, node, flight, &on_canary),
            Event::Free(end) => run.transmit(now, end),
        }
    }
    run.outcome.links = run.network.counts();
    run.outcome
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A session's next test packet is due.
    Slot(usize),
    /// A load looks what it owes.
    Tick(usize),
    /// A packet is at a node.
    Arrive { node: usize, flight: usize },
    /// A link end has sent its packet.
    Free(usize),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Request { probe: usize, session: usize },
    Reply { probe: usize },
    Load,
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    kind: Kind,
    from: IpAddr,
    to: IpAddr,
    bytes: u32,
    flow: u32,
    /// Hops that it may still take.
    ttl: u8,
}

impl Flight {
    /// `bytes` without the IP header; `flow` is spread over the hash's range.
    fn new(kind: Kind, from: IpAddr, to: IpAddr, bytes: u32, flow: u64) -> Self {
        let ip = if to.is_ipv6() { 40 } else { 20 };
        let flow = (crate::seeded::SplitMix64(flow).next() >> 32) as u32;
        Self { kind, from, to, bytes: bytes + ip, flow, ttl: 64 }
    }
}

struct Run {
    network: Network,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Events made: a later one of the same instant comes later.
    made: u64,
    flights: Vec<Flight>,
    /// Places in `flights` that can be used again.
    free: Vec<usize>,
    outcome: Outcome,
}

impl Run {
    fn schedule(&mut self, at: Duration, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    fn launch(&mut self, now: Duration, node: usize, flight: Flight) {
        let place = match self.free.pop() {
            Some(place) => {
                self.flights[place] = flight;
                place
            }
            None => {
                self.flights.push(flight);
                self.flights.len() - 1
            }
        };
        self.forward(now, node, place, None);
    }

    /// Sends a packet on from `node`, by `by` if that is given.
    fn forward(&mut self, now: Duration, node: usize, place: usize, by: Option<usize>) {
        let verdict = by.map_or_else(|| self.network.route(node, self.flights[place].to), Verdict::Send);
        match verdict {
            Verdict::Send(end) => {
                let Flight { bytes, flow, .. } = self.flights[place];
                let packet = Packet { id: place as u64, bytes, flow, ecn_capable: false };
                let LinkEnd { queue, signals, busy, peer, delay, .. } = &mut self.network.ends[end];
                let Some(queue) = queue else {
                    let (peer, delay) = (*peer, *delay);
                    return self.schedule(now + delay, Event::Arrive { node: peer, flight: place });
                };
                queue.enqueue(now, packet, signals);
                let idle = !*busy;
                self.settle(end);
                if idle {
                    self.transmit(now, end);
                }
            }
            // Its own address: the packet has arrived where it was launched.
            Verdict::Local => self.schedule(now, Event::Arrive { node, flight: place }),
            Verdict::BlackHole => self.free.push(place),
            Verdict::Unroutable => {
                self.outcome.unroutable += 1;
                self.free.push(place);
            }
        }
    }

    /// The link end is free: its next packet, if there is one.
    fn transmit(&mut self, now: Duration, end: usize) {
        let LinkEnd { queue, signals, busy, rate, peer, delay, count, .. } = &mut self.network.ends[end];
        let next = queue.as_mut().and_then(|queue| queue.dequeue(now, signals));
        *busy = next.is_some();
        if let Some(packet) = next {
            count.sent += 1;
            let nanoseconds = (u64::from(packet.bytes) * 8 * 1_000_000_000).div_ceil(*rate);
            let (sent, node) = (now + Duration::from_nanos(nanoseconds), *peer);
            let arrival = sent + *delay;
            self.schedule(sent, Event::Free(end));
            self.schedule(arrival, Event::Arrive { node, flight: packet.id as usize });
        }
        self.settle(end);
    }

    /// Counts what the discipline said, and forgets the packets that it dropped.
    fn settle(&mut self, end: usize) {
        let LinkEnd { signals, count, .. } = &mut self.network.ends[end];
        for (_, packet, signal) in signals.drain(..) {
            match signal {
                Signal::Overflow => count.overflowed += 1,
                Signal::Dropped => count.dropped += 1,
                Signal::Marked => {
                    count.marked += 1;
                    continue;
                }
            }
            self.free.push(packet.id as usize);
        }
    }

    fn arrive(&mut self, now: Duration, node: usize, place: usize, on_canary: &[bool]) {
        let flight = self.flights[place];
        match self.network.route(node, flight.to) {
            Verdict::Local => {
                self.free.push(place);
                match flight.kind {
                    Kind::Request { probe, session } => {
                        let reply =
                            Flight { kind: Kind::Reply { probe }, from: flight.to, to: flight.from, ttl: 64, ..flight };
                        let by = if on_canary[session] { self.network.canary(node, reply.to) } else { None };
                        self.answer(now, node, reply, by);
                    }
                    Kind::Reply { probe } => {
                        let sent = self.outcome.probes[probe].sent;
                        self.outcome.probes[probe].rtt = Some(now - sent);
                    }
                    Kind::Load => {}
                }
            }
            Verdict::Send(_) if flight.ttl > 1 && self.network.forwards(node) => {
                self.flights[place].ttl -= 1;
                self.forward(now, node, place, None);
            }
            Verdict::BlackHole => self.free.push(place),
            Verdict::Send(_) | Verdict::Unroutable => {
                self.outcome.unroutable += 1;
                self.free.push(place);
            }
        }
    }

    fn answer(&mut self, now: Duration, node: usize, reply: Flight, by: Option<usize>) {
        let place = self.free.pop().expect("that of the request");
        self.flights[place] = reply;
        self.forward(now, node, place, by);
    }
}

#[cfg(test)]
mod tests;
