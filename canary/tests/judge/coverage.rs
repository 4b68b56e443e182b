//! How often the 95 % intervals hold the truth, with no more data than the policy asks for.

use pathlab_canary::judge;
use pathlab_record::Arm;

use crate::simulator::{CLEAR, EVENINGS, World, bucket, plan};

/// What the policy asks for on the canary, and the control sessions that come with it at a share of 15 %.
const CANARY: usize = 72;
const CONTROL: usize = 408;

/// Shares of experiments in which the interval of the whole ISP, and that of a single evening, holds a true shift of −5 ms.
fn covered(experiments: u32) -> [f64; 2] {
    let mut plan = plan("2ms");
    plan.policy.guardrails.clear();
    let world = World { sessions: [("NTT", (CANARY + CONTROL) / 2), ("KDDI", 0)], ..World::PLAYERS };
    let (mut whole, mut evenings) = (0, 0);
    for seed in 30_000..30_000 + experiments {
        let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
        let mut number_in_window = 0;
        // Arms by turn instead of by hash, so that there are exactly as many as wanted; every shift is −5 ms.
        world.bins(
            &plan,
            seed,
            &EVENINGS,
            |_| CLEAR,
            |number, mut bin| {
                let canary = number_in_window % (CANARY + CONTROL) * CANARY % (CANARY + CONTROL) < CANARY;
                number_in_window += 1;
                bin.key = None;
                bin.labels.insert("family".into(), 4.into());
                bin.arm_assigned = Some(if canary { Arm::Canary } else { Arm::Control });
                if canary && !bin.labels.contains_key("window") {
                    let shifted = bin.rtt.as_ref().unwrap().iter().flat_map(|(value, count)| {
                        std::iter::repeat_n(value.saturating_sub(5_000_000), count as usize)
                    });
                    bin.rtt = Some(shifted.collect());
                }
                ingest.bin("simulated", number, bin);
            },
        );
        let verdict = judge(&plan, seed, &ingest.finish(), bucket).unwrap();
        let [isp] = &verdict.findings.isps[..] else { panic!("{}", verdict.sentence) };
        assert_eq!((isp.whole.sessions.canary, isp.whole.sessions.control), (2 * CANARY as u64, 2 * CONTROL as u64));
        whole += u32::from(isp.whole.interval.holds(-5e6));
        evenings += isp.evenings.iter().filter(|evening| evening.interval.holds(-5e6)).count() as u32;
    }
    [f64::from(whole) / f64::from(experiments), f64::from(evenings) / f64::from(2 * experiments)]
}

#[test]
#[ignore = "soak"]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let experiments =
        std::env::var("PATHLAB_EXPERIMENTS").map_or(2_000, |text| text.parse::<u32>().unwrap().max(2_000));
    let [whole, evenings] = covered(experiments);
    println!(
        "{experiments} experiments at {CANARY} canary sessions a stratum: whole {whole:.4}, one evening {evenings:.4}"
    );
    assert!((0.93..=0.97).contains(&whole) && (0.93..=0.97).contains(&evenings), "{whole} {evenings}");
}

#[test]
fn intervals_hold_the_truth_in_most_of_a_few() {
    let [whole, evenings] = covered(60);
    // Of 60 at 95 %, fewer than 51 happen once in 1,500 times.
    assert!(whole >= 0.85 && evenings >= 0.85, "{whole} {evenings}");
}
