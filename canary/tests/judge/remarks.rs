//! Whatever is wrong with a line is told with its file and line, in every format that has sessions: each class of remark that the format can
//! give rise to, and why not where it cannot.

use pathlab_canary::{Experiment, Ingest, Remark};
use pathlab_record::{
    Arm, ClockId, Labels, LogInterval, Outcome, Planes, Sample, SessionBin, SparseHistogram, Stamp, Stamps,
};
use serde_json::json;

use crate::simulator::plan;

/// A line, and what is said of it: remark and beginning of the text.
type Row = (Vec<u8>, Option<(Remark, &'static str)>);

/// One format: its file, its lines, and the remarks that it cannot give rise to.
struct Format {
    file: &'static str,
    rows: Vec<Row>,
    /// Lines that are no data: a header, a comment, a blank line.
    beside: u64,
    never: &'static [(Remark, &'static str)],
}

fn experiment() -> Experiment {
    let mut experiment = plan("2ms");
    experiment.windows.holidays = vec!["2026-11-23".parse().unwrap()];
    experiment
}

fn good(line: impl Into<Vec<u8>>) -> Row {
    (line.into(), None)
}

fn wrong(remark: Remark, what: &'static str, line: impl Into<Vec<u8>>) -> Row {
    (line.into(), Some((remark, what)))
}

fn labels() -> Labels {
    [("isp".to_owned(), json!("NTT")), ("family".to_owned(), json!(4))].into()
}

/// Longer than any line of ours.
fn endless() -> Row {
    wrong(Remark::Broken, "longer than 1 MiB", "x".repeat(2 << 20))
}

fn sessions() -> Format {
    let bin = |session: &str, start: &str, end: &str| SessionBin {
        session: session.to_owned(),
        arm_assigned: Some(Arm::Canary),
        labels: labels(),
        start: start.parse().unwrap(),
        end: end.parse().unwrap(),
        zone: "Asia/Tokyo".to_owned(),
        source: "probe".to_owned(),
        ..SessionBin::default()
    };
    let at = |session: &str| bin(session, "2026-11-21T10:00:00Z", "2026-11-21T10:10:00Z");
    let again = |start: &str, end: &str| bin("a", start, end);
    let line = |bin: SessionBin| serde_json::to_string(&bin).unwrap();
    let whole = line(at("a"));
    let without_label = |session: &str, label: &str| {
        let mut bin = at(session);
        bin.labels.remove(label);
        line(bin)
    };
    let rows = vec![
        good(whole.clone()),
        wrong(Remark::Duplicate, "a", whole.clone()),
        wrong(Remark::Broken, "key must be a string at line 1 column 2", "{not json"),
        wrong(Remark::Broken, "unknown field `colour`", whole.replace("{\"session\"", "{\"colour\":1,\"session\"")),
        wrong(
            Remark::Broken,
            "invalid unicode code point",
            [b"{\"session\":\"\xff\"".as_slice(), &whole.as_bytes()[12..]].concat(),
        ),
        wrong(
            Remark::Contradicts,
            "session \"c\": sent 7 is not received 0 + lost 0",
            line(SessionBin { sent: 7, ..at("c") }),
        ),
        wrong(
            Remark::Contradicts,
            "session \"a\": end 2026-11-21T10:30:00Z is not after start 2026-11-21T10:40:00Z",
            line(again("2026-11-21T10:40:00Z", "2026-11-21T10:30:00Z")),
        ),
        wrong(Remark::Unlabelled, "no label `isp` or `asn`, or no address family", without_label("d", "family")),
        wrong(Remark::UnknownIsp, "e", without_label("e", "isp")),
        good(""),
        wrong(
            Remark::OutsideWindows,
            "2026-11-21T01:00:00Z",
            line(again("2026-11-21T01:00:00Z", "2026-11-21T01:10:00Z")),
        ),
        wrong(Remark::StraddlesWindow, "2026-11-21", line(again("2026-11-21T14:55:00Z", "2026-11-21T15:05:00Z"))),
        wrong(Remark::Holiday, "2026-11-23", line(again("2026-11-23T11:00:00Z", "2026-11-23T11:10:00Z"))),
        wrong(Remark::OtherZone, "f", line(SessionBin { zone: "Europe/Berlin".to_owned(), ..at("f") })),
        wrong(
            Remark::CrossedOver,
            "a",
            line(SessionBin { arm_seen: Some(Arm::Control), ..again("2026-11-21T11:00:00Z", "2026-11-21T11:10:00Z") }),
        ),
        wrong(
            Remark::ArmChanged,
            "a",
            line(SessionBin {
                arm_assigned: Some(Arm::Control),
                ..again("2026-11-21T12:00:00Z", "2026-11-21T12:10:00Z")
            }),
        ),
        wrong(
            Remark::Relabelled,
            "a",
            line(SessionBin {
                labels: [("isp".to_owned(), json!("KDDI")), ("family".to_owned(), json!(4))].into(),
                ..again("2026-11-21T13:00:00Z", "2026-11-21T13:10:00Z")
            }),
        ),
        // The host's clock was set back by five minutes between two bins.
        wrong(Remark::ClockJump, "a", line(again("2026-11-21T10:05:00Z", "2026-11-21T10:15:00Z"))),
        endless(),
        good(line(at("z"))),
        wrong(Remark::Truncated, "ends in the middle", &whole[..60]),
    ];
    let never = &[(Remark::UnknownColumn, "a field that is not known makes a line of the canonical form broken")];
    Format { file: "run/sessions.jsonl", rows, beside: 1, never }
}

