//! The probe against our own reflector over loopback sockets: real stamps, real ledgers, no privilege needed.

#[path = "support/namespace.rs"]
mod namespace;
#[path = "../../tests/support/patience.rs"]
mod patience;
#[path = "support/running.rs"]
mod running;

use std::{collections::BTreeMap, process::Command, sync::atomic::AtomicBool, time::Duration};

use pathlab_record::{
    KeepSamples, LogInterval, Outcome, RecordedRun, Run, RunDirectory, Sample, SessionBin, Term, verify,
};
use pathlab_reflector::{
    ReflectorConfig,
    datapath::SocketOptions,
    prober::{
        Class, ClassesSeen, DirectCounts, Fan, Kept, Output, Pace, Pacing, ProbeError, ProbeOptions, ProbeReport,
        Question, RunOutput, Services, SessionSpec, Shape, probe,
    },
    session::Rules,
};
use patience::patience;
use running::Running;

fn reflector_on(listen: &[&str]) -> Running {
    Running::start(config(listen))
}

fn config(listen: &[&str]) -> ReflectorConfig {
    ReflectorConfig {
        listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
        // The probe's thread comes first by its class: on few processors what it sends waits here, and nothing is to be lost.
        socket: SocketOptions { receive_buffer: Some(16 << 20), ..SocketOptions::stamped() },
        ..ReflectorConfig::default()
    }
}

fn options(interval: u64, count: u64) -> ProbeOptions {
    ProbeOptions {
        interval: Duration::from_millis(interval),
        count: Some(count),
        timeout: Duration::from_secs(patience().into()),
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
fn class_of_service_and_counts_of_both_ends_are_told() {
    const AF11: u8 = 10;
    let stateful = ReflectorConfig {
        rules: Rules { sessions: Some(10), allowed_dscp: 1 << AF11, ..Rules::default() },
        ..config(&["127.0.0.1:0"])
    };
    let reflector = Running::start(stateful);
    let fan = Fan { targets: reflector.addresses.clone(), count: 2, ..Fan::default() };
    // with the DSCP, without it, and asking for one that the reflector allows nobody
    for (sent, asked, refused, back) in [(Some(AF11), AF11, 0, AF11), (None, AF11, 0, AF11), (None, 46, 40, 0)] {
        let shape = Shape { questions: vec![Question::ClassOfService(asked), Question::Direct], ..Shape::default() };
        let socket = SocketOptions { dscp: sent, ..SocketOptions::stamped() };
        let (report, _) = run(&fan.sessions().unwrap(), &ProbeOptions { shape, socket, ..options(2, 20) });
        let sent = sent.unwrap_or(0);
        let classes = report.services.class_of_service.expect("answers");
        let seen = |dscp: u8, rewritten| (BTreeMap::from([(dscp, 40)]), rewritten, 0);
        let way = |seen: ClassesSeen| (seen.dscp, seen.rewritten, seen.congestion);
        assert_eq!((classes.answered, classes.refused), (40, refused));
        assert_eq!(way(classes.forward), seen(sent, if sent == asked { 0 } else { 40 }));
        assert_eq!(way(classes.back), seen(back, 0));
        let direct = report.services.direct.expect("answers");
        assert_eq!(
            direct,
            DirectCounts { answered: 40, sent: 38, reflector_received: 38, reflector_sent: 38, received: 38 }
        );
    }
    let (report, _) = run(&fan.sessions().unwrap(), &options(2, 2));
    assert_eq!(report.services, Services::default(), "nobody asked");
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
    let stop = AtomicBool::new(false);
    let endless = ProbeOptions { count: None, ..options(5, 1) };
    let report =
        probe(&[SessionSpec::new(target)], &endless, &stop, &mut StopAfter { samples: 20, stop: &stop }).unwrap();
    check_accounts(&report);
    assert!(report.interrupted && report.total.counts.received > 0);
}

/// Asks for the end when so many packets have settled.
struct StopAfter<'a> {
    samples: usize,
    stop: &'a AtomicBool,
}

impl Output for StopAfter<'_> {
    fn bin(&mut self, _bin: SessionBin) {}
    fn sample(&mut self, _sample: Sample) {
        self.samples = self.samples.saturating_sub(1);
        self.stop.store(self.samples == 0, std::sync::atomic::Ordering::Relaxed);
    }
    fn interval(&mut self, _log: &str, _interval: LogInterval) {}
}

