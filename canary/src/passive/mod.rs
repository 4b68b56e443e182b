//! What the sessions of a game see, told on the server by their own packets: no probe, no change to the game.
//!
//! ```text
//! server ── seq 41 ──► tcx egress: note when ──► client
//! server ◄── ack 41 ── tcx ingress: round trip ◄── client        bpf/passive.bpf.c: one entry a session, LRU
//!                            │ every few seconds
//!                            ▼
//!        Watch ─► Bins ─► sessions.jsonl for the judge, /metrics
//! ```
//!
//! The round trip is that of the echo: from a packet to the first packet that acknowledges it, so that it holds the time until the client
//! next sends. Both arms have that alike. Where the game's header has no sequence and acknowledgement there is no round trip to be had:
//! then *residence* is told, from a client's packet to the next packet to it, and called nothing else. Losses are not told at all: an
//! acknowledgement of the newest packet says nothing of those before it.
//!
//! Memory is bounded: `max_sessions` entries of 3,712 bytes in the kernel, of which the least recently used give way, counted. Only the
//! server's own packets begin a session. The programs change no packet and go with the process.

mod bins;
mod config;
mod exposition;
mod kernel;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{HashMap as KernelMap, MapData, PerCpuArray},
    programs::TcAttachType,
};
use jiff::Timestamp;
use pathlab_record::{AsnTable, Labels, SessionBin};

use crate::{
    Experiment, Share, UNKNOWN,
    steer::{
        self, Error, Plan, Result,
        object::{self, Failure, Watched},
    },
};
use bins::{About, Bins, Group, Known};
use kernel::{RawFlow, RawSession, Reading};

pub use bins::{Packets, SOURCE, Total};
pub use config::{Field, Order, Passive, Port, ServerId};
pub use kernel::{Counts, Flow};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/passive.bpf.o"));
const TO_CLIENT: &str = "to_client";
const FROM_CLIENT: &str = "from_client";
/// Names of control groups that are told; more share one, so that metrics stay small.
const MOST_CGROUPS: usize = 64;
/// The name of all further ones, and of those that are gone.
const OTHER: &str = "other";

/// What happened to sessions as such since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// Sessions that began.
    pub began: u64,
    /// Those of them that took the place of an older one of the same client: its payload id changed.
    pub replaced: u64,
    /// Sessions that left the table for want of room.
    pub evicted: u64,
    /// Packets of clients without a session.
    pub unknown: u64,
    /// Packets too short for the fields or the key.
    pub short: u64,
}

/// All that is told of all sessions, since the start.
#[derive(Clone, Debug)]
pub struct Account {
    pub(crate) totals: BTreeMap<Group, Total>,
    /// Times are round trips; residence otherwise.
    pub echoes: bool,
    /// Sessions in the kernel's table.
    pub sessions: u64,
    /// Sessions as such.
    pub counted: Counted,
    /// Whether the canary arm's sessions were on the canary path when it was last looked.
    pub steered: bool,
}

impl Account {
    /// As OpenMetrics 1.0 text.
    pub fn openmetrics(&self) -> String {
        exposition::text(self)
    }

    /// The totals by arm, address family (4 or 6) and server.
    pub fn groups(&self) -> impl Iterator<Item = (pathlab_record::Arm, u8, &str, &Total)> {
        self.totals.iter().map(|(Group { arm, family, server }, total)| (*arm, *family, server.as_str(), total))
    }
}

/// The programs on the devices of both paths, and what they have told so far.
#[derive(Debug)]
pub struct Watch {
    ebpf: Ebpf,
    devices: Vec<String>,
    known: HashMap<RawFlow, Reading>,
    bins: Bins,
    servers: Servers,
    isps: AsnTable,
    share: Share,
    steered: bool,
    echoes: bool,
    counted: Counted,
}

