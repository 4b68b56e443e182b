//! Watches this host from inside the kernel while it works: small programs on typed tracepoints count, and a window is the difference of
//! two readings.
//!
//! ```text
//! bpf/*.bpf.c on tracepoints ─► per-CPU maps ─┐
//! procfs, sysfs, netlink ─────────────────────┴─► Reading ─► Reading::since ─► Report ─► text, JSON lines, /metrics
//! ```
//!
//! What does not belong to this network namespace, or to the chosen interfaces, is left before any map is touched. Maps have a fixed size, and
//! what finds no room is counted. Links are not pinned: they go with the process, however it ends. A part that cannot be had is named, and
//! the others are watched.

mod alerts;
mod btf;
mod cadence;
mod drops;
mod exposition;
mod histogram;
mod napi;
mod object;
mod overhead;
mod pressure;
mod process;
mod procfs;
mod qdiscs;
mod reading;
mod sched;
mod softirq;
mod sojourn;
mod steal;
mod throttling;

use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    time::{Duration, Instant},
};

use aya::{
    Btf,
    sys::{Stats, enable_stats},
};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use pathlab_guard::Rtnetlink;

pub use self::{
    alerts::{Alert, Thresholds},
    cadence::{CadenceReport, ServerReport, Stall, Stalls, Tick},
    drops::{DropReport, Dropped, Refused},
    histogram::{Bucket, Histogram},
    napi::{Napi, NapiReport},
    overhead::Overhead,
    pressure::{Loss, RingPressure},
    process::processes_named,
    procfs::SocketQueue,
    qdiscs::QdiscReport,
    reading::{Reading, Report},
    sched::{SchedReport, ThreadReport},
    softirq::SoftirqReport,
    sojourn::{Sojourn, SojournReport},
    steal::ProcessorReport,
    throttling::Throttling,
};
use self::{
    btf::Types,
    cadence::Cadences,
    drops::Drops,
    napi::Napis,
    object::{Filter, MOST_INTERFACES, MOST_PROCESSES, Object},
    qdiscs::Qdiscs,
    reading::Names,
    sched::Sched,
    softirq::Softirqs,
    sojourn::Sojourns,
    steal::Processors,
    throttling::Throttlings,
};

/// What went wrong while watching.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More interfaces than the programs compare with.
    #[error("{count} interfaces: at most {MOST_INTERFACES} can be chosen; without a choice all are watched")]
    TooManyInterfaces {
        /// How many were given.
        count: usize,
    },
    /// More processes than the programs compare with.
    #[error("{count} processes: at most {MOST_PROCESSES} can be chosen")]
    TooManyProcesses {
        /// How many were given.
        count: usize,
    },
    /// There is none of this number.
    #[error("process {process}: no such process; see `ps -e -o pid,comm`")]
    NoProcess {
        /// Its number.
        process: u32,
    },
    /// No game server ticks so, or nothing could be told of it.
    #[error(
        "{hertz} ticks a second and stalls from {stall} periods on: 0.5 to 10000 ticks and 1 to 2 periods can be watched"
    )]
    Tick {
        /// Ticks a second.
        hertz: f64,
        /// Periods.
        stall: f64,
    },
    /// The kernel does not tell what is needed.
    #[error("the kernel is too old: {why}")]
    Kernel {
        /// What it does not tell.
        why: &'static str,
    },
    /// There is none of this name here.
    #[error("interface {name}: no such interface; see `ip link`")]
    NoInterface {
        /// The name.
        name: String,
    },
    /// The kernel refused a program or a map.
    #[error("cannot {what} the programs: {source}")]
    Programs {
        /// load, attach, read or measure
        what: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel did not list the interfaces.
    #[error("cannot list the interfaces: {source}")]
    Interfaces {
        /// What it said.
        source: io::Error,
    },
    /// The kernel did not list the queueing disciplines.
    #[error("cannot list the qdiscs: {source}")]
    Qdiscs {
        /// What it said.
        source: io::Error,
    },
    /// A file of the kernel that everybody may read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, Error>;

/// What is to be watched.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Names of the interfaces; none: all of the namespace.
    pub interfaces: Vec<String>,
    /// Processes whose threads are watched, eight at most, and whose control groups are looked at for a limit of processor time; none: the groups of this one. The
    /// number of one of its threads stands for a process.
    pub processes: Vec<u32>,
    /// The cadence that they should have; absent: their ticks are not watched.
    pub tick: Option<Tick>,
    /// From where on something is an alert.
    pub thresholds: Thresholds,
}

