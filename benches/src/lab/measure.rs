//! One run of each kind through a real lab: how late packets are, at which rate a bottleneck sends, how many a second pass.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use pathlab_netlab::{
    engine::{kernel::Player, wire::WireGrade},
    lab::Lab,
    scenario::Scenario,
};
use pathlab_reflector::datapath::{SocketOptions, StampedSocket};
use pathlab_xdp::xsk::{CopyMode, XskOptions, XskSocket};

use crate::figures::quantile;

/// What is set, and what errors are counted from.
pub(super) const DELAY: Duration = Duration::from_millis(10);
/// What the bottleneck is set to, in bits per second of Ethernet frames.
pub(super) const RATE: u64 = 10_000_000;
/// Octets of the frames that are counted against the rate.
const FRAME: usize = 1500;
const HEADERS: usize = 14 + 20 + 8;
const TARGET: &str = "192.0.2.2:7007";
/// Frames of 64 octets.
const SMALL: usize = 64 - HEADERS;

/// Errors of delay in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    /// Median.
    pub(super) p50: f64,
    /// 95th percentile.
    pub(super) p95: f64,
    /// 99th percentile.
    pub(super) p99: f64,
    /// From when a frame was due until it was handed over, by the router's own account; absent where there is none.
    pub(super) own_p99: Option<f64>,
}

/// Two nodes; `left` is what the first one's sending meets.
fn lab(left: &str, player: Player) -> Result<Lab> {
    let text = format!(
        r#"
name = "bench"
summary = "two nodes"
seed = 1
needs = ["tbf"]

[[node]]
name = "left"

[[node]]
name = "right"

[[link]]
ends = [
  {{ node = "left", dev = "out", addresses = ["192.0.2.1/30"]{left} }},
  {{ node = "right", dev = "in", addresses = ["192.0.2.2/30"] }},
]
"#
    );
    let scenario = Scenario::parse("bench.toml", &text, None)?;
    Ok(Lab::up_played(&scenario, &format!("bench-{}", std::process::id()), 1, None, player)?)
}

fn now() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128)
}

fn ends(lab: &Lab) -> Result<(UdpSocket, StampedSocket)> {
    let target: SocketAddr = TARGET.parse()?;
    let options = SocketOptions { receive_stamps: true, receive_buffer: Some(64 << 20), ..SocketOptions::default() };
    let ear = lab.namespace("right")?.run(|| StampedSocket::bind(target, &options))??;
    let mouth = lab.namespace("left")?.run(|| UdpSocket::bind("192.0.2.1:0"))??;
    mouth.connect(target)?;
    Ok((mouth, ear))
}

/// Takes what has come; the socket's buffer holds a few hundred. How many.
fn take(ear: &mut StampedSocket, each: &mut impl FnMut(&[u8], i128)) -> Result<usize> {
    Ok(ear.receive(|datagram| {
        each(datagram.payload, datagram.kernel.map_or(0, |stamp| i128::from(stamp.as_nanos())));
    })?)
}