/// A filter on the way to the reflector and on the way back, each of which counts what it dropped.
fn drop_some() {
    let rules = "add table inet lossy; \
                 add chain inet lossy way { type filter hook input priority 0; }; \
                 add rule inet lossy way udp dport 8620 numgen inc mod 40 < 3 counter drop; \
                 add rule inet lossy way udp sport 8620 numgen inc mod 61 < 5 counter drop";
    assert!(Command::new("nft").arg(rules).status().expect("nftables").success());
}

fn dropped() -> [u64; 2] {
    let listing = Command::new("nft").args(["list", "table", "inet", "lossy"]).output().expect("nftables");
    let text = String::from_utf8(listing.stdout).unwrap();
    let after = |line: &str| line.split("packets ").nth(1)?.split(' ').next()?.parse().ok();
    let counts: Vec<u64> = text.lines().filter_map(after).collect();
    counts.try_into().expect("two counters")
}

#[test]
fn what_a_filter_drops_is_lost_on_the_leg_where_it_dropped_it() {
    if !pathlab_guard::privilege::root_or_skip("what_a_filter_drops_is_lost_on_the_leg_where_it_dropped_it") {
        return;
    }
    namespace::in_private_namespace(|_| {
        let rules = Rules { sessions: Some(16), ..Rules::default() };
        let _reflector = Running::start(ReflectorConfig { rules, ..config(&["127.0.0.1:8620"]) });
        drop_some();
        let target = "127.0.0.1:8620".parse().unwrap();
        // Replies come at once, so a short timeout loses nothing, and the run ends soon.
        let options = options(1, 2000);
        let options = ProbeOptions { timeout: options.timeout / 2, ..options };
        let (report, kept) = run(&[SessionSpec::new(target)], &options);
        check_accounts(&report);
        let (counts, [forward, back]) = (report.total.counts, dropped());
        assert_eq!(counts.lost() + counts.late, forward + back + counts.late, "{counts:?}");
        // Bursts at the ends have no answered packet on one side.
        let told = [counts.lost_forward + counts.unknown_forward, counts.lost_return + counts.unknown_return];
        for (told, truth) in told.into_iter().zip([forward, back]) {
            assert!(told <= truth && truth - told <= 8, "{told} of {truth}: {counts:?}");
        }
        let of = |outcome| kept.samples.iter().filter(|sample| sample.outcome == outcome).count() as u64;
        assert_eq!([of(Outcome::LostForward), of(Outcome::LostReturn)], [counts.lost_forward, counts.lost_return]);
        assert!(counts.lost_forward > 100 && counts.lost_return > 100, "{counts:?}");
    });
}

