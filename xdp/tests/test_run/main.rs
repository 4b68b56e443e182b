//! The reflector's program in the kernel, a frame in and a verdict and a frame out: no interface, no traffic.

#[path = "../frame/mod.rs"]
mod frame;
mod hand_over;
#[path = "../namespace/mod.rs"]
mod namespace;
mod quirks;

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use frame::*;
use namespace::{Veth, inside, ip};
use pathlab_guard::privilege::root_or_skip;
use pathlab_xdp::{
    Action, Counter, Counters, HandOver, ReflectorProgram, TestRunOutcome, XdpQuirks, XdpReflectorConfig,
    tai_minus_utc,
    xsk::{CopyMode, XskOptions, XskSocket},
};
use proptest::prelude::*;

const T2: u64 = 0xecb5_f3a1_8000_0000;
const T3: u64 = 0xecb5_f3a1_8000_2710;
const OUR_BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);

fn config() -> XdpReflectorConfig {
    XdpReflectorConfig { local: vec![OUR_V4, OUR_V6], ..XdpReflectorConfig::new(PORT) }
}

fn reflector() -> ReflectorProgram {
    let mut program = ReflectorProgram::load_with_fixed_clock(&config(), T2, T3).expect("loads");
    program.set_addresses(&config().local, &[OUR_BROADCAST]).expect("addresses");
    program
}

/// A request with a sequence number, a time, an Error Estimate and padding that can be told apart.
fn request(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8 ^ 0x5a).collect()
}

/// RFC 8762, section 4.3.1, written down a second time.
fn reply(request: &[u8], t2: u64, t3: u64, ttl: u8, error_estimate: u16) -> Vec<u8> {
    let mut reply = request[0..4].to_vec();
    reply.extend(t3.to_be_bytes());
    reply.extend(error_estimate.to_be_bytes());
    reply.extend(&request[14..16]);
    reply.extend(t2.to_be_bytes());
    reply.extend(&request[0..14]);
    reply.extend([0, 0, ttl, 0, 0, 0]);
    reply.extend(&request[44..]);
    reply
}

/// Runs one frame, expects `counter` (and `received` unless passed) to go up by one and all others to stay.
fn expect(program: &ReflectorProgram, frame: &[u8], counter: Counter) -> Vec<u8> {
    let before = program.counters().expect("counters");
    let outcome = program.test_run(frame).expect("runs");
    let after = program.counters().expect("counters");
    let mut expected = before;
    expected[counter] += 1;
    if counter != Counter::Passed {
        expected[Counter::Received] += 1;
    }
    assert_eq!(after, expected, "{after} after {before}, not one {} more", counter.name());
    let action = match counter {
        Counter::Passed => Action::Pass,
        Counter::Replied => Action::Tx,
        _ => Action::Drop,
    };
    assert_eq!(outcome.action, action);
    if action == Action::Pass {
        assert_eq!(outcome.frame, frame, "a passed frame must stay as it was");
    }
    assert_eq!(outcome.frame.len(), frame.len());
    outcome.frame
}

fn expect_reply(program: &ReflectorProgram, request: &Frame) {
    let answer = Frame::read(&expect(program, &request.bytes(), Counter::Replied));
    let payload = reply(&request.payload, T2, T3, request.ttl, XdpReflectorConfig::UNSYNCHRONISED);
    assert_eq!(answer, request.answered(payload));
}

fn sums_up(counters: &Counters) -> bool {
    counters[Counter::Received] == counters[Counter::Replied] + counters.refused()
}

#[test]
fn requests_are_turned_round_in_both_families_and_every_tagging() {
    if !root_or_skip("requests_are_turned_round_in_both_families_and_every_tagging") {
        return;
    }
    let program = reflector();
    for length in [44, 45, 46, 47, 72, 1400] {
        for vlans in [vec![], vec![7], vec![100, 7]] {
            expect_reply(&program, &Frame { vlans: vlans.clone(), ..Frame::v4(request(length)) });
            expect_reply(&program, &Frame { vlans, ..Frame::v6(request(length)) });
        }
    }
}

