//! Each TLV as RFC 8972 asks for it, octet by octet.

use pathlab_record::Realtime;

use super::*;
use crate::session::table::Departed;

const ARRIVED: i64 = 1_792_000_000_000_000_000;

fn stamp(offset: i64) -> Option<Stamp> {
    Stamp::new(ARRIVED + offset, ClockId::Realtime, 0)
}

fn memory() -> Memory {
    let stamps = Planes { app: stamp(-90), kernel: stamp(-80), ..Planes::default() };
    let previous = Some(Departed { sequence: 6, sender_sequence: 60, stamps });
    Memory { next: 7, received: 9, unsent: 1, previous, told: None }
}

fn answered(extensions: &[u8], planes: Planes, synchronised: bool, memory: Option<&Memory>) -> Vec<u8> {
    let mut bytes = extensions.to_vec();
    let arrival = Arrival::new(Time::from_nanos(ARRIVED), planes);
    let error_estimate = ErrorEstimate::from_nanos(1000, synchronised);
    let now = Time::from_nanos(900_000_000);
    let assurance = Assurance { fit: 0x5_0007, steps: 1, confirmed: Some(Time::from_nanos(650_000_000)) };
    let context = Context {
        return_trace: None,
        arrival: &arrival,
        traffic_class: 0xb9,
        allowed_dscp: 1 << 10,
        error_estimate,
        assurance,
        now,
        memory,
    };
    reflect(&mut bytes, Integrity::Unprotected, &context);
    bytes
}

fn plain(extensions: &[u8]) -> Vec<u8> {
    answered(extensions, Planes::default(), false, None)
}

#[test]
fn padding_goes_back_and_what_is_unknown_is_flagged() {
    assert_eq!(plain(&[0xff, 1, 0, 2, 5, 6]), [0, 1, 0, 2, 5, 6]);
    for kind in [0, 2, 6, 9, 240, 252, 255] {
        assert_eq!(plain(&[0x1f, kind, 0, 2, 5, 6, 0x80, 1, 0, 0]), [0x80, kind, 0, 2, 5, 6, 0, 1, 0, 0], "{kind}");
    }
}

#[test]
fn what_follows_a_malformed_tlv_goes_back_as_it_came() {
    // a length beyond the packet, of a known and an unknown type; not even a header
    assert_eq!(plain(&[0x80, 1, 0, 3, 5, 6]), [0x40, 1, 0, 3, 5, 6]);
    assert_eq!(plain(&[0, 99, 1, 0, 5, 6]), [0xc0, 99, 1, 0, 5, 6]);
    assert_eq!(plain(&[0x80, 1, 0, 0, 3, 1]), [0, 1, 0, 0, 0xc0, 1]);
    // lengths that are none of the type's
    for (kind, length) in [(3, 3), (4, 3), (4, 5), (7, 15), (7, 17)] {
        let mut sent = vec![0x80, kind, 0, length];
        sent.resize(4 + usize::from(length), 0);
        sent.extend([0x80, 4, 0, 4, 0, 0, 0, 0]);
        let mut wanted = sent.clone();
        wanted[0] = 0x40;
        assert_eq!(plain(&sent), wanted, "type {kind}");
    }
    assert_eq!(
        answered(&[0x80, 5, 0, 1, 9], Planes::default(), false, Some(&memory())),
        [0x40, 5, 0, 1, 9],
        "Direct Measurement of one octet"
    );
}

#[test]
fn timestamp_information_claims_the_card_for_its_own_stamp_alone() {
    let asked = [0x80, 3, 0, 4, 0, 0, 0, 0];
    assert_eq!(plain(&asked), [0, 3, 0, 4, 5, 2, 5, 2], "local clock, software both ways");
    let nic = Planes { nic: stamp(-10), ..Planes::default() };
    assert_eq!(answered(&asked, nic, true, None), [0, 3, 0, 4, 1, 1, 1, 2]);
    let raw = Planes { nic: Stamp::new(5, ClockId::Phc(0), 0), kernel: stamp(-5), ..Planes::default() };
    assert_eq!(answered(&asked, raw, true, None), [0, 3, 0, 4, 1, 2, 1, 2], "T2 is not the card's");
    let longer = [0x80, 3, 0, 6, 0, 0, 0, 0, 7, 7];
    assert_eq!(plain(&longer), [0, 3, 0, 6, 5, 2, 5, 2, 7, 7], "sub-TLVs stay");
}

#[test]
fn class_of_service_tells_how_the_request_came() {
    // DSCP1 10, which is allowed, and 12, which is not; the requests came with DSCP 46 and ECN 1
    assert_eq!(plain(&[0x80, 4, 0, 4, 0x28, 0, 7, 7]), [0, 4, 0, 4, 0x28 | 0b10, 0b1110_0100, 0, 0]);
    assert_eq!(plain(&[0x80, 4, 0, 4, 0x30, 0, 7, 7]), [0, 4, 0, 4, 0x30 | 0b10, 0b1110_0101, 0, 0]);
}

