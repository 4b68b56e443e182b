//! The verbs of the command as processes on a host of the test; they end with it.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pathlab_netlab::netns::Namespace;
use pathlab_reflector::prober::ProbeReport;
use serde_json::Value;
use tempfile::TempDir;

use super::realtime;

/// How long a process may take until it serves.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A child that is killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pathlab(host: &Namespace, args: &str) -> Command {
    let mut command = realtime::command(host, env!("CARGO_BIN_EXE_pathlab"));
    command.args(args.split_whitespace()).env("PATHLAB_LOG", "warn").stdin(Stdio::null());
    command
}

/// A running `pathlab reflect`.
pub(crate) struct Reflector(Process);

impl Reflector {
    /// Starts it, and waits until it answers.
    pub(crate) fn start(host: &Namespace, args: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ready");
        let ready = UnixDatagram::bind(&path).expect("a socket");
        ready.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut command = pathlab(host, "reflect --json");
        command.args(args.split_whitespace()).env("NOTIFY_SOCKET", &path).stdout(Stdio::piped());
        let process = Process(command.spawn().expect("pathlab was built"));
        let mut message = [0; 64];
        let length =
            ready.recv(&mut message).unwrap_or_else(|error| panic!("pathlab reflect {args}: not ready: {error}"));
        assert_eq!(&message[..length], b"READY=1");
        Self(process)
    }

    /// Stops it as Ctrl-C would, and takes its account.
    pub(crate) fn stop(mut self) -> Value {
        let child = &mut self.0.0;
        let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().expect("a shell");
        assert!(kill.success(), "pathlab reflect had ended by itself");
        let stdout = child.stdout.take().expect("piped");
        let account = serde_json::from_reader(stdout).expect("one JSON document");
        assert!(child.wait().expect("a child").success());
        account
    }
}

/// A running `pathlab probe`.
pub(crate) struct Probe {
    pub(crate) process: Process,
    out: TempDir,
}

impl Probe {
    /// Starts it.
    pub(crate) fn start(host: &Namespace, args: &str) -> Self {
        let out = tempfile::tempdir().expect("a temporary directory");
        let mut command = pathlab(host, "probe --out");
        command.arg(out.path().join("run")).args(args.split_whitespace()).stdout(Stdio::null());
        Self { process: Process(command.spawn().expect("pathlab was built")), out }
    }

    /// Waits until it has ended by itself, and takes its report.
    pub(crate) fn report(mut self) -> ProbeReport {
        let begun = Instant::now();
        let status = self.process.0.wait().expect("a child");
        assert!(status.success(), "pathlab probe: {status} after {:?}", begun.elapsed());
        let report = fs::read_to_string(self.out.path().join("run/probe.json")).expect("probe.json");
        serde_json::from_str(&report).expect("a report")
    }
}
