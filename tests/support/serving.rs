//! Verbs that serve, the documents that verbs print, and a directory with what they are given, good and bad.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::isolation::pathlab;

/// The one JSON document on stdout.
pub(crate) fn document(output: &Output, code: i32) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let names = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("  \"schema\"")).count();
    assert_eq!(names, 1, "one name of the schema, which a parser would not tell");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in:\n{}\n{stderr}", String::from_utf8_lossy(&output.stdout)))
}

/// A directory with good and bad inputs.
pub(crate) fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    let good = include_str!("../canary.toml");
    let variant = |name: &str, from: &str, to: &str| {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        write(name, &good.replace(from, to));
    };
    write("good.toml", good);
    write("seed", "7\n");
    variant("unknown-key.toml", "lease =", "leese =");
    variant("no-share.toml", "share = \"15%\"", "share = \"150%\"");
    variant("above-cap.toml", "share = \"15%\"", "share = \"50%\"");
    variant("lease.toml", "\"500ms\"", "\"1us\"");
    variant("margin.toml", "\"2ms\"", "\"-2ms\"");
    variant("no-seed.toml", "\"seed\"", "\"absent\"");
    variant("bad-seed.toml", "\"seed\"", "\"bad-seed\"");
    variant("no-device.toml", "\"d0\"", "\"nic7\"");
    write("bad-seed", "seven\n");
    write("no-toml.toml", "[experiment\n");
    write("broken.jsonl", "{\"source\":1}\n");
    for directory in ["no-run", "empty", "broken", "occupied", "bare"] {
        fs::create_dir(place.path().join(directory)).unwrap();
    }
    write("no-run/notes", "none\n");
    write("occupied/notes", "mine\n");
    write("empty/sessions.jsonl", "");
    write("broken/sessions.jsonl", "{\nnothing\n");
    place
}

/// A gateway that answers on `d0`, in a namespace of its own.
pub(crate) fn gateway() {
    sh("ip netns add gateway && ip link add d0 type veth peer name d0 netns gateway");
    sh("ip link set d0 addrgenmode none up && ip address add 203.0.113.1/24 dev d0");
    sh("ip -n gateway link set d0 up && ip -n gateway address add 203.0.113.2/24 dev d0");
}

pub(crate) fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

/// A verb that serves until it is told to end; killed when dropped.
pub(crate) struct Serving {
    pub(crate) child: Child,
    stderr: BufReader<ChildStderr>,
    pub(crate) said: String,
}

impl Serving {
    /// Returns when its log says that it serves.
    pub(crate) fn start(place: &Path, args: &str) -> Self {
        let mut child = pathlab(place, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !["answering on", "leave by the canary path"].iter().any(|word| said.contains(word)) {
            let read = stderr.read_line(&mut said).unwrap();
            assert!(read > 0, "pathlab {args} did not come up: {said}");
        }
        Self { child, stderr, said }
    }

    pub(crate) fn signalled(self, signal: &str) -> Output {
        sh(&format!("kill -s {signal} {}", self.child.id()));
        self.ended()
    }

    pub(crate) fn ended(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.stderr.read_to_end(&mut stderr).unwrap();
        Output { status: self.child.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
