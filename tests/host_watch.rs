//! `pathlab host watch` as a user meets it: its lines, its metrics, its screen, what it says without rights and to wrong wishes.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, UdpSocket},
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use isolation::{isolated, pathlab};
use nobody::as_nobody;
use openmetrics::Exposition;
use pathlab_guard::privilege::{root_or_skip, skip};
use serde_json::{Map, Value};
use waiting::within;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;
#[path = "support/nobody.rs"]
mod nobody;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../reflector/tests/support/openmetrics.rs"]
mod openmetrics;
#[path = "support/waiting.rs"]
mod waiting;

const FORMATS: &str = include_str!("../docs/formats.md");
const PATIENCE: Duration = Duration::from_secs(30);
/// Datagrams to a socket that nobody reads, and to a port that nobody has.
const TO_NOBODY: u64 = 40;
const FLOOD: u64 = 3_000;

/// Started, and counting: its `READY=1` has come.
fn watching(place: &Path, args: &str) -> Child {
    let path = place.join("ready");
    let ready = UnixDatagram::bind(&path).unwrap();
    ready.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = pathlab(place, &format!("host watch {args}"));
    let command = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut word = [0; 64];
    let length = ready.recv(&mut word).unwrap_or_else(|error| panic!("host watch {args} does not begin: {error}"));
    assert!(word[..length].starts_with(b"READY=1"));
    fs::remove_file(path).unwrap();
    child
}

