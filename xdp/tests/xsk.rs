//! AF_XDP across a veth: every packet and every stamp, in native and generic mode, and nothing left behind.
#![allow(unsafe_code)]

mod namespace;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use namespace::{Veth, inside, ip};
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::{Tai, Time};
use pathlab_xdp::{
    AttachedMode, Error, XdpMode, XdpPass,
    offload::set_tx_checksum,
    xsk::{
        BindMode, BusyPoll, CopyMode, NicStamps, Received, Record, Redirect, RedirectConfig, TransmitStamp, XskOptions,
        XskSocket,
    },
};

const NEAR: &str = "wire0";
const NEAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const NEAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
const FAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const PORT: u16 = 862;
const PATIENCE: Duration = Duration::from_secs(20);

/// The near end has the program under test; the far end a plain host's sockets, and the pass-all program that lets XDP reach it.
struct Pair {
    _pass: XdpPass,
    veth: Veth,
}

impl Pair {
    fn new() -> Self {
        let veth = Veth::new();
        inside(&veth.reflector, || set_tx_checksum(NEAR, false)).expect("offload off");
        let pass = inside(&veth.probe, || {
            set_tx_checksum(NEAR, false).expect("offload off");
            XdpPass::attach(NEAR, XdpMode::Native).expect("a pass program")
        });
        Self { _pass: pass, veth }
    }

    fn near<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.veth.reflector, work)
    }

    fn far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.veth.probe, work)
    }

    fn spawn_far<'scope, T: Send + 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        scope.spawn(|| self.far(work))
    }

    fn shows_xdp(&self) -> bool {
        ip(&format!("-n {} -d link show dev {NEAR}", self.veth.reflector)).contains("prog/xdp")
    }
}

fn copy() -> XskOptions {
    XskOptions { copy: CopyMode::Copy, ..XskOptions::default() }
}

fn redirect(mode: XdpMode) -> RedirectConfig {
    RedirectConfig { mode, ..RedirectConfig::new(PORT) }
}

/// A socket on queue 0 of the near end, fed by a program there; both in this thread's namespace.
fn reflector(mode: XdpMode, options: &XskOptions) -> (Redirect, XskSocket) {
    let socket = XskSocket::bind(NEAR, 0, options).expect("binds");
    let mut redirect = Redirect::attach(NEAR, &redirect(mode)).expect("attaches");
    redirect.add(&socket).expect("adds");
    (redirect, socket)
}

fn tai_now() -> Time<Tai> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one timespec on this frame.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_TAI, &raw mut now) }, 0);
    Time::from_nanos(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}

/// Both ends change places, on every layer; no sum changes.
fn turn_round(packet: &mut [u8]) {
    let (ip, length) = if packet[12..14] == [0x86, 0xdd] { (22, 16) } else { (26, 4) };
    let udp = ip + 2 * length;
    for (at, length) in [(0, 6), (ip, length), (udp, 2)] {
        let (first, second) = packet[at..at + 2 * length].split_at_mut(length);
        first.swap_with_slice(second);
    }
}

#[derive(Default)]
struct Echoed {
    records: Vec<Option<Record>>,
    /// By cookie, which is the number of the packet.
    stamps: Vec<(u64, Option<TransmitStamp>)>,
}

/// Echoes until `count` packets have come, gone, and been completed.
fn echo(socket: &mut XskSocket, count: usize) -> Echoed {
    let deadline = Instant::now() + PATIENCE;
    let mut echoed = Echoed::default();
    let (mut received, mut completed) = (Vec::new(), Vec::new());
    let mut left = 0;
    while echoed.stamps.len() < count {
        assert!(Instant::now() < deadline, "{} came, {} went", echoed.records.len(), echoed.stamps.len());
        if left == 0 && echoed.stamps.len() == echoed.records.len() {
            socket.wait(Duration::from_millis(20)).expect("waits");
        }
        socket.receive(&mut received, 64).expect("receives");
        for Received { mut frame, record } in received.drain(..) {
            turn_round(frame.packet_mut());
            let number = echoed.records.len() as u64;
            socket.send(frame, number, true).expect("a tx ring as long as the fill ring");
            echoed.records.push(record);
        }
        left = socket.flush().expect("flushes");
        socket.complete(&mut completed, 64);
        echoed.stamps.extend(completed.drain(..).map(|sent| (sent.cookie, sent.stamp)));
    }
    assert_eq!(socket.strays(), 0);
    echoed
}

