//! This host as a source: procfs and sysfs as they are, and what only sockets tell under paths of its own.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use pathlab_guard::{
    ethtool::{Ethtool, Flow, Group, Numbers, sys},
    port_irqs,
};
use serde::Serialize;

use crate::{
    port::{Channels, Coalesce, Driver, Features, FlowHash, Rings, Rss},
    qdisc,
    source::{Source, Unread, names, text},
    xdp_diag,
};

/// Programs that move interrupts, set knobs or discipline clocks.
const SERVICES: [&str; 8] =
    ["chronyd", "irqbalance", "ntpd", "phc2sys", "ptp4l", "systemd-timesyn", "tuned", "tuned-ppd"];

/// What is read twice, so that what happens now is told apart from what happened since the host started.
const COUNTERS: [&str; 5] =
    ["proc/net/softnet_stat", "proc/net/snmp", "proc/net/snmp6", "proc/stat", "proc/interrupts"];

/// The running kernel, in the calling thread's network namespace.
#[derive(Debug)]
pub struct Live {
    ethtool: RefCell<Option<Ethtool>>,
    before: BTreeMap<String, Result<String, Unread>>,
}

impl Live {
    /// Takes the first reading of what is counted on `ports`. The time until the audit is the window that the audit judges.
    pub fn begin(ports: &[String]) -> Self {
        let mut live = Self { ethtool: RefCell::new(Ethtool::open().ok()), before: BTreeMap::new() };
        let mut paths: Vec<String> = COUNTERS.map(str::to_owned).to_vec();
        for port in ports {
            paths.push(format!("port/{port}/statistics"));
            paths.push(format!("qdisc/{port}"));
            for irq in live.list(&format!("port/{port}/irqs")).unwrap_or_default() {
                paths.push(format!("proc/irq/{irq}/effective_affinity_list"));
            }
        }
        live.before = paths.into_iter().map(|path| (path.clone(), live.read(&path))).collect();
        live
    }

    fn port(&self, port: &str, what: &str) -> Result<String, Unread> {
        if what == "driver" {
            let driver = sys::driver(port).map(|[driver, version, bus]| Driver { driver, version, bus });
            return told(driver);
        }
        if what == "statistics" {
            return told(sys::statistics(port).map(|statistics| statistics.into_iter().collect::<BTreeMap<_, _>>()));
        }
        if what == "flow_hash" {
            let both = Flow::Udp4.hash(port).and_then(|udp4| Ok(FlowHash { udp4, udp6: Flow::Udp6.hash(port)? }));
            return told(both);
        }
        let mut ethtool = self.ethtool.borrow_mut();
        let Some(ethtool) = ethtool.as_mut() else {
            return Err(Unread::Refused("the kernel has no ethtool netlink (5.6 and later have)".into()));
        };
        match what {
            "rings" => told(ethtool.numbers(Group::Rings, port).map(|told| rings(&told))),
            "channels" => told(ethtool.numbers(Group::Channels, port).map(|told| channels(&told))),
            "coalesce" => told(ethtool.numbers(Group::Coalesce, port).map(|told| coalesce(&told))),
            "features" => told(ethtool.features(port).map(|told| Features { active: told.active, fixed: told.fixed })),
            "rss" => told(ethtool.rss(port).map(|table| Rss { table })),
            _ => Err(Unread::Absent),
        }
    }
}

impl Source for Live {
    fn read(&self, path: &str) -> Result<String, Unread> {
        if let Some(earlier) = path.strip_prefix("before/") {
            return self.before.get(earlier).cloned().unwrap_or(Err(Unread::Absent));
        }
        if let Some(rest) = path.strip_prefix("port/") {
            let (port, what) = rest.split_once('/').ok_or(Unread::Absent)?;
            return self.port(port, what);
        }
        if let Some(port) = path.strip_prefix("qdisc/") {
            let index = text(Path::new(&format!("/sys/class/net/{port}/ifindex")))?;
            let index = index.trim().parse().map_err(|_| Unread::Absent)?;
            return told(qdisc::qdiscs(index));
        }
        match path {
            "xdp_sockets" => told(xdp_diag::sockets()),
            "services" => services(),
            _ => text(&Path::new("/").join(path)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, Unread> {
        match path.strip_prefix("port/").and_then(|rest| rest.strip_suffix("/irqs")) {
            Some(port) => port_irqs(port).map_err(|error| Unread::from_io(&error)),
            None => names(&Path::new("/").join(path)),
        }
    }
}

/// As JSON, one line, as it is captured.
fn told<T: Serialize>(answer: io::Result<T>) -> Result<String, Unread> {
    let answer = answer.map_err(|error| Unread::from_io(&error))?;
    serde_json::to_string(&answer).map(|json| json + "\n").map_err(|error| Unread::Refused(error.to_string()))
}

fn rings(told: &Numbers) -> Rings {
    Rings { rx: told.value("rx"), rx_max: told.most("rx"), tx: told.value("tx"), tx_max: told.most("tx") }
}

fn channels(told: &Numbers) -> Channels {
    let [rx, tx, combined] = ["rx", "tx", "combined"].map(|name| told.value(name));
    let [rx_max, tx_max, combined_max] = ["rx", "tx", "combined"].map(|name| told.most(name));
    Channels { rx, rx_max, tx, tx_max, combined, combined_max }
}

fn coalesce(told: &Numbers) -> Coalesce {
    let on = |name| told.value(name).map(|on| on != 0);
    Coalesce {
        rx_usecs: told.value("rx-usecs"),
        rx_frames: told.value("rx-frames"),
        tx_usecs: told.value("tx-usecs"),
        tx_frames: told.value("tx-frames"),
        adaptive_rx: on("adaptive-rx"),
        adaptive_tx: on("adaptive-tx"),
    }
}

/// Which of [`SERVICES`] run, one a line.
fn services() -> Result<String, Unread> {
    let processes = names(Path::new("/proc"))?;
    let running: BTreeSet<String> = processes
        .iter()
        .filter(|name| name.bytes().all(|octet| octet.is_ascii_digit()))
        .filter_map(|process| text(Path::new(&format!("/proc/{process}/comm"))).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| SERVICES.contains(&name.as_str()))
        .collect();
    Ok(running.into_iter().map(|name| name + "\n").collect())
}
