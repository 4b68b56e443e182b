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
            privilege::skip(&format!("{scenario} on the {engine} engine"), &run["objections"].to_string());
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

/// A curve that can be worked out by hand: 300 packets at once for a host that sleeps through all of them, which takes 10 µs for each from 1 ms on.
#[test]
fn a_ring_is_advised_from_its_loss_and_delay() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let ring = |more: &str| -> Value {
        let args = format!("lab ring --packets 300 --gap 1ns --service 10us --wake 1ms --json {more}");
        let output = pathlab(place.path(), &args).output().expect("pathlab was built");
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("a document")
    };
    let patient = ring("--budget 10ms");
    for point in patient["curve"].as_array().expect("a list") {
        let descriptors = point["descriptors"].as_u64().expect("a number");
        // The last that fits came that many nanoseconds after the first, and is done after the sleep and those before it.
        let kept = descriptors.min(300);
        assert_eq!(point["lost"], 300 - kept, "{point}");
        assert_eq!(point["longest_ns"], 1_000_000 + kept * 10_000 - (kept - 1), "{point}");
        assert!(point["measured"].is_null());
    }
    let advice = |report: &Value| report["advice"].as_str().expect("a sentence").to_owned();
    assert!(advice(&patient).starts_with("set 512 descriptors: nothing is lost"), "{patient}");
    assert!(advice(&ring("--budget 2ms")).starts_with("64 descriptors keep the budget and lose 236; 512 lose nothing"));
    assert!(advice(&ring("--budget 1ms")).starts_with("no ring keeps the budget; 512 lose nothing"));
    assert_eq!(fs::read_dir(place.path()).expect("readable").count(), 0, "nothing is left");
}

/// A host that sleeps longer than any burst takes keeps what a ring holds, and the kernel counts the rest.
#[test]
fn real_rings_lose_by_the_kernels_count_what_the_model_says() {
    if !isolated("real_rings_lose_by_the_kernels_count_what_the_model_says") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let before = host();
    let args = "lab ring --packets 300 --service 1us --wake 200ms --measure --json";
    let output = pathlab(place.path(), args).output().expect("pathlab was built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a document");
    for point in report["curve"].as_array().expect("a list") {
        eprintln!("{point}");
        let lost = 300_u64.saturating_sub(point["descriptors"].as_u64().expect("a number"));
        let measured = &point["measured"];
        for model in ["rx_model", "fill_model"] {
            assert_eq!(measured[model], lost, "{point}");
        }
        let counted = ["rx_ring_full", "rx_fill_ring_empty_descs", "wire_dropped"];
        let [rx, fill, wire] = counted.map(|counted| measured[counted].as_u64().expect("a number"));
        // What the veth dropped on a machine that was held up, in either burst, came to no ring; where it dropped nothing, this is equality.
        assert!(rx <= lost && fill <= lost && rx + fill + wire >= 2 * lost, "{point}");
    }
    assert_eq!(host(), before, "it leaves nothing behind");
}