/// The programs in the kernel, and what is read beside them, in the network namespace of the thread that began it.
#[derive(Debug)]
pub struct Watch {
    begun: Instant,
    interfaces: Vec<u32>,
    processes: Vec<u32>,
    thresholds: Thresholds,
    drops: Option<Drops>,
    softirqs: Option<Softirqs>,
    sched: Option<Sched>,
    cadences: Option<Cadences>,
    sojourns: Option<Sojourns>,
    napis: Option<Napis>,
    lacks: Vec<String>,
    measuring: Option<(OwnedFd, Instant)>,
    measured: Duration,
}

impl Watch {
    /// Attaches what can be attached, and says of the rest why not.
    ///
    /// # Errors
    /// [`Error::TooManyInterfaces`], [`Error::NoInterface`], [`Error::Interfaces`], [`Error::TooManyProcesses`], [`Error::NoProcess`],
    /// [`Error::Tick`]; [`Error::File`] where there is no procfs.
    pub fn begin(options: &WatchOptions) -> Result<Self> {
        let filter = filter(options)?;
        options.tick.map_or(Ok(()), |tick| tick.check())?;
        let mut watch = Self {
            begun: Instant::now(),
            interfaces: filter.interfaces.clone(),
            processes: filter.processes.clone(),
            thresholds: options.thresholds,
            drops: None,
            softirqs: None,
            sched: None,
            cadences: None,
            sojourns: None,
            napis: None,
            lacks: Vec::new(),
            measuring: None,
            measured: Duration::ZERO,
        };
        if watch.processes.is_empty() {
            watch.processes.push(std::process::id());
        }
        if may_load() {
            watch.attach(&filter, options.tick);
        } else {
            watch.lacks.push(
                "no program may be loaded into the kernel without CAP_BPF and CAP_PERFMON, so only what procfs and netlink tell is read: run it as root".into(),
            );
        }
        Ok(watch)
    }

    fn attach(&mut self, filter: &Filter, tick: Option<Tick>) {
        let vmlinux = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        let (Some(types), Ok(btf)) = (Types::parse(&vmlinux), Btf::from_sys_fs()) else {
            self.lacks
                .push("the kernel does not tell its types (CONFIG_DEBUG_INFO_BTF), so only what procfs and netlink tell is read".into());
            return;
        };
        self.drops = self.lacking("drops", Drops::attach(&types, &btf, filter));
        self.sojourns = self.lacking("waiting for devices", Sojourns::attach(&btf, filter));
        self.napis = self.lacking("polls of receive queues", Napis::attach(&btf, filter));
        self.softirqs = self.lacking("softirqs", Softirqs::attach(&btf));
        if filter.processes.is_empty() {
            return;
        }
        if !process::numbers_are_the_kernels() {
            self.lacks.push(
                "threads: the kernel has other numbers for processes than this PID namespace: run it in the host's own"
                    .into(),
            );
            return;
        }
        self.sched = self.lacking("threads", Sched::attach(&types, &btf, filter));
        if let Some(tick) = tick {
            self.cadences = self.lacking("cadence", Cadences::attach(&types, &btf, filter, tick));
        }
    }

    fn lacking<T>(&mut self, what: &str, part: Result<T>) -> Option<T> {
        part.map_err(|error| self.lacks.push(format!("{what}: {error}"))).ok()
    }

    /// What is not watched, each with the reason.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// From now on the kernel measures what the programs cost, which costs some tens of nanoseconds an event itself.
    ///
    /// # Errors
    /// [`Error::Programs`]: the kernel is older than 5.8.
    pub fn measure_cost(&mut self) -> Result<()> {
        if self.objects().next().is_some() && self.measuring.is_none() {
            let held = enable_stats(Stats::RunTime).map_err(object::failed("measure"))?;
            self.measuring = Some((held, Instant::now()));
        }
        Ok(())
    }

    /// No more.
    pub fn leave_cost(&mut self) {
        if let Some((held, since)) = self.measuring.take() {
            self.measured += since.elapsed();
            drop(held);
        }
    }

