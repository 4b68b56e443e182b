//! A trace as a function: which probe is due when, and what each arrival says of it. Reads no clock, moves no packet.

use std::{net::IpAddr, sync::Arc, time::Duration};

use pathlab_reflector::{keys::Keys, wire::ReturnTrace};

use crate::{
    Arrival, Departure, Flow,
    icmp::Kind,
    probe,
    reply::{Reply, Way},
    way_back::WayBack,
};

/// How a trace goes about it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds: in each, every hop and the destination of every flow get one probe.
    pub rounds: u32,
    /// From one round to the next, its probes spread over it.
    pub interval: Duration,
    /// Hops beyond this are not asked, 1 to 63.
    pub max_hops: u8,
    /// Octets of payload.
    pub size: usize,
    /// How long an answer may take; what comes later is lost.
    pub patience: Duration,
    /// Keys of authenticated mode; probes have SSID 0.
    pub keys: Option<Arc<Keys>>,
    /// Trace the way back, too, by replies that end on it; needs keys, and a reflector that allows it.
    pub reverse: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rounds: 100,
            interval: Duration::from_secs(1),
            max_hops: 30,
            size: probe::LEAST_SIZE,
            patience: Duration::from_secs(2),
            keys: None,
            reverse: false,
        }
    }
}

/// TTL of probes that are meant for the destination.
pub(crate) const FAR: u8 = 64;
/// Routers and kinds of refusal that are told apart, so that what others send takes no memory without bound.
const MOST_REFUSALS: usize = 16;
/// While the destination has not answered, so many hops beyond the last one that has are asked.
pub(crate) const AHEAD: u8 = 4;

/// A probe that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Place of its flow.
    pub flow: usize,
    /// Its number within the flow.
    pub number: u32,
    /// TTL or Hop Limit.
    pub ttl: u8,
    /// The Hop Limit that its reply shall leave with; 0: the usual one.
    pub ask: u8,
}

/// What became of one probe.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// TTL or Hop Limit that it was sent with.
    pub ttl: u8,
    /// When, since the network was opened; absent where this host did not send it.
    pub sent: Option<Duration>,
    /// The Hop Limit that its reply was to leave with; 0: the usual one.
    pub ask: u8,
    /// The first answer.
    pub answer: Option<Answer>,
    /// What the reflector told with that answer of replies that were to end on their way: how many there were so far, and whether this is one.
    pub limited: Option<(u32, bool)>,
    /// What the reflector told of the reply to this probe, which was to end on its way: who answered it and after how long, or nobody.
    pub told: Option<Option<(IpAddr, Duration)>>,
}

/// The first answer to a probe.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Who answered.
    pub from: IpAddr,
    /// Round trip.
    pub rtt: Duration,
    /// What it was.
    pub what: What,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A router, of a probe whose TTL had run out.
    Router,
    /// Our kind of reflector, with its own number of this reply.
    Reflected(u32),
    /// The destination, on whose port nobody listens.
    Closed,
    /// A router that does not pass it on: the code, or none for a packet that is too big.
    Refused(Option<u8>),
}

/// An address or a length of the path that changed, as seen by one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the first probe of the new path was sent.
    pub at: Duration,
    /// That probe's number.
    pub number: u32,
    /// At which hop; absent where the path's length changed.
    pub hop: Option<u8>,
    /// Who answered before.
    pub before: Option<IpAddr>,
    /// Who answers now.
    pub after: Option<IpAddr>,
}

/// Everything that was seen of one flow.
#[derive(Clone, Debug)]
pub struct Traced {
    /// By number.
    pub probes: Vec<Probe>,
    /// Hops to the destination, itself included; absent where it never answered.
    pub distance: Option<u8>,
    /// Changes of the path in order of time.
    pub changes: Vec<Change>,
    /// Who told that it does not pass probes on, and why.
    pub refusals: Vec<Refusal>,
    /// Probes that this host did not send, as its own link does not take so long a packet.
    pub too_long: u64,
    /// Errors that quote too little to be told whose they are.
    pub unmatched: u64,
    /// The way back, where it was asked for.
    pub way_back: Option<WayBack>,
}

/// A router's word that it does not pass probes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose.
    pub from: IpAddr,
    /// Why.
    pub kind: Kind,
    /// How often it came.
    pub times: u64,
}

/// The run of all flows.
#[derive(Debug)]
pub struct Tracer {
    plan: Plan,
    flows: Vec<Flow>,
    states: Vec<State>,
    round: u32,
    /// Probes of this round still to be sent, each with its time, the next one last.
    todo: Vec<(Duration, usize, (u8, u8))>,
}

#[derive(Debug)]
struct State {
    traced: Traced,
    /// Who answered last, by TTL.
    at_hop: [Option<IpAddr>; 256],
    highest: u8,
}

