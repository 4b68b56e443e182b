//! The probe's loop: sends what is due, takes what has come, and sleeps until the next of both; the world is an argument.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use pathlab_record::{Interval, Monotonic, Realtime, Time};
use pathlab_xdp::{NicClock, clock::SystemLook};
use zerocopy::IntoBytes;

use super::{
    clocks::Clocks,
    inside,
    matching::{Matching, Patience, Sink, TransmitStamp},
    packet::{self, Answers, Send, Shape, Template},
    passage::{Departure, Reply},
    schedule::{Due, Schedule, Slot},
    services::{Counting, Services},
    sessions::{SessionSpec, SocketPlan},
};
use crate::{
    clock::{ClockQuality, Steps, from_wire, is_in_doubt},
    datapath::{Datagram, SendId, SentStamp},
    session::{Integrity, nic_stamp},
    wire::{
        AUTHENTICATED_LEN, AUTHENTICATED_PART, AuthenticatedReflectedPacket, ErrorEstimate, NtpTimestamp,
        ReflectedPacket, Tlv, tlv_flag,
    },
};

/// One instant by both clocks that the probe lives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For the schedule and all waits: it never steps.
    pub monotonic: Time<Monotonic>,
    /// For stamps: the clock that the kernel stamps by.
    pub realtime: Time<Realtime>,
}

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// A slot, which is worth looking at the clock for.
    Slot(Time<Monotonic>),
    /// Anything else.
    Other(Time<Monotonic>),
}

impl Until {
    /// When that is.
    pub fn at(self) -> Time<Monotonic> {
        match self {
            Self::Slot(at) | Self::Other(at) => at,
        }
    }
}

/// What a socket has for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Index of the socket.
    pub socket: usize,
    /// Datagrams.
    pub datagrams: bool,
    /// Transmit stamps.
    pub stamps: bool,
}

/// Sockets and clocks, by socket index of the [`SocketPlan`]. The real one is a handful of UDP sockets behind epoll; its
/// in-memory twin is a simulated network under virtual time.
pub trait World {
    /// Reads both clocks.
    fn now(&mut self) -> Now;

    /// Compares both clocks, so that a step of the second is seen.
    fn look(&mut self) -> SystemLook;

    /// How good the clock of the stamps is; asked again whenever the last answer no longer [holds](ClockQuality::holds).
    fn clock_quality(&mut self) -> ClockQuality;

