//! mtr in the same diamond, for the record of what it says there; `scripts/soak trace` installs it.

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
