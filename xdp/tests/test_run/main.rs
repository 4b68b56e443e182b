//! The reflector's program in the kernel, a frame in and a verdict and a frame out: no interface, no traffic.

mod any;
#[path = "../frame/mod.rs"]
mod frame;
mod hand_over;
mod left_alone;
#[path = "../namespace/mod.rs"]
mod namespace;
mod quirks;
mod rates;
mod replies;
mod sources;

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
