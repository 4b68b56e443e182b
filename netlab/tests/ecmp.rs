//! Several next hops under the kernel and under the virtual engine: what is the same of their choices, and what is not.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeMap;

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
