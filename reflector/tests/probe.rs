//! The probe against our own reflector over loopback sockets: real stamps, real ledgers, no privilege needed.

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/running.rs"]
mod running;

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use pathlab_record::{KeepSamples, Outcome, RecordedRun, Run, RunDirectory, Term, verify};
use pathlab_reflector::{
    ReflectorConfig,
    datapath::SocketOptions,
    prober::{Fan, Kept, ProbeError, ProbeOptions, ProbeReport, RunOutput, SessionSpec, Shape, probe},
    session::Rules,
};
use running::Running;

fn reflector_on(listen: &[&str]) -> Running {
    Running::start(config(listen))
}

fn config(listen: &[&str]) -> ReflectorConfig {
    ReflectorConfig {
        listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
        socket: SocketOptions::stamped(),
        ..ReflectorConfig::default()
    }
}

fn options(interval: u64, count: u64) -> ProbeOptions {
    ProbeOptions {
        interval: Duration::from_millis(interval),
        count: Some(count),
        timeout: Duration::from_secs(1),
        // A busy machine makes slots late, not fewer.
        skip_after: Some(Duration::from_secs(10)),
        ..ProbeOptions::default()
    }
}

fn run(sessions: &[SessionSpec], options: &ProbeOptions) -> (ProbeReport, Kept) {
    let mut kept = Kept::default();
    let report = probe(sessions, options, &AtomicBool::new(false), &mut kept).expect("the probe runs");
    (report, kept)
}

fn check_accounts(report: &ProbeReport) {
    let (counts, schedule) = (&report.total.counts, &report.total.schedule);
    assert_eq!(schedule.slots, schedule.sent + schedule.skipped + schedule.refused);
    assert_eq!((schedule.sent, schedule.refused), (counts.sent, 0));
    assert_eq!(counts.sent, counts.received + counts.late + counts.lost());
}

#[test]
fn both_families_many_addresses_few_sockets() {
    let reflector = reflector_on(&["127.0.0.1:0", "[::1]:0"]);
    let v4 = Fan {
        targets: vec![reflector.addresses[0]],
        sources: vec!["127.1.0.0/24".parse().unwrap()],
        count: 300,
        labels: [("isp".to_owned(), "NTT".into())].into(),
        ..Fan::default()
    };
    let v6 = Fan { targets: vec![reflector.addresses[1]], sources: Vec::new(), count: 3, ..v4.clone() };
    let mut sessions = v4.sessions().unwrap();
    sessions.extend(v6.sessions().unwrap());
    let (report, kept) = run(&sessions, &options(300, 3));
    check_accounts(&report);
    assert_eq!(report.total.schedule.slots, 909);
    assert_eq!(report.total.counts.received, report.total.counts.sent);
    assert_eq!(report.total.kernel_sent_coverage, 1.0);
    assert_eq!(report.total.kernel_received_coverage, 1.0);
    assert_eq!(report.rtt_between, "A4kernel - A1kernel");
    assert_eq!((report.strays.unknown, report.strays.malformed, report.silent.len()), (0, 0, 0));

    let families: Vec<_> = report.groups.iter().map(|group| (&group.labels["family"], group.row.sessions)).collect();
    assert_eq!(families, [(&4.into(), 300), (&6.into(), 3)]);
    let mut names: Vec<_> = report.sessions.iter().map(|row| &row.session).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 303, "every session has an address and port of its own");
    for sample in &kept.samples {
        let ledger = sample.ledger.as_ref().expect("a reply, a ledger");
        assert!(Term::ALL.iter().all(|&term| ledger.term(term).is_some_and(|span| span.as_nanos() >= 0)), "{ledger:?}");
    }
}

#[test]
fn the_run_directory_holds_what_was_measured() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let fan = Fan { targets: reflector.addresses.clone(), count: 4, ..Fan::default() };
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("run");
    let started = jiff::Timestamp::now();
    let circumstances = Run { keep_samples: KeepSamples::Sessions(2), ..Run::new("probe", started) };
    let mut output = RunOutput::new(RunDirectory::create(&path, &circumstances).unwrap());
    let mut options = options(5, 40);
    options.recording.bin = Duration::from_millis(100);
    options.recording.zone = "Asia/Tokyo".into();
    let report = probe(&fan.sessions().unwrap(), &options, &AtomicBool::new(false), &mut output).unwrap();
    let head = output.finish(&report).unwrap().seal(jiff::Timestamp::now()).unwrap();
    assert!(verify(&path).unwrap().holds(&head));

    let recorded = RecordedRun::open(&path).unwrap();
    let bins: Vec<_> = recorded.sessions().unwrap().collect::<Result<_, _>>().unwrap();
    let sum = |of: fn(&pathlab_record::SessionBin) -> u64| bins.iter().map(of).sum::<u64>();
    assert_eq!(sum(|bin| bin.sent), report.total.counts.sent);
    assert_eq!(sum(|bin| bin.received), report.total.counts.received);
    assert!(bins.iter().all(|bin| bin.zone == "Asia/Tokyo" && !bin.dead && bin.key.is_some()));
    let samples: Vec<_> = recorded.samples().unwrap().collect::<Result<_, _>>().unwrap();
    let names: std::collections::HashSet<_> = samples.iter().map(|sample| sample.session.clone()).collect();
    assert_eq!((names.len(), samples.len()), (2, 80));
    let text = std::fs::read_to_string(path.join("probe.json")).unwrap();
    assert_eq!(serde_json::from_str::<ProbeReport>(&text).unwrap(), report);
    assert!(path.join("rtt.hlog").exists());
}

