use sha2::{Digest, Sha256};

use super::*;
use crate::experiment::tests::EXAMPLE;

#[path = "../../../record/tests/support/mmdb.rs"]
mod mmdb;

fn line(session: &str, more: &str) -> String {
    format!(
        r#"{{"session":"{session}","labels":{{"isp":"NTT","family":4}},"start":"2026-11-21T10:00:00Z","end":"2026-11-21T10:10:00Z","zone":"Asia/Tokyo","sent":0,"received":0,"lost":0,"source":"probe"{more}}}"#
    )
}

fn ingest(text: &str) -> Ingested {
    let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
    let mut ingest = Ingest::new(&experiment).unwrap();
    ingest.lines("run/sessions.jsonl", text.as_bytes()).unwrap();
    ingest.finish()
}

fn count(ingested: &Ingested, remark: Remark) -> u64 {
    ingested.remarks.get(&remark).map_or(0, |remarks| remarks.lines)
}

#[test]
fn every_line_is_judged_or_counted_with_its_place() {
    let good = line("a", "");
    let lines = [
        good.clone(),
        good.clone(),
        line("a", "").replace("\"sent\":0", "\"sent\":1"),
        "{not json".to_owned(),
        line("b", ",\"colour\":1"),
        line("c", "").replace("\"isp\":\"NTT\",", ""),
        line("d", "").replace("T10:", "T01:"),
        line("e", "").replace("T10:00", "T09:55"),
        line("f", "").replace("Asia/Tokyo", "UTC"),
        line("a", ",\"arm_assigned\":\"canary\",\"arm_seen\":\"control\"").replace("T10:", "T11:"),
        line("a", ",\"arm_assigned\":\"control\"").replace("T10:", "T12:"),
        line("a", "").replace("T10:", "T13:").replace("NTT", "KDDI"),
        String::new(),
        "x".repeat(2 << 20),
    ];
    let text = lines.join("\n") + "\n" + &good[..40];
    let ingested = ingest(&text);
    for (remark, lines) in [
        (Remark::Duplicate, 1),
        (Remark::Contradicts, 1),
        (Remark::Broken, 3),
        (Remark::Unlabelled, 1),
        (Remark::OutsideWindows, 1),
        (Remark::StraddlesWindow, 1),
        (Remark::OtherZone, 1),
        (Remark::CrossedOver, 1),
        (Remark::ArmChanged, 1),
        (Remark::Relabelled, 1),
        (Remark::Truncated, 1),
    ] {
        assert_eq!(count(&ingested, remark), lines, "{remark:?} {:?}", ingested.remarks);
    }
    assert_eq!(
        ingested.remarks[&Remark::Contradicts].first,
        ["run/sessions.jsonl:3: session \"a\": sent 1 is not received 0 + lost 0"]
    );
    let left_out: u64 =
        ingested.remarks.iter().filter(|(remark, _)| !remark.judged()).map(|(_, remarks)| remarks.lines).sum();
    let empty = 1;
    assert_eq!(ingested.judged_lines + left_out + empty, ingested.inputs[0].lines);
    assert_eq!(ingested.inputs[0].bytes, text.len() as u64);
    let whole: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ingested.inputs[0].sha256, whole);
}

#[test]
fn every_line_of_a_holiday_is_counted_with_its_date() {
    let text = EXAMPLE.replace("holidays = []", "holidays = [\"2026-11-21\"]");
    assert_ne!(text, EXAMPLE);
    let mut ingest = Ingest::new(&Experiment::from_toml("canary.toml", &text).unwrap()).unwrap();
    let labelled = line("b", "").replace("T10:", "T01:").replace("\"isp\"", "\"window\":\"2026-11-21\",\"isp\"");
    let lines = [line("a", ""), labelled, line("c", "").replace("11-21", "11-22")];
    ingest.lines("run/sessions.jsonl", lines.join("\n").as_bytes()).unwrap();
    let ingested = ingest.finish();
    let holiday = &ingested.remarks[&Remark::Holiday];
    assert_eq!((holiday.lines, ingested.judged_lines), (2, 1));
    assert_eq!(holiday.first, ["run/sessions.jsonl:1: 2026-11-21", "run/sessions.jsonl:2: 2026-11-21"]);
}

#[test]
fn bins_of_a_window_are_one_distribution() {
    let histogram: pathlab_record::SparseHistogram = [1_000, 2_000].into_iter().collect();
    let rtt = format!(",\"rtt\":\"{}\"", histogram.to_base64());
    let bin = |hour: &str| {
        line("a", &rtt).replace("T10:", hour).replace("\"sent\":0,\"received\":0", "\"sent\":2,\"received\":2")
    };
    let ingested = ingest(&[bin("T10:"), bin("T11:")].join("\n"));
    let session = &ingested.sessions[0];
    assert_eq!(session.windows.0.len(), 1);
    let seen = &session.windows.0[0].1;
    assert_eq!((seen.sent, seen.series[Series::Rtt as usize].count()), (4, 4));
}