impl Tracer {
    /// Nothing sent yet.
    pub fn new(plan: Plan, flows: Vec<Flow>) -> Self {
        let empty = Traced {
            probes: Vec::new(),
            distance: None,
            changes: Vec::new(),
            refusals: Vec::new(),
            too_long: 0,
            unmatched: 0,
            way_back: plan.reverse.then(WayBack::default),
        };
        let states = flows.iter().map(|_| State { traced: empty.clone(), at_hop: [None; 256], highest: 0 }).collect();
        let mut tracer = Self { plan, flows, states, round: 0, todo: Vec::new() };
        tracer.begin_round();
        tracer
    }

    /// When the next probe is due; `None` when all are sent.
    pub fn due(&self) -> Option<Duration> {
        self.todo.last().map(|(at, ..)| *at)
    }

    /// Takes the next probe.
    pub fn take_due(&mut self) -> Option<Due> {
        let (_, flow, (ttl, ask)) = self.todo.pop()?;
        let probes = &mut self.states[flow].traced.probes;
        let number = probes.len() as u32;
        probes.push(Probe { ttl, sent: None, ask, answer: None, limited: None, told: None });
        if self.todo.is_empty() {
            self.begin_round();
        }
        Some(Due { flow, number, ttl, ask })
    }

    /// Notes whether and when a probe left.
    pub fn sent(&mut self, due: &Due, at: Duration, departure: Departure) {
        let traced = &mut self.states[due.flow].traced;
        traced.probes[due.number as usize].sent = (departure == Departure::Sent).then_some(at);
        traced.too_long += u64::from(departure == Departure::TooLong);
    }

    /// Whether probes are without an answer.
    pub fn waits(&self) -> bool {
        self.states
            .iter()
            .flat_map(|state| &state.traced.probes)
            .any(|probe| probe.sent.is_some() && probe.answer.is_none() && probe.told.is_none())
    }

    /// Notes what came.
    pub fn arrived(&mut self, at: Duration, arrival: &Arrival) {
        match arrival {
            Arrival::Datagram { flow, payload } => {
                let key = self.plan.keys.as_ref().and_then(|keys| keys.find(0));
                let Some(Reply { base, way }) = Reply::read(payload, key) else { return };
                let target = self.flows[*flow].target.ip();
                let (number, what) = (base.sender_sequence.get(), What::Reflected(base.sequence.get()));
                let state = &mut self.states[*flow];
                state.answered(&self.plan, at, number, target, what, Some(base.sender_ttl));
                if self.plan.reverse {
                    state.heard(number, way, target.is_ipv6());
                }
            }
            Arrival::Icmp { from, error } => {
                let Some(flow) = self.flows.iter().position(|flow| *flow == error.flow) else { return };
                let state = &mut self.states[flow];
                let Some(number) = error.number.or_else(|| state.by_checksum(error.checksum)) else {
                    state.traced.unmatched += 1;
                    return;
                };
                state.refused(
                    &self.plan,
                    at,
                    number,
                    (*from, self.flows[flow].target.ip()),
                    error.kind,
                    Some(error.hops_left),
                );
            }
            Arrival::Queued { flow, from, kind, payload } => {
                let state = &mut self.states[*flow];
                let Some(number) = probe::number(payload) else {
                    state.traced.unmatched += 1;
                    return;
                };
                state.refused(&self.plan, at, number, (*from, self.flows[*flow].target.ip()), *kind, None);
            }
        }
    }

    /// What was seen, by flow.
    pub fn finish(self) -> Vec<Traced> {
        self.states.into_iter().map(|state| state.traced).collect()
    }

    fn begin_round(&mut self) {
        if self.round == self.plan.rounds {
            return;
        }
        let begin = self.plan.interval * self.round;
        // The destination first: its answer tells how long the path is. Flows take turns.
        let asked: Vec<Vec<(u8, u8)>> = self.states.iter().map(|state| state.asks(&self.plan)).collect();
        let longest = asked.iter().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest)
            .flat_map(|turn| asked.iter().enumerate().filter_map(move |(flow, ttls)| Some((flow, *ttls.get(turn)?))));
        let turns: Vec<_> = turns.collect();
        let share = self.plan.interval / (turns.len() as u32).max(1);
        self.todo =
            turns.iter().enumerate().map(|(turn, (flow, ttl))| (begin + share * turn as u32, *flow, *ttl)).collect();
        self.todo.reverse();
        self.round += 1;
    }
}

impl State {
    /// TTLs, each with the Hop Limit that is asked of the reply.
    fn asks(&self, plan: &Plan) -> Vec<(u8, u8)> {
        let last = match self.traced.distance {
            Some(distance) => distance - 1,
            None => self.highest.saturating_add(AHEAD),
        };
        let back = self.traced.way_back.as_ref().map_or(0, |way| way.asks().min(plan.max_hops));
        let there = std::iter::once(FAR).chain(1..=last.min(plan.max_hops)).map(|ttl| (ttl, 0));
        there.chain((1..=back).map(|ask| (FAR, ask))).collect()
    }

