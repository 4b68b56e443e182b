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
//! After its sending a packet meets what the link does to its family, faults and shifted routes of that moment among them, and the receive ring of the
//! other end. TCP is as in `tcp.rs`; the choice among next hops is a hash of the flow and the scenario's seed for it, as fixed as the kernel's but not
//! the same: each next hop has the share of its weight and a flow keeps its own, but which flows share one is another draw (what the kernel hashes is its
//! own `struct flow_keys`, which varies by version), and replies are drawn apart from requests, as by routers of several makers, where Linux sends both by the
//! same member. `tests/ecmp.rs` shows both.
//!
//! Packets that no node wants or knows a way for are counted, not lost in silence.

mod bulk;
mod network;
mod tcp;

use std::{cmp::Reverse, collections::BinaryHeap, net::IpAddr, time::Duration};

use bulk::Connection;
use network::{LinkEnd, Network, Tuple, Verdict};
use tcp::Acknowledgement;

use super::{
    line::Departure,
    outcome::{Outcome, Probed},
};
use crate::{
    impairment::Fate,
    load::{Pacer, TICK},
    queue::{Packet, Signal},
    scenario::{Scenario, Session},
};

/// Octets of a STAMP test packet in its Ethernet frame: base packet, UDP, Ethernet; the IP header comes on top.
const STAMP_FRAME: u32 = 44 + 8 + 14;
/// Octets around a UDP payload, likewise.
const UDP_FRAME: u32 = 8 + 14;
/// First port of a game's players.
const PLAYERS: u16 = 10_000;

/// Plays the whole of `scenario`. The sessions are those of [`Scenario::sessions`]; the replies of those of which `canary` is true take the
/// canary arm.
pub fn play(scenario: &Scenario, seed: u64, canary: impl Fn(&Session) -> bool) -> Outcome {
    let sessions = scenario.sessions(seed);
    let mut run = Run {
        network: Network::new(scenario, seed),
        on_canary: sessions.iter().map(canary).collect(),
        connections: bulk::connections(scenario),
        events: BinaryHeap::new(),
        made: 0,
        flights: Vec::new(),
        free: Vec::new(),
        outcome: Outcome::default(),
        scenario,
        sessions,
    };
    let mut pacers: Vec<Pacer<'_>> =
        (0_u64..).zip(&scenario.loads).map(|(index, load)| Pacer::new(load, seed.wrapping_add(index))).collect();
    run.begin();
    let end = scenario.duration();
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        match event {
            Event::Slot(session) if now < end => run.slot(now, session),
            Event::Load(load) if now < end => run.load(now, load, pacers[load].take(now)),
            Event::Game { game, tick } if now < end => run.game(now, game, tick),
            Event::Slot(_) | Event::Load(_) | Event::Game { .. } => {}
            Event::Pump(connection) => run.pump(now, connection),
            Event::Timer(connection) => run.timer(now, connection),
            Event::Land { end, flight } => run.land(now, end, flight),
            Event::Arrive { node, flight } => run.arrive(now, node, flight),
            Event::Free(end) => run.transmit(now, end),
        }
    }
    run.end()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A session's next test packet is due.
    Slot(usize),
    /// A load looks what it owes.
    Load(usize),
    /// A game sends its snapshots.
    Game { game: usize, tick: u64 },
    /// A connection may begin to send.
    Pump(usize),
    /// A connection's retransmission timer may have gone off.
    Timer(usize),
    /// A packet is at the other side of a link end.
    Land { end: usize, flight: usize },
    /// A packet is at a node.
    Arrive { node: usize, flight: usize },
    /// A link end has sent its packet.
    Free(usize),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Request {
        probe: usize,
        session: usize,
    },
    Reply {
        probe: usize,
    },
    /// Of a load or a game.
    Load,
    Segment {
        connection: usize,
        segment: u64,
        sent: Duration,
    },
    Word {
        connection: usize,
        word: Acknowledgement,
    },
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    kind: Kind,
    tuple: Tuple,
    bytes: u32,
    flow: u32,
    /// Hops that it may still take.
    ttl: u8,
}

