//! The way back, traced by replies that end on it: against a reflector with keys in a network in memory, by the rules of the real one.

use std::sync::Arc;

use pathlab_reflector::keys::{Key, Keys, Protection};
use pathlab_trace::{
    Direction, Network, Plan, Report, Reverse, Verdict,
    simulation::{Fault, Simulation},
    trace,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn keys(octet: u8) -> Arc<Keys> {
    Keys::of(Protection::Authenticated, Key::new(&[octet; 32]).expect("long enough")).into()
}

fn traced(network: &mut Simulation, rounds: u32) -> Report {
    let plan = Plan { rounds, keys: Some(keys(1)), reverse: true, ..Plan::default() };
    let traced = trace(network, &plan, &|| false).expect("a network in memory");
    Report::new(&network.flows(), &plan, &traced)
}

fn ways(report: &Report) -> impl Iterator<Item = &Reverse> {
    report.flows.iter().map(|flow| flow.reverse.as_ref().expect("asked for"))
}

/// Loss on one link of the way back, somewhere: the reflector's side names the link, and of the way there nothing is said. Some routers answer seldom.
#[test]
fn the_losing_link_of_the_way_back_is_named() {
    let (mut right, mut wrong, mut missed) = (0, 0, 0);
    for seed in 0..30 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let distance = random.random_range(3..10_u8);
        let mut network = Simulation::parallel(2, distance, seed % 2 == 1, seed);
        network.keyed(keys(1), true);
        let seldom = random.random_range(1..distance);
        (0..2).for_each(|flow| network.router(flow, seldom).answers = random.random_bool(0.3).then_some(0.5));
        let link = random.random_range(1..=distance);
        network.fault(Fault::back(link, [0.1, 0.2, 0.4][random.random_range(0..3)]));
        let report = traced(&mut network, 200);
        for (flow, way) in report.flows.iter().zip(ways(&report)) {
            assert_eq!(way.distance, Some(distance), "seed {seed}: {way:?}");
            assert_eq!(flow.destination.lost_forward, Some(0), "seed {seed}: {:?}", flow.destination);
            // From the reflector, the link nearest to this host is the last one.
            let wanted = distance + 1 - link;
            match &way.verdict {
                Verdict::Culprit { from, to, direction, .. } => {
                    let is_it = from.hop < wanted && wanted <= to.hop && *direction == Direction::Return;
                    right += u32::from(is_it);
                    wrong += u32::from(!is_it);
                    if !is_it {
                        eprintln!("seed {seed}: link {wanted}: {:?}", way.verdict);
                    }
                }
                verdict => {
                    eprintln!("seed {seed}: link {wanted}: {verdict:?}");
                    missed += 1;
                }
            }
        }
    }
    eprintln!("{right} right, {wrong} wrong, {missed} missed");
    assert!(wrong * 50 <= right && right * 20 >= 19 * (right + wrong + missed), "{right} {wrong} {missed}");
}

/// What is lost on the way there takes requests, and with them replies: on the way back nothing is lost, and nobody is blamed there.
#[test]
fn loss_on_the_way_there_is_not_blamed_on_the_way_back() {
    for seed in 0..12 {
        let mut network = Simulation::parallel(2, 6, seed % 2 == 1, seed);
        network.keyed(keys(1), true);
        network.fault(Fault::forward(1 + (seed % 6) as u8, 0.3));
        let report = traced(&mut network, 200);
        for (flow, way) in report.flows.iter().zip(ways(&report)) {
            let link = 1 + (seed % 6) as u8;
            assert_eq!(flow.verdict.link(), Some((link - 1, link)), "seed {seed}: {:?}", flow.verdict);
            assert_eq!((&way.verdict, way.loss.lost), (&Verdict::None, 0), "seed {seed}: {way:#?}");
        }
    }
}

/// The routers are those of the way there, the other way round, with round trips of their own.
#[test]
fn hops_are_counted_from_the_reflector() {
    let mut network = Simulation::chain(5, 1);
    network.keyed(keys(1), true);
    let report = traced(&mut network, 30);
    let addresses: Vec<_> = (1..5).rev().map(|hop| vec![network.router(0, hop).address]).collect();
    let way = ways(&report).next().expect("one flow");
    assert_eq!(way.hops.iter().map(|hop| hop.addresses.clone()).collect::<Vec<_>>(), addresses);
    for (hop, wanted) in way.hops.iter().zip([6_000_000, 12_000_000, 18_000_000, 24_000_000]) {
        assert_eq!(hop.rtt.map(|rtt| rtt.median_ns), Some(wanted));
        assert!(hop.loss.sent >= 25 && hop.loss.lost == 0, "{hop:?}");
    }
    assert!(way.loss.sent >= 29 && report.flows[0].destination.loss.lost == 0, "{report:#?}");
}

#[test]
fn a_reflector_that_does_not_allow_it_is_traced_one_way() {
    let mut network = Simulation::chain(5, 2);
    network.keyed(keys(1), false);
    network.fault(Fault::forward(3, 0.3));
    let report = traced(&mut network, 200);
    let Verdict::Insufficient { why } = &ways(&report).next().expect("one flow").verdict else { panic!("{report:#?}") };
    assert!(why.contains("--allow-reverse-trace"), "{why}");
    assert_eq!(report.flows[0].verdict.link(), Some((2, 3)));
}

#[test]
fn a_reply_under_another_key_is_none() {
    let mut network = Simulation::chain(5, 2);
    network.keyed(keys(2), true);
    let report = traced(&mut network, 30);
    assert_eq!(report.flows[0].destination.loss.lost, report.flows[0].destination.loss.sent);
    assert!(matches!(report.flows[0].verdict, Verdict::BlackHole { .. }), "{:?}", report.flows[0].verdict);
}
