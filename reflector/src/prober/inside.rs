//! What a reflector tells of the inside of its host: the stamps of a reply beyond the two of the base packet, and those of an earlier one.

use pathlab_record::{ClockId, Plane, Planes, Stamp};

use super::packet::Answers;
use crate::{
    clock::from_wire,
    wire::{CardWord, ErrorEstimate, WireTime, timestamp_method},
};

/// The stamps of the reflector's host for one packet, some of which come with a later reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// When the request arrived, by plane.
    pub b2: Planes,
    /// When the reply left, by plane.
    pub b3: Planes,
    /// The plane of B2 in the base packet, where it is told.
    pub received_on: Option<Plane>,
    /// How far its card was confirmed by then, where it says so.
    pub card: Option<CardWord>,
}

/// When an earlier reply left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowUp {
    /// Which reply.
    pub reply: Earlier,
    /// Its B3, beyond user space.
    pub stamps: Planes,
}

/// How a reflector names an earlier reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// By the number of the request that it answered.
    Ours(u32),
    /// By its own number.
    Theirs(u32),
}

/// The stamps that a reply and its TLVs hold, with `b2` and `b3` from its base packet; `None` where they say no more than that.
pub(super) fn inside(answers: &Answers, b2: Option<Stamp>, b3: Option<Stamp>) -> Option<Inside> {
    if let Some(stages) = &answers.stages {
        let b2 = Planes {
            app: stages.received_app.stamp(),
            sched: None,
            kernel: stages.received_kernel.stamp(),
            xdp: stages.received_xdp.stamp(),
            nic: stages.received_nic.stamp().filter(told),
        };
        let b3 = Planes { app: stages.sent_app.stamp().or(b3), ..Planes::default() };
        let [received_on, _] = stages.planes();
        return Some(Inside { b2, b3, received_on, card: Some(stages.card_word()) });
    }
    let hardware = answers.timestamps.is_some_and(|said| said.method_in == timestamp_method::HW_ASSIST);
    let told = answers.timestamps.is_some() || answers.follow_up.is_some();
    let b2 = if hardware { Planes { nic: b2, ..Planes::default() } } else { Planes { app: b2, ..Planes::default() } };
    let received_on = hardware.then_some(Plane::Nic);
    told.then(|| Inside { b2, b3: Planes { app: b3, ..Planes::default() }, received_on, card: None })
}

/// What they say of an earlier reply. Of Follow-Up Telemetry that is the card's stamp where it says so, else the kernel's: RFC 8972 §4.7
/// has it for what is nearer to the wire than the timestamp of the reply itself.
pub(super) fn follow_up(answers: &Answers, estimate: ErrorEstimate) -> Option<FollowUp> {
    if let Some(stages) = &answers.stages {
        let (kernel, nic) = (stages.departed_kernel.stamp(), stages.departed_nic.stamp().filter(told));
        let stamps = Planes { kernel, nic, ..Planes::default() };
        return (!stamps.is_empty()).then(|| FollowUp { reply: Earlier::Ours(stages.departed.get()), stamps });
    }
    let telemetry = answers.follow_up.as_ref()?;
    let left = from_wire(WireTime::read(telemetry.timestamp, estimate)?);
    let stamps = match telemetry.method {
        timestamp_method::HW_ASSIST => Planes { nic: Some(left), ..Planes::default() },
        _ => Planes { kernel: Some(left), ..Planes::default() },
    };
    Some(FollowUp { reply: Earlier::Theirs(telemetry.sequence.get()), stamps })
}

/// What stands on the clock of the reflector's card itself says nothing here: nobody knows how that ran.
fn told(stamp: &Stamp) -> bool {
    !matches!(stamp.clock(), ClockId::Phc(_))
}

impl Inside {
    /// Whether the reflector's card has a say.
    pub(super) fn by_card(&self) -> bool {
        self.b2.nic.is_some() || self.b3.nic.is_some()
    }

    /// Without what the reflector's card said.
    pub(super) fn without_card(mut self) -> Self {
        (self.b2.nic, self.b3.nic) = (None, None);
        self
    }

