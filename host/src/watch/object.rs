//! Loads one object of `bpf/` and attaches its programs to the kernel's typed tracepoints, by links that go with the process.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap},
    programs::{BtfTracePoint, RawTracePoint, RawTracePointRunOptions, TestRun},
};

use super::{
    Error, Result,
    overhead::{Cost, cost},
};

/// The programs' `MOST_INTERFACES`.
pub(crate) const MOST_INTERFACES: usize = 8;
/// The programs' `MOST_PROCESSES`.
pub(crate) const MOST_PROCESSES: usize = 8;
const CLOCK: &str = "tell_time";

/// Whose packets and threads are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Inode of the network namespace.
    pub(crate) netns: u32,
    /// Indices of the interfaces; none: all.
    pub(crate) interfaces: Vec<u32>,
    /// By their numbers in the initial PID namespace.
    pub(crate) processes: Vec<u32>,
}

/// An object in the kernel.
#[derive(Debug)]
pub(crate) struct Object {
    ebpf: Ebpf,
    programs: Vec<&'static str>,
}

/// Entries of a hash map, the processors' parts of each still apart.
pub(crate) type Parts<K, const V: usize> = BTreeMap<K, Vec<[u64; V]>>;

/// Entries of a hash map that the processors share.
pub(crate) type Shared<const K: usize, const V: usize> = Vec<([u8; K], [u64; V])>;

impl Object {
    /// `programs` are pairs of a program and its tracepoint; `constants` are the object's own, beside those of `bpf/watch.h`. Nothing is pinned.
    pub(crate) fn attach(
        object: &[u8],
        programs: &[(&'static str, &str)],
        btf: &Btf,
        filter: &Filter,
        constants: &[(&str, u32)],
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let interfaces: [u32; MOST_INTERFACES] = filled(&filter.interfaces);
        let processes: [u32; MOST_PROCESSES] = filled(&filter.processes);
        // not every object is of packets, nor of threads
        loader
            .override_global("NETNS", &filter.netns, false)
            .override_global("INTERFACES", &interfaces, false)
            .override_global("PROCESSES", &processes, false);
        for (name, value) in constants {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(object).map_err(failed("load"))?;
        for (name, tracepoint) in programs {
            let program = ebpf.program_mut(name).ok_or_else(|| failed("load")(gone()))?;
            let program: &mut BtfTracePoint = program.try_into().map_err(failed("load"))?;
            program.load(tracepoint, btf).map_err(failed("load"))?;
            program.attach().map_err(failed("attach"))?;
        }
        Ok(Self { ebpf, programs: programs.iter().map(|(name, _)| *name).collect() })
    }

    /// The sums over all processors of a per-CPU array's counters.
    pub(crate) fn counters<const N: usize>(&self, map: &str) -> Result<[u64; N]> {
        let map = PerCpuArray::<&MapData, u64>::try_from(self.map(map)?).map_err(failed("read"))?;
        let mut sums = [0; N];
        for (place, sum) in (0_u32..).zip(&mut sums) {
            *sum = map.get(&place, 0).map_err(failed("read"))?.iter().sum();
        }
        Ok(sums)
    }

    /// Each processor's part of an entry of a per-CPU array, `W` words each. The words of a part that changes meanwhile are of about one time.
    pub(crate) fn entry<const W: usize>(&self, map: &str, place: u32) -> Result<Vec<[u64; W]>>
    where
        [u64; W]: aya::Pod,
    {
        let map = PerCpuArray::<&MapData, [u64; W]>::try_from(self.map(map)?).map_err(failed("read"))?;
        Ok(map.get(&place, 0).map_err(failed("read"))?.to_vec())
    }

    /// All entries of a hash map that the processors share. One that comes or goes meanwhile is in it or not.
    pub(crate) fn shared<const K: usize, const V: usize>(&self, map: &str) -> Result<Shared<K, V>>
    where
        [u8; K]: aya::Pod,
        [u64; V]: aya::Pod,
    {
        let map = HashMap::<&MapData, [u8; K], [u64; V]>::try_from(self.map(map)?).map_err(failed("read"))?;
        map.iter().collect::<std::result::Result<_, _>>().map_err(failed("read"))
    }

    /// Of an object with `bpf/chosen.h`: makes its clock ready.
    pub(crate) fn prepare_clock(&mut self) -> Result<()> {
        let program = self.ebpf.program_mut(CLOCK).ok_or_else(|| failed("load")(gone()))?;
        let program: &mut RawTracePoint = program.try_into().map_err(failed("load"))?;
        program.load().map_err(failed("load"))
    }

    /// What that clock says.
    pub(crate) fn now(&self) -> Result<u64> {
        let program = self.ebpf.program(CLOCK).ok_or_else(|| failed("read")(gone()))?;
        let program: &RawTracePoint = program.try_into().map_err(failed("read"))?;
        program.test_run(RawTracePointRunOptions::new()).map_err(failed("read"))?;
        let map = Array::<&MapData, u64>::try_from(self.map("NOW")?).map_err(failed("read"))?;
        map.get(&0, 0).map_err(failed("read"))
    }

    /// All entries of a per-CPU hash map. One that comes or goes meanwhile is in it or not.
    pub(crate) fn parts<const K: usize, const V: usize>(&self, map: &str) -> Result<Parts<[u8; K], V>>
    where
        [u8; K]: aya::Pod,
        [u64; V]: aya::Pod,
    {
        let map = PerCpuHashMap::<&MapData, [u8; K], [u64; V]>::try_from(self.map(map)?).map_err(failed("read"))?;
        let entries = map.iter().map(|entry| entry.map(|(key, parts)| (key, parts.to_vec())));
        entries.collect::<std::result::Result<_, _>>().map_err(failed("read"))
    }

    /// What each program has cost so far, by name.
    pub(crate) fn costs(&self) -> Result<BTreeMap<String, Cost>> {
        let mut costs = BTreeMap::new();
        for name in &self.programs {
            let program = self.ebpf.program(name).ok_or_else(|| failed("read")(gone()))?;
            let fd = program.fd().map_err(failed("read"))?.as_fd().as_raw_fd();
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(failed("read"))?;
            costs.insert((*name).to_owned(), cost(&text));
        }
        Ok(costs)
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).ok_or_else(|| failed("read")(gone()))
    }
}

/// The first ones, and zeroes behind them.
fn filled<const N: usize>(values: &[u32]) -> [u32; N] {
    let mut all = [0; N];
    all.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
    all
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

pub(crate) fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Programs { what, source: source.into() }
}
