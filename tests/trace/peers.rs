//! mtr and trippy in the same diamond, for the record of what they say there; `scripts/soak trace` has them.

use std::path::Path;

use pathlab_guard::privilege::{required, skip};
use serde_json::Value;

use super::{
    diamond::{Diamond, answer_all},
    isolation::isolated,
};

/// The branch is lossy for every UDP packet that the client sends, as these do not keep to one port.
const FORWARD: &str = "ip saddr 192.0.2.2 meta l4proto udp";

/// Host, lost percent and sent of every hop, as mtr's JSON has it.
fn mtr(diamond: &Diamond, args: &str) -> Vec<(String, f64, u64)> {
    let mut command = diamond.lab.command("client", "mtr").expect("a node");
    command.args("-u -w -n --json -i 0.1 -c 200".split(' ')).args(args.split_whitespace()).arg("203.0.113.10");
    let output = command.output().expect("mtr of mtr-tiny");
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let hub = |hub: &Value| {
        let host = hub["host"].as_str().expect("a name").to_owned();
        (host, hub["Loss%"].as_f64().expect("a share"), hub["Snt"].as_u64().expect("a count"))
    };
    document["report"]["hubs"].as_array().expect("hops").iter().map(hub).collect()
}

#[test]
#[ignore = "other tools, for the soak"]
fn mtr_mixes_the_branches_unless_both_ports_are_held() {
    if !isolated("peers::mtr_mixes_the_branches_unless_both_ports_are_held") {
        return;
    }
    let diamond = Diamond::up(false);
    diamond.lose("b", 30, FORWARD);
    // The server's Port Unreachable is limited as routers' answers are.
    answer_all(diamond.lab.namespace("server").expect("a node"));
    for args in ["", "-P 7862"] {
        let hops = mtr(&diamond, args);
        eprintln!("mtr -u {args}: {hops:?}");
        let (_, lost, _) = hops.last().expect("a destination");
        assert!((4.0..27.0).contains(lost), "mixed: {hops:?}");
        // One host a hop, of whichever branch: nothing says that there are two.
        assert_eq!(hops.len(), 4, "{hops:?}");
    }
    for port in 40_000..40_004 {
        let hops = mtr(&diamond, &format!("-P 7862 -L {port}"));
        eprintln!("mtr -u -P 7862 -L {port}: {hops:?}");
        let (_, lost, _) = hops.last().expect("a destination");
        let by_b = hops[1].0 == "192.0.2.18";
        assert!(if by_b { (17.0..43.0).contains(lost) } else { *lost == 0.0 }, "{hops:?}");
    }
}

/// Hosts, lost percent and sent of every hop, as trippy's JSON has it.
fn trippy(diamond: &Diamond, program: &Path, args: &str) -> Vec<(Vec<String>, f64, u64)> {
    let mut command = diamond.lab.command("client", program).expect("a node");
    command.args("--udp -m json -C 100 -i 100ms -T 100ms -g 10ms".split(' ')).args(args.split_whitespace());
    let output = command.arg("203.0.113.10").output().expect("trip of trippy");
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let hop = |hop: &Value| {
        let hosts = hop["hosts"].as_array().expect("hosts").iter();
        let mut hosts: Vec<String> = hosts.map(|host| host["ip"].as_str().expect("an address").to_owned()).collect();
        hosts.sort();
        // Written with a fixed number of places, as text.
        let lost = hop["loss_pct"].as_f64().or_else(|| hop["loss_pct"].as_str()?.parse().ok()).expect("a share");
        (hosts, lost, hop["sent"].as_u64().expect("a count"))
    };
    document["hops"].as_array().expect("hops").iter().map(hop).collect()
}

#[test]
#[ignore = "other tools, for the soak"]
fn trippy_lists_both_branches_and_merges_their_loss() {
    let name = "peers::trippy_lists_both_branches_and_merges_their_loss";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/trip");
    if !program.exists() {
        assert!(!required("trippy"), "{name}: needs trippy, and PATHLAB_REQUIRE=trippy forbids to skip it");
        return skip(name, "needs trippy: scripts/peers --trace builds it");
    }
    if !isolated(name) {
        return;
    }
    let diamond = Diamond::up(false);
    diamond.lose("b", 30, FORWARD);
    answer_all(diamond.lab.namespace("server").expect("a node"));
    for strategy in ["classic", "paris", "dublin"] {
        let hops = trippy(&diamond, &program, &format!("--multipath-strategy {strategy}"));
        eprintln!("trip --udp {strategy}: {hops:?}");
        // Both branches stand at one hop, and what the one loses is spread over both.
        assert_eq!(hops[1].0, ["192.0.2.10", "192.0.2.18"], "{hops:?}");
        // Where the destination leaves a round without an answer, further hops follow.
        let (_, lost, _) = hops.iter().find(|(hosts, ..)| hosts == &["203.0.113.10"]).expect("a destination");
        assert!((1.0..30.0).contains(lost), "mixed: {hops:?}");
    }
}
