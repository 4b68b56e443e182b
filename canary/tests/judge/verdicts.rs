//! Whole experiments with a known truth, and the verdict that each must get.

use crate::simulator::{CLEAR, EVENINGS, Path, Who, World, bucket, demo, improved, plan};
use pathlab_canary::{Decision, Experiment, Margin, Topic, Verdict, judge};

fn verdict(world: World, plan: &Experiment, seed: u32, evenings: &[&str], path: impl Fn(&Who<'_>) -> Path) -> Verdict {
    let ingested = world.play(plan, seed, evenings, path);
    judge(plan, seed, &ingested, bucket).unwrap()
}

fn assert_decision(verdict: &Verdict, decision: Decision, text: &str) {
    let lines = verdict.to_json();
    assert_eq!(verdict.decision, decision, "{lines}");
    assert!(verdict.sentence.contains(text), "{text}: {lines}");
}

fn demo_verdict(variant: &str, seed: u32) -> Verdict {
    verdict(World::DEMO, &plan("2ms"), seed, &EVENINGS, demo(variant))
}

#[test]
fn the_demo_gets_its_verdicts() {
    // The soak plays many more seeds.
    for seed in 0..3 {
        assert_decision(&demo_verdict("better", seed), Decision::Promote, "rtt.p95 of NTT is better on the canary");
        assert_decision(&demo_verdict("worse", seed), Decision::RollBack, "is worse on the canary");
        assert_decision(&demo_verdict("same", seed), Decision::Hold, "no difference");
    }
}

/// Failing topics, to see that a Hold holds for one reason alone.
fn failing(verdict: &Verdict) -> Vec<Topic> {
    let mut topics: Vec<_> = verdict.reasons.iter().filter(|reason| !reason.holds).map(|reason| reason.topic).collect();
    topics.dedup();
    topics
}

#[test]
fn a_true_improvement_is_promoted() {
    let verdict = verdict(World::PLAYERS, &plan("5ms"), 1, &EVENINGS, improved);
    assert_decision(&verdict, Decision::Promote, "rtt.p95 of NTT is better on the canary: -");
    assert_eq!(verdict.decision.exit_code(), 0);
}

#[test]
fn one_evening_is_hold_and_so_is_a_win_on_one_evening() {
    let one = verdict(World::PLAYERS, &plan("5ms"), 1, &EVENINGS[..1], improved);
    assert_decision(&one, Decision::Hold, "one evening only, 2 wanted");
    let first = |who: &Who<'_>| match who.window {
        "2026-11-21" if who.canary => Path { shift: -30.0, ..CLEAR },
        _ => CLEAR,
    };
    let won_once = verdict(World::PLAYERS, &plan("5ms"), 1, &EVENINGS, first);
    assert_decision(&won_once, Decision::Hold, "not better on every evening");
    assert_eq!(failing(&won_once), [Topic::EveningsAgree]);
}

#[test]
fn fewer_sessions_than_the_minimum_are_hold() {
    let small = World { sessions: [("NTT", 300), ("KDDI", 650)], ..World::PLAYERS };
    let verdict = verdict(small, &plan("5ms"), 1, &EVENINGS, improved);
    assert_decision(&verdict, Decision::Hold, "too little data in NTT");
    assert!(verdict.sentence.contains("72 each needed") && verdict.sentence.contains("smallest detectable effect"));
    assert_eq!(verdict.decision.exit_code(), 3);
}

#[test]
fn without_a_clean_prelude_nothing_is_promoted() {
    let unclean = verdict(World::PLAYERS, &plan("5ms"), 1, &EVENINGS, |who| {
        if who.canary { Path { shift: -20.0, ..CLEAR } } else { CLEAR }
    });
    assert_decision(&unclean, Decision::Hold, "A/A not clean");
    let plan = plan("5ms");
    let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
    World::PLAYERS.bins(&plan, 1, &EVENINGS, improved, |number, bin| {
        if !bin.labels.contains_key("window") {
            ingest.bin("simulated", number, bin);
        }
    });
    let without = judge(&plan, 1, &ingest.finish(), bucket).unwrap();
    assert_decision(&without, Decision::Hold, "no A/A prelude");
}

#[test]
fn two_percent_of_sessions_a_hundred_times_worse_are_rolled_back() {
    for seed in 0..3 {
        let verdict =
            verdict(World::PLAYERS, &plan("5ms"), seed, &EVENINGS, |who| match who.canary && who.window != "aa" {
                true if who.lot < 0.02 => Path { factor: 99.0, ..CLEAR },
                _ => CLEAR,
            });
        assert_decision(&verdict, Decision::RollBack, "is worse on the canary");
        let tail = "tail_sessions of all ISPs is worse on the canary";
        assert!(verdict.reasons.iter().any(|reason| reason.text.starts_with(tail)), "{}", verdict.to_json());
        assert_eq!(verdict.decision.exit_code(), 4);
    }
}

