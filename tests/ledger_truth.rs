//! The ledger tells the truth: a delay put into one stage of real round trips appears in that stage's term, and in no other.
//!
//! The delayed run and the plain one, to which it is compared, go on at the same time, so that whatever else the machine does meets both;
//! and all that keeps time has real-time priority.

#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/realtime.rs"]
mod realtime;
#[path = "support/relay.rs"]
mod relay;
#[path = "support/verbs.rs"]
mod verbs;

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pathlab_guard::privilege::root_or_skip;
use pathlab_netlab::netns::Namespace;
use pathlab_record::{Stage, Term};
use pathlab_reflector::prober::{ProbeReport, Row};
use relay::Relay;
use verbs::{Probe, Reflector};

/// What is put into one stage.
const DELAY: Duration = Duration::from_millis(5);
/// By how much its term must move at least, in nanoseconds.
const MOVED: i64 = 4_900_000;
/// By how much no other may, in nanoseconds.
const STILL: i64 = 300_000;
/// Packets of each session.
const COUNT: u64 = 300;

/// Two measurements at a time are what two cores can do.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_delay_before_the_reflector_sends_is_residence() {
    if !root_or_skip("a_delay_before_the_reflector_sends_is_residence") {
        return;
    }
    let _alone = alone();
    let [near, far] = hosts::in_a_row("residence");
    let plain = Reflector::start(&far, "--listen 192.0.2.2:862 --listen [2001:db8::2]:862");
    let delayed = Reflector::start(&far, "--listen 192.0.2.2:8862 --listen [2001:db8::2]:8862 --fault-delay-tx 5ms");
    let reports = together(
        Run { host: &near, args: "192.0.2.2:862 [2001:db8::2]:862" },
        Run { host: &near, args: "192.0.2.2:8862 [2001:db8::2]:8862" },
    );
    check(Term::Residence, &reports);
    for account in [plain.stop(), delayed.stop()] {
        assert_eq!(account["received"], account["replied"]);
    }
}

#[test]
fn a_delay_before_the_probe_reads_is_its_own() {
    if !root_or_skip("a_delay_before_the_probe_reads_is_its_own") {
        return;
    }
    let _alone = alone();
    let [near, far] = hosts::in_a_row("probe-rx");
    let reflector = Reflector::start(&far, "--listen 192.0.2.2:862 --listen [2001:db8::2]:862");
    let reports = together(
        Run { host: &near, args: "192.0.2.2 2001:db8::2" },
        Run { host: &near, args: "192.0.2.2 2001:db8::2 --fault-delay-rx 5ms" },
    );
    check(Term::ProbeRx, &reports);
    let account = reflector.stop();
    assert_eq!(account["received"], account["replied"]);
}

#[test]
fn a_longer_way_there_or_back_is_wire() {
    if !root_or_skip("a_longer_way_there_or_back_is_wire") {
        return;
    }
    let _alone = alone();
    let [near, middle, far] = hosts::in_a_row("wire");
    let reflector = Reflector::start(&far, "--listen 192.0.2.6:862 --listen [2001:db8:1::2]:862");
    for (there, back) in [(DELAY, Duration::ZERO), (Duration::ZERO, DELAY)] {
        let _plain = relays(&middle, 862, Duration::ZERO, Duration::ZERO);
        let _delayed = relays(&middle, 8862, there, back);
        let reports = together(
            Run { host: &near, args: "192.0.2.2:862 [2001:db8::2]:862" },
            Run { host: &near, args: "192.0.2.2:8862 [2001:db8::2]:8862" },
        );
        check(Term::Wire, &reports);
    }
    let account = reflector.stop();
    assert_eq!(account["received"], account["replied"]);
}

/// Stages of the reflector's host: where each is delayed, the option that does it, and the stage.
const INSIDE: [(&str, &str, Stage); 3] = [
    ("before the reflector reads", "--fault-delay-rx", Stage::RxKernel),
    ("while it answers", "--fault-delay-tx", Stage::App),
    ("between its timestamp and the driver", "--fault-delay-departure", Stage::TxKernel),
];

