//! A million session keys: what a packet costs with a thousand and with a million of them, what the kernel keeps, and how long a change takes.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pathlab_canary::{
    KeyFrom, Share, bucket,
    steer::{self, Packets},
};
use pathlab_record::SessionKey;

use super::{Mode, NAME, Network, SEED, Steerer, client, cost, options, share};
use crate::turns::order;

/// Session keys: address and port of clients in IPv4.
pub(super) const MANY: usize = 1_000_000;
pub(super) const FEW: usize = 1_000;

/// One number of sessions in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Nanoseconds a packet, each to another session.
    pub(super) without: f64,
    /// With steering, once every session has been seen.
    pub(super) with: f64,
    /// Milliseconds that `canary ramp` takes with all of them present.
    pub(super) ramp: f64,
    /// Milliseconds that a rollback takes.
    pub(super) rollback: f64,
    /// Canary sessions that the kernel counts.
    pub(super) counted: u64,
    /// Kernel memory that came with the sessions, in bytes; of the whole host, so others' are in it.
    pub(super) kernel: f64,
}

/// What is measured by round.
#[derive(Clone, Debug, Default)]
pub(super) struct Many {
    pub(super) few: Vec<Load>,
    pub(super) many: Vec<Load>,
    /// Nanoseconds in which the analysis finds the bucket of one key.
    pub(super) bucket: Vec<f64>,
}

pub(super) fn measure(network: &Network, pathlab: &Path, rounds: usize, keys: usize) -> Result<Many> {
    let all: Vec<SocketAddr> =
        (0..keys as u32).map(|n| SocketAddr::new(client(0, n / 8), 1_024 + (n % 8) as u16)).collect();
    let mut found = Many::default();
    for round in 0..rounds {
        for turn in order(2, round) {
            let load = one(network, pathlab, if turn == 0 { &all[..FEW] } else { &all })?;
            if turn == 0 { found.few.push(load) } else { found.many.push(load) }
        }
        let start = Instant::now();
        let canary = all.iter().filter(|session| {
            let bucket = bucket(SEED, &SessionKey(**session), KeyFrom::ClientAddrPort);
            bucket.is_some_and(|bucket| bucket < share().buckets())
        });
        let canary = canary.count();
        found.bucket.push(start.elapsed().as_nanos() as f64 / keys as f64);
        ensure!(canary as u64 == found.many[round].counted, "{canary} canary sessions, and the kernel counts others");
    }
    Ok(found)
}

fn one(network: &Network, pathlab: &Path, sessions: &[SocketAddr]) -> Result<Load> {
    let socket = network.socket(Mode::Host, 0)?;
    let chunks = MANY.min(sessions.len().max(200_000)) / 2_000;
    let without = cost::nanoseconds(&socket, sessions, chunks)?;
    let steerer = Steerer::start(network, pathlab, Mode::Host, MANY as u32)?;
    let before = kernel_memory()?;
    let _first = cost::nanoseconds(&socket, sessions, sessions.len().div_ceil(2_000))?;
    let kernel = (kernel_memory()? - before).max(0.0);
    let observed = network.server.run(steer::observe)??.context("steering")?;
    let Packets { held, .. } = observed.packets;
    ensure!(held == 0, "{held} packets met a shut gate");
    let with = cost::nanoseconds(&socket, sessions, chunks)?;
    let timed = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(Duration::as_secs_f64(&start.elapsed()) * 1e3)
    };
    let next = Share::from_buckets(share().buckets() + 100).context("a share")?;
    let ramp = timed(&mut || Ok(steer::ramp(NAME, next, &options()).map(drop)?))?;
    let rollback = timed(&mut || Ok(steer::rollback(NAME, &options()).map(drop)?))?;
    drop(steerer);
    Ok(Load { without, with, ramp, rollback, counted: observed.canary_sessions, kernel })
}

/// What the kernel holds in slabs that it cannot give back, and in pages of its own: where elements of sets are.
fn kernel_memory() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).with_context(|| name.to_owned())
    };
    Ok((of("SUnreclaim:")? + of("VmallocUsed:")?) * 1024.0)
}