fn csv() -> Format {
    let row = |time: &str, session: &str, seq: u32, rtt: &str, outcome: &str| {
        format!("2026-11-21T{time},{session},{seq},{rtt},{outcome},canary,NTT,4,x")
    };
    let rows = vec![
        wrong(Remark::UnknownColumn, "column `mood`", "time,session,seq,rtt_ms,outcome,arm,isp,family,mood"),
        good(row("10:00:00Z", "a", 1, "40", "")),
        good(row("10:00:01Z", "a", 2, "40", "")),
        wrong(Remark::Duplicate, "a", row("10:00:02Z", "a", 1, "40", "")),
        wrong(Remark::Broken, "time `2026-11-21T19:00:01`", row("19:00:01", "a", 3, "40", "")),
        wrong(Remark::Broken, "seq `x` is no number", row("10:00:03Z", "a", 0, "40", "").replace(",0,", ",x,")),
        wrong(Remark::Broken, "round trip `-1` is below zero", row("10:00:03Z", "a", 3, "-1", "")),
        wrong(Remark::Broken, "2 columns, the header has 9", "2026-11-21T10:00:03Z,a"),
        wrong(Remark::Broken, "is not UTF-8", b"2026-11-21T10:00:03Z,\xff,3,40,,canary,NTT,4,x".as_slice()),
        wrong(Remark::Contradicts, "received without a round trip", row("10:00:03Z", "a", 3, "", "received")),
        wrong(Remark::OtherZone, "a", row("11:00:04+01:00", "a", 4, "40", "")),
        wrong(Remark::ClockJump, "2026-11-21T10:00:02Z after 2026-11-21T10:00:04Z", row("10:00:02Z", "a", 5, "40", "")),
        good("  "),
        wrong(Remark::ArmChanged, "a", row("10:00:06Z", "a", 6, "40", "").replace("canary", "control")),
        // Another ISP in the same bin, and in another one.
        wrong(Remark::Relabelled, "a", row("10:00:07Z", "a", 7, "40", "").replace("NTT", "KDDI")),
        wrong(Remark::Relabelled, "a", row("10:20:00Z", "a", 8, "40", "").replace("NTT", "KDDI")),
        wrong(Remark::Unlabelled, "no label `isp`", row("10:00:08Z", "b", 1, "40", "").replace(",4,", ",,")),
        wrong(Remark::UnknownIsp, "c", row("10:00:08Z", "c", 1, "40", "").replace("NTT", "")),
        wrong(Remark::OutsideWindows, "2026-11-21T03:00:00Z", row("03:00:00Z", "d", 1, "40", "")),
        wrong(Remark::Holiday, "2026-11-23", row("10:00:00Z", "e", 1, "40", "").replace("11-21", "11-23")),
        endless(),
        good(row("10:00:09Z", "z", 1, "40", "")),
        wrong(Remark::Truncated, "ends in the middle", "2026-11-21T10:00:11Z,s1,12"),
    ];
    let never = &[
        (Remark::CrossedOver, "samples do not tell on which arm they were seen"),
        (Remark::StraddlesWindow, "bins are made of samples, within their evening"),
    ];
    // The header is no sample, and is remarked on all the same.
    Format { file: "run/rum.csv", rows, beside: 2, never }
}

