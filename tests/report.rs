//! `pathlab report` end to end: a fortnight of six ISPs on one small page, labels that mean harm, and a chain that goes on.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use jiff::{SignedDuration, Timestamp};
use pathlab_guard::privilege::skip;
use pathlab_record::{Arm, Run, RunDirectory, SessionBin, SparseHistogram, verify};
use serde_json::{Value, json};

const BIN: SignedDuration = SignedDuration::from_mins(10);

/// Markup, an attribute's end, control and direction characters.
const HOSTILE: &str = "</title></style><script>document.title='executed'</script><img src=x onerror=\"alert(1)\">'\"&\u{1b}[2J\u{202e}\u{0}";

fn run(place: &Path, name: &str, bins: impl Iterator<Item = SessionBin>) -> PathBuf {
    let path = place.join(name);
    let started: Timestamp = "2026-11-08T09:00:00Z".parse().unwrap();
    let mut about = Run::new("probe", started);
    about.host.insert("name".to_owned(), json!(HOSTILE));
    let mut directory = RunDirectory::create(&path, &about).unwrap();
    bins.for_each(|bin| directory.session(&bin).unwrap());
    directory.note(started, Some(HOSTILE), "ramp 20%").unwrap();
    directory.seal(started).unwrap();
    path
}

fn bin(isp: &str, family: u8, arm: Arm, session: usize, start: Timestamp, rtt_ms: f64, lost: u64) -> SessionBin {
    let mut rtt = SparseHistogram::new();
    (0..20).for_each(|packet| rtt.record(((rtt_ms + f64::from(packet) * 0.4) * 1e6) as u64));
    SessionBin {
        session: format!("{isp}-{family}-{session}"),
        arm_assigned: Some(arm),
        labels: [("isp".to_owned(), json!(isp)), ("family".to_owned(), json!(family))].into(),
        start,
        end: start + BIN,
        zone: "Asia/Tokyo".to_owned(),
        sent: 20 + lost,
        received: 20,
        lost,
        rtt: Some(rtt),
        source: "probe".to_owned(),
        ..SessionBin::default()
    }
}

/// 19:00 to 24:00 in Tokyo on 14 evenings; worst at 21:30, on the control arm of the first ISPs, and nothing measured on the sixth evening.
fn fortnight() -> impl Iterator<Item = SessionBin> {
    let first: Timestamp = "2026-11-08T10:00:00Z".parse().unwrap();
    let isps = ["NTT", "KDDI", "SoftBank", "Jupiter", "OPTAGE", "BIGLOBE"];
    (0..14).filter(|night| *night != 5).flat_map(move |night| {
        (0..30).flat_map(move |slot| {
            let start = first + SignedDuration::from_hours(24 * night) + BIN * slot;
            let evening = 1.0 - (f64::from(slot) - 15.0).abs() / 15.0;
            isps.into_iter().enumerate().flat_map(move |(number, isp)| {
                [4, 6].into_iter().flat_map(move |family| {
                    [Arm::Control, Arm::Canary].into_iter().map(move |arm| {
                        let hit = if arm == Arm::Control { 60.0 / (1.0 + number as f64) } else { 4.0 };
                        let rtt = 8.0 + number as f64 + evening.powi(2) * hit + (night % 3) as f64;
                        let lost = if arm == Arm::Control && evening > 0.7 && number < 2 { 1 } else { 0 };
                        bin(isp, family, arm, 0, start, rtt, lost)
                    })
                })
            })
        })
    })
}

fn report(runs: &[&Path], more: &[&str]) -> String {
    report_with(0, runs, more)
}

