//! Nanoseconds per packet of `bpf/xdp.bpf.c`, by `BPF_PROG_TEST_RUN`: rounds of all programs in turn, medians over the rounds.
//!
//! `xdp-test-run [ROUNDS [REPETITIONS]]`, 11 rounds of 200,000 by default.

use std::{env, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData},
    programs::{TestRun, TestRunOptions, Xdp},
};
use pathlab_benches::median;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp.bpf.o"));
const PROGRAMS: [&str; 4] = ["restore", "swap", "baseline", "ours"];
const XDP_TX: u32 = 3;
const PORT: [u8; 2] = 862_u16.to_be_bytes();

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse().with_context(|| text));
    let (rounds, repetitions): (u32, u32) = (number(11)?, number(200_000)?);
    ensure!(rounds > 0 && repetitions > 0, "no rounds, no figures");
    println!("ns per packet, median (least) of {rounds} rounds of {repetitions}; net of writing the request back");
    for (name, request) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        let figures = measure(&request, rounds, repetitions).with_context(|| name)?;
        let floor = median(&figures[0]).unwrap_or_default();
        let net = |at: usize| median(&figures[at]).unwrap_or_default() - floor;
        for (at, program) in PROGRAMS.iter().enumerate().skip(1) {
            let least = figures[at].iter().copied().fold(f64::INFINITY, f64::min);
            let (all, net, ratio) = (net(at) + floor, net(at), net(at) / net(2));
            println!("{name} {program:<9} {net:6.1} net, {all:6.1} in all ({least:.1}), {ratio:.2} of the baseline");
        }
    }
    Ok(())
}

/// Nanoseconds per packet by program and round.
fn measure(request: &[u8], rounds: u32, repetitions: u32) -> Result<[Vec<f64>; 4]> {
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
    for _ in 0..rounds {
        for (name, figures) in PROGRAMS.iter().zip(&mut figures) {
            figures.push(nanoseconds(program(&mut ebpf, name)?, request, repetitions)?);
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

/// `bpf/abi.h`: the table, the place of the address's hash, and the clock.
fn answer_for(ebpf: &mut Ebpf, address: [u8; 16]) -> Result<()> {
    const OURS: u32 = 1;
    let mut table: HashMap<_, [u8; 16], u32> = HashMap::try_from(ebpf.take_map("ADDRESSES").context("ADDRESSES")?)?;
    table.insert(address, OURS, 0)?;
    let mut slots: Array<_, [u8; 32]> = Array::try_from(ebpf.take_map("SLOTS").context("SLOTS")?)?;
    let words = address.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four octets")));
    let place = words.fold(0, |all, word| all ^ word).wrapping_mul(0x9e37_79b1) >> 24;
    let mut slot = [0; 32];
    slot[..16].copy_from_slice(&address);
    slot[16..20].copy_from_slice(&OURS.to_ne_bytes());
    slots.set(place, slot, 0)?;
    let mut clock: Array<_, [u8; 16]> = Array::try_from(ebpf.take_map("CLOCK").context("CLOCK")?)?;
    let mut record = [0; 16];
    record[..8].copy_from_slice(&37_000_000_000_i64.to_ne_bytes());
    record[8..10].copy_from_slice(&0x20ff_u16.to_ne_bytes());
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
