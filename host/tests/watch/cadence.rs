//! A server's ticks and stalls are told as it has them itself, to the last one; who has no ticks has no stalls.

use std::{
    net::UdpSocket,
    process, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pathlab_host::watch::{CadenceReport, ServerReport, Stall, Tick, Watch, WatchOptions};

use super::support::{isolated, sh, this_thread, wire};

const TICKS: u32 = 240;
/// After which tick, and for how many milliseconds.
const SCRIPT: [(u32, u64); 7] = [(20, 40), (50, 75), (51, 55), (90, 120), (130, 40), (160, 100), (200, 60)];
const TICK: Tick = Tick { hertz: 60.0, stall: Tick::STALL, port: None };

/// A receive call: what the kernel counts lies between the two.
type Call = (Instant, Instant, SystemTime);

#[test]
fn stalls_of_a_server_are_told_exactly() {
    if !isolated("cadence::stalls_of_a_server_are_told_exactly") {
        return;
    }
    let far = wire();
    let [ticking, driven] = ["192.0.2.1:27015", "192.0.2.1:27016"].map(|at| UdpSocket::bind(at).expect("a socket"));
    let player = far.run(|| UdpSocket::bind("192.0.2.2:0")).expect("inside").expect("a socket");
    let options = |port| WatchOptions {
        processes: vec![process::id()],
        tick: Some(Tick { port, ..TICK }),
        ..WatchOptions::default()
    };
    let watch = Watch::begin(&options(None)).expect("a watch");
    assert_eq!(watch.lacks(), [""; 0]);
    let narrow = Watch::begin(&options(Some(27_015))).expect("a watch");
    let first = [&watch, &narrow].map(|watch| watch.read().expect("a reading"));

    let ((server, calls, scripted), event_driven) = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&ticking));
        // Receives whenever something comes.
        let other = scope.spawn(|| {
            let mut octets = [0; 64];
            while driven.recv(&mut octets).expect("received") > 1 {}
            this_thread()
        });
        let mut odd = 7_u32;
        while !server.is_finished() {
            for port in [27_015, 27_016] {
                player.send_to(&[0; 32], ("192.0.2.1", port)).expect("sent");
            }
            // 1 to 32 ms, in no rhythm
            odd = odd.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            thread::sleep(Duration::from_millis(u64::from(odd >> 16) % 32 + 1));
        }
        player.send_to(&[0], "192.0.2.1:27016").expect("sent");
        (server.join().expect("served"), other.join().expect("received"))
    });
    let last = [&watch, &narrow].map(|watch| watch.read().expect("a reading"));
    let report = last[0].since(&first[0]).cadence.expect("watched");
    let found = of(&report, server);
    eprintln!("{found:?}\n{:?}", of(&report, event_driven));

    assert_eq!(found.calls, calls.len() as u64);
    // On a machine that cannot keep 60 Hz the server has no cadence by its own account either.
    let regular = regular(&calls, report.period);
    assert!((found.regular.expect("ticks") - regular).abs() < 0.1, "{regular} by its own account: {found:?}");
    match &found.stalls {
        Some(stalls) => {
            assert!(regular > 0.4, "{regular}");
            assert_eq!(stalls.length.count(), stalls.last.len() as u64);
            as_the_server_has_them(&stalls.last, &calls, &scripted, report.threshold);
        }
        None => {
            assert!(regular < 0.6, "{regular} of its ticks are regular: {found:?}");
            eprintln!("this machine does not keep 60 Hz: {regular} of the ticks are regular");
        }
    }
    assert_eq!(of(&report, event_driven).stalls, None, "it has no cadence");
    assert_eq!(report.uncounted, 0);

    if found.port.is_none() {
        // before 6.3
        assert!(narrow.lacks().iter().any(|lack| lack.starts_with("cadence: ")), "{:?}", narrow.lacks());
        return;
    }
    assert_eq!((found.port, of(&report, event_driven).port), (Some(27_015), Some(27_016)));
    let narrow = last[1].since(&first[1]).cadence.expect("watched");
    let ports: Vec<_> = narrow.servers.iter().map(|server| (server.port, server.calls)).collect();
    assert_eq!(ports, [(Some(27_015), found.calls)]);
}