fn json_rows() -> Format {
    let row = |time: &str, session: &str, seq: u32| json!({"time": format!("2026-11-21T{time}"), "session": session, "seq": seq, "rtt_ms": 40.0, "arm": "canary", "labels": labels()});
    let with = |mut row: serde_json::Value, name: &str, value: serde_json::Value| {
        row[name] = value;
        row.to_string()
    };
    let placed = |isp: &str| json!({"isp": isp, "family": 4});
    let rows = vec![
        good(row("10:00:00Z", "a", 1).to_string()),
        good(row("10:00:01Z", "a", 2).to_string()),
        wrong(Remark::UnknownColumn, "field `mood`", with(row("10:00:02Z", "a", 3), "mood", json!("x"))),
        wrong(Remark::Duplicate, "a", row("10:00:02Z", "a", 1).to_string()),
        wrong(Remark::Broken, "expected value", "{\"time\": oops}"),
        wrong(Remark::Broken, "no JSON object", "[1, 2]"),
        wrong(Remark::Broken, "outcome `gone` is not known", with(row("10:00:03Z", "a", 4), "outcome", json!("gone"))),
        wrong(Remark::Broken, "no time", with(row("", "a", 4), "time", json!(null))),
        wrong(Remark::Contradicts, "received without a round trip", {
            let lost = with(row("10:00:03Z", "a", 4), "rtt_ms", json!(null));
            with(serde_json::from_str(&lost).unwrap(), "outcome", json!("received"))
        }),
        wrong(Remark::OtherZone, "a", row("12:00:04+02:00", "a", 4).to_string()),
        wrong(Remark::ClockJump, "2026-11-21T10:00:02Z after", row("10:00:02Z", "a", 5).to_string()),
        wrong(Remark::ArmChanged, "a", with(row("10:00:06Z", "a", 6), "arm", json!("control"))),
        wrong(Remark::Relabelled, "a", with(row("10:00:07Z", "a", 7), "labels", placed("KDDI"))),
        wrong(Remark::Relabelled, "a", with(row("10:20:00Z", "a", 8), "labels", placed("KDDI"))),
        wrong(Remark::Unlabelled, "no label `isp`", with(row("10:00:08Z", "b", 1), "labels", json!({"isp": "NTT"}))),
        wrong(Remark::UnknownIsp, "c", with(row("10:00:08Z", "c", 1), "labels", json!({"family": 4}))),
        wrong(Remark::OutsideWindows, "2026-11-21T03:00:00Z", row("03:00:00Z", "d", 1).to_string()),
        wrong(Remark::Holiday, "2026-11-23", with(row("", "e", 1), "time", json!("2026-11-23T10:00:00Z"))),
        endless(),
        good(row("10:00:09Z", "z", 1).to_string()),
        wrong(Remark::Truncated, "ends in the middle", "{\"time\":\"2026-11-21T10:00:1"),
    ];
    let never = &[
        (Remark::CrossedOver, "samples do not tell on which arm they were seen"),
        (Remark::StraddlesWindow, "bins are made of samples, within their evening"),
    ];
    Format { file: "run/rum.jsonl", rows, beside: 0, never }
}

