use super::*;
use crate::prober::clocks::tests::even;

#[test]
fn sequence_numbers_wrap_without_a_trace() {
    let patience = Patience {
        timeout: Duration::from_millis(10),
        stamp: Duration::ZERO,
        nic: false,
        follow_up: Duration::ZERO,
        confirm: Duration::ZERO,
    };
    let clocks = even();
    let mut matching = Matching::new(1, patience);
    let start = u32::MAX - 9;
    (matching.sessions[0].next_seq, matching.sessions[0].next_expected) = (start, start);
    let mut sink = Vec::new();
    let at = |step: u32| 1_000_000 * i64::from(step);
    let mut theirs = 3_u32;
    for step in 0..40 {
        let (now, time) = (Time::from_nanos(at(step)), Time::from_nanos(at(step)));
        let seq = matching.next_seq(0);
        assert_eq!(seq, start.wrapping_add(step));
        let departure =
            Departure { a0: time, a1_app: time, a1_sched: None, a1_kernel: None, a1_nic: None, uncertainty: 0 };
        matching.sent(0, now, departure, u64::from(step));
        // On both sides of the wrap one is lost on the way there and two are lost on the way back.
        let (there, back) = (matches!(step, 4 | 30), matches!(step, 8 | 9 | 20 | 21));
        theirs = theirs.wrapping_add(u32::from(!there));
        if !there && !back {
            let reply = Reply {
                seq,
                reflector_seq: theirs,
                echo: u64::from(step),
                b2: None,
                b3: None,
                synchronised: None,
                in_doubt: false,
                a4_kernel: None,
                a4_nic: None,
                a4_app: time,
            };
            assert!(matching.reply(0, now, reply, &mut sink));
        }
        matching.confirm(now, &clocks, &mut sink);
        matching.expire(now, &clocks, &mut sink);
    }
    matching.finish(Time::from_nanos(at(40)), &clocks, &mut sink);
    let counts = *matching.counts(0);
    assert_eq!((counts.sent, counts.received, counts.reordered, counts.stale), (40, 34, 0, 0));
    assert_eq!((counts.lost_forward, counts.lost_return, counts.lost_unknown), (2, 4, 0));
    let mut settled: Vec<u32> = sink.iter().map(|(_, settled)| settled.seq.wrapping_sub(start)).collect();
    settled.sort_unstable();
    assert_eq!(settled, (0..40).collect::<Vec<_>>(), "each once");
}