/// Of the whole prelude and two evenings, with complaints as a help desk would export them.
fn complaining(rows: &str, path: impl Fn(&Who<'_>) -> Path) -> Verdict {
    complaining_as("time,arm,complaints", rows, path)
}

fn complaining_as(header: &str, rows: &str, path: impl Fn(&Who<'_>) -> Path) -> Verdict {
    let mut plan = plan("5ms");
    let complaints = "complaints".parse().unwrap();
    plan.policy.guardrails.push(complaints);
    plan.policy.margins.insert(complaints, Margin::Share("1%".parse().unwrap()));
    let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
    World::PLAYERS.bins(&plan, 1, &EVENINGS, path, |number, bin| ingest.bin("simulated", number, bin));
    if !rows.is_empty() {
        ingest.lines("tickets.csv", format!("{header}\n{rows}").as_bytes()).unwrap();
    }
    judge(&plan, 1, &ingest.finish(), bucket).unwrap()
}

#[test]
fn complaints_of_the_canary_roll_back_and_their_absence_from_the_data_is_hold() {
    // Of 5,200 sessions some 780 are on the canary: 20 of 40 complaints are theirs.
    let many = "2026-11-21T11:00:00Z,control,12\n2026-11-21T11:00:00Z,canary,11\n2026-11-22T23:30:00+09:00,control,8\n2026-11-22T14:00:00Z,canary,9\n";
    assert_decision(&complaining(many, improved), Decision::RollBack, "complaints of all ISPs is worse on the canary");
    let fair_rows = many.replace("canary,11", "canary,2").replace("canary,9", "canary,1");
    let fair = complaining(&fair_rows, improved);
    assert_decision(&fair, Decision::Promote, "rtt.p95 of NTT is better");
    assert!(
        fair.reasons
            .iter()
            .any(|reason| reason.holds && reason.text.starts_with("complaints of all ISPs is not worse"))
    );
    assert_decision(&complaining("", improved), Decision::Hold, "no data for complaints of all ISPs");
    let armless = fair_rows.replace(",control,", ",").replace(",canary,", ",");
    assert_decision(
        &complaining_as("time,complaints", &armless, improved),
        Decision::Hold,
        "no data for complaints of all ISPs",
    );
    // What is outside the evenings, or broken, is counted and not judged.
    let odd = complaining(
        "2026-11-21T09:00:00Z,canary,50\n2026-11-21T11:00:00Z,both,1\n2026-11-21T11:00:00Z,canary\n",
        improved,
    );
    assert_eq!(odd.decision, Decision::Promote, "{}", odd.sentence);
    let lines = |remark| odd.remarks[&remark].lines;
    assert_eq!((lines(pathlab_canary::Remark::OutsideWindows), lines(pathlab_canary::Remark::Broken)), (1, 2));
}

/// A ramp from 10 % to 20 % between the evenings, with a path that `shift` milliseconds are added to on the second.
fn ramped(shift: f64) -> Verdict {
    let mut plan = plan("5ms");
    // A tenth of the sessions is too few for a p99.
    plan.policy.guardrails = ["ipdv.p95", "tail_sessions"].map(|metric| metric.parse().unwrap()).to_vec();
    let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
    let world = World { sessions: [("NTT", 1_100), ("KDDI", 0)], ..World::PLAYERS };
    let full = |who: &Who<'_>| match who.window {
        "2026-11-22" => Path { shift: improved(who).shift * 2.0 + if who.canary { shift } else { 0.0 }, ..CLEAR },
        _ => Path { shift: improved(who).shift * 2.0, ..CLEAR },
    };
    for (share, window) in [("10%", EVENINGS[0]), ("20%", EVENINGS[1])] {
        let mut stage = plan.clone();
        stage.experiment.share = share.parse().unwrap();
        world.bins(&stage, 1, &EVENINGS, full, |number, mut bin| {
            let of =
                bin.labels.get("window").map_or_else(|| bin.start.to_string()[..10].to_owned(), |_| "aa".to_owned());
            // The prelude's sessions go with the first share.
            if of == window || (of == "aa" && window == EVENINGS[0]) {
                bin.labels.insert("share".into(), share.into());
                ingest.bin("simulated", number, bin);
            }
        });
    }
    judge(&plan, 1, &ingest.finish(), bucket).unwrap()
}

#[test]
fn a_canary_that_gets_worse_with_its_own_share_is_hold() {
    // Still better than control on both evenings, and worse than itself at half the share.
    let full = ramped(14.0);
    assert_decision(&full, Decision::Hold, "the canary gets worse with its own share, as if short of capacity");
    assert_eq!(failing(&full), [Topic::Capacity]);
    let enough = ramped(0.0);
    assert_decision(&enough, Decision::Promote, "rtt.p95 of NTT is better");
    assert!(enough.reasons.iter().any(|reason| reason.holds && reason.topic == Topic::Capacity));
}

#[test]
fn dead_sessions_cannot_improve_a_percentile() {
    // A tenth of the canary's sessions, the slowest ones as likely as not, never hear back: the others look the same.
    let verdict = verdict(World::PLAYERS, &plan("5ms"), 1, &EVENINGS, |who| match who.canary && who.window != "aa" {
        true if who.lot < 0.1 => Path { loss: 1.0, ..CLEAR },
        _ => CLEAR,
    });
    assert_decision(&verdict, Decision::RollBack, "+infinite");
    assert!(verdict.to_json().contains("\"canary\": \"infinite\""));
}

#[test]
fn a_shifted_mix_of_isps_does_not_flip_the_sign() {
    // The canary is 12 ms better in both ISPs. But the slow one is 60 ms slower, and a payload key put most of its sessions on the
    // canary and few of the fast one's: pooled, the canary looks worse.
    let mut plan = plan("5ms");
    plan.policy.target.isp.clear();
    let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
    let slow = |who: &Who<'_>| {
        let better = improved(who).shift;
        Path { shift: better + if who.isp == "KDDI" { 60.0 } else { 0.0 }, ..CLEAR }
    };
    let mut pooled = [Vec::new(), Vec::new()];
    let world = World { sessions: [("NTT", 1_500), ("KDDI", 1_500)], ..World::PLAYERS };
    world.bins(&plan, 1, &EVENINGS, slow, |number, bin| {
        let canary = bucket(1, &bin.key.unwrap()).unwrap() < 1_500;
        // Mix: of NTT a half of the canary is there, of KDDI a third of the control.
        let dropped = match bin.labels["isp"].as_str() {
            Some("NTT") => canary && number % 2 == 0,
            _ => !canary && number % 3 != 0,
        };
        if !dropped {
            pooled[usize::from(canary)].extend(bin.rtt.as_ref().unwrap().quantile(0.5));
            ingest.bin("simulated", number, bin);
        }
    });
    let median = |values: &mut Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let [control, canary] = &mut pooled;
    assert!(median(canary) > median(control), "pooled, the canary looks worse");
    let verdict = judge(&plan, 1, &ingest.finish(), bucket).unwrap();
    for isp in &verdict.findings.isps {
        assert!(isp.whole.interval.high < 0.0, "{}", isp.whole.text());
    }
    // And the mix itself is noticed.
    assert_decision(&verdict, Decision::Hold, "sample ratio mismatch");
}