#[test]
fn pairs_share_their_slots_and_differ_by_what_they_differ_in() {
    let reflector = reflector_on(&["127.0.0.1:0", "[::1]:0"]);
    let sessions: Vec<_> = reflector.addresses.iter().map(|&target| SessionSpec::new(target)).collect();
    let (report, kept) = run(&sessions, &ProbeOptions { paired: true, ..options(10, 100) });
    check_accounts(&report);
    let [row] = &report.pairs[..] else { panic!("{:?}", report.pairs) };
    assert_eq!((row.by.as_str(), row.pairs), ("IPv6 less IPv4", 100));
    assert!(row.rtt.is_some_and(|rtt| rtt.low.is_none() && rtt.median.abs() < 1e9), "{row:?}");

    // Both of a slot have one slot, and each was first in half of them.
    let mut sent: Vec<Vec<(i64, i64)>> = sessions.iter().map(|_| Vec::new()).collect();
    for sample in &kept.samples {
        let side = usize::from(sample.labels["family"] == 6);
        sent[side].push((sample.stamps.a1.app.unwrap().nanos(), sample.stamps.a0.app.unwrap().nanos()));
    }
    sent.iter_mut().for_each(|side| side.sort_unstable());
    let first = sent[0].iter().zip(&sent[1]).filter(|(v4, v6)| v4.0 < v6.0).count();
    assert_eq!(first, 50);
    assert!(sent[0].iter().zip(&sent[1]).all(|(v4, v6)| (v4.1 - v6.1).abs() < 5_000_000));

    let odd = ProbeOptions { paired: true, ..options(10, 1) };
    let error = probe(&sessions[..1], &odd, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(error.to_string().contains("--pair with 1 sessions"), "{error}");
}

#[test]
fn two_marks_of_one_target_leave_with_their_marks() {
    if !pathlab_guard::privilege::root_or_skip("two_marks_of_one_target_leave_with_their_marks") {
        return;
    }
    namespace::in_private_namespace(|_| {
        let reflector = reflector_on(&["127.0.0.1:8620"]);
        let rules = "add table inet lossy; \
                     add chain inet lossy way { type filter hook output priority 0; }; \
                     add rule inet lossy way udp dport 8620 meta mark 7 counter; \
                     add rule inet lossy way udp dport 8620 meta mark 9 counter";
        assert!(Command::new("nft").arg(rules).status().expect("nftables").success());
        let marked = |mark| SessionSpec { mark: Some(mark), ..SessionSpec::new(reflector.addresses[0]) };
        let (report, _) = run(&[marked(7), marked(9)], &ProbeOptions { paired: true, ..options(5, 60) });
        assert_eq!(dropped(), [60, 60], "counted, not dropped");
        let row = &report.pairs[0];
        assert_eq!((row.by.as_str(), row.pairs), ("mark 9 less mark 7", 60));
        assert!(row.forward.is_some() && row.back.is_some(), "one host, one clock: {row:?}");
    });
}

#[test]
fn a_sweep_is_one_flow_a_port() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let fan = Fan { targets: reflector.addresses.clone(), source_port: Some(21_000), sweep: 12, ..Fan::default() };
    let (report, _) = run(&fan.sessions().unwrap(), &options(20, 10));
    let ports: Vec<_> = report.sessions.iter().map(|row| row.source.unwrap().port()).collect();
    assert_eq!(ports, (21_000..21_012).collect::<Vec<u16>>());
    assert!(report.sessions.iter().all(|row| row.counts.received == 10));
}

#[test]
fn one_clock_on_both_ends_is_found_to_be_one() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let (report, kept) = run(&[SessionSpec::new(reflector.addresses[0])], &options(2, 300));
    let [row] = &report.one_way[..] else { panic!("{:?}", report.one_way) };
    assert_eq!(row.forward.at_least.count + row.void, kept.samples.len() as u64);
    for segment in &row.segments {
        assert!(segment.offset_least <= 0 && segment.offset_most >= 0, "the same clock: {segment:?}");
    }
    let logs: std::collections::HashSet<_> = kept.intervals.iter().map(|(log, _)| log.as_str()).collect();
    for log in ["rtt", "lateness", "ipdv_forward", "ipdv_return", "wire", "residence", "probe_tx", "probe_rx", "total"]
    {
        assert!(logs.contains(log), "{log} of {logs:?}");
    }
}

#[test]
fn the_report_says_how_it_was_paced() {
    let reflector = reflector_on(&["127.0.0.1:0"]);
    let cpu = Some(0);
    for (pace, class) in [(Pace::Auto, Class::Auto), (Pace::Sleep, Class::Other), (Pace::Spin, Class::Auto)] {
        let pacing = Pacing { pace, class, cpu };
        let (report, _) = run(&[SessionSpec::new(reflector.addresses[0])], &ProbeOptions { pacing, ..options(2, 50) });
        let paced = &report.pacing;
        assert_eq!((paced.pace, paced.cpu), (pace, cpu));
        assert_eq!(paced.overslept.is_some(), pace != Pace::Spin, "{paced:?}");
        match class {
            Class::Auto => assert!(paced.scheduler == "SCHED_FIFO 1" || paced.scheduler_why.is_some(), "{paced:?}"),
            _ => assert!(paced.scheduler_why.is_none() && !paced.memory_locked, "{paced:?}"),
        }
    }
}