#[test]
fn shared_vectors_give_the_bytes_of_the_socket_reflector() {
    if !root_or_skip("shared_vectors_give_the_bytes_of_the_socket_reflector") {
        return;
    }
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    };
    let number = |text: &str| u64::from_str_radix(text, 16).expect("hex");
    let mut vectors = 0;
    for line in
        include_str!("../vectors/stamp-reflect.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, request, t2, t3, ttl, error_estimate, expected] = fields[..] else { panic!("not a vector: {line}") };
        let config = XdpReflectorConfig { error_estimate: number(error_estimate) as u16, ..config() };
        let program = ReflectorProgram::load_with_fixed_clock(&config, number(t2), number(t3)).expect("loads");
        for frame in [Frame::v4(hex(request)), Frame::v6(hex(request))] {
            let frame = Frame { ttl: ttl.parse().expect("a TTL"), ..frame };
            if let Some(reason) =
                Counter::ALL.into_iter().find(|counter| counter.is_reason() && counter.name() == expected)
            {
                expect(&program, &frame.bytes(), reason);
            } else {
                let answer = Frame::read(&expect(&program, &frame.bytes(), Counter::Replied));
                assert_eq!(answer, frame.answered(hex(expected)), "{name}");
            }
        }
        vectors += 1;
    }
    assert!(vectors >= 20, "{vectors} vectors");
}

#[test]
fn short_datagrams_are_dropped_at_every_length() {
    if !root_or_skip("short_datagrams_are_dropped_at_every_length") {
        return;
    }
    let program = reflector();
    for length in 0..44 {
        for frame in [Frame::v4(request(length)), Frame::v6(request(length))] {
            expect(&program, &frame.bytes(), Counter::Short);
            let mut padded = frame.bytes();
            padded.resize(padded.len().max(60), 0);
            expect(&program, &padded, Counter::Short);
        }
    }
}

#[test]
fn frames_cut_at_any_length_pass() {
    if !root_or_skip("frames_cut_at_any_length_pass") {
        return;
    }
    let program = reflector();
    for frame in [Frame::v4(request(44)), Frame::v6(request(44))] {
        for vlans in [vec![], vec![7], vec![100, 7]] {
            let bytes = Frame { vlans, ..frame.clone() }.bytes();
            // the kernel runs nothing shorter than an Ethernet header
            for length in 14..bytes.len() {
                expect(&program, &bytes[..length], Counter::Passed);
            }
        }
    }
}

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
fn what_is_not_ours_passes() {
    if !root_or_skip("what_is_not_ours_passes") {
        return;
    }
    let program = reflector();
    let pass = |bytes: &[u8]| drop(expect(&program, bytes, Counter::Passed));

    for frame in [Frame::v4(request(44)), Frame::v6(request(44))] {
        let mut other = frame.clone();
        other.destination.set_port(PORT + 1);
        pass(&other.bytes());
        // broadcast and multicast frames, even with our address inside
        for mac in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            pass(&Frame { mac: [THEIR_MAC, mac], ..frame.clone() }.bytes());
        }
        // three tags
        let mut tagged = Frame { vlans: vec![100, 7], ..frame.clone() }.bytes();
        tagged.splice(12..12, [0x88, 0xa8, 0, 5]);
        pass(&tagged);
        // octets after the datagram, which a reply would carry back
        let mut trailer = frame.bytes();
        trailer.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        pass(&trailer);
    }
    // addresses that are not ours: routed through this host, broadcast, multicast
    for address in ["192.0.2.2", "192.0.2.255", "255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1"] {
        pass(&Frame::between(THEIR_V4, address.parse().expect("an address"), request(44)).bytes());
    }
    for address in ["2001:db8::2", "ff02::1", "::", "::1", "::ffff:192.0.2.2"] {
        pass(&Frame::between(THEIR_V6, address.parse().expect("an address"), request(44)).bytes());
    }
}