/// A file of several chunks, in which lines depend on lines far before them: read on all cores it is what it is line by line.
#[test]
fn all_cores_read_what_one_reads() {
    let histogram: pathlab_record::SparseHistogram = (1..400).map(|value| value * 100_000).collect();
    let rtt = format!(",\"rtt\":\"{}\"", histogram.to_base64());
    let mut text = String::new();
    for number in 0..4_000 {
        let name = format!("s{}", number % 1_900);
        let hour = if number % 7 == 0 { "T11:" } else { "T10:" };
        let whole = line(&name, &rtt).replace("T10:", hour);
        let whole = whole.replace("\"sent\":0,\"received\":0", "\"sent\":399,\"received\":399");
        text += &match number % 97 {
            0 => whole[..200].to_owned(),
            1 => whole.replace("NTT", "KDDI"),
            2 => whole.replace("\"sent\":399", "\"sent\":400"),
            3 => String::new(),
            _ => whole,
        };
        text.push('\n');
        if number == 2_500 {
            text += &"x".repeat(3 << 20);
            text.push('\n');
        }
    }
    text += &line("last", "")[..50];
    assert!(text.len() > 6 << 20, "{}", text.len());
    let all = ingest(&text);
    let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
    let mut alone = Ingest::new(&experiment).unwrap();
    let mut form = Form::Sessions;
    for (number, line) in text.split('\n').enumerate() {
        let at = Line { file: "run/sessions.jsonl", number: number as u64 + 1 };
        if line.len() > 1 << 20 {
            alone.refuse(told::too_long(), at);
        } else if !line.is_empty()
            && let Err(refused) = alone.line(&mut form, line.as_bytes(), at).unwrap()
        {
            alone.refuse(refused.cut_off(number as u64 == text.matches('\n').count() as u64), at);
        }
    }
    let alone = alone.finish();
    assert_eq!(all.remarks, alone.remarks);
    assert_eq!(all.judged_lines, alone.judged_lines);
    assert_eq!(format!("{:?}", all.sessions), format!("{:?}", alone.sessions));
    for remark in [Remark::Broken, Remark::Truncated, Remark::Relabelled, Remark::Contradicts, Remark::Duplicate] {
        assert!(count(&all, remark) > 0, "{remark:?}");
    }
}

#[test]
fn a_table_of_prefixes_tells_the_isp_where_no_label_does() {
    let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
    let mut ingest = Ingest::new(&experiment).unwrap();
    let table = "192.0.2.0/24\t2914\tNTT\n# a comment\n2001:db8::/32\t64500\nbroken\n";
    ingest.lines("tables/asn.tsv", table.as_bytes()).unwrap();
    let keyed = |key: &str| {
        line(key, &format!(",\"key\":\"{key}\"")).replace("\"isp\":\"NTT\",", "").replace("\"family\":4", "")
    };
    let lines = [keyed("192.0.2.7:1"), keyed("[2001:db8::9]:2"), keyed("198.51.100.1:3"), line("labelled", "")];
    ingest.lines("run/sessions.jsonl", lines.join("\n").as_bytes()).unwrap();
    let ingested = ingest.finish();
    let cells: Vec<String> = ingested.cells.iter().map(ToString::to_string).collect();
    assert_eq!(cells, ["NTT IPv4", "AS64500 IPv6", "unknown IPv4"]);
    assert_eq!(ingested.remarks[&Remark::UnknownIsp].first, ["run/sessions.jsonl:3: 198.51.100.1:3"]);
    assert!(ingested.remarks[&Remark::Broken].first[0].starts_with("tables/asn.tsv:4: expected PREFIX"));
    assert_eq!((ingested.inputs[1].name.as_str(), ingested.inputs[1].lines), ("tables/asn.tsv", 4));
    assert_eq!(ingested.judged_lines, 4);
}

#[test]
fn several_tables_of_any_form_are_one_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let networks = [("192.0.2.0".parse().unwrap(), 25, mmdb::Value::network(64501, "Database"))];
    let keyed = |key: &str| line(key, &format!(",\"key\":\"{key}\"")).replace("\"isp\":\"NTT\",\"family\":4", "");
    let lines = ["192.0.2.7:1", "192.0.2.200:1", "[2001:db8::9]:2", "198.51.100.1:3"].map(keyed).join("\n");
    let files = [
        file("sessions.jsonl", lines.as_bytes()),
        file("b.tsv", b"192.0.2.0/24\t64500\tText\n"),
        file("c.csv", b"network,asn,as_name\n2001:db8::/32,AS2914,\"N, TT\"\n2001:db9::/32,AS2914\n"),
        file("d.mmdb", &mmdb::write(&networks, 6, 28)),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
        let mut ingest = Ingest::new(&experiment).unwrap();
        ingest.runs(order.map(|place| files[place].as_path())).unwrap();
        let ingested = ingest.finish();
        let cells: Vec<String> = ingested.cells.iter().map(ToString::to_string).collect();
        assert_eq!(cells, ["Database IPv4", "Text IPv4", "N, TT IPv6", "unknown IPv4"]);
        assert_eq!((ingested.judged_lines, ingested.inputs.len()), (4, 4));
        assert!(!ingested.remarks.contains_key(&Remark::Broken), "{:?}", ingested.remarks);
        let database = ingested.inputs.iter().find(|input| input.name.ends_with("d.mmdb")).unwrap();
        assert_eq!(database.bytes, std::fs::metadata(&files[3]).unwrap().len());
    }
    let mut ingest = Ingest::new(&Experiment::from_toml("canary.toml", EXAMPLE).unwrap()).unwrap();
    let cut = &std::fs::read(&files[3]).unwrap()[200..];
    let error = ingest.runs([file("cut.mmdb", cut).as_path()]).unwrap_err().to_string();
    assert!(error.contains("cut.mmdb: no table of networks"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_lose_a_line(bytes: Vec<u8>) {
        let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
        let mut ingest = Ingest::new(&experiment).unwrap();
        ingest.lines("x", bytes.as_slice()).unwrap();
        let blank = bytes.split(|byte| *byte == b'\n').filter(|line| line.trim_ascii().is_empty()).count() as u64;
        let blank = blank - u64::from(bytes.is_empty() || bytes.ends_with(b"\n"));
        let ingested = ingest.finish();
        let counted: u64 = ingested.remarks.values().map(|remarks| remarks.lines).sum();
        proptest::prop_assert_eq!(ingested.inputs[0].lines, counted + blank);
    }
}