impl Flight {
    /// `bytes` without the IP header; `flow` is spread over the hash's range.
    fn new(kind: Kind, tuple: Tuple, bytes: u32, flow: u64) -> Self {
        let ip = if tuple.to.is_ipv6() { 40 } else { 20 };
        let flow = (crate::seeded::SplitMix64(flow).next() >> 32) as u32;
        Self { kind, tuple, bytes: bytes + ip, flow, ttl: 64 }
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    sessions: Vec<Session>,
    on_canary: Vec<bool>,
    network: Network,
    connections: Vec<Connection>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Events made: a later one of the same instant comes later.
    made: u64,
    flights: Vec<Flight>,
    /// Places in `flights` that can be used again.
    free: Vec<usize>,
    outcome: Outcome,
}

impl Run<'_> {
    fn schedule(&mut self, at: Duration, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    fn launch(&mut self, now: Duration, node: usize, flight: Flight) {
        self.launch_by(now, node, flight, None);
    }

    fn launch_by(&mut self, now: Duration, node: usize, flight: Flight, by: Option<usize>) {
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
        self.forward(now, node, place, by);
    }

    /// Everything that starts by itself.
    fn begin(&mut self) {
        let interval = self.scenario.probe.as_ref().map_or(Duration::ZERO, |probe| probe.interval);
        for session in 0..self.sessions.len() {
            let first = interval.mul_f64(session as f64 / self.sessions.len() as f64);
            self.schedule(first, Event::Slot(session));
        }
        (0..self.scenario.loads.len()).for_each(|load| self.schedule(TICK, Event::Load(load)));
        (0..self.scenario.games.len()).for_each(|game| self.schedule(Duration::ZERO, Event::Game { game, tick: 0 }));
        for connection in 0..self.connections.len() {
            for (start, _) in self.connections[connection].during.clone() {
                self.schedule(start, Event::Pump(connection));
            }
        }
    }

    fn end(mut self) -> Outcome {
        self.outcome.links = self.network.counts();
        for Connection { bulk, sender, .. } in &self.connections {
            let name = &self.scenario.bulks[*bulk].name;
            let count = self.outcome.bulks.entry(name.clone()).or_default();
            count.retransmitted = Some(count.retransmitted.unwrap_or(0) + sender.retransmitted);
        }
        self.outcome.ways = (0..self.sessions.len()).map(|session| self.way(session)).collect();
        self.outcome
    }

    /// The link ends of a session, there and back.
    fn way(&self, session: usize) -> Vec<(String, String)> {
        let Some(probe) = &self.scenario.probe else { return Vec::new() };
        let Session { source, target, .. } = &self.sessions[session];
        let there = Tuple { from: source.ip(), to: target.ip(), ports: (source.port(), target.port()) };
        let (mut ends, reflector) = self.network.way(self.network.node(&probe.from), there, None);
        let by = if self.on_canary[session] { self.network.canary(reflector, source.ip()) } else { None };
        ends.extend(self.network.way(reflector, back(there), by).0);
        ends.into_iter().map(|end| self.network.place(end)).collect()
    }

    fn slot(&mut self, now: Duration, session: usize) {
        let Some(about) = &self.scenario.probe else { return };
        let Session { source, target, .. } = &self.sessions[session];
        let tuple = Tuple { from: source.ip(), to: target.ip(), ports: (source.port(), target.port()) };
        let probe = self.outcome.probes.len();
        self.outcome.probes.push(Probed { session, sent: now, arrived: Some(false), forward: None, rtt: None });
        let from = self.network.node(&about.from);
        self.launch(now, from, Flight::new(Kind::Request { probe, session }, tuple, STAMP_FRAME, session as u64));
        self.schedule(now + about.interval, Event::Slot(session));
    }

    fn load(&mut self, now: Duration, load: usize, due: u64) {
        let about = &self.scenario.loads[load];
        let from = self.network.node(&about.node);
        let flow = (self.sessions.len() + load) as u64;
        for _ in 0..due {
            self.outcome.load_packets += 1;
            let tuple = Tuple { from: IpAddr::from([0, 0, 0, 0]), to: about.to, ports: (load as u16, 9) };
            self.launch(now, from, Flight::new(Kind::Load, tuple, u32::from(about.payload) + UDP_FRAME, flow));
        }
        self.schedule(now + TICK, Event::Load(load));
    }

    fn game(&mut self, now: Duration, game: usize, tick: u64) {
        let about = &self.scenario.games[game];
        self.schedule(now + about.tick, Event::Game { game, tick: tick + 1 });
        if !crate::scenario::holds(&about.during, now) {
            return;
        }
        let from = self.network.node(&about.node);
        let (packets, payload) = about.packets(tick);
        for player in 0..about.players {
            // beyond those of sessions and loads
            let flow = 1 << 32 | (game as u64) << 16 | u64::from(player);
            let ports = (game as u16, PLAYERS + player);
            let tuple = Tuple { from: IpAddr::from([0, 0, 0, 0]), to: about.to, ports };
            for _ in 0..packets {
                self.outcome.load_packets += 1;
                self.launch(now, from, Flight::new(Kind::Load, tuple, u32::from(payload) + UDP_FRAME, flow));
            }
        }
    }

    /// Sends a packet on from `node`, by `by` if that is given.
    fn forward(&mut self, now: Duration, node: usize, place: usize, by: Option<usize>) {
        let verdict = by.map_or_else(|| self.network.route(node, self.flights[place].tuple, Some(now)), Verdict::Send);
        match verdict {
            Verdict::Send(end) => {
                let Flight { bytes, flow, .. } = self.flights[place];
                let packet = Packet { id: place as u64, bytes, flow, ecn_capable: false };
                let LinkEnd { line, signals, count, .. } = &mut self.network.ends[end];
                let Some(line) = line else {
                    count.sent += 1;
                    return self.cross(now, end, place);
                };
                let idle = line.arrive(now, packet, signals);
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
        let LinkEnd { line, signals, count, .. } = &mut self.network.ends[end];
        if let Some(Departure { packet, end: sent, .. }) = line.as_mut().and_then(|line| line.depart(now, signals)) {
            count.sent += 1;
            self.schedule(sent, Event::Free(end));
            self.cross(sent, end, packet.id as usize);
        }
        self.settle(end);
    }

    /// A packet was sent, all of it, at `sent`: what the link then does to it.
    fn cross(&mut self, sent: Duration, end: usize, place: usize) {
        let v6 = self.flights[place].tuple.to.is_ipv6();
        let LinkEnd { impairments, count, .. } = &mut self.network.ends[end];
        match impairments[usize::from(v6)].meet(sent) {
            Fate::Delivered(delay) => self.schedule(sent + delay, Event::Land { end, flight: place }),
            Fate::Lost => {
                count.lost += 1;
                self.free.push(place);
            }
        }
    }

    /// A packet is at the other side of `end`, where it may have to wait in a ring.
    fn land(&mut self, now: Duration, end: usize, place: usize) {
        let LinkEnd { at, ring, count, .. } = &mut self.network.ends[end ^ 1];
        let node = *at;
        match ring.as_mut().map(|ring| ring.arrive(now)) {
            None => self.arrive(now, node, place),
            Some(Some(done)) => self.schedule(done, Event::Arrive { node, flight: place }),
            Some(None) => {
                count.missed += 1;
                self.free.push(place);
            }
        }
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

    fn arrive(&mut self, now: Duration, node: usize, place: usize) {
        let flight = self.flights[place];
        match self.network.route(node, flight.tuple, Some(now)) {
            Verdict::Local => {
                self.free.push(place);
                self.take(now, node, flight);
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

    /// A packet is where it was to go.
    fn take(&mut self, now: Duration, node: usize, flight: Flight) {
        match flight.kind {
            Kind::Request { probe, session } => {
                let Probed { sent, arrived, forward, .. } = &mut self.outcome.probes[probe];
                (*arrived, *forward) = (Some(true), Some(now - *sent));
                let tuple = back(flight.tuple);
                let by = if self.on_canary[session] { self.network.canary(node, tuple.to) } else { None };
                self.launch_by(now, node, Flight { kind: Kind::Reply { probe }, tuple, ttl: 64, ..flight }, by);
            }
            Kind::Reply { probe } => {
                let Probed { sent, rtt, .. } = &mut self.outcome.probes[probe];
                *rtt = Some(now - *sent);
            }
            Kind::Load => {}
            Kind::Segment { connection, segment, sent } => self.segment(now, node, connection, segment, sent),
            Kind::Word { connection, word } => self.word(now, connection, word),
        }
    }
}

/// The other way round.
fn back(tuple: Tuple) -> Tuple {
    Tuple { from: tuple.to, to: tuple.from, ports: (tuple.ports.1, tuple.ports.0) }
}

#[cfg(test)]
mod tests;