    /// Adds what a later reply told. A time that is no later than B3 in the reply itself says nothing new.
    pub(super) fn add(&mut self, later: &Planes) {
        let news =
            |stamp: &Stamp| self.b3.app.is_none_or(|app| stamp.since(app).is_none_or(|after| after.as_nanos() > 0));
        let (kernel, nic) = (later.kernel.filter(news), later.nic.filter(news));
        self.b3.kernel = self.b3.kernel.or(kernel);
        self.b3.nic = self.b3.nic.or(nic);
    }
}

#[cfg(test)]
mod tests {
    use pathlab_record::Time;
    use zerocopy::FromZeros;

    use super::*;
    use crate::wire::{FollowUpTelemetry, ReflectorStages, TimestampInformation};

    fn stamp(nanos: i64) -> Option<Stamp> {
        Stamp::new(nanos, ClockId::Realtime, 0)
    }

    #[test]
    fn stages_name_every_plane_and_an_earlier_reply() {
        let mut stages = ReflectorStages::empty();
        stages.received_kernel = stamp(10).into();
        stages.received_app = stamp(12).into();
        stages.sent_app = stamp(15).into();
        let mut answers = Answers { stages: Some(stages), ..Answers::default() };
        let told = inside(&answers, stamp(10), stamp(15)).expect("stages");
        assert_eq!((told.b2.kernel, told.b2.app, told.b3.app), (stamp(10), stamp(12), stamp(15)));
        assert_eq!(follow_up(&answers, ErrorEstimate::from_bits(1)), None);
        stages.departed = 7.into();
        stages.departed_nic = stamp(3).into();
        answers.stages = Some(stages);
        let earlier = follow_up(&answers, ErrorEstimate::from_bits(1)).expect("a stamp");
        assert_eq!((earlier.reply, earlier.stamps.nic), (Earlier::Ours(7), stamp(3)));
    }

    #[test]
    fn others_tell_by_telemetry_and_information() {
        assert_eq!(inside(&Answers::default(), stamp(1), stamp(2)), None);
        let mut information = TimestampInformation::new_zeroed();
        information.method_in = timestamp_method::HW_ASSIST;
        let answers = Answers { timestamps: Some(information), ..Answers::default() };
        let told = inside(&answers, stamp(1), stamp(2)).expect("the method");
        assert_eq!((told.b2.nic, told.b2.app, told.b3.app), (stamp(1), None, stamp(2)));

        let mut telemetry = FollowUpTelemetry::new_zeroed();
        let mut said = |method, time: i64| {
            telemetry.method = method;
            telemetry.sequence = 5.into();
            telemetry.timestamp = Time::from_nanos(time).into();
            let answers = Answers { follow_up: Some(telemetry), ..Answers::default() };
            let earlier = follow_up(&answers, ErrorEstimate::from_bits(1)).expect("a time");
            assert_eq!(earlier.reply, Earlier::Theirs(5));
            (earlier.stamps.kernel.map(Stamp::nanos), earlier.stamps.nic.map(Stamp::nanos))
        };
        let at = 1_792_000_000_000_000_000;
        assert_eq!(said(timestamp_method::HW_ASSIST, at), (None, Some(at)));
        assert_eq!(said(timestamp_method::SW_LOCAL, at), (Some(at), None));
        let nothing = Answers { follow_up: Some(FollowUpTelemetry::new_zeroed()), ..Answers::default() };
        assert_eq!(follow_up(&nothing, ErrorEstimate::from_bits(1)), None, "stateless");
    }

    #[test]
    fn a_follow_up_that_repeats_b3_adds_nothing() {
        let app = Planes { app: stamp(100), ..Planes::default() };
        let mut inside = Inside { b3: app, ..Inside::default() };
        inside.add(&Planes { kernel: stamp(100), ..Planes::default() });
        assert_eq!(inside.b3, app);
        inside.add(&Planes { kernel: stamp(101), nic: Stamp::new(5, ClockId::Phc(0), 0), ..Planes::default() });
        assert_eq!((inside.b3.kernel, inside.b3.nic.map(Stamp::nanos)), (stamp(101), Some(5)));
    }
}
