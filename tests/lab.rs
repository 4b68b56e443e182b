//! `pathlab lab run` with real packets: what the shipped scenarios expect of themselves holds on the wire engine as it does on the virtual one.
//!
//! Whether a figure counts is decided by the run's own grade: a machine that was too busy to keep the times says so with exit code 5, and nothing is concluded.

use std::{fs, path::Path};

use pathlab_guard::privilege;
use serde_json::Value;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;

use isolation::{host, isolated, pathlab};

/// Plays a scenario with real packets; `None` where the run says that it does not stand.
fn play(place: &Path, scenario: &str, engine: &str) -> Option<Value> {
    let out = format!("{scenario}-{engine}");
    let args = format!("lab run {scenario} --engine {engine} --json --out {out}");
    let output = pathlab(place, &args).output().expect("pathlab was built");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args}: {error}: {said}"));
    for expected in run["expectations"].as_array().expect("a list") {
        eprintln!("{scenario}: {} {} holds: {}", expected["figure"], expected["value"], expected["holds"]);
    }
    assert!(place.join(&out).join("truth.json").exists());
    match output.status.code() {
        Some(0) => Some(run),
        Some(5) => {
            eprintln!("{scenario} is invalid, nothing is concluded: {}", run["objections"]);
            None
        }
        code => panic!("{scenario} on the {engine} engine: exit {code:?}\n{said}"),
    }
}

fn play_all(name: &str, scenarios: &[&str]) {
    if !isolated(name) {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let before = host();
    for scenario in scenarios {
        if let Some(run) = play(place.path(), scenario, "wire") {
            assert_eq!(run["engine"], "wire");
            assert!(run["played"].as_array().is_some_and(|links| !links.is_empty()), "{run}");
        }
        assert_eq!(host(), before, "{scenario} leaves nothing behind");
    }
}

#[test]
fn shipped_scenarios_hold_with_real_packets() {
    play_all("shipped_scenarios_hold_with_real_packets", &["asymmetric-transit", "path-shift"]);
}

#[test]
#[ignore = "two minutes of scenarios in their own time, for the soak"]
fn all_shipped_scenarios_hold_with_real_packets() {
    let all: Vec<&str> = pathlab_netlab::scenario::Scenario::shipped()
        .filter(|name| !["demo", "small-ring", "asymmetric-transit", "path-shift"].contains(name))
        .collect();
    play_all("all_shipped_scenarios_hold_with_real_packets", &all);
}

/// The truth is known: five milliseconds more on the way there, and no difference between a setting and itself.
#[test]
fn a_comparison_finds_the_difference_that_there_is() {
    let place = tempfile::tempdir().expect("a temporary directory");
    for (number, (b, truth)) in [("edge:a.delay=15ms", 5e6), ("as-is", 0.0)].into_iter().enumerate() {
        let args = format!("lab compare asymmetric-transit --a as-is --b {b} --pairs 6 --json --out {number}");
        let output = pathlab(place.path(), &args).output().expect("pathlab was built");
        let comparison: Value = serde_json::from_slice(&output.stdout).expect("a document");
        assert_eq!(comparison["pairs"], 6);
        for figure in ["rtt.p50", "rtt.p95", "forward.p50"] {
            let figures = comparison["figures"].as_array().expect("a list");
            let found = figures.iter().find(|found| found["figure"] == figure).expect(figure);
            let [difference, low, high] = ["difference", "low", "high"].map(|key| found[key].as_f64());
            assert_eq!((difference, low, high), (Some(truth), Some(truth), Some(truth)), "{found}");
        }
        let back =
            comparison["figures"].as_array().and_then(|all| all.iter().find(|found| found["figure"] == "return.p50"));
        assert_eq!(back.expect("return.p50")["difference"], 0.0);
        assert!(place.path().join(number.to_string()).join("comparison.json").exists());
    }
    // Chance is in both alike, and still the difference of two queues is found.
    let args = "lab compare bufferbloat-pfifo --a as-is --b isp:home.queue=fq_codel --pairs 6 --json --out queues";
    let output = pathlab(place.path(), args).output().expect("pathlab was built");
    let comparison: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let rtt = &comparison["figures"][0];
    assert!(rtt["figure"] == "rtt.p50" && rtt["high"].as_f64().is_some_and(|high| high < -50e6), "{rtt}");
}

#[test]
fn what_real_packets_cannot_play_is_refused_in_one_sentence() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let refused = |args: &str, code: i32| {
        let output = pathlab(place.path(), args).output().expect("pathlab was built");
        assert_eq!(output.status.code(), Some(code), "pathlab {args}");
        assert_eq!(fs::read_dir(place.path()).expect("readable").count(), 0, "pathlab {args} leaves nothing");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert_eq!(
        refused("lab run small-ring --engine wire", 2),
        "pathlab: scenario small-ring: server:isp has a receive ring, which no engine with real packets plays; use `lab run --engine virtual`\n"
    );
    assert_eq!(
        refused("lab run demo --engine wire --share 10%", 2),
        "pathlab: --share steers in the virtual engine alone; `pathlab demo` steers real packets\n"
    );
    if privilege::is_root() {
        let text = refused("lab run v6-fault --engine kernel", 1);
        assert!(text.contains("the kernel engine cannot play it: "), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
