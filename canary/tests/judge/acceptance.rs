//! The definition of done where the truth is known: pass, fail and insufficient, each for its reason.

use pathlab_canary::{Acceptance, Accepted, Experiment, Margin, Metric, Outcome, accept, judge};

use crate::simulator::{CLEAR, Path, Who, World, bucket, plan};

const WORLD: World = World { sessions: [("NTT", 300), ("KDDI", 300)], packets: 8, lossy: 0.0, ..World::PLAYERS };
const TWO: [&str; 2] = ["2026-11-21", "2026-11-22"];
const WITH_BASELINE: [&str; 4] = ["2026-11-10", "2026-11-11", "2026-11-21", "2026-11-22"];

fn experiment() -> Experiment {
    let mut experiment = plan("20ms");
    experiment.policy.margins.insert(Metric::Loss, Margin::Share("3%".parse().unwrap()));
    let time = |text: &str| text.parse().unwrap();
    experiment.acceptance =
        Some(Acceptance { rtt_p95: time("90ms"), ipdv_p95: time("40ms"), loss: "3%".parse().unwrap() });
    experiment
}

fn accepted(experiment: &Experiment, world: World, evenings: &[&str], path: impl Fn(&Who<'_>) -> Path) -> Accepted {
    accept(experiment, 1, &world.play(experiment, 1, evenings, path)).unwrap().unwrap()
}

fn assert_outcome(accepted: &Accepted, outcome: Outcome, text: &str) {
    assert_eq!(accepted.outcome, outcome, "{accepted:#?}");
    assert!(accepted.sentence.contains(text), "{text}: {}", accepted.sentence);
}

#[test]
fn two_good_evenings_pass() {
    let good = accepted(&experiment(), WORLD, &WITH_BASELINE, |_| CLEAR);
    assert_outcome(&good, Outcome::Pass, "pass: rtt.p95, ipdv.p95 and loss of 2 cohorts are at or under target");
    assert_eq!((good.targets.len(), good.elsewhere.len()), (12, 12));
    assert_eq!(good.baseline, ["2026-11-10", "2026-11-11"]);
}

#[test]
fn a_baseline_is_at_most_fourteen_days_old_and_else_the_prelude() {
    let old = ["2026-11-06", "2026-11-07", "2026-11-21", "2026-11-22"];
    assert_eq!(accepted(&experiment(), WORLD, &old, |_| CLEAR).baseline, ["2026-11-07"]);
    assert_eq!(accepted(&experiment(), WORLD, &TWO, |_| CLEAR).baseline, ["aa"]);
    // Without either, nobody knows whether it got worse elsewhere.
    let experiment = experiment();
    let mut ingest = pathlab_canary::Ingest::new(&experiment).unwrap();
    WORLD.bins(
        &experiment,
        1,
        &TWO,
        |_| CLEAR,
        |number, bin| {
            if !bin.labels.contains_key("window") {
                ingest.bin("simulated", number, bin);
            }
        },
    );
    let without = accept(&experiment, 1, &ingest.finish()).unwrap().unwrap();
    assert_outcome(&without, Outcome::Insufficient, "no baseline");
}

#[test]
fn a_target_that_is_missed_on_one_evening_fails() {
    for (shift, loss, text) in
        [(60.0, 0.0, "rtt.p95 of NTT IPv4 on 2026-11-22"), (0.0, 0.1, "loss of NTT IPv4 on 2026-11-22")]
    {
        let bad = |who: &Who<'_>| match (who.isp, who.window) {
            ("NTT", "2026-11-22") => Path { shift, loss, ..CLEAR },
            _ => CLEAR,
        };
        assert_outcome(&accepted(&experiment(), WORLD, &WITH_BASELINE, bad), Outcome::Fail, text);
    }
}

#[test]
fn a_regression_elsewhere_fails_though_every_target_is_met() {
    let worse = |who: &Who<'_>| match (who.isp, who.window) {
        ("KDDI", "2026-11-21" | "2026-11-22") => Path { shift: 40.0, ..CLEAR },
        _ => CLEAR,
    };
    let worse = accepted(&experiment(), WORLD, &WITH_BASELINE, worse);
    assert_outcome(&worse, Outcome::Fail, "rtt.p95 of KDDI IPv4 on 2026-11-21: 4");
    assert!(worse.sentence.contains("above its baseline"), "{}", worse.sentence);
    assert!(worse.targets.iter().all(|held| held.outcome == Outcome::Pass));
}

