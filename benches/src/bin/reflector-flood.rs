//! Replies a second under more requests than can be answered: the reflector's datapaths beside a plain recvmmsg echo, on a veth between
//! two namespaces, in rounds of all in turn.
//!
//! `reflector-flood [ROUNDS [SECONDS]]`, 5 rounds of 1 second by default. Needs root; makes the namespaces `bench-r` and `bench-p`.
//! Sender, stack and reflector share the CPUs of one host: the figures compare datapaths, they are not those of a network card.
#![allow(unsafe_code)]

use std::{
    env,
    fs::File,
    net::UdpSocket,
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pathlab_benches::{median, recvmmsg_echo};
use pathlab_reflector::{
    Reflector, ReflectorConfig, Stop,
    datapath::{AfXdpConfig, AfXdpReflector, DriverReflector, SocketOptions},
};
use pathlab_xdp::{
    XdpMode, XdpPass, XdpReflectorConfig, offload,
    xsk::{BusyPoll, CopyMode, XskOptions},
};

const NEAR: &str = "bench-r";
const FAR: &str = "bench-p";
const TARGET: (&str, u16) = ("10.78.0.1", 862);
const NAMES: [&str; 7] =
    ["recvmmsg echo", "socket", "AF_XDP native", "AF_XDP native, busy", "AF_XDP generic", "XDP native", "XDP generic"];

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse().context(text));
    let (rounds, seconds) = (number(5)?, number(1)?);
    let _namespaces = Namespaces::new()?;
    let _pass = inside(FAR, || XdpPass::attach("wire0", XdpMode::Native))??;
    let mut figures = vec![(Vec::new(), Vec::new()); NAMES.len()];
    for _ in 0..rounds {
        for (name, (replied, offered)) in NAMES.iter().zip(&mut figures) {
            let (sent, answered) = flood(name, Duration::from_secs(seconds)).context(*name)?;
            replied.push(answered as f64 / seconds as f64);
            offered.push(sent as f64 / seconds as f64);
        }
    }
    println!("replies a second, median of {rounds} rounds of {seconds} s (least to most); requests a second offered");
    for (name, (replied, offered)) in NAMES.iter().zip(&figures) {
        let least = replied.iter().copied().fold(f64::INFINITY, f64::min);
        let most = replied.iter().copied().fold(0.0, f64::max);
        let (replied, offered) = (median(replied).unwrap_or_default(), median(offered).unwrap_or_default());
        println!("{name:<20} {replied:9.0} ({least:.0} to {most:.0}); {offered:.0}");
    }
    Ok(())
}

/// Datagrams sent, and sent back, while `name` reflects.
fn flood(name: &str, span: Duration) -> Result<(u64, u64)> {
    let (stop, over) = (Stop::new()?, AtomicBool::new(false));
    let (ready, started) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let reflecting = scope.spawn(|| inside(NEAR, || reflect(name, &stop, &over, ready))?);
        // an error before that ends the channel
        let sent = started.recv().ok().map(|()| inside(FAR, || send(span)));
        over.store(true, Ordering::Relaxed);
        stop.request();
        let replied = reflecting.join().expect("no panic")?;
        Ok((sent.transpose()?.transpose()?.unwrap_or(0), replied))
    })
}

fn send(span: Duration) -> Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(TARGET)?;
    let end = Instant::now() + span;
    let mut sent = 0;
    while Instant::now() < end {
        for _ in 0..64 {
            sent += u64::from(socket.send(&[0; 44]).is_ok());
        }
    }
    Ok(sent)
}

fn reflect(name: &str, stop: &Stop, over: &AtomicBool, ready: std::sync::mpsc::Sender<()>) -> Result<u64> {
    let af_xdp = |mode, busy: bool| -> Result<u64> {
        let xsk = XskOptions { copy: CopyMode::Copy, busy_poll: busy.then(BusyPoll::default), ..XskOptions::default() };
        let mut reflector = AfXdpReflector::attach("wire0", &AfXdpConfig { mode, xsk, ..AfXdpConfig::new(TARGET.1) })?;
        ready.send(())?;
        reflector.run(stop)?;
        Ok(reflector.report()?.replied)
    };
    let driver = |mode| -> Result<u64> {
        let config = XdpReflectorConfig { mode, ..XdpReflectorConfig::new(TARGET.1) };
        let mut reflector = DriverReflector::attach("wire0", &config)?;
        ready.send(())?;
        reflector.run(stop)?;
        Ok(reflector.report()?.replied)
    };
    match name {
        "recvmmsg echo" => {
            let socket = UdpSocket::bind(TARGET)?;
            ready.send(())?;
            Ok(recvmmsg_echo(&socket, over)?)
        }
        "socket" => {
            let listen = vec![format!("{}:{}", TARGET.0, TARGET.1).parse()?];
            let socket = SocketOptions { receive_buffer: Some(4 << 20), ..SocketOptions::stamped() };
            let mut reflector = Reflector::new(ReflectorConfig { listen, socket, ..ReflectorConfig::default() })?;
            ready.send(())?;
            reflector.run(stop)?;
            Ok(reflector.report().replied)
        }
        "AF_XDP native" => af_xdp(XdpMode::Native, false),
        "AF_XDP native, busy" => af_xdp(XdpMode::Native, true),
        "AF_XDP generic" => af_xdp(XdpMode::Generic, false),
        "XDP native" => driver(XdpMode::Native),
        _ => driver(XdpMode::Generic),
    }
}

/// Two namespaces with a veth between them, gone when dropped.
struct Namespaces;

impl Namespaces {
    fn new() -> Result<Self> {
        for end in [NEAR, FAR] {
            ip(&format!("netns add {end}"))?;
        }
        let namespaces = Self;
        ip(&format!("-n {NEAR} link add wire0 type veth peer name wire0 netns {FAR}"))?;
        for (end, host) in [(NEAR, 1), (FAR, 2)] {
            ip(&format!("-n {end} address add 10.78.0.{host}/24 dev wire0"))?;
            ip(&format!("-n {end} link set wire0 up"))?;
            inside(end, || offload::set_tx_checksum("wire0", false))??;
        }
        Ok(namespaces)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for end in [NEAR, FAR] {
            // it may be that it was never made
            let _ = ip(&format!("netns del {end}"));
        }
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("iproute2")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs `work` on a thread inside the namespace.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: moves the calling thread alone to another network namespace; the descriptor is open.
            let rc = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            ensure!(rc == 0, "setns: {}", std::io::Error::last_os_error());
            Ok(work())
        });
        thread.join().expect("no panic")
    })
}
