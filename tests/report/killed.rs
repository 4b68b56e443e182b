//! Runs that were killed: what is left of them is told up to where it is cut, by `evidence verify` and on the page.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use pathlab_record::{Run, RunDirectory};
use serde_json::{Value, json};

use super::{fortnight, report, waiting::within};

#[test]
fn a_run_that_was_killed_is_shown_up_to_where_it_broke_off() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("killed");
    let started: Timestamp = "2026-11-08T09:00:00Z".parse().unwrap();
    let mut directory = RunDirectory::create(&path, &Run::new("probe", started)).unwrap();
    fortnight().take(48).for_each(|bin| directory.session(&bin).unwrap());
    drop(directory);
    let sessions = path.join("sessions.jsonl");
    let whole = fs::read_to_string(&sessions).unwrap();
    assert_eq!(whole.lines().count(), 48, "all are on the disk");
    fs::write(&sessions, &whole[..whole.len() - 20]).unwrap();
    let text = report(&[&path], &[]);
    assert!(text.contains("not sealed: it goes on, or was killed"), "{text}");
    assert!(
        text.contains("sessions.jsonl:48: the line is cut short: no line feed: what follows in that file is left out"),
        "{text}"
    );
    assert!(text.contains("NTT IPv4"), "{text}");
}

/// A child that is killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A reflector on loopback that is ready.
fn reflector(place: &Path) -> (Process, SocketAddr) {
    let target = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ready = place.join("ready");
    let told = UnixDatagram::bind(&ready).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reflect = Command::new(env!("CARGO_BIN_EXE_pathlab"));
    reflect.args(["reflect", "--listen", &target.to_string()]).stdout(Stdio::null());
    reflect.env("NOTIFY_SOCKET", &ready).env("PATHLAB_LOG", "warn");
    let process = Process(reflect.spawn().expect("pathlab was built"));
    told.recv(&mut [0; 64]).expect("it is ready");
    (process, target)
}

/// Starts a verb, waits until a file of its run holds so much, and kills it.
fn killed(place: &Path, args: &str, file: &str, octets: u64) {
    let mut verb = Command::new(env!("CARGO_BIN_EXE_pathlab"))
        .args(args.split_whitespace())
        .current_dir(place)
        .env("PATHLAB_LOG", "warn")
        .stdout(Stdio::null())
        .spawn()
        .expect("pathlab was built");
    within(Duration::from_secs(30), || {
        assert!(verb.try_wait().unwrap().is_none(), "{args}: ended by itself");
        fs::metadata(place.join("killed").join(file)).map_or(0, |found| found.len()) >= octets
    });
    verb.kill().unwrap();
    verb.wait().unwrap();
}

/// What `evidence verify` says of a run that was killed: it is no proof, this is where it is cut, and that is what is before.
fn remains(place: &Path) -> (String, Value) {
    let verify = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pathlab"));
        let output = command.args(["evidence", "verify", "killed"]).args(more).current_dir(place).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("killed was never sealed"), "{said}");
        (said, String::from_utf8(output.stdout).unwrap())
    };
    let json: Value = serde_json::from_str(&verify(&["--json"]).1).unwrap();
    (verify(&[]).0, json["verified"][0]["remains"].clone())
}

#[test]
fn verbs_that_are_killed_leave_what_is_told_up_to_the_cut() {
    // A probe in the middle of a line.
    let place = tempfile::tempdir().unwrap();
    let (_reflector, target) = reflector(place.path());
    let probe = format!("probe {target} --fan 20 --interval 10ms --duration 60s --out killed");
    killed(place.path(), &probe, "samples.jsonl", 1 << 17);
    let (text, json) = remains(place.path());
    let whole = fs::read_to_string(place.path().join("killed/samples.jsonl")).unwrap();
    let (lines, cut) = (whole.matches('\n').count(), whole.len() - whole.rfind('\n').unwrap() - 1);
    assert!(lines > 100 && cut > 0, "64 KiB at a time: {lines} {cut}");
    let line = format!("samples.jsonl: {lines} whole lines; line {} is cut short after {cut} octets", lines + 1);
    assert!(text.contains(&line) && text.contains("evidence.jsonl: 1 whole records, the last at "), "{text}");
    let file = json["files"].as_array().unwrap().iter().find(|file| file["name"] == "samples.jsonl").unwrap();
    assert_eq!((&file["lines"], &file["cut"], &json["records"]), (&json!(lines), &json!(cut), &json!(1)));
    let page = report(&[&place.path().join("killed")], &[]);
    assert!(page.contains(&line) && page.contains("not sealed: it goes on, or was killed"), "{page}");

    // A trace writes its document at its end.
    let place = tempfile::tempdir().unwrap();
    killed(place.path(), &format!("trace {target} --flows 1 --count 1000 --out killed"), "evidence.jsonl", 1);
    let (text, json) = remains(place.path());
    assert!(text.contains("evidence.jsonl: 1 whole records") && text.contains("run.json: "), "{text}");
    assert_eq!((json["files"].as_array().unwrap().len(), &json["broken"]), (1, &Value::Null), "{json:#}");
    let page = report(&[&place.path().join("killed")], &[]);
    assert!(page.contains("killed was never sealed: evidence.jsonl: 1 whole records"), "{page}");

    // What a controller did before it was killed is in its chain, which may be cut as well.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("killed");
    let started: Timestamp = "2026-11-08T09:00:00Z".parse().unwrap();
    let mut directory = RunDirectory::create(&path, &Run::new("canary start", started)).unwrap();
    for deed in ["steering began", "ramp 20%", "ramp 25%"] {
        directory.note(started, Some("operator"), deed).unwrap();
    }
    drop(directory);
    let chain = path.join("evidence.jsonl");
    let whole = fs::read_to_string(&chain).unwrap();
    fs::write(&chain, &whole[..whole.len() - 9]).unwrap();
    let (text, json) = remains(place.path());
    let line =
        "evidence.jsonl: 3 whole records, the last at 2026-11-08T09:00:00Z: ramp 20%; record 3: the line is cut short";
    assert!(text.contains(line) && json["broken"] == "the line is cut short", "{text}");
    let page = report(&[&path], &[]);
    let html = fs::read_to_string(path.join("report.html")).unwrap();
    assert!(
        page.contains(line) && html.contains("<td class=\"l\">ramp 20%</td>") && !html.contains("ramp 25%"),
        "{page}"
    );
    // One that does not follow from the one before is told, too.
    fs::write(&chain, whole.replace("steering began", "steering ended")).unwrap();
    assert!(remains(place.path()).0.contains(
        "evidence.jsonl: 2 whole records, the last at 2026-11-08T09:00:00Z: steering ended; record 2: does not follow"
    ));
}