    /// The last probe whose checksum this is.
    fn by_checksum(&self, checksum: u16) -> Option<u32> {
        (0..self.traced.probes.len() as u32).rev().find(|number| probe::checksum(*number) == checksum)
    }

    fn refused(
        &mut self,
        plan: &Plan,
        at: Duration,
        number: u32,
        (from, target): (IpAddr, IpAddr),
        kind: Kind,
        left: Option<u8>,
    ) {
        let what = match kind {
            Kind::TimeExceeded => What::Router,
            Kind::PortUnreachable if from == target => What::Closed,
            Kind::PortUnreachable => What::Refused(Some(3)),
            Kind::PacketTooBig { .. } => What::Refused(None),
            Kind::Unreachable { code } => What::Refused(Some(code)),
        };
        if matches!(what, What::Refused(_)) {
            self.told_why(number, from, kind);
        }
        self.answered(plan, at, number, from, what, left);
    }

    fn told_why(&mut self, number: u32, from: IpAddr, kind: Kind) {
        if self.traced.probes.get(number as usize).is_none_or(|probe| probe.sent.is_none()) {
            return;
        }
        let refusals = &mut self.traced.refusals;
        if let Some(known) = refusals.iter_mut().find(|known| (known.from, known.kind) == (from, kind)) {
            known.times += 1;
        } else if refusals.len() < MOST_REFUSALS {
            refusals.push(Refusal { from, kind, times: 1 });
        }
    }

    /// `left` is the TTL with which the probe arrived.
    fn answered(&mut self, plan: &Plan, at: Duration, number: u32, from: IpAddr, what: What, left: Option<u8>) {
        let Some(probe) = self.traced.probes.get_mut(number as usize) else { return };
        let (Some(sent), None) = (probe.sent, probe.answer) else { return };
        let rtt = at.saturating_sub(sent);
        if rtt > plan.patience {
            return;
        }
        probe.answer = Some(Answer { from, rtt, what });
        let ttl = probe.ttl;
        match what {
            What::Reflected(_) | What::Closed => {
                // What is left of the TTL tells the distance, unless something on the way has set it.
                let taken = left.filter(|left| (1..=ttl).contains(left)).map(|left| ttl - left + 1);
                let known = self.traced.distance;
                let distance = match taken {
                    Some(taken) => Some(taken),
                    None if ttl == FAR => known,
                    None => Some(known.map_or(ttl, |known| known.min(ttl))),
                };
                let distance = distance.filter(|distance| *distance <= plan.max_hops.saturating_add(1));
                if let (Some(known), Some(distance)) = (known, distance)
                    && known != distance
                    && taken.is_some()
                {
                    self.change(number, sent, None, (None, None));
                }
                self.traced.distance = distance.or(known);
            }
            What::Router => {
                self.highest = self.highest.max(ttl);
                let before = self.at_hop[usize::from(ttl)].replace(from);
                if before.is_some_and(|before| before != from) {
                    self.change(number, sent, Some(ttl), (before, Some(from)));
                }
            }
            What::Refused(_) => {}
        }
    }

    /// What a reply tells of the way back.
    fn heard(&mut self, number: u32, way: Way<'_>, v6: bool) {
        let Traced { probes, way_back: Some(back), .. } = &mut self.traced else { return };
        let (head, reports) = match way {
            Way::Refused => {
                back.refused = true;
                return;
            }
            Way::Unsaid => return,
            Way::Told(head, reports) => (head, reports),
        };
        let ReturnTrace { given, limited, .. } = *head;
        if let Some(probe) = probes.get_mut(number as usize) {
            probe.limited.get_or_insert((limited.get(), given > 0));
            if given > 0 && given == probe.ask {
                back.through(given);
            }
        }
        for report in reports {
            let number = report.sender_sequence.get();
            let Some(probe) = probes.get_mut(number as usize).filter(|probe| probe.ask > 0) else { continue };
            let (Some(sent), None) = (probe.sent, probe.told) else { continue };
            let expired = Kind::new(v6, report.kind, report.code, 0) == Some(Kind::TimeExceeded);
            let answer = report.answer().filter(|_| expired);
            probe.told = Some(answer);
            if let Some((from, _)) = answer {
                back.met(probe.ask, from, number, sent);
            }
        }
    }

    fn change(
        &mut self,
        number: u32,
        at: Duration,
        hop: Option<u8>,
        (before, after): (Option<IpAddr>, Option<IpAddr>),
    ) {
        self.traced.changes.push(Change { at, number, hop, before, after });
    }
}
