//! Sizing and chance by simulation: `canary power` finds a size at which the policy promotes, `canary aa` an error rate that is small.
//!
//! The soak sizes for 85 % and then plays `PATHLAB_EXPERIMENTS` fresh experiments of that size, not drawn from the controls.

use pathlab_canary::{Controls, Decision, Effort, Experiment, Ingest, Ingested, Wanted, alike, judge_if_near, power};

use crate::simulator::{CLEAR, EVENINGS, Path, Who, World, bucket, plan};

/// Control evenings before there is an experiment: no arms, three dates.
fn controls(world: World, plan: &Experiment) -> Ingested {
    let mut ingest = Ingest::new(plan).unwrap();
    world.bins(
        plan,
        77,
        &EVENINGS,
        |_| CLEAR,
        |number, mut bin| {
            bin.labels.remove("window");
            bin.key = None;
            ingest.bin("controls", number, bin);
        },
    );
    ingest.finish()
}

/// A true improvement of the target alone.
fn faster(shift: f64) -> impl Fn(&Who<'_>) -> Path {
    move |who| match who.canary && who.window != "aa" && who.isp == "NTT" {
        true => Path { shift: -shift, ..CLEAR },
        false => CLEAR,
    }
}

/// Of so many fresh experiments of this many sessions an evening, those that are promoted.
fn promoted(world: World, plan: &Experiment, sessions: u64, shift: f64, experiments: u32) -> u32 {
    let in_cells: usize = 2 * world.sessions.iter().filter(|(_, sessions)| *sessions > 0).count();
    let each = (sessions as usize).div_ceil(in_cells);
    let sessions = world.sessions.map(|(isp, sessions)| (isp, if sessions > 0 { each } else { 0 }));
    let world = World { sessions, ..world };
    let from: u32 = std::env::var("PATHLAB_FIRST_SEED").map_or(50_000, |text| text.parse().unwrap());
    let promoted = (from..from + experiments).filter(|seed| {
        let [first, last] = world.play_looks(plan, *seed, faster(shift));
        let decision = |ingested: &Ingested| {
            judge_if_near(plan, *seed, ingested, bucket).unwrap().map_or(Decision::Hold, |verdict| verdict.decision)
        };
        decision(&first) != Decision::RollBack && decision(&last) == Decision::Promote
    });
    promoted.count() as u32
}

/// Broadband of one city: less between sessions than among players anywhere.
const CITY: World = World { level: (30.0, 0.15), ..World::PLAYERS };

#[test]
fn a_size_is_found_at_which_the_policy_promotes() {
    // One ISP, one half of it on the canary, and an improvement that is large beside the margin keep this small.
    let mut plan = plan("8ms");
    plan.experiment.cap_share = "50%".parse().unwrap();
    plan.experiment.share = "50%".parse().unwrap();
    plan.policy.guardrails = ["ipdv.p95", "tail_sessions"].map(|metric| metric.parse().unwrap()).to_vec();
    let world = World { sessions: [("NTT", 300), ("KDDI", 0)], packets: 8, prelude_packets: 8, ..CITY };
    let ingested = controls(world, &plan);
    let controls = Controls::new(&plan, &ingested).unwrap();
    let wanted = Wanted { effect: 20_000_000, power: 0.85 };
    let effort = Effort { experiments: 8, sessions: 20_000, evenings: 2, seed: 5 };
    let sized = power(&plan, &controls, "NTT", wanted, effort, |_| ()).unwrap();
    let arms = sized.sessions.expect("a size");
    assert!((158..3_000).contains(&sized.all) && arms.canary.abs_diff(arms.control) <= 1, "{sized:?}");
    // Of 12 at 85 %, fewer than 6 happen once in 1,000 times.
    let fresh = promoted(world, &plan, sized.all, 20.0, 12);
    assert!(fresh >= 6, "{fresh} of 12, {sized:?}");
    assert_eq!(
        power(&plan, &controls, "NTT", wanted, effort, |_| ()).unwrap(),
        sized,
        "the same seed, the same answer"
    );
    let refusal = power(&plan, &controls, "aoba", wanted, effort, |_| ()).unwrap_err().to_string();
    assert_eq!(refusal, "no session to judge: no control session of aoba");
}

#[test]
fn chance_rarely_misleads_the_policy_on_the_users_own_controls() {
    let plan = plan("2ms");
    let world = World { sessions: [("NTT", 500), ("KDDI", 0)], packets: 5, prelude_packets: 5, ..World::PLAYERS };
    let ingested = controls(world, &plan);
    let controls = Controls::new(&plan, &ingested).unwrap();
    assert_eq!((controls.sessions, controls.left_out, controls.unstated), (3 * 1_000, 0, 3 * 1_000));
    let found = alike(&plan, &controls, 9, 8, bucket).unwrap();
    assert_eq!((found.experiments, found.promoted, found.rolled_back), (8, 0, 0));
    assert!(!found.by_key && found.rates()[0].high > 0.2, "eight say little: {found:?}");
    let few = || alike(&plan, &controls, 4, 2, bucket).unwrap();
    assert_eq!(few(), few());
    let mut longer = plan.clone();
    longer.windows.evenings = 3;
    let refusal = alike(&longer, &controls, 9, 12, bucket).unwrap_err().to_string();
    assert!(refusal.contains("3 windows of control sessions, 4 wanted"), "{refusal}");
}

/// A canary that is truly worse is never taken for control.
#[test]
fn sessions_of_the_canary_are_no_controls() {
    let plan = plan("2ms");
    let mut ingest = Ingest::new(&plan).unwrap();
    let world = World { sessions: [("NTT", 100), ("KDDI", 0)], packets: 5, prelude_packets: 5, ..World::PLAYERS };
    world.bins(
        &plan,
        1,
        &EVENINGS,
        |_| CLEAR,
        |number, mut bin| {
            let canary = bucket(1, &bin.key.unwrap()).unwrap() < 1_500;
            bin.arm_assigned = Some(if canary { pathlab_record::Arm::Canary } else { pathlab_record::Arm::Control });
            ingest.bin("x", number, bin);
        },
    );
    let ingested = ingest.finish();
    let controls = Controls::new(&plan, &ingested).unwrap();
    assert_eq!((controls.sessions + controls.left_out, controls.unstated), (600, 0));
    assert!((30..90).contains(&controls.left_out), "{controls:?}");
}

#[test]
#[ignore = "soak"]
fn at_the_size_for_85_percent_four_of_five_are_promoted() {
    let experiments: u32 = std::env::var("PATHLAB_EXPERIMENTS").map_or(1_000, |text| text.parse().unwrap());
    let plan = plan("2ms");
    let world = World { sessions: [("NTT", 3_000), ("KDDI", 3_000)], ..CITY };
    let size = match std::env::var("PATHLAB_SIZE") {
        Ok(text) => text.parse().unwrap(), // sized by another process
        Err(_) => {
            let ingested = controls(world, &plan);
            let controls = Controls::new(&plan, &ingested).unwrap();
            let wanted = Wanted { effect: 5_000_000, power: 0.85 };
            let effort = Effort { experiments: 300, sessions: 60_000, evenings: 2, seed: 5 };
            let sized = power(&plan, &controls, "NTT", wanted, effort, |step| println!("{step}")).unwrap();
            println!("{sized:?}");
            sized.all
        }
    };
    let promoted = promoted(world, &plan, size, 5.0, experiments);
    println!("{promoted} of {experiments} promoted at {size} sessions an evening");
    assert!(promoted * 5 >= experiments * 4, "{promoted} of {experiments}");
}