    /// Sends one datagram; the id comes back with its stamps.
    ///
    /// # Errors
    /// As the kernel gave it.
    fn send(&mut self, socket: usize, to: SocketAddr, from: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId>;

    /// Takes one batch of datagrams, without waiting; how many.
    ///
    /// # Errors
    /// As the kernel gave it.
    fn receive(&mut self, socket: usize, each: impl FnMut(Datagram<'_>)) -> io::Result<usize>;

    /// Takes the transmit stamps that have arrived, without waiting; how many.
    ///
    /// # Errors
    /// As the kernel gave it.
    fn sent_stamps(&mut self, socket: usize, each: impl FnMut(SendId, SentStamp)) -> io::Result<usize>;

    /// Waits until `until`, or until a socket has something: then puts it into `ready`, which comes empty. What is there already is found also where
    /// `until` has passed. A slot is to be met as exactly as the host can; the end of any other wait may be a little late.
    ///
    /// # Errors
    /// As the kernel gave it.
    fn wait(&mut self, until: Until, ready: &mut Vec<Ready>) -> io::Result<()>;

    /// Whether somebody asked to stop.
    fn stop_requested(&mut self) -> bool;
}

/// What the loop notes beside what the matching settles.
pub trait Watch: Sink {
    /// A test packet left `late` after its slot.
    fn sent(&mut self, session: usize, slot: Time<Realtime>, late: Interval);
    /// A slot was given up because it was too late.
    fn skipped(&mut self, session: usize, slot: Time<Realtime>);
    /// The host refused to send.
    fn refused(&mut self, session: usize, slot: Time<Realtime>, error: &io::Error);
    /// Called once a turn: whatever lies before `now` by more than the wait for replies will not change any more.
    fn turn(&mut self, now: Now);
}

/// What came in and belonged to nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Strays {
    /// Datagrams from an address that is no target, or to an address that is no source.
    pub unknown: u64,
    /// Datagrams from a target that are no STAMP packets.
    pub malformed: u64,
    /// Datagrams from a target whose HMAC is not that of the session's key.
    #[serde(default)]
    pub bad_hmac: u64,
    /// Replies that count, but whose TLVs failed their HMAC or came back as such (flag I), so that nothing they say was used.
    #[serde(default)]
    pub bad_extensions: u64,
}

/// Why a datagram from a target is no reply.
enum Stray {
    Malformed,
    BadHmac,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The schedule came to its end, or somebody asked to stop.
    Done,
    /// The first packets had their time and not one reply had come.
    Silence,
}

/// Fixed facts of a run.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whom to wait for, how long.
    pub patience: Patience,
    /// Size, TLVs and keys of the test packets.
    pub shape: Shape,
    /// SSID of the first session, those after it count up; `None` for none (RFC 8972 §3).
    pub ssid: Option<NonZeroU16>,
    /// Wake at most so often for sending: slots that lie closer together leave together, late by up to this. Zero: each by itself.
    pub coalesce: Interval,
    /// End with [`End::Silence`] when the packets of the first timeout had no reply at all.
    pub give_up_on_silence: bool,
    /// Sequence Number of each session's first packet: 0, but for packets shaped like PTP.
    pub first_sequence: u32,
}

/// The loop, and all that it knows.
pub struct Engine<'a, W> {
    world: W,
    specs: &'a [SessionSpec],
    socket_of: Vec<usize>,
    schedule: Schedule,
    matching: Matching,
    terms: Terms,
    /// Of the clock of the stamps, and in words for the wire.
    clock: ClockQuality,
    error_estimate: ErrorEstimate,
    template: Template,
    session_of: HashMap<(usize, Option<IpAddr>, IpAddr, u16), usize>,
    ids: Vec<Ids>,
    strays: Strays,
    services: Counting,
    heard: bool,
    clocks: Clocks,
    /// Something came since the last look.
    unlooked: bool,
}

/// Packets sent between two looks at the sockets, so that a catch-up after a stall does not starve the receiving side.
const SEND_BURST: usize = 32;
/// How closely the ends of waits are kept.
const GRAIN: Interval = Interval::from_nanos(5_000_000);
/// How often a quiet loop looks at the stop flag and at the clocks.
const TICK: Interval = Interval::from_nanos(50_000_000);

impl<'a, W: World> Engine<'a, W> {
    /// A run of `schedule` over `specs`, whose sockets in `world` are those of `plan`.
    pub fn new(world: W, specs: &'a [SessionSpec], plan: &SocketPlan, schedule: Schedule, terms: Terms) -> Self {
        let key = |(session, spec): (usize, &SessionSpec)| {
            let target = spec.target;
            ((plan.socket_of[session], spec.source_address(), target.ip(), target.port()), session)
        };
        Self {
            world,
            specs,
            socket_of: plan.socket_of.clone(),
            schedule,
            matching: Matching::new(specs.len(), terms.patience),
            template: Template::new(&terms.shape),
            terms,
            clock: ClockQuality::UNKNOWN,
            error_estimate: ClockQuality::UNKNOWN.error_estimate(),
            session_of: specs.iter().enumerate().map(key).collect(),
            ids: plan.bind.iter().map(|_| Ids::default()).collect(),
            strays: Strays::default(),
            services: Counting::default(),
            heard: false,
            clocks: Clocks::default(),
            unlooked: false,
        }
    }

    /// Takes the card's stamps into the samples; without its clock nobody knows what they mean.
    pub fn with_nic_clock(mut self, clock: Option<Arc<dyn NicClock>>) -> Self {
        self.clocks = Clocks::with_nic(clock);
        self
    }

