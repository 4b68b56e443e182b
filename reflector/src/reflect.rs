//! The Session-Reflector over UDP sockets: moves datagrams and stamps between the kernel and the rules, and keeps the account.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use pathlab_record::{ClockId, Interval, Monotonic, Plane, Planes, Realtime, Time};
use pathlab_xdp::{NicClock, clock::SystemLook};

use crate::{
    Error,
    clock::{ClockQuality, StepWatch, Unconfirmed, monotonic_now, nothing_known, realtime_now, software},
    datapath::{Datagram, Outgoing, Sender, SentStamp, SocketOptions, StampedSocket, TransmitSlots, Undelivered},
    metrics::Metrics,
    places::{Place, Places},
    report::{FollowUps, HwCoverage, ReflectorReport, Spans},
    session::{
        Arrival, Reason, Reply, ReplyError, Request, Rules, SessionReflector, Tally, Verdict, departing::Departing,
        nic_stamp,
    },
    stop::Stop,
    sys,
    wire::ErrorEstimate,
};

/// Batches of one socket before the next socket has its turn.
const BATCHES_IN_TURN: usize = 8;

/// The same when stopping: more than a receive buffer holds, and yet an end, whatever keeps coming.
const BATCHES_AT_STOP: usize = 4096;

/// Replies whose transmit stamp may be on its way.
const DEPARTING: usize = 4096;

/// Room for the longest UDP payload; the odd cache line keeps the replies of a batch from sharing cache sets.
const LONGEST: usize = 65_536 + 64;

/// Replies that leave with one call: as many as come with one.
const TOGETHER: usize = 32;

/// What [`Reflector::new`] needs to know.
#[derive(Clone, Default)]
pub struct ReflectorConfig {
    /// Addresses and ports to listen on; on a wildcard, replies leave from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// How the sockets are set up; [`SocketOptions::stamped`] for stamps.
    pub socket: SocketOptions,
    /// Makes the card's stamps B2 where it can tell them in UTC; without it they are counted and the kernel's are.
    pub nic_clock: Option<Arc<dyn NicClock>>,
    /// Who gets replies.
    pub rules: Rules,
    /// Fault for tests of the ledger: read what has arrived so much later.
    pub delay_before_read: Option<Duration>,
    /// Where the running account is published, once a second; nowhere if absent.
    pub metrics: Option<Arc<Metrics>>,
    /// Fault for tests of the ledger: wait so long before B3 is taken and the reply sent. Datagrams behind it wait as well.
    pub delay_before_send: Option<Duration>,
    /// Fault for tests of the ledger: wait so long after B3 is taken, before the reply is sent.
    pub delay_after_stamp: Option<Duration>,
}

/// A Session-Reflector that is bound and ready to [`run`](Self::run).
pub struct Reflector {
    ports: Vec<Port>,
    desk: Desk,
    nic_receive_stamps: bool,
    nic_transmit_stamps: Option<TransmitSlots>,
    metrics: Option<Arc<Metrics>>,
}

struct Port {
    socket: StampedSocket,
    departing: Departing,
}

/// What a socket has.
#[derive(Clone, Copy)]
struct Ready {
    anything: bool,
    /// Something in its error queue.
    stamps: bool,
}

/// All that the ports share: the rules and the account.
struct Desk {
    session: SessionReflector,
    nic_clock: Option<Arc<dyn NicClock>>,
    delay_before_read: Option<Duration>,
    delay_before_send: Option<Duration>,
    delay_after_stamp: Option<Duration>,
    /// A place of [`LONGEST`] octets for each reply that waits.
    replies: Box<[u8]>,
    waiting: Vec<Waiting>,
    clock: Option<ClockQuality>,
    tally: Tally,
    /// Replies by the plane of their B2.
    received_on: BTreeMap<Plane, u64>,
    departed: u64,
    nic_received: u64,
    nic_departed: u64,
    follow_ups: BTreeMap<Plane, FollowUps>,
    clock_steps: u64,
    steps: StepWatch,
    unconfirmed: Unconfirmed,
    residence: Spans,
    departure: Spans,
    places: Places,
    /// Where the reflector runs.
    here: Place,
}

/// A reply that is judged and not yet sent, while the rest of its batch is judged.
struct Waiting {
    reply: Reply,
    to: SocketAddr,
    from: Option<IpAddr>,
    arrival: Arrival,
    /// B2 of user space.
    app: Time<Realtime>,
}