/// Sends numbered datagrams, a few at a time, and waits for each to come back as it was, in order.
fn ping(targets: &[IpAddr], count: u32) {
    let sockets: Vec<UdpSocket> = targets
        .iter()
        .map(|target| {
            let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("binds");
            socket.connect(SocketAddr::new(*target, PORT)).expect("connects");
            socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
            socket
        })
        .collect();
    let numbers: Vec<u32> = (0..count).collect();
    // The first of each goes alone: what is sent while the kernel hands out what waited for the neighbour's address overtakes that.
    let (first, others) = numbers.split_at(sockets.len());
    for batch in [first].into_iter().chain(others.chunks(32)) {
        for number in batch {
            let socket = &sockets[*number as usize % sockets.len()];
            socket.send(&number.to_be_bytes().repeat(11)).expect("sends");
        }
        for number in batch {
            let mut reply = [0; 64];
            let length = sockets[*number as usize % sockets.len()].recv(&mut reply).expect("a reply");
            assert_eq!(reply[..length], number.to_be_bytes().repeat(11));
        }
    }
}

fn ten_thousand(mode: XdpMode, options: &XskOptions, check: impl Fn(&Redirect) + Send + Sync) -> Vec<Record> {
    const COUNT: u32 = 10_000;
    let pair = Pair::new();
    let before = tai_now();
    let (redirect, socket) = pair.near(|| reflector(mode, options));
    check(&redirect);
    assert_eq!((socket.mode(), socket.tx_metadata()), (BindMode::Copy, true));
    let mut socket = socket;
    let echoed = thread::scope(|scope| {
        let pings = pair.spawn_far(scope, || ping(&[NEAR_V4, NEAR_V6], COUNT));
        let echoed = echo(&mut socket, COUNT as usize);
        pings.join().expect("every datagram came back");
        echoed
    });
    let after = tai_now();

    let mut numbers: Vec<u64> = echoed.stamps.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..u64::from(COUNT)).collect::<Vec<_>>());
    let records: Vec<Record> = echoed.records.into_iter().map(|record| record.expect("a record")).collect();
    for (number, stamp) in echoed.stamps {
        let Some(TransmitStamp::Software(sent)) = stamp else { panic!("reply {number}: {stamp:?}") };
        let came = records[number as usize].xdp.expect("a stamp at XDP entry");
        assert!(before <= came && came <= sent && sent <= after, "reply {number}: {came:?}, {sent:?}");
    }
    let counted = redirect.counters().expect("counters");
    assert_eq!((counted.redirected, counted.redirected_bare, counted.no_socket), (COUNT.into(), 0, 0));
    let statistics = socket.statistics().expect("statistics");
    assert_eq!((statistics.rx_dropped, statistics.rx_invalid_descs, statistics.tx_invalid_descs), (0, 0, 0));
    assert_eq!((statistics.rx_ring_full, statistics.rx_fill_ring_empty_descs), (0, 0));
    records
}

#[test]
fn native_echo_stamps_every_reply_and_says_that_the_card_gave_none() {
    if !root_or_skip("native_echo_stamps_every_reply_and_says_that_the_card_gave_none") {
        return;
    }
    let records = ten_thousand(XdpMode::Native, &copy(), |redirect| {
        assert_eq!(redirect.mode(), AttachedMode::Native);
        assert!(redirect.asks_the_card(), "{:?}", redirect.nic_stamps_refused());
    });
    for record in records {
        // veth's driver answers 0 for "success" and 0 for the time: absent.
        assert_eq!((record.nic, record.nic_rc, record.queue), (None, 0, 0));
    }
}

