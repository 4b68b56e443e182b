//! Back to control in milliseconds and the host as it was, however the steerer ends.

use std::time::{Duration, Instant};

use pathlab_canary::{
    Mode,
    steer::{Error, Halt, ramp, rollback, status},
};
use pathlab_guard::{Leftover, in_netns, privilege::root_or_skip};

use crate::{
    LEASE_MS, experiment,
    network::{Network, session},
    options,
    patience::patience,
    process::{Steerer, Stream, within},
    share, start, without_proof,
};

const LEASE: Duration = Duration::from_millis(LEASE_MS);
const RUNS: usize = 20;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    eprintln!("median {:?}, max {:?}, n {}", times[times.len() / 2], times[times.len() - 1], times.len());
    times[times.len() / 2]
}

/// From the event to the first packet over A.
fn back_after(event: Instant, [a, b]: &[std::collections::BTreeMap<u32, Instant>; 2]) -> Duration {
    assert!(b.len() > 10, "the session was never on the canary path");
    let (first, arrived) = a.first_key_value().expect("nothing came back to control");
    assert!(b.keys().all(|number| number < first), "a packet left by the canary path after one by control");
    arrived.saturating_duration_since(event)
}

/// Both modes and both families in turn.
const CASES: usize = 4;

fn case(run: usize) -> (Mode, bool) {
    (if run % CASES < 2 { Mode::Host } else { Mode::Router }, run % 2 == 1)
}

/// Two routes, two rules and the control socket; in host mode two sysctls.
fn objects(mode: Mode) -> usize {
    if mode == Mode::Host { 7 } else { 5 }
}

/// Transits, as a stream numbers them.
const A: usize = 0;
const B: usize = 1;

#[test]
fn a_rollback_by_command_takes_milliseconds_and_loses_nothing() {
    if !root_or_skip("a_rollback_by_command_takes_milliseconds_and_loses_nothing") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::alone());
    let options = options(&dir);
    let before = network.state();
    let (mut calls, mut moves) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (mode, v6) = case(run);
        let mut steerer = Steerer::unhurried(&network, mode, dir.path());
        let stream = Stream::start(&network, mode, v6);
        stream.wait(B, 20);
        let event = Instant::now();
        let done = rollback("test", &options).unwrap();
        calls.push(event.elapsed());
        assert_eq!((done.removed.len(), done.killed), (objects(mode), false));
        assert_eq!(network.state(), before);
        assert!(steerer.child.wait().unwrap().success());
        assert!(!steerer.guardian.is_alive());
        assert_eq!(network.programs(), [0, 0]);
        stream.wait(A, 10);
        moves.push(back_after(event, &stream.finish()));
    }
    assert!(median(calls) < Duration::from_millis(5) * patience());
    assert!(median(moves) < Duration::from_millis(10) * patience());
    assert!(matches!(rollback("test", &options), Err(Error::NotRunning { .. })));
}

#[test]
fn kill_9_moves_traffic_at_once_and_the_guardian_cleans_up_within_a_second() {
    if !root_or_skip("kill_9_moves_traffic_at_once_and_the_guardian_cleans_up_within_a_second") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::alone());
    let before = network.state();
    let (mut moves, mut cleaned) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (mode, v6) = case(run);
        let steerer = Steerer::unhurried(&network, mode, dir.path());
        let stream = Stream::start(&network, mode, v6);
        stream.wait(B, 20);
        assert_eq!(network.programs(), [usize::from(network.has_tcx()); 2]);
        let event = Instant::now();
        steerer.signal("KILL");
        let journal = dir.path().join("undo/canary-test.jsonl");
        cleaned.push(within(Duration::from_secs(1), || !journal.exists() && network.programs() == [0, 0]));
        assert_eq!(network.state(), before);
        assert!(!dir.path().join("run/test.sock").exists());
        stream.wait(A, 10);
        moves.push(back_after(event, &stream.finish()));
    }
    assert!(median(moves) < Duration::from_millis(10) * patience());
    median(cleaned);
}

#[test]
fn a_hang_ends_with_the_lease_and_control_stays_until_a_new_start() {
    if !root_or_skip("a_hang_ends_with_the_lease_and_control_stays_until_a_new_start") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::alone());
    let options = options(&dir);
    let before = network.state();
    for run in 0..CASES {
        let (mode, v6) = case(run);
        let mut steerer = Steerer::start(&network, mode, dir.path());
        let stream = Stream::start(&network, mode, v6);
        // Longer than a lease: it is being renewed.
        stream.wait(B, 2 * LEASE_MS as usize);
        steerer.stop();
        // From when it is in force: a machine that is busy takes its time to send a signal, and a renewal may come first.
        let event = Instant::now();
        let observe = || in_netns(Some(&network.server), || Ok(pathlab_canary::steer::observe())).unwrap();
        within(LEASE + Duration::from_secs(1), || observe().unwrap().unwrap().lease_left.is_none());
        stream.wait(A, 10);
        steerer.signal("CONT");
        within(Duration::from_secs(1), || status("test", &options).unwrap().halted == Some(Halt::Lapsed));
        assert!(matches!(ramp("test", share("20%"), &options), Err(Error::Refused(_))));
        stream.wait(A, 200);
        let status = status("test", &options).unwrap();
        assert_eq!(status.observed.lease_left, None);
        assert!(status.observed.packets.held > 0);
        let took = back_after(event, &stream.finish());
        eprintln!("SIGSTOP to control: {took:?}");
        assert!(took <= LEASE + Duration::from_millis(10) * patience(), "{took:?}");
        drop(steerer.child.stdin.take());
        assert!(steerer.child.wait().unwrap().success());
        assert_eq!(network.state(), before);
    }
}

