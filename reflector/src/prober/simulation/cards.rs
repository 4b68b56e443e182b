//! Stamps of a card in the matching: pairs bound the wire, what stands alone does not, and nobody waits for ever.

use super::*;

/// A reply at the kernel after 9 ms and read after 10, with the card's stamp or without.
fn reply(now: Now, a4_nic: Option<Stamp>) -> super::super::Reply {
    super::super::Reply {
        seq: 0,
        reflector_seq: 0,
        echo: 6,
        b2: None,
        b3: None,
        synchronised: None,
        a4_kernel: Some(now.realtime + Interval::from_nanos(9_000_000)),
        a4_nic,
        a4_app: now.realtime + Interval::from_nanos(10_000_000),
    }
}

/// A card with few transmit registers stamps every reply, but not every packet: its A4 in UTC must not be paired with the kernel's A1.
#[test]
fn a_stamp_of_the_card_alone_is_never_mixed_with_the_kernels() {
    let now = Simulation::new(Nature::default()).now();
    let after = |nanos| now.realtime + Interval::from_nanos(nanos);
    let passage = |a1_nic, a4_nic| super::super::Passage {
        departure: super::super::Departure { a1_kernel: Some(after(1_000_000)), a1_nic, ..departure(now) },
        reply: reply(now, a4_nic),
    };
    let away = |passage: super::super::Passage| {
        let ledger = pathlab_record::Ledger::split(&passage.stamps()).expect("a reply came");
        ledger.parts.iter().find(|(terms, _)| terms.contains(&Term::Wire)).map(|(_, span)| span.as_nanos())
    };
    let utc = |nanos| Some(Stamp::from(after(nanos)));
    let own = Stamp::new(5, ClockId::Phc(3), 0);
    assert_eq!(away(passage(utc(1_500_000), utc(8_500_000))), Some(7_000_000));
    for (a1, a4) in [(None, utc(8_500_000)), (utc(1_500_000), None), (own, utc(8_500_000))] {
        let lone = passage(a1, a4);
        assert_eq!((lone.stamps().a1.nic, lone.stamps().a4.nic), (None, None));
        assert_eq!(away(lone), Some(8_000_000), "both ends on the kernel's plane");
    }
}

/// The card's pair on its own clock parts the wire from the hosts, and is waited for, but not longer than for any stamp.
#[test]
fn the_cards_stamps_bound_the_wire_and_are_waited_for() {
    use super::super::TransmitStamp::{Kernel, Nic};

    let card = |nanos| Stamp::new(nanos, ClockId::Phc(3), 0).expect("not zero");
    for stamped in [true, false] {
        let patience = Patience {
            timeout: Duration::from_millis(200),
            stamp: Duration::from_millis(20),
            nic: true,
            follow_up: Duration::ZERO,
        };
        let mut matching = super::super::Matching::new(1, patience);
        let now = Simulation::new(Nature::default()).now();
        let mut sink = Vec::new();
        matching.sent(0, now.monotonic, departure(now), 6);
        let after = |nanos| now.realtime + Interval::from_nanos(nanos);
        let reply = reply(now, Some(card(70_000_000)));
        assert!(matching.reply(0, now.monotonic, reply, &mut sink));
        matching.sent_stamp(0, 0, Kernel(after(1_000_000)), &mut sink);
        assert!(sink.is_empty(), "the card's stamp comes last");
        if stamped {
            matching.sent_stamp(0, 0, Nic(card(63_000_000)), &mut sink);
        } else {
            matching.expire(now.monotonic + Interval::from_nanos(20_000_000), &mut sink);
        }
        let [(0, settled)] = sink.as_slice() else { panic!("settled once: {sink:?}") };
        assert_eq!(settled.stamps.a1.nic, stamped.then(|| card(63_000_000)));
        let ledger = settled.ledger.as_ref().expect("a reply came");
        let wire = ledger.parts.iter().find(|(terms, _)| terms.contains(&Term::Wire)).map(|(_, span)| span.as_nanos());
        assert_eq!(wire, Some(if stamped { 7_000_000 } else { 8_000_000 }), "{ledger:?}");
        assert_eq!(settled.rtt, Some(Interval::from_nanos(8_000_000)), "on the kernel's plane for every packet");
    }
}
