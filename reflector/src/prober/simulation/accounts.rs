//! Whole conversations: what became of every packet is told truly, and every slot, packet and bin adds up.

use super::*;

#[test]
fn ten_thousand_packets_are_all_accounted_for() {
    let nature = Nature {
        spread: 25 * MS,
        lose_forward: 0.02,
        lose_return: 0.03,
        duplicate: 0.01,
        late: 0.01,
        stamp_after: 5 * MS,
        ..Nature::default()
    };
    let played = play(nature, 20, 500);
    played.check_accounts(20, 500);
    let counts = played.counts;
    assert_eq!(counts.sent, 10_000);
    assert_eq!(counts.received, played.fates(Fate::Answered));
    for sample in played.kept.samples.iter().filter(|sample| sample.outcome != Outcome::Duplicate) {
        let (fate, outcome) = (played.fate(sample), sample.outcome);
        let right = match fate {
            Fate::Answered => outcome == Outcome::Received,
            // The run ends one timeout after its last packet, and then late is lost.
            Fate::Late => outcome == Outcome::Late || outcome == Outcome::Lost && sample.seq >= 478,
            Fate::LostForward | Fate::LostReturn => outcome == Outcome::Lost,
        };
        assert!(right, "{fate:?} came out as {outcome:?}, packet {}", sample.seq);
    }
    assert_eq!(counts.lost_unknown, counts.lost(), "a stateless reflector says nothing of the direction");
    assert_eq!(counts.duplicates, played.world.duplicates);
    assert!(counts.reordered > 1000, "a spread of 25 ms reorders packets 10 ms apart: {}", counts.reordered);
    assert_eq!((counts.stale, counts.mismatched), (0, 0));
    assert_eq!(played.row.kernel_sent_coverage, 1.0);
    assert_eq!(played.end, End::Done);
}

#[test]
fn a_stamp_after_the_reply_is_waited_for_and_beyond_the_wait_gone_without() {
    for (stamp_after, coverage) in [(16 * MS, 1.0), (60 * MS, 0.0)] {
        let played = play(Nature { stamp_after, ..Nature::default() }, 2, 50);
        played.check_accounts(2, 50);
        assert_eq!(played.counts.received, 100);
        assert_eq!(played.row.kernel_sent_coverage, coverage);
        let merged = played.row.split.parts.contains_key("probe_tx+wire");
        assert_eq!(merged, coverage == 0.0, "{:?}", played.row.split.parts.keys());
    }
}

#[test]
fn a_stateful_reflector_tells_the_direction() {
    let nature = Nature { lose_forward: 0.03, lose_return: 0.03, stateful: true, ..Nature::default() };
    let played = play(nature, 20, 500);
    played.check_accounts(20, 500);
    let mut told = 0;
    for sample in &played.kept.samples {
        match sample.outcome {
            Outcome::LostForward => assert_eq!(played.fate(sample), Fate::LostForward),
            Outcome::LostReturn => assert_eq!(played.fate(sample), Fate::LostReturn),
            _ => continue,
        }
        told += 1;
    }
    let counts = played.counts;
    assert!(told * 10 > counts.lost() * 8, "{told} of {}", counts.lost());
    // Beyond what each packet shows, the numbers of a burst show how many: nearly all of both legs are accounted for.
    let forward = counts.lost_forward + counts.unknown_forward;
    let back = counts.lost_return + counts.unknown_return;
    assert!(forward <= played.fates(Fate::LostForward) && back <= played.fates(Fate::LostReturn));
    assert!((forward + back) * 10 > counts.lost() * 9, "{forward} and {back} of {}", counts.lost());
}

#[test]
fn a_delay_in_one_stage_moves_its_term_and_no_other() {
    type Stage = fn(&mut Nature) -> &mut i64;
    let stages: [(Stage, Term); 6] = [
        (|nature| &mut nature.wake_late, Term::SchedLate),
        (|nature| &mut nature.probe_tx, Term::ProbeTx),
        (|nature| &mut nature.forward, Term::Wire),
        (|nature| &mut nature.residence, Term::Residence),
        (|nature| &mut nature.back, Term::Wire),
        (|nature| &mut nature.probe_rx, Term::ProbeRx),
    ];
    // Replies come well before the next slot: a host that sleeps too long there would read them late, and rightly say so.
    let base = Nature { forward: MS, back: MS, ..Nature::default() };
    let medians = |nature: Nature| {
        let played = play(nature, 1, 200);
        Term::ALL.map(|term| played.row.split.parts[term.name()].p50 as i64)
    };
    let before = medians(base.clone());
    for (stage, moved) in stages {
        let mut nature = base.clone();
        *stage(&mut nature) += 5 * MS;
        let after = medians(nature);
        for ((term, before), after) in Term::ALL.into_iter().zip(before).zip(after) {
            let by = after - before;
            let expected = if term == moved { 5 * MS } else { 0 };
            assert!((by - expected).abs() < 20 * US, "{moved}: {term} moved by {by} ns");
        }
    }
}