#[test]
fn a_delay_inside_the_reflectors_host_is_its_stage_and_residence() {
    if !root_or_skip("a_delay_inside_the_reflectors_host_is_its_stage_and_residence") {
        return;
    }
    let _alone = alone();
    let [near, far] = hosts::in_a_row("inside");
    let plain = Reflector::start(&far, "--stateful --listen 192.0.2.2:862 --listen [2001:db8::2]:862");
    for (place, fault, stage) in INSIDE {
        let listen = "--listen 192.0.2.2:8862 --listen [2001:db8::2]:8862";
        let delayed = Reflector::start(&far, &format!("--stateful {listen} {fault} 5ms"));
        let reports = together(
            Run { host: &near, args: "192.0.2.2:862 [2001:db8::2]:862 --tlv stages" },
            Run { host: &near, args: "192.0.2.2:8862 [2001:db8::2]:8862 --tlv stages" },
        );
        eprintln!("delayed {place}:");
        check(Term::Residence, &reports);
        check_inside(stage, &reports);
        let account = delayed.stop();
        assert_eq!(account["received"], account["replied"]);
    }
    let account = plain.stop();
    assert_eq!(account["received"], account["replied"]);
}

/// Compares the medians of the stages that the kernel's stamps part.
fn check_inside(moved: Stage, [plain, delayed]: &[ProbeReport; 2]) {
    let median = |report: &ProbeReport, stage: Stage| {
        let inner = &report.total.split.inner;
        let part = inner.get(stage.name()).unwrap_or_else(|| panic!("no {stage} by itself: {inner:?}"));
        assert!(part.count >= 400, "a median of {} packets", part.count);
        part.p50 as i64
    };
    let by = [Stage::RxKernel, Stage::App, Stage::TxKernel]
        .map(|stage| (stage, median(delayed, stage) - median(plain, stage)));
    eprintln!("{moved} delayed: medians inside the reflector's host moved by {by:?} ns");
    for (stage, by) in by {
        let right = if stage == moved { by >= MOVED } else { by.abs() < STILL };
        assert!(right, "{moved} was delayed by {DELAY:?}: {stage} moved by {by} ns");
    }
}

/// One relay a family, from `port` of the middle host to the reflector.
fn relays(middle: &Namespace, port: u16, there: Duration, back: Duration) -> [Relay; 2] {
    [("192.0.2.2", "192.0.2.6:862"), ("2001:db8::2", "[2001:db8:1::2]:862")].map(|(listen, onward)| {
        let listen = SocketAddr::new(listen.parse().expect("an address"), port);
        Relay::start(middle, listen, onward.parse().expect("an address"), there, back)
    })
}

/// Where one of the two probes runs, and its arguments.
struct Run<'a> {
    host: &'a Namespace,
    args: &'a str,
}

/// Both at the same time: the plain one and the delayed one. Their intervals differ, so that they never fall into step.
fn together(plain: Run<'_>, delayed: Run<'_>) -> [ProbeReport; 2] {
    let start = |run: Run<'_>, interval| {
        Probe::start(run.host, &format!("{} --interval {interval} --count {COUNT} --keep-samples 0", run.args))
    };
    [start(plain, "20ms"), start(delayed, "21ms")].map(Probe::report)
}

/// Compares the medians of every term, for both families together and each by itself.
fn check(moved: Term, [plain, delayed]: &[ProbeReport; 2]) {
    let rows = |report: &ProbeReport| -> Vec<(String, Row)> {
        let groups = report.groups.iter().map(|group| (format!("IPv{}", group.labels["family"]), group.row.clone()));
        [("both".to_owned(), report.total.clone())].into_iter().chain(groups).collect()
    };
    let (plain, delayed) = (rows(plain), rows(delayed));
    assert_eq!(plain.len(), 3, "both families, IPv4, IPv6");
    let mut wrong = Vec::new();
    for ((name, plain), (_, delayed)) in plain.iter().zip(&delayed) {
        let by = Term::ALL.map(|term| (term, median(delayed, term) - median(plain, term)));
        eprintln!(
            "{moved} delayed, {name}: {} and {} packets, medians moved by {by:?} ns",
            plain.counts.received, delayed.counts.received
        );
        for (term, by) in by {
            let right = if term == moved { by >= MOVED } else { by.abs() < STILL };
            if !right {
                wrong.push(format!("{name}: {term} moved by {by} ns"));
            }
        }
    }
    assert!(wrong.is_empty(), "{moved} was delayed by {DELAY:?}: {wrong:?}");
}

fn median(row: &Row, term: Term) -> i64 {
    let part = row.split.parts.get(term.name()).unwrap_or_else(|| panic!("no {term} by itself: {:?}", row.split.parts));
    assert!(part.count >= 200, "a median of {} packets", part.count);
    part.p50 as i64
}
