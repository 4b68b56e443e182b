//! A flood of hostile packets beside an honest session: does the session lose anything, does the reflector grow, does it chatter?
//!
//! | class | what it is | what becomes of it |
//! |---|---|---|
//! | short | 20 octets of payload | no test packet: refused |
//! | own port | from port 862, as another reflector's would be | refused |
//! | broadcast | from the subnet's broadcast address | refused in the driver, by the stack otherwise |
//! | wrong HMAC | 112 octets with a HMAC of nobody's | refused, with keys |
//! | open | 44 octets to a reflector with keys | refused, with keys |
//! | replay | the same good packet again and again | answered: STAMP has no memory of them |
//!
//! A reflector may be stopped for some milliseconds of every second meanwhile, as a hypervisor does it: what its rings hold is all that stands between that and loss.
//!
//! The flood is sent at 80 % of the rate that this datapath held without loss a moment before, and for the datapath in the driver also as fast as
//! the generator can in the classes that the driver drops.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pathlab_reflector::keys::Key;
use pathlab_xdp::{
    XdpMode, XdpPass,
    xsk::{Completed, CopyMode, XskOptions, XskSocket},
};
use serde_json::Value;

use crate::{
    contestant::{Contestant, Programs},
    generator::{Generator, fold, sum},
    search::{Criterion, Held, Trial, no_loss},
    sys,
    whereabouts::{Counters, Whereabouts},
    wire::{self, CLIENT, CLIENT_CPU, INTERFACE, MACS, PORT, REFLECTOR, REFLECTOR_CPU, Wire},
};

/// Where the flood says that it comes from; a socket holds it, so that replies to replays end there.
const FLOOD_PORT: u16 = 40_001;
/// Of the key file.
const SECRET: [u8; 32] = [0x5a; 32];
/// What the kernel sends with one call in copy mode.
const BATCH: u64 = 32;
/// Growth beyond this is no noise of an allocator: 1 MiB.
const GROWTH: u64 = 1024;
/// Octets that a reflector may say on standard error during a flood.
const CHATTER: u64 = 4096;

/// One flood at one datapath.
#[derive(Clone, Debug)]
pub struct Flood {
    /// The reflector and the classes.
    pub name: String,
    /// Hostile packets a second, as they left.
    pub offered: f64,
    /// Of the rate held without loss; absent where it was as fast as it goes.
    pub share: Option<f64>,
    /// Hostile packets that left.
    pub hostile: u64,
    /// Packets of the honest session, and how many of them were not answered.
    pub honest: u64,
    /// Of them.
    pub lost: u64,
    /// The reflector's memory after the first second and at the end, in KiB.
    pub memory: [u64; 2],
    /// Octets that the reflector said.
    pub said: u64,
    /// `received - replied - refused - dropped by the kernel` by the reflector's own account.
    pub unaccounted: i64,
    /// Packets of the honest session that its host skipped or refused to send.
    pub unsent: [u64; 2],
    /// Where packets went, and who held the processors.
    pub whereabouts: Whereabouts,
}

impl Flood {
    /// What was not as it must be; empty where all was.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut hold = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        hold(self.lost == 0, format!("the honest session lost {} of {}", self.lost, self.honest));
        hold(self.honest > 0, "the honest session sent nothing".into());
        let [before, after] = self.memory;
        hold(after <= before + GROWTH, format!("memory grew from {before} to {after} KiB"));
        hold(self.said <= CHATTER, format!("{} octets on standard error", self.said));
        hold(self.unaccounted == 0, format!("{} datagrams without a fate", self.unaccounted));
        faults
    }
}

/// Floods every datapath, each for `span`; at 80 % of what it holds, the reflector is stopped for `stall` in every second.
///
/// # Errors
/// A reflector that does not start or answer, or a probe that says what is not understood.
pub fn measure(programs: &Programs, span: Duration, stall: Duration) -> Result<Vec<Flood>> {
    let wire = Wire::new()?;
    let mut floods = Vec::new();
    for (contestant, keyed) in [(Contestant::Socket, true), (Contestant::AfXdp, true), (Contestant::Xdp, false)] {
        let rate = held(&wire, programs, contestant)?;
        let packets = if keyed { keyed_classes()? } else { open_classes() };
        let name = format!("{}, {}", contestant.name(), if keyed { "with keys" } else { "open" });
        floods.push(one(&wire, programs, contestant, keyed, &name, &packets, 0.8 * rate, (span, stall))?);
        floods.last_mut().expect("just pushed").share = Some(0.8);
    }
    let dropped = dropped_classes();
    let name = format!("{}, classes that the driver drops, flat out", Contestant::Xdp.name());
    floods.push(one(&wire, programs, Contestant::Xdp, false, &name, &dropped, f64::INFINITY, (span, Duration::ZERO))?);
    Ok(floods)
}