    /// Runs to the end of the schedule and waits for the last replies, at most one timeout.
    ///
    /// # Errors
    /// A system call of the loop itself failed, named. A refused send is no such error: it is counted.
    pub fn run(&mut self, watch: &mut impl Watch) -> Result<End, (&'static str, io::Error)> {
        let timeout = Interval::from_nanos(self.terms.patience.timeout.as_nanos() as i64);
        let started = self.world.now().monotonic;
        let mut drain_until = None;
        let mut next_send = started;
        let mut clock_due = started;
        let mut ready = Vec::new();
        loop {
            let now = self.world.now();
            if now.monotonic >= clock_due {
                self.clock = self.world.clock_quality();
                self.error_estimate = self.clock.error_estimate();
                clock_due = now.monotonic + self.clock.holds();
            }
            if drain_until.is_none() {
                if now.monotonic >= next_send && self.send_due(now, watch) {
                    next_send = now.monotonic + self.terms.coalesce;
                }
                if self.schedule.peek().is_none() || self.world.stop_requested() {
                    drain_until = Some(self.world.now().monotonic + timeout);
                }
            }
            self.look(now.monotonic);
            self.matching.confirm(now.monotonic, &self.clocks, watch);
            self.matching.expire(now.monotonic, &self.clocks, watch);
            watch.turn(now);
            // Each of them waits for a bounded time.
            let over = |until| now.monotonic >= until && !self.matching.is_confirming();
            if drain_until.is_some_and(over) || drain_until.is_some() && self.matching.all_answered() {
                break;
            }
            if self.terms.give_up_on_silence && !self.heard && now.monotonic >= started + timeout {
                break;
            }
            let slot = self.schedule.peek().filter(|_| drain_until.is_none()).map(|slot| slot.at.max(next_send));
            // The end of a wait for a reply or a stamp is not urgent: many are settled at one waking.
            let expiry = self.matching.next_expiry().map(|at| at.max(now.monotonic + GRAIN));
            let drained = drain_until.filter(|until| *until > now.monotonic);
            let other = [drained, expiry].into_iter().flatten().fold(now.monotonic + TICK, Time::min);
            let exact = self.terms.coalesce == Interval::ZERO;
            let until = match slot {
                Some(slot) if slot <= other && exact => Until::Slot(slot),
                Some(slot) => Until::Other(slot.min(other)),
                None => Until::Other(other),
            };
            self.world.wait(until, &mut ready).map_err(|error| ("epoll_pwait2", error))?;
            for ready in ready.drain(..) {
                self.take(ready, watch)?;
                // However many sockets have something, a slot whose time has come goes first.
                let now = self.world.now();
                if slot.is_some_and(|slot| slot <= now.monotonic) && exact {
                    self.send_due(now, watch);
                }
            }
        }
        self.unlooked = true;
        let now = self.world.now().monotonic;
        self.look(now);
        self.matching.finish(now, &self.clocks, watch);
        Ok(if self.heard { End::Done } else { End::Silence })
    }

    /// The matching, with the counts of every session.
    pub fn matching(&self) -> &Matching {
        &self.matching
    }

    /// What the reflectors said in Class of Service and Direct Measurement TLVs.
    pub fn services(&self) -> Services {
        self.services.services()
    }

    /// What belonged to nobody.
    pub fn strays(&self) -> Strays {
        self.strays
    }

    /// How often the clocks were seen to step.
    pub fn steps(&self) -> Steps {
        self.clocks.steps()
    }

    /// Whether the schedule had more slots when the run ended.
    pub fn slots_left(&self) -> bool {
        self.schedule.peek().is_some()
    }

    /// Gives the world back.
    pub fn into_world(self) -> W {
        self.world
    }

    /// Sends what is due; whether that was all of it.
    fn send_due(&mut self, mut now: Now, watch: &mut impl Watch) -> bool {
        for _ in 0..SEND_BURST {
            let Some(due) = self.schedule.due(now.monotonic) else { return true };
            match due {
                Due::Send(slot) => self.send(slot, watch),
                Due::Skip(slot) => watch.skipped(slot.session, on_realtime(slot.at, now)),
            }
            now = self.world.now();
        }
        false
    }

