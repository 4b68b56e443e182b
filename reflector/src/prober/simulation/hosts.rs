//! Two hosts with clocks of their own: what the probe's engine meets where cards stamp, clocks are off, run fast or slow, and are set.
//!
//! The card's clocks are followed by the real fit, fed with made-up cross-stamps; the reflector is the real rules. Every instant is known in
//! true time, so that whatever a sample says can be held against it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use pathlab_record::{Monotonic, Plane, Planes, Reading};
use pathlab_xdp::{
    NicClock,
    clock::{Assurance, CrossStamp, Observation, Track, Vouch, Wander},
};

use super::*;
use crate::clock::{StepWatch, nothing_known};
use crate::session::{Arrival, Request, Rules, SessionReflector, Verdict, nic_stamp};

/// A clock by true time: off, at a rate of its own, and set now and then.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    pub(super) offset: i64,
    pub(super) ppm: f64,
    /// True time of each step, and by how much.
    pub(super) steps: Vec<(i64, i64)>,
}

impl Clock {
    pub(super) fn at(&self, now: i64) -> i64 {
        let set: i64 = self.steps.iter().filter(|(at, _)| *at <= now).map(|(_, by)| by).sum();
        EPOCH + self.offset + now + (self.ppm * 1e-6 * now as f64).round() as i64 + set
    }
}

/// A host: its `CLOCK_REALTIME`, and its card's clock, where it has a card.
pub(super) struct Host {
    pub(super) system: Clock,
    pub(super) card: Option<Arc<Card>>,
}

impl Host {
    fn realtime(&self, now: i64) -> Time<Realtime> {
        Time::from_nanos(self.system.at(now))
    }

    fn nic(&self, now: i64) -> Option<i64> {
        self.card.as_ref().map(|card| card.clock.at(now))
    }

    fn nic_clock(&self) -> Option<&dyn NicClock> {
        self.card.as_deref().map(|card| card as &dyn NicClock)
    }

    /// Compares the clocks whenever that is due, up to `now`.
    fn follow(&self, now: i64) {
        let Some(card) = &self.card else { return };
        let mut tracker = card.tracker();
        while tracker.due <= now.min(card.until) {
            let at = tracker.due;
            loop {
                let half_width = (card.half_width as f64 * tracker.dice.random_range(1.0..1.4)) as i64;
                let error = tracker.dice.random_range(-half_width..=half_width);
                let seen = CrossStamp {
                    phc: card.clock.at(at),
                    realtime: Time::from_nanos(self.system.at(at) + error),
                    half_width: half_width as u64,
                    began: Time::from_nanos(at),
                    ended: Time::from_nanos(at),
                };
                if tracker.track.observe(seen) != Observation::Wide {
                    break;
                }
            }
            tracker.due = at + tracker.track.teller().due() + tracker.dice.random_range(0..5 * MS);
        }
    }
}

/// A card's clock, and the fit that follows it.
pub(super) struct Card {
    pub(super) clock: Clock,
    half_width: i64,
    /// Nobody compares it after this.
    until: i64,
    tracker: Mutex<Tracker>,
}

struct Tracker {
    track: Track,
    due: i64,
    dice: ChaCha8Rng,
}

impl Card {
    pub(super) fn new(clock: Clock, seed: u64, until: i64) -> Arc<Self> {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let half_width = dice.random_range(50..2000);
        Arc::new(Self {
            clock,
            half_width,
            until,
            tracker: Tracker { track: Track::new(Wander::default()), due: 0, dice }.into(),
        })
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().expect("no panic")
    }
}

impl NicClock for Card {
    fn phc(&self) -> u32 {
        0
    }

    fn utc(&self, nic: i64) -> Option<Reading<Realtime>> {
        self.tracker().track.teller().tell(nic)
    }

    fn uncertainty(&self) -> Option<u64> {
        self.tracker().track.teller().uncertainty()
    }

    fn vouch(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Vouch {
        self.tracker().track.vouch(from, to)
    }

    fn assurance(&self) -> Assurance {
        let track = &self.tracker().track;
        Assurance { fit: track.steps() as u32, steps: track.steps(), confirmed: track.confirmed_until() }
    }
}

/// When a packet truly was where: by plane, the card, the kernel, and at the reflector user space.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Truth {
    pub(super) a1: [i64; 2],
    pub(super) b2: [i64; 3],
    pub(super) b3: [i64; 3],
    pub(super) a4: [i64; 2],
    pub(super) read: i64,
}