#[test]
fn a_stateful_reflector_is_told_by_its_own_numbers() {
    let rules = Rules { sessions: Some(16), ..Rules::default() };
    let reflector = Running::start(ReflectorConfig { rules, ..config(&["127.0.0.1:0"]) });
    let fan = Fan { targets: reflector.addresses.clone(), count: 4, ..Fan::default() };
    let (report, kept) = run(&fan.sessions().unwrap(), &options(2, 50));
    check_accounts(&report);
    assert!(kept.samples.iter().all(|sample| sample.outcome == Outcome::Received));
}

#[test]
fn padding_makes_a_packet_longer_and_nothing_else() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let sessions = [SessionSpec::new(reflector.addresses[0])];
    let (report, _) =
        run(&sessions, &ProbeOptions { shape: Shape { size: 1200, ..Shape::default() }, ..options(2, 20) });
    assert_eq!(report.total.counts.received, 20);
}

#[test]
fn a_closed_port_fails_the_run_with_one_sentence() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let short = ProbeOptions { timeout: Duration::from_millis(100), ..options(10, 1_000_000) };
    let error = probe(&[SessionSpec::new(closed)], &short, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(matches!(error, ProbeError::Unreachable { target, .. } if target == closed));
    let text = error.to_string();
    assert!(text.contains("port unreachable") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_target_without_a_route_fails_the_run_with_one_sentence() {
    if !pathlab_guard::privilege::root_or_skip("a_target_without_a_route_fails_the_run_with_one_sentence") {
        return;
    }
    let target = "192.0.2.1:862".parse().unwrap();
    let short = ProbeOptions { timeout: Duration::from_millis(100), ..options(10, 1_000_000) };
    let run = |_: &str| probe(&[SessionSpec::new(target)], &short, &AtomicBool::new(false), &mut ());
    let text = namespace::in_private_namespace(run).unwrap_err().to_string();
    assert!(text.starts_with("nothing came back from 192.0.2.1:862: network unreachable"), "{text}");
}

#[test]
fn slots_may_be_sent_together() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let fan = Fan { targets: reflector.addresses.clone(), count: 20, ..Fan::default() };
    let (report, _) =
        run(&fan.sessions().unwrap(), &ProbeOptions { coalesce: Duration::from_millis(5), ..options(20, 10) });
    check_accounts(&report);
    assert_eq!(report.total.counts.received, 200);
    assert_eq!(reflector.finish().replied, 200, "both ends tell the same");
    assert!(report.total.schedule.lateness.unwrap().p50 > 500_000, "five slots share a sending");
}

#[test]
fn a_target_beside_a_dead_one_is_still_measured() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sessions = [SessionSpec::new(closed), SessionSpec::new(reflector.addresses[0])];
    let (report, kept) = run(&sessions, &options(10, 20));
    check_accounts(&report);
    assert_eq!(report.total.counts.received, 20);
    assert_eq!(report.silent.len(), 1);
    assert_eq!(report.silent[0].target, closed);
    assert!(report.silent[0].why.contains("port unreachable"), "{}", report.silent[0].why);
    assert!(kept.bins.iter().any(|bin| bin.dead && bin.received == 0));
}

#[test]
fn wrong_options_are_one_sentence_each() {
    let spec = SessionSpec::new("127.0.0.1:862".parse().unwrap());
    let foreign = SessionSpec { source: Some("192.0.2.77:0".parse().unwrap()), ..spec.clone() };
    let fails = |spec: &SessionSpec, options: ProbeOptions| {
        probe(std::slice::from_ref(spec), &options, &AtomicBool::new(false), &mut ()).unwrap_err().to_string()
    };
    assert!(fails(&foreign, options(10, 1)).contains("192.0.2.77: not an address of this host"));
    assert!(
        fails(&spec, ProbeOptions { shape: Shape { size: 45, ..Shape::default() }, ..options(10, 1) })
            .contains("--size 45")
    );
    let eager = ProbeOptions { interval: Duration::from_nanos(1), ..options(10, 1) };
    assert!(fails(&spec, eager).contains("--interval 1ns"));
    let patient =
        ProbeOptions { interval: Duration::from_micros(1), timeout: Duration::from_secs(60), ..options(10, 1) };
    assert!(fails(&spec, patient).contains("would be in flight"));
    let held = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let taken = SessionSpec { source: Some(held.local_addr().unwrap()), ..spec };
    assert!(fails(&taken, options(10, 1)).contains("the port is in use"));
}

#[test]
fn a_stop_request_ends_the_run_and_is_told() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let target = reflector.addresses[0];
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    let timer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(150));
        raised.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let endless = ProbeOptions { count: None, ..options(5, 1) };
    let report = probe(&[SessionSpec::new(target)], &endless, &stop, &mut ()).unwrap();
    timer.join().unwrap();
    check_accounts(&report);
    assert!(report.interrupted && report.total.counts.received > 0);
}
