//! A verdict, the runs and the program give the same bytes again; anything else is named.

use std::{fs, path::PathBuf};

use crate::simulator::{EVENINGS, Path, World, bucket, plan};
use pathlab_canary::{Error, Experiment, Given, Ingest, Registration, judge};

fn small() -> World {
    World { sessions: [("NTT", 60), ("KDDI", 40)], packets: 5, prelude_packets: 5, ..World::PLAYERS }
}

/// Writes the simulated experiment as one run directory for each window.
fn runs(root: &std::path::Path, experiment: &Experiment) -> Vec<PathBuf> {
    let mut files: std::collections::BTreeMap<String, String> = Default::default();
    small().bins(
        experiment,
        5,
        &EVENINGS,
        |_| Path::default(),
        |_, bin| {
            let window = bin
                .labels
                .get("window")
                .map_or_else(|| bin.start.to_string()[..10].to_owned(), |window| window.as_str().unwrap().to_owned());
            let file = files.entry(window).or_default();
            file.push_str(&serde_json::to_string(&bin).unwrap());
            file.push('\n');
        },
    );
    let write = |(window, text)| {
        let run = root.join(format!("run-{window}"));
        fs::create_dir(&run).unwrap();
        fs::write(run.join("sessions.jsonl"), text).unwrap();
        run
    };
    files.into_iter().map(write).collect()
}

fn ingest(experiment: &Experiment, runs: &[PathBuf]) -> pathlab_canary::Ingested {
    let mut ingest = Ingest::new(experiment).unwrap();
    runs.iter().for_each(|run| ingest.run(run).unwrap());
    ingest.finish()
}

#[test]
fn the_same_data_give_the_same_bytes_and_a_changed_byte_is_named() {
    let root = tempfile::tempdir().unwrap();
    let experiment = plan("2ms");
    let mut runs = runs(root.path(), &experiment);
    let text = judge(&experiment, 5, &ingest(&experiment, &runs), bucket).unwrap().to_json();

    // In another order, and from what the document itself says.
    runs.reverse();
    let given = Given::read(&text).unwrap();
    assert_eq!(given.experiment(), &experiment);
    let paths = || runs.iter().map(PathBuf::as_path);
    assert_eq!(given.replay(paths(), bucket).unwrap().to_json(), text);

    let altered = Given::read(&text.replace("\"decision\": \"Hold\"", "\"decision\": \"Promote\"")).unwrap();
    let refusal = altered.replay(paths(), bucket).unwrap_err().to_string();
    assert!(refusal.contains("differs from byte") && refusal.contains("Promote"), "{refusal}");

    let file = runs[1].join("sessions.jsonl");
    let original = fs::read(&file).unwrap();
    let mut bytes = original.clone();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let refusal = given.replay(paths(), bucket).unwrap_err().to_string();
    assert!(refusal.starts_with("run-2026-11-22/sessions.jsonl: has SHA-256 "), "{refusal}");

    fs::write(&file, &original[1..]).unwrap();
    let refusal = given.replay(paths(), bucket).unwrap_err().to_string();
    assert!(refusal.contains("bytes, the verdict rests on"), "{refusal}");

    let refusal = given.replay(paths().take(1), bucket).unwrap_err();
    assert!(matches!(refusal, Error::InputChanged { ref what, .. } if what == "is missing"), "{refusal}");
}

