//! A run directory is written, sealed, read back, and refused when it is not what it should be.

use std::{fs, path::Path, process::Command};

use jiff::{SignedDuration, Timestamp};
use pathlab_record::{
    Arm, ClockId, Error, KeepSamples, Labels, Ledger, LogInterval, Outcome, Planes, RecordedRun, Run, RunDirectory,
    Sample, SessionBin, SparseHistogram, Stamp, Stamps, evidence::Fault, verify,
};
use serde_json::json;

fn time(minute: i8) -> Timestamp {
    format!("2026-11-21T10:{minute:02}:00Z").parse().unwrap()
}

fn labels() -> Labels {
    [("isp".to_owned(), json!("NTT")), ("family".to_owned(), json!(4))].into()
}

fn sample(session: &str, seq: u32) -> Sample {
    let at = |nanoseconds: i64| {
        let stamp = Stamp::new(1_795_255_200_000_000_000 + nanoseconds, ClockId::Realtime, 0);
        Planes { app: stamp, kernel: stamp, ..Planes::default() }
    };
    let slot = Planes { kernel: None, ..at(0) };
    let stamps = Stamps { a0: slot, a1: at(412), b2: at(15_000_000), b3: at(15_002_210), a4: at(31_827_157) };
    Sample {
        seq,
        session: session.to_owned(),
        arm: Some(Arm::Canary),
        labels: labels(),
        outcome: Outcome::Received,
        stamps,
        ledger: Ledger::split(&stamps),
        one_way: None,
    }
}

fn bin(session: &str) -> SessionBin {
    SessionBin {
        session: session.to_owned(),
        arm_assigned: Some(Arm::Canary),
        labels: labels(),
        start: time(0),
        end: time(10),
        zone: "Asia/Tokyo".to_owned(),
        sent: 2,
        received: 2,
        rtt: Some([31_827_157, 31_900_000].into_iter().collect()),
        source: "probe".to_owned(),
        ..SessionBin::default()
    }
}

fn interval() -> LogInterval {
    LogInterval {
        labels: [("arm".to_owned(), "canary".to_owned())].into(),
        start: time(0),
        length: SignedDuration::from_secs(10),
        histogram: (1..=1000).map(|n| n * 30_000).collect::<SparseHistogram>(),
    }
}

fn write(path: &Path) -> RunDirectory {
    let run = Run { labels: labels(), options: json!({"count": 2}), ..Run::new("probe", time(0)) };
    let mut directory = RunDirectory::create(path, &run).unwrap();
    for seq in 0..2 {
        assert!(directory.sample(&sample("k7f3", seq)).unwrap());
    }
    directory.session(&bin("k7f3")).unwrap();
    directory.interval("rtt", &interval()).unwrap();
    directory.note(time(5), Some("operator"), "ramp 20%").unwrap();
    directory.artefact("verdict.json", b"{\"verdict\":\"hold\"}\n").unwrap();
    directory
}

fn message<T>(result: Result<T, Error>) -> String {
    result.map(drop).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("runs/2026-11-21T100000Z-probe");
    let head = write(&path).seal(time(10)).unwrap();

    let recorded = RecordedRun::open(&path).unwrap();
    assert_eq!((recorded.run.verb.as_str(), recorded.run.started), ("probe", time(0)));
    assert!(recorded.is_sealed());
    let samples: Vec<Sample> = recorded.samples().unwrap().map(Result::unwrap).collect();
    assert_eq!(samples, [sample("k7f3", 0), sample("k7f3", 1)]);
    let bins: Vec<SessionBin> = recorded.sessions().unwrap().map(Result::unwrap).collect();
    assert_eq!(bins, [bin("k7f3")]);
    let intervals: Vec<LogInterval> = recorded.intervals("rtt").unwrap().map(Result::unwrap).collect();
    assert_eq!(intervals, [interval()]);
    assert_eq!(recorded.intervals("ipdv").unwrap().count(), 0);

    let verified = verify(&path).unwrap();
    assert_eq!((verified.sealed, verified.head), (head, head));
    assert!(verified.holds(&head) && verified.unlisted.is_empty());
    let actions: Vec<&str> = verified.records.iter().map(|record| record.action.as_str()).collect();
    assert_eq!(actions, ["start", "ramp 20%", "write", "write", "write", "write", "seal"]);
    assert_eq!(verified.records[1].actor, "operator");
}

