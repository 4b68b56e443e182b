//! Verdicts over real packets against the lab's truth file: chains of routers with one losing link end, which the lab's own engine plays.

use std::fmt::Write;

use pathlab_netlab::{lab::Lab, scenario::Scenario, truth::Truth};
use serde_json::Value;
use tempfile::tempdir;

use super::{
    diamond::{TARGETS, answer_all, flows, run},
    isolation::isolated,
    verbs::Reflector,
};

const NODES: [&str; 5] = ["client", "r1", "r2", "r3", "server"];

/// A chain of three routers; the end at `at` loses `loss` percent of what it sends.
fn chain(at: [usize; 2], loss: u32) -> String {
    let mut text = String::from("name = \"chain\"\nsummary = \"one losing link end\"\nseed = 1\nneeds = []\n");
    for (place, node) in NODES.iter().enumerate() {
        let mut routes = String::new();
        if let Some(next) = NODES.get(place + 1) {
            let v4 = format!("192.0.2.{}", 4 * place + 2);
            for (to, via) in [("203.0.113.0/24", v4), ("2001:db8:1::/64", format!("2001:db8:10{place}::2"))] {
                let _ = writeln!(routes, "  {{ to = \"{to}\", via = \"{via}\", dev = \"{next}\" }},");
            }
        }
        if let Some(left) = place.checked_sub(1) {
            let (v4, v6) = (format!("192.0.2.{}", 4 * left + 1), format!("2001:db8:10{left}::1"));
            for (to, via) in
                [("198.18.0.0/16", &v4), ("192.0.2.0/24", &v4), ("2001:2:0:1::/64", &v6), ("2001:db8:100::/40", &v6)]
            {
                let _ = writeln!(routes, "  {{ to = \"{to}\", via = \"{via}\", dev = \"{}\" }},", NODES[left]);
            }
        }
        let own = match *node {
            "client" => "any_address = [\"198.18.0.0/16\", \"2001:2:0:1::/64\"]",
            "server" => "addresses = [\"203.0.113.10/32\", \"2001:db8:1::10/128\"]",
            _ => "forward = true",
        };
        let _ = write!(text, "\n[[node]]\nname = \"{node}\"\n{own}\nroutes = [\n{routes}]\n");
    }
    for (place, ends) in NODES.windows(2).enumerate() {
        let end = |own: usize| {
            let v4 = format!("192.0.2.{}/30", 4 * place + own + 1);
            let (node, dev) = (ends[own], ends[1 - own]);
            format!(
                "  {{ node = \"{node}\", dev = \"{dev}\", addresses = [\"{v4}\", \"2001:db8:10{place}::{}/64\"], delay = \"1ms\" }},\n",
                own + 1
            )
        };
        let _ = write!(text, "\n[[link]]\nends = [\n{}{}]\n", end(0), end(1));
    }
    let [from, to] = at.map(|place| NODES[place]);
    let _ = write!(
        text,
        "\n[[isp]]\nname = \"aoba\"\nasn = 64496\nprefixes = [\"198.18.0.0/16\", \"2001:2:0:1::/64\"]\n\n[probe]\nfrom = \"client\"\n\
         to = [\"203.0.113.10\", \"2001:db8:1::10\"]\nport = 862\nclient_ports = [40000, 40003]\nsessions = 4\ninterval = \"100ms\"\n\n\
         [[window]]\nname = \"all\"\nstart = \"0s\"\nend = \"600s\"\n\n\
         [[fault]]\nname = \"fault\"\nat = \"{from}:{to}\"\nloss = \"{loss}%\"\nduring = [\"all\"]\n"
    );
    text
}

/// Wrong, missed and right links of the flows of traces with these seeds.
fn scored(seeds: impl IntoIterator<Item = u64>) -> [u32; 3] {
    let place = tempdir().expect("a temporary directory");
    let mut score = [0; 3];
    for seed in seeds {
        // Every link end in turn, then the next loss; the dice are the engine's, by the seed.
        let (link, back) = ((seed % 4) as usize, seed / 4 % 2 == 1);
        let loss = [30, 20, 12, 45, 16][(seed / 8 % 5) as usize];
        let at = if back { [link + 1, link] } else { [link, link + 1] };
        let scenario = Scenario::parse("chain.toml", &chain(at, loss), None).expect("a sound scenario");
        let truth = Truth::of(&scenario, seed);
        let [injected] = &truth.faults[..] else { panic!("one fault: {truth:?}") };
        let lab = Lab::up(&scenario, "chain", seed).expect("up");
        NODES[1..4].iter().for_each(|router| answer_all(lab.namespace(router).expect("a node")));
        lab.begin();
        let listen = "--listen 203.0.113.10:862 --listen [2001:db8:1::10]:862 --stateful --datapath socket";
        let reflector = Reflector::start(lab.namespace("server").expect("a node"), listen);
        let out = place.path().join(seed.to_string());
        let target = TARGETS[(seed / 2 % 2) as usize];
        let args = format!("{target} --flows 3 --count 200 --interval 20ms");
        let printed = run(lab.command("client", env!("CARGO_BIN_EXE_pathlab")).expect("a node"), &args, &out);
        drop(reflector);
        let report: Value = serde_json::from_slice(&printed).expect("one JSON document");
        for flow in flows(&report) {
            let distance = flow["destination"]["distance"].as_u64().expect("a reflector");
            let back = |hops: usize| distance + 1 - hops as u64;
            let wanted = injected
                .hop_forward
                .map_or_else(|| back(injected.hop_return.expect("one of both")), |hops| hops as u64);
            let verdict = &flow["verdict"];
            let direction = if injected.hop_forward.is_some() { "forward" } else { "return" };
            let hop = |end: &str| verdict[end]["hop"].as_u64();
            let right = hop("from").zip(hop("to")) == Some((wanted - 1, wanted)) && verdict["direction"] == direction;
            let fate = if right { 2 } else { usize::from(verdict["kind"] != "culprit") };
            score[fate] += 1;
            if !right {
                eprintln!("seed {seed}: link {wanted} {direction}, {loss} %: {verdict}");
            }
        }
    }
    eprintln!("wrong, missed, right: {score:?}");
    score
}

#[test]
fn links_that_the_labs_truth_names_are_blamed() {
    if !isolated("truth::links_that_the_labs_truth_names_are_blamed") {
        return;
    }
    let [wrong, missed, right] = scored([1, 6, 8]);
    assert!(wrong == 0 && missed <= 1 && right >= 8, "{wrong} {missed} {right}");
}

#[test]
#[ignore = "forty networks, for the soak"]
fn links_that_the_labs_truth_names_are_blamed_in_forty_networks() {
    if !isolated("truth::links_that_the_labs_truth_names_are_blamed_in_forty_networks") {
        return;
    }
    let [wrong, missed, right] = scored(40..80);
    assert!(wrong * 50 <= right && right * 20 >= 19 * (wrong + missed + right), "{wrong} {missed} {right}");
}
