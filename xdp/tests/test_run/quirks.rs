//! What some cards do to frames: a stamp behind them, and a register that only the stack empties.

use super::*;

/// As an X550 appends it: cycles in the lower word, billions of them in the upper, least octet first.
const TAIL: [u8; 8] = [0x15, 0xcd, 0x5b, 0x07, 0x02, 0, 0, 0];
const TAIL_CYCLES: u64 = 2 * 1_000_000_000 + 123_456_789;

fn with_tail(frame: &Frame) -> Vec<u8> {
    [frame.bytes(), TAIL.to_vec()].concat()
}

fn tail_reader(hand_over: HandOver) -> ReflectorProgram {
    let quirks = XdpQuirks { read_tail: true, ..XdpQuirks::default() };
    let config = XdpReflectorConfig { hand_over, quirks, ..config() };
    ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads")
}

#[test]
fn a_cards_stamp_behind_the_frame_is_cut_before_a_reply() {
    if !root_or_skip("a_cards_stamp_behind_the_frame_is_cut_before_a_reply") {
        return;
    }
    for hand_over in [HandOver::Nothing, HandOver::Longer] {
        let program = tail_reader(hand_over);
        for base in [Frame::v4(request(44)), Frame::v6(request(44))] {
            for vlans in [vec![], vec![7], vec![100, 7]] {
                let frame = Frame { vlans, ..base.clone() };
                let outcome = program.test_run(&with_tail(&frame)).expect("runs");
                assert_eq!(outcome.action, Action::Tx);
                // read() wants right checksums and nothing behind the datagram
                assert_eq!(outcome.frame.len(), frame.bytes().len(), "the card's clock must not leak");
                let payload = reply(&frame.payload, T2, T3, frame.ttl, XdpReflectorConfig::UNSYNCHRONISED);
                assert_eq!(Frame::read(&outcome.frame), frame.answered(payload));
                // and without a tail it is the reflector that it always is
                let bare = program.test_run(&frame.bytes()).expect("runs");
                assert_eq!((bare.action, bare.frame), (Action::Tx, outcome.frame));
            }
        }
        assert!(sums_up(&program.counters().expect("counters")));
    }
}

#[test]
fn what_is_passed_keeps_its_tail_for_the_driver_to_find() {
    if !root_or_skip("what_is_passed_keeps_its_tail_for_the_driver_to_find") {
        return;
    }
    let program = tail_reader(HandOver::Nothing);
    let base = Frame::v4(request(44));
    let mut other_port = base.clone();
    other_port.destination.set_port(PORT + 1);
    expect(&program, &with_tail(&other_port), Counter::Passed);
    // one octet more or less is not the card's stamp
    for octets in (1..16).filter(|octets| *octets != 8) {
        let mut strange = base.bytes();
        strange.extend(vec![1; octets]);
        expect(&program, &strange, Counter::Passed);
    }
    expect(&program, &with_tail(&Frame { payload: request(43), ..base }), Counter::Short);
    // for want of a socket on the queue
    let program = tail_reader(HandOver::All);
    let outcome = program.test_run(&with_tail(&Frame::v6(request(44)))).expect("runs");
    assert_eq!((outcome.action, outcome.frame), (Action::Pass, with_tail(&Frame::v6(request(44)))));
}

#[test]
fn a_cards_stamp_behind_the_frame_goes_into_the_record_of_the_socket() {
    if !root_or_skip("a_cards_stamp_behind_the_frame_goes_into_the_record_of_the_socket") {
        return;
    }
    hand_over::with_socket(|socket| {
        let mut program = tail_reader(HandOver::All);
        program.add(&socket).expect("adds");
        for frame in
            [Frame::v4(request(44)), Frame::v6(request(100)), Frame { vlans: vec![7], ..Frame::v4(request(45)) }]
        {
            let outcome = program.test_run(&with_tail(&frame)).expect("runs");
            assert_eq!((outcome.action, outcome.frame), (Action::Redirect, frame.bytes()));
            let record = outcome.metadata;
            assert_eq!(record[..8], TAIL_CYCLES.to_ne_bytes());
            assert_eq!(record[18..20], 1_i16.to_ne_bytes(), "XSK_NIC_TAIL");
            let bare = program.test_run(&frame.bytes()).expect("runs");
            assert_eq!((bare.action, bare.frame), (Action::Redirect, frame.bytes()));
            assert_eq!(bare.metadata[..8], [0; 8]);
        }
    });
}

#[test]
fn what_looks_like_ptp_is_never_consumed_where_its_stamp_would_stay_in_the_card() {
    if !root_or_skip("what_looks_like_ptp_is_never_consumed_where_its_stamp_would_stay_in_the_card") {
        return;
    }
    const EVENT: u16 = 319;
    let quirks = XdpQuirks { leave_ptp: true, ..XdpQuirks::default() };
    for hand_over in [HandOver::Nothing, HandOver::Longer, HandOver::All] {
        let at_319 = |quirks| {
            let config = XdpReflectorConfig { port: EVENT, hand_over, quirks, ..config() };
            ReflectorProgram::load(&config).expect("loads")
        };
        let (leaves, takes) = (at_319(quirks), at_319(XdpQuirks::default()));
        for base in [Frame::v4(request(44)), Frame::v6(request(44))] {
            // a sequence number in 0x00020000..=0x0002ffff reads as a Sync of PTPv2
            let mut payload = base.payload.clone();
            payload[..4].copy_from_slice(&[0, 2, 0x12, 0x34]);
            let mut sync = Frame { payload, ..base };
            sync.destination.set_port(EVENT);
            for vlans in [vec![], vec![7], vec![100, 7]] {
                let sync = Frame { vlans, ..sync.clone() }.bytes();
                expect(&leaves, &sync, Counter::Passed);
                if hand_over != HandOver::All {
                    assert_eq!(takes.test_run(&sync).expect("runs").action, Action::Tx, "or the test shows nothing");
                }
            }
            // an own port number of the peer would be dropped elsewhere, and so the stamp lost
            let mut from_319 = sync.clone();
            from_319.source.set_port(EVENT);
            expect(&leaves, &from_319.bytes(), Counter::Passed);
            assert_eq!(takes.test_run(&from_319.bytes()).expect("runs").action, Action::Drop);
        }
        let mut ethernet = Frame::v4(request(44)).bytes();
        ethernet[12..14].copy_from_slice(&[0x88, 0xf7]);
        expect(&leaves, &ethernet, Counter::Passed);
        expect(&takes, &ethernet, Counter::Passed);
    }
}
