//! What holds for every frame whatsoever.

use super::*;

fn any_request() -> impl Strategy<Value = Frame> {
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    let addresses = prop_oneof![
        any::<[u8; 4]>().prop_map(|source| (IpAddr::from(source), OUR_V4)),
        any::<[u8; 16]>().prop_map(|source| (IpAddr::from(source), OUR_V6)),
    ];
    let vlans = proptest::collection::vec(0..4095_u16, 0..3);
    (payload, addresses, vlans, any::<u16>(), any::<u8>()).prop_map(
        |(payload, (source, destination), vlans, port, ttl)| {
            let frame = Frame::between(source, destination, payload);
            Frame { vlans, ttl, source: (source, port).into(), ..frame }
        },
    )
}

/// What holds for every frame whatsoever.
fn check_any(program: &ReflectorProgram, frame: &[u8]) -> TestRunOutcome {
    let outcome = program.test_run(frame).expect("runs");
    match outcome.action {
        Action::Pass | Action::Drop => assert_eq!(outcome.frame, frame),
        Action::Tx => assert!(outcome.frame.len() == frame.len() && frame.len() >= 14 + 20 + 8 + 44),
        other => panic!("{other:?}"),
    }
    outcome
}

#[test]
fn any_request_is_answered_rightly_or_dropped() {
    if !root_or_skip("any_request_is_answered_rightly_or_dropped") {
        return;
    }
    let program = reflector();
    let (replied, dropped) = (Cell::new(0), Cell::new(0));
    proptest!(ProptestConfig::with_cases(4000), |(request in any_request())| {
        match check_any(&program, &request.bytes()) {
            TestRunOutcome { action: Action::Tx, frame, .. } => {
                let payload = reply(&request.payload, T2, T3, request.ttl, XdpReflectorConfig::UNSYNCHRONISED);
                prop_assert_eq!(Frame::read(&frame), request.answered(payload));
                replied.set(replied.get() + 1);
            }
            TestRunOutcome { action, .. } => {
                prop_assert_eq!(action, Action::Drop);
                dropped.set(dropped.get() + 1);
            }
        }
    });
    let counters = program.counters().expect("counters");
    assert_eq!((counters[Counter::Replied], counters.refused()), (replied.get(), dropped.get()), "{counters}");
    assert!(sums_up(&counters) && counters[Counter::Passed] == 0 && replied.get() > 1000, "{counters}");
}

#[test]
fn any_octets_are_counted_once_and_never_grow() {
    if !root_or_skip("any_octets_are_counted_once_and_never_grow") {
        return;
    }
    let program = reflector();
    let runs = Cell::new(0);
    // requests with a few octets overwritten and cut anywhere reach further than noise does
    let overwrites = || proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    proptest!(ProptestConfig::with_cases(4000), |(request in any_request(), overwrites in overwrites(), cut in 14..300_usize)| {
        let mut bytes = request.bytes();
        for (at, octet) in overwrites {
            let at = at.index(bytes.len().min(80));
            bytes[at] = octet;
        }
        bytes.truncate(cut);
        check_any(&program, &bytes);
        runs.set(runs.get() + 1);
    });
    proptest!(ProptestConfig::with_cases(1000), |(bytes in proptest::collection::vec(any::<u8>(), 14..200))| {
        check_any(&program, &bytes);
        runs.set(runs.get() + 1);
    });
    let counters = program.counters().expect("counters");
    assert!(sums_up(&counters), "{counters}");
    assert_eq!(counters[Counter::Received] + counters[Counter::Passed], runs.get(), "{counters}");
}
