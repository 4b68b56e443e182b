use super::*;

/// The example of the design, in which tests change one line.
pub(crate) const EXAMPLE: &str = r#"
[experiment]
name = "jp-evening-b"
seed_file = "/etc/pathlab/seed"
share = "15%"
cap_share = "20%"

[key]
from = "client_addr_port"

[steer]
mode = "host"
lease = "500ms"
mark_mask = "0x00ff0000"
priority = 10000
max_canary_sessions = 20000
include = []
exclude = []

[steer.canary]
v4 = { via = "192.0.2.1", dev = "eth1" }
v6 = { via = "2001:db8::1", dev = "eth1" }

[windows]
evening = "19:00-24:00"
zone = "Asia/Tokyo"
evenings = 2
bin = "10min"
holidays = []

[policy]
metric = "rtt.p95"
margin = "2ms"
target = { isp = ["NTT"] }
guardrails = ["loss", "ipdv.p95", "rtt.p99", "tail_sessions"]

[acceptance]
rtt_p95 = "60ms"
ipdv_p95 = "10ms"
loss = "0.5%"
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from}");
    Experiment::from_toml("canary.toml", &EXAMPLE.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn durations_are_read_as_people_write_them_and_round_trip() {
    let experiment = Experiment::from_toml("canary.toml", EXAMPLE).unwrap();
    assert_eq!(experiment.policy.margin, SignedDuration::from_millis(2));
    assert_eq!(experiment.steer.lease, SignedDuration::from_millis(500));
    assert_eq!(experiment.windows.bin, SignedDuration::from_mins(10));
    let written = toml::to_string(&experiment).unwrap();
    assert!(written.contains("margin = \"2ms\"") && written.contains("lease = \"500ms\""), "{written}");
    assert_eq!(Experiment::from_toml("again", &written).unwrap(), experiment);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = refusal("zone = ", "timezone = \"x\"\nzone = ");
    assert!(text.starts_with("canary.toml line 26: unknown field `timezone`, expected"), "{text}");
}

#[test]
fn values_out_of_range_are_one_sentence_that_names_the_key() {
    for (from, to, expected) in [
        ("share = \"15%\"", "share = \"25%\"", "experiment.share 25% must be above 0% and at most"),
        ("share = \"15%\"", "share = \"15\"", "`15` is no share"),
        ("\"jp-evening-b\"", "\"a b\"", "experiment.name \"a b\""),
        ("\"500ms\"", "\"5ms\"", "steer.lease 5ms"),
        ("\"0x00ff0000\"", "\"0\"", "`0` is no mark mask"),
        ("priority = 10000", "priority = 40000", "steer.priority 40000"),
        ("include = []", "include = [\"10.0.0.0/33\"]", "steer.include: `10.0.0.0/33`: the length goes to 32"),
        ("\"192.0.2.1\"", "\"2001:db8::1\"", "other address family"),
        ("\"client_addr_port\"", "\"payload\"", "key.from \"payload\" needs key.offset"),
        ("\"19:00-24:00\"", "\"19-24\"", "windows.evening \"19-24\""),
        ("\"Asia/Tokyo\"", "\"Asia/Edo\"", "windows.zone \"Asia/Edo\""),
        ("evenings = 2", "evenings = 0", "windows.evenings 0"),
        ("\"10min\"", "\"2h\"", "windows.bin 2h"),
        ("\"rtt.p95\"\nmargin", "\"loss\"\nmargin", "policy.metric loss is no quantile"),
        ("\"ipdv.p95\"", "\"jitter.p95\"", "`jitter.p95` is no metric"),
        ("\"2ms\"", "\"0s\"", "policy.margin 0s"),
        ("\"2ms\"", "\"-2ms\"", "policy.margin -2ms"),
        ("[acceptance]", "margins = { loss = \"2ms\" }\n[acceptance]", "policy.margins loss"),
        ("[acceptance]", "replicates = 10\n[acceptance]", "policy.replicates 10"),
    ] {
        let text = refusal(from, to);
        assert!(text.starts_with("canary.toml") && text.contains(expected) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn margins_fall_back_on_the_policys() {
    let text = EXAMPLE.replace("[acceptance]", "margins = { loss = \"1%\", \"ipdv.p95\" = \"3ms\" }\n[acceptance]");
    let policy = Experiment::from_toml("canary.toml", &text).unwrap().policy;
    let margin = |metric: &str| policy.margin_of(metric.parse().unwrap());
    assert_eq!(["rtt.p95", "rtt.p99", "ipdv.p95"].map(margin), [2e6, 4e6, 3e6]);
    assert_eq!(["loss", "tail_sessions"].map(margin), [0.01, 0.02]);
}

#[test]
fn the_example_in_the_documents_is_one() {
    let formats = include_str!("../../../docs/formats.md");
    let example = formats.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let experiment = Experiment::from_toml("docs/formats.md", example).expect("sound");
    assert_eq!((experiment.policy.looks.as_slice(), experiment.steer.server_port), (&[1, 2][..], Some(30_000)));
}
