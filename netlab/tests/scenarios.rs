//! Every scenario that is shipped comes to what it expects of itself, on the virtual engine.

use pathlab_netlab::{
    engine::discrete,
    expectation::{Figures, in_words},
    scenario::Scenario,
};

/// Plays a scenario and says which of its expectations do not hold.
fn broken(scenario: &Scenario, seed: u64) -> Vec<String> {
    let outcome = discrete::play(scenario, seed, |_| false);
    let sessions = scenario.sessions(seed);
    let checked = Figures::new(scenario, &outcome, &sessions, |_| false).check();
    let mut broken = Vec::new();
    for check in &checked {
        let quantity = check.expectation.what.quantity();
        let value = check.value.map_or_else(|| "nothing to measure".to_owned(), |value| in_words(quantity, value));
        let line = format!("{}: {}: {value}", scenario.name, check.expectation);
        println!("{line}");
        broken.extend((!check.holds()).then_some(line));
    }
    broken
}

#[test]
fn every_shipped_scenario_comes_to_what_it_expects() {
    let mut wrong = Vec::new();
    for name in Scenario::shipped().filter(|name| *name != "demo") {
        let scenario = Scenario::load(name, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(scenario.name, name);
        assert!(scenario.expectations.len() >= 3, "{name} expects something");
        wrong.extend(broken(&scenario, scenario.seed));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is expected is the scenario's and not the seed's doing.
#[test]
fn other_seeds_come_to_the_same() {
    let mut wrong = Vec::new();
    for name in ["lossy-last-mile", "ecmp-fault", "v6-fault", "evening"] {
        let scenario = Scenario::load(name, None).expect("shipped");
        for seed in [1, 2, 3] {
            wrong.extend(broken(&scenario, seed).into_iter().map(|line| format!("seed {seed}: {line}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An expectation is no decoration: without what it is about, it does not hold.
#[test]
fn without_the_fault_the_expectations_of_the_fault_do_not_hold() {
    for (name, about) in [("v6-fault", "return.p95"), ("ecmp-fault", "loss.forward"), ("path-shift", "forward.p50")] {
        let mut scenario = Scenario::load(name, None).expect("shipped");
        scenario.faults.clear();
        scenario.shifts.clear();
        let broken = broken(&scenario, scenario.seed);
        assert!(broken.iter().any(|line| line.contains(about)), "{name}: {broken:?}");
    }
    let mut large = Scenario::load("small-ring", None).expect("shipped");
    large.set("server:isp.ring=512").expect("a setting");
    assert!(broken(&large, large.seed).iter().any(|line| line.contains("missed at server:isp: 0 packets")));
}