#[test]
fn generic_echo_stamps_every_reply_and_says_why_the_card_is_not_asked() {
    if !root_or_skip("generic_echo_stamps_every_reply_and_says_why_the_card_is_not_asked") {
        return;
    }
    let records = ten_thousand(XdpMode::Generic, &copy(), |redirect| {
        assert_eq!(redirect.mode(), AttachedMode::Generic);
        let why = redirect.nic_stamps_refused().expect("a reason").to_string();
        assert!(why.contains("generic XDP sees no card"), "{why}");
    });
    for record in records {
        assert_eq!((record.nic, record.nic_rc), (None, -95));
    }
}

#[test]
fn every_way_of_waking_the_kernel_echoes() {
    if !root_or_skip("every_way_of_waking_the_kernel_echoes") {
        return;
    }
    let pair = Pair::new();
    for options in [
        XskOptions { need_wakeup: false, ..copy() },
        XskOptions { busy_poll: Some(BusyPoll::default()), ..copy() },
        XskOptions { headroom: 64, frame_size: 4096, ..copy() },
        // Rings so short that the kernel's budget, the completion ring and the tx ring are all met full.
        XskOptions { frames: 128, fill_ring: 64, rx_ring: 64, tx_ring: 64, completion_ring: 8, ..copy() },
        XskOptions { copy: CopyMode::Auto, ..XskOptions::default() },
    ] {
        let (_redirect, mut socket) = pair.near(|| reflector(XdpMode::Native, &options));
        assert_eq!(socket.mode(), BindMode::Copy, "veth has no zero-copy");
        thread::scope(|scope| {
            let pings = pair.spawn_far(scope, || ping(&[NEAR_V4, NEAR_V6], 1000));
            let echoed = echo(&mut socket, 1000);
            pings.join().expect("every datagram came back");
            assert!(echoed.stamps.iter().all(|(_, stamp)| stamp.is_some()), "{options:?}");
            assert!(echoed.records.iter().all(Option::is_some), "{options:?}");
        });
    }
}

#[test]
fn without_transmit_metadata_the_stamp_is_absent() {
    if !root_or_skip("without_transmit_metadata_the_stamp_is_absent") {
        return;
    }
    let pair = Pair::new();
    let options = XskOptions { tx_metadata: false, ..copy() };
    let (_redirect, mut socket) = pair.near(|| reflector(XdpMode::Native, &options));
    assert!(!socket.tx_metadata());
    thread::scope(|scope| {
        let pings = pair.spawn_far(scope, || ping(&[NEAR_V4], 64));
        assert!(echo(&mut socket, 64).stamps.iter().all(|(_, stamp)| stamp.is_none()));
        pings.join().expect("every datagram came back");
    });
}

#[test]
#[ignore = "for a kernel without metadata kfuncs: scripts/vm-test 6.1 xsk::before_metadata"]
fn before_metadata_kfuncs_it_echoes_and_says_what_it_lacks() {
    if !root_or_skip("before_metadata_kfuncs_it_echoes_and_says_what_it_lacks") {
        return;
    }
    let pair = Pair::new();
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let (redirect, mut socket) = pair.near(|| reflector(mode, &copy()));
        assert!(!redirect.asks_the_card() && !socket.tx_metadata());
        let why = redirect.nic_stamps_refused().expect("a reason").to_string();
        assert!(mode == XdpMode::Generic || why.contains("the kernel has no such functions (Linux 6.3)"), "{why}");
        thread::scope(|scope| {
            let pings = pair.spawn_far(scope, || ping(&[NEAR_V4, NEAR_V6], 1000));
            let echoed = echo(&mut socket, 1000);
            pings.join().expect("every datagram came back");
            for record in echoed.records {
                let record = record.expect("a record");
                assert!(record.nic.is_none() && record.xdp.is_some(), "{record:?}");
            }
            assert!(echoed.stamps.iter().all(|(_, stamp)| stamp.is_none()));
        });
    }
    let asked = RedirectConfig { nic_stamps: NicStamps::Require, ..redirect(XdpMode::Native) };
    let refused = pair.near(|| Redirect::attach(NEAR, &asked)).expect_err("no metadata kfuncs");
    assert!(matches!(refused, Error::DeviceBoundRefused { source: None, .. }), "{refused}");
}