fn report_with(code: i32, runs: &[&Path], more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pathlab"))
        .arg("report")
        .args(runs)
        .args(more)
        .output()
        .expect("pathlab was built");
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_fortnight_of_six_isps_is_a_small_page_that_needs_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path(), "fortnight", fortnight());
    let text = report(&[&run], &[]);
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(html.len() < 1_000_000, "{} bytes", html.len());
    for outside in ["http://", "https://", "<script", "<img", "<link", "<iframe", "@import", "url(http"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("<figcaption>").count(), 24 + 12, "a heatmap for each arm, percentiles for each place");
    // The evening that nobody measured has a row of its own, without data.
    assert_eq!(html.matches(">2026-11-13</text>").count(), 24);
    assert_eq!(html.matches("class=\"empty\"").count(), 24 + 1, "dots in every heatmap, and in the legend");
    assert!(
        text.contains("no verdict among the runs") && text.contains("NTT IPv4") && text.contains("21:30"),
        "{text}"
    );
    // Hashes can be taken again from the JSON by other tools.
    let json = report(&[&run], &["--json", "-o", "/dev/null"]);
    let program = "import hashlib,json,sys\nd=json.load(sys.stdin)['figures']\nfor f in d.values(): assert hashlib.sha256(json.dumps(f['data'],separators=(',',':'),ensure_ascii=False).encode()).hexdigest()==f['sha256']";
    let mut python = Command::new("python3").args(["-c", program]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(json.as_bytes()).unwrap();
    assert!(python.wait().unwrap().success());
    let json: Value = serde_json::from_str(&json).unwrap();
    let cells = json["figures"]["evenings"]["data"]["panels"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 13 * 30);
}

#[test]
fn the_chain_is_sealed_before_the_page_and_a_later_record_hashes_it() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path(), "run", fortnight().take(48));
    let sealed = verify(&run).unwrap().sealed;
    for again in 1..=2 {
        let text = report(&[&run], &[]);
        let verified = verify(&run).unwrap();
        assert_eq!(verified.sealed, sealed);
        let html = fs::read_to_string(run.join("report.html")).unwrap();
        assert!(html.contains(&sealed.to_string()), "the page shows the sealed head");
        assert!(text.contains(&verified.head.to_string()) && verified.head.index == sealed.index + again, "{text}");
        let sums =
            Command::new("sha256sum").args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&run).output();
        assert!(sums.unwrap().status.success(), "sha256sum -c takes the new sums");
    }
    fs::write(run.join("sessions.jsonl"), "").unwrap();
    let other = place.path().join("other.html");
    let text = report_with(1, &[&run], &["-o", other.to_str().unwrap()]);
    assert!(text.contains("Not as sealed: "), "{text}");
    assert!(text.contains("NOT AS SEALED: sessions.jsonl is not the file"), "{text}");
    assert!(fs::read_to_string(other).unwrap().contains("NOT AS SEALED"));
}

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
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A reflector on loopback that is ready.
fn reflector(place: &Path) -> (Process, std::net::SocketAddr) {
    let target = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ready = place.join("ready");
    let told = std::os::unix::net::UnixDatagram::bind(&ready).unwrap();
    told.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut reflect = Command::new(env!("CARGO_BIN_EXE_pathlab"));
    reflect.args(["reflect", "--listen", &target.to_string()]).stdout(std::process::Stdio::null());
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
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("pathlab was built");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fs::metadata(place.join("killed").join(file)).map_or(0, |found| found.len()) < octets {
        assert!(std::time::Instant::now() < deadline && verb.try_wait().unwrap().is_none(), "{args}: {file}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
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

#[test]
fn a_capture_for_others_has_pseudonyms_and_sums_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let capture = place.path().join("pack");
    for folder in ["proc/net", "more", "port/enx0242ac110002"] {
        fs::create_dir_all(capture.join(folder)).unwrap();
    }
    fs::write(
        capture.join("capture.json"),
        "{\"schema\":\"pathlab.host.capture/1\",\"ports\":[\"enx0242ac110002\"],\"window_ms\":0}\n",
    )
    .unwrap();
    fs::write(capture.join("proc/net/udp"), "  12: 077100CB:1F40 00000000:0000 07 00000000:00000000 00:00000000\n")
        .unwrap();
    fs::write(capture.join("more/addresses"), "link/ether 02:42:ac:11:00:02\n inet 203.0.113.7/24 on tyo-game-7\n")
        .unwrap();
    fs::write(capture.join("port/enx0242ac110002/irqs.entries"), "24\n").unwrap();
    fs::write(capture.join("SHA256SUMS"), "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pathlab"));
    command.args(["evidence", "pseudonymise", "pack", "--host", "tyo-game-7", "--key", "key", "--out", "shown"]);
    let output = command.current_dir(place.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("a capture of 4 files"), "{said}{output:?}");
    let shown = place.path().join("shown/pack");
    let mut sums = Command::new("sha256sum");
    assert!(sums.args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&shown).status().unwrap().success());
    let all = Command::new("grep").args(["-rc", "."]).current_dir(&shown).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&all.stdout).lines().count(), 5);
    let left = Command::new("sh")
        .args([
            "-c",
            "{ find . ; cat $(find . -type f); } | grep -iE '203\\.0\\.113|077100CB|0242ac11|42:ac:11|tyo-game'",
        ])
        .current_dir(&shown)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    // The port has one name in its description and in the names of folders.
    let about: Value = serde_json::from_slice(&fs::read(shown.join("capture.json")).unwrap()).unwrap();
    assert!(shown.join("port").join(about["ports"][0].as_str().unwrap()).join("irqs.entries").is_file());
}

