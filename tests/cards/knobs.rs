//! Settings of real drivers: one that costs latency is told by `host audit`, changed by `host apply` and then told as good, and undone to the
//! octet by `host undo`.

use std::collections::BTreeMap;

use super::*;

/// A setting, the rule that tells of it, and what the audit is asked beside.
struct Knob {
    rule: &'static str,
    asked: &'static str,
    /// A command that makes it worse than drivers come with; PORT and IRQ stand for those of the port.
    worse: Option<&'static str>,
    /// What the finding says.
    says: &'static str,
}

const OF_IGB: [Knob; 5] = [
    Knob { rule: "ring size", asked: "--burst 1000", worse: None, says: "a burst has 1000 packets" },
    Knob {
        rule: "coalescing",
        asked: "",
        worse: Some("ethtool -C PORT rx-usecs 5000"),
        says: "a packet may wait 5000 µs",
    },
    Knob { rule: "rss", asked: "", worse: Some("ethtool -X PORT weight 1 0"), says: "1 of 2 queues get nothing" },
    // It is on node 1, whose one CPU is 1.
    Knob {
        rule: "irq placement",
        asked: "",
        worse: Some("for irq in IRQS; do echo 0 >/proc/irq/$irq/smp_affinity_list; done"),
        says: "land away from the near CPUs 1",
    },
    Knob { rule: "xps", asked: "", worse: None, says: "not set" },
];

const OF_VIRTIO: [Knob; 2] = [
    Knob {
        rule: "ring size",
        asked: "--burst 200",
        worse: Some("ethtool -G PORT rx 64"),
        says: "a burst has 200 packets",
    },
    Knob { rule: "rps", asked: "", worse: None, says: "one CPU does all the work of a queue" },
];

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The interrupts of the device behind a port; virtio's are its bus's.
fn irqs(port: &str) -> Vec<String> {
    let device = fs::canonicalize(Path::new("/sys/class/net").join(port).join("device")).expect("a device");
    let listed =
        [device.join("msi_irqs"), device.join("../msi_irqs")].into_iter().find_map(|list| fs::read_dir(list).ok());
    let names = listed.expect("MSI-X").flatten().map(|irq| irq.file_name().into_string().expect("digits"));
    names.filter(|irq| Path::new("/proc/irq").join(irq).exists()).collect()
}

/// All that the knobs are about, as the kernel shows it.
fn settings(port: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for show in ["-g PORT", "-c PORT", "-x PORT", "-l PORT", "-n PORT rx-flow-hash udp4", "-n PORT rx-flow-hash udp6"] {
        // What a card has not is refused, before and after.
        let command = format!("ethtool {} || true", show.replace("PORT", port));
        let shown = shell(&command);
        settings.insert(command, shown);
    }
    let queues = Path::new("/sys/class/net").join(port).join("queues");
    let masks = fs::read_dir(&queues).expect("queues").flatten().map(|queue| {
        let receives = queue.file_name().to_string_lossy().starts_with("rx");
        queue.path().join(if receives { "rps_cpus" } else { "xps_cpus" })
    });
    let affinities = irqs(port).into_iter().map(|irq| Path::new("/proc/irq").join(irq).join("smp_affinity_list"));
    for file in masks.chain(affinities) {
        // One transmit queue has no XPS.
        let value = fs::read_to_string(&file).unwrap_or_else(|error| error.to_string());
        settings.insert(file.display().to_string(), value);
    }
    settings
}

/// `pathlab host ARGUMENTS --json`, its run directory thrown away.
fn host(arguments: &[&str]) -> Value {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut host = Command::new(env!("CARGO_BIN_EXE_pathlab"));
    host.arg("host").args(arguments).arg("--json").current_dir(&place);
    json(&host.output().expect("pathlab was built"))
}

/// What a rule is asked about a port.
fn about<'a>(port: &'a str, knob: &'a Knob) -> Vec<&'a str> {
    ["--window", "100ms", "--iface", port].into_iter().chain(knob.asked.split_whitespace()).collect()
}

fn told(port: &str, knob: &Knob) -> Value {
    let audit = host(&[&["audit"][..], &about(port, knob)].concat());
    let entries = audit["entries"].as_array().into_iter().flatten();
    let mut entry = entries.filter(|entry| entry["name"] == knob.rule && entry["subject"] == port);
    entry.next().unwrap_or_else(|| panic!("{}: {audit:#}", knob.rule)).clone()
}

/// A card takes an interrupt's new place with the next one.
fn wait_until_told(port: &str, knob: &Knob, state: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entry = told(port, knob);
        if entry["state"] == state {
            return entry;
        }
        assert!(Instant::now() < deadline, "{port} {}: not {state}: {entry:#}", knob.rule);
    }
}

fn changed_told_and_undone(address: &str, knobs: &[Knob]) {
    let port = port(address);
    ip(&format!("link set {port} up"));
    for knob in knobs {
        if let Some(worse) = knob.worse {
            shell(&worse.replace("PORT", &port).replace("IRQS", &irqs(&port).join(" ")));
        }
        let before = settings(&port);
        let finding = wait_until_told(&port, knob, "finding");
        let because = finding["because"].as_str().unwrap_or_default();
        eprintln!("{port} {}: {because}: {}", knob.rule, finding["change"]);
        assert!(because.contains(knob.says), "{finding:#}");
        host(&[&["apply", "--yes", "--rule", knob.rule][..], &about(&port, knob)].concat());
        assert_ne!(settings(&port), before, "{}: really changed", knob.rule);
        let good = wait_until_told(&port, knob, "ok");
        eprintln!("{port} {}: {}", knob.rule, good["because"]);
        host(&["undo"]);
        assert_eq!(settings(&port), before, "{}: undone", knob.rule);
    }
}

#[test]
#[ignore = "needs QEMU's igb: scripts/vm-test 6.12 cards"]
fn settings_of_an_igb_are_changed_told_and_undone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    changed_told_and_undone(FAR, &OF_IGB);
}

#[test]
#[ignore = "needs QEMU's virtio: scripts/vm-test 6.12 cards"]
fn settings_of_a_virtio_are_changed_told_and_undone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    changed_told_and_undone(VIRTIO, &OF_VIRTIO);
}