impl Reflector {
    /// Binds every address; nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// Those of [`StampedSocket::bind`], for the first address that cannot be had.
    pub fn new(config: ReflectorConfig) -> Result<Self, Error> {
        let port = |address: &SocketAddr| {
            let socket = StampedSocket::bind(*address, &config.socket)?;
            Ok(Port { socket, departing: Departing::new(DEPARTING) })
        };
        let ports = config.listen.iter().map(port).collect::<Result<_, Error>>()?;
        let desk = Desk {
            session: SessionReflector::new(config.rules, ErrorEstimate::from_nanos(u64::MAX, false)),
            nic_clock: config.nic_clock,
            delay_before_read: config.delay_before_read,
            delay_before_send: config.delay_before_send,
            delay_after_stamp: config.delay_after_stamp,
            replies: vec![0; TOGETHER * LONGEST].into(),
            waiting: Vec::with_capacity(TOGETHER),
            clock: None,
            tally: Tally::default(),
            received_on: [(Plane::Kernel, 0), (Plane::App, 0)].into(),
            departed: 0,
            nic_received: 0,
            nic_departed: 0,
            follow_ups: BTreeMap::new(),
            clock_steps: 0,
            steps: StepWatch::default(),
            unconfirmed: Unconfirmed::default(),
            residence: Spans::new(),
            departure: Spans::new(),
            places: Places::default(),
            here: Place::default(),
        };
        let SocketOptions { nic_receive_stamps, nic_transmit_stamps, .. } = config.socket;
        Ok(Self { ports, desk, nic_receive_stamps, nic_transmit_stamps, metrics: config.metrics })
    }

    /// The addresses it is bound to, with the ports that the kernel chose where 0 was asked.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| port.socket.local_addr()).collect()
    }

    /// Answers until `stop` is raised; may be called again. What has arrived by then is answered before it returns.
    ///
    /// # Errors
    /// A system call that cannot fail on a sound socket did; nothing that a peer sends makes it so.
    pub fn run(&mut self, stop: &Stop) -> Result<(), Error> {
        let mut clock_due = monotonic_now();
        loop {
            let now = monotonic_now();
            if now >= clock_due {
                if let Some(metrics) = self.metrics.as_ref().filter(|metrics| metrics.is_due(now)) {
                    metrics.publish(self.report());
                }
                clock_due = now + self.desk.measure_clock();
            }
            let (stopping, ready) = self.wait(stop, (clock_due - now).as_nanos() / 1_000_000 + 1)?;
            if let Some(delay) = self.desk.delay_before_read.filter(|_| ready.iter().any(|ready| ready.anything)) {
                thread::sleep(delay);
            }
            for (port, ready) in self.ports.iter_mut().zip(ready) {
                // Stamps that have come are taken before requests: the replies to these tell of them, however late this thread is for both.
                if ready.stamps {
                    port.take_stamps(&mut self.desk)?;
                }
                if ready.anything || stopping {
                    port.serve(&mut self.desk, stopping)?;
                }
            }
            if stopping {
                return Ok(());
            }
        }
    }

    /// Waits until a socket has something; returns whether to stop, and which sockets have.
    fn wait(&self, stop: &Stop, millis: i64) -> Result<(bool, Vec<Ready>), Error> {
        let mut polled: Vec<_> = self.ports.iter().map(|port| sys::Polled::readable(&port.socket)).collect();
        polled.push(sys::Polled::readable(stop));
        sys::poll(&mut polled, i32::try_from(millis).unwrap_or(i32::MAX)).map_err(Error::Wait)?;
        let stopping = polled.pop().is_some_and(|stop| stop.is_ready());
        let ready = |polled: &sys::Polled<'_>| Ready { anything: polled.is_ready(), stamps: polled.has_errors() };
        Ok((stopping, polled.iter().map(ready).collect()))
    }

    /// The account so far.
    pub fn report(&self) -> ReflectorReport {
        let desk = &self.desk;
        let kernel_drops = self.ports.iter().map(|port| port.socket.kernel_drops()).sum();
        ReflectorReport {
            datapath: "socket",
            listen: self.local_addrs().iter().map(SocketAddr::to_string).collect(),
            received: desk.tally.received + kernel_drops,
            replied: desk.tally.replied,
            refused: desk.tally.by_reason(),
            kernel_drops,
            received_on: desk.received_on.clone(),
            sent_on: [(Plane::Kernel, desk.departed), (Plane::Nic, desk.nic_departed)].into(),
            nic_received: desk.nic_received,
            hw_coverage: self.hw_coverage(),
            follow_ups: desk.follow_ups.clone(),
            clock_steps: desk.clock_steps,
            steps: desk.steps.steps(),
            nic_void: desk.nic_clock.as_ref().map(|_| desk.unconfirmed.void()),
            undelivered: self.ports.iter().map(|port| port.socket.undelivered_total()).sum(),
            residence: desk.residence.quantiles(),
            departure: desk.departure.quantiles(),
            clock: desk.clock,
            card_clock: desk.nic_clock.as_ref().and_then(|clock| clock.facts()),
            queues: Vec::new(),
            handed_to_stack: 0,
            return_trace: desk.session.return_trace_counts(),
            places: desk.places.all(),
        }
    }
}