fn hostile(place: &Path) -> PathBuf {
    let long = "x".repeat(10_000);
    let start: Timestamp = "2026-11-08T10:00:00Z".parse().unwrap();
    let isps = [HOSTILE, &long, "NTT"];
    let bins = isps.iter().flat_map(|isp| [Arm::Control, Arm::Canary].map(|arm| bin(isp, 4, arm, 0, start, 20.0, 1)));
    run(place, "hostile", bins.collect::<Vec<_>>().into_iter())
}

/// A run with a trace whose routers have names that mean harm, and whose path changed.
fn traced(place: &Path) -> PathBuf {
    let path = place.join("traced");
    let started: Timestamp = "2026-11-08T09:00:00Z".parse().unwrap();
    let mut directory = RunDirectory::create(&path, &Run::new("trace", started)).unwrap();
    let trace = json!({ "schema": "pathlab.trace/1", "target": HOSTILE, "flows": [{
        "source": "192.0.2.1:40000",
        "verdict": { "kind": "culprit", "from": { "hop": 1, "address": HOSTILE }, "to": { "hop": 2, "address": null },
            "direction": HOSTILE, "confidence": 0.99 },
        "hops": [{ "hop": 1, "addresses": [HOSTILE] }, { "hop": 2, "addresses": [] }],
        "destination": { "distance": 3, "loss": { "sent": 200, "lost": 60, "low": 0.2406, "high": 0.3668 } },
        "changes": [{ "at_ns": 12_345_000_000_u64, "hop": 1, "before": HOSTILE, "after": "10.0.0.1" }],
    }] });
    directory.artefact("trace.json", trace.to_string().as_bytes()).unwrap();
    directory.seal(started).unwrap();
    path
}

#[test]
fn what_others_wrote_is_shown_and_never_markup() {
    let place = tempfile::tempdir().unwrap();
    let run = hostile(place.path());
    let text = report(&[&run, &traced(place.path())], &[]);
    assert!(text.contains("path changed: hop 1 at 12.3 s: "), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}') && text.contains('\u{241b}'), "{text}");
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(!html.contains("<script") && !html.contains("<img") && html.contains("&lt;script&gt;"));
    assert!(html.contains("… (10000 characters)") && html.len() < 100_000);
    assert!(html.contains("class=\"changed\"") && html.contains("◇ path changed: hop 1 at 12.3 s: "));
    assert!(!html.chars().any(|character| character.is_control() && character != '\n'));
}

#[test]
fn a_browser_without_network_loads_it_without_a_request_or_an_error() {
    let name = "a_browser_without_network_loads_it_without_a_request_or_an_error";
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| present(name)) else {
        return skip(name, "needs chromium: apt-get install chromium");
    };
    let place = tempfile::tempdir().unwrap();
    let run = hostile(place.path());
    report(&[&run, &traced(place.path())], &[]);
    // In a network namespace without so much as a loopback, where one may be made: then nothing can leave.
    let mut command = match pathlab_guard::privilege::is_root() {
        true => Command::new("unshare"),
        false => Command::new(browser),
    };
    if pathlab_guard::privilege::is_root() {
        command.args(["--net", browser]);
    }
    let output = command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"])
        .args(["--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND"])
        .arg(format!("--user-data-dir={}", place.path().join("profile").display()))
        .arg(format!("file://{}", run.join("report.html").display()))
        .output()
        .unwrap();
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(dom.contains("<h2>Evidence</h2>"), "{said}");
    assert!(!dom.contains("<title>executed"), "the label ran");
    // What the browser's own pages say of the network is none of ours.
    let of_ours = |line: &&str| line.contains("CONSOLE") && !line.contains("source: chrome://");
    assert_eq!(said.lines().find(of_ours), None, "{said}");
    // The policy in the page's head refuses every request, and a refusal is told on the console.
    assert!(!said.contains("Refused"), "{said}");
}