/// The rate that is held without loss, a coarse search.
fn held(wire: &Wire, programs: &Programs, contestant: Contestant) -> Result<f64> {
    let mut reflector = contestant.start(wire, programs)?;
    let _inside = wire.far.enter()?;
    let mut generator = Generator::new()?;
    reflector.ready(|| generator.answered_within(Duration::from_millis(200)))?;
    let span = Duration::from_millis(500);
    let most = generator.trial(f64::INFINITY, span)?.offered;
    let criterion = Criterion { loss: 1e-4, from: 2000.0, to: most.max(2000.0), precision: 0.1 };
    let held = no_loss(&criterion, |rate| {
        let trial = generator.trial(rate, span)?;
        Ok(Trial { offered: trial.offered, lost: trial.lost() })
    })?;
    match held {
        Held::UpTo(rate) | Held::AtLeast(rate) => Ok(rate),
        Held::Nothing => anyhow::bail!("{}: no rate was held without loss", contestant.name()),
    }
}

#[allow(clippy::too_many_arguments)] // a table's row, each of them another thing
fn one(
    wire: &Wire,
    programs: &Programs,
    contestant: Contestant,
    keyed: bool,
    name: &str,
    packets: &[Vec<u8>],
    rate: f64,
    (span, stall): (Duration, Duration),
) -> Result<Flood> {
    let folder = tempfile::tempdir()?;
    let keys = folder.path().join("keys.toml");
    let hex: String = SECRET.iter().map(|octet| format!("{octet:02x}")).collect();
    key_file(&keys, &format!("default = \"{hex}\"\n"))?;
    let said = folder.path().join("said");
    let mut line = contestant.command_line(programs);
    let key = ["--auth-key-file".to_owned(), keys.display().to_string()];
    if keyed {
        line.extend(key.clone());
    }
    line.push("--json".into());
    let child = wire::on_cpu(&wire.near, REFLECTOR_CPU, &line)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&said)?)
        .spawn()
        .with_context(|| format!("{name}: taskset (util-linux) does not start"))?;
    let reflector = Ended(child);
    let _pass = wire.far.run(|| XdpPass::attach(INTERFACE, XdpMode::Native))??;
    let sink = wire.far.run(|| UdpSocket::bind((CLIENT, FLOOD_PORT)))??;
    let seconds = span.as_secs() + 2;
    let mut probe = vec![programs.pathlab.display().to_string()];
    let options = format!("probe {REFLECTOR}:{PORT} --interval 2ms --duration {seconds}s --timeout 1s --json --out");
    probe.extend(options.split(' ').map(str::to_owned));
    probe.push(folder.path().join("run").display().to_string());
    if keyed {
        probe.extend(key);
    }
    wait_for_answer(wire, programs, keyed.then_some(keys.as_path()), folder.path())?;
    let quiet = fs::metadata(&said)?.len();
    let before = Counters::now(wire, reflector.0.id())?;
    let probing = wire::on_cpu(&wire.far, CLIENT_CPU, &probe)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;

    let (hostile, took, memory) = wire.far.run(|| send(packets, rate, (span, stall), &reflector.0))??;
    let output = probing.wait_with_output()?;
    let whereabouts = Counters::now(wire, reflector.0.id())?.since(&before);
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{name}: the probe's JSON"))?;
    let count = |field: &str| report["total"]["counts"][field].as_u64().with_context(|| format!("no counts.{field}"));
    let (honest, received) = (count("sent")?, count("received")?);
    drop(sink);
    let chatter = fs::metadata(&said)?.len() - quiet;
    let account: Value =
        serde_json::from_slice(&reflector.account()?).with_context(|| format!("{name}: its account"))?;
    let number = |field: &str| account[field].as_i64().with_context(|| format!("no {field} in the account"));
    let refused: i64 = account["refused"].as_object().context("no refused")?.values().filter_map(Value::as_i64).sum();
    let unaccounted = number("received")? - number("replied")? - refused - number("kernel_drops")?;
    Ok(Flood {
        name: name.to_owned(),
        offered: hostile as f64 / took.as_secs_f64(),
        share: None,
        hostile,
        honest,
        lost: honest - received,
        memory,
        said: chatter,
        unaccounted,
        unsent: ["skipped", "refused"].map(|field| report["total"]["schedule"][field].as_u64().unwrap_or_default()),
        whereabouts: whereabouts.with_account(&account),
    })
}