impl Reflector {
    fn hw_coverage(&self) -> BTreeMap<&'static str, HwCoverage> {
        let desk = &self.desk;
        let received = self.nic_receive_stamps.then(|| {
            let packets = desk.tally.received;
            ("B2", HwCoverage { packets, asked: packets, stamped: desk.nic_received })
        });
        let sent = self.nic_transmit_stamps.as_ref().map(|slots| ("B3", slots.counts().into()));
        received.into_iter().chain(sent).collect()
    }
}

impl Port {
    /// Answers what has arrived: a few batches, or all of it when stopping.
    fn serve(&mut self, desk: &mut Desk, stopping: bool) -> Result<(), Error> {
        let address = self.socket.local_addr();
        for _ in 0..if stopping { BATCHES_AT_STOP } else { BATCHES_IN_TURN } {
            let (receiver, sender) = self.socket.halves();
            let departing = &mut self.departing;
            let now = monotonic_now();
            desk.here = Place::here(None);
            if let Some(card) = &desk.nic_clock {
                desk.session.set_assurance(card.assurance());
            }
            let received = receiver
                .receive(|datagram| desk.answer(&datagram, address.port(), now, sender, departing))
                .map_err(|source| Error::Socket { address, call: "recvmmsg", source })?;
            desk.send_waiting(sender, departing);
            desk.tally.received += received as u64;
            self.take_stamps(desk)?;
            if received == 0 {
                break;
            }
            desk.look();
        }
        Ok(())
    }

    /// Takes what the error queue tells of replies that have left.
    fn take_stamps(&mut self, desk: &mut Desk) -> Result<(), Error> {
        let address = self.socket.local_addr();
        let (_, sender) = self.socket.halves();
        let departing = &self.departing;
        sender
            .sent_stamps(|id, stamp| desk.departed(departing.find(id.0.into()), stamp))
            .map_err(|source| Error::Socket { address, call: "recvmmsg(MSG_ERRQUEUE)", source })?;
        sender.undelivered().for_each(|undelivered| desk.reply_error(&undelivered));
        Ok(())
    }
}

impl Desk {
    /// Asks how good the clock is; how long the answer holds.
    fn measure_clock(&mut self) -> Interval {
        self.watch_steps();
        self.clock = ClockQuality::measure().ok();
        let clock = self.clock.unwrap_or(ClockQuality::UNKNOWN);
        self.session.set_error_estimate(if self.steps.in_doubt(monotonic_now()) {
            nothing_known()
        } else {
            clock.error_estimate_of(self.nic_clock.as_deref())
        });
        clock.holds()
    }

    /// Looks at the clocks after a batch, so that the next replies say so where one has stepped.
    fn look(&mut self) {
        if self.watch_steps() {
            self.session.set_error_estimate(nothing_known());
        }
    }

    fn watch_steps(&mut self) -> bool {
        let look = SystemLook::take();
        let card = self.nic_clock.as_deref();
        if let Some(card) = card {
            self.unconfirmed.settle(look.monotonic, |from, to| card.vouch(from, to));
        }
        self.steps.observe(look, card.map(|card| card.assurance().steps))
    }