fn samples() -> Format {
    let sample = |time: &str, session: &str, seq: u32| {
        let time: jiff::Timestamp = time.parse().unwrap();
        let at = |more: i64| Planes {
            app: Stamp::new(time.as_nanosecond() as i64 + more, ClockId::Realtime, 0),
            ..Planes::default()
        };
        Sample {
            seq,
            session: session.to_owned(),
            arm: Some(Arm::Canary),
            labels: labels(),
            outcome: Outcome::Received,
            stamps: Stamps { a0: at(0), a1: at(100), a4: at(40_000_000), ..Stamps::default() },
            ledger: None,
            one_way: None,
        }
    };
    let evening = |time: &str, session: &str, seq: u32| sample(&format!("2026-11-21T{time}Z"), session, seq);
    let line = |sample: Sample| serde_json::to_string(&sample).unwrap();
    let placed = |name: &str, value: serde_json::Value, mut of: Sample| {
        match value {
            serde_json::Value::Null => drop(of.labels.remove(name)),
            value => drop(of.labels.insert(name.to_owned(), value)),
        }
        line(of)
    };
    let whole = line(evening("10:00:00", "a", 1));
    let rows = vec![
        good(whole.clone()),
        good(line(evening("10:00:01", "a", 2))),
        wrong(Remark::Duplicate, "a", line(evening("10:00:02", "a", 1))),
        wrong(Remark::Broken, "unknown field `mood`", whole.replace("{\"seq\"", "{\"mood\":1,\"seq\"")),
        wrong(Remark::Broken, "no stamp A0", line(Sample { stamps: Stamps::default(), ..evening("10:00:03", "a", 3) })),
        wrong(
            Remark::Contradicts,
            "received without a round trip",
            line(Sample {
                stamps: Stamps { a4: Planes::default(), ..evening("10:00:03", "a", 3).stamps },
                ..evening("10:00:03", "a", 3)
            }),
        ),
        good(line(evening("10:00:04", "a", 4))),
        wrong(Remark::ClockJump, "2026-11-21T10:00:02Z after 2026-11-21T10:00:04Z", line(evening("10:00:02", "a", 5))),
        wrong(Remark::ArmChanged, "a", line(Sample { arm: Some(Arm::Control), ..evening("10:00:06", "a", 6) })),
        wrong(Remark::Relabelled, "a", placed("isp", json!("KDDI"), evening("10:00:07", "a", 7))),
        wrong(Remark::Relabelled, "a", placed("isp", json!("KDDI"), evening("10:20:00", "a", 8))),
        wrong(Remark::Unlabelled, "no label `isp`", placed("family", json!(null), evening("10:00:08", "b", 1))),
        wrong(Remark::UnknownIsp, "c", placed("isp", json!(null), evening("10:00:08", "c", 1))),
        wrong(Remark::OutsideWindows, "2026-11-21T03:00:00Z", line(evening("03:00:00", "d", 1))),
        wrong(Remark::Holiday, "2026-11-23", line(sample("2026-11-23T10:00:00Z", "e", 1))),
        endless(),
        good(line(evening("10:00:09", "z", 1))),
        wrong(Remark::Truncated, "ends in the middle", &whole[..80]),
    ];
    let never = &[
        (Remark::CrossedOver, "samples do not tell on which arm they were seen"),
        (Remark::StraddlesWindow, "bins are made of samples, within their evening"),
        (Remark::OtherZone, "stamps are nanoseconds of UTC"),
        (Remark::UnknownColumn, "a field that is not known makes a line of ours broken"),
    ];
    Format { file: "run/samples.jsonl", rows, beside: 0, never }
}