#[test]
fn direct_measurement_counts_where_sessions_are_remembered() {
    let asked = [0x80, 5, 0, 12, 0, 0, 0, 3, 7, 7, 7, 7, 7, 7, 7, 7];
    let wanted = [0, 5, 0, 12, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 7];
    assert_eq!(answered(&asked, Planes::default(), false, Some(&memory())), wanted);
    assert_eq!(plain(&asked)[0], 0x80);
    assert_eq!(plain(&asked)[1..], asked[1..]);
}

#[test]
fn follow_up_telemetry_tells_when_the_previous_reply_left() {
    let mut asked = vec![0x80, 7, 0, 16];
    asked.extend([9; 16]);
    let told = |memory: Option<&Memory>| {
        let bytes = answered(&asked, Planes::default(), false, memory);
        assert_eq!(bytes[..4], [0, 7, 0, 16]);
        FollowUpTelemetry::read_from_bytes(&bytes[4..]).expect("16 octets")
    };
    let nothing = FollowUpTelemetry::read_from_bytes(&[0; 16]).expect("16 octets");
    assert_eq!(told(None), nothing, "stateless");
    assert_eq!(told(Some(&Memory::default())), nothing, "the first of its session");

    let mut memory = memory();
    let at = |offset: i64| NtpTimestamp::from(Time::from_nanos(ARRIVED + offset));
    let software = FollowUpTelemetry { sequence: 6.into(), timestamp: at(-80), method: 2, reserved: [0; 3] };
    assert_eq!(told(Some(&memory)), software, "the hand-over to the driver");
    let stamps = &mut memory.previous.as_mut().expect("a reply").stamps;
    stamps.nic = stamp(-70);
    assert_eq!(told(Some(&memory)), FollowUpTelemetry { timestamp: at(-70), method: 1, ..software });
    let stamps = &mut memory.previous.as_mut().expect("a reply").stamps;
    (stamps.nic, stamps.kernel) = (Stamp::new(5, ClockId::Phc(0), 0), None);
    assert_eq!(told(Some(&memory)), FollowUpTelemetry { timestamp: at(-90), ..software }, "B3 in user space, at least");

    let short = answered(&[0x80, 7, 0, 3, 9, 9, 9], Planes::default(), false, Some(&memory));
    assert_eq!(short, [0x40, 7, 0, 3, 0, 0, 0], "erratum 8339");
}

#[test]
fn the_stages_of_this_host_are_told_as_they_are_known() {
    let planes = Planes { nic: Stamp::new(5, ClockId::Phc(2), 7), kernel: stamp(-20), ..Planes::default() };
    let mut asked = vec![0x80, REFLECTOR_STAGES, 0, 100];
    asked.extend(ReflectorStages::empty().as_bytes());
    let mut known = memory();
    let stamps = Planes { kernel: stamp(-80), ..Planes::default() };
    known.told = Some(Departed { sequence: 5, sender_sequence: 59, stamps });
    let told = |memory: Option<&Memory>| {
        let mut bytes = answered(&asked, planes, false, memory);
        finish(&mut bytes, Time::<Realtime>::from_nanos(ARRIVED + 30).into(), None);
        assert_eq!(bytes[..4], [0, REFLECTOR_STAGES, 0, 100]);
        let stages = ReflectorStages::read_from_bytes(&bytes[4..]).expect("100 octets");
        assert_eq!(stages.planes(), [Some(Plane::Kernel), Some(Plane::App)]);
        let word = CardWord { fit: 7, confirmed: Some(pathlab_record::Interval::from_nanos(250_000_000)) };
        assert_eq!(stages.card_word(), word);
        let departed = (stages.departed.get(), stages.departed_kernel.stamp(), stages.departed_nic.stamp());
        let nic = stages.received_nic.stamp().map(|nic| (nic.nanos(), nic.clock(), nic.uncertainty() >= 7));
        assert_eq!(nic, Some((5, ClockId::Phc(2), true)), "on the card's own clock");
        let others = [stages.received_xdp, stages.received_kernel, stages.received_app, stages.sent_app];
        assert_eq!(
            others.map(|other| other.stamp().map(Stamp::nanos)),
            [None, Some(ARRIVED - 20), Some(ARRIVED), Some(ARRIVED + 30)]
        );
        departed
    };
    assert_eq!(told(None), (0, None, None), "stateless");
    assert_eq!(told(Some(&known)), (59, stamp(-80), None));

    asked[7] = 9; // another's identifier
    let bytes = answered(&asked, planes, false, None);
    assert_eq!((bytes[0], &bytes[1..]), (0x80, &asked[1..]));
    assert_eq!(plain(&[0x80, REFLECTOR_STAGES, 0, 1, 9]), [0x80, REFLECTOR_STAGES, 0, 1, 9]);
}

