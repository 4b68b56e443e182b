//! A network in memory, with faults where they are put: real packets as bytes, seeded chance, and no time but its own.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use pathlab_record::{Interval, Monotonic, Realtime, Time};
use pathlab_reflector::{
    keys::Keys,
    session::{ReplyError, Request, Rules, SessionReflector, Verdict as SessionVerdict},
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    Arrival, Departure, Direction, Error, Flow, Network,
    flow::{fold, words},
    icmp,
};

/// Something wrong with a link, for a time.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The link that leads to this hop, from 1.
    pub link: u8,
    /// Which way packets are lost.
    pub direction: Direction,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Mean length of runs of lost packets, 1 for independent losses.
    pub run: f64,
    /// Flows that pass the link; all if empty.
    pub flows: Vec<usize>,
    /// When it is there.
    pub during: std::ops::Range<Duration>,
}

impl Fault {
    /// Loss on the way there, all the time, one packet from another.
    pub fn forward(link: u8, loss: f64) -> Self {
        let during = Duration::ZERO..Duration::MAX;
        Self { link, direction: Direction::Forward, loss, run: 1.0, flows: Vec::new(), during }
    }

    /// Likewise on the way back.
    pub fn back(link: u8, loss: f64) -> Self {
        Self { direction: Direction::Return, ..Self::forward(link, loss) }
    }
}

/// How a router treats what it ought to answer.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    /// Its address.
    pub address: IpAddr,
    /// Answers a second at most, with as many at once; `None` for all, zero for none.
    pub answers: Option<f64>,
    /// Octets that it quotes beyond the IP header.
    pub quotes: usize,
}

/// Paths of several flows to one destination.
#[derive(Debug)]
pub struct Simulation {
    flows: Vec<Flow>,
    /// By flow: the routers, without the destination.
    paths: Vec<Vec<Router>>,
    reroutes: Vec<(Duration, u8, IpAddr)>,
    faults: Vec<(Fault, bool)>,
    /// What a router may still answer, and when that was.
    tokens: BTreeMap<IpAddr, (f64, Duration)>,
    /// Of the reflector, by flow; `None`: nobody listens there.
    replies: Option<Vec<u32>>,
    /// One that has keys, instead.
    keyed: Option<Keyed>,
    clock: Duration,
    queue: BTreeMap<(Duration, u64), Arrival>,
    order: u64,
    random: ChaCha8Rng,
}

/// The real rules of a reflector, which say little of themselves.
struct Keyed(SessionReflector);

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed(..)")
    }
}

const LINK_DELAY: Duration = Duration::from_millis(3);

impl Simulation {
    /// One flow over IPv4 to a stateful reflector `distance` hops away.
    pub fn chain(distance: u8, seed: u64) -> Self {
        Self::parallel(1, distance, false, seed)
    }