/// Sends `count` datagrams to the near end without waiting for replies.
fn flood(pair: &Pair, count: usize) {
    pair.far(|| {
        let socket = UdpSocket::bind((FAR_V4, 0)).expect("binds");
        for _ in 0..count {
            socket.send_to(&[0; 44], (NEAR_V4, PORT)).expect("sends");
        }
    });
}

/// Waits until what the kernel counted is `expected`.
fn until<T: PartialEq + std::fmt::Debug>(expected: T, mut counted: impl FnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = counted();
        if now == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?}, not {expected:?}");
        thread::yield_now();
    }
}

#[test]
fn what_overflows_is_counted_by_ring() {
    if !root_or_skip("what_overflows_is_counted_by_ring") {
        return;
    }
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let pair = Pair::new();
        let short_rx = XskOptions { rx_ring: 16, fill_ring: 128, ..copy() };
        let (redirect, mut socket) = pair.near(|| reflector(mode, &short_rx));
        flood(&pair, 100);
        until(100, || redirect.counters().expect("counters").redirected);
        until((84, 0), || {
            let statistics = socket.statistics().expect("statistics");
            (statistics.rx_ring_full, statistics.rx_fill_ring_empty_descs)
        });
        let mut received = Vec::new();
        until(16, || {
            socket.receive(&mut received, 64).expect("receives");
            received.len()
        });
        drop((redirect, socket));

        let short_fill = XskOptions { rx_ring: 128, fill_ring: 16, ..copy() };
        let (_redirect, socket) = pair.near(|| reflector(mode, &short_fill));
        flood(&pair, 100);
        until((0, 84), || {
            let statistics = socket.statistics().expect("statistics");
            (statistics.rx_ring_full, statistics.rx_fill_ring_empty_descs)
        });
    }
}