#[test]
fn plain_sha256sum_accepts_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run");
    let head = write(&path).seal(time(10)).unwrap();
    let check =
        || Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&path).output().unwrap();
    let output = check();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 6);
    let last =
        Command::new("sh").args(["-c", "tail -n1 evidence.jsonl | sha256sum"]).current_dir(&path).output().unwrap();
    assert!(String::from_utf8(last.stdout).unwrap().starts_with(&head.sha256.to_string()));
    RecordedRun::open(&path)
        .unwrap()
        .append("report.html", b"<html>", time(20), "pathlab 0.1.0 report", "report")
        .unwrap();
    assert!(check().status.success());
}

#[test]
fn a_report_is_recorded_after_the_seal_and_may_be_made_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run");
    let sealed = write(&path).seal(time(10)).unwrap();
    let recorded = RecordedRun::open(&path).unwrap();
    let mut head = sealed;
    for content in [&b"<html>1"[..], b"<html>2"] {
        head = recorded.append("report.html", content, time(20), "pathlab 0.1.0 report", "report").unwrap();
        let verified = verify(&path).unwrap();
        assert_eq!((verified.sealed, verified.head), (sealed, head));
        assert!(verified.holds(&sealed), "the head printed before the report stays valid");
    }
    assert_eq!(head.index, sealed.index + 2);
    let append = |name| message(recorded.append(name, b"", time(30), "", ""));
    assert!(append("verdict.json").contains("was sealed"));
    assert!(append("../verdict.json").contains("up to 128 letters"));
    assert!(append("samples.jsonl").contains("writes itself"));
    fs::write(path.join("verdict.json"), "{\"verdict\":\"promote\"}\n").unwrap();
    assert!(
        append("other.html").contains("verdict.json is not the file of record"),
        "nothing is added to a broken run"
    );
}

#[test]
fn a_killed_run_is_seen_to_be_unsealed() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run");
    std::mem::forget(write(&path)); // as kill -9 does: nothing is flushed
    let recorded = RecordedRun::open(&path).unwrap();
    assert!(!recorded.is_sealed());
    assert!(matches!(verify(&path), Err(Error::Unsealed { .. })));
    assert!(message(recorded.append("report.html", b"", time(1), "", "")).contains("never sealed"));
    fs::write(path.join("samples.jsonl"), "{\"seq\":0,\"sess").unwrap();
    let lines: Vec<_> = recorded.samples().unwrap().collect();
    assert_eq!(lines.len(), 1);
    assert!(
        message(lines.into_iter().next().unwrap()).ends_with("samples.jsonl:1: the line is cut short: no line feed")
    );
}

#[test]
fn an_occupied_directory_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    RunDirectory::create(home.path(), &Run::new("probe", time(0))).expect("an empty directory will do");
    let before = fs::read_dir(home.path()).unwrap().count();
    let refused = RunDirectory::create(home.path(), &Run::new("probe", time(0)));
    assert!(message(refused).contains("not empty"));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), before);
}

#[test]
fn names_that_would_leave_the_directory_or_clash_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut directory = RunDirectory::create(home.path().join("run"), &Run::new("probe", time(0))).unwrap();
    for name in
        ["", ".", "..", "../x", "a/b", "-rf", ".hidden", "a b", "é", "a\nb", &"x".repeat(129), "run.json", "SHA256SUMS"]
    {
        assert!(matches!(directory.artefact(name, b""), Err(Error::Name { .. })), "{name}");
    }
    assert!(matches!(directory.interval("a/b", &interval()), Err(Error::Name { .. })));
    directory.artefact("once.json", b"").unwrap();
    assert!(message(directory.artefact("once.json", b"")).contains("written before"));
}

