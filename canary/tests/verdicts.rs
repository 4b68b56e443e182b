//! Whole experiments with a known truth, and the verdict that each must get.

mod simulator;

use pathlab_canary::{Decision, Experiment, Topic, Verdict, judge};
use simulator::{EVENINGS, Path, Who, World, bucket};

const PLAN: &str = r#"
[experiment]
name = "simulated"
seed_file = "/etc/pathlab/seed"
share = "15%"
cap_share = "20%"
[steer]
mode = "host"
lease = "500ms"
mark_mask = "0x00ff0000"
priority = 10000
[steer.canary]
v4 = { dev = "eth1" }
[windows]
evening = "19:00-24:00"
zone = "Asia/Tokyo"
evenings = 2
bin = "10min"
[policy]
metric = "rtt.p95"
margin = "2ms"
target = { isp = ["NTT"] }
guardrails = ["loss", "ipdv.p95", "rtt.p99", "tail_sessions"]
"#;

fn plan(margin: &str) -> Experiment {
    Experiment::from_toml("plan", &PLAN.replace("\"2ms\"", &format!("\"{margin}\""))).unwrap()
}

fn verdict(world: World, plan: &Experiment, seed: u32, evenings: &[&str], path: impl Fn(&Who<'_>) -> Path) -> Verdict {
    let ingested = world.play(plan, seed, evenings, path);
    judge(plan, seed, &ingested, bucket).unwrap()
}

fn assert_decision(verdict: &Verdict, decision: Decision, text: &str) {
    let lines = verdict.lines().join("\n");
    assert_eq!(verdict.decision, decision, "{lines}");
    assert!(verdict.sentence.contains(text), "{text}: {lines}");
}

const CONGESTED: Path = Path { shift: 0.0, factor: 0.0, queue: (20.0, 40.0), loss: 0.03 };
const CLEAR: Path = Path { shift: 0.0, factor: 0.0, queue: (0.0, 0.0), loss: 0.0 };

/// The demo's three variants: transit A or B congested, or neither.
fn demo(variant: &str, seed: u32) -> Verdict {
    verdict(World::DEMO, &plan("2ms"), seed, &EVENINGS, |who| {
        let on_b = who.canary && who.window != "aa";
        let congested = match variant {
            "better" => !on_b,
            "worse" => on_b,
            _ => false,
        };
        if congested { CONGESTED } else { CLEAR }
    })
}

#[test]
fn the_demo_gets_its_verdicts_ten_times_out_of_ten() {
    for seed in 0..10 {
        assert_decision(&demo("better", seed), Decision::Promote, "rtt.p95 of NTT is better on the canary");
        assert_decision(&demo("worse", seed), Decision::RollBack, "is worse on the canary");
        assert_decision(&demo("same", seed), Decision::Hold, "no difference");
    }
}

#[test]
#[ignore = "explore"]
fn explore() {
    let count = |variant: &str| {
        let mut tally = std::collections::BTreeMap::new();
        let t = std::time::Instant::now();
        for seed in 100..300 {
            let verdict = demo(variant, seed);
            let why = match (variant, verdict.decision) {
                ("better", Decision::Promote) | ("worse", Decision::RollBack) => String::new(),
                _ => verdict
                    .reasons
                    .iter()
                    .filter(|r| !r.holds)
                    .map(|r| format!("{:?}", r.topic))
                    .collect::<Vec<_>>()
                    .join(","),
            };
            *tally.entry((verdict.decision.to_string(), why)).or_insert(0) += 1;
        }
        println!("{variant}: {tally:?} {:?}", t.elapsed() / 200);
    };
    ["better", "worse", "same"].map(count);
}