#[test]
fn what_the_parser_leaves_to_the_stack_passes() {
    if !root_or_skip("what_the_parser_leaves_to_the_stack_passes") {
        return;
    }
    let program = reflector();
    // (offset from the IP header, octet, what it makes of the packet)
    let v4 = [
        (0, 0x46, "options"),
        (0, 0x44, "header length under 20"),
        (0, 0x65, "version 6 in an IPv4 frame"),
        (2, 0xff, "total length beyond the frame"),
        (3, 19, "total length within the header"),
        (6, 0x20, "first fragment"),
        (7, 0x01, "later fragment"),
        (9, 6, "TCP"),
        (20 + 5, 7, "UDP length under 8"),
        (20 + 5, 51, "UDP length under that of IP"),
        (20 + 5, 53, "UDP length over that of IP"),
    ];
    let v6 = [
        (0, 0x40, "version 4 in an IPv6 frame"),
        (4, 0xff, "payload length beyond the frame"),
        (5, 0, "payload length zero"),
        (6, 0, "hop-by-hop options"),
        (6, 44, "fragment"),
        (6, 58, "ICMPv6"),
        (40 + 5, 7, "UDP length under 8"),
        (40 + 5, 51, "UDP length under that of IP"),
    ];
    for (frame, changes) in [(Frame::v4(request(44)), &v4[..]), (Frame::v6(request(44)), &v6[..])] {
        for (offset, octet, what) in changes {
            let mut bytes = frame.bytes();
            bytes[frame.ip_offset() + offset] = *octet;
            let outcome = program.test_run(&bytes).expect("runs");
            assert_eq!((outcome.action, outcome.frame), (Action::Pass, bytes), "{what}");
        }
    }
    let mut arp = Frame::v4(request(44)).bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    expect(&program, &arp, Counter::Passed);
}