    fn send(&mut self, slot: Slot, watch: &mut impl Watch) {
        let spec = &self.specs[slot.session];
        let socket = self.socket_of[slot.session];
        let seq = self.matching.next_seq(slot.session);
        let now = self.world.now();
        let timestamp = NtpTimestamp::from(now.realtime);
        let packet = self.template.fill(Send {
            sequence: seq.wrapping_add(self.terms.first_sequence),
            time: now.realtime,
            error_estimate: self.error_estimate,
            ssid: ssid(self.terms.ssid, slot.session),
            sent: seq.wrapping_add(1),
        });
        // The slot on the stamping clock: read back from this very instant, so that a clock step in between moves both.
        let a0 = on_realtime(slot.at, now);
        match self.world.send(socket, spec.target, spec.source_address(), packet) {
            Ok(id) => {
                let departure = Departure {
                    a0,
                    a1_app: now.realtime,
                    a1_sched: None,
                    a1_kernel: None,
                    a1_nic: None,
                    uncertainty: self.clock.reading_cost,
                };
                self.matching.sent(slot.session, now.monotonic, departure, timestamp.bits());
                self.ids[socket].note(id, slot.session, seq);
                watch.sent(slot.session, a0, now.monotonic - slot.at);
            }
            Err(error) => watch.refused(slot.session, a0, &error),
        }
    }

    /// Looks at the clocks where something came since the last look, or where that was long ago.
    fn look(&mut self, now: Time<Monotonic>) {
        if std::mem::take(&mut self.unlooked) || self.clocks.looked().is_none_or(|looked| now - looked >= TICK) {
            self.clocks.look(self.world.look());
        }
    }

    fn take(&mut self, ready: Ready, watch: &mut impl Watch) -> Result<(), (&'static str, io::Error)> {
        self.unlooked = true;
        let Self { world, matching, session_of, ids, strays, services, heard, terms, clocks, .. } = self;
        let nic_clock = clocks.nic();
        let socket = ready.socket;
        if ready.stamps {
            let ids = &mut ids[socket];
            let taken = world.sent_stamps(socket, |id, stamp| {
                let stamp = match stamp {
                    SentStamp::Sched(time) => TransmitStamp::Sched(time),
                    SentStamp::Kernel(time) => TransmitStamp::Kernel(time),
                    SentStamp::Nic(nic) => match nic_stamp(nic, nic_clock) {
                        Some(stamp) => TransmitStamp::Nic(stamp),
                        None => return,
                    },
                };
                if let Some((session, seq)) = ids.find(id) {
                    matching.sent_stamp(session, seq, stamp, watch);
                }
            });
            taken.map_err(|error| ("recvmmsg(MSG_ERRQUEUE)", error))?;
        }
        if ready.datagrams {
            let now = world.now().monotonic;
            let ours = self.error_estimate;
            // One batch: should there be more, the socket is ready again at the next turn, after the slots that are due.
            let taken = world.receive(socket, |datagram| {
                let peer = (datagram.peer.ip(), datagram.peer.port());
                let of = |local| session_of.get(&(socket, local, peer.0, peer.1)).copied();
                let Some(session) = of(datagram.local).or_else(|| of(None)) else {
                    strays.unknown += 1;
                    return;
                };
                let ssid = ssid(terms.ssid, session);
                let (packet, answers) = match read(datagram.payload, ssid, &terms.shape) {
                    Ok(read) => read,
                    Err(Stray::Malformed) => return strays.malformed += 1,
                    Err(Stray::BadHmac) => return strays.bad_hmac += 1,
                };
                let a4_nic = datagram.nic.and_then(|nic| nic_stamp(nic, nic_clock));
                let reply = Reply { a4_nic, ..reply(&packet, &datagram, ours) }.counted_from(terms.first_sequence);
                let Some(answers) = answers else {
                    strays.bad_extensions += 1;
                    *heard |= matching.reply(session, now, reply, watch);
                    return;
                };
                services.reply(session, &answers, datagram.traffic_class);
                let inside = inside::inside(&answers, reply.b2, reply.b3);
                let follow_up = inside::follow_up(&answers, packet.error_estimate);
                *heard |= matching.reply_inside(session, now, reply, inside, follow_up, watch);
            });
            taken.map_err(|error| ("recvmmsg", error))?;
        }
        Ok(())
    }
}

fn on_realtime(at: Time<Monotonic>, now: Now) -> Time<Realtime> {
    now.realtime + (at - now.monotonic)
}

