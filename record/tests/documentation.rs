//! The examples in docs/formats.md are read by the code that they document.

use pathlab_record::{Digest, Head, Ledger, LogInterval, Run, Sample, SessionBin, evidence::Record};

const FORMATS: &str = include_str!("../../docs/formats.md");

fn lines(prefix: &str) -> Vec<&'static str> {
    let lines: Vec<_> = FORMATS.lines().filter(|line| line.starts_with(prefix)).collect();
    assert!(!lines.is_empty(), "no example of {prefix}");
    lines
}

#[test]
fn examples_are_what_the_code_writes() {
    for line in lines("{\"seq\"") {
        let sample: Sample = serde_json::from_str(line).unwrap();
        assert_eq!(sample.ledger, Ledger::split(&sample.stamps));
        assert_eq!(serde_json::to_string(&sample).unwrap(), line);
    }
    for line in lines("{\"session\"") {
        let bin: SessionBin = serde_json::from_str(line).unwrap();
        bin.check().unwrap();
        assert_eq!(serde_json::to_string(&bin).unwrap(), line);
    }
    for line in lines("{\"sched_late\"") {
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Ledger>(line).unwrap()).unwrap(), line);
    }
    for line in lines("Tag=") {
        assert_eq!(LogInterval::from_line(line).unwrap().to_line(), line);
    }
    let run = FORMATS
        .split("```json\n")
        .find(|block| block.starts_with("{\n"))
        .and_then(|block| block.split("```").next())
        .unwrap();
    let parsed: Run = serde_json::from_str(run).unwrap();
    assert_eq!(serde_json::to_string_pretty(&parsed).unwrap(), run.trim_end());
}

#[test]
fn the_chain_of_the_example_is_a_chain() {
    let records: Vec<(&str, Record)> =
        lines("{\"index\"").into_iter().map(|line| (line, serde_json::from_str(line).unwrap())).collect();
    for pair in records.windows(2).filter(|pair| pair[1].1.index == pair[0].1.index + 1) {
        assert_eq!(pair[1].1.previous, Digest::of(format!("{}\n", pair[0].0).as_bytes()));
    }
    let (seal, _) = records.iter().find(|(_, record)| record.action == "seal").unwrap();
    let head: Head = lines("# evidence.jsonl sealed: ")[0].split_once(": ").unwrap().1.parse().unwrap();
    assert_eq!(head.sha256, Digest::of(format!("{seal}\n").as_bytes()));
}
