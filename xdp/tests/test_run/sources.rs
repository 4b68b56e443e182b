//! Who is answered, and for which of our addresses.

use super::*;

#[test]
fn sources_that_must_not_be_answered_are_dropped_by_name() {
    if !root_or_skip("sources_that_must_not_be_answered_are_dropped_by_name") {
        return;
    }
    let program = reflector();
    let from = |address: &str| {
        let source: IpAddr = address.parse().expect("an address");
        Frame::between(source, if source.is_ipv4() { OUR_V4 } else { OUR_V6 }, request(44))
    };
    for (address, counter) in [
        ("192.0.2.1", Counter::SourceOurs),
        ("2001:db8::1", Counter::SourceOurs),
        ("255.255.255.255", Counter::SourceBroadcast),
        ("192.0.2.255", Counter::SourceBroadcast),
        ("224.0.0.1", Counter::SourceMulticast),
        ("239.255.255.255", Counter::SourceMulticast),
        ("ff02::1", Counter::SourceMulticast),
        ("0.0.0.0", Counter::SourceUnspecified),
        ("0.1.2.3", Counter::SourceUnspecified),
        ("::", Counter::SourceUnspecified),
        ("127.0.0.1", Counter::SourceLoopback),
        ("127.255.255.254", Counter::SourceLoopback),
        ("::1", Counter::SourceLoopback),
    ] {
        expect(&program, &from(address).bytes(), counter);
    }
    // and their neighbours, which are hosts like any other
    for address in
        ["1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "240.0.0.1", "::2", "::1:0", "fe80::1"]
    {
        expect_reply(&program, &from(address));
    }

    for (port, counter) in [(PORT, Counter::SourcePortOurs), (0, Counter::SourcePortZero)] {
        for mut frame in [Frame::v4(request(44)), Frame::v6(request(44))] {
            frame.source.set_port(port);
            expect(&program, &frame.bytes(), counter);
        }
    }
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let frame = Frame { mac: [mac, OUR_MAC], ..Frame::v4(request(44)) };
        expect(&program, &frame.bytes(), Counter::SourceMacGroup);
    }
}

#[test]
fn with_an_allowlist_only_its_prefixes_are_answered_or_handed_over() {
    if !root_or_skip("with_an_allowlist_only_its_prefixes_are_answered_or_handed_over") {
        return;
    }
    let list = |prefixes: &[&str]| prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
    let allow = list(&["198.51.100.0/25", "203.0.113.9", "2001:db8:1::/48"]);
    let sources = [
        ("198.51.100.7", true),
        ("198.51.100.127", true),
        ("198.51.100.128", false),
        ("203.0.113.9", true),
        ("203.0.113.8", false),
        ("2001:db8:1::7", true),
        ("2001:db8:1:ffff::1", true),
        ("2001:db8:2::7", false),
        // the mapped form of an allowed IPv4 address is another address when it comes in an IPv6 header, and never rightly there
        ("::ffff:198.51.101.7", false),
    ];
    let frame = |address: &str, length| {
        let source: IpAddr = address.parse().expect("an address");
        Frame::between(source, if source.is_ipv4() { OUR_V4 } else { OUR_V6 }, request(length))
    };
    let config = XdpReflectorConfig { allow, ..config() };
    let program = ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads");
    for (address, answered) in sources {
        if answered {
            expect_reply(&program, &frame(address, 44));
        } else {
            expect(&program, &frame(address, 44).bytes(), Counter::NotAllowed);
        }
        expect(&program, &frame(address, 43).bytes(), Counter::Short);
    }
    for hand_over in [HandOver::Longer, HandOver::All] {
        let config = XdpReflectorConfig { hand_over, ..config.clone() };
        let program = ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads");
        for (address, answered) in sources {
            let before = program.counters().expect("counters");
            let outcome = program.test_run(&frame(address, 200).bytes()).expect("runs");
            let after = program.counters().expect("counters");
            let counter = if answered { Counter::HandedToStack } else { Counter::NotAllowed };
            assert_eq!(outcome.action, if answered { Action::Pass } else { Action::Drop }, "{address}");
            assert_eq!(after[counter] - before[counter], 1, "{address}, {hand_over:?}");
        }
    }
    // a list of everybody is a list
    let everybody = XdpReflectorConfig { allow: list(&["0.0.0.0/0"]), ..config };
    let program = ReflectorProgram::load_with_fixed_clock(&everybody, T2, T3).expect("loads");
    expect_reply(&program, &frame("9.9.9.9", 44));
    expect(&program, &frame("2001:db8:1::7", 44).bytes(), Counter::NotAllowed);
}

#[test]
fn addresses_and_clock_can_change_while_it_runs() {
    if !root_or_skip("addresses_and_clock_can_change_while_it_runs") {
        return;
    }
    let mut program = reflector();
    let frame = Frame::v4(request(44));
    program.set_addresses(&[OUR_V6], &[]).expect("addresses");
    expect(&program, &frame.bytes(), Counter::Passed);
    program.set_addresses(&[OUR_V6, OUR_V4], &[]).expect("addresses");
    program.update_clock(0x8a17).expect("clock");
    let answer = Frame::read(&expect(&program, &frame.bytes(), Counter::Replied));
    assert_eq!(answer.payload, reply(&frame.payload, T2, T3, 64, 0x8a17));

    let many: Vec<IpAddr> = (0..=256_u32).map(|host| Ipv4Addr::from(0x0a00_0001 + host).into()).collect();
    let error = program.set_addresses(&many, &[]).expect_err("too many").to_string();
    assert_eq!(error, "257 addresses to answer for, and the XDP reflector takes 256; name fewer");
    expect(&program, &frame.bytes(), Counter::Replied);
}

#[test]
fn addresses_whose_hashes_meet_are_told_apart() {
    if !root_or_skip("addresses_whose_hashes_meet_are_told_apart") {
        return;
    }
    let mut program = reflector();
    // 256 addresses in 256 places: many share one
    let host = |number: u32| -> IpAddr { Ipv4Addr::from(0x0a00_0001 + number).into() };
    let ours: Vec<IpAddr> = (0..256).map(host).collect();
    program.set_addresses(&ours, &[]).expect("addresses");
    for number in 0..512 {
        let counter = if number < 256 { Counter::Replied } else { Counter::Passed };
        expect(&program, &Frame::between(THEIR_V4, host(number), request(44)).bytes(), counter);
        let counter = if number < 256 { Counter::SourceOurs } else { Counter::Replied };
        expect(&program, &Frame::between(host(number), host(0), request(44)).bytes(), counter);
    }
    program.set_addresses(&ours[..1], &[]).expect("addresses");
    for number in 1..256 {
        expect(&program, &Frame::between(THEIR_V4, host(number), request(44)).bytes(), Counter::Passed);
    }
    expect(&program, &Frame::between(THEIR_V4, host(0), request(44)).bytes(), Counter::Replied);
}