    /// Several flows, which share every router until [`Simulation::router`] parts them.
    pub fn parallel(flows: u16, distance: u8, v6: bool, seed: u64) -> Self {
        let address = |hop: u8| -> IpAddr {
            if v6 {
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, hop.into()).into()
            } else {
                Ipv4Addr::new(198, 51, 100, hop).into()
            }
        };
        let flow = |number: u16| Flow {
            source: SocketAddr::new(address(0), 40_000 + number),
            target: SocketAddr::new(address(distance), 862),
        };
        let path: Vec<Router> =
            (1..distance).map(|hop| Router { address: address(hop), answers: None, quotes: 500 }).collect();
        Self {
            flows: (0..flows).map(flow).collect(),
            paths: vec![path; flows.into()],
            reroutes: Vec::new(),
            faults: Vec::new(),
            tokens: BTreeMap::new(),
            replies: Some(vec![0; flows.into()]),
            keyed: None,
            clock: Duration::ZERO,
            queue: BTreeMap::new(),
            order: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Adds a fault.
    pub fn fault(&mut self, fault: Fault) {
        self.faults.push((fault, false));
    }

    /// The router that a flow meets at a hop.
    pub fn router(&mut self, flow: usize, hop: u8) -> &mut Router {
        &mut self.paths[flow][usize::from(hop) - 1]
    }

    /// From `at` on every flow meets a router of this address at the hop.
    pub fn reroute(&mut self, at: Duration, hop: u8, address: IpAddr) {
        self.reroutes.push((at, hop, address));
    }

    /// Nobody listens at the destination: Port Unreachable, at most so often a second.
    pub fn close(&mut self) {
        self.replies = None;
    }

    /// The reflector answers authenticated packets alone, by our own rules; it may let senders trace back.
    pub fn keyed(&mut self, keys: Arc<Keys>, return_trace: bool) {
        let rules = Rules { keys: Some(keys), sessions: Some(100), return_trace, ..Rules::default() };
        self.keyed = Some(Keyed(SessionReflector::new(rules, ErrorEstimate::from_nanos(1000, true))));
    }

    /// What a reflector with keys does with a packet that has reached it.
    fn answer_keyed(&mut self, flow: usize, hops_left: u8, payload: &[u8]) {
        let Flow { source, target } = self.flows[flow];
        let distance = self.paths[flow].len() as u8 + 1;
        let arrived =
            self.opened() + Interval::from_nanos((self.clock + LINK_DELAY * u32::from(distance)).as_nanos() as i64);
        let now = Time::<Monotonic>::from_nanos(arrived.as_nanos() - self.opened().as_nanos());
        let request = Request {
            peer: source,
            local: Some(target.ip()),
            local_port: target.port(),
            unicast: true,
            ttl: Some(hops_left),
            traffic_class: Some(0),
            arrival: arrived.into(),
            payload,
        };
        let mut bytes = vec![0; payload.len()];
        let Some(Keyed(reflector)) = &mut self.keyed else { return };
        let SessionVerdict::Reply(reply) = reflector.respond(&request, now, &mut bytes) else { return };
        reflector.finish(&reply, arrived, &mut bytes);
        let ends_after = reply.hop_limit().filter(|hops| *hops < distance);
        let Some(hops) = ends_after else {
            return self.bring_back(flow, distance, Arrival::Datagram { flow, payload: bytes });
        };
        let links = distance + 1 - hops..=distance;
        if links.clone().rev().any(|link| self.lost(flow, link, Direction::Return)) {
            return;
        }
        let router = self.paths[flow][usize::from(distance - hops) - 1];
        if !self.may_answer(router) || links.clone().any(|link| self.lost(flow, link, Direction::Forward)) {
            return;
        }
        let at = arrived + Interval::from_nanos((LINK_DELAY * 2 * u32::from(hops)).as_nanos() as i64);
        let kind = if source.is_ipv6() { (3, 0) } else { (11, 0) };
        let quoted = &bytes[..router.quotes.saturating_sub(8).min(bytes.len())];
        if let Some(Keyed(reflector)) = &mut self.keyed {
            reflector.reply_error(&ReplyError { peer: source, from: router.address, kind, at, quoted });
        }
    }

    fn lost(&mut self, flow: usize, link: u8, direction: Direction) -> bool {
        let mut lost = false;
        for (fault, bad) in &mut self.faults {
            let applies = fault.link == link
                && (fault.direction == direction || fault.direction == Direction::Both)
                && (fault.flows.is_empty() || fault.flows.contains(&flow))
                && fault.during.contains(&self.clock);
            if !applies {
                continue;
            }
            // Gilbert: a chain of two states, of which the bad one loses everything.
            let leave = 1.0 / fault.run;
            let enter = if fault.run > 1.0 { (leave * fault.loss / (1.0 - fault.loss)).min(1.0) } else { fault.loss };
            let stays_bad = if fault.run > 1.0 { 1.0 - leave } else { fault.loss };
            *bad = self.random.random_bool(if *bad { stays_bad } else { enter });
            lost |= *bad;
        }
        lost
    }

    fn may_answer(&mut self, router: Router) -> bool {
        let Some(rate) = router.answers else { return true };
        let most = rate.max(1.0);
        let (tokens, since) = self.tokens.get(&router.address).copied().unwrap_or((most, self.clock));
        let tokens = (tokens + rate * (self.clock - since).as_secs_f64()).min(most);
        let answers = rate > 0.0 && tokens >= 1.0;
        self.tokens.insert(router.address, (if answers { tokens - 1.0 } else { tokens }, self.clock));
        answers
    }

    fn bring_back(&mut self, flow: usize, from_hop: u8, arrival: Arrival) {
        if (1..=from_hop).rev().any(|link| self.lost(flow, link, Direction::Return)) {
            return;
        }
        let jitter = Duration::from_micros(self.random.random_range(0..400));
        self.order += 1;
        self.queue.insert((self.clock + LINK_DELAY * 2 * u32::from(from_hop) + jitter, self.order), arrival);
    }

    fn reply(&mut self, flow: usize, hops_left: u8, payload: &[u8]) -> Option<Vec<u8>> {
        let (request, rest) = SenderPacket::parse(payload).ok()?;
        let number = self.replies.as_mut().map(|replies| &mut replies[flow])?;
        let mut reply = ReflectedPacket::new_zeroed();
        reply.sequence = (*number).into();
        *number += 1;
        reply.sender_sequence = request.sequence;
        reply.sender_timestamp = request.timestamp;
        reply.error_estimate = ErrorEstimate::from_nanos(1000, true);
        reply.sender_ttl = hops_left;
        Some([reply.as_bytes(), rest].concat())
    }

    /// An ICMP error as bytes, read again by what reads the real ones.
    fn icmp(&self, flow: usize, from: Router, kind: (u8, u8), hops_left: u8, payload: &[u8]) -> Option<Arrival> {
        let Flow { source, target } = self.flows[flow];
        let sum = self.flows[flow].sum(payload.len()) + words(payload);
        let mut udp: Vec<u8> = Vec::new();
        for word in [source.port(), target.port(), payload.len() as u16 + 8, !fold(sum)] {
            udp.extend(word.to_be_bytes());
        }
        udp.extend(payload);
        udp.truncate(from.quotes.max(8));
        let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 0, 0];
        match (source.ip(), target.ip(), from.address) {
            (IpAddr::V4(source), IpAddr::V4(target), IpAddr::V4(router)) => {
                let header = |protocol: u8, ttl: u8, from: Ipv4Addr, to: Ipv4Addr| {
                    [&[0x45, 0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0][..], &from.octets(), &to.octets()].concat()
                };
                message.extend(header(17, hops_left, source, target));
                message.extend(udp);
                let (from, error) = icmp::parse_v4(&[header(1, 60, router, source), message].concat()).ok()?;
                Some(Arrival::Icmp { from, error })
            }
            (IpAddr::V6(source), IpAddr::V6(target), router) => {
                message.extend([0x60, 0, 0, 0, 0, 0, 17, hops_left]);
                message.extend(source.octets());
                message.extend(target.octets());
                message.extend(udp);
                Some(Arrival::Icmp { from: router, error: icmp::parse_v6(&message).ok()? })
            }
            _ => None,
        }
    }
}

