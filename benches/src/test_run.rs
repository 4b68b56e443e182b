//! Nanoseconds per packet of `bpf/xdp.bpf.c`, by `BPF_PROG_TEST_RUN`: rounds of all programs in turn.
//!
//! The kernel repeats a program on the packet as the last run left it, so every program writes the request back before it does its work, and an
//! entry that only writes it back is the floor that is taken off. Every repetition is held to have returned XDP_TX.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{TestRun, TestRunOptions, Xdp},
};

use crate::turns::order;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp.bpf.o"));
/// The floor, both baselines, and ours.
pub const PROGRAMS: [&str; 4] = ["restore", "swap", "baseline", "ours"];
const XDP_TX: u32 = 3;
const PORT: [u8; 2] = 862_u16.to_be_bytes();

/// Address family of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Nanoseconds per packet by program, in the order of [`PROGRAMS`], and round; all in all, the floor included.
///
/// # Errors
/// The kernel's refusal, or a run that was no reply.
pub fn measure(family: Family, rounds: usize, repetitions: u32) -> Result<[Vec<f64>; 4]> {
    let request = match family {
        Family::V4 => ipv4(),
        Family::V6 => ipv6(),
    };
    let request = &request[..];
    let mut padded = [0_u8; 112];
    padded[..request.len()].copy_from_slice(request);
    let mut ebpf = EbpfLoader::new()
        .override_global("REQUEST", &padded, true)
        .override_global("IPV6", &u8::from(request.len() > 100), true)
        .load(OBJECT)?;
    for name in PROGRAMS {
        program(&mut ebpf, name)?.load()?;
    }
    answer_for(&mut ebpf, destination(request))?;
    let replies: Array<MapData, u64> = Array::try_from(ebpf.take_map("REPLIES").context("REPLIES")?)?;
    let mut figures: [Vec<f64>; 4] = Default::default();
    let mut expected = 0;
    for round in 0..rounds {
        for at in order(PROGRAMS.len(), round) {
            let name = PROGRAMS[at];
            figures[at].push(nanoseconds(program(&mut ebpf, name)?, request, repetitions)?);
            expected += u64::from(repetitions);
            ensure!(replies.get(&0, 0)? == expected, "{name}: not every run was a reply");
        }
    }
    Ok(figures)
}

fn nanoseconds(program: &Xdp, request: &[u8], repetitions: u32) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(request);
    options.repeat = repetitions;
    let outcome = program.test_run(options)?;
    ensure!(outcome.return_value == XDP_TX, "XDP action {}", outcome.return_value);
    // the kernel divides by the repetitions
    Ok(Duration::as_nanos(&outcome.duration) as f64)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).context("no such program")?.try_into()?)
}

/// `bpf/abi.h`: the place of the address's hash, and the clock.
fn answer_for(ebpf: &mut Ebpf, address: [u8; 16]) -> Result<()> {
    const OURS: u32 = 1;
    let mut slots: Array<_, [[u8; 32]; 256]> = Array::try_from(ebpf.take_map(".data.slots").context(".data.slots")?)?;
    let words = address.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four octets")));
    let place = words.fold(0, |all, word| all ^ word).wrapping_mul(0x9e37_79b1) >> 24;
    let mut filled = [[0; 32]; 256];
    let slot = &mut filled[place as usize];
    slot[..16].copy_from_slice(&address);
    slot[16..20].copy_from_slice(&OURS.to_ne_bytes());
    slots.set(0, filled, 0)?;
    let mut clock: Array<_, [u8; 16]> = Array::try_from(ebpf.take_map(".data.clock").context(".data.clock")?)?;
    let mut record = [0; 16];
    record[..8].copy_from_slice(&37_000_000_000_i64.to_ne_bytes());
    record[8..10].copy_from_slice(&0x20ff_u16.to_be_bytes());
    clock.set(0, record, 0)?;
    Ok(())
}

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// A base packet from port 40000; its checksum is arbitrary, as it is updated and not computed.
fn udp() -> Vec<u8> {
    let mut udp = 40_000_u16.to_be_bytes().to_vec();
    udp.extend(PORT);
    udp.extend([0, 52, 0x12, 0x34]);
    udp.extend((0..16).map(|octet| octet * 3 + 1));
    udp.extend([0; 28]);
    udp
}

fn ipv4() -> Vec<u8> {
    let mut frame = ETHERNET.to_vec();
    frame.extend([0x08, 0, 0x45, 0, 0, 72, 0, 1, 0x40, 0, 64, 17, 0x9a, 0xbc, 198, 51, 100, 7, 192, 0, 2, 1]);
    frame.extend(udp());
    frame
}

fn ipv6() -> Vec<u8> {
    let mut frame = ETHERNET.to_vec();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 52, 17, 64]);
    for network in [1, 0] {
        frame.extend([0x20, 1, 0x0d, 0xb8, 0, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    }
    frame.extend(udp());
    frame
}

fn destination(request: &[u8]) -> [u8; 16] {
    let mut address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    if request.len() > 100 {
        address.copy_from_slice(&request[38..54]);
    } else {
        address[12..].copy_from_slice(&request[30..34]);
    }
    address
}
