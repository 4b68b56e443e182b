//! Several next hops under the kernel and under the virtual engine: what is the same of their choices, and what is not.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pathlab_netlab::{
    engine::{discrete, kernel::Player},
    lab::Lab,
    scenario::Scenario,
};
use support::isolated;

/// The link ends of each session, there and back.
type Ways = Vec<Vec<(String, String)>>;

/// As the kernel answers for the lab's namespaces; not a packet is sent.
fn by_kernel(scenario: &Scenario) -> Ways {
    let lab = Lab::up_played(scenario, "ecmp", scenario.seed, None, Player::Auto).expect("up");
    lab.ways(&scenario.sessions(scenario.seed)).expect("the kernel's answers")
}

fn by_events(scenario: &Scenario) -> Ways {
    discrete::play(scenario, scenario.seed, |_| false).ways
}

/// By how many sessions each next hop of `edge` is taken.
fn members(ways: &Ways) -> BTreeMap<String, usize> {
    let taken = ways.iter().flatten().filter(|(node, dev)| node == "edge" && dev.starts_with('m'));
    taken.fold(BTreeMap::new(), |mut counts, (_, dev)| {
        *counts.entry(dev.clone()).or_default() += 1;
        counts
    })
}

/// The next hops of `edge` by the datagrams that it has sent on to them, from its counters in nftables.
fn forwarded(lab: &Lab) -> BTreeMap<String, usize> {
    let listed = lab.command("edge", "nft").expect("a node").args(["list", "table", "inet", "seen"]).output();
    let text = String::from_utf8(listed.expect("nftables").stdout).expect("text");
    let rules = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("oifname \"")?;
        let (member, rest) = rest.split_once('"')?;
        let packets = rest.split_once("packets ")?.1.split_whitespace().next()?.parse().ok()?;
        Some((member.to_owned(), packets))
    });
    rules.collect()
}

#[test]
fn packets_go_where_the_kernel_says_that_they_would() {
    if !isolated("packets_go_where_the_kernel_says_that_they_would") {
        return;
    }
    // The shipped network without its delays and its fault, so that no link is played.
    let text =
        include_str!("../scenarios/ecmp-fault.toml").replace(", delay = \"2ms\"", "").replace(", delay = \"8ms\"", "");
    let (text, _) = text.split_once("[[fault]]").expect("the shipped file");
    let scenario = Scenario::parse("plain.toml", text, None).expect("sound");
    let lab = Lab::up(&scenario, "ecmp-plain", scenario.seed).expect("up");
    let members = ["m1", "m2", "m3", "m4"];
    let rules = members.map(|member| format!("oifname \"{member}\" meta l4proto udp counter\n")).concat();
    let table = format!("table inet seen {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}\n");
    assert!(lab.command("edge", "nft").expect("a node").arg(table).status().expect("nftables").success());
    let sessions = scenario.sessions(scenario.seed);
    let ways = lab.ways(&sessions).expect("the kernel's answers");
    // Connected IPv6 sockets are hashed to a number of their own, whatever the flow.
    for (connected, v6) in [(false, false), (true, false), (false, true)] {
        let before = forwarded(&lab);
        let mut expected = before.clone();
        for (session, way) in sessions.iter().zip(&ways).filter(|(session, _)| session.target.is_ipv6() == v6) {
            let send = || {
                let socket = std::net::UdpSocket::bind(session.source)?;
                if connected {
                    socket.connect(session.target)?;
                    socket.send(&[0; 44])
                } else {
                    socket.send_to(&[0; 44], session.target)
                }
            };
            lab.namespace("clients").expect("a node").run(send).expect("entered").expect("sent");
            let (_, member) = way.iter().find(|(node, dev)| node == "edge" && dev.starts_with('m')).expect("a member");
            *expected.get_mut(member).expect("counted") += 1;
        }
        // The last may still be on its way.
        let deadline = Instant::now() + Duration::from_secs(20);
        while forwarded(&lab) != expected && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(forwarded(&lab), expected, "connected {connected}, IPv6 {v6}, before {before:?}");
    }
}

#[test]
fn both_keep_each_flow_on_one_way_but_do_not_draw_the_same() {
    if !isolated("both_keep_each_flow_on_one_way_but_do_not_draw_the_same") {
        return;
    }
    let scenario = Scenario::load("ecmp-fault", None).expect("shipped");
    let reseeded = Scenario { hash_seed: scenario.hash_seed + 1, ..scenario.clone() };
    let mut drawn = Vec::new();
    for ways in [by_kernel, by_events] {
        let first = ways(&scenario);
        // Fixed by the seed: in another lab, of other namespaces, and only by it.
        assert_eq!(first, ways(&scenario));
        assert_ne!(first, ways(&reseeded));
        // Four next hops of one weight: a quarter of 80 sessions each, within four standard deviations.
        let taken = members(&first);
        eprintln!("{taken:?}");
        assert_eq!(taken.len(), 4, "{taken:?}");
        assert!(taken.values().all(|sessions| (5..=35).contains(sessions)), "{taken:?}");
        drawn.push(first);
    }
    let [kernel, events] = &drawn[..] else { unreachable!("two of them") };
    // The same kinds of nodes in the same order for every session; which of the four stands between is another draw.
    let kinds = |ways: &Ways| -> Vec<Vec<String>> {
        let kind = |node: &String| if node.starts_with('m') { "member".to_owned() } else { node.clone() };
        ways.iter().map(|way| way.iter().map(|(node, _)| kind(node)).collect()).collect()
    };
    assert_eq!(kinds(kernel), kinds(events));
    assert_ne!(kernel, events);
    // The kernel sorts a flow's two ends before it hashes them, so that replies come back by the member of their requests; the virtual engine draws each way.
    let there_and_back = |way: &Vec<(String, String)>| {
        let mut members = way.iter().map(|(node, _)| node).filter(|node| node.starts_with('m'));
        members.next() == members.next()
    };
    assert!(kernel.iter().all(there_and_back));
    let same = events.iter().filter(|way| there_and_back(way)).count();
    assert!((5..=35).contains(&same), "a quarter of 80 by chance: {same}");
}