const CASE: &str = r#"
name = "JP evenings | <b>"
who = "players on NTT and KDDI"
when = "19:00 to 24:00 JST"
requests = ["utilisation of edge and IX ports, 19:00 to 24:00 JST"]
targets = { rtt_p95 = "40ms", loss = "0.5%" }

[[stated]]
bone = "change"
against = "no deployment in 72 hours"
by = "studio"
"#;

#[test]
fn a_case_has_one_page_of_what_was_measured_and_says_what_was_not() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path(), "fortnight", fortnight());
    let case = place.path().join("case.toml");
    fs::write(&case, CASE).unwrap();
    report(&[&run], &["--case", case.to_str().unwrap()]);
    let page = fs::read_to_string(run.join("escalation.md")).unwrap();
    for line in [
        "# JP evenings \\| &lt;b&gt;",
        "| What | not stated |",
        "| Change and configuration | – | no deployment in 72 hours (stated by studio) |",
        "| Host, kernel, NIC | not measured | not measured |",
        "| DDoS and security | not measured | not measured |",
        "| 1 | utilisation of edge and IX ports, 19:00 to 24:00 JST |",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let row =
        |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}\n{page}"));
    assert!(row("| p95 of the round trip | 40.0 ms | NTT IPv4, control |").ends_with("| missed |"));
    assert!(row("| p95 of the round trip | 40.0 ms | NTT IPv4, canary |").ends_with("| met |"));
    assert!(row("| loss | 0.50 % | OPTAGE IPv6, control |").ends_with("| 0 % | met |"));
    assert!(row("| NTT IPv4, control |").contains("21:30 Asia/Tokyo"));
    let sealed = verify(&run).unwrap();
    assert!(page.contains(&sealed.sealed.to_string()));
    let html = fs::read_to_string(run.join("escalation.html")).unwrap();
    assert!(html.contains("JP evenings | &lt;b&gt;") && !html.contains("<b>"));
    // The three pages are records of the chain, after the seal.
    assert_eq!(sealed.head.index, sealed.sealed.index + 3);
    // What is wrong with a case file is said by line.
    fs::write(&case, "name = \"x\"\nwhom = \"y\"\n").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_pathlab")).arg("report").arg(&run).arg("--case").arg(&case).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("line 2: unknown field `whom`"), "{said}");
}

#[test]
fn several_runs_are_checked_and_a_signature_vouches_for_its_files_alone() {
    let name = "several_runs_are_checked_and_a_signature_vouches_for_its_files_alone";
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| run(place.path(), name, fortnight().take(12)));
    let evidence = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_pathlab")).arg("evidence").args(args).current_dir(place.path()).output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let head = verify(&first).unwrap().head.to_string();
    assert_eq!(evidence(&["verify", "first", "--head", &head]).0, Some(0));
    let (code, said) = evidence(&["verify", "second", "--head", &head.replace("record 3", "record 2")]);
    assert!(code == Some(1) && said.contains("the whole directory was written anew"), "{said}");
    fs::write(second.join("sessions.jsonl"), "").unwrap();
    let (code, said) = evidence(&["verify", "second", "first"]);
    assert!(
        code == Some(1) && said.contains("sessions.jsonl is not the file") && said.contains("first: unchanged"),
        "{said}"
    );
    let (code, said) = evidence(&["verify", "second", "first", "--json"]);
    assert!(code == Some(1) && said.contains("\"fault\": \"second:"), "{said}");

    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        return skip(name, "needs ssh-keygen: apt-get install openssh-client");
    }
    for key in ["ours", "theirs"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", key]).current_dir(place.path());
        assert!(keygen.status().unwrap().success());
    }
    let public = fs::read_to_string(place.path().join("ours.pub")).unwrap();
    fs::write(place.path().join("signers"), format!("noc@example.net {public}")).unwrap();
    let check = ["verify", "first", "--signers", "signers", "--identity", "noc@example.net"];
    assert!(evidence(&check).1.contains("not signed"));
    assert_eq!(evidence(&["sign", "first", "--key", "ours"]), (Some(0), "first: signed, SHA256SUMS.sig\n".to_owned()));
    let (code, said) = evidence(&check);
    assert!(code == Some(0) && said.contains("signed by noc@example.net") && !said.contains("not part of"), "{said}");
    // A report made later changes SHA256SUMS, and somebody else's key is not believed.
    report(&[&first], &[]);
    let (code, said) = evidence(&check);
    assert!(code == Some(1) && said.contains("is not noc@example.net's"), "{said}");
    assert_eq!(evidence(&["sign", "first", "--key", "theirs"]).0, Some(0));
    assert_eq!(evidence(&check).0, Some(1));
    assert_eq!(evidence(&["sign", "second", "--key", "ours"]).0, Some(1), "what was tampered with is not signed");
}

