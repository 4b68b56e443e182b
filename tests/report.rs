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

#[path = "report/killed.rs"]
mod killed;
#[path = "report/pseudonyms.rs"]
mod pseudonyms;
#[path = "support/waiting.rs"]
mod waiting;

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

fn present(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
