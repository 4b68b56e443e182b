//! Nanoseconds per packet of the programs that watch, by `BPF_PROG_TEST_RUN`: see `bpf/passive.bpf.c` for what one run is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};

use super::PORT;
use crate::turns::order;

const PASSIVE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/passive.bpf.o"));
const DEPARTURES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/departures.bpf.o"));

/// Nanoseconds a packet by round, what the run itself takes taken off.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// The wrong-arm proof, at egress.
    pub(super) proof: Vec<f64>,
    /// A packet to a client that is measured: sequence noted.
    pub(super) sent: Vec<f64>,
    /// A client's packet: its echo found, its round trip counted.
    pub(super) echoed: Vec<f64>,
}

/// By family, IPv4 first.
pub(super) fn measure(rounds: usize, repetitions: u32) -> Result<[Runs; 2]> {
    Ok([one(0, rounds, repetitions)?, one(1, rounds, repetitions)?])
}

fn one(family: usize, rounds: usize, repetitions: u32) -> Result<Runs> {
    let packet = packet(family);
    let (payload, port) = (packet.len() as u32 - 16, u32::from(PORT));
    let mut departures = EbpfLoader::new()
        .override_global("SERVER_PORT", &port, true)
        .override_global("CANARY_V4", &1_u32, true)
        .override_global("CANARY_V6", &1_u32, true)
        .load(DEPARTURES)?;
    let mut passive = EbpfLoader::new()
        .override_global("SERVER_PORT", &port, true)
        .override_global("PAYLOAD", &payload, true)
        .override_global("SEQUENCE_BYTES", &4_u32, true)
        .override_global("ACK_BYTES", &4_u32, true)
        .override_global("ACK_OFFSET", &4_u32, true)
        .map_max_entries("SESSIONS", 20_000)
        .load(PASSIVE)?;
    let mut ports: HashMap<&mut MapData, u16, u8> = HashMap::try_from(passive.map_mut("PORTS").context("PORTS")?)?;
    ports.insert(PORT, 1, 0)?;
    for (ebpf, programs) in [
        (&mut departures, &["nothing", "departures"][..]),
        (&mut passive, &["nothing", "only_sent", "sent_and_echoed"]),
    ] {
        for name in programs {
            program(ebpf, name)?.load()?;
        }
    }
    let mut figures: [Vec<f64>; 5] = Default::default();
    for round in 0..rounds {
        for at in order(figures.len(), round) {
            let (ebpf, name) = match at {
                0 => (&mut departures, "nothing"),
                1 => (&mut departures, "departures"),
                2 => (&mut passive, "nothing"),
                3 => (&mut passive, "only_sent"),
                _ => (&mut passive, "sent_and_echoed"),
            };
            figures[at].push(nanoseconds(program(ebpf, name)?, &packet, repetitions)?);
        }
    }
    let echoes = u64::from(repetitions) * rounds as u64;
    all_told(&passive, echoes)?;
    let counts: PerCpuArray<&MapData, u64> =
        PerCpuArray::try_from(departures.map("DEPARTURES").context("DEPARTURES")?)?;
    let left: u64 = (0..4).map(|at| counts.get(&at, 0).map(|all| all.iter().sum::<u64>())).sum::<Result<_, _>>()?;
    ensure!(left == echoes, "{left} of {echoes} packets were counted by the proof");
    let less = |one: usize, other: usize| {
        figures[one].iter().zip(&figures[other]).map(|(one, other)| (one - other).max(0.0)).collect()
    };
    Ok(Runs { proof: less(1, 0), sent: less(3, 2), echoed: less(4, 3) })
}

/// `struct session` of `canary/bpf/passive.bpf.c`: received at 60, unmatched at 64, ambiguous at 68.
fn all_told(passive: &Ebpf, echoes: u64) -> Result<()> {
    const WORDS: usize = 3_696 / 8;
    let sessions: HashMap<&MapData, [u8; 20], [u64; WORDS]> =
        HashMap::try_from(passive.map("SESSIONS").context("SESSIONS")?)?;
    let (_, session) = sessions.iter().next().context("a session")??;
    let number = |at: usize| u64::from((session[at / 8] >> (8 * (at % 8))) as u32);
    let [received, unmatched, ambiguous] = [60, 64, 68].map(number);
    let sound = received == echoes && unmatched == 0 && ambiguous == 0;
    ensure!(sound, "of {echoes} runs {received} were received, {unmatched} unmatched, {ambiguous} ambiguous");
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| name.to_owned())?.try_into()?)
}

fn nanoseconds(program: &SchedClassifier, packet: &[u8], repetitions: u32) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.repeat = repetitions;
    let outcome = program.test_run(options)?;
    ensure!(outcome.return_value == u32::MAX, "action {}", outcome.return_value);
    Ok(Duration::as_nanos(&outcome.duration) as f64)
}

/// 16 octets from a client that is the server, too.
fn packet(family: usize) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if family == 0 {
        packet.extend([0x08, 0, 0x45, 0, 0, 44, 0, 1, 0x40, 0, 64, 17, 0, 0, 198, 18, 0, 7, 198, 18, 0, 7]);
    } else {
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 17, 64]);
        for _ in 0..2 {
            packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        }
    }
    packet.extend(PORT.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend([0, 24, 0, 0]);
    packet.extend([0; 16]);
    packet
}