/// A file for its owner alone.
fn key_file(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// Until one honest packet is answered.
fn wait_for_answer(wire: &Wire, programs: &Programs, keys: Option<&Path>, folder: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for attempt in 0.. {
        let mut line = vec![programs.pathlab.display().to_string()];
        let options = format!("probe {REFLECTOR}:{PORT} --count 1 --timeout 200ms --json --out");
        line.extend(options.split(' ').map(str::to_owned));
        line.push(folder.join(format!("ready-{attempt}")).display().to_string());
        if let Some(keys) = keys {
            line.extend(["--auth-key-file".into(), keys.display().to_string()]);
        }
        let output = wire::on_cpu(&wire.far, CLIENT_CPU, &line)?.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no answer: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    unreachable!("the attempts do not end")
}

/// Sends the packets in turn at `rate`, or as fast as it goes: how many, in what time, and the reflector's memory early and late. From the first second on
/// the reflector stands still for `stall` in each.
fn send(
    packets: &[Vec<u8>],
    rate: f64,
    (span, stall): (Duration, Duration),
    reflector: &Child,
) -> Result<(u64, Duration, [u64; 2])> {
    let options = XskOptions { copy: CopyMode::Copy, tx_metadata: false, ..XskOptions::default() };
    let mut socket = XskSocket::bind(INTERFACE, 0, &options)?;
    let (begun, mut completed) = (Instant::now(), Vec::<Completed>::new());
    let (mut sent, mut early) = (0_u64, None);
    let mut halt = Halt { reflector, stopped: false };
    while begun.elapsed() < span {
        let now = begun.elapsed();
        halt.stop(now.as_secs() > 0 && now.subsec_nanos() < stall.subsec_nanos())?;
        if early.is_none() && begun.elapsed() > Duration::from_secs(1) {
            early = Some(memory(reflector.id())?);
        }
        let due = ((begun.elapsed().as_secs_f64() * rate) as u64).saturating_sub(sent).min(BATCH);
        if due == 0 {
            std::hint::spin_loop();
            continue;
        }
        socket.complete(&mut completed, usize::MAX);
        completed.clear();
        for _ in 0..due {
            let Some(mut frame) = socket.frame() else { break };
            frame.copy_from(&packets[sent as usize % packets.len()]);
            if let Err(frame) = socket.send(frame, 0, false) {
                socket.recycle(frame);
                break;
            }
            sent += 1;
        }
        while socket.flush()? > 0 {
            socket.complete(&mut completed, usize::MAX);
            completed.clear();
        }
    }
    halt.stop(false)?;
    let late = memory(reflector.id())?;
    Ok((sent, begun.elapsed(), [early.unwrap_or(late), late]))
}

/// A reflector that stands still, or does not; it goes on when this is dropped.
struct Halt<'a> {
    reflector: &'a Child,
    stopped: bool,
}

impl Halt<'_> {
    fn stop(&mut self, stopped: bool) -> Result<()> {
        if stopped != self.stopped {
            sys::signal(self.reflector, if stopped { libc::SIGSTOP } else { libc::SIGCONT })?;
            self.stopped = stopped;
        }
        Ok(())
    }
}

impl Drop for Halt<'_> {
    fn drop(&mut self) {
        let _ = self.stop(false);
    }
}

