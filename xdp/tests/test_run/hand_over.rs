//! What the driver does not answer itself: to the AF_XDP socket of its queue, or to the stack, untouched.

use super::*;

/// A socket on queue 0 of the loopback interface of a namespace of its own: where a test run takes place.
pub(super) fn with_socket(test: impl FnOnce(XskSocket) + Send) {
    let veth = Veth::new();
    ip(&format!("-n {} link set lo up", veth.reflector));
    inside(&veth.reflector, || {
        let options = XskOptions { copy: CopyMode::Copy, ..XskOptions::default() };
        test(XskSocket::bind("lo", 0, &options).expect("binds"));
    });
}

/// Every kind of frame with what becomes of it when longer requests are handed over, and when all are.
fn hand_over_cases() -> Vec<(&'static str, Vec<u8>, Counter, Counter)> {
    use Counter::{HandedToXsk, Passed, Replied, Short, SourceLoopback, SourcePortOurs};
    let mut cases = Vec::new();
    for base in [Frame::v4(request(44)), Frame::v6(request(44))] {
        let longer = Frame { payload: request(45), ..base.clone() };
        for vlans in [vec![], vec![7], vec![100, 7]] {
            let tagged = |frame: &Frame| Frame { vlans: vlans.clone(), ..frame.clone() }.bytes();
            cases.push(("base packet", tagged(&base), Replied, HandedToXsk));
            cases.push(("longer packet", tagged(&longer), HandedToXsk, HandedToXsk));
        }
        let mut three_tags = Frame { vlans: vec![100, 7], ..longer.clone() }.bytes();
        three_tags.splice(12..12, [0x88, 0xa8, 0, 5]);
        cases.push(("three tags", three_tags, Passed, Passed));
        let mut trailer = base.bytes();
        trailer.extend([1; 8]);
        cases.push(("a card's stamp after the datagram", trailer, HandedToXsk, HandedToXsk));
        let short = Frame { payload: request(43), ..base.clone() };
        cases.push(("short", short.bytes(), Short, Short));
        let mut from_reflector = longer.clone();
        from_reflector.source.set_port(PORT);
        cases.push(("from a reflector", from_reflector.bytes(), SourcePortOurs, SourcePortOurs));
        let mut other_port = longer.clone();
        other_port.destination.set_port(PORT + 1);
        cases.push(("to another port", other_port.bytes(), Passed, Passed));
        let mut unsummed = longer.bytes();
        unsummed[longer.udp_offset() + 6..][..2].fill(0);
        let handed = if longer.source.is_ipv4() { HandedToXsk } else { Passed };
        cases.push(("no UDP checksum", unsummed, handed, handed));
        let (at, octet) = if longer.source.is_ipv4() { (0, 0x46) } else { (6, 0) };
        let mut options = longer.bytes();
        options[longer.ip_offset() + at] = octet;
        cases.push(("IPv4 options, IPv6 extension headers", options, Passed, Passed));
    }
    let loopback = Frame::between([127, 0, 0, 1].into(), OUR_V4, request(100));
    cases.push(("from loopback", loopback.bytes(), SourceLoopback, SourceLoopback));
    cases
}

#[test]
fn where_all_must_be_authenticated_what_has_no_room_for_an_hmac_takes_no_place_in_a_ring() {
    if !root_or_skip("where_all_must_be_authenticated_what_has_no_room_for_an_hmac_takes_no_place_in_a_ring") {
        return;
    }
    let config = XdpReflectorConfig { authenticated: true, hand_over: HandOver::All, ..config() };
    let program = ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads");
    let cases = [(43, Counter::Short), (44, Counter::Unauthenticated), (111, Counter::Unauthenticated)];
    for (length, reason) in cases {
        expect(&program, &Frame::v4(request(length)).bytes(), reason);
        expect(&program, &Frame::v6(request(length)).bytes(), reason);
    }
    for frame in [Frame::v4(request(112)), Frame::v6(request(200))] {
        assert_eq!(program.test_run(&frame.bytes()).expect("runs").action, Action::Pass);
    }
    let counters = program.counters().expect("counters");
    assert_eq!(counters[Counter::HandedToStack], 2, "no socket on this queue");
    assert!(sums_up(&counters));
}

#[test]
fn what_is_handed_over_goes_untouched_to_the_socket_of_its_queue_or_to_the_stack() {
    if !root_or_skip("what_is_handed_over_goes_untouched_to_the_socket_of_its_queue_or_to_the_stack") {
        return;
    }
    with_socket(|socket| {
        for (hand_over, with_socket) in
            [(HandOver::Longer, false), (HandOver::Longer, true), (HandOver::All, false), (HandOver::All, true)]
        {
            let config = XdpReflectorConfig { hand_over, ..config() };
            let mut program = ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads");
            if with_socket {
                program.add(&socket).expect("adds");
            }
            for (what, bytes, longer, all) in hand_over_cases() {
                let wanted = if hand_over == HandOver::Longer { longer } else { all };
                let before = program.counters().expect("counters");
                let outcome = program.test_run(&bytes).expect("runs");
                let after = program.counters().expect("counters");
                let (counter, action) = match wanted {
                    Counter::HandedToXsk if with_socket => (Counter::HandedToXsk, Action::Redirect),
                    Counter::HandedToXsk => (Counter::HandedToStack, Action::Pass),
                    Counter::Passed => (Counter::Passed, Action::Pass),
                    Counter::Replied => (Counter::Replied, Action::Tx),
                    reason => (reason, Action::Drop),
                };
                assert_eq!((outcome.action, after[counter] - before[counter]), (action, 1), "{what}, {hand_over:?}");
                assert_eq!(outcome.metadata.len(), if action == Action::Redirect { 24 } else { 0 }, "{what}");
                assert!(action == Action::Tx || outcome.frame == bytes, "{what} has been changed");
                let handed = [Counter::HandedToXsk, Counter::HandedToStack, Counter::Passed];
                let received = u64::from(!handed.contains(&counter));
                assert_eq!(after[Counter::Received] - before[Counter::Received], received, "{what}");
            }
            assert!(sums_up(&program.counters().expect("counters")));
        }
    });
}