#[test]
fn what_cannot_be_said_is_insufficient() {
    let experiment = experiment();
    assert_outcome(&accepted(&experiment, WORLD, &TWO[..1], |_| CLEAR), Outcome::Insufficient, "one evening only");
    let apart = ["2026-11-21", "2026-11-24"];
    assert_outcome(&accepted(&experiment, WORLD, &apart, |_| CLEAR), Outcome::Insufficient, "not consecutive");
    let mut holidays = experiment.clone();
    holidays.windows.holidays = ["2026-11-22", "2026-11-23"].map(|date| date.parse().unwrap()).to_vec();
    assert_outcome(&accepted(&holidays, WORLD, &apart, |_| CLEAR), Outcome::Pass, "2026-11-21 and 2026-11-24");
    let few = World { sessions: [("NTT", 50), ("KDDI", 300)], ..WORLD };
    assert_outcome(&accepted(&experiment, few, &TWO, |_| CLEAR), Outcome::Insufficient, "50 sessions of NTT IPv4");
    // One p95 is near the target, and 100 sessions do not tell on which side.
    let mut near = experiment.clone();
    near.acceptance.as_mut().unwrap().rtt_p95 = "72ms".parse().unwrap();
    let hundred = World { sessions: [("NTT", 100), ("KDDI", 300)], ..WORLD };
    assert_outcome(&accepted(&near, hundred, &TWO, |_| CLEAR), Outcome::Insufficient, "not sure enough");
}

#[test]
fn complaints_return_to_their_baseline_or_they_did_not() {
    let mut experiment = experiment();
    experiment.policy.guardrails.push(Metric::Complaints);
    experiment.policy.margins.insert(Metric::Complaints, Margin::Share("2%".parse().unwrap()));
    // Of 1,200 sessions an evening one in a hundred complains.
    let with = |header: &str, rows: &str| {
        let mut ingest = pathlab_canary::Ingest::new(&experiment).unwrap();
        WORLD.bins(&experiment, 1, &WITH_BASELINE, |_| CLEAR, |number, bin| ingest.bin("simulated", number, bin));
        ingest.lines("tickets.csv", format!("{header}\n{rows}").as_bytes()).unwrap();
        accept(&experiment, 1, &ingest.finish()).unwrap().unwrap()
    };
    let header = "window,complaints";
    let usual = "2026-11-10,11\n2026-11-11,13\n2026-11-21,12\n2026-11-22,10\n";
    let back = with(header, usual);
    assert_outcome(&back, Outcome::Pass, "no regression elsewhere, complaints are at their baseline");
    assert_eq!(back.complaints.len(), 2);
    assert!((back.complaints[0].measured.estimate).abs() < 1e-9, "{:?}", back.complaints[0]);
    // While there were two arms, both count.
    let arms = "2026-11-10,control,7\n2026-11-10,canary,4\n2026-11-11,control,13\n2026-11-21,canary,12\n2026-11-22,canary,10\n";
    assert_eq!(with("window,arm,complaints", arms), back);
    let more = usual.replace("2026-11-22,10", "2026-11-22,60");
    assert_outcome(&with(header, &more), Outcome::Fail, "complaints of all ISPs on 2026-11-22: 4.00 %");
    let text = serde_json::to_value(&with(header, &more).complaints[1]).unwrap();
    assert_eq!((&text["metric"], text.get("isp"), &text["unit"]), (&"complaints".into(), None, &"share".into()));
    // An evening that nobody counted, and none of the baseline, are not none.
    for gone in ["2026-11-22,10\n", "2026-11-10,11\n2026-11-11,13\n"] {
        let gone = usual.replace(gone, "");
        assert_outcome(&with(header, &gone), Outcome::Insufficient, "no complaints of 2026-11-2");
    }
    assert_outcome(&with(header, &usual.replace("-22,10", "-22,0")), Outcome::Pass, "complaints are at their");
    assert_outcome(&accepted(&experiment, WORLD, &WITH_BASELINE, |_| CLEAR), Outcome::Insufficient, "no complaints of");
}

#[test]
fn dead_sessions_are_no_way_to_a_good_percentile() {
    let dead = |who: &Who<'_>| match who.isp == "NTT" && who.window != "aa" && who.lot < 0.12 {
        true => Path { loss: 1.0, ..CLEAR },
        false => CLEAR,
    };
    assert_outcome(&accepted(&experiment(), WORLD, &TWO, dead), Outcome::Fail, "no reply");
}

#[test]
fn a_verdict_holds_the_canarys_own_sessions_against_the_targets() {
    let experiment = experiment();
    let slow = |who: &Who<'_>| if who.canary && who.window != "aa" { Path { shift: 60.0, ..CLEAR } } else { CLEAR };
    let world = World { sessions: [("NTT", 520), ("KDDI", 0)], packets: 5, prelude_packets: 5, ..WORLD };
    let verdict = judge(&experiment, 1, &world.play(&experiment, 1, &TWO, slow), bucket).unwrap();
    let acceptance = verdict.findings.acceptance.as_ref().unwrap();
    assert_eq!(acceptance.outcome, Outcome::Fail, "{acceptance:#?}");
    assert!(acceptance.targets.iter().all(|held| held.sessions < 150), "the canary's alone");
    assert!(verdict.to_json().contains("\"acceptance\": {"));
}
