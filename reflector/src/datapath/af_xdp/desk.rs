//! One worker's rules and account: a frame in, the frame turned round or a reason out, without a socket.

use std::{collections::BTreeMap, sync::Arc};

use pathlab_record::{Interval, Monotonic, Plane, Planes, Realtime, Tai, Time};
use pathlab_xdp::{
    NicClock,
    xsk::{Record, TransmitStamp},
};

use crate::{
    clock::software,
    places::{Place, Places},
    report::{FollowUps, Spans},
    session::{Arrival, Reason, Reply, Request, SessionReflector, Tally, Verdict, nic_stamp},
    wire::UdpFrame,
};

/// The longest packet that a frame of one page can hold.
const LONGEST: usize = 4096;

pub(super) struct Desk {
    pub(super) session: SessionReflector,
    pub(super) account: Account,
    /// What to take off `CLOCK_TAI` to have UTC.
    pub(super) tai_minus_utc: Interval,
    pub(super) nic_clock: Option<Arc<dyn NicClock>>,
    underway: Underway,
    /// Where the worker runs.
    pub(super) here: Place,
    reply: Box<[u8]>,
}

/// What came of the packets of one worker, or of all.
pub(super) struct Account {
    pub(super) tally: Tally,
    pub(super) received_on: [u64; PLANES.len()],
    pub(super) sent_on: [u64; PLANES.len()],
    pub(super) nic_received: u64,
    pub(super) follow_ups: BTreeMap<Plane, FollowUps>,
    pub(super) clock_steps: u64,
    pub(super) residence: Spans,
    pub(super) departure: Spans,
    pub(super) places: Places,
}

/// The planes that a stamp can be of here.
pub(super) const PLANES: [Plane; 4] = [Plane::App, Plane::Kernel, Plane::Xdp, Plane::Nic];

fn place(plane: Plane) -> usize {
    PLANES.iter().position(|known| *known == plane).unwrap_or(0)
}

/// A frame that holds a reply, all but B3.
pub(super) struct Ready {
    datagram: UdpFrame,
    /// The frame's length.
    pub(super) length: usize,
    arrival: Arrival,
    reply: Reply,
    app: Time<Realtime>,
    /// CPU of the interrupt.
    irq_cpu: Option<u32>,
}

impl Desk {
    /// Under the rules of `session`.
    pub(super) fn new(session: SessionReflector, nic_clock: Option<Arc<dyn NicClock>>) -> Self {
        Self {
            session,
            account: Account::new(),
            tai_minus_utc: Interval::ZERO,
            nic_clock,
            underway: Underway::default(),
            here: Place::default(),
            reply: vec![0; LONGEST].into(),
        }
    }

    /// Counts a frame that came to user space at `app`, and turns it round where it deserves a reply; else its reason is counted.
    pub(super) fn judge(
        &mut self,
        frame: &mut [u8],
        record: Option<Record>,
        app: Time<Realtime>,
        now: Time<Monotonic>,
    ) -> Option<Ready> {
        self.account.tally.received += 1;
        match self.try_judge(frame, record, app, now) {
            Ok(ready) => Some(ready),
            Err(reason) => {
                self.account.tally.refuse(reason);
                None
            }
        }
    }

    fn try_judge(
        &mut self,
        frame: &mut [u8],
        record: Option<Record>,
        app: Time<Realtime>,
        now: Time<Monotonic>,
    ) -> Result<Ready, Reason> {
        let mut datagram = UdpFrame::parse(frame).map_err(|_| Reason::Malformed)?;
        let arrival = self.arrival(record, app);
        let request = Request {
            peer: datagram.peer,
            local: Some(datagram.local.ip()),
            local_port: datagram.local.port(),
            // the program in the driver takes no frame to a group's Ethernet address
            unicast: true,
            ttl: Some(datagram.ttl),
            traffic_class: Some(datagram.traffic_class),
            arrival,
            payload: datagram.payload(frame),
        };
        let reply = match self.session.respond(&request, now, &mut self.reply) {
            Verdict::Reply(reply) => reply,
            Verdict::Refused(reason) => return Err(reason),
        };
        let length = datagram.turn_round(frame, &self.reply[..reply.len()]).ok_or(Reason::TooLong)?;
        if let Some(dscp) = reply.dscp() {
            datagram.set_dscp(frame, dscp);
        }
        let irq_cpu = record.map(|record| record.cpu.into());
        Ok(Ready { datagram, length, arrival, reply, app, irq_cpu })
    }