impl Watch {
    /// Puts the programs on the devices of both paths, in the calling thread's network namespace. Steering may run there or not.
    ///
    /// # Errors
    /// [`Error::Config`] where `[passive]` is missing or does not fit the rest; [`Error::NoDevice`], [`Error::DeviceDown`];
    /// [`Error::Passive`]: tcx needs Linux 6.6.
    pub fn attach(experiment: &Experiment, seed: u32, isps: AsnTable, labels: Labels, now: Timestamp) -> Result<Self> {
        let plan = Plan::new(experiment, seed)?;
        let settings = settings(experiment)?;
        let ports = ports(experiment, settings)?;
        let Watched { canary, names } = Watched::of(&plan)?;
        let ebpf = load(&plan, settings, canary, &ports).map_err(failed("load"))?;
        let about = About {
            zone: experiment.windows.zone.clone(),
            key: experiment.key.clone(),
            labels,
            echoes: settings.sequence.is_some(),
        };
        let mut watch = Self {
            ebpf,
            devices: names.into_iter().collect(),
            known: HashMap::new(),
            bins: Bins::new(about, experiment.windows.bin, now),
            servers: Servers::new(settings),
            isps,
            share: experiment.experiment.share,
            steered: false,
            echoes: settings.sequence.is_some(),
            counted: Counted::default(),
        };
        watch.look_at_steering()?;
        for (name, to) in [(TO_CLIENT, TcAttachType::Egress), (FROM_CLIENT, TcAttachType::Ingress)] {
            let program = object::program(&mut watch.ebpf, name).map_err(failed("load"))?;
            for device in &watch.devices {
                object::attach(program, device, to)
                    .map_err(|source| Error::Passive { what: format!("attach to {device}"), source })?;
            }
        }
        Ok(watch)
    }

    /// The devices that are looked at.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// When the bin that is open ends.
    pub fn bin_end(&self) -> Timestamp {
        self.bins.end()
    }

    /// Reads what sessions saw since the last reading: to be called every few seconds, as the kernel's counts have 16 bits. A sweep takes
    /// about 3 µs a session.
    ///
    /// # Errors
    /// [`Error::Passive`], [`Error::Nft`] when the kernel does not say.
    pub fn read(&mut self) -> Result<()> {
        self.look_at_steering()?;
        let mut counted = self.count()?;
        let map = self.ebpf.map("SESSIONS").expect("the object has this map");
        let map = KernelMap::<&MapData, RawFlow, RawSession>::try_from(map).map_err(failed("read"))?;
        let mut present = HashSet::new();
        for entry in map.iter() {
            let (raw, session) = entry.map_err(failed("read"))?;
            // Where a session leaves the table meanwhile, the kernel may begin the list again.
            if !present.insert(raw) {
                continue;
            }
            let reading = Reading::of(&session);
            let lately = reading.since(self.known.get(&raw));
            if !lately.is_nothing() {
                let flow = Flow::of(&raw);
                let server = self.servers.name(flow.server_port, reading.cgroup);
                let isp = self.isps.of(flow.client.ip()).map_or(UNKNOWN, |network| &network.name);
                let known = Known { flow, id: &reading.id, bucket: reading.bucket, server: &server, isp };
                self.bins.add(&known, &lately, self.share);
            }
            self.known.insert(raw, reading);
        }
        self.known.retain(|raw, _| present.contains(raw));
        // Counted before the sweep, so that a session that began during it passes for none that left.
        let left = counted.began.saturating_sub(counted.replaced).saturating_sub(present.len() as u64);
        counted.evicted = left.max(self.counted.evicted);
        self.counted = counted;
        Ok(())
    }

    /// Reads, then closes the bin at `end` and opens the next one there: one line a session that had a packet.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn close_bin(&mut self, end: Timestamp) -> Result<Vec<SessionBin>> {
        self.read()?;
        Ok(self.bins.close(end))
    }

    /// All that is told so far, as of the last reading.
    pub fn account(&self) -> Account {
        Account {
            totals: self.bins.totals().clone(),
            echoes: self.echoes,
            sessions: self.known.len() as u64,
            counted: self.counted,
            steered: self.steered,
        }
    }

    fn count(&self) -> Result<Counted> {
        let map = self.ebpf.map("COUNTED").expect("the object has this map");
        let map = PerCpuArray::<&MapData, u64>::try_from(map).map_err(failed("read"))?;
        let count = |place| Ok::<u64, Error>(map.get(&place, 0).map_err(failed("read"))?.iter().sum());
        Ok(Counted { began: count(0)?, replaced: count(1)?, evicted: 0, unknown: count(2)?, short: count(3)? })
    }

    /// The share of now, which a ramp may have changed.
    fn look_at_steering(&mut self) -> Result<()> {
        let observed = steer::observe()?;
        self.steered = observed.as_ref().is_some_and(|observed| observed.lease_left.is_some());
        if let Some(share) = observed.and_then(|observed| observed.share) {
            self.share = share;
        }
        Ok(())
    }
}