/// `VmRSS` of a process, in KiB. taskset has become the reflector itself by then.
fn memory(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A child that is ended in any case.
struct Ended(Child);

impl Ended {
    /// Ends it in good order; what it printed.
    fn account(mut self) -> Result<Vec<u8>> {
        sys::terminate(&self.0)?;
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut self.0.stdout.take().context("piped")?, &mut text)?;
        Ok(text)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client() -> Ipv4Addr {
    CLIENT.parse().expect("a constant")
}

/// The last address of the wire's /24.
fn broadcast() -> Ipv4Addr {
    let [a, b, c, _] = client().octets();
    Ipv4Addr::new(a, b, c, 255)
}

/// A base packet as a sender makes it; the Error Estimate must not be zero (RFC 8762, section 4.2.1).
fn base(length: usize, error_estimate_at: usize) -> Vec<u8> {
    let mut payload = vec![0; length];
    payload[error_estimate_at + 1] = 1;
    payload
}

fn keyed_classes() -> Result<Vec<Vec<u8>>> {
    // RFC 8762, section 4.2.2: the Error Estimate at 24, the HMAC of the first 96 octets at 96
    let mut replay = base(112, 24);
    let hmac = Key::new(&SECRET).context("a key")?.hmac(&[&replay[..96]]);
    replay[96..].copy_from_slice(&hmac);
    let mut wrong = replay.clone();
    wrong[111] ^= 1;
    Ok(vec![
        datagram(client(), FLOOD_PORT, &[7; 20]),
        datagram(client(), FLOOD_PORT, &wrong),
        datagram(client(), FLOOD_PORT, &base(44, 12)),
        datagram(client(), FLOOD_PORT, &replay),
        datagram(client(), PORT, &replay),
        datagram(broadcast(), FLOOD_PORT, &replay),
    ])
}

fn open_classes() -> Vec<Vec<u8>> {
    let mut packets = dropped_classes();
    packets.push(datagram(client(), FLOOD_PORT, &base(44, 12)));
    packets
}

fn dropped_classes() -> Vec<Vec<u8>> {
    vec![
        datagram(client(), FLOOD_PORT, &[7; 20]),
        datagram(client(), PORT, &base(44, 12)),
        datagram(broadcast(), FLOOD_PORT, &base(44, 12)),
    ]
}

/// Ethernet, IPv4 and UDP around a payload, with both checksums.
fn datagram(source: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let target: Ipv4Addr = REFLECTOR.parse().expect("a constant");
    let udp_length = (8 + payload.len()) as u16;
    let mut frame = Vec::with_capacity(42 + payload.len());
    frame.extend([MACS[0], MACS[1]].concat());
    frame.extend([0x08, 0, 0x45, 0]);
    frame.extend((20 + udp_length).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 255, 17, 0, 0]);
    frame.extend(source.octets());
    frame.extend(target.octets());
    let header = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    for field in [port, PORT, udp_length, 0] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend(payload);
    let covered = sum(&frame[26..]) + 17 + u32::from(udp_length);
    let checksum = match !fold(covered) {
        0 => 0xffff,
        checksum => checksum,
    };
    frame[40..42].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hostile_packet_has_right_checksums_and_a_class_of_its_own() {
        let packets = [keyed_classes().expect("a key"), open_classes()].concat();
        for frame in &packets {
            assert_eq!(fold(sum(&frame[14..34])), 0xffff);
            let udp_length = u32::from(u16::from_be_bytes([frame[38], frame[39]]));
            assert_eq!(frame.len() as u32, 34 + udp_length);
            assert_eq!(fold(sum(&frame[26..]) + 17 + udp_length), 0xffff);
        }
        let mut keyed = keyed_classes().expect("a key");
        keyed.dedup();
        assert_eq!(keyed.len(), 6);
    }

    #[test]
    fn a_fault_is_named() {
        let sound = Flood {
            name: String::new(),
            offered: 1.0,
            share: None,
            hostile: 1,
            honest: 10,
            lost: 0,
            memory: [5000, 5100],
            said: 0,
            unaccounted: 0,
            unsent: [0; 2],
            whereabouts: Whereabouts::default(),
        };
        assert!(sound.faults().is_empty());
        let bad = Flood { lost: 1, memory: [5000, 9000], said: 5000, unaccounted: -1, ..sound };
        assert_eq!(bad.faults().len(), 4);
    }
}