#[test]
fn delays_one_way_are_bounded_without_synchronised_clocks() {
    let nature = Nature { spread: 5 * MS, probe_tx: 0, ..Nature::default() };
    let played = play(nature.clone(), 4, 500);
    let [host] = &played.one_way[..] else { panic!("one reflector: {:?}", played.one_way) };
    assert_eq!((host.forward.at_least.count, host.void), (2000, 0));
    for segment in &host.segments {
        // Seven seconds ahead, as `far` has it.
        assert!((segment.offset_least..=segment.offset_most).contains(&(7_000 * MS)), "{segment:?}");
        assert!(segment.offset_most - segment.offset_least <= nature.forward + nature.back + MS);
    }
    let within = |quantiles: super::super::OneWayQuantiles, least: i64, most: i64| {
        assert!(quantiles.at_least.max as i64 <= most && quantiles.at_most.min as i64 >= least, "{quantiles:?}");
    };
    within(host.forward, nature.forward, nature.forward + nature.spread);
    within(host.back, nature.back, nature.back + MS);
}

#[test]
fn silence_ends_the_run_early() {
    let played = play(Nature { lose_forward: 1.0, ..Nature::default() }, 2, 100_000);
    assert_eq!(played.end, End::Silence);
    assert!(played.counts.sent <= 2 * (TIMEOUT / (10 * MS) + 2) as u64, "{}", played.counts.sent);
    assert_eq!(played.counts.sent, played.counts.lost());
}

#[test]
fn delay_variation_is_that_of_consecutive_packets_each_way() {
    // Forward delays alternate in no way that the return sees: with a spread only forward, the return's variation is zero.
    let played = play(Nature { spread: 2 * MS, ..Nature::default() }, 1, 300);
    assert_eq!(played.row.ipdv_return.unwrap().max, 0);
    let forward = played.row.ipdv_forward.unwrap();
    assert_eq!(forward.count, 299);
    assert!(forward.max > MS as u64 && forward.max < 2_010_000, "{forward:?}");
    assert_eq!(played.row.ipdv_round_trip.unwrap().p95, forward.p95);

    // Each lost packet takes both of its pairs away.
    let lossy = play(Nature { lose_return: 0.1, ..Nature::default() }, 1, 300);
    let received: std::collections::HashSet<u32> = lossy
        .kept
        .samples
        .iter()
        .filter(|sample| sample.outcome == Outcome::Received)
        .map(|sample| sample.seq)
        .collect();
    let pairs = received.iter().filter(|seq| received.contains(&(*seq + 1))).count() as u64;
    assert_eq!(lossy.row.ipdv_round_trip.unwrap().count, pairs);
}

/// A probe that cannot keep its schedule skips slots; it does not take for lost what came back in time.
#[test]
fn a_probe_that_is_behind_still_reads() {
    let nature = Nature { send_takes: 11 * MS, ..Nature::default() };
    let played = play(nature, 1, 400);
    played.check_accounts(1, 400);
    assert!(played.row.schedule.skipped > 10, "{:?}", played.row.schedule);
    assert_eq!((played.counts.received, played.counts.lost()), (played.counts.sent, 0));
}

#[test]
fn a_stalled_host_skips_what_would_burst_and_says_so() {
    let played = play(Nature { stall: 80 * MS, ..Nature::default() }, 4, 400);
    played.check_accounts(4, 400);
    assert!(played.row.schedule.skipped > 0);
    let lateness = played.row.schedule.lateness.unwrap();
    assert!(lateness.max <= 31 * MS as u64, "what is sent is at most 30 ms late: {lateness:?}");
    assert!(played.kept.samples.iter().all(|sample| sample.ledger.is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_the_accounts_close(
        sessions in 1usize..9, count in 1u64..60, seed: u64, stateful: bool,
        shares in prop::array::uniform5(0.0..0.5f64),
        (spread, stall, stamp_after) in (0..400 * MS, 0..200 * MS, 0..100 * MS),
    ) {
        let [lose_forward, lose_return, duplicate, late, refuse] = shares;
        let nature = Nature {
            lose_forward, lose_return, duplicate, late, refuse, spread, stall, stamp_after, stateful, seed,
            ..Nature::default()
        };
        let played = play(nature, sessions, count);
        if played.end == End::Done {
            played.check_accounts(sessions, count);
        }
        let rtt = played.row.rtt.map_or(0, |rtt| rtt.count);
        prop_assert_eq!(rtt, played.counts.received);
        let lateness = played.row.schedule.lateness.map_or(0, |late| late.count);
        prop_assert_eq!(lateness, played.counts.sent);
        let pairs = played.row.ipdv_round_trip.map_or(0, |pairs| pairs.count);
        prop_assert!(pairs <= played.counts.received);
        for ledger in played.kept.samples.iter().filter_map(|sample| sample.ledger.as_ref()) {
            prop_assert!(ledger.total() >= Interval::ZERO);
        }
    }
}