enum Happens {
    Stamps { id: u32, seq: usize },
    Request { seq: usize, payload: Vec<u8> },
    Departed { reply: crate::session::Reply, seq: usize },
    Reply { seq: usize, payload: Vec<u8> },
}

/// When a run begins: the clocks have been compared for so long by then.
pub(super) const BEGIN: i64 = 3_000 * MS;

/// One session between two hosts; the probe's engine has it as its world.
pub(super) struct TwoHosts {
    pub(super) hosts: [Host; 2],
    pub(super) truth: Vec<Truth>,
    now: i64,
    dice: ChaCha8Rng,
    session: SessionReflector,
    steps: StepWatch,
    events: BTreeMap<(i64, u64), Happens>,
    serial: u64,
    /// What the probe's socket holds.
    inbox: VecDeque<(usize, Vec<u8>)>,
    errors: VecDeque<(u32, usize)>,
    peer: SocketAddr,
    probe: SocketAddr,
}

impl TwoHosts {
    pub(super) fn new(hosts: [Host; 2], seed: u64, spec: &SessionSpec) -> Self {
        let rules = Rules { sessions: Some(4), ..Rules::default() };
        Self {
            hosts,
            truth: Vec::new(),
            now: BEGIN,
            dice: ChaCha8Rng::seed_from_u64(seed),
            session: SessionReflector::new(rules, ErrorEstimate::from_nanos(1000, false)),
            steps: StepWatch::default(),
            events: BTreeMap::new(),
            serial: 0,
            inbox: VecDeque::new(),
            errors: VecDeque::new(),
            peer: spec.target,
            probe: spec.source.expect("a source"),
        }
    }

    fn at(&mut self, time: i64, event: Happens) {
        self.serial += 1;
        self.events.insert((time, self.serial), event);
    }

    /// Lets time pass until `until`, or until the probe has something to read.
    fn advance(&mut self, until: i64) {
        while self.inbox.is_empty() && self.errors.is_empty() {
            match self.events.first_entry() {
                Some(event) if event.key().0 <= until => {
                    let ((time, _), event) = event.remove_entry();
                    self.now = self.now.max(time);
                    self.happen(event);
                }
                _ => {
                    self.now = self.now.max(until);
                    break;
                }
            }
        }
        self.follow();
    }

    fn follow(&self) {
        self.hosts.iter().for_each(|host| host.follow(self.now));
    }

    fn happen(&mut self, event: Happens) {
        self.follow();
        match event {
            Happens::Stamps { id, seq } => self.errors.push_back((id, seq)),
            Happens::Reply { seq, payload } => self.inbox.push_back((seq, payload)),
            Happens::Request { seq, payload } => self.reflect(seq, &payload),
            Happens::Departed { reply, seq } => {
                let (far, b3) = (&self.hosts[1], self.truth[seq].b3);
                self.session.departed(&reply, Plane::Kernel, far.realtime(b3[1]).into());
                if let Some(stamp) = far.nic(b3[0]).and_then(|nic| nic_stamp(nic, far.nic_clock())) {
                    self.session.departed(&reply, Plane::Nic, stamp);
                }
            }
        }
    }

    /// The reflector's user space has a request.
    fn reflect(&mut self, seq: usize, payload: &[u8]) {
        let far = &self.hosts[1];
        let Truth { b2, b3, a4, read, .. } = self.truth[seq];
        self.session.set_assurance(far.card.as_ref().map(|card| card.assurance()).unwrap_or_default());
        let nic = far.nic(b2[0]).and_then(|nic| nic_stamp(nic, far.nic_clock()));
        let outer = Planes { kernel: Some(far.realtime(b2[1]).into()), nic, ..Planes::default() };
        let request = Request {
            peer: self.probe,
            local: Some(self.peer.ip()),
            local_port: self.peer.port(),
            unicast: true,
            ttl: None,
            traffic_class: None,
            arrival: Arrival::new(far.realtime(b2[2]), outer),
            payload,
        };
        let (sent, mut bytes) = (far.realtime(b3[2]), vec![0; payload.len()]);
        let Verdict::Reply(reply) = self.session.respond(&request, Time::from_nanos(b2[2]), &mut bytes) else {
            panic!("a request as the probe sends them");
        };
        self.session.finish(&reply, sent, &mut bytes);
        // as after every batch
        let (monotonic, realtime) = (Time::from_nanos(b3[2]), sent);
        let look = SystemLook { monotonic, realtime, half_width: 20, tai_minus_utc: None };
        self.steps.observe(look, far.card.as_ref().map(|card| card.assurance().steps));
        let sound = ErrorEstimate::from_nanos(1000, false);
        self.session.set_error_estimate(if self.steps.in_doubt(monotonic) { nothing_known() } else { sound });
        self.at(b3[0] + 30 * US, Happens::Departed { reply, seq });
        self.at(read.max(a4[1]), Happens::Reply { seq, payload: bytes });
    }
}

