//! What the processors, the bus and the clock add: idle states, slow links, time taken away.

use crate::{
    audit::{Expectation, Judged, Outcome, counted},
    change::Change,
    facts::{Facts, if_there},
    processors,
};

/// The slowest idle state that may stay on, in microseconds to wake up.
const SLOWEST_IDLE: i64 = 10;

pub(super) fn latency(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let mut change = Change::default();
    let mut wrong = Vec::new();
    let policies = if_there(facts.list("sys/devices/system/cpu/cpufreq"))?.unwrap_or_default();
    let mut governors: Vec<String> = Vec::new();
    for policy in policies.iter().filter(|name| name.starts_with("policy")) {
        let path = format!("sys/devices/system/cpu/cpufreq/{policy}/scaling_governor");
        let governor = facts.line(&path)?;
        if governor != "performance" {
            change.write(&path, "performance", &governor);
        }
        if !governors.contains(&governor) {
            governors.push(governor);
        }
    }
    if governors.iter().any(|governor| governor != "performance") {
        wrong.push(format!("governor {}", governors.join(", ")));
    }
    let mut slow: Vec<(String, i64)> = Vec::new();
    let mut states = 0;
    for cpu in &facts.online()?.0 {
        let place = format!("sys/devices/system/cpu/cpu{cpu}/cpuidle");
        for state in if_there(facts.list(&place))?.unwrap_or_default() {
            states += 1;
            let wakes = facts.number(&format!("{place}/{state}/latency"))?;
            let path = format!("{place}/{state}/disable");
            if wakes > SLOWEST_IDLE && facts.number(&path)? == 0 {
                let name = facts.line(&format!("{place}/{state}/name"))?;
                if !slow.iter().any(|(known, _)| *known == name) {
                    slow.push((name, wakes));
                }
                change.write(&path, "1", "0");
            }
        }
    }
    if !slow.is_empty() {
        let list: Vec<String> = slow.iter().map(|(name, wakes)| format!("{name} ({wakes} µs)")).collect();
        wrong.push(format!("idle states that take long to leave: {}", list.join(", ")));
    }
    if !wrong.is_empty() {
        return Outcome::finding(wrong.join("; "), change);
    }
    if governors.is_empty() && states == 0 {
        return Outcome::not_applicable(
            "neither frequency nor idle states are this kernel's to choose, as in most virtual machines",
        );
    }
    Outcome::fine(format!(
        "governor {}, {states} idle states, none slow",
        if governors.is_empty() { "not this kernel's to choose".into() } else { governors.join(", ") }
    ))
}

pub(super) fn bus(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let device = format!("sys/class/net/{port}/device");
    let nodes = if_there(facts.cpus("sys/devices/system/node/online"))?.map_or(1, |nodes| nodes.len());
    let mut wrong = Vec::new();
    let mut change = Change::default();
    let balancing = facts.number_if_there("proc/sys/kernel/numa_balancing")?;
    if nodes > 1 && balancing.is_some_and(|balancing| balancing != 0) {
        wrong.push(format!("{nodes} nodes, and the kernel moves pages between them (numa_balancing)"));
        change.sysctl("kernel.numa_balancing", 0, balancing.unwrap_or(1));
    }
    if nodes > 1 && facts.number_if_there(&format!("{device}/numa_node"))? == Some(-1) {
        wrong.push("the firmware does not say to which node the port belongs".into());
    }
    let link = |what: &str| if_there(facts.line(&format!("{device}/{what}")));
    let speeds = (link("current_link_speed")?, link("max_link_speed")?);
    let widths = (link("current_link_width")?, link("max_link_width")?);
    let (known, mut told) = (speeds.0.is_some() || widths.0.is_some(), String::new());
    if let (Some(speed), Some(best)) = &speeds {
        if speed != best {
            wrong.push(format!("PCIe at {speed}, the card can do {best}: another slot, or firmware"));
        }
        told = format!("PCIe at {speed}");
    }
    if let (Some(width), Some(best)) = &widths {
        if width != best {
            wrong.push(format!("{width} PCIe lanes, the card has {best}: another slot"));
        }
        told = format!("{told}, {width} lanes");
    }
    match (wrong.is_empty(), change.is_empty()) {
        (false, true) => Outcome::remark(wrong.join("; ")),
        (false, false) => Outcome::finding(wrong.join("; "), change),
        (true, _) if known => Outcome::fine(format!("{told}, {}", counted(nodes, "NUMA node"))),
        (true, _) => {
            Outcome::not_applicable("the port is on no PCIe link of its own, and there is one NUMA node at most")
        }
    }
}

/// Read with one instruction in user space; the others cost a fault into the hypervisor or a read of a chip.
const FAST: [&str; 5] = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "timebase"];

pub(super) fn clock(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = facts.line(path)?;
    let available = facts.line("sys/devices/system/clocksource/clocksource0/available_clocksource")?;
    let services = facts.text("services")?;
    let disciplined = services
        .lines()
        .find(|name| ["chronyd", "ntpd", "ptp4l", "phc2sys", "systemd-timesyn"].contains(name))
        .map(str::to_owned);
    let mut wrong = Vec::new();
    let mut change = Change::default();
    if !FAST.contains(&source.as_str()) {
        wrong.push(format!("clock source {source} is slow to read"));
        if let Some(better) = available.split_whitespace().find(|name| FAST.contains(name)) {
            change.write(path, better, &source);
        }
    }
    if disciplined.is_none() {
        wrong.push(
            "no program that disciplines it is seen (chronyd, ntpd, ptp4l): one-way delays cannot be told".into(),
        );
    }
    match (wrong.is_empty(), change.is_empty()) {
        (true, _) => Outcome::fine(format!("{source}, disciplined by {}", disciplined.unwrap_or_default())),
        (false, true) => Outcome::remark(wrong.join("; ")),
        (false, false) => Outcome::finding(wrong.join("; "), change),
    }
}

pub(super) fn steal(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let Some(now) = processors::all(&facts.text("proc/stat")?) else {
        return Outcome::not_applicable("the kernel does not count stolen time");
    };
    let before = if_there(facts.text("before/proc/stat"))?.as_deref().and_then(processors::all);
    let (took, of) = before.map_or((now.stolen, now.all), |before| {
        (now.stolen.saturating_sub(before.stolen), now.all.saturating_sub(before.all))
    });
    let virtual_machine = facts.text("proc/cpuinfo")?.split_whitespace().any(|flag| flag == "hypervisor");
    let lately = if before.is_some() { " lately" } else { " since the start" };
    if took * 100 > of {
        return Outcome::remark(format!(
            "{} % of the time went to others{lately}: every latency measured here has it",
            took * 100 / of.max(1)
        ));
    }
    if !virtual_machine && now.stolen == 0 {
        return Outcome::not_applicable("no hypervisor");
    }
    Outcome::fine(format!("under 1 %{lately}"))
}