    /// A reply has left, as the error queue tells.
    fn departed(&mut self, reply: Option<(Reply, Time<Realtime>)>, stamp: SentStamp) {
        let (plane, left) = match stamp {
            SentStamp::Sched(_) => return,
            SentStamp::Kernel(left) => (Plane::Kernel, Some(software(left).into())),
            SentStamp::Nic(nic) => {
                self.nic_departed += 1;
                (Plane::Nic, nic_stamp(nic, self.nic_clock.as_deref()))
            }
        };
        let Some(((reply, sent), left)) = reply.zip(left) else { return };
        if let SentStamp::Kernel(left) = stamp {
            self.departed += 1;
            self.departure.record(left - sent);
            self.places.left(self.here, left - sent);
        }
        if let Some(known) = self.session.departed(&reply, plane, left) {
            self.follow_ups.entry(plane).or_default().count(known);
        }
    }

    /// An ICMP error came about a reply.
    fn reply_error(&mut self, undelivered: &Undelivered) {
        let Some(from) = undelivered.reporter else { return };
        self.session.reply_error(&ReplyError {
            peer: undelivered.peer,
            from,
            kind: undelivered.kind,
            at: undelivered.at.unwrap_or_else(realtime_now),
            quoted: undelivered.quoted(),
        });
    }

    /// One datagram: judged, answered, counted.
    fn answer(
        &mut self,
        datagram: &Datagram<'_>,
        local_port: u16,
        now: Time<Monotonic>,
        sender: &mut Sender,
        departing: &mut Departing,
    ) {
        self.nic_received += u64::from(datagram.nic.is_some());
        let nic = datagram.nic.and_then(|nic| nic_stamp(nic, self.nic_clock.as_deref()));
        if nic.is_some_and(|nic| nic.clock() == ClockId::Realtime) {
            self.unconfirmed.add(now);
        }
        let kernel = datagram.kernel.map(|time| software(time).into());
        let arrival = Arrival::new(software(datagram.app), Planes { kernel, nic, ..Planes::default() });
        let request = Request {
            peer: datagram.peer,
            local: datagram.local,
            local_port,
            unicast: datagram.unicast,
            ttl: datagram.ttl,
            traffic_class: datagram.traffic_class,
            arrival,
            payload: datagram.payload,
        };
        let place = &mut self.replies[self.waiting.len() * LONGEST..][..LONGEST];
        let reply = match self.session.respond(&request, now, place) {
            Verdict::Reply(reply) => reply,
            Verdict::Refused(reason) => return self.tally.refuse(reason),
        };
        self.waiting.push(Waiting { reply, to: datagram.peer, from: datagram.local, arrival, app: datagram.app });
        if let Some(delay) = self.delay_before_send {
            thread::sleep(delay);
        }
        let alone = self.delay_before_send.is_some() || self.delay_after_stamp.is_some();
        if alone || self.waiting.len() == TOGETHER {
            self.send_waiting(sender, departing);
        }
    }

    /// Finishes what waits, each with a B3 of its own, and gives all of it to the kernel with one call.
    fn send_waiting(&mut self, sender: &mut Sender, departing: &mut Departing) {
        if self.waiting.is_empty() {
            return;
        }
        let places = self.replies.chunks_exact_mut(LONGEST);
        let sent: Vec<_> = self
            .waiting
            .iter()
            .zip(places)
            .map(|(Waiting { reply, .. }, bytes)| {
                let sent = realtime_now();
                self.session.finish(reply, software(sent), bytes);
                sent
            })
            .collect();
        if let Some(delay) = self.delay_after_stamp {
            thread::sleep(delay);
        }
        let batch: Vec<_> = self
            .waiting
            .iter()
            .zip(self.replies.chunks_exact(LONGEST))
            .map(|(Waiting { reply, to, from, .. }, bytes)| Outgoing {
                to: *to,
                from: *from,
                dscp: reply.dscp(),
                hop_limit: reply.hop_limit(),
                payload: &bytes[..reply.len()],
            })
            .collect();
        sender.send_all(&batch, |place, result| {
            let (Waiting { reply, arrival, app, .. }, sent) = (&self.waiting[place], sent[place]);
            match result {
                Ok(id) => departing.put(id.0.into(), *reply, sent),
                Err(_) => {
                    self.session.unsent(reply);
                    return self.tally.refuse(Reason::SendFailed);
                }
            }
            self.tally.replied += 1;
            *self.received_on.entry(arrival.plane()).or_default() += 1;
            if !self.residence.record(sent - arrival.received()) {
                self.clock_steps += 1;
            }
            self.places.answered(self.here, arrival.received(), *app, sent);
        });
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests;