#[test]
fn a_hung_steerer_is_killed_by_a_rollback() {
    if !root_or_skip("a_hung_steerer_is_killed_by_a_rollback") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let before = network.state();
    let steerer = Steerer::unhurried(&network, Mode::Host, dir.path());
    steerer.stop();
    assert!(rollback("test", &options(&dir)).unwrap().killed);
    assert_eq!(network.state(), before);
    within(Duration::from_secs(1), || !steerer.guardian.is_alive());
}

#[test]
fn with_the_guardian_killed_too_what_is_left_is_inert_and_the_next_rollback_removes_it() {
    if !root_or_skip("with_the_guardian_killed_too_what_is_left_is_inert_and_the_next_rollback_removes_it") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let options = options(&dir);
    let before = network.state();
    for mode in [Mode::Host, Mode::Router] {
        let mut steerer = Steerer::unhurried(&network, mode, dir.path());
        let streams = [false, true].map(|v6| Stream::start(&network, mode, v6));
        streams.iter().for_each(|stream| stream.wait(B, 20));
        assert!(steerer.guardian.kill().unwrap());
        let event = Instant::now();
        steerer.signal("KILL");
        steerer.child.wait().unwrap();
        for stream in streams {
            stream.wait(A, 10);
            back_after(event, &stream.finish());
        }
        let left = Leftover::read(&dir.path().join("undo/canary-test.jsonl")).unwrap();
        assert!(left.is_orphan() && left.objects.len() == objects(mode));
        // All of it is there, in both families, and does nothing to anybody.
        let state = network.state();
        assert_eq!((state.matches("lookup 222 proto 222").count(), state.contains("pathlab_canary")), (2, false));
        let all = (0..400).flat_map(|i| [session(false, i), session(true, i)]);
        let sent = network.send(network.sender(mode), all, |_| Vec::new());
        let (a, b, packets) = network.take();
        assert_eq!((a.len(), b.len(), packets), (sent, 0, sent));
        assert!(matches!(status("test", &options), Err(Error::NotRunning { .. })));
        assert_eq!(rollback("test", &options).unwrap().removed.len(), objects(mode));
        assert_eq!(network.state(), before);
        assert!(!dir.path().join("run/test.sock").exists());
    }
}

#[test]
fn the_control_socket_ramps_and_tells_and_refuses_nonsense() {
    if !root_or_skip("the_control_socket_ramps_and_tells_and_refuses_nonsense") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let options = options(&dir);
    let steerer = Steerer::start(&network, Mode::Host, dir.path());
    assert_eq!(ramp("test", share("20%"), &options).unwrap(), (share("15%"), share("20%")));
    let now = status("test", &options).unwrap();
    assert_eq!((now.observed.share, now.observed.experiment.as_str()), (Some(share("20%")), "test"));
    assert_eq!((now.pid, now.guardian, now.lease), (steerer.child.id(), Some(steerer.guardian.pid), LEASE));
    assert_eq!(now.departures.is_some(), network.has_tcx());
    now.unproven.iter().for_each(|reason| without_proof(&network, reason));
    assert!(now.observed.lease_left.is_some_and(|left| left <= LEASE) && now.halted.is_none());
    for (to, says) in [("10%", "back to control"), ("51%", "1% to 50%")] {
        let Err(Error::Refused(reason)) = ramp("test", share(to), &options) else { panic!("{to} was not refused") };
        assert!(reason.contains(says), "{reason}");
    }
    // A client that says nothing and one that talks nonsense do not cost the lease.
    let path = dir.path().join("run/test.sock");
    let _silent = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut noisy = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut noisy, &[b'x'; 4_000]).unwrap();
    let start = Instant::now();
    while start.elapsed() < 2 * LEASE {
        assert!(status("test", &options).unwrap().observed.lease_left.is_some());
    }
}

#[test]
fn a_panic_takes_everything_back() {
    if !root_or_skip("a_panic_takes_everything_back") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let before = network.state();
    let result = std::panic::catch_unwind(|| {
        let _steering = start(&network, &experiment("15%"), &options(&dir));
        assert_ne!(network.state(), before);
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(result.is_err());
    assert_eq!(network.state(), before);
}
