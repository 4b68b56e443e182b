//! Test packets as this probe sends them: base packet, TLVs that ask the reflector for what it knows, HMACs where there are keys.

use std::sync::Arc;

use pathlab_record::Realtime;
use pathlab_record::Time;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    keys::{HMAC_LEN, Key, Keys},
    wire::{
        AUTHENTICATED_LEN, AUTHENTICATED_PART, AuthenticatedSenderPacket, BASE_LEN, ClassOfService, DirectMeasurement,
        ErrorEstimate, FollowUpTelemetry, REFLECTOR_STAGES, ReflectorStages, SenderPacket, TLV_HEADER_LEN,
        TimestampInformation, Tlv, tlv_flag, tlv_type,
    },
};

/// What a TLV of a test packet asks the reflector for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Reflector Stages: every stamp in its host, and when the reply before left it.
    Stages,
    /// Follow-Up Telemetry: when the reply before left (RFC 8972 §4.7).
    FollowUp,
    /// Timestamp Information: source and method of its stamps (RFC 8972 §4.3).
    Timestamps,
    /// Class of Service: how packets arrive, and a reply of this DSCP (RFC 8972 §4.4).
    ClassOfService(u8),
    /// Direct Measurement: how many packets it has seen and sent (RFC 8972 §4.5).
    Direct,
}

impl Question {
    /// Octets of the TLV.
    pub fn len(self) -> usize {
        TLV_HEADER_LEN
            + match self {
                Self::Stages => size_of::<ReflectorStages>(),
                Self::FollowUp => size_of::<FollowUpTelemetry>(),
                Self::Timestamps => size_of::<TimestampInformation>(),
                Self::ClassOfService(_) => size_of::<ClassOfService>(),
                Self::Direct => size_of::<DirectMeasurement>(),
            }
    }

    /// Never: a TLV has a header at least.
    pub fn is_empty(self) -> bool {
        false
    }

    fn kind(self) -> u8 {
        match self {
            Self::Stages => REFLECTOR_STAGES,
            Self::FollowUp => tlv_type::FOLLOW_UP_TELEMETRY,
            Self::Timestamps => tlv_type::TIMESTAMP_INFORMATION,
            Self::ClassOfService(_) => tlv_type::CLASS_OF_SERVICE,
            Self::Direct => tlv_type::DIRECT_MEASUREMENT,
        }
    }

    fn fill(self, value: &mut [u8]) {
        match self {
            Self::Stages => value.copy_from_slice(ReflectorStages::empty().as_bytes()),
            Self::ClassOfService(dscp) => value.copy_from_slice(ClassOfService::request(dscp).as_bytes()),
            Self::FollowUp | Self::Timestamps | Self::Direct => value.fill(0),
        }
    }
}

/// What test packets carry beside number and time.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// TLVs, in this order.
    pub questions: Vec<Question>,
    /// Octets of a packet, at least what all of it takes; filled up by Extra Padding (RFC 8972 §4.1). 0: no padding.
    pub size: usize,
    /// Keys, for authenticated mode or TLVs alone.
    pub keys: Option<Arc<Keys>>,
}

impl Shape {
    /// Octets without padding.
    pub fn least(&self) -> usize {
        let questions: usize = self.questions.iter().map(|question| question.len()).sum();
        let hmac = if self.signs() { TLV_HEADER_LEN + HMAC_LEN } else { 0 };
        self.base_len() + questions + hmac
    }

    /// Whether packets of `size` octets can be made: exactly the least, or with room for the header of a padding.
    pub fn fits(&self) -> bool {
        self.size <= self.least() && self.size == 0
            || self.size == self.least()
            || self.size >= self.least() + TLV_HEADER_LEN
    }

    /// Length of the base packet.
    pub fn base_len(&self) -> usize {
        if self.keys.as_ref().is_some_and(|keys| keys.authenticate()) { AUTHENTICATED_LEN } else { BASE_LEN }
    }

    fn signs(&self) -> bool {
        self.keys.is_some() && !self.questions.is_empty()
    }
}

