//! On what a table was measured: the host, how disturbed it was, and which versions took part.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use pathlab_netlab::steal::Ticks;
use serde::{Deserialize, Serialize};

use crate::contestant::Programs;

/// The facts of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// Processor's name.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Whether a hypervisor has the machine.
    pub virtual_machine: bool,
    /// Frequency governor; absent where the host cannot set frequencies.
    pub governor: Option<String>,
    /// Load averages over a minute, before and after.
    pub load: [f64; 2],
    /// Share of processor time that the hypervisor gave to others while it ran, 0 to 1.
    pub stolen: f64,
    /// pathlab's revision, with a mark where files differ from it.
    pub revision: String,
    /// Versions of the peers.
    pub peers: Vec<String>,
}

/// Counters at the start of a run.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    load: f64,
    ticks: Ticks,
}

/// Looks at the host before a run.
///
/// # Errors
/// No `/proc`.
pub fn before() -> Result<Before> {
    Ok(Before { load: load()?, ticks: Ticks::now()? })
}

/// All that is to be said after it.
///
/// # Errors
/// No `/proc`.
pub fn after(before: Before, programs: &Programs) -> Result<Host> {
    let stamp_suite = programs.peers.join("stamp-suite").display().to_string();
    let peers = [
        said(&stamp_suite, &["--version"]),
        said("sockperf", &["--version"]).map(|text| text.replace("version ", "")),
        said("irtt", &["version"]).map(|text| text.replace("version: ", "")),
        xsk_rs(),
    ];
    Ok(Host { peers: peers.into_iter().flatten().collect(), ..alone(before)? })
}

/// The same where no peers take part.
///
/// # Errors
/// No `/proc`.
pub fn alone(before: Before) -> Result<Host> {
    let cpuinfo = read("/proc/cpuinfo")?;
    let field =
        |name: &str| cpuinfo.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1));
    Ok(Host {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processor: field("model name").unwrap_or("unknown").to_owned(),
        processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        virtual_machine: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").ok().map(|name| name.trim().to_owned()),
        load: [before.load, load()?],
        stolen: Ticks::now()?.stolen_since(before.ticks),
        revision: said("git", &["describe", "--always", "--dirty", "--abbrev=12"]).unwrap_or_else(|| "unknown".into()),
        peers: Vec::new(),
    })
}

fn load() -> Result<f64> {
    let text = read("/proc/loadavg")?;
    text.split(' ').next().and_then(|load| load.parse().ok()).context("/proc/loadavg")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// The first line of what a program says, if it is there.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.to_owned())
}

/// As its lock file has it, being a library.
fn xsk_rs() -> Option<String> {
    let lock = include_str!("../xsk-echo/Cargo.lock");
    let version = lock.split("name = \"xsk-rs\"").nth(1)?.split('"').nth(1)?;
    Some(format!("xsk-rs {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_peer_has_a_version() {
        assert!(xsk_rs().is_some_and(|version| version.starts_with("xsk-rs 0.")));
    }
}
