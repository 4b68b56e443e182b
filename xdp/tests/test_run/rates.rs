//! How many replies there may be: the same vectors as through the rules of the reflector over sockets.

use std::num::NonZeroU32;

use pathlab_xdp::{Limits, RateLimit};

use super::*;

fn limit(text: &str) -> Option<RateLimit> {
    let number = |text: &str| text.parse::<NonZeroU32>().expect("a number above 0");
    let (per_second, burst) = text.split_once('/').expect("a rate and a burst");
    (text != "-/-").then(|| RateLimit { per_second: number(per_second), burst: number(burst) })
}

/// `2 x 192.0.2.1 ::1`: the first twice.
fn expand(sources: &str) -> Vec<IpAddr> {
    let mut words = sources.split_whitespace().peekable();
    let mut all = Vec::new();
    while let Some(word) = words.next() {
        let count = if words.next_if_eq(&"x").is_some() { word.parse().expect("a count") } else { 1 };
        let source = if count > 1 { words.next().expect("a source") } else { word };
        all.extend(std::iter::repeat_n(source.parse::<IpAddr>().expect("an address"), count));
    }
    all
}

fn request_of(source: IpAddr, length: usize) -> Vec<u8> {
    let ours = if source.is_ipv4() { OUR_V4 } else { OUR_V6 };
    Frame::between(source, ours, request(length)).bytes()
}

#[test]
fn shared_vectors_are_admitted_as_they_say() {
    if !root_or_skip("shared_vectors_are_admitted_as_they_say") {
        return;
    }
    let mut conversations = 0;
    for line in include_str!("../vectors/rate-limits.txt").lines() {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, limits, steps @ ..] = &fields[..] else { continue };
        if name.starts_with('#') {
            continue;
        }
        let limits: Vec<_> = limits.split_whitespace().map(limit).collect();
        let [source, prefix, total] = limits[..] else { panic!("not three limits: {line}") };
        let config = XdpReflectorConfig { limits: Limits { source, prefix, total }, ..config() };
        let mut program = ReflectorProgram::load_with_fixed_rate_clock(&config).expect("loads");
        for step in steps {
            let (time, step) = step.split_once(':').expect("a time");
            let (sources, verdicts) = step.split_once('=').expect("verdicts");
            program.set_rate_clock(time.parse::<i64>().expect("milliseconds") * 1_000_000).expect("sets");
            let (sources, verdicts) = (expand(sources), verdicts.trim());
            assert_eq!(sources.len(), verdicts.len(), "{name} at {time}");
            for (source, verdict) in sources.into_iter().zip(verdicts.chars()) {
                let counter = match verdict {
                    '+' => Counter::Replied,
                    's' => Counter::RateLimited,
                    'n' => Counter::PrefixRateLimited,
                    'a' => Counter::TotalRateLimited,
                    other => panic!("{other}"),
                };
                expect(&program, &request_of(source, 44), counter);
            }
        }
        assert!(sums_up(&program.counters().expect("counters")));
        conversations += 1;
    }
    assert!(conversations >= 8, "{conversations}");
}

#[test]
fn what_is_handed_over_and_what_is_answered_share_one_limit() {
    if !root_or_skip("what_is_handed_over_and_what_is_answered_share_one_limit") {
        return;
    }
    let limits = Limits { source: limit("1/2"), ..Limits::default() };
    let config = XdpReflectorConfig { limits, hand_over: HandOver::Longer, ..config() };
    let program = ReflectorProgram::load_with_fixed_rate_clock(&config).expect("loads");
    expect(&program, &request_of(THEIR_V4, 44), Counter::Replied);
    let handed = program.test_run(&request_of(THEIR_V4, 100)).expect("runs");
    assert_eq!(handed.action, Action::Pass, "for want of a socket");
    expect(&program, &request_of(THEIR_V4, 100), Counter::RateLimited);
    expect(&program, &request_of(THEIR_V4, 44), Counter::RateLimited);
    expect(&program, &request_of(THEIR_V4, 43), Counter::Short);
}

#[test]
fn limits_are_left_to_whom_all_is_handed_over() {
    if !root_or_skip("limits_are_left_to_whom_all_is_handed_over") {
        return;
    }
    let config = XdpReflectorConfig {
        limits: Limits { total: limit("1/1"), ..Limits::default() },
        hand_over: HandOver::All,
        ..config()
    };
    let program = ReflectorProgram::load_with_fixed_rate_clock(&config).expect("loads");
    for _ in 0..3 {
        assert_eq!(program.test_run(&request_of(THEIR_V4, 44)).expect("runs").action, Action::Pass);
    }
    assert_eq!(program.counters().expect("counters")[Counter::HandedToStack], 3);
}

/// No more and no less than a bucket holds, however many ask at once.
#[test]
fn processors_that_share_a_bucket_share_its_rate() {
    if !root_or_skip("processors_that_share_a_bucket_share_its_rate") {
        return;
    }
    let limits = Limits { total: limit("1/500"), ..Limits::default() };
    let config = XdpReflectorConfig { limits, ..config() };
    let program = ReflectorProgram::load_with_fixed_rate_clock(&config).expect("loads");
    std::thread::scope(|scope| {
        for host in 1..=4_u8 {
            let (program, frame) = (&program, request_of([198, 51, 100, host].into(), 44));
            scope.spawn(move || (0..1000).for_each(|_| drop(program.test_run(&frame).expect("runs"))));
        }
    });
    let counters = program.counters().expect("counters");
    assert_eq!((counters[Counter::Replied], counters[Counter::TotalRateLimited]), (500, 3500), "{counters}");
}