mod integrity {
    use super::*;

    const SEQUENCE: [u8; 4] = [0, 0, 0, 9];

    fn key() -> Key {
        Key::new(b"sixteen octets..").expect("long enough")
    }

    fn padding(length: u8) -> Vec<u8> {
        [vec![0x80, 1, 0, length], vec![0; length.into()]].concat()
    }

    fn hmac(before: &[u8]) -> Vec<u8> {
        [&[0x80, 8, 0, 16][..], &key().hmac(&[&SEQUENCE, before])].concat()
    }

    fn of(extensions: &[u8], required: bool) -> Integrity {
        Integrity::of(extensions, &SEQUENCE, Some(&key()), required)
    }

    #[test]
    fn an_hmac_covers_the_number_and_what_precedes_it() {
        let asked = [0x80, 3, 0, 4, 0, 0, 0, 0].to_vec();
        let signed = [asked.clone(), hmac(&asked)].concat();
        assert_eq!(of(&signed, true), Integrity::Verified);
        assert_eq!(of(&[signed.clone(), padding(3)].concat(), true), Integrity::Verified, "padding may follow");
        assert_eq!(of(&hmac(&[]), false), Integrity::Verified);
        // all but the flags of the HMAC TLV itself, which no HMAC covers
        for place in (0..signed.len()).filter(|place| *place != asked.len()) {
            let mut other = signed.clone();
            other[place] ^= 1;
            assert_ne!(of(&other, true), Integrity::Verified, "octet {place}");
        }
        assert_eq!(Integrity::of(&signed, &[0, 0, 0, 8], Some(&key()), true), Integrity::Failed, "a replay");
        assert_eq!(Integrity::of(&signed, &SEQUENCE, None, false), Integrity::Failed, "no key to check it");
        assert_eq!(of(&[signed.clone(), asked.clone()].concat(), false), Integrity::Failed, "out of place");
        assert_eq!(of(&[signed.clone(), hmac(&signed)].concat(), false), Integrity::Failed, "twice");
        assert_eq!(of(&[signed, vec![0]].concat(), false), Integrity::Failed, "followed by what is no TLV");
        assert_eq!(of(&[0x80, 8, 0, 4, 1, 2, 3, 4], false), Integrity::Failed, "four octets");
    }

    #[test]
    fn without_one_a_lone_padding_passes_and_the_rest_where_none_is_needed() {
        assert_eq!(of(&[], true), Integrity::Unprotected);
        assert_eq!(of(&padding(9), true), Integrity::Unprotected);
        assert_eq!(of(&[padding(1), padding(2)].concat(), true), Integrity::Failed);
        assert_eq!(of(&[0x80, 3, 0, 4, 0, 0, 0, 0], true), Integrity::Failed);
        assert_eq!(of(&[0x80, 3, 0, 4, 0, 0, 0, 0], false), Integrity::Unprotected);
    }

    fn stateless(arrival: &Arrival) -> Context<'_> {
        Context {
            return_trace: None,
            arrival,
            traffic_class: 0,
            allowed_dscp: 0,
            error_estimate: ErrorEstimate::from_nanos(1, true),
            assurance: Assurance::default(),
            now: Time::from_nanos(1),
            memory: None,
        }
    }

    #[test]
    fn what_fails_goes_back_flagged_and_unanswered() {
        let mut bytes = vec![0x80, 3, 0, 4, 0, 0, 0, 0, 0x80, 99, 0, 1, 5, 0x80, 8, 0, 4, 1, 2, 3, 4, 0x80, 3, 0, 4];
        let mut wanted = bytes.clone();
        for (place, flags) in [(0, 0x20), (8, 0xa0), (13, 0x60)] {
            wanted[place] = flags;
        }
        let arrival = Arrival::from(Time::from_nanos(ARRIVED));
        reflect(&mut bytes, Integrity::Failed, &stateless(&arrival));
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn the_reply_is_signed_over_its_own_octets() {
        let mut bytes = [vec![0x80, 3, 0, 4, 0, 0, 0, 0], hmac(b"whatever came")].concat();
        let arrival = Arrival::from(Time::from_nanos(ARRIVED));
        reflect(&mut bytes, Integrity::Verified, &stateless(&arrival));
        finish(&mut bytes, Time::<Realtime>::from_nanos(ARRIVED).into(), Some((&[0, 0, 0, 77], &key())));
        assert_eq!(Integrity::of(&bytes, &[0, 0, 0, 77], Some(&key()), true), Integrity::Verified);
    }
}