fn logs() -> Format {
    let line = |start: &str, tags: &str| {
        let pairs = tags.split(';').filter_map(|pair| pair.split_once('='));
        LogInterval {
            labels: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            start: start.parse().unwrap(),
            length: jiff::SignedDuration::from_mins(10),
            histogram: SparseHistogram::from_iter([40_000_000]),
        }
        .to_line()
    };
    let at = |time: &str, tags: &str| line(&format!("2026-11-21T{time}Z"), tags);
    const A: &str = "session=a;arm=canary;isp=NTT;family=4";
    let rows = vec![
        good("#[Histogram log format version 1.3]"),
        good("\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""),
        good(at("10:00:00", A)),
        wrong(Remark::Duplicate, "a", at("10:00:00", A)),
        wrong(Remark::Broken, "tag arm=both, expected control or canary", at("10:10:00", &A.replace("canary", "both"))),
        wrong(Remark::Broken, "tag sent is no number", at("10:10:00", &format!("{A};sent=x"))),
        wrong(Remark::Broken, "tag metric=mood is not known", at("10:10:00", &format!("{A};metric=mood"))),
        wrong(Remark::Broken, "2 columns, expected", "Tag=session=a,1795255200.000,600.000"),
        wrong(Remark::Contradicts, "session \"b\": ", at("10:10:00", "session=b;isp=NTT;family=4;sent=5;lost=5")),
        wrong(Remark::Unlabelled, "no label `isp`", at("10:10:00", "session=c;isp=NTT")),
        wrong(Remark::UnknownIsp, "d", at("10:10:00", "session=d;family=4")),
        wrong(Remark::OutsideWindows, "2026-11-21T03:00:00Z", at("03:00:00", A)),
        wrong(Remark::StraddlesWindow, "2026-11-21", at("14:55:00", A)),
        wrong(Remark::Holiday, "2026-11-23", line("2026-11-23T11:00:00Z", A)),
        wrong(Remark::ArmChanged, "a", at("12:00:00", &A.replace("canary", "control"))),
        wrong(Remark::Relabelled, "a", at("13:00:00", &A.replace("NTT", "KDDI"))),
        wrong(Remark::ClockJump, "a", at("10:05:00", A)),
        endless(),
        good(at("10:00:00", &A.replace("=a;", "=z;"))),
        wrong(Remark::Truncated, "ends in the middle", "Tag=session=a;arm=canary,1795255200.000,600.0"),
    ];
    let never = &[
        (Remark::CrossedOver, "tags do not tell on which arm a session was seen"),
        (Remark::OtherZone, "intervals are seconds of UTC"),
        (Remark::UnknownColumn, "tags that are not reserved are labels"),
    ];
    Format { file: "run/rtt.hlog", rows, beside: 2, never }
}

#[test]
fn each_class_of_remark_names_file_and_line_in_every_format_with_sessions() {
    for Format { file, rows, beside, never } in [sessions(), csv(), json_rows(), samples(), logs()] {
        let mut ingest = Ingest::new(&experiment()).unwrap();
        // With a table of networks, who is in none of its rows is unknown.
        ingest.lines("tables/asn.tsv", "192.0.2.0/24\t64500\tTable\n".as_bytes()).unwrap();
        let lines: Vec<&[u8]> = rows.iter().map(|(line, _)| line.as_slice()).collect();
        ingest.lines(file, lines.join(&b'\n').as_slice()).unwrap();
        let ingested = ingest.finish();
        for remark in Remark::ALL {
            let mut expected: Vec<String> = (1..)
                .zip(&rows)
                .filter_map(|(number, (_, said))| Some((number, said.filter(|(of, _)| *of == remark)?.1)))
                .map(|(number, what)| format!("{file}:{number}: {what}"))
                .collect();
            let reason = never.iter().find(|(of, _)| *of == remark);
            assert_eq!(
                expected.is_empty(),
                reason.is_some(),
                "{remark:?} in {file}: provoked, or with a reason why not"
            );
            let got = ingested.remarks().get(&remark);
            assert_eq!(got.map_or(0, |got| got.lines), expected.len() as u64, "{remark:?} in {file}: {got:?}");
            let mut told: Vec<String> = got.map_or_else(Vec::new, |got| got.first.clone());
            // Bins of samples are taken at the end of the file.
            told.sort();
            expected.sort();
            // Five of each class are named, the rest is counted.
            assert_eq!(told.len(), expected.len().min(5), "{remark:?} in {file}");
            for line in told {
                assert!(expected.iter().any(|known| line.starts_with(known)), "{remark:?}: {line}\nof {expected:#?}");
            }
        }
        let left_out =
            |(remark, remarks): (&Remark, &pathlab_canary::Remarks)| u64::from(!remark.judged()) * remarks.lines;
        let left_out: u64 = ingested.remarks().iter().map(left_out).sum();
        let table = 1;
        let read: u64 = ingested.inputs().iter().map(|input| input.lines).sum();
        assert_eq!(ingested.judged_lines() + left_out + beside + table, read, "{file}: none is lost in silence");
    }
}

#[test]
fn the_documentation_knows_each_class() {
    let formats = include_str!("../../../docs/formats.md");
    for remark in Remark::ALL {
        let name = serde_json::to_value(remark).unwrap();
        assert!(formats.contains(&format!("`{}`", name.as_str().unwrap())), "{name} in docs/formats.md");
    }
}
