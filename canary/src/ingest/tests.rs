use super::*;
use crate::experiment::tests::EXAMPLE;

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