#[test]
fn copies_for_others_have_pseudonyms_in_every_file_and_the_key_leads_back() {
    let place = tempfile::tempdir().unwrap();
    let pathlab = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_pathlab")).args(args).current_dir(place.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    const CLIENTS: [&str; 3] = ["203.0.113.7", "203.0.113.9", "2001:db8:77::a"];
    const CARD: &str = "02:42:ac:11:00:02";
    const OTHER: &str = "02:42:ac:99:88:77";
    const HOST: &str = "tyo-game-7.example.net";
    let started: Timestamp = "2026-11-08T10:00:00Z".parse().unwrap();
    let make = |name: &str, inside: Option<&str>| {
        let path = place.path().join(inside.unwrap_or_default()).join(name);
        let mut about = Run::new("probe", started);
        about.options = json!({ "targets": ["203.0.113.7:862", "[2001:DB8:77::A]:862"], "source": "203.0.113.0/24" });
        about.host.insert("name".to_owned(), json!(HOST));
        let mut directory = RunDirectory::create(&path, &about).unwrap();
        for (number, client) in CLIENTS.iter().enumerate() {
            let of = std::net::SocketAddr::new(client.parse().unwrap(), 7_000);
            let mut bin = bin("NTT", if of.is_ipv4() { 4 } else { 6 }, Arm::Control, number, started, 20.0, 1);
            (bin.session, bin.key) = (of.to_string(), Some(pathlab_record::SessionKey(of)));
            bin.labels.insert("server".to_owned(), json!("game at ::ffff:203.0.113.9"));
            directory.session(&bin).unwrap();
            let labels = [("key".to_owned(), of.to_string())].into();
            let length = SignedDuration::from_mins(10);
            let interval = pathlab_record::LogInterval { labels, start: started, length, histogram: bin.rtt.unwrap() };
            directory.interval("rtt", &interval).unwrap();
        }
        directory.artefact("rum.csv", b"key,rtt_ms\n203.0.113.9:7000,20\n2001:0db8:0077:0:0:0:0:a,21\n").unwrap();
        directory.artefact("path-203.0.113.7.txt", b"hop 1 203.0.113.9 (via 203.0.113.7)\n").unwrap();
        let port =
            format!("2: eth0: link/ether {CARD} brd ff:ff:ff:ff:ff:ff\nenx{} of {HOST}\n", CARD.replace(':', ""));
        directory.artefact("link.txt", port.as_bytes()).unwrap();
        directory
            .artefact("neighbours.json", format!("[{{\"lladdr\":\"{}\"}}]\n", OTHER.to_uppercase()).as_bytes())
            .unwrap();
        directory.note(started, Some("noc at 203.0.113.9"), "rollback of 2001:db8:77::a").unwrap();
        directory.note(started, Some("noc@Tyo-Game-7"), "looked at pop-3").unwrap();
        directory.seal(started).unwrap();
        path
    };
    let one = make("one", None);
    make("inner", Some("one"));
    make("two", None);
    // A page names what its runs name.
    report(&[&one], &[]);

    let (code, said, wrong) =
        pathlab(&["evidence", "pseudonymise", "one", "--host", "pop-3", "--key", "key", "--out", "shown"]);
    assert!(said.contains("4 addresses, 2 hardware addresses and 3 names of hosts in "), "{said}{wrong}");
    assert!(code == Some(0) && said.contains("the key is new"), "{said}{wrong}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(place.path().join("key")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = ["evidence", "pseudonymise", "two", "--host", "pop-3", "--key", "key", "--out", "shown", "--json"];
    let (code, said, _) = pathlab(&again);
    let second: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &second["addresses"], &second["key_made"]), (Some(0), &json!(4), &json!(false)), "{said}");

    // Nothing of the true ones in any spelling, in no file and no name of one.
    let mut all = String::new();
    let shown = place.path().join("shown");
    for run in ["one", "one/inner", "two"] {
        for entry in fs::read_dir(shown.join(run)).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            all += &format!("\n{}\n", entry.file_name().to_string_lossy());
            all += &fs::read_to_string(entry.path()).unwrap();
        }
        verify(&shown.join(run)).unwrap();
        let mut sums = Command::new("sha256sum");
        sums.args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(shown.join(run));
        assert!(sums.status().unwrap().success(), "sha256sum -c takes the sums of {run}");
    }
    assert!(all.contains("<h2>Evidence</h2>"), "the page went along");
    let cards = ["42:ac:11", "0242ac11", "42-ac-11", "ac:99:88", "tyo-game", "pop-3"];
    for hidden in ["203.0.113", "cb00:71", "cb007107", "3405803783", "db8:77", "db8:0077"].into_iter().chain(cards) {
        assert!(!all.to_lowercase().contains(hidden), "{hidden} in {all}");
    }
    // The same pseudonyms in both, on one /24 as the clients are, and the way back.
    let pseudonyms = |run: &str| {
        let file = shown.join(run).join("sessions.jsonl");
        pathlab_record::read_sessions(&file).unwrap().map(|bin| bin.unwrap().key.unwrap().0.ip()).collect::<Vec<_>>()
    };
    let [first, second, third] = pseudonyms("one")[..] else { panic!("three clients") };
    assert_eq!(pseudonyms("two"), [first, second, third]);
    let of = |address: std::net::IpAddr| pathlab_record::Prefix::new(address, 24).unwrap();
    assert!(first != second && of(first) == of(second) && all.contains(&of(first).to_string()), "{first} {second}");
    let (code, said, _) =
        pathlab(&["evidence", "reveal", &first.to_string(), &second.to_string(), &third.to_string(), "--key", "key"]);
    let back: Vec<&str> = said.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!((code, back), (Some(0), CLIENTS.to_vec()));
    // Cards of one maker share the front of their pseudonyms; they and hosts are led back to as well.
    let neighbours: Value = serde_json::from_slice(&fs::read(shown.join("one/neighbours.json")).unwrap()).unwrap();
    let link = fs::read_to_string(shown.join("two/link.txt")).unwrap();
    let card = link.split_whitespace().nth(3).unwrap();
    let other = neighbours[0]["lladdr"].as_str().unwrap();
    let host = link.split_whitespace().last().unwrap();
    assert!(
        link.contains("brd ff:ff:ff:ff:ff:ff") && link.contains(&format!("enx{}", card.replace(':', ""))),
        "{link}"
    );
    assert!(card[..8] == other[..8] && host.starts_with("host-"), "{card} {other} {host}");
    let (code, said, _) = pathlab(&["evidence", "reveal", card, other, host, "--key", "key"]);
    let back: Vec<&str> = said.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!((code, back), (Some(0), vec![CARD, OTHER, HOST]));
    assert_eq!(pathlab(&["evidence", "reveal", "host-aaaaaaaabbbbbbbb", "--key", "key"]).0, Some(2));
    // The copy says what it was made from, and keeps what was done.
    let copy = verify(&shown.join("one")).unwrap();
    let actions: Vec<&str> = copy.records.iter().map(|record| record.action.as_str()).collect();
    let from = format!("pseudonymise, from {}", verify(&one).unwrap().head);
    assert!(actions.contains(&from.as_str()) && actions[0] == "start" && actions[1].starts_with("rollback of "));
    assert_eq!(copy.sealed, copy.head);

    // Another key, another world; a key beside the copies, or that others may read, is refused; so is a run that was changed.
    let refused = |args: &[&str], code: i32, why: &str| {
        let (got, _, said) = pathlab(&[&["evidence", "pseudonymise"], args].concat());
        assert!(got == Some(code) && said.contains(why), "{args:?}: {got:?} {said}");
    };
    refused(&["two", "--key", "shown/key", "--out", "shown"], 2, "keep it elsewhere");
    refused(&["two", "--key", "key", "--out", "shown"], 1, "is not empty");
    fs::write(place.path().join("open"), "00".repeat(32)).unwrap();
    refused(&["two", "--key", "open", "--out", "other"], 2, "chmod 600 open");
    assert_eq!(pathlab(&["evidence", "pseudonymise", "two", "--key", "third", "--out", "other"]).0, Some(0));
    assert_ne!(
        fs::read(place.path().join("other/two/sessions.jsonl")).unwrap(),
        fs::read(shown.join("two/sessions.jsonl")).unwrap()
    );
    fs::write(one.join("rum.csv"), "").unwrap();
    refused(&["one", "--key", "key", "--out", "again"], 1, "rum.csv is not the file");
}

fn present(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