/// In the node's namespace, with the command's own output and exit code, in the place of the verb's process.
#[test]
fn a_command_runs_in_a_node_as_if_it_stood_there() {
    if !isolated("a_command_runs_in_a_node_as_if_it_stood_there") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let run = |args: &str| pathlab(place.path(), args).output().expect("pathlab was built");
    assert!(run("lab up demo --name rooms").status.success());
    let links = run("lab exec rooms server ip -brief link");
    let said = String::from_utf8_lossy(&links.stdout).into_owned();
    assert!(links.status.success() && said.contains("lo "), "{said}{}", String::from_utf8_lossy(&links.stderr));
    let inside = run("lab exec rooms server readlink /proc/self/ns/net").stdout;
    let outside = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_ne!(String::from_utf8_lossy(&inside).trim(), outside.to_string_lossy());
    assert_eq!(run("lab exec rooms server false").status.code(), Some(1));
    let error = String::from_utf8_lossy(&run("lab exec rooms server no-such-program").stderr).into_owned();
    assert!(error.starts_with("pathlab: no-such-program: No such file or directory"), "{error}");
    // The devices are the node's: one that it has and one that it has not.
    fs::write(place.path().join("seed"), "0x1badcafe\n").expect("written");
    for (dev, wrong) in [("b", ""), ("d0", "device d0 of the canary path does not exist here")] {
        let experiment = include_str!("canary.toml").replace("dev = \"d0\"", &format!("dev = \"{dev}\""));
        fs::write(place.path().join("canary.toml"), experiment).expect("written");
        let plan = run(&format!("lab exec rooms server {} canary plan -c canary.toml", env!("CARGO_BIN_EXE_pathlab")));
        let said = String::from_utf8_lossy(&plan.stderr).into_owned();
        assert!(plan.status.success() && said.is_empty() == wrong.is_empty() && said.contains(wrong), "{dev}: {said}");
    }
    assert!(run("lab down rooms").status.success());
}

/// A client and a server on one link, for two seconds.
const SHORT: &str = r#"
name = "short"
summary = "two nodes on a link"
seed = 1
needs = []

[[node]]
name = "client"
any_address = ["198.18.0.0/16"]
routes = [{ to = "0.0.0.0/0", via = "192.0.2.2", dev = "wire" }]

[[node]]
name = "server"
addresses = ["203.0.113.10/32"]
routes = [{ to = "0.0.0.0/0", via = "192.0.2.1", dev = "wire" }]

[[link]]
ends = [
  { node = "client", dev = "wire", addresses = ["192.0.2.1/30"], delay = "5ms" },
  { node = "server", dev = "wire", addresses = ["192.0.2.2/30"], delay = "5ms" },
]

[[isp]]
name = "aoba"
asn = 64496
prefixes = ["198.18.0.0/16"]

[probe]
from = "client"
to = ["203.0.113.10"]
port = 862
client_ports = [40000, 40003]
sessions = 4
interval = "50ms"

[[window]]
name = "all"
kind = "evening"
start = "0s"
end = "2s"
"#;

/// The reflector's datapaths by turns: each answers every packet, after both delays, and the pairs are told like those of queues.
#[test]
fn datapaths_of_the_reflector_are_compared_by_real_packets() {
    if !isolated("datapaths_of_the_reflector_are_compared_by_real_packets") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::write(place.path().join("short.toml"), SHORT).expect("written");
    let before = host();
    for (number, b) in ["datapath=afxdp,rx-ring=64,fill-ring=128", "datapath=xdp"].into_iter().enumerate() {
        let args = format!("lab compare ./short.toml --a as-is --b {b} --pairs 1 --engine wire --json --out {number}");
        let output = pathlab(place.path(), &args).output().expect("pathlab was built");
        let said = String::from_utf8_lossy(&output.stderr);
        let comparison: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        if output.status.code() == Some(5) {
            eprintln!("{b} is invalid, nothing is concluded: {said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{said}");
        let figures = comparison["figures"].as_array().expect("a list");
        let found = |figure: &str| figures.iter().find(|found| found["figure"] == figure).expect("compared");
        eprintln!("{}", found("rtt.p50"));
        for side in ["a", "b"] {
            assert!(found("rtt.p50")[side].as_f64().is_some_and(|rtt| rtt >= 10e6), "{comparison}");
            assert_eq!(found("loss")[side], 0.0, "{comparison}");
        }
    }
    assert_eq!(host(), before, "it leaves nothing behind");
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
        refused("lab compare path-shift --a as-is --b datapath=xdp", 2),
        "pathlab: the virtual engine has no reflector whose datapath could be set: use --engine auto, wire or kernel\n"
    );
    assert_eq!(
        refused("lab ring --packets 5000 --measure", 2),
        "pathlab: --measure sends 2048 packets at once at most, not 5000\n"
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