fn of(report: &CadenceReport, thread: u32) -> &ServerReport {
    let mut servers = report.servers.iter().filter(|server| server.thread == thread);
    let server = servers.next().unwrap_or_else(|| panic!("no thread {thread}: {report:?}"));
    assert!(servers.next().is_none() && server.process == process::id(), "{report:?}");
    server
}

/// Drains the socket 60 times a second and stalls by the script; its own number, its calls, and the calls after which it stalled.
fn serve(socket: &UdpSocket) -> (u32, Vec<Call>, Vec<usize>) {
    socket.set_nonblocking(true).expect("a socket");
    // Real time, so that few stalls are this machine's own.
    sh(&format!("chrt -f -p 10 {}", this_thread()));
    let period = Duration::from_secs(1).div_f64(TICK.hertz);
    let (mut calls, mut scripted) = (Vec::new(), Vec::new());
    let mut due = Instant::now();
    let mut octets = [0; 64];
    for tick in 0..TICKS {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        loop {
            let (before, wall) = (Instant::now(), SystemTime::now());
            let received = socket.recv(&mut octets);
            calls.push((before, Instant::now(), wall));
            if received.is_err() {
                break;
            }
        }
        if let Some((_, milliseconds)) = SCRIPT.iter().find(|(after, _)| *after == tick) {
            scripted.push(calls.len() - 1);
            thread::sleep(Duration::from_millis(*milliseconds));
        }
        due = (due + period).max(Instant::now());
    }
    (this_thread(), calls, scripted)
}

/// Share of the ticks within a quarter of the period, as the server has them: a call more than a quarter of the period after the last one begins a tick.
fn regular(calls: &[Call], period: u64) -> f64 {
    let begins = calls.windows(2).filter(|pair| (pair[1].0 - pair[0].1).as_nanos() as u64 > period / 4);
    let begins: Vec<Instant> =
        calls.first().into_iter().chain(begins.map(|pair| &pair[1])).map(|call| call.0).collect();
    let ticks = begins.windows(2).map(|pair| (pair[1] - pair[0]).as_nanos() as u64);
    let regular = ticks.filter(|tick| tick.abs_diff(period) <= period / 4).count();
    regular as f64 / (begins.len() - 1) as f64
}

/// Each stall that was told is one of the server's own, and none is left out: those of the script, and those that this machine made.
fn as_the_server_has_them(told: &[Stall], calls: &[Call], scripted: &[usize], threshold: u64) {
    let nanoseconds = |span: Duration| span.as_nanos() as u64;
    let (mut told, mut certain) = (told.iter().peekable(), 0);
    for (at, pair) in calls.windows(2).enumerate() {
        let [(before, after, wall), (next_before, next_after, _)] = pair else { unreachable!() };
        let (least, most) = (nanoseconds(*next_before - *after), nanoseconds(*next_after - *before));
        assert!(!scripted.contains(&at) || least > threshold, "the server did not stall");
        if most <= threshold {
            continue;
        }
        // Where the bounds are on both sides of the threshold, both answers are right.
        match told.next_if(|stall| (least..=most).contains(&stall.lasted)) {
            Some(stall) => {
                let wall = wall.duration_since(UNIX_EPOCH).expect("after 1970");
                assert!(stall.began.abs_diff(nanoseconds(wall)) < 1_000_000_000, "{stall:?} at {wall:?}");
            }
            None => assert!(least <= threshold, "{least} to {most} ns is not told; next is {:?}", told.peek()),
        }
        certain += usize::from(least > threshold);
    }
    assert_eq!(told.next(), None, "the server did not stall so");
    eprintln!("{} stalls of the script and {} of this machine", scripted.len(), certain - scripted.len());
    assert_eq!(scripted.len(), SCRIPT.len());
}