#[test]
fn what_is_not_ours_passes_and_so_does_all_without_a_socket() {
    if !root_or_skip("what_is_not_ours_passes_and_so_does_all_without_a_socket") {
        return;
    }
    let pair = Pair::new();
    let mut redirect = pair.near(|| Redirect::attach(NEAR, &redirect(XdpMode::Native)).expect("attaches"));
    let stack = pair.near(|| UdpSocket::bind((NEAR_V4, PORT)).expect("binds"));
    let other = pair.near(|| UdpSocket::bind((NEAR_V4, PORT + 1)).expect("binds"));
    for socket in [&stack, &other] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    }
    let sender = pair.far(|| UdpSocket::bind((FAR_V4, 0)).expect("binds"));
    let mut buffer = [0; 64];

    sender.send_to(b"nobody there", (NEAR_V4, PORT)).expect("sends");
    assert_eq!(stack.recv(&mut buffer).expect("passed to the stack"), 12);
    assert_eq!(redirect.counters().expect("counters").no_socket, 1);

    let socket = pair.near(|| XskSocket::bind(NEAR, 0, &copy()).expect("binds"));
    redirect.add(&socket).expect("adds");
    sender.send_to(b"other port", (NEAR_V4, PORT + 1)).expect("sends");
    assert_eq!(other.recv(&mut buffer).expect("passed to the stack"), 10);
    sender.send_to(b"for the socket", (NEAR_V4, PORT)).expect("sends");
    assert!(socket.wait(PATIENCE).expect("waits"), "redirected");
    stack.set_nonblocking(true).expect("an option");
    assert!(stack.recv(&mut buffer).is_err(), "and not to the stack as well");
    stack.set_nonblocking(false).expect("an option");

    // The kernel takes a closed socket out of the program's map.
    drop(socket);
    sender.send_to(b"again", (NEAR_V4, PORT)).expect("sends");
    assert_eq!(stack.recv(&mut buffer).expect("passed to the stack"), 5);
    assert_eq!(redirect.counters().expect("counters").redirected, 1);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    if !root_or_skip("what_cannot_be_is_refused_with_the_reason") {
        return;
    }
    let pair = Pair::new();
    ip(&format!("-n {} link set lo up", pair.veth.reflector));
    pair.near(|| {
        let zero_copy = XskOptions { copy: CopyMode::ZeroCopy, ..XskOptions::default() };
        let refused = XskSocket::bind(NEAR, 0, &zero_copy).expect_err("veth has no zero-copy");
        assert!(
            matches!(&refused, Error::ZeroCopyRefused { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP))
        );
        assert_eq!(
            refused.to_string(),
            "wire0 queue 0: the driver refuses zero-copy AF_XDP; copy mode works with every driver"
        );

        let socket = XskSocket::bind(NEAR, 0, &copy()).expect("binds");
        assert!(matches!(XskSocket::bind(NEAR, 0, &copy()), Err(Error::QueueTaken { .. })));
        let far_queue = XskSocket::bind(NEAR, 100, &copy()).expect_err("no such queue").to_string();
        assert!(far_queue.starts_with("wire0 queue 100: it has 1 queue"), "{far_queue}");
        assert!(matches!(XskSocket::bind("nowhere0", 0, &copy()), Err(Error::NoInterface { .. })));

        // Loopback has no driver to ask and no native mode; what is left is said, or refused.
        let asked = RedirectConfig { nic_stamps: NicStamps::Require, ..redirect(XdpMode::Native) };
        let refused = Redirect::attach("lo", &asked).expect_err("no XDP metadata");
        let Error::DeviceBoundRefused { source: Some(source), .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(source.raw_os_error(), Some(libc::EOPNOTSUPP));
        let generic = RedirectConfig { nic_stamps: NicStamps::Require, ..redirect(XdpMode::Generic) };
        assert!(matches!(Redirect::attach(NEAR, &generic), Err(Error::DeviceBoundRefused { source: None, .. })));
        let mut lo = Redirect::attach("lo", &RedirectConfig::new(PORT)).expect("generic and plain");
        assert_eq!(lo.mode(), AttachedMode::Generic);
        assert!(lo.native_refused().is_some() && lo.nic_stamps_refused().is_some());
        assert!(matches!(lo.add(&socket), Err(Error::OtherInterface { .. })));
    });
}

/// Holds a socket and a program until it is killed.
#[test]
#[ignore = "the child process of nothing_is_left_after_drop_and_after_kill"]
fn child_that_is_killed() {
    let Ok(namespace) = std::env::var("XSK_CHILD") else { return };
    let (_redirect, socket) = inside(&namespace, || reflector(XdpMode::Native, &copy()));
    println!("socket ready");
    loop {
        socket.wait(PATIENCE).expect("waits");
    }
}

#[test]
fn nothing_is_left_after_drop_and_after_kill() {
    if !root_or_skip("nothing_is_left_after_drop_and_after_kill") {
        return;
    }
    let pair = Pair::new();
    let (redirect, socket) = pair.near(|| reflector(XdpMode::Native, &copy()));
    assert!(pair.shows_xdp());
    drop((redirect, socket));
    assert!(!pair.shows_xdp());
    // The queue is free again, too.
    drop(pair.near(|| reflector(XdpMode::Native, &copy())));

    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "child_that_is_killed", "--nocapture"])
        .env("XSK_CHILD", &pair.veth.reflector)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut said = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("socket ready") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut said, &mut line).expect("reads"), 0, "the child ended early");
    }
    assert!(pair.shows_xdp(), "the child's program");
    child.kill().expect("kill -9");
    child.wait().expect("ends");
    until(false, || pair.shows_xdp());
    pair.near(|| XskSocket::bind(NEAR, 0, &copy())).expect("the queue is free again");
}