    /// What has been counted until now.
    ///
    /// # Errors
    /// [`Error::Programs`], [`Error::Interfaces`], [`Error::Qdiscs`], [`Error::File`].
    pub fn read(&self) -> Result<Reading> {
        let links = links()?;
        let names = Names::of_links(&links);
        let mut costs = BTreeMap::new();
        for object in self.objects() {
            costs.extend(object.costs()?);
        }
        let mut sockets = procfs::udp_sockets(&text("/proc/thread-self/net/udp")?);
        // absent where IPv6 is switched off
        sockets.extend(procfs::udp_sockets(&text("/proc/thread-self/net/udp6").unwrap_or_default()));
        let snmp6 = text("/proc/thread-self/net/snmp6").unwrap_or_default();
        let measuring = self.measuring.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        Ok(Reading {
            at: self.begun.elapsed(),
            drops: self.drops.as_ref().map(|drops| drops.read(&names)).transpose()?,
            softirqs: self.softirqs.as_ref().map(Softirqs::read).transpose()?,
            sched: self.sched.as_ref().map(Sched::read).transpose()?,
            cadences: self.cadences.as_ref().map(Cadences::read).transpose()?,
            sojourns: self.sojourns.as_ref().map(|sojourns| sojourns.read(&names)).transpose()?,
            polls: self.napis.as_ref().map(|napis| napis.read(&names)).transpose()?,
            counters: procfs::udp_counters(&text("/proc/thread-self/net/snmp")?, &snmp6),
            sockets,
            qdiscs: Qdiscs::read(&names, &self.interfaces).map_err(|source| Error::Qdiscs { source })?,
            ports: pressure::ports(&links, &names, &self.interfaces),
            processors: Processors::of(
                &text("/proc/stat")?,
                &text("/proc/thread-self/net/softnet_stat").unwrap_or_default(),
            ),
            throttlings: Throttlings::read(&self.processes),
            thresholds: self.thresholds,
            costs,
            measured: self.measured + measuring,
        })
    }

    fn objects(&self) -> impl Iterator<Item = &Object> {
        let drops = self.drops.iter().map(Drops::object);
        let softirqs = self.softirqs.iter().map(Softirqs::object);
        let sched = self.sched.iter().map(Sched::object);
        let sojourns = self.sojourns.iter().map(Sojourns::object);
        let napis = self.napis.iter().map(Napis::object);
        drops
            .chain(softirqs)
            .chain(sched)
            .chain(self.cadences.iter().map(Cadences::object))
            .chain(sojourns)
            .chain(napis)
    }
}

fn text(path: &'static str) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::File { path, source })
}

/// The interfaces of the calling thread's namespace; `/sys` may be of another.
fn links() -> Result<Vec<LinkMessage>> {
    let failed = |source| Error::Interfaces { source };
    let mut rtnetlink = Rtnetlink::open(None).map_err(|error| failed(io::Error::other(error)))?;
    let answers = rtnetlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(failed)?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    Ok(links.collect())
}

fn filter(options: &WatchOptions) -> Result<Filter> {
    let path = "/proc/thread-self/ns/net";
    let netns = fs::metadata(path).map_err(|source| Error::File { path, source })?.ino();
    if options.interfaces.len() > MOST_INTERFACES {
        return Err(Error::TooManyInterfaces { count: options.interfaces.len() });
    }
    let names = Names::of_links(&links()?);
    let index = |name: &String| {
        let found = names.0.iter().find(|(_, known)| *known == name).map(|(index, _)| *index);
        found.ok_or_else(|| Error::NoInterface { name: name.clone() })
    };
    let interfaces = options.interfaces.iter().map(index).collect::<Result<_>>()?;
    if options.processes.len() > MOST_PROCESSES {
        return Err(Error::TooManyProcesses { count: options.processes.len() });
    }
    let process = |number: &u32| process::process_of(*number).ok_or(Error::NoProcess { process: *number });
    let processes = options.processes.iter().map(process).collect::<Result<_>>()?;
    // an inode of nsfs is an unsigned int of the kernel
    Ok(Filter { netns: u32::try_from(netns).unwrap_or(0), interfaces, processes })
}

/// `CAP_SYS_ADMIN`, or `CAP_BPF` with `CAP_PERFMON`, by linux/capability.h.
fn may_load() -> bool {
    let [sys_admin, perfmon, bpf] = [21, 38, 39].map(|bit| 1_u64 << bit);
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    has & sys_admin != 0 || has & (perfmon | bpf) == perfmon | bpf
}