fn reply(packet: &ReflectedPacket, datagram: &Datagram<'_>, ours: ErrorEstimate) -> Reply {
    let error = |estimate: ErrorEstimate| estimate.nanos().filter(|_| estimate.is_synchronised());
    Reply {
        seq: packet.sender_sequence.get(),
        reflector_seq: packet.sequence.get(),
        echo: packet.sender_timestamp.bits(),
        b2: packet.received_at().map(from_wire),
        b3: packet.sent_at().map(from_wire),
        synchronised: error(ours).zip(error(packet.error_estimate)).map(|(ours, theirs)| ours.saturating_add(theirs)),
        in_doubt: is_in_doubt(packet.error_estimate),
        a4_kernel: datagram.kernel,
        a4_nic: None,
        a4_app: datagram.app,
    }
}

impl Reply {
    /// With numbers that begin at zero, as the matching counts.
    fn counted_from(self, first: u32) -> Self {
        let [seq, reflector_seq] = [self.seq, self.reflector_seq].map(|number| number.wrapping_sub(first));
        Self { seq, reflector_seq, ..self }
    }
}

/// The base packet of a reply, and what its TLVs say, if that may be used.
fn read(payload: &[u8], ssid: u16, shape: &Shape) -> Result<(ReflectedPacket, Option<Answers>), Stray> {
    let key = packet::key(shape.keys.as_ref(), ssid);
    let authenticated = shape.base_len() == AUTHENTICATED_LEN;
    let (packet, extensions) = if authenticated {
        let (packet, rest) = AuthenticatedReflectedPacket::parse(payload).map_err(|_| Stray::Malformed)?;
        let verified = key.is_some_and(|key| key.verifies(&[&payload[..AUTHENTICATED_PART]], &packet.hmac));
        if !verified {
            return Err(Stray::BadHmac);
        }
        (packet.plain(), rest)
    } else {
        let (packet, rest) = ReflectedPacket::parse(payload).map_err(|_| Stray::Malformed)?;
        (*packet, rest)
    };
    let failed = Tlv::all(extensions).any(|tlv| tlv.flags & tlv_flag::INTEGRITY_FAILED != 0)
        || Integrity::of(extensions, packet.sequence.as_bytes(), key, authenticated) == Integrity::Failed;
    // A reflector that knows no TLVs gives back the request's, under the request's HMAC: that is no failure where there is nothing to read.
    let unread = Tlv::all(extensions).all(|tlv| tlv.flags & tlv_flag::UNRECOGNIZED != 0);
    Ok((packet, if unread { Some(Answers::default()) } else { (!failed).then(|| Answers::read(extensions)) }))
}

/// The SSID of a session: never zero where there are any.
pub(super) fn ssid(first: Option<NonZeroU16>, session: usize) -> u16 {
    first.map_or(0, |first| ((usize::from(first.get()) - 1 + session) % usize::from(u16::MAX)) as u16 + 1)
}

/// Which packet a socket's send id stands for; a send may have several stamps, the card's last. Bounded: the oldest gives way.
#[derive(Debug, Default)]
struct Ids(VecDeque<(u32, usize, u32)>);

impl Ids {
    const MOST: usize = 4096;

    fn note(&mut self, id: SendId, session: usize, seq: u32) {
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back((id.0, session, seq));
    }

    fn find(&self, id: SendId) -> Option<(usize, u32)> {
        let first = self.0.front()?.0;
        // Ids only grow, modulo 2^32; where the kernel left none out, the place is the distance.
        let distance = id.0.wrapping_sub(first) as usize;
        let place = match self.0.get(distance) {
            Some(entry) if entry.0 == id.0 => distance,
            _ => self.0.binary_search_by_key(&distance, |entry| entry.0.wrapping_sub(first) as usize).ok()?,
        };
        let (_, session, seq) = self.0[place];
        Some((session, seq))
    }
}

/// How long after its slot a packet can still change: until the wait for its reply has ended, and a moment for the loop itself.
pub(super) fn settled_after(patience: Patience) -> Duration {
    patience.keep() + Duration::from_secs(1)
}
