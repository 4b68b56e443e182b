//! Everything else that is read from outside: files that people write, records that other hosts wrote, the kernel's control messages.
//! What is accepted must come out as it went in; nothing may panic.

use std::{path::Path, str};

use pathlab_canary::{Experiment, Given};
use pathlab_netlab::scenario::Scenario;
use pathlab_record::{Ledger, LogInterval, Sample, SessionBin, SparseHistogram};
use pathlab_reflector::{keys::Keys, prober::parse_sessions};
use pathlab_xdp::timestamping::Control;

/// The control messages of a datagram: any octets are some.
pub fn control(data: &[u8]) {
    let control = Control::parse(data);
    // A message has a header of sixteen octets: shorter data says nothing.
    assert!(data.len() >= 16 || format!("{control:?}") == format!("{:?}", Control::default()));
}

/// A key file: what is refused is refused in words that hold none of it.
pub fn keys(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(error) = Keys::parse(Path::new("file"), text) {
        let said = error.to_string();
        // Half a key is as long as the shortest that is taken.
        let secret = |word: &str| word.len() >= 16 && word.bytes().all(|octet| octet.is_ascii_hexdigit());
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        assert!(words.filter(|word| secret(word)).all(|word| !said.contains(word)), "{said}");
    }
}

/// A sessions file: as many sessions as lines at most, or an error that names one.
pub fn sessions(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match parse_sessions("file", text) {
        Ok(sessions) => assert!(sessions.len() <= text.lines().count()),
        Err(error) => assert!(error.to_string().contains("file"), "{error}"),
    }
}

/// A line of `samples.jsonl`: written again it is read as the same, and its ledger is an identity.
pub fn samples(data: &[u8]) {
    let Ok(sample) = serde_json::from_slice::<Sample>(data) else { return };
    let again = serde_json::to_string(&sample).expect("a sample can be written");
    assert_eq!(serde_json::from_str::<Sample>(&again).expect("and read"), sample);
    let _ = Ledger::split(&sample.stamps);
}

/// A line of `sessions.jsonl`: written again it is read as the same.
pub fn bins(data: &[u8]) {
    let Ok(bin) = serde_json::from_slice::<SessionBin>(data) else { return };
    let again = serde_json::to_string(&bin).expect("a bin can be written");
    let read: SessionBin = serde_json::from_str(&again).expect("and read");
    assert_eq!(serde_json::to_string(&read).expect("written"), again);
}

/// A line of an interval log: written again it is read as the same.
pub fn hlog(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(interval) = LogInterval::from_line(text) else { return };
    assert_eq!(LogInterval::from_line(&interval.to_line()), Ok(interval));
}

/// A histogram as HdrHistogram V2 writes it, compressed or not: what is read counts as much when it is written again.
pub fn histogram(data: &[u8]) {
    let Ok(histogram) = SparseHistogram::from_v2(data) else { return };
    let again = SparseHistogram::from_v2(&histogram.to_v2()).expect("ours");
    assert_eq!((again.count(), again.min(), again.max()), (histogram.count(), histogram.min(), histogram.max()));
}

/// A scenario file: parsed, or an error that names it.
pub fn scenario(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(error) = Scenario::parse("file", text, None) {
        assert!(error.to_string().contains("file"), "{error}");
    }
}

/// A `canary.toml`: parsed, or an error that names it.
pub fn experiment(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(error) = Experiment::from_toml("file", text) {
        assert!(error.to_string().contains("file"), "{error}");
    }
}

/// A `verdict.json`.
pub fn verdict(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = Given::read(text);
}