/// `headers` put between the IP header and the UDP header of a packet that is otherwise right.
fn with_headers(frame: &Frame, headers: &[u8], next_header: u8) -> Vec<u8> {
    let (mut bytes, ip, udp) = (frame.bytes(), frame.ip_offset(), frame.udp_offset());
    bytes.splice(udp..udp, headers.iter().copied());
    let length_at = if frame.source.is_ipv4() { ip + 2 } else { ip + 4 };
    let length = u16::from_be_bytes([bytes[length_at], bytes[length_at + 1]]) + headers.len() as u16;
    bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    if frame.source.is_ipv4() {
        bytes[ip] += (headers.len() / 4) as u8;
        bytes[ip + 10..ip + 12].fill(0);
        let words = bytes[ip..udp + headers.len()].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        bytes[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[ip + 6] = next_header;
    }
    bytes
}

/// Packets that are right in every octet and yet are the stack's: a reply would have to know what the options and headers want.
#[test]
fn options_and_extension_headers_pass_in_every_tagging_whoever_gets_the_rest() {
    if !root_or_skip("options_and_extension_headers_pass_in_every_tagging_whoever_gets_the_rest") {
        return;
    }
    let (router_alert, timestamps) = ([0x94, 4, 0, 0], [0x44, 8, 5, 0, 0, 0, 0, 0]);
    let (padding, routing) = ([17, 0, 1, 4, 0, 0, 0, 0], [17, 0, 4, 0, 0, 0, 0, 0]);
    let fragment = [17, 0, 0, 0, 0, 0, 0, 1];
    for hand_over in [HandOver::Nothing, HandOver::Longer, HandOver::All] {
        let config = XdpReflectorConfig { hand_over, ..config() };
        let program = ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads");
        for vlans in [vec![], vec![7], vec![100, 7]] {
            for length in [44, 200] {
                let v4 = Frame { vlans: vlans.clone(), ..Frame::v4(request(length)) };
                for options in [&[1, 1, 1, 0][..], &router_alert, &timestamps, &[1; 40]] {
                    let bytes = with_headers(&v4, options, 0);
                    let ip = etherparse::Ipv4HeaderSlice::from_slice(&bytes[v4.ip_offset()..]).expect("a header");
                    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum(), "a right packet");
                    expect(&program, &bytes, Counter::Passed);
                }
                let v6 = Frame { vlans: vlans.clone(), ..Frame::v6(request(length)) };
                for (kind, header) in [(0, padding), (60, padding), (43, routing), (44, fragment)] {
                    expect(&program, &with_headers(&v6, &header, kind), Counter::Passed);
                }
            }
        }
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
fn dont_fragment_is_no_fragment() {
    if !root_or_skip("dont_fragment_is_no_fragment") {
        return;
    }
    let program = reflector();
    let frame = Frame::v4(request(44));
    let mut bytes = frame.bytes();
    // etherparse sets it; without it the header checksum is that much higher
    assert_eq!(bytes[frame.ip_offset() + 6], 0x40);
    expect_reply(&program, &frame);
    bytes[frame.ip_offset() + 6] = 0;
    let check = u16::from_be_bytes([bytes[24], bytes[25]]);
    let (check, carry) = check.overflowing_add(0x4000);
    bytes[24..26].copy_from_slice(&(check + u16::from(carry)).to_be_bytes());
    Frame::read(&expect(&program, &bytes, Counter::Replied));
}

#[test]
fn zero_udp_checksum_stays_zero_over_ipv4_and_passes_over_ipv6() {
    if !root_or_skip("zero_udp_checksum_stays_zero_over_ipv4_and_passes_over_ipv6") {
        return;
    }
    let program = reflector();
    let without = |frame: &Frame| {
        let mut bytes = frame.bytes();
        let at = frame.udp_offset() + 6;
        bytes[at..at + 2].fill(0);
        bytes
    };
    let frame = Frame::v4(request(44));
    let answer = expect(&program, &without(&frame), Counter::Replied);
    assert_eq!(answer[frame.udp_offset() + 6..][..2], [0, 0]);
    expect(&program, &without(&Frame::v6(request(44))), Counter::Passed);
}

/// A sum that comes out as zero must be sent as 0xffff, or it would say "no checksum".
#[test]
fn a_computed_checksum_is_never_zero() {
    if !root_or_skip("a_computed_checksum_is_never_zero") {
        return;
    }
    let program = reflector();
    for frame in [Frame::v4(request(46)), Frame::v6(request(46))] {
        // Octets 44 and 45 are reflected as they are: choose them so that the reply's sum becomes zero.
        let mut balanced = frame.clone();
        balanced.payload[44..46].fill(0);
        let answer = expect(&program, &balanced.bytes(), Counter::Replied);
        let at = frame.udp_offset() + 6;
        let sum = [answer[at], answer[at + 1]];
        balanced.payload[44..46].copy_from_slice(&sum);
        let answer = expect(&program, &balanced.bytes(), Counter::Replied);
        assert_eq!(answer[at..at + 2], [0xff, 0xff]);
        Frame::read(&answer);
    }
}

#[test]
fn a_damaged_request_gives_a_reply_that_its_sender_discards() {
    if !root_or_skip("a_damaged_request_gives_a_reply_that_its_sender_discards") {
        return;
    }
    let program = reflector();
    let mut bytes = Frame::v4(request(44)).bytes();
    *bytes.last_mut().expect("not empty") ^= 0x10;
    let answer = expect(&program, &bytes, Counter::Replied);
    assert!(std::panic::catch_unwind(|| Frame::read(&answer)).is_err(), "the damage has been covered up");
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
fn stamps_lie_between_two_readings_of_the_system_clock() {
    if !root_or_skip("stamps_lie_between_two_readings_of_the_system_clock") {
        return;
    }
    /// NTP's 2^-32 s, rounded up, as time since 1970.
    fn since_1970(ntp: &[u8]) -> Duration {
        let (seconds, fraction) = ntp.split_at(4);
        let word = |bytes: &[u8]| u64::from(u32::from_be_bytes(bytes.try_into().expect("four octets")));
        let fraction = (word(fraction) * 1_000_000_000).div_ceil(1 << 32);
        Duration::new(word(seconds) - 2_208_988_800, 0) + Duration::from_nanos(fraction)
    }
    let program = ReflectorProgram::load(&config()).expect("loads");
    for _ in 0..100 {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let outcome = program.test_run(&Frame::v6(request(44)).bytes()).expect("runs");
        let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let payload = Frame::read(&outcome.frame).payload;
        let (t3, t2) = (since_1970(&payload[4..12]), since_1970(&payload[16..24]));
        assert!(before <= t2 && t2 <= t3 && t3 <= after, "{before:?} <= {t2:?} <= {t3:?} <= {after:?}");
    }
    assert!(tai_minus_utc().is_ok());
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
