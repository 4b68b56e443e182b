//! Two parallel branches between a client and a reflector, in namespaces, and traces through them.

use std::{path::Path, process::Command};

use pathlab_netlab::{lab::Lab, netns::Namespace, scenario::Scenario, sysctl};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::verbs::Reflector;

const DIAMOND: &str = include_str!("diamond.toml");
pub(crate) const TARGETS: [&str; 2] = ["203.0.113.10", "2001:db8:1::10"];
/// The losing branch's addresses towards r1.
pub(crate) const B: [&str; 2] = ["192.0.2.18", "2001:db8:a2::2"];
pub(crate) const R3: [&str; 2] = ["192.0.2.22", "2001:db8:b2::2"];

pub(crate) struct Diamond {
    pub(crate) lab: Lab,
    pub(crate) reflector: Option<Reflector>,
    pub(crate) place: TempDir,
    runs: u32,
}

impl Diamond {
    /// Up, with a stateful reflector on the server; `limited` leaves the routers' limits of ICMP as the kernel has them: by destination, and of all that
    /// a namespace sends, 1,000 a second and 50 at once (`icmp_msgs_per_sec`, a namespace's own since Linux 6.12).
    pub(crate) fn up(limited: bool) -> Self {
        Self::with(limited, "")
    }

    /// The same with further arguments of the reflector.
    pub(crate) fn with(limited: bool, args: &str) -> Self {
        let scenario = Scenario::parse("diamond.toml", DIAMOND, None).expect("a sound scenario");
        let lab = Lab::up(&scenario, "diamond", 1).expect("up");
        for router in ["r1", "a", "b", "r3"].into_iter().filter(|_| !limited) {
            answer_all(lab.namespace(router).expect("a node"));
        }
        let listen = "--listen 203.0.113.10:862 --listen [2001:db8:1::10]:862 --stateful --datapath socket";
        let reflector = Reflector::start(lab.namespace("server").expect("a node"), &format!("{listen} {args}"));
        let place = tempdir().expect("a temporary directory");
        Self { lab, reflector: Some(reflector), place, runs: 0 }
    }

    /// Drops a share of what a router forwards to an address.
    pub(crate) fn lose(&self, router: &str, percent: u32, rule: &str) {
        let table = format!(
            "table inet faults {{\nchain forward {{\ntype filter hook forward priority 0\n{rule} numgen random mod 100 < {percent} drop\n}}\n}}\n"
        );
        let mut nft = self.lab.command(router, "nft").expect("a node");
        assert!(nft.arg(table.as_str()).status().expect("nftables").success(), "{table}");
    }

    pub(crate) fn trace(&mut self, args: &str) -> Value {
        self.runs += 1;
        let out = self.place.path().join(self.runs.to_string());
        let output = run(self.lab.command("client", env!("CARGO_BIN_EXE_pathlab")).expect("a node"), args, &out);
        let report: Value = serde_json::from_slice(&output).expect("one JSON document");
        assert_eq!(report["schema"], "pathlab.trace/1");
        assert!(pathlab_record::verify(&out).is_ok(), "a sealed run directory");
        report
    }
}

impl Drop for Diamond {
    fn drop(&mut self) {
        drop(self.reflector.take());
    }
}

/// Takes a router's limits of ICMP away, by destination and of all that it sends: no kind of message is under them any more. The second limit itself is
/// the whole machine's before Linux 6.12.
pub(crate) fn answer_all(router: &Namespace) {
    sysctl::set(router, "net.ipv4.icmp_ratemask", "0").expect("a setting");
    // No message is of type 0 (RFC 4443 §2.1).
    sysctl::set(router, "net.ipv6.icmp.ratemask", "0").expect("a setting");
}

/// Runs `trace --json` with `args`; what it printed.
pub(crate) fn run(mut command: Command, args: &str, out: &Path) -> Vec<u8> {
    command.args(["trace", "--json", "--patience", &patience(), "--out"]).arg(out).args(args.split_whitespace());
    let output = command.env("PATHLAB_LOG", "warn").output().expect("pathlab was built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{args}: {}: {said}", output.status);
    output.stdout
}

/// How long an answer may take.
pub(crate) fn patience() -> String {
    format!("{}ms", 500 * crate::patience::patience())
}

/// The flows of a trace.
pub(crate) fn flows(report: &Value) -> &[Value] {
    report["flows"].as_array().expect("flows")
}

/// Sent and lost.
pub(crate) fn loss(share: &Value) -> (u64, u64) {
    let count = |name: &str| share[name].as_u64().expect("a count");
    (count("sent"), count("lost"))
}

/// The verdict blames the link between two hops, or a stretch that holds it, or is unsure; whether it is that link alone.
pub(crate) fn names_no_other(verdict: &Value, [from, to]: [u64; 2]) -> bool {
    if verdict["kind"] == "insufficient" {
        return false;
    }
    let hop = |end: &str| verdict[end]["hop"].as_u64().unwrap_or_else(|| panic!("a stretch: {verdict:#}"));
    assert!(hop("from") <= from && to <= hop("to"), "{verdict:#}");
    (hop("from"), hop("to")) == (from, to)
}