    /// B2 on every plane that says something.
    fn arrival(&mut self, record: Option<Record>, app: Time<Realtime>) -> Arrival {
        let nic = record.and_then(|record| record.nic);
        // A stamp from behind the frame counts as one, though nothing here can tell it in UTC.
        self.account.nic_received += u64::from(nic.or(record.and_then(|record| record.tail)).is_some());
        let nic = nic.and_then(|nic| nic_stamp(nic, self.nic_clock.as_deref()));
        let xdp = record.and_then(|record| record.xdp).map(|xdp| software(self.utc(xdp)).into());
        Arrival::new(software(app), Planes { xdp, nic, ..Planes::default() })
    }

    fn utc(&self, tai: Time<Tai>) -> Time<Realtime> {
        Time::from_nanos(tai.as_nanos() - self.tai_minus_utc.as_nanos())
    }

    /// Writes B3 into a reply, the last thing before it is given to the kernel; the number by which its departure is to be told.
    pub(super) fn finish(&mut self, ready: &Ready, frame: &mut [u8], sent: Time<Realtime>) -> u64 {
        let Self { session, underway, .. } = self;
        ready.datagram.edit(frame, |bytes| session.finish(&ready.reply, software(sent), bytes));
        underway.put(ready.reply, sent)
    }

    /// Counts the reply of that number, which the kernel has taken, or not.
    pub(super) fn sent(&mut self, number: u64, ready: &Ready, sent: Time<Realtime>, taken: bool) {
        if !taken {
            self.underway.take(number);
            self.session.unsent(&ready.reply);
            return self.account.tally.refuse(Reason::SendFailed);
        }
        self.account.tally.replied += 1;
        self.account.received_on[place(ready.arrival.plane())] += 1;
        if !self.account.residence.record(sent - ready.arrival.received()) {
            self.account.clock_steps += 1;
        }
        let place = Place { irq_cpu: ready.irq_cpu, ..self.here };
        self.account.places.answered(place, ready.arrival.received(), ready.app, sent);
    }

    /// The reply of that number has left, with a stamp of that or without.
    pub(super) fn departed(&mut self, number: u64, stamp: Option<TransmitStamp>) {
        let known = self.underway.take(number);
        let Some(stamp) = stamp else { return };
        self.account.sent_on[place(stamp.plane())] += 1;
        let left = match stamp {
            TransmitStamp::Software(tai) => Some(software(self.utc(tai)).into()),
            TransmitStamp::Nic(nic) => nic_stamp(nic, self.nic_clock.as_deref()),
        };
        if let Some((left, (reply, sent))) = left.zip(known) {
            if let Some(departure) = left.since(sent.into()) {
                self.account.departure.record(departure);
                self.account.places.left(self.here, departure);
            }
            if let Some(known) = self.session.departed(&reply, stamp.plane(), left) {
                self.account.follow_ups.entry(stamp.plane()).or_default().count(known);
            }
        }
    }
}

/// Replies that the kernel has, by a number each. The number that was free last is given first, so that few of them are ever touched where replies
/// leave at once; there are never more than the UMEM has frames.
#[derive(Default)]
struct Underway {
    replies: Vec<Option<(Reply, Time<Realtime>)>>,
    free: Vec<usize>,
}