fn ended(child: Child, signal: &str) -> Output {
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

/// On loopback: a socket overflows, and a port is nobody's.
fn lose() {
    let deaf = UdpSocket::bind("127.0.0.1:27015").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..FLOOD + TO_NOBODY {
        let port = if number < FLOOD { 27_015 } else { 9 };
        // the answer of a port that nobody has is told by the next send
        while sender.send_to(&[0; 600], ("127.0.0.1", port)).is_err() {}
    }
    drop(deaf);
}

/// The first column of the table under `### watch`, and of those of its parts.
fn documented() -> BTreeSet<String> {
    let section = FORMATS.split("\n### watch\n").nth(1).expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells
        .flat_map(|cell| cell.split('`'))
        .filter(|word| word.chars().all(|sign| sign == '_' || sign.is_ascii_lowercase()))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn lines(output: &Output) -> Vec<Map<String, Value>> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let lines = output.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn dropped(line: &Map<String, Value>, reason: &str) -> u64 {
    let reasons = line["drops"]["reasons"].as_array().unwrap();
    reasons.iter().filter(|drop| drop["reason"] == reason).map(|drop| drop["packets"].as_u64().unwrap()).sum()
}

#[test]
fn each_line_has_the_documented_fields_and_the_last_is_the_sum() {
    if !isolated("each_line_has_the_documented_fields_and_the_last_is_the_sum") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mut child = watching(place.path(), "--iface lo --every 50ms --json");
    lose();
    // A line that comes after all was lost has all of it behind it.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    for _ in 0..2 {
        stdout.read_line(&mut said).unwrap();
    }
    let output = ended(child, "TERM");
    stdout.read_to_string(&mut said).unwrap();
    let lines = lines(&Output { stdout: said.into_bytes(), ..output });
    let (whole, intervals) = lines.split_last().expect("lines");
    assert!(intervals.len() > 1, "{lines:?}");
    let documented = documented();
    assert!(["drops", "sockets", "overhead", "lacks"].iter().all(|name| documented.contains(*name)), "{documented:?}");
    for line in &lines {
        assert_eq!(line["schema"], "pathlab.watch/1");
        for name in line.keys().filter(|name| *name != "schema") {
            assert!(documented.contains(name), "{name} is not in docs/formats.md: {documented:?}");
        }
        let always = ["window", "ends", "seconds", "drops", "softirqs", "counters", "sockets", "qdiscs", "rings"];
        for name in
            always.into_iter().chain(["sojourn", "napi", "processors", "throttling", "alerts", "overhead", "lacks"])
        {
            assert!(line.contains_key(name), "{name} is not in {line:?}");
        }
    }
    assert!(intervals.iter().all(|line| line["window"] == "interval"));
    assert_eq!(whole["window"], "whole");
    for reason in ["NO_SOCKET", "SOCKET_RCVBUFF"] {
        let sum: u64 = intervals.iter().map(|line| dropped(line, reason)).sum();
        assert_eq!(dropped(whole, reason), sum, "{reason}");
    }
    assert_eq!(dropped(whole, "NO_SOCKET"), TO_NOBODY);
    let refused = dropped(whole, "SOCKET_RCVBUFF");
    assert!(refused > 0 && refused < FLOOD, "{refused}");
    assert_eq!(whole["drops"]["sockets"][0]["socket"], "127.0.0.1:27015");
    assert_eq!(whole["counters"]["UdpRcvbufErrors"], refused);
    let seconds = |line: &Map<String, Value>| line["seconds"].as_f64().unwrap();
    assert!((seconds(whole) - intervals.iter().map(seconds).sum::<f64>()).abs() < 1e-3);
}

#[test]
fn the_metrics_are_those_of_the_lines() {
    if !isolated("the_metrics_are_those_of_the_lines") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let child = watching(place.path(), "--every 50ms --metrics 9371 --json");
    lose();
    let total = "pathlab_watch_dropped_packets_total";
    let mut scraped = None;
    within(PATIENCE, || {
        let mut stream = TcpStream::connect("127.0.0.1:9371").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let told = Exposition::parse(text.split_once("\r\n\r\n").expect("headers").1);
        let all = told.find(total, &[("reason", "NO_SOCKET"), ("interface", "lo")]) == Some(TO_NOBODY as f64);
        scraped = Some(told);
        all
    });
    let scraped = scraped.expect("it was within");
    let lines = lines(&ended(child, "INT"));
    let whole = lines.last().expect("lines");
    let refused = dropped(whole, "SOCKET_RCVBUFF") as f64;
    assert_eq!(scraped.find(total, &[("reason", "SOCKET_RCVBUFF")]), Some(refused));
    let labels = [("socket", "127.0.0.1:27015"), ("limit", "buffer")];
    assert_eq!(scraped.find("pathlab_watch_refused_datagrams_total", &labels), Some(refused));
    let counter = scraped.find("pathlab_watch_udp_datagrams_total", &[("counter", "UdpRcvbufErrors")]);
    assert_eq!(counter, Some(refused));
    let programs = whole["overhead"].as_array().unwrap().len();
    assert_eq!(scraped.all("pathlab_watch_program_processor_ratios").count(), programs);
    assert_eq!(scraped.find("pathlab_watch_lacks", &[]), Some(0.0));
}

#[test]
fn without_rights_counters_are_read_and_the_rest_says_why() {
    if !root_or_skip("without_rights_counters_are_read_and_the_rest_says_why") {
        return;
    }
    let ran = as_nobody(&["host", "watch", "--duration", "200ms", "--every", "100ms", "--json"]);
    let lines = lines(&ran);
    let whole = lines.last().expect("lines");
    assert_eq!(whole["window"], "whole");
    assert!(!whole.contains_key("drops"), "nobody may load no program: {whole:?}");
    assert!(whole.contains_key("counters") && whole.contains_key("sockets"));
    let lacks = whole["lacks"].as_array().unwrap();
    let why = "no program may be loaded into the kernel without CAP_BPF and CAP_PERFMON, so only what procfs and netlink tell is read: run it as root";
    assert!(lacks.iter().any(|lack| lack == why), "{lacks:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains(why));
}

/// Not in a namespace of its own: there, processes have other numbers than the kernel uses.
#[test]
fn a_process_is_told_by_its_threads_and_its_ticks() {
    let name = "a_process_is_told_by_its_threads_and_its_ticks";
    if !root_or_skip(name) {
        return;
    }
    // PROC_PID_INIT_INO, include/linux/proc_ns.h
    if fs::metadata("/proc/self/ns/pid").unwrap().ino() != 0xefff_fffc {
        return skip(name, "processes have other numbers in this PID namespace than the kernel uses");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    socket.set_nonblocking(true).unwrap();
    let over = AtomicBool::new(false);
    let args = format!("--pid {} --tick 60 --port {port} --every 200ms --json", std::process::id());
    let place = tempfile::tempdir().unwrap();
    let output = std::thread::scope(|scope| {
        let ticker = std::thread::Builder::new().name("ticker".into());
        let ticks = || {
            while !over.load(Ordering::Relaxed) {
                let _ = socket.recv(&mut [0; 64]);
                std::thread::sleep(Duration::from_micros(16_667));
            }
        };
        ticker.spawn_scoped(scope, ticks).unwrap();
        let mut child = watching(place.path(), &args);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        for _ in 0..3 {
            stdout.read_line(&mut said).unwrap();
        }
        let output = ended(child, "TERM");
        stdout.read_to_string(&mut said).unwrap();
        over.store(true, Ordering::Relaxed);
        Output { stdout: said.into_bytes(), ..output }
    });
    let lines = lines(&output);
    let whole = lines.last().expect("lines");
    assert_eq!(whole["lacks"], serde_json::json!([]));
    let threads = whole["sched"]["threads"].as_array().unwrap();
    let ticker = threads.iter().find(|thread| thread["name"] == "ticker").unwrap_or_else(|| panic!("{threads:?}"));
    assert!(ticker["runs"].as_u64() > Some(1) && ticker["wait"]["p99"].as_u64().is_some(), "{ticker}");
    let servers = whole["cadence"]["servers"].as_array().unwrap();
    let [server] = servers.as_slice() else { panic!("{servers:?}") };
    assert_eq!((&server["name"], server["port"].as_u64()), (&"ticker".into(), Some(port.into())));
    assert!(server["calls"].as_u64() > Some(1), "{server}");
}

#[test]
fn wrong_wishes_are_one_sentence() {
    let nine = (0..9).map(|number| format!("--iface lo{number}")).collect::<Vec<_>>().join(" ");
    for (arguments, words) in [
        ("--iface nowhere0", "interface nowhere0: no such interface; see `ip link`"),
        (nine.as_str(), "9 interfaces: at most 8 can be chosen; without a choice all are watched"),
        ("--pid 4194305", "process 4194305: no such process; see `ps -e -o pid,comm`"),
        ("--pid nobodys-name", "no process is called nobodys-name: see `ps -e -o pid,comm`"),
        ("--pid 1 --tick 0.1", "0.5 to 10000 ticks and 1 to 2 periods can be watched"),
        ("--tick 60", "--pid <PID|NAME>"),
        ("--port 27015", "--tick <HZ>"),
        ("--alert-losses 0", "`0` is no number above 0"),
        ("--every 0s", "`0s` is no duration"),
        ("--metrics localhost", "`localhost` is no address with a port, and no port"),
        ("--metrics 192.0.2.77:9371", "metrics on 192.0.2.77:9371: Cannot assign requested address"),
    ] {
        let ran = pathlab(Path::new("."), &format!("host watch --duration 10ms {arguments}")).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(words), "{said}");
        assert!(ran.stdout.is_empty() && !said.contains("panicked"), "{said}");
    }
}

/// On a terminal of script(1): each look is drawn over the last, in no more lines and columns than there are, and the summary stays.
#[test]
fn a_screen_is_drawn_in_place_and_a_summary_stays() {
    if !isolated("a_screen_is_drawn_in_place_and_a_summary_stays") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("ready");
    let ready = UnixDatagram::bind(&path).unwrap();
    ready.set_read_timeout(Some(PATIENCE)).unwrap();
    let command =
        format!("stty rows 12 cols 44; {} host watch --every 100ms --duration 1s", env!("CARGO_BIN_EXE_pathlab"));
    let child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("NOTIFY_SOCKET", &path)
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) of util-linux");
    ready.recv(&mut [0; 64]).expect("it begins");
    lose();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let (screens, summary) = said.rsplit_once("\x1b[J").expect("a screen");
    for section in ["SOCKET_RCVBUFF", "127.0.0.1:27015", "lo queue 0", "NET_RX", "UdpNoPorts", "what watching costs"] {
        assert!(summary.contains(section), "{section} is not in {summary}");
    }
    let screens: Vec<&str> = screens.split("\x1b[J").collect();
    assert!(screens.len() >= 5, "{said:?}");
    assert!(screens.iter().skip(1).all(|screen| screen.starts_with("\r\x1b[")), "{screens:?}");
    assert!(screens.iter().any(|screen| screen.contains("given up because")), "{screens:?}");
    for screen in &screens {
        let text =
            screen.strip_prefix("\r\x1b[").and_then(|rest| rest.split_once('A')).map_or(*screen, |(_, text)| text);
        let lines = text.lines().map(|line| line.trim_matches('\r').trim_end_matches("\x1b[K"));
        assert!(lines.clone().count() < 12, "{screen:?}");
        let shown = lines.map(|line| line.chars().count());
        assert!(shown.max() <= Some(44), "{screen:?}");
    }
}
