//! Steering by tcx programs, as a measure of what that would take: see `bpf/steer.bpf.c`.

use std::{net::Ipv6Addr, process::Command};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};

use super::{
    Mode, PORT, SEED,
    parts::{MARK, MASK},
    share,
};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// A program on a device; off it when dropped.
pub(super) struct Tcx {
    _ebpf: Ebpf,
}

/// At the egress of the control path's device, in the calling thread's network namespace.
pub(super) fn redirect(mode: Mode) -> Result<Tcx> {
    attach("redirect", mode, "eth0", TcAttachType::Egress)
}

/// At the ingress of the device to the host behind.
pub(super) fn mark() -> Result<Tcx> {
    attach("mark", Mode::Router, "g", TcAttachType::Ingress)
}

fn attach(name: &str, mode: Mode, device: &str, to: TcAttachType) -> Result<Tcx> {
    let canary = index("eth1")?;
    let via_v4 = u32::from_ne_bytes([10, 2, 0, 1]);
    let via_v6 = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1).octets();
    let (port, router) = (u32::from(PORT), u32::from(mode == Mode::Router));
    let mut ebpf = EbpfLoader::new()
        .override_global("SEED", &SEED, true)
        .override_global("SERVER_PORT", &port, true)
        .override_global("ROUTER", &router, true)
        .override_global("DEVICE", &canary, true)
        .override_global("VIA_V4", &via_v4, true)
        .override_global("VIA_V6", &via_v6, true)
        .override_global("MARK", &MARK, true)
        .override_global("MASK", &MASK, true)
        .load(OBJECT)?;
    let mut buckets: Array<&mut MapData, u32> = Array::try_from(ebpf.map_mut("SHARE").context("SHARE")?)?;
    buckets.set(0, u32::from(share().buckets()), 0)?;
    let mut lease: Array<&mut MapData, u64> = Array::try_from(ebpf.map_mut("LEASE").context("LEASE")?)?;
    // One that does not run out meanwhile.
    lease.set(0, u64::MAX, 0)?;
    let program: &mut SchedClassifier = ebpf.program_mut(name).with_context(|| name.to_owned())?.try_into()?;
    program.load()?;
    program.attach_with_options(device, to, TcAttachOptions::TcxOrder(LinkOrder::default()))?;
    Ok(Tcx { _ebpf: ebpf })
}

/// Of a device of this namespace.
fn index(device: &str) -> Result<u32> {
    let output = Command::new("ip").args(["-o", "link", "show", device]).output().context("iproute2")?;
    let text = String::from_utf8(output.stdout)?;
    text.split(':').next().and_then(|number| number.parse().ok()).with_context(|| format!("{device} has no index"))
}
