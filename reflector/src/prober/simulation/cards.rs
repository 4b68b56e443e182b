//! Stamps of a card in the matching: pairs bound the wire, what stands alone does not, and nobody waits for ever.

use std::sync::Arc;

use pathlab_record::{Monotonic, Reading};
use pathlab_xdp::{
    NicClock,
    clock::{Assurance, Vouch},
};

use super::{waits::departure, *};
use crate::prober::{self, Clocks};

/// A card's clock that says this, whatever it is asked.
struct Says(Vouch);

impl NicClock for Says {
    fn phc(&self) -> u32 {
        3
    }

    fn utc(&self, _: i64) -> Option<Reading<Realtime>> {
        None
    }

    fn uncertainty(&self) -> Option<u64> {
        None
    }

    fn vouch(&self, _: Time<Monotonic>, _: Time<Monotonic>) -> Vouch {
        self.0
    }

    fn assurance(&self) -> Assurance {
        Assurance { steps: 5, ..Assurance::default() }
    }
}

fn says(vouch: Vouch) -> Clocks {
    let mut clocks = Clocks::with_nic(Some(Arc::new(Says(vouch))));
    clocks.look(SystemLook { monotonic: Time::from_nanos(0), realtime: real(0), half_width: 0, tai_minus_utc: None });
    clocks
}

/// A reply at the kernel after 9 ms and read after 10, with the card's stamp or without.
fn reply(now: Now, a4_nic: Option<Stamp>) -> prober::Reply {
    prober::Reply {
        seq: 0,
        reflector_seq: 0,
        echo: 6,
        b2: None,
        b3: None,
        synchronised: None,
        in_doubt: false,
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
    let passage = |a1_nic, a4_nic| prober::Passage {
        departure: prober::Departure { a1_kernel: Some(after(1_000_000)), a1_nic, ..departure(now) },
        reply: reply(now, a4_nic),
        epochs: prober::Epochs::default(),
    };
    let away = |passage: prober::Passage| {
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

/// The card's pair parts the wire from the hosts: once it has come and is confirmed, and else the kernel's does.
#[test]
fn the_cards_stamps_bound_the_wire_and_are_waited_for() {
    use prober::TransmitStamp::{Kernel, Nic};

    let own = |nanos| Stamp::new(nanos, ClockId::Phc(3), 0).expect("not zero");
    let utc = |nanos| Stamp::new(EPOCH + nanos, ClockId::Realtime, 40).expect("not zero");
    let stated = |of: fn(i64, u64) -> Option<Stamp>, u| Some([63_000_000, 70_000_000].map(|at| of(at, u)));
    let on_own = stated(|at, u| Stamp::new(at, ClockId::Phc(3), u), 501);
    let in_utc = stated(|at, u| Stamp::new(EPOCH + at, ClockId::Realtime, u), 40);
    // stamps, what the clock says of them, what is left of them, [void, unconfirmed]
    let cases = [
        (Some([own(63_000_000), own(70_000_000)]), Vouch::True { drift: Some(1001) }, on_own, [0, 0]),
        (Some([own(63_000_000), own(70_000_000)]), Vouch::True { drift: None }, None, [0, 1]),
        (Some([utc(63_000_000), utc(70_000_000)]), Vouch::True { drift: None }, in_utc, [0, 0]),
        (Some([utc(63_000_000), utc(70_000_000)]), Vouch::Void, None, [1, 0]),
        (Some([utc(63_000_000), utc(70_000_000)]), Vouch::NotYet, None, [0, 1]),
        (None, Vouch::True { drift: None }, None, [0, 0]),
    ];
    for (stamps, vouch, left, dropped) in cases {
        let patience = Patience {
            timeout: Duration::from_millis(200),
            stamp: Duration::from_millis(20),
            nic: true,
            follow_up: Duration::ZERO,
            confirm: Duration::from_millis(300),
        };
        let mut matching = prober::Matching::new(1, patience);
        let now = Simulation::new(Nature::default()).now();
        let clocks = says(vouch);
        let mut sink = Vec::new();
        matching.sent(0, now.monotonic, departure(now), 6);
        let after = |nanos| now.realtime + Interval::from_nanos(nanos);
        let later = |millis: i64| now.monotonic + Interval::from_nanos(millis * MS);
        let reply = reply(now, Some(stamps.map_or(utc(70_000_000), |[_, a4]| a4)));
        assert!(matching.reply(0, now.monotonic, reply, &mut sink));
        matching.sent_stamp(0, 0, Kernel(after(1_000_000)), &mut sink);
        matching.confirm(now.monotonic, &clocks, &mut sink);
        assert!(sink.is_empty(), "the card's stamp comes last");
        match stamps {
            Some([a1, _]) => matching.sent_stamp(0, 0, Nic(a1), &mut sink),
            None => matching.expire(later(20), &clocks, &mut sink),
        }
        matching.confirm(later(299), &clocks, &mut sink);
        assert_eq!(sink.is_empty(), vouch == Vouch::NotYet, "the next comparison is waited for");
        assert_eq!(matching.is_confirming(), vouch == Vouch::NotYet);
        matching.confirm(later(300), &clocks, &mut sink);
        let [(0, settled)] = sink.as_slice() else { panic!("settled once: {sink:?}") };
        assert_eq!(settled.stamps.a1.nic.zip(settled.stamps.a4.nic), left.map(|[a1, a4]| (a1.unwrap(), a4.unwrap())));
        let counts = matching.counts(0);
        assert_eq!([counts.nic_void, counts.nic_unconfirmed], dropped);
        let ledger = settled.ledger.as_ref().expect("a reply came");
        assert_eq!(ledger.wire(), None, "the reflector said nothing");
        let wire = ledger.parts.iter().find(|(terms, _)| terms.contains(&Term::Wire)).map(|(_, span)| span.as_nanos());
        assert_eq!(wire, Some(if left.is_some() { 7_000_000 } else { 8_000_000 }), "{ledger:?}");
        let uncertainty = left.map_or(0, |[a1, a4]| a1.unwrap().uncertainty() + a4.unwrap().uncertainty());
        assert_eq!(ledger.uncertainty, uncertainty);
        assert_eq!(settled.rtt, Some(Interval::from_nanos(8_000_000)), "on the kernel's plane for every packet");
    }
    assert_eq!(says(Vouch::NotYet).steps(), crate::clock::Steps { system: 0, card: Some(5) });
}