/// The packet, made once and filled in for each send.
#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    base: usize,
    /// Where the values of these TLVs are, counted from the end of the base packet.
    direct: Option<usize>,
    hmac: Option<usize>,
    keys: Option<Arc<Keys>>,
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Send {
    pub(super) sequence: u32,
    pub(super) time: Time<Realtime>,
    pub(super) error_estimate: ErrorEstimate,
    pub(super) ssid: u16,
    /// Packets of the session so far, this one among them.
    pub(super) sent: u32,
}

impl Template {
    pub(super) fn new(shape: &Shape) -> Self {
        let base = shape.base_len();
        let mut bytes = vec![0; base];
        let (mut direct, mut hmac) = (None, None);
        let push = |bytes: &mut Vec<u8>, kind: u8, length: usize| {
            let [high, low] = (length as u16).to_be_bytes();
            bytes.extend([tlv_flag::UNRECOGNIZED, kind, high, low]);
            bytes.resize(bytes.len() + length, 0);
            bytes.len() - length
        };
        for question in &shape.questions {
            let at = push(&mut bytes, question.kind(), question.len() - TLV_HEADER_LEN);
            question.fill(&mut bytes[at..]);
            if *question == Question::Direct {
                direct = Some(at - base);
            }
        }
        if shape.signs() {
            hmac = Some(push(&mut bytes, tlv_type::HMAC, HMAC_LEN) - base);
        }
        if let Some(padding) = shape.size.checked_sub(bytes.len() + TLV_HEADER_LEN) {
            push(&mut bytes, tlv_type::EXTRA_PADDING, padding);
        }
        Self { bytes, base, direct, hmac, keys: shape.keys.clone() }
    }

    /// The packet as it is to be sent.
    pub(super) fn fill(&mut self, send: Send) -> &[u8] {
        let mut plain = SenderPacket::new(send.sequence, send.time.into(), send.error_estimate);
        plain.ssid = send.ssid.into();
        let key = self.keys.as_ref().and_then(|keys| keys.find(send.ssid));
        let (base, extensions) = self.bytes.split_at_mut(self.base);
        if let Some(at) = self.direct {
            extensions[at..at + 4].copy_from_slice(&send.sent.to_be_bytes());
        }
        if let (Some(at), Some(key)) = (self.hmac, key) {
            let tag = key.hmac(&[plain.sequence.as_bytes(), &extensions[..at - TLV_HEADER_LEN]]);
            extensions[at..at + HMAC_LEN].copy_from_slice(&tag);
        }
        if base.len() == BASE_LEN {
            base.copy_from_slice(plain.as_bytes());
        } else {
            let mut packet = AuthenticatedSenderPacket::from(plain);
            if let Some(key) = key {
                packet.hmac = key.hmac(&[&packet.as_bytes()[..AUTHENTICATED_PART]]);
            }
            base.copy_from_slice(packet.as_bytes());
        }
        &self.bytes
    }
}

/// What the TLVs of a reply say, as far as the reflector knew them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    pub(super) stages: Option<ReflectorStages>,
    pub(super) follow_up: Option<FollowUpTelemetry>,
    pub(super) timestamps: Option<TimestampInformation>,
    pub(super) class_of_service: Option<ClassOfService>,
    pub(super) direct: Option<DirectMeasurement>,
}

impl Answers {
    /// Reads the TLVs of a reply whose integrity has been checked: those with flag U are skipped, those after one with flag M too, and
    /// flag I on any voids all of them (RFC 8972 §4).
    pub(super) fn read(extensions: &[u8]) -> Self {
        let mut answers = Self::default();
        if Tlv::all(extensions).any(|tlv| tlv.flags & tlv_flag::INTEGRITY_FAILED != 0) {
            return answers;
        }
        let sound = |tlv: &Tlv| tlv.flags & tlv_flag::MALFORMED == 0 && !tlv.cut;
        for tlv in Tlv::all(extensions).take_while(sound) {
            let value = &extensions[tlv.value()];
            match tlv.kind.filter(|_| tlv.flags & tlv_flag::UNRECOGNIZED == 0) {
                Some(REFLECTOR_STAGES) => {
                    answers.stages = ReflectorStages::read_from_bytes(value).ok().filter(ReflectorStages::is_ours);
                }
                Some(tlv_type::FOLLOW_UP_TELEMETRY) => {
                    answers.follow_up = FollowUpTelemetry::read_from_bytes(value).ok();
                }
                Some(tlv_type::TIMESTAMP_INFORMATION) => {
                    answers.timestamps = TimestampInformation::read_from_prefix(value).ok().map(|(read, _)| read);
                }
                Some(tlv_type::CLASS_OF_SERVICE) => {
                    answers.class_of_service = ClassOfService::read_from_bytes(value).ok();
                }
                Some(tlv_type::DIRECT_MEASUREMENT) => {
                    answers.direct = DirectMeasurement::read_from_bytes(value).ok();
                }
                _ => {}
            }
        }
        answers
    }
}

