//! What an answered packet waits for, and how each wait ends.

use super::*;
use crate::prober::{self, clocks::tests::even};

#[test]
fn a_reply_waits_for_what_the_next_tells_of_it_and_then_goes_without() {
    let patience = Patience {
        timeout: Duration::from_millis(200),
        stamp: Duration::ZERO,
        nic: false,
        follow_up: Duration::from_millis(30),
        confirm: Duration::ZERO,
    };
    let clocks = even();
    let begun = Simulation::new(Nature::default()).now();
    let stamp = |nanos: i64| Some(pathlab_record::Stamp::from(begun.realtime + Interval::from_nanos(nanos)));
    let planes = pathlab_record::Planes::default();
    let b3 = pathlab_record::Planes { app: stamp(10), ..planes };
    let inside =
        prober::Inside { b2: pathlab_record::Planes { app: stamp(5), ..planes }, b3, ..prober::Inside::default() };
    let tells = |seq| prober::FollowUp {
        reply: prober::Earlier::Ours(seq),
        stamps: pathlab_record::Planes { kernel: stamp(12), ..planes },
    };
    let reply = |seq| prober::Reply {
        seq,
        reflector_seq: seq,
        echo: 6,
        b2: stamp(5),
        b3: stamp(10),
        synchronised: None,
        in_doubt: false,
        a4_kernel: None,
        a4_nic: None,
        a4_app: begun.realtime,
    };
    let mut matching = prober::Matching::new(2, patience);
    for session in [0, 1] {
        for _ in 0..3 {
            matching.sent(session, begun.monotonic, departure(begun), 6);
        }
    }
    // Session 0 tells of each reply with the next, and nobody of the last.
    let mut sink = Vec::new();
    assert!(matching.reply_inside(0, begun.monotonic, reply(0), Some(inside), None, &mut sink));
    matching.confirm(begun.monotonic, &clocks, &mut sink);
    assert_eq!(sink.len(), 0, "it waits");
    for seq in [1, 2] {
        assert!(matching.reply_inside(0, begun.monotonic, reply(seq), Some(inside), Some(tells(seq - 1)), &mut sink));
        matching.confirm(begun.monotonic, &clocks, &mut sink);
        assert_eq!(sink.len() as u32, seq);
        let (_, settled) = sink.last().expect("settled");
        assert_eq!((settled.seq, settled.stamps.b3.kernel), (seq - 1, stamp(12)));
    }
    matching.expire(begun.monotonic + Interval::from_nanos(29 * MS), &clocks, &mut sink);
    assert_eq!(sink.len(), 2, "it waits still");
    matching.expire(begun.monotonic + Interval::from_nanos(30 * MS), &clocks, &mut sink);
    let (_, last) = sink.last().expect("settled");
    assert_eq!((sink.len(), last.seq, last.stamps.b3), (3, 2, b3), "without");
    assert_eq!((matching.counts(0).followed_up, matching.counts(0).received), (2, 3));

    // Session 1 tells nothing: by its second reply nobody waits any more.
    let mut sink = Vec::new();
    for (seq, settled) in [(0, 0), (1, 2), (2, 3)] {
        assert!(matching.reply_inside(1, begun.monotonic, reply(seq), Some(inside), None, &mut sink));
        matching.confirm(begun.monotonic, &clocks, &mut sink);
        assert_eq!(sink.len(), settled);
    }
    assert_eq!(matching.counts(1).followed_up, 0);
}

#[test]
fn a_reply_that_fits_nothing_is_counted_and_changes_nothing() {
    let patience = Patience {
        timeout: Duration::from_millis(200),
        stamp: Duration::ZERO,
        nic: false,
        follow_up: Duration::ZERO,
        confirm: Duration::ZERO,
    };
    let mut matching = prober::Matching::new(1, patience);
    let now = Simulation::new(Nature::default()).now();
    let mut sink = Vec::new();
    let reply = prober::Reply {
        seq: 0,
        reflector_seq: 0,
        echo: 5,
        b2: None,
        b3: None,
        synchronised: None,
        in_doubt: false,
        a4_kernel: None,
        a4_nic: None,
        a4_app: now.realtime,
    };
    assert!(!matching.reply(0, now.monotonic, reply, &mut sink), "nothing was sent");
    let departure = departure(now);
    matching.sent(0, now.monotonic, departure, 6);
    assert!(!matching.reply(0, now.monotonic, reply, &mut sink), "the timestamp is not what was sent");
    for _ in 0..3 {
        assert!(matching.reply(0, now.monotonic, prober::Reply { echo: 6, ..reply }, &mut sink));
        matching.confirm(now.monotonic, &even(), &mut sink);
    }
    let counts = matching.counts(0);
    assert_eq!((counts.stale, counts.mismatched, counts.received, counts.duplicates), (1, 1, 1, 2));
    assert_eq!(sink.len(), 2, "one sample for the packet, one for all its duplicates");
}

/// Nobody has looked at the clock: nothing is settled, and a step that is then seen leaves the slot alone.
#[test]
fn a_reply_waits_for_a_look_at_the_clock() {
    let patience = Patience {
        timeout: Duration::from_millis(200),
        stamp: Duration::ZERO,
        nic: false,
        follow_up: Duration::ZERO,
        confirm: Duration::ZERO,
    };
    let look = |at: i64, set: i64| SystemLook {
        monotonic: Time::from_nanos(at),
        realtime: real(at + set),
        half_width: 20,
        tai_minus_utc: None,
    };
    for set in [0, 90 * MS, -90 * MS, 3_600_000 * MS, -3_600_000 * MS] {
        let mut clocks = prober::Clocks::default();
        clocks.look(look(0, 0));
        let mut matching = prober::Matching::new(1, patience);
        let at = |nanos: i64| Now { monotonic: Time::from_nanos(nanos), realtime: real(nanos) };
        let mut sink = Vec::new();
        matching.sent(0, at(MS).monotonic, departure(at(MS)), 6);
        let reply = prober::Reply {
            seq: 0,
            reflector_seq: 0,
            echo: 6,
            b2: None,
            b3: None,
            synchronised: Some(5),
            in_doubt: false,
            a4_kernel: None,
            a4_nic: None,
            a4_app: at(5 * MS + set).realtime,
        };
        assert!(matching.reply(0, at(5 * MS).monotonic, reply, &mut sink));
        matching.confirm(at(5 * MS).monotonic, &clocks, &mut sink);
        assert!(sink.is_empty(), "nobody has looked");
        clocks.look(look(6 * MS, set));
        matching.confirm(at(6 * MS).monotonic, &clocks, &mut sink);
        let [(0, settled)] = sink.as_slice() else { panic!("settled once: {sink:?}") };
        assert_eq!(settled.outcome, Outcome::Received, "in time, whatever REALTIME says");
        assert_eq!(matching.counts(0).clock_steps, u64::from(set != 0));
        if set == 0 {
            assert_eq!(settled.rtt, Some(Interval::from_nanos(4 * MS)));
        } else {
            assert_eq!((settled.rtt, &settled.ledger, settled.synchronised), (None, &None, None));
            let slot = pathlab_record::Planes { app: Some(real(MS).into()), ..Default::default() };
            assert_eq!(settled.stamps, pathlab_record::Stamps { a0: slot, ..Default::default() });
        }
    }
}

pub(super) fn departure(now: Now) -> prober::Departure {
    prober::Departure {
        a0: now.realtime,
        a1_app: now.realtime,
        a1_sched: None,
        a1_kernel: None,
        a1_nic: None,
        uncertainty: 0,
    }
}