/// Waits until nothing has come for twice the delay.
fn drain(ear: &mut StampedSocket, mut each: impl FnMut(&[u8], i128)) -> Result<()> {
    let mut last = Instant::now();
    while last.elapsed() < DELAY * 2 {
        if take(ear, &mut each)? > 0 {
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How late packets of 64 octets are at so many a second: from the sender's reading of the clock to the receiver's kernel stamp. Without `emulated` nothing
/// is between the two but the veth.
///
/// # Errors
/// No lab to be had, or packets that did not come.
pub(super) fn late(per_second: u32, span: Duration, emulated: bool) -> Result<Late> {
    let setting = if emulated { format!(r#", delay = "{}ms""#, DELAY.as_millis()) } else { String::new() };
    let mut lab = lab(&setting, Player::Wire)?;
    let (mouth, mut ear) = ends(&lab)?;
    let due = if emulated { DELAY } else { Duration::ZERO };
    let mut errors = Vec::new();
    let mut note = |payload: &[u8], stamp: i128| {
        if let Some(sent) = payload.first_chunk().map(|sent| i128::from_le_bytes(*sent)).filter(|_| stamp > 0) {
            errors.push((stamp - sent - due.as_nanos() as i128) as f64 / 1e3);
        }
    };
    let start = Instant::now();
    let packets = (span.as_secs_f64() * f64::from(per_second)) as u32;
    for number in 0..packets {
        let slot = Duration::from_secs(1) / per_second * number;
        thread::sleep(slot.saturating_sub(start.elapsed()));
        let mut packet = [0; SMALL];
        packet[..16].copy_from_slice(&now().to_le_bytes());
        mouth.send(&packet)?;
        if number % 16 == 0 {
            take(&mut ear, &mut note)?;
        }
    }
    drain(&mut ear, &mut note)?;
    let grade = lab.stop_wire()?;
    // The first stamps of a host may be missing: stamping is turned on in the background.
    ensure!(errors.len() as f64 + 10.0 > f64::from(packets) * 0.99, "{} of {packets} packets came", errors.len());
    let own = grade.as_ref().and_then(|grade| sending(grade)?.error.quantile(0.99));
    let at = |share| quantile(&errors, share).context("no packets");
    Ok(Late { p50: at(0.5)?, p95: at(0.95)?, p99: at(0.99)?, own_p99: own.map(|error| error as f64 / 1e3) })
}

fn sending(grade: &WireGrade) -> Option<&pathlab_netlab::engine::wire::DirectionGrade> {
    grade.directions.iter().find(|direction| direction.node == "left")
}

/// What a bottleneck of [`RATE`] with a queue of 50 packets sends under twice its rate, in bits per second.
///
/// # Errors
/// As [`late`].
pub(super) fn rate(span: Duration, player: Player) -> Result<f64> {
    let mut lab = lab(&format!(r#", rate = "{RATE}bit", queue = "50 packets""#), player)?;
    let (mouth, mut ear) = ends(&lab)?;
    let mut stamps = Vec::new();
    let mut note = |_: &[u8], stamp| stamps.push(stamp);
    let payload = [0; FRAME - HEADERS];
    let gap = Duration::from_secs_f64(FRAME as f64 * 8.0 / (2 * RATE) as f64);
    let start = Instant::now();
    let mut slot = Duration::ZERO;
    while slot < span {
        thread::sleep(slot.saturating_sub(start.elapsed()));
        mouth.send(&payload)?;
        take(&mut ear, &mut note)?;
        slot += gap;
    }
    drain(&mut ear, note)?;
    lab.stop_wire()?;
    // The queue is full after a tenth of a second, and drains once nothing comes any more.
    let first = stamps.iter().position(|stamp| *stamp > 0).context("no stamps")?;
    let steady: Vec<i128> = stamps[first..].iter().copied().filter(|stamp| *stamp > 0).collect();
    let (start, end) = (steady[0] + 100_000_000, steady[0] + span.as_nanos() as i128);
    let within: Vec<i128> = steady.into_iter().filter(|stamp| (start..end).contains(stamp)).collect();
    ensure!(within.len() > 100, "{} packets came", within.len());
    let took = (within[within.len() - 1] - within[0]) as f64 / 1e9;
    Ok((within.len() - 1) as f64 * FRAME as f64 * 8.0 / took)
}

/// Frames of 64 octets a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    /// That left the sender.
    pub(super) offered: f64,
    /// That came to the receiver.
    pub(super) passed: f64,
}

/// What passes with a delay of a millisecond while `wanted` a second are sent, or all that can be where that is infinite; both counted by the interfaces.
///
/// # Errors
/// As [`late`].
pub(super) fn passed(wanted: f64, span: Duration, emulated: bool) -> Result<Passed> {
    let setting = if emulated { r#", delay = "1ms""# } else { "" };
    let lab = lab(setting, Player::Wire)?;
    let options = XskOptions { copy: CopyMode::Copy, tx_metadata: false, ..XskOptions::default() };
    let mut socket = lab.namespace("left")?.run(|| XskSocket::bind("out", 0, &options))??;
    let count = || -> Result<([u64; 2], Instant)> {
        let offered = lab.namespace("left")?.run(|| packets("out", 9))??;
        Ok(([offered, lab.namespace("right")?.run(|| packets("in", 1))??], Instant::now()))
    };
    let over = AtomicBool::new(false);
    let (before, after) = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| flood(&mut socket, wanted, &over));
        thread::sleep(span / 4);
        let before = count();
        thread::sleep(span);
        let after = count();
        over.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok((before?, after?))
    })?;
    let [offered, passed] = [0, 1].map(|at| (after.0[at] - before.0[at]) as f64 / (after.1 - before.1).as_secs_f64());
    Ok(Passed { offered, passed })
}

/// What the kernel sends with one call in copy mode.
const BATCH: u64 = 32;

/// Sends a frame of 64 octets that nobody takes, so many times a second, until `over`.
fn flood(socket: &mut XskSocket, wanted: f64, over: &AtomicBool) -> Result<()> {
    let mut packet = [0; 64];
    // to nobody, from nobody, an IPv4 header between documentation networks
    packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 0xff]);
    packet[12..24].copy_from_slice(&[0x08, 0, 0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17]);
    packet[26..34].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 1]);
    let mut completed = Vec::new();
    let (start, mut sent) = (Instant::now(), 0_u64);
    while !over.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * wanted) as u64;
        if due.saturating_sub(sent) < BATCH {
            std::hint::spin_loop();
            continue;
        }
        // Behind by more than a hundredth of a second, the rest is forgotten.
        sent = sent.max(due.saturating_sub((wanted / 100.0) as u64));
        socket.complete(&mut completed, usize::MAX);
        completed.clear();
        for _ in 0..BATCH {
            let Some(mut frame) = socket.frame() else { break };
            frame.copy_from(&packet);
            if let Err(frame) = socket.send(frame, 0, false) {
                socket.recycle(frame);
                break;
            }
            sent += 1;
        }
        socket.flush()?;
    }
    Ok(())
}

/// A counter of an interface of this thread's namespace, by its column in /proc/net/dev.
fn packets(interface: &str, column: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(column)).context("an interface of that name")?;
    Ok(packets.parse()?)
}