#[test]
fn a_verdict_says_whether_its_plan_was_registered_before_the_data() {
    let root = tempfile::tempdir().unwrap();
    let mut experiment = plan("2ms");
    let mut runs = runs(root.path(), &experiment);
    let text = judge(&experiment, 5, &ingest(&experiment, &runs), bucket).unwrap().to_json();
    assert!(text.contains("\"at\": null") && text.contains("\"direction\": \"server_to_client\""), "{text}");

    let registered = root.path().join("plan");
    fs::create_dir(&registered).unwrap();
    let plan = Registration::new(&experiment, "2026-11-20T08:00:00Z".parse().unwrap());
    fs::write(registered.join("plan.json"), plan.to_json()).unwrap();
    runs.push(registered);
    let verdict = judge(&experiment, 5, &ingest(&experiment, &runs), bucket).unwrap();
    assert_eq!(verdict.registered.text(), "plan registered 2026-11-20T08:00:00Z, before the evenings");
    assert!(verdict.inputs.iter().any(|input| input.name == "plan/plan.json"), "{:?}", verdict.inputs);
    let given = Given::read(&verdict.to_json()).unwrap();
    let paths = || runs.iter().map(PathBuf::as_path);
    assert_eq!(given.replay(paths(), bucket).unwrap(), verdict);

    // Elsewhere the seed may lie in another place; another margin is another plan.
    experiment.experiment.seed_file = "elsewhere".into();
    let moved = judge(&experiment, 5, &ingest(&experiment, &runs), bucket).unwrap();
    assert_eq!(moved.registered, verdict.registered);
    experiment.policy.margin = "3ms".parse().unwrap();
    let other = judge(&experiment, 5, &ingest(&experiment, &runs), bucket).unwrap();
    assert_eq!(other.registered.text(), format!("plan not registered; 1 other plan registered: {}", plan.plan_sha256));
}

#[test]
fn a_table_of_prefixes_is_an_input_like_others() {
    let root = tempfile::tempdir().unwrap();
    let experiment = plan("2ms");
    let mut paths = runs(root.path(), &experiment);
    for run in &paths {
        let file = run.join("sessions.jsonl");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"isp\":\"NTT\"", "\"note\":1").replace("\"isp\":\"KDDI\"", "\"note\":2"))
            .unwrap();
    }
    let table = root.path().join("asn.tsv");
    fs::write(&table, "10.0.0.0/8\t2914\tNTT\n").unwrap();
    paths.push(table.clone());
    let read = |paths: &[PathBuf]| {
        let mut ingest = Ingest::new(&experiment).unwrap();
        ingest.runs(paths.iter().map(PathBuf::as_path)).unwrap();
        ingest.finish()
    };
    let verdict = judge(&experiment, 5, &read(&paths), bucket).unwrap();
    let isps: std::collections::BTreeSet<&str> =
        verdict.findings.described.iter().map(|stratum| stratum.isp.as_str()).collect();
    assert_eq!(isps.into_iter().collect::<Vec<_>>(), ["NTT", "unknown"], "IPv6 is in no row");
    assert!(verdict.remarks[&pathlab_canary::Remark::UnknownIsp].lines > 100);
    let given = Given::read(&verdict.to_json()).unwrap();
    assert_eq!(given.replay(paths.iter().map(PathBuf::as_path), bucket).unwrap(), verdict);
    fs::write(&table, "10.0.0.0/8\t2914\tNTU\n").unwrap();
    let refusal = given.replay(paths.iter().map(PathBuf::as_path), bucket).unwrap_err().to_string();
    assert!(refusal.contains("asn.tsv: has SHA-256 "), "{refusal}");
}

#[test]
fn what_is_no_verdict_is_refused() {
    for text in ["", "{}", "null", "{\"schema\":\"pathlab.verdict/2\"}"] {
        assert!(matches!(Given::read(text), Err(Error::Verdict { .. })), "{text}");
    }
}

#[test]
fn nothing_to_judge_says_what_became_of_the_lines() {
    let experiment = plan("2ms");
    let mut ingest = Ingest::new(&experiment).unwrap();
    ingest.lines("x", "{\n{\n".as_bytes()).unwrap();
    let refusal = judge(&experiment, 5, &ingest.finish(), bucket).unwrap_err().to_string();
    assert!(refusal.starts_with("no session to judge: 2 lines are broken, the first "), "{refusal}");
    let missing = Ingest::new(&experiment).unwrap().run(std::path::Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent: cannot be read: No such file"), "{missing}");
}
