//! Facts of this host and its clock for `run.json`, so that a reader can tell what a figure was measured on.

use std::{collections::BTreeMap, fs, thread};

use pathlab_reflector::clock::software_uncertainty;
use pathlab_xdp::clock::{ClockFacts, Discipline};
use serde_json::{Value, json};

/// Kernel, processors, memory; what cannot be read is left out.
pub(crate) fn facts() -> BTreeMap<String, Value> {
    let line = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let field = |path: &str, key: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches([' ', '\t', ':', '=']).to_owned()))
    };
    let facts = [
        ("name", line("/proc/sys/kernel/hostname")),
        ("kernel", line("/proc/sys/kernel/osrelease")),
        ("distribution", field("/etc/os-release", "PRETTY_NAME").map(|name| name.trim_matches('"').to_owned())),
        ("processor", field("/proc/cpuinfo", "model name")),
        ("memory", field("/proc/meminfo", "MemTotal")),
        ("clocksource", line("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
    ];
    let mut facts: BTreeMap<_, _> =
        facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
    if let Ok(processors) = thread::available_parallelism() {
        facts.insert("processors".into(), json!(processors));
    }
    facts
}

/// What the kernel says of its clock, and what is known of the card's, where stamps of one are used.
pub(crate) fn clock(card: Option<ClockFacts>) -> BTreeMap<String, Value> {
    let mut clock = BTreeMap::new();
    if let Ok(discipline) = Discipline::measure() {
        clock.insert("synchronised".into(), json!(discipline.synchronised));
        clock.insert("max_error_ns".into(), json!(discipline.max_error));
        clock.insert("estimated_error_ns".into(), json!(discipline.estimated_error));
        clock.insert("frequency_ppm".into(), json!(discipline.frequency_ppm));
        clock.insert("leap_pending".into(), json!(discipline.leap_pending));
        clock.insert("tai_minus_utc_s".into(), json!(discipline.tai_minus_utc));
    }
    clock.insert("reading_cost_ns".into(), json!(software_uncertainty()));
    if let Some(card) = card {
        clock.insert("card".into(), json!(card));
    }
    clock
}
