//! One run of each kind through a real lab: how late packets are, at which rate a bottleneck sends, how many a second pass.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use pathlab_netlab::{
    engine::{kernel::Player, wire::WireGrade},
    lab::Lab,
    scenario::Scenario,
};
use pathlab_reflector::datapath::{SocketOptions, StampedSocket};

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

/// The link's other settings, and the rest of a scenario of two nodes.
fn lab(left: &str, rest: &str, player: Player) -> Result<Lab> {
    let text = format!(
        r#"
name = "bench"
summary = "two nodes"
seed = 1
needs = ["tbf"]

[[node]]
name = "left"
routes = [{{ to = "198.51.100.0/24", via = "192.0.2.2", dev = "out" }}]

[[node]]
name = "right"
black_hole = ["198.51.100.0/24"]

[[link]]
ends = [
  {{ node = "left", dev = "out", addresses = ["192.0.2.1/30"]{left} }},
  {{ node = "right", dev = "in", addresses = ["192.0.2.2/30"] }},
]

[[window]]
name = "all"
kind = "evening"
start = "0s"
end = "10min"
{rest}"#
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
        std::thread::sleep(Duration::from_millis(1));
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
    let mut lab = lab(&setting, "", Player::Wire)?;
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
        std::thread::sleep(slot.saturating_sub(start.elapsed()));
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
    let mut lab = lab(&format!(r#", rate = "{RATE}bit", queue = "50 packets""#), "", player)?;
    let (mouth, mut ear) = ends(&lab)?;
    let mut stamps = Vec::new();
    let mut note = |_: &[u8], stamp| stamps.push(stamp);
    let payload = [0; FRAME - HEADERS];
    let gap = Duration::from_secs_f64(FRAME as f64 * 8.0 / (2 * RATE) as f64);
    let start = Instant::now();
    let mut slot = Duration::ZERO;
    while slot < span {
        std::thread::sleep(slot.saturating_sub(start.elapsed()));
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

/// What passes with a delay of a millisecond while `wanted` are asked of the sender; both counted by the interfaces.
///
/// # Errors
/// As [`late`].
pub(super) fn passed(wanted: f64, span: Duration, emulated: bool) -> Result<Passed> {
    let setting = if emulated { r#", delay = "1ms""# } else { "" };
    let load = format!(
        r#"
[[load]]
node = "left"
to = "198.51.100.1"
payload = {SMALL}
rate = "{}bit"
wobble = "0%"
period = "1s"
during = ["all"]
"#,
        (wanted * 64.0 * 8.0) as u64
    );
    let lab = lab(setting, &load, Player::Wire)?;
    let _loads = lab.start_loads(Instant::now())?;
    let count = || -> Result<([u64; 2], Instant)> {
        let offered = lab.namespace("left")?.run(|| packets("out", 9))??;
        Ok(([offered, lab.namespace("right")?.run(|| packets("in", 1))??], Instant::now()))
    };
    std::thread::sleep(span / 4);
    let before = count()?;
    std::thread::sleep(span);
    let after = count()?;
    let [offered, passed] = [0, 1].map(|at| (after.0[at] - before.0[at]) as f64 / (after.1 - before.1).as_secs_f64());
    Ok(Passed { offered, passed })
}

/// A counter of an interface of this thread's namespace, by its column in /proc/net/dev.
fn packets(interface: &str, column: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(column)).context("an interface of that name")?;
    Ok(packets.parse()?)
}
