//! Each TLV as RFC 8972 asks for it, octet by octet.

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
    reflect(&mut bytes, &Context { arrival: &arrival, traffic_class: 0xb9, error_estimate, memory });
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
    // DSCP1 10; the request came with DSCP 46 and ECN 1
    assert_eq!(plain(&[0x80, 4, 0, 4, 0x28, 0, 7, 7]), [0, 4, 0, 4, 0x28 | 0b10, 0b1110_0101, 0, 0]);
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
