//! Every change to a sealed run is found, and the record or file that it was made to is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use pathlab_record::{Error, Head, RecordedRun, Run, RunDirectory, evidence::Fault, verify};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

/// A sealed run with a report, and the content of its files to put back after each trial.
struct Sealed {
    path: PathBuf,
    files: Vec<(String, Vec<u8>)>,
    chain: Vec<Vec<u8>>,
    head: Head,
    _home: tempfile::TempDir,
}

impl Sealed {
    fn new() -> Self {
        Self::saying("hold")
    }

    fn saying(verdict: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let time: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let mut directory = RunDirectory::create(&path, &Run::new("probe", time)).unwrap();
        for share in 1..=4 {
            directory.note(time, Some("operator"), &format!("ramp {share}%")).unwrap();
        }
        directory.artefact("verdict.json", format!("{{\"verdict\":\"{verdict}\"}}\n").as_bytes()).unwrap();
        directory.artefact("empty.json", b"").unwrap();
        directory.seal(time).unwrap();
        let head =
            RecordedRun::open(&path).unwrap().append("report.html", b"<html>", time, "reporter", "report").unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(&path).unwrap().map(|entry| name(entry.unwrap())).collect();
        names.sort();
        let files: Vec<_> = names.into_iter().map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect();
        let chain = fs::read(path.join("evidence.jsonl")).unwrap();
        let chain = chain.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        Self { path, files, chain, head, _home: home }
    }

    /// What `verify` says with this file in place of the true one.
    fn with(&self, name: &str, content: &[u8]) -> Option<Fault> {
        let target = self.path.join(name);
        fs::write(&target, content).unwrap();
        let fault = fault_of(&self.path);
        let (_, true_content) = self.files.iter().find(|(file, _)| file == name).unwrap();
        fs::write(&target, true_content).unwrap();
        fault
    }

    fn with_chain(&self, lines: &[Vec<u8>]) -> Option<Fault> {
        self.with("evidence.jsonl", &lines.concat())
    }
}

