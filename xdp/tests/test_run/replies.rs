//! What a reply is made of: octets, checksums, stamps.

use super::*;

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