#[test]
fn another_assignment_than_the_seeds_is_noticed() {
    let plan = plan("5ms");
    let ingested = World::PLAYERS.play(&plan, 1, &EVENINGS, improved);
    let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
    World::PLAYERS.bins(&plan, 1, &EVENINGS, improved, |number, mut bin| {
        let canary = bucket(1, &bin.key.unwrap()).unwrap() < 1_500;
        bin.arm_assigned = Some(if canary { pathlab_record::Arm::Canary } else { pathlab_record::Arm::Control });
        ingest.bin("simulated", number, bin);
    });
    let stated = ingest.finish();
    // Stated arms that are those of the seed change nothing.
    let verdict = judge(&plan, 1, &stated, bucket).unwrap();
    let computed = judge(&plan, 1, &ingested, bucket).unwrap();
    assert_eq!(verdict.findings.isps, computed.findings.isps);
    assert_eq!(verdict.findings.guardrails, computed.findings.guardrails);
    let wrong = judge(&plan, 2, &stated, bucket).unwrap();
    assert_eq!(wrong.decision, Decision::Hold);
    assert!(failing(&wrong).contains(&Topic::Assignment), "{}", wrong.to_json());
}

#[test]
fn a_congestion_that_only_one_isp_feels_is_rolled_back() {
    let verdict = verdict(World::PLAYERS, &plan("5ms"), 1, &EVENINGS, |who| match who.isp {
        "KDDI" if who.canary && who.window != "aa" => Path { shift: 25.0, ..CLEAR },
        _ => improved(who),
    });
    assert_decision(&verdict, Decision::RollBack, "rtt.p95 of KDDI is worse");
}