fn fault_of(path: &Path) -> Option<Fault> {
    match verify(path) {
        Ok(_) => None,
        Err(Error::Evidence { fault, .. }) => Some(*fault),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_changed_byte_of_every_file_is_found_and_located() {
    let sealed = Sealed::new();
    assert_eq!(fault_of(&sealed.path), None);
    let mut trials = 0;
    for (name, content) in &sealed.files {
        for at in 0..content.len() {
            for mask in [1 << (at % 8), content[at] ^ b'\n'] {
                if mask == 0 {
                    continue;
                }
                let mut changed = content.clone();
                changed[at] ^= mask;
                let fault = sealed.with(name, &changed);
                trials += 1;
                let line = content[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
                let located = match (name.as_str(), &fault) {
                    ("SHA256SUMS", Some(Fault::Sums(_))) => true,
                    // A line feed belongs to both of the records that it parts.
                    ("evidence.jsonl", Some(Fault::Changed(record))) if content[at] == b'\n' => {
                        [line, line + 1].contains(record)
                    }
                    ("evidence.jsonl", Some(Fault::MissingTail { first, .. })) => {
                        content.len() - 1 == at && *first == line
                    }
                    ("evidence.jsonl", Some(Fault::Changed(record))) => *record == line,
                    (_, Some(Fault::File { name: named, .. })) => named == name,
                    _ => false,
                };
                assert!(located, "{name} byte {at} line {line} ^ {mask:#x}: {fault:?}");
            }
        }
    }
    assert!(trials > 5_000, "{trials}");
}

#[test]
fn every_removed_record_is_named() {
    let sealed = Sealed::new();
    let last = sealed.head.index;
    for at in 0..sealed.chain.len() {
        let mut lines = sealed.chain.clone();
        lines.remove(at);
        let at = at as u64;
        let expected = if at == last { Fault::MissingTail { first: last, last } } else { Fault::Removed(at) };
        assert_eq!(sealed.with_chain(&lines), Some(expected));
    }
}

#[test]
fn every_exchange_of_two_records_is_named() {
    let sealed = Sealed::new();
    for high in 1..sealed.chain.len() {
        for low in 0..high {
            let mut lines = sealed.chain.clone();
            lines.swap(low, high);
            assert_eq!(sealed.with_chain(&lines), Some(Fault::Moved(high as u64)), "{low} and {high}");
        }
    }
}

#[test]
fn every_truncation_is_a_missing_tail_from_where_it_was_cut() {
    let sealed = Sealed::new();
    let whole = sealed.chain.concat();
    for length in 0..whole.len() {
        let first = whole[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
        let expected = Fault::MissingTail { first, last: sealed.head.index };
        assert_eq!(sealed.with("evidence.jsonl", &whole[..length]), Some(expected), "cut to {length} bytes");
    }
    fs::remove_file(sealed.path.join("evidence.jsonl")).unwrap();
    assert_eq!(fault_of(&sealed.path), Some(Fault::MissingTail { first: 0, last: sealed.head.index }));
}

#[test]
fn every_inserted_line_is_named() {
    let sealed = Sealed::new();
    for at in 0..=sealed.chain.len() {
        for line in [b"{}\n".to_vec(), sealed.chain[at.saturating_sub(1)].clone()] {
            let mut lines = sealed.chain.clone();
            lines.insert(at, line.clone());
            let fault = sealed.with_chain(&lines);
            // A record twice in a row: which of the two is the copy makes no difference.
            let copy = line != b"{}\n";
            let after = if copy { at.max(1).checked_sub(2) } else { at.checked_sub(1) };
            assert_eq!(fault, Some(Fault::Inserted { after: after.map(|n| n as u64) }), "at {at}, copy: {copy}");
        }
    }
}

#[test]
fn rewriting_everything_is_caught_by_a_head_kept_elsewhere() {
    let (kept, forged) = (Sealed::new(), Sealed::saying("promote"));
    let verified = verify(&forged.path).expect("a forged directory is consistent in itself");
    assert!(verified.holds(&forged.head));
    assert!(!verified.holds(&kept.head));
    assert!(!verified.holds(&Head { index: u64::MAX, ..forged.head }));
}

/// Several changes at once: bytes of any kind are found, and never panic.
#[test]
fn arbitrary_damage_is_found() {
    let sealed = Sealed::new();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let damage = prop::collection::vec((any::<Index>(), any::<u8>()), 1..6);
    let trial = (any::<Index>(), damage, any::<Index>(), any::<bool>());
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&trial, |(file, damage, cut, is_cut)| {
        let (name, content) = &sealed.files[file.index(sealed.files.len())];
        let mut changed = content.clone();
        for (at, byte) in damage {
            if !changed.is_empty() {
                let at = at.index(changed.len());
                changed[at] = byte;
            }
        }
        if is_cut {
            changed.truncate(cut.index(content.len() + 1));
        }
        let fault = sealed.with(name, &changed);
        prop_assert_eq!(fault.is_none(), changed == *content, "{}: {:?}", name, fault);
        Ok(())
    });
    outcome.unwrap();
}

/// What may be done to a file of the directory.
#[derive(Clone, Debug)]
enum Deed {
    Change { at: Index, mask: u8 },
    Delete { from: Index, bytes: usize },
    Truncate { to: Index },
    Reorder { low: Index, high: Index },
    Remove,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => (any::<Index>(), 1..=255_u8).prop_map(|(at, mask)| Deed::Change { at, mask }),
        2 => (any::<Index>(), 1..400_usize).prop_map(|(from, bytes)| Deed::Delete { from, bytes }),
        2 => any::<Index>().prop_map(|to| Deed::Truncate { to }),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(low, high)| Deed::Reorder { low, high }),
        1 => Just(Deed::Remove),
    ]
}

impl Deed {
    /// The file afterwards, and the lines that were touched; `None` where the file is gone.
    fn done_to(&self, content: &[u8]) -> Option<(Vec<u8>, Vec<u64>)> {
        let line_of = |at: usize| content[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        let place = |index: &Index| index.index(content.len().max(1));
        let mut after = content.to_vec();
        let touched = match self {
            _ if content.is_empty() => Vec::new(),
            Self::Change { at, mask } => {
                let at = place(at);
                after[at] ^= mask;
                // A line feed that goes or comes joins or parts two records.
                vec![line_of(at), line_of(at) + 1]
            }
            Self::Delete { from, bytes } => {
                let from = place(from);
                let to = (from + bytes).min(content.len());
                after.drain(from..to);
                (line_of(from)..=line_of(to) + 1).collect()
            }
            Self::Truncate { to } => {
                let to = place(to);
                after.truncate(to);
                (line_of(to)..=line_of(content.len())).collect()
            }
            Self::Reorder { low, high } => {
                let mut lines: Vec<&[u8]> = content.split_inclusive(|byte| *byte == b'\n').collect();
                let (low, high) = (low.index(lines.len()), high.index(lines.len()));
                lines.swap(low, high);
                after = lines.concat();
                vec![low as u64, high as u64]
            }
            Self::Remove => return None,
        };
        Some((after, touched))
    }
}

#[test]
fn a_thousand_random_changes_deletions_reorderings_and_truncations_are_found_and_located() {
    const TRIALS: u32 = 1_000;
    let sealed = Sealed::new();
    let counted = std::cell::Cell::new(0);
    let config = ProptestConfig {
        cases: TRIALS,
        max_global_rejects: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&(any::<Index>(), deeds()), |(file, deed)| {
        let (name, content) = &sealed.files[file.index(sealed.files.len())];
        let target = sealed.path.join(name);
        let (fault, touched) = match deed.done_to(content) {
            // Nothing was done: a line changed places with itself, or the file is empty.
            Some((after, _)) if after == *content => return Err(TestCaseError::reject("nothing was done")),
            Some((after, touched)) => (sealed.with(name, &after).map(Err), touched),
            None => {
                fs::remove_file(&target).unwrap();
                let told = verify(&sealed.path).map(drop);
                fs::write(&target, content).unwrap();
                (told.err().map(Ok), (0..=sealed.head.index).collect())
            }
        };
        let located = match (name.as_str(), &fault) {
            ("SHA256SUMS", Some(Ok(error))) => matches!(error, Error::Unsealed { .. }),
            ("SHA256SUMS", Some(Err(fault))) => matches!(fault, Fault::Sums(_)),
            (_, None) => false,
            (_, Some(told)) => {
                let fault = match told {
                    Err(fault) => fault,
                    Ok(Error::Evidence { fault, .. }) => fault,
                    Ok(_) => return Err(TestCaseError::fail("no fault")),
                };
                match fault {
                    Fault::File { name: named, .. } | Fault::Missing { name: named, .. } => named == name,
                    _ if name != "evidence.jsonl" => false,
                    Fault::Changed(record) | Fault::Removed(record) | Fault::Moved(record) => touched.contains(record),
                    Fault::MissingTail { first, .. } => touched.contains(first),
                    Fault::Inserted { after } => touched.contains(&after.unwrap_or(0)),
                    _ => false,
                }
            }
        };
        prop_assert!(located, "{} {:?}: {:?}, touched {:?}", name, deed, fault, touched);
        counted.set(counted.get() + 1);
        Ok(())
    });
    outcome.unwrap();
    assert!(counted.get() >= TRIALS, "{} trials", counted.get());
}
