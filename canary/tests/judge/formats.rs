//! The same packets through every format: session by session the same quantiles, pooled the same within the declared error.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use pathlab_canary::{Bucket, CohortBin, Description, Ingest, Verdict, judge};
use pathlab_record::{
    Arm, ClockId, Labels, LogInterval, Outcome, Planes, Sample, SessionBin, SparseHistogram, Stamp, Stamps,
};
use pathlab_stats::generator;
use proptest::prelude::*;
use rand::RngExt;
use serde_json::json;

use crate::simulator::{bucket, plan};

/// One packet of a session.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) session: usize,
    pub(crate) arm: Arm,
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
    /// Nanoseconds; none is lost.
    pub(crate) rtt: Option<u64>,
}

impl Packet {
    /// Number of its bin in the evening.
    pub(crate) fn bin(&self) -> i64 {
        (self.time.as_second() - opens().as_second()) / 600
    }
}

pub(crate) fn opens() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

/// Sessions of some packets each, skewed, some of it lost, over the first hour of an evening.
pub(crate) fn packets(seed: u64, sessions: usize) -> Vec<Packet> {
    let mut rng = generator(seed, "formats", 0);
    let mut packets = Vec::new();
    for session in 0..sessions {
        let arm = if session % 3 == 0 { Arm::Canary } else { Arm::Control };
        let level = 20e6 * (1.0 + rng.random::<f64>()).powi(3);
        let start = opens() + SignedDuration::from_secs(rng.random_range(0..3_000));
        for seq in 0..rng.random_range(1..40) {
            let rtt = (level * (1.0 + 0.3 * rng.random::<f64>())) as u64;
            packets.push(Packet {
                session,
                arm,
                seq,
                time: start + SignedDuration::from_secs(10 * seq as i64),
                rtt: rng.random_bool(0.97).then_some(rtt),
            });
        }
    }
    packets
}

fn name(arm: Arm) -> &'static str {
    if arm == Arm::Canary { "canary" } else { "control" }
}

fn labels() -> Labels {
    [("isp".to_owned(), json!("NTT")), ("family".to_owned(), json!(4))].into()
}

/// Packets by session and bin, in order.
fn bins(packets: &[Packet]) -> Vec<Vec<&Packet>> {
    packets.chunk_by(|a, b| (a.session, a.bin()) == (b.session, b.bin())).map(|bin| bin.iter().collect()).collect()
}

fn span(bin: i64) -> (Timestamp, Timestamp) {
    let start = opens() + SignedDuration::from_mins(10 * bin);
    (start, start + SignedDuration::from_mins(10))
}

fn sessions_jsonl(packets: &[Packet]) -> String {
    let mut text = String::new();
    for bin in bins(packets) {
        let (start, end) = span(bin[0].bin());
        let rtt: SparseHistogram = bin.iter().filter_map(|packet| packet.rtt).collect();
        let lost = bin.iter().filter(|packet| packet.rtt.is_none()).count() as u64;
        let line = SessionBin {
            session: format!("s{}", bin[0].session),
            arm_assigned: Some(bin[0].arm),
            labels: labels(),
            start,
            end,
            zone: "Asia/Tokyo".to_owned(),
            sent: bin.len() as u64,
            received: bin.len() as u64 - lost,
            lost,
            rtt: Some(rtt),
            source: "probe".to_owned(),
            ..SessionBin::default()
        };
        writeln!(text, "{}", serde_json::to_string(&line).unwrap()).unwrap();
    }
    text
}

fn csv(packets: &[Packet]) -> String {
    let mut text = "time,session,seq,rtt_us,arm,isp,family\n".to_owned();
    for Packet { session, arm, seq, time, rtt } in packets {
        let rtt = rtt.map_or_else(String::new, |rtt| format!("{}", rtt as f64 / 1e3));
        writeln!(text, "{time},s{session},{seq},{rtt},{},\"NTT\",4", name(*arm)).unwrap();
    }
    text
}

