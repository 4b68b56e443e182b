//! This host as a source: procfs and sysfs as they are, and what only sockets tell under paths of its own.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::Serialize;

use crate::{
    ethtool::Ethtool,
    port::{Driver, FlowHash, Rss, hash_letters},
    qdisc,
    source::{Source, Unread, names, text},
    sys, xdp_diag,
};

/// linux/ethtool.h
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;

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
            let letters = |flow| sys::flow_hash(port, flow).map(hash_letters);
            let both = letters(UDP_V4_FLOW).and_then(|udp4| Ok(FlowHash { udp4, udp6: letters(UDP_V6_FLOW)? }));
            return told(both);
        }
        let mut ethtool = self.ethtool.borrow_mut();
        let Some(ethtool) = ethtool.as_mut() else {
            return Err(Unread::Refused("the kernel has no ethtool netlink (5.6 and later have)".into()));
        };
        match what {
            "rings" => told(ethtool.rings(port)),
            "channels" => told(ethtool.channels(port)),
            "coalesce" => told(ethtool.coalesce(port)),
            "features" => told(ethtool.features(port)),
            // Some drivers, and kernels before 6.3, tell by ioctl alone.
            "rss" => match ethtool.rss(port) {
                Ok(rss) if !rss.table.is_empty() => told(Ok(rss)),
                _ => told(sys::indirection(port).map(|table| Rss { table })),
            },
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
            Some(port) => irqs(port),
            None => names(&Path::new("/").join(path)),
        }
    }
}

/// As JSON, one line, as it is captured.
fn told<T: Serialize>(answer: io::Result<T>) -> Result<String, Unread> {
    let answer = answer.map_err(|error| Unread::from_io(&error))?;
    serde_json::to_string(&answer).map(|json| json + "\n").map_err(|error| Unread::Refused(error.to_string()))
}

/// Interrupts of a port: those of its device, or of the device's parent (virtio sits below a PCI function).
fn irqs(port: &str) -> Result<Vec<String>, Unread> {
    let device = fs::canonicalize(format!("/sys/class/net/{port}/device")).map_err(|error| Unread::from_io(&error))?;
    let own = names(&device.join("msi_irqs"));
    match (own, device.parent()) {
        (Err(Unread::Absent), Some(parent)) => names(&parent.join("msi_irqs")),
        (own, _) => own,
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