/// The key of a session, to check a reply with.
pub(super) fn key(keys: Option<&Arc<Keys>>, ssid: u16) -> Option<&Key> {
    keys.and_then(|keys| keys.find(ssid))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{keys::Protection, session::Integrity};

    const SEND: Send = Send {
        sequence: 9,
        time: Time::from_nanos(1_792_000_000_000_000_000),
        error_estimate: ErrorEstimate::from_bits(0x0101),
        ssid: 42,
        sent: 10,
    };

    fn keys(protection: Protection) -> Option<Arc<Keys>> {
        Some(Keys::of(protection, Key::new(&[1; 32]).expect("long enough")).into())
    }

    #[test]
    fn a_plain_shape_is_a_base_packet() {
        let shape = Shape { size: 44, ..Shape::default() };
        let mut template = Template::new(&shape);
        let (packet, rest) =
            SenderPacket::parse(template.fill(SEND)).map(|(packet, rest)| (*packet, rest.len())).expect("44");
        assert_eq!((packet.sequence.get(), packet.ssid.get(), rest), (9, 42, 0));
        assert!(shape.fits() && !Shape { size: 47, ..shape.clone() }.fits() && Shape { size: 48, ..shape }.fits());
    }

    #[test]
    fn the_tlvs_stand_in_order_before_their_hmac_and_padding_behind_it() {
        let questions = vec![Question::Stages, Question::Direct, Question::ClassOfService(46)];
        for (protection, base) in [(Protection::Extensions, 44), (Protection::Authenticated, 112)] {
            let keys = keys(protection);
            let shape = Shape { questions: questions.clone(), size: 300, keys: keys.clone() };
            assert_eq!((shape.base_len(), shape.least()), (base, base + 104 + 16 + 8 + 20));
            let bytes = Template::new(&shape).fill(SEND).to_vec();
            assert_eq!(bytes.len(), 300);
            let key = key(keys.as_ref(), 42).expect("a key");
            assert_eq!(Integrity::of(&bytes[base..], &[0, 0, 0, 9], Some(key), true), Integrity::Verified);
            let found: Vec<_> = Tlv::all(&bytes[base..]).map(|tlv| (tlv.flags, tlv.kind.expect("a type"))).collect();
            assert_eq!(found, [250, 5, 4, 8, 1].map(|kind| (0x80, kind)));
            assert_eq!(bytes[base + 104 + 4..][..4], [0, 0, 0, 10], "S_TxC");
            if base == 112 {
                assert!(key.verifies(&[&bytes[..96]], bytes[96..112].try_into().expect("16 octets")));
            }
        }
    }

    #[test]
    fn flags_of_a_reply_are_heeded() {
        let stages = [&[0, 250, 0, 100][..], ReflectorStages::empty().as_bytes()].concat();
        let information = [0, 3, 0, 4, 5, 2, 5, 2];
        let read = |flags: [u8; 2]| {
            let mut bytes = [&stages[..], &information].concat();
            (bytes[0], bytes[104]) = (flags[0], flags[1]);
            let answers = Answers::read(&bytes);
            (answers.stages.is_some(), answers.timestamps.is_some())
        };
        assert_eq!(read([0, 0]), (true, true));
        assert_eq!(read([0x80, 0]), (false, true));
        assert_eq!(read([0x40, 0]), (false, false));
        assert_eq!(read([0, 0x20]), (false, false), "one failure voids all");
    }

    proptest! {
        #[test]
        fn any_octets_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Answers::read(&bytes);
        }
    }
}
