//! The schemas in docs/ against real files, by a validator that is not ours: what the code reads the schema accepts, what it refuses the
//! schema refuses too.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use pathlab_canary::judge;
use pathlab_guard::privilege;
use pathlab_record::{Arm, SessionBin};
use serde_json::Value;

use crate::simulator::{EVENINGS, World, bucket, demo, plan};

const SESSIONS: &str = include_str!("../../../docs/schema/sessions.schema.json");
const VERDICT: &str = include_str!("../../../docs/schema/verdict.schema.json");

/// Reads a schema and then documents, a line each; writes what is wrong with each of them, a line each.
const VALIDATOR: &str = r#"
import json, sys
from jsonschema import Draft202012Validator as Validator
schema = json.loads(sys.stdin.readline())
Validator.check_schema(schema)
validator = Validator(schema)
for line in sys.stdin:
    errors = [f"{list(error.path)}: {error.message[:200]}" for error in validator.iter_errors(json.loads(line))]
    print("; ".join(errors).replace("\n", " "))
"#;

/// What is wrong with each document; none where the validator is not installed.
fn validated(test: &str, schema: &str, documents: &[Value]) -> Option<Vec<String>> {
    let python = |code: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", code]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    if !python("import jsonschema").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        assert!(
            !privilege::required("peers"),
            "{test}: needs python3-jsonschema, and PATHLAB_REQUIRE=peers forbids to skip it"
        );
        privilege::skip(test, "needs python3-jsonschema (apt-get install python3-jsonschema)");
        return None;
    }
    let mut child = python(VALIDATOR).spawn().unwrap();
    let schema: Value = serde_json::from_str(schema).unwrap();
    let lines: String = [&schema].into_iter().chain(documents).map(|document| format!("{document}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), documents.len());
    Some(said.lines().map(str::to_owned).collect())
}

/// A line with every field.
fn whole() -> Value {
    let line = include_str!("../../../docs/formats.md").lines().find(|line| line.starts_with("{\"session\"")).unwrap();
    let bin: SessionBin = serde_json::from_str(line).unwrap();
    let bin = SessionBin {
        key: Some("[2001:db8::1]:7000".parse().unwrap()),
        arm_seen: Some(Arm::Control),
        loss_episodes: Some(1),
        loss_unmeasured: true,
        residence: bin.rtt.clone(),
        ..bin
    };
    serde_json::to_value(bin).unwrap()
}

#[test]
fn the_schema_of_sessions_knows_the_fields_of_the_code() {
    let schema: Value = serde_json::from_str(SESSIONS).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let whole = whole();
    assert_eq!(names(&schema["properties"]), names(&whole));
    let required: BTreeSet<String> = serde_json::from_value(schema["required"].clone()).unwrap();
    for name in names(&whole) {
        let mut lacking = whole.clone();
        lacking.as_object_mut().unwrap().remove(&name);
        let read = serde_json::from_value::<SessionBin>(lacking);
        assert_eq!(read.is_err(), required.contains(&name), "{name}");
    }
}

#[test]
fn sessions_are_what_the_schema_says() {
    let test = "sessions_are_what_the_schema_says";
    let mut good = vec![whole()];
    World::PLAYERS.bins(&plan("2ms"), 3, &EVENINGS, demo("worse"), |number, bin| {
        if number % 97 == 0 {
            good.push(serde_json::to_value(bin).unwrap());
        }
    });
    let Some(wrong) = validated(test, SESSIONS, &good) else { return };
    assert!(good.len() > 50 && wrong.iter().all(String::is_empty), "{wrong:?}");

    let changed = |field: &str, value: Value| {
        let mut line = whole();
        line[field] = value;
        line
    };
    let bad = [
        changed("colour", 1.into()),
        changed("sent", (-1).into()),
        changed("sent", 1.5.into()),
        changed("arm_seen", "both".into()),
        changed("start", "2026-11-21T10:00:00".into()),
        changed("end", "tomorrow".into()),
        changed("key", "nobody".into()),
        changed("rtt", "not a histogram".into()),
        changed("dead", "no".into()),
        changed("clock_sync_age_s", Value::from(-3)),
        Value::from(7),
    ];
    for (line, wrong) in bad.iter().zip(validated(test, SESSIONS, &bad).unwrap()) {
        assert!(!wrong.is_empty(), "the schema accepts {line}");
        assert!(serde_json::from_value::<SessionBin>(line.clone()).is_err(), "the code accepts {line}");
    }
}

#[test]
fn verdicts_are_what_the_schema_says() {
    let mut plan = plan("2ms");
    let document = |plan: &pathlab_canary::Experiment, ingested: &pathlab_canary::Ingested| -> Value {
        serde_json::from_str(&judge(plan, 11, ingested, bucket).unwrap().to_json()).unwrap()
    };
    let played =
        |(variant, evenings): (&str, &[&str])| document(&plan, &World::DEMO.play(&plan, 11, evenings, demo(variant)));
    let mut verdicts: Vec<Value> =
        [("better", EVENINGS.as_slice()), ("worse", &EVENINGS), ("same", &EVENINGS[..1])].map(played).into();
    // With everything that a verdict may have besides: targets, complaints, pooled packets, an evening that goes on, a broken line.
    let time = |text: &str| text.parse().unwrap();
    plan.acceptance =
        Some(pathlab_canary::Acceptance { rtt_p95: time("90ms"), ipdv_p95: time("40ms"), loss: "3%".parse().unwrap() });
    plan.policy.guardrails.push("complaints".parse().unwrap());
    let mut ingest = pathlab_canary::Ingest::new(&plan).unwrap();
    World::DEMO.bins(&plan, 11, &EVENINGS, demo("better"), |number, bin| ingest.bin("simulated", number, bin));
    ingest.lines("tickets.csv", "window,arm,complaints\n2026-11-21,canary,1\nnever,canary,1\n".as_bytes()).unwrap();
    let packets = crate::formats::packets(5, 30);
    ingest.lines("run/cohorts.jsonl", crate::formats::cohorts_jsonl(&packets, true).as_bytes()).unwrap();
    verdicts.push(document(&plan, &ingest.finish()));
    let whole = &verdicts[3]["findings"];
    for list in ["/acceptance/targets", "/guardrails", "/early/watched", "/described", "/checks/sample_ratio"] {
        assert!(whole.pointer(list).and_then(Value::as_array).is_some_and(|list| !list.is_empty()), "{list} {whole}");
    }
    let Some(wrong) = validated("verdicts_are_what_the_schema_says", VERDICT, &verdicts) else { return };
    assert!(wrong.iter().all(String::is_empty), "{wrong:?}");
    let mut broken = verdicts[0].clone();
    broken["decision"] = "Perhaps".into();
    broken["findings"]["cells"][0].as_object_mut().unwrap().remove("low");
    broken["findings"]["early"]["mood"] = 1.into();
    let wrong = validated("verdicts_are_what_the_schema_says", VERDICT, &[broken]).unwrap();
    assert!(["Perhaps", "low", "mood"].iter().all(|what| wrong[0].contains(what)), "{wrong:?}");
}