fn raw_jsonl(packets: &[Packet]) -> String {
    let mut text = String::new();
    for Packet { session, arm, seq, time, rtt } in packets {
        let line = json!({"time": time.as_nanosecond().to_string(), "session": format!("s{session}"), "seq": seq, "rtt_ns": rtt,
            "arm": name(*arm), "labels": labels()});
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn samples_jsonl(packets: &[Packet]) -> String {
    let mut text = String::new();
    for Packet { session, arm, seq, time, rtt } in packets {
        let sent = time.as_nanosecond() as i64;
        let at = |nanos: i64| Planes { app: Stamp::new(nanos, ClockId::Realtime, 0), ..Planes::default() };
        let a4 = rtt.map_or_else(Planes::default, |rtt| at(sent + 100 + rtt as i64));
        let sample = Sample {
            seq: *seq as u32,
            session: format!("s{session}"),
            arm: Some(*arm),
            labels: labels(),
            outcome: if rtt.is_some() { Outcome::Received } else { Outcome::Lost },
            stamps: Stamps { a0: at(sent), a1: at(sent + 100), a4, ..Stamps::default() },
            ledger: None,
            one_way: None,
        };
        writeln!(text, "{}", serde_json::to_string(&sample).unwrap()).unwrap();
    }
    text
}

fn hlog(packets: &[Packet], by_session: bool) -> String {
    let mut text = "#[Histogram log format version 1.3]\n".to_owned();
    let groups: Vec<Vec<&Packet>> = if by_session { bins(packets) } else { cohorts(packets) };
    for group in groups {
        let (start, end) = span(group[0].bin());
        let mut labels = std::collections::BTreeMap::from([
            ("isp".to_owned(), "NTT".to_owned()),
            ("family".to_owned(), "4".to_owned()),
            ("arm".to_owned(), name(group[0].arm).to_owned()),
            ("sent".to_owned(), group.len().to_string()),
        ]);
        if by_session {
            labels.insert("session".to_owned(), format!("s{}", group[0].session));
        }
        let histogram = group.iter().filter_map(|packet| packet.rtt).collect();
        let line = LogInterval { labels, start, length: end.duration_since(start), histogram }.to_line();
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn cohorts(packets: &[Packet]) -> Vec<Vec<&Packet>> {
    let mut groups = std::collections::BTreeMap::<_, Vec<&Packet>>::new();
    for packet in packets {
        groups.entry((packet.bin(), packet.arm)).or_default().push(packet);
    }
    groups.into_values().collect()
}

/// Pooled bins: by our histograms, or by buckets of five milliseconds as a classic exporter has them.
pub(crate) fn cohorts_jsonl(packets: &[Packet], coarse: bool) -> String {
    let mut text = String::new();
    for group in cohorts(packets) {
        let (start, end) = span(group[0].bin());
        let answered = group.iter().filter_map(|packet| packet.rtt);
        let mut counts = std::collections::BTreeMap::new();
        for rtt in answered.clone() {
            *counts.entry((rtt - 1) / 5_000_000).or_insert(0) += 1;
        }
        let edge = |place: u64| place * 5_000_000;
        let buckets = counts.iter().map(|(place, count)| Bucket(edge(*place), Some(edge(*place + 1)), *count));
        let bin = CohortBin {
            arm: Some(group[0].arm),
            labels: labels(),
            start,
            end,
            sent: group.len() as u64,
            lost: group.iter().filter(|packet| packet.rtt.is_none()).count() as u64,
            rtt: (!coarse).then(|| answered.clone().collect()),
            buckets: coarse.then(|| buckets.collect()),
            source: "fleet".to_owned(),
        };
        writeln!(text, "{}", serde_json::to_string(&bin).unwrap()).unwrap();
    }
    text
}

fn judged(file: &str, text: &str) -> Verdict {
    let plan = plan("2ms");
    let mut ingest = Ingest::new(&plan).unwrap();
    ingest.lines(file, text.as_bytes()).unwrap();
    judge(&plan, 1, &ingest.finish(), bucket).unwrap()
}

/// Checks pooled descriptions against the packets themselves: every limit holds, and none is wider than `width` times the value plus
/// `step` nanoseconds.
pub(crate) fn assert_pooled(described: &[Description], packets: &[Packet], width: f64, step: f64) {
    assert_eq!(described.len(), 2);
    for arm in described {
        assert_eq!((arm.weighted, arm.sessions), ("packet", None));
        let mut all: Vec<f64> = packets
            .iter()
            .filter(|packet| packet.arm == arm.arm)
            .map(|packet| packet.rtt.map_or(f64::INFINITY, |rtt| rtt as f64))
            .collect();
        all.sort_unstable_by(f64::total_cmp);
        assert_eq!(arm.sent, all.len() as u64);
        for (described, level) in arm.rtt.iter().zip([0.5, 0.95, 0.99]) {
            let described = described.unwrap();
            let truth = all[((level * all.len() as f64).ceil() as usize).max(1) - 1];
            let (low, high) = described.limits.unwrap();
            assert!(low <= truth && truth <= high, "p{level}: {truth} in {low} to {high}");
            assert!(
                truth.is_infinite() || high - low <= width * truth + step,
                "{low} to {high} is too wide for {truth}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_format_with_sessions_gives_the_same_quantiles(seed: u64) {
        let packets = packets(seed, 30);
        let reference = judged("run/sessions.jsonl", &sessions_jsonl(&packets));
        let expected = &reference.findings.described;
        prop_assert_eq!(expected.len(), 2);
        prop_assert_eq!(expected[0].weighted, "session");
        for (file, text) in [
            ("run/rum.csv", csv(&packets)),
            ("run/rum.jsonl", raw_jsonl(&packets)),
            ("run/samples.jsonl", samples_jsonl(&packets)),
            ("run/rtt.hlog", hlog(&packets, true)),
        ] {
            let verdict = judged(file, &text);
            prop_assert_eq!(&verdict.findings.described, expected, "{}", file);
            prop_assert_eq!(&verdict.findings.checks.sample_ratio, &reference.findings.checks.sample_ratio, "{}", file);
        }
    }

    #[test]
    fn every_pooled_format_gives_the_same_quantiles_within_its_error(seed: u64) {
        let packets = packets(seed, 30);
        for (file, text, width, step) in [
            ("run/cohorts.jsonl", cohorts_jsonl(&packets, false), 0.001, 1.0),
            ("run/cohorts.hlog", hlog(&packets, false), 0.001, 1.0),
            ("run/cohorts.jsonl", cohorts_jsonl(&packets, true), 0.0, 5e6),
        ] {
            let verdict = judged(file, &text);
            assert_pooled(&verdict.findings.described, &packets, width, step);
            prop_assert!(verdict.sentence.starts_with("Hold: pooled data without sessions"), "{}", verdict.sentence);
        }
    }
}

#[test]
fn a_row_that_comes_twice_is_counted_once() {
    let packets = packets(3, 10);
    let once = csv(&packets);
    let again: String = once.lines().skip(1).take(7).map(|line| format!("{line}\n")).collect();
    let verdict = judged("run/rum.csv", &format!("{once}{again}"));
    assert_eq!(verdict.findings.described, judged("run/rum.csv", &once).findings.described);
    let duplicates = &verdict.remarks[&pathlab_canary::Remark::Duplicate];
    assert_eq!((duplicates.lines, duplicates.first[0].starts_with("run/rum.csv:")), (7, true), "{duplicates:?}");
}

#[test]
fn quantiles_alone_are_refused() {
    let plan = plan("2ms");
    for (file, text) in [
        ("rum.csv", "time,session,p50,p95\n"),
        ("rum.csv", "time,isp,rtt_p95_ms\n"),
        ("rum.jsonl", "{\"time\":\"2026-11-21T10:00:00Z\",\"isp\":\"NTT\",\"quantile\":0.95,\"value\":61}\n"),
    ] {
        let refusal = Ingest::new(&plan).unwrap().lines(file, text.as_bytes()).unwrap_err().to_string();
        assert!(refusal.contains("alone is refused: quantiles can be neither merged"), "{refusal}");
    }
    let lacking = Ingest::new(&plan).unwrap().lines("rum.csv", "time,rtt_ms\n".as_bytes()).unwrap_err().to_string();
    assert!(lacking.contains("needs the columns"), "{lacking}");
}

/// Pooled packets of a canary that is far worse in every half-hour of two evenings roll back; of one that is far better, they do not promote.
#[test]
fn pooled_data_may_roll_back_and_never_promote() {
    let two_evenings = |shift: u64| {
        let mut text = String::new();
        for (evening, half_hour, arm) in
            (0..2).flat_map(|e| (0..10).flat_map(move |h| [Arm::Control, Arm::Canary].map(|a| (e, h, a))))
        {
            let start = opens() + SignedDuration::from_hours(24 * evening) + SignedDuration::from_mins(30 * half_hour);
            let level = 40_000_000 + if arm == Arm::Canary { shift } else { 20_000_000 };
            let bin = CohortBin {
                arm: Some(arm),
                labels: labels(),
                start,
                end: start + SignedDuration::from_mins(10),
                sent: 100,
                lost: 0,
                rtt: Some((0..100).map(|packet| level + 100_000 * packet).collect()),
                buckets: None,
                source: "fleet".to_owned(),
            };
            writeln!(text, "{}", serde_json::to_string(&bin).unwrap()).unwrap();
        }
        judged("run/cohorts.jsonl", &text)
    };
    let worse = two_evenings(30_000_000);
    assert_eq!(worse.decision, pathlab_canary::Decision::RollBack, "{}", worse.sentence);
    assert!(
        worse.sentence.contains("pooled rtt.p95 of NTT IPv4 is worse on the canary: +10.03 ms"),
        "{}",
        worse.sentence
    );
    let better = two_evenings(0);
    assert_eq!(better.decision, pathlab_canary::Decision::Hold, "{}", better.sentence);
}