fn settings(experiment: &Experiment) -> Result<&Passive> {
    let absent = || config("passive", "absent", "write [passive] into canary.toml: an empty table measures residence");
    let settings = experiment.passive.as_ref().ok_or_else(absent)?;
    if settings.server == ServerId::Cgroup && experiment.steer.mode == crate::Mode::Router {
        return Err(config("passive.server", "cgroup", "only mode = \"host\" sees who sends: use \"port\""));
    }
    Ok(settings)
}

fn ports(experiment: &Experiment, settings: &Passive) -> Result<Vec<u16>> {
    let named: Vec<u16> = settings.servers.keys().map(|Port(port)| *port).collect();
    match experiment.steer.server_port {
        None if named.is_empty() => {
            Err(config("passive.servers", "{}", "name the servers by their UDP port, or give steer.server_port"))
        }
        None => Ok(named),
        Some(port) if named.is_empty() || named == [port] => Ok(vec![port]),
        Some(_) => {
            Err(config("passive.servers", format!("{named:?}"), "only steer.server_port is steered: leave that out"))
        }
    }
}

fn config(key: &'static str, value: impl ToString, reason: &'static str) -> Error {
    Error::Config { key, value: value.to_string(), reason }
}

fn failed<E: Into<Failure>>(what: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Passive { what: what.to_owned(), source: source.into() }
}

fn load(plan: &Plan, settings: &Passive, canary: [u32; 2], ports: &[u16]) -> std::result::Result<Ebpf, Failure> {
    let of = |field: Option<Field>| {
        let little = |field: Field| u32::from(field.order == Order::Little);
        field.map_or([0; 3], |field| [u32::from(field.offset), u32::from(field.bytes), little(field)])
    };
    let [sequence, ack, client] = [settings.sequence, settings.acknowledgement, settings.client_sequence].map(of);
    let constants = [
        ("SEQUENCE_OFFSET", sequence[0]),
        ("SEQUENCE_BYTES", sequence[1]),
        ("SEQUENCE_LITTLE", sequence[2]),
        ("ACK_OFFSET", ack[0]),
        ("ACK_BYTES", ack[1]),
        ("ACK_LITTLE", ack[2]),
        ("CLIENT_OFFSET", client[0]),
        ("CLIENT_BYTES", client[1]),
        ("CLIENT_LITTLE", client[2]),
    ];
    let entries = [("SESSIONS", settings.max_sessions), ("PORTS", ports.len() as u32)];
    let mut ebpf = object::load(OBJECT, plan, canary, &constants, &entries)?;
    let map = ebpf.map_mut("PORTS").expect("the object has this map");
    let mut map = KernelMap::<&mut MapData, u16, u8>::try_from(map)?;
    for port in ports {
        map.insert(port, 1, 0)?;
    }
    Ok(ebpf)
}

/// Names for the label `server`.
#[derive(Debug)]
struct Servers {
    by: ServerId,
    ports: BTreeMap<Port, String>,
    cgroups: HashMap<u64, String>,
}

impl Servers {
    fn new(settings: &Passive) -> Self {
        Self { by: settings.server, ports: settings.servers.clone(), cgroups: HashMap::new() }
    }

    fn name(&mut self, port: u16, cgroup: u64) -> String {
        if self.by == ServerId::Port {
            return self.ports.get(&Port(port)).cloned().unwrap_or_else(|| port.to_string());
        }
        if let Some(name) = self.cgroups.get(&cgroup) {
            return name.clone();
        }
        if self.cgroups.len() >= MOST_CGROUPS {
            return OTHER.to_owned();
        }
        let name = unified().and_then(|root| cgroup_name(&root, cgroup)).unwrap_or_else(|| OTHER.to_owned());
        self.cgroups.insert(cgroup, name.clone());
        name
    }
}

/// Where the unified hierarchy of control groups is mounted.
fn unified() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    Some(mounts.find(|fields| fields.get(2) == Some(&"cgroup2"))?[1].into())
}

/// A control group's id is the inode number of its directory.
fn cgroup_name(folder: &Path, id: u64) -> Option<String> {
    if fs::metadata(folder).ok()?.ino() == id {
        return Some(folder.file_name()?.to_string_lossy().into_owned());
    }
    let mut folders =
        fs::read_dir(folder).ok()?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.find_map(|entry| cgroup_name(&entry.path(), id))
}