impl Network for Simulation {
    fn flows(&self) -> Vec<Flow> {
        self.flows.clone()
    }

    fn now(&self) -> Duration {
        self.clock
    }

    fn opened(&self) -> Time<Realtime> {
        Time::from_nanos(1_800_000_000_000_000_000)
    }

    fn send(&mut self, flow: usize, ttl: u8, payload: &[u8]) -> Result<Departure, Error> {
        let v6 = self.flows[flow].target.is_ipv6();
        let distance = self.paths[flow].len() as u8 + 1;
        for hop in 1..=distance.min(ttl) {
            if self.lost(flow, hop, Direction::Forward) {
                return Ok(Departure::Sent);
            }
        }
        if ttl >= distance {
            let left = ttl - distance + 1;
            if self.keyed.is_some() {
                self.answer_keyed(flow, left, payload);
                return Ok(Departure::Sent);
            }
            let answer = if self.replies.is_some() {
                self.reply(flow, left, payload).map(|payload| Arrival::Datagram { flow, payload })
            } else {
                let end = Router { address: self.flows[flow].target.ip(), answers: Some(20.0), quotes: 500 };
                let kind = if v6 { (1, 4) } else { (3, 3) };
                self.may_answer(end).then(|| self.icmp(flow, end, kind, left, payload)).flatten()
            };
            answer.into_iter().for_each(|answer| self.bring_back(flow, distance, answer));
            return Ok(Departure::Sent);
        }
        let mut router = self.paths[flow][usize::from(ttl) - 1];
        if let Some((_, _, address)) = self.reroutes.iter().rfind(|(at, hop, _)| *hop == ttl && *at <= self.clock) {
            router.address = *address;
        }
        if self.may_answer(router) {
            let kind = if v6 { (3, 0) } else { (11, 0) };
            let answer = self.icmp(flow, router, kind, 1, payload);
            answer.into_iter().for_each(|answer| self.bring_back(flow, ttl, answer));
        }
        Ok(Departure::Sent)
    }

    fn wait(&mut self, until: Duration, each: &mut dyn FnMut(Duration, Arrival)) -> Result<(), Error> {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), arrival) = entry.remove_entry();
            each(at, arrival);
        }
        self.clock = self.clock.max(until);
        Ok(())
    }
}
