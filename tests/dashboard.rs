//! The Grafana dashboard asks for metrics that there are: those of a reflector as it serves them, those of `canary measure` as it names them.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;

const DASHBOARD: &str = include_str!("../docs/grafana.json");
const OF_CANARY: &str = include_str!("../canary/src/passive/exposition.rs");

/// Names that begin with `pathlab_`, in the queries of all panels.
fn asked() -> BTreeSet<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let targets = dashboard["panels"]
        .as_array()
        .expect("panels")
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let mut names = BTreeSet::new();
    for query in targets.map(|target| target["expr"].as_str().expect("a query")) {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        names.extend(words.filter(|word| word.starts_with("pathlab_")).map(str::to_owned));
    }
    names
}

fn scrape() -> Option<String> {
    let mut stream = TcpStream::connect("127.0.0.1:9371").ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn every_metric_of_the_reflector_that_it_asks_for_is_served() {
    if !isolation::isolated("every_metric_of_the_reflector_that_it_asks_for_is_served") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mut reflector = isolation::pathlab(place.path(), "reflect --listen 127.0.0.1:8620 --metrics 9371");
    let mut reflector = reflector.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while scrape().is_none() {
        assert!(Instant::now() < deadline, "it does not serve");
        std::thread::sleep(Duration::from_millis(5));
    }
    let probe =
        isolation::pathlab(place.path(), "probe 127.0.0.1:8620 --count 20 --interval 5ms --tlv stages --out run")
            .output();
    assert!(probe.unwrap().status.success());
    let wanted: Vec<String> = asked().into_iter().filter(|name| name.starts_with("pathlab_reflector_")).collect();
    assert!(wanted.len() >= 7, "{wanted:?}");
    // The account is put together once in a while.
    loop {
        let text = scrape().unwrap_or_default();
        let missing: Vec<_> = wanted
            .iter()
            .filter(|name| !text.lines().any(|line| line.split(['{', ' ']).next() == Some(name)))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{missing:?} of\n{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
    reflector.kill().unwrap();
    reflector.wait().unwrap();
}

#[test]
fn every_metric_of_the_canary_that_it_asks_for_has_its_name_in_the_exposition() {
    let wanted: Vec<String> = asked().into_iter().filter(|name| name.starts_with("pathlab_canary_")).collect();
    assert!(wanted.len() >= 6, "{wanted:?}");
    for name in wanted {
        let stem = name.trim_start_matches("pathlab_canary_");
        let stem = ["_seconds_bucket", "_packets_total", "_total"]
            .iter()
            .find_map(|unit| stem.strip_suffix(unit))
            .unwrap_or(stem);
        assert!(OF_CANARY.contains(&format!("(\"{stem}\"")), "{name}");
    }
}