impl Underway {
    fn put(&mut self, reply: Reply, sent: Time<Realtime>) -> u64 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.replies.push(None);
            self.replies.len() - 1
        });
        self.replies[number] = Some((reply, sent));
        number as u64
    }

    /// The reply and its B3; its number is free then.
    fn take(&mut self, number: u64) -> Option<(Reply, Time<Realtime>)> {
        let number = usize::try_from(number).ok()?;
        let known = self.replies.get_mut(number)?.take()?;
        self.free.push(number);
        Some(known)
    }
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            tally: Tally::default(),
            received_on: [0; PLANES.len()],
            sent_on: [0; PLANES.len()],
            nic_received: 0,
            follow_ups: BTreeMap::new(),
            clock_steps: 0,
            residence: Spans::new(),
            departure: Spans::new(),
            places: Places::default(),
        }
    }

    /// The counts and the places, without the distributions: what can be copied between two batches.
    pub(super) fn counts(&self) -> Self {
        let Self { tally, received_on, sent_on, nic_received, clock_steps, .. } = *self;
        let (follow_ups, places) = (self.follow_ups.clone(), self.places.clone());
        Self { tally, received_on, sent_on, nic_received, follow_ups, clock_steps, places, ..Self::new() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        for (mine, theirs) in self.received_on.iter_mut().zip(other.received_on) {
            *mine += theirs;
        }
        for (mine, theirs) in self.sent_on.iter_mut().zip(other.sent_on) {
            *mine += theirs;
        }
        self.nic_received += other.nic_received;
        for (plane, follow_ups) in &other.follow_ups {
            self.follow_ups.entry(*plane).or_default().add(*follow_ups);
        }
        self.clock_steps += other.clock_steps;
        self.residence.add(&other.residence);
        self.departure.add(&other.departure);
        self.places.add(&other.places);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use pathlab_record::Reading;
    use pathlab_xdp::clock::{Assurance, Vouch};

    use super::*;
    use crate::{
        session::Rules,
        wire::{ErrorEstimate, ReflectedPacket, WireTime},
    };

    const TAI: i64 = 37_000_000_000;
    const UTC: i64 = 1_792_000_000_000_000_000;

    struct CardAhead(i64);

    impl NicClock for CardAhead {
        fn phc(&self) -> u32 {
            0
        }

        fn utc(&self, nic: i64) -> Option<Reading<Realtime>> {
            Some(Reading::new(Time::from_nanos(nic - self.0), 50))
        }

        fn uncertainty(&self) -> Option<u64> {
            Some(50)
        }

        fn vouch(&self, _: Time<Monotonic>, _: Time<Monotonic>) -> Vouch {
            Vouch::True { drift: Some(0) }
        }

        fn assurance(&self) -> Assurance {
            Assurance { confirmed: Some(Time::from_nanos(0)), ..Assurance::default() }
        }
    }

    fn desk(nic_clock: Option<Arc<dyn NicClock>>) -> Desk {
        let session = SessionReflector::new(Rules::default(), ErrorEstimate::from_nanos(1000, false));
        Desk { tai_minus_utc: Interval::from_nanos(TAI), ..Desk::new(session, nic_clock) }
    }

    fn frame(length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64);
        builder.udp(40_000, 862).write(&mut bytes, &vec![7; length]).expect("a packet");
        bytes
    }

    fn record(nic: Option<i64>, xdp: Option<i64>) -> Record {
        Record { nic, tail: None, nic_rc: 0, xdp: xdp.map(Time::from_nanos), queue: 0, cpu: 0 }
    }

    /// T2 of the reply and its plane.
    fn received(desk: &mut Desk, record: Option<Record>) -> (Time<Realtime>, Plane) {
        let mut frame = frame(44);
        let app = Time::from_nanos(UTC + 3);
        let ready = desk.judge(&mut frame, record, app, Time::from_nanos(1)).expect("a reply");
        desk.finish(&ready, &mut frame, Time::from_nanos(UTC + 9));
        let (reply, _) = ReflectedPacket::parse(UdpFrame::parse(&frame).expect("a datagram").payload(&frame)).unwrap();
        assert_eq!(reply.sent_at(), Some(WireTime::Ntp(Time::from_nanos(UTC + 9))));
        let Some(WireTime::Ntp(received)) = reply.received_at() else { panic!("T2: {reply:?}") };
        (received, ready.arrival.plane())
    }

    #[test]
    fn b2_is_the_best_stamp_that_can_be_told_in_utc() {
        let utc = |offset| Time::from_nanos(UTC + offset);
        let both = Some(record(Some(UTC + 501), Some(UTC + TAI + 2)));
        assert_eq!(received(&mut desk(Some(Arc::new(CardAhead(500)))), both), (utc(1), Plane::Nic));
        let mut without_clock = desk(None);
        assert_eq!(received(&mut without_clock, both), (utc(2), Plane::Xdp), "the card's own time is not UTC");
        assert_eq!(without_clock.account.nic_received, 1, "but it has stamped");
        assert_eq!(received(&mut desk(None), Some(record(None, None))), (utc(3), Plane::App));
        assert_eq!(received(&mut desk(None), None), (utc(3), Plane::App));
    }

    #[test]
    fn every_frame_is_counted_once() {
        let mut desk = desk(None);
        let now = (Time::from_nanos(UTC), Time::from_nanos(1));
        let mut cut = frame(44);
        cut.truncate(40);
        for frame in [&mut frame(43), &mut cut, &mut [][..].to_vec()] {
            assert!(desk.judge(frame, None, now.0, now.1).is_none());
        }
        let ready = desk.judge(&mut frame(44), None, now.0, now.1).expect("a reply");
        let mut bytes = frame(44);
        let number = desk.finish(&ready, &mut bytes, now.0);
        desk.sent(number, &ready, now.0, true);
        let ready = desk.judge(&mut frame(44), None, now.0, now.1).expect("a reply");
        let refused = desk.finish(&ready, &mut bytes, now.0);
        desk.sent(refused, &ready, now.0, false);
        assert_eq!(
            desk.finish(&ready, &mut bytes, now.0),
            refused,
            "a reply that was not taken leaves no number taken"
        );
        let tally = desk.account.tally;
        assert!(tally.adds_up());
        assert_eq!((tally.received, tally.replied), (5, 1));
        let refused = [Reason::Short, Reason::Malformed, Reason::SendFailed].map(|reason| tally.refused(reason));
        assert_eq!(refused, [1, 2, 1]);
    }

    #[test]
    fn departures_are_counted_by_plane_and_measured_where_they_can_be_told_in_utc() {
        let mut desk = desk(None);
        let sent = Time::from_nanos(UTC);
        let numbers = [(); 3].map(|()| {
            let mut frame = frame(44);
            let ready = desk.judge(&mut frame, None, sent, Time::from_nanos(1)).expect("a reply");
            desk.finish(&ready, &mut frame, sent)
        });
        assert_eq!(numbers, [0, 1, 2]);
        desk.departed(0, None);
        desk.departed(0, Some(TransmitStamp::Nic(5)));
        assert_eq!(desk.account.departure.quantiles(), None, "it has left before");
        desk.account = Account::new();
        desk.departed(1, Some(TransmitStamp::Software(Time::from_nanos(UTC + TAI + 700))));
        desk.departed(2, Some(TransmitStamp::Nic(5)));
        let mut total = Account::new();
        total.add(&desk.account);
        total.add(&desk.account);
        assert_eq!(total.sent_on, [0, 2, 0, 2], "app, kernel, xdp, nic");
        let departure = total.departure.quantiles().expect("spans");
        assert_eq!((departure.count, departure.max.as_nanos()), (2, 700));
    }
}
