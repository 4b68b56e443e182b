//! The programs at the ends of the wire: replies counted at the client's, arrivals timed at the reflector's.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{Xdp, XdpMode},
};

use crate::wire::INTERFACE;

const REPLIES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/replies.bpf.o"));
const ARRIVALS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/arrivals.bpf.o"));

/// `ARRIVALS_MAX` of `arrivals.bpf.c`.
const ARRIVALS_MAX: u64 = 1 << 16;

/// Counts replies by sequence number and takes them off the wire.
pub struct ReplyCounter {
    _program: Ebpf,
    trial: Array<MapData, [u32; 2]>,
    counts: PerCpuArray<MapData, [u64; 3]>,
}

/// What came back of one trial so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replies {
    /// Sequence numbers of the trial that came back.
    pub replies: u64,
    /// Those that came again.
    pub duplicates: u64,
    /// Of an earlier trial.
    pub strays: u64,
}

impl ReplyCounter {
    /// Attaches it in this thread's namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach() -> Result<Self> {
        let mut program = Ebpf::load(REPLIES)?;
        attach(&mut program, "replies")?;
        Ok(Self {
            trial: map(&mut program, "TRIAL")?.try_into()?,
            counts: map(&mut program, "COUNTS")?.try_into()?,
            _program: program,
        })
    }

    /// Replies to these sequence numbers are counted from now on, and all counts are zero again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn begin(&mut self, first: u32, count: u32) -> Result<()> {
        let zero = aya::maps::PerCpuValues::try_from(vec![[0; 3]; aya::util::nr_cpus().map_err(|(_, error)| error)?])?;
        self.trial.set(0, [first, count], 0)?;
        self.counts.set(0, zero, 0)?;
        Ok(())
    }

    /// The counts.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn read(&self) -> Result<Replies> {
        let mut all = Replies::default();
        for [replies, duplicates, strays] in self.counts.get(&0, 0)?.iter().copied() {
            all.replies += replies;
            all.duplicates += duplicates;
            all.strays += strays;
        }
        Ok(all)
    }
}

/// One datagram as it came out of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at: u64,
    /// The first four octets of the payload.
    pub head: [u8; 4],
    /// Octets of payload.
    pub length: u32,
}

/// Notes when datagrams to a port come out of the wire.
pub struct Arrivals {
    _program: Ebpf,
    arrivals: Array<MapData, [u64; 2]>,
    count: Array<MapData, u64>,
}

impl Arrivals {
    /// Attaches it in this thread's namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach(port: u16) -> Result<Self> {
        let mut program = EbpfLoader::new().override_global("PORT", &port, true).load(ARRIVALS)?;
        attach(&mut program, "arrivals")?;
        Ok(Self {
            arrivals: map(&mut program, "ARRIVALS")?.try_into()?,
            count: map(&mut program, "COUNT")?.try_into()?,
            _program: program,
        })
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// The kernel's refusal, or more datagrams than there is room for.
    pub fn read(&self) -> Result<Vec<Arrival>> {
        let count = self.count.get(&0, 0)?;
        anyhow::ensure!(count <= ARRIVALS_MAX, "{count} datagrams, and room for {ARRIVALS_MAX}: make the run shorter");
        let one = |place| {
            let [at, rest] = self.arrivals.get(&(place as u32), 0)?;
            let bytes = rest.to_ne_bytes();
            let [a, b, c, d, e, f, g, h] = bytes;
            Ok(Arrival { at, head: [a, b, c, d], length: u32::from_ne_bytes([e, f, g, h]) })
        };
        (0..count).map(one).collect()
    }
}

fn attach(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
    program.load()?;
    program.attach(INTERFACE, XdpMode::Driver)?;
    Ok(())
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).context(name)
}

/// Waits until `done` or for so long at most; whether it came to pass.
///
/// # Errors
/// Those of `done`.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        if done()? {
            return Ok(true);
        }
        if std::time::Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