#[test]
fn broken_lines_are_named_with_file_line_and_field() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run");
    write(&path).seal(time(10)).unwrap();
    let good = serde_json::to_string(&bin("k7f3")).unwrap();
    let recorded = RecordedRun::open(&path).unwrap();
    let after_a_good_line = |line: &str| {
        fs::write(path.join("sessions.jsonl"), format!("{good}\n{line}\n")).unwrap();
        let lines: Vec<_> = recorded.sessions().unwrap().collect();
        assert_eq!(lines.len(), 2, "nothing is read after a broken line");
        let text = message(lines.into_iter().next_back().unwrap());
        assert!(text.contains("sessions.jsonl:2: "), "{text}");
        text
    };
    for (from, to, what) in [
        (r#""sent":2"#, r#""sent":"two""#, "field \"sent\""),
        (r#""sent":2"#, r#""sent":-2"#, "field \"sent\""),
        (r#""sent":2"#, r#""sent":3"#, "sent 3 is not received 2 + lost 0"),
        (r#""sent":2"#, r#""send":2"#, "unknown field `send`"),
        (r#""sent":2,"#, "", "missing field `sent`"),
        (r#""rtt":""#, r#""rtt":"!"#, "field \"rtt\""),
        ("2026-11-21T10:00:00Z", "yesterday", "field \"start\""),
    ] {
        let text = after_a_good_line(&good.replace(from, to));
        assert!(text.contains(what), "{text}");
    }
    assert!(after_a_good_line(&"x".repeat(5 << 20)).contains("longer than 4194304 bytes"));
    fs::write(path.join("run.json"), "{\"schema\":\"other/1\"}").unwrap();
    assert!(message(RecordedRun::open(&path)).contains("run.json:1: schema \"other/1\""));
    assert!(message(RecordedRun::open(home.path())).contains("cannot read"));
}

#[test]
fn whole_sessions_are_kept_whatever_their_order() {
    let sessions: Vec<String> = (0..200).map(|n| format!("s{n}")).collect();
    let kept = |keep_samples, order: &[&String]| {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let mut directory = RunDirectory::create(&path, &Run { keep_samples, ..Run::new("probe", time(0)) }).unwrap();
        for seq in 0..3 {
            for session in order {
                directory.sample(&sample(session, seq)).unwrap();
            }
        }
        directory.seal(time(1)).unwrap();
        verify(&path).unwrap();
        let samples = RecordedRun::open(&path).unwrap().samples().unwrap();
        let mut names: Vec<String> = samples.map(|sample| sample.unwrap().session).collect();
        names.sort();
        names
    };
    let forward: Vec<&String> = sessions.iter().collect();
    let backward: Vec<&String> = sessions.iter().rev().collect();
    for policy in [KeepSamples::Sessions(20), KeepSamples::Share(0.2), KeepSamples::Sessions(0), KeepSamples::All] {
        let names = kept(policy, &forward);
        assert_eq!(names, kept(policy, &backward));
        assert!(names.chunks(3).all(|three| three.len() == 3 && three[0] == three[2]), "whole sessions: {names:?}");
        match policy {
            KeepSamples::Sessions(most) => assert_eq!(names.len(), most * 3),
            KeepSamples::Share(_) => assert!((60..=180).contains(&names.len()), "{}", names.len()),
            KeepSamples::All => assert_eq!(names.len(), 600),
        }
    }
}

#[test]
fn a_bin_that_contradicts_itself_is_not_written() {
    let home = tempfile::tempdir().unwrap();
    let mut directory = RunDirectory::create(home.path().join("run"), &Run::new("probe", time(0))).unwrap();
    assert!(message(directory.session(&SessionBin { sent: 9, ..bin("k7f3") })).contains("sent 9"));
}

#[test]
fn a_file_that_was_not_recorded_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run");
    write(&path).seal(time(10)).unwrap();
    fs::write(path.join("notes.txt"), "hello").unwrap();
    assert_eq!(verify(&path).unwrap().unlisted, ["notes.txt"]);
    fs::remove_file(path.join("verdict.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path.join("verdict.json")).unwrap();
    let Err(Error::Evidence { fault, .. }) = verify(&path) else {
        panic!("a link to /dev/zero passed for the verdict")
    };
    assert!(matches!(*fault, Fault::Missing { ref name, .. } if name == "verdict.json"), "{fault}");
}