impl World for TwoHosts {
    fn now(&mut self) -> Now {
        Now { monotonic: Time::from_nanos(self.now), realtime: self.hosts[0].realtime(self.now) }
    }

    fn look(&mut self) -> SystemLook {
        let Now { monotonic, realtime } = self.now();
        SystemLook { monotonic, realtime, half_width: 20, tai_minus_utc: None }
    }

    fn clock_quality(&mut self) -> ClockQuality {
        ClockQuality { synchronised: false, max_error: 1000, reading_cost: 30 }
    }

    fn send(&mut self, _: usize, _: SocketAddr, _: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId> {
        let seq = self.truth.len();
        let mut after = |least: i64, most: i64| self.dice.random_range(least..most);
        let sent = self.now;
        let a1_kernel = sent + after(3 * US, 20 * US);
        let a1_nic = a1_kernel + after(US, 3 * US);
        let b2_nic = a1_nic + after(2 * MS, 9 * MS);
        let b2_kernel = b2_nic + after(3 * US, 30 * US);
        let b2_app = b2_kernel + after(5 * US, 50 * US);
        let b3_app = b2_app + after(2 * US, 20 * US);
        let b3_kernel = b3_app + after(3 * US, 20 * US);
        let b3_nic = b3_kernel + after(US, 3 * US);
        let a4_nic = b3_nic + after(2 * MS, 9 * MS);
        let a4_kernel = a4_nic + after(3 * US, 30 * US);
        let read = a4_kernel + after(5 * US, 50 * US);
        self.truth.push(Truth {
            a1: [a1_nic, a1_kernel],
            b2: [b2_nic, b2_kernel, b2_app],
            b3: [b3_nic, b3_kernel, b3_app],
            a4: [a4_nic, a4_kernel],
            read,
        });
        let id = seq as u32;
        self.at(a1_nic + 20 * US, Happens::Stamps { id, seq });
        self.at(b2_app, Happens::Request { seq, payload: payload.to_vec() });
        Ok(SendId(id))
    }

    fn receive(&mut self, _: usize, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let near = &self.hosts[0];
        let taken: Vec<_> = self.inbox.drain(..).collect();
        for (seq, payload) in &taken {
            let truth = &mut self.truth[*seq];
            truth.read = self.now;
            each(Datagram {
                peer: self.peer,
                local: Some(self.probe.ip()),
                unicast: true,
                ifindex: None,
                ttl: None,
                traffic_class: None,
                kernel: Some(near.realtime(truth.a4[1])),
                nic: near.nic(truth.a4[0]),
                app: near.realtime(self.now),
                payload,
            });
        }
        Ok(taken.len())
    }

    fn sent_stamps(&mut self, _: usize, mut each: impl FnMut(SendId, SentStamp)) -> io::Result<usize> {
        let near = &self.hosts[0];
        let taken: Vec<_> = self.errors.drain(..).collect();
        for (id, seq) in &taken {
            let [nic, kernel] = self.truth[*seq].a1;
            each(SendId(*id), SentStamp::Kernel(near.realtime(kernel)));
            if let Some(nic) = near.nic(nic) {
                each(SendId(*id), SentStamp::Nic(nic));
            }
        }
        Ok(taken.len())
    }

    fn wait(&mut self, until: Until, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.advance(until.at().as_nanos());
        let (datagrams, stamps) = (!self.inbox.is_empty(), !self.errors.is_empty());
        if datagrams || stamps {
            ready.push(Ready { socket: 0, datagrams, stamps });
        }
        Ok(())
    }

    fn stop_requested(&mut self) -> bool {
        false
    }
}
