//! Background load: real UDP traffic from a namespace, at a rate that is a function of time and seed.
//!
//! The pacing is pure and exact: it integrates the rate, so a late wake-up is made up for and not lost. The sender is a plain thread with
//! a socket of the namespace; it dies with the process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    netns::Namespace,
    scenario::{Load, holds},
    seeded::SplitMix64,
    sys,
};

/// Between two bursts; at 30 Mbit/s and 1,200 bytes a burst is 6 packets.
pub(crate) const TICK: Duration = Duration::from_millis(2);
/// Nobody's port (RFC 863's discard).
const DISCARD: u16 = 9;
/// Far more than any queue of a scenario holds. With the default the socket would block before the queue drops.
const SEND_BUFFER: libc::c_int = 16 << 20;
/// More than this behind, a sender that was stalled gives up the rest rather than flood the queue with it.
const CATCH_UP: Duration = Duration::from_millis(20);

impl Load {
    /// Bytes of one frame, Ethernet header included.
    pub fn frame(&self) -> u64 {
        const ETHERNET: u64 = 14;
        const UDP: u64 = 8;
        let ip = if self.to.is_ipv6() { 40 } else { 20 };
        ETHERNET + ip + UDP + u64::from(self.payload)
    }

    /// Bits per second at `at`: zero outside the windows, else the mean with the wobble that seed and period give, by the share that the curve has in the
    /// middle of that period.
    pub fn rate_at(&self, at: Duration, seed: u64) -> f64 {
        if !holds(&self.during, at) {
            return 0.0;
        }
        let block = (at.as_nanos() / self.period.as_nanos()) as u64;
        let stray = 2.0 * SplitMix64(seed ^ block.wrapping_mul(0xd134_2543_de82_ef95)).unit() - 1.0;
        let middle = Duration::from_nanos((self.period.as_nanos() * u128::from(block)) as u64) + self.period / 2;
        self.rate as f64 * self.share_at(middle) * (1.0 + self.wobble * stray)
    }

    /// Where the curve is at `at`: level before its first point and after its last.
    fn share_at(&self, at: Duration) -> f64 {
        let beyond = self.curve.iter().position(|(point, _)| *point > at).unwrap_or(self.curve.len());
        let after = self.curve.get(beyond);
        match (beyond.checked_sub(1).and_then(|before| self.curve.get(before)), after) {
            (None, None) => 1.0,
            (Some((_, share)), None) | (None, Some((_, share))) => *share,
            (Some((start, from)), Some((end, to))) => {
                from + (to - from) * ((at - *start).as_secs_f64() / (*end - *start).as_secs_f64())
            }
        }
    }

    /// When the rate changes next after `at`.
    fn next_change(&self, at: Duration) -> Duration {
        let periods = at.as_nanos() / self.period.as_nanos() + 1;
        let block_end = Duration::from_nanos((self.period.as_nanos() * periods) as u64);
        let edges = self.during.iter().flat_map(|(start, end)| [*start, *end]);
        edges.filter(|edge| *edge > at).fold(block_end, Duration::min)
    }
}

/// How many frames of a load are due: the integral of its rate.
#[derive(Clone, Debug)]
pub struct Pacer<'a> {
    load: &'a Load,
    seed: u64,
    now: Duration,
    due_bits: f64,
    taken: u64,
}

impl<'a> Pacer<'a> {
    /// At time zero.
    pub fn new(load: &'a Load, seed: u64) -> Self {
        Self { load, seed, now: Duration::ZERO, due_bits: 0.0, taken: 0 }
    }

    /// Frames that have become due by `to` and were not taken yet.
    pub fn take(&mut self, to: Duration) -> u64 {
        while self.now < to {
            let until = self.load.next_change(self.now).min(to);
            self.due_bits += self.load.rate_at(self.now, self.seed) * (until - self.now).as_secs_f64();
            self.now = until;
        }
        let due = (self.due_bits / (self.load.frame() * 8) as f64) as u64;
        let new = due - self.taken;
        self.taken = due;
        new
    }
}

/// What a generator has sent, against what it should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames that the scenario asks for until the end.
    pub wanted: u64,
    /// Frames handed to the kernel; what the queue then drops, its statistics say.
    pub sent: u64,
    /// Frames that the kernel did not take.
    pub refused: u64,
    /// Frames given up after a stall.
    pub skipped: u64,
    /// Bytes of each frame, Ethernet header included.
    pub frame: u64,
    /// Longest time between two bursts.
    pub longest_gap: Duration,
}

/// A running sender; dropping it ends it.
#[derive(Debug)]
pub struct Generator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Sent>>,
}

impl Generator {
    /// Starts to send `load` from `namespace`; the scenario's time zero is `start`.
    ///
    /// # Errors
    /// No socket, no route, or missing privilege.
    pub fn start(namespace: &Namespace, load: &Load, seed: u64, start: Instant) -> Result<Self> {
        let failed = |source| Error::Load { node: load.node.clone(), to: load.to, source };
        let any: IpAddr = if load.to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let open = || {
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.connect(SocketAddr::new(load.to, DISCARD))?;
            sys::force_send_buffer(socket.as_fd(), SEND_BUFFER)?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (load, stopped) = (load.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("load-{}", load.node))
            .spawn(move || send(&socket, &load, seed, start, &stopped))
            .map_err(failed)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it and says what it has sent.
    pub fn stop(mut self) -> Sent {
        self.join()
    }

    fn join(&mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.join();
    }
}

fn send(socket: &UdpSocket, load: &Load, seed: u64, start: Instant, stop: &AtomicBool) -> Sent {
    let payload = vec![0; usize::from(load.payload)];
    let most = (load.rate as f64 * (1.0 + load.wobble) * CATCH_UP.as_secs_f64() / (load.frame() * 8) as f64) as u64 + 1;
    let mut pacer = Pacer::new(load, seed);
    let mut report = Sent { frame: load.frame(), ..Sent::default() };
    let mut last = start.elapsed();
    pacer.take(last);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        let now = start.elapsed();
        report.longest_gap = report.longest_gap.max(now - last);
        last = now;
        let due = pacer.take(now);
        report.wanted += due;
        report.skipped += due.saturating_sub(most);
        let mut left = due.min(most);
        while left > 0 {
            // A refusal is a full buffer or a signal; the scenario's time goes on either way.
            let Ok(taken) = sys::send_copies(socket.as_fd(), &payload, left as usize) else {
                report.refused += left;
                break;
            };
            report.sent += taken as u64;
            left -= taken as u64;
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(wobble: f64) -> Load {
        Load {
            node: "a".to_owned(),
            to: "198.51.100.1".parse().expect("address"),
            payload: 1158,
            rate: 9_600_000,
            wobble,
            period: Duration::from_millis(250),
            during: vec![
                (Duration::from_secs(1), Duration::from_secs(3)),
                (Duration::from_secs(4), Duration::from_secs(5)),
            ],
            curve: Vec::new(),
        }
    }

    #[test]
    fn a_curve_is_followed_along_straight_lines() {
        let seconds = Duration::from_secs;
        let curve = vec![(seconds(10), 0.2), (seconds(20), 1.0), (seconds(30), 0.4)];
        let load = Load { during: vec![(seconds(0), seconds(60))], curve, ..load(0.0) };
        // half a period ahead: the middle of the block
        for (at, share) in [(0, 0.2), (15, 0.6 + 0.01), (25, 0.7 - 0.0075), (40, 0.4)] {
            let rate = load.rate_at(seconds(at), 1);
            assert!((rate / 9.6e6 - share).abs() < 1e-9, "{at} s: {rate}");
        }
    }

    #[test]
    fn a_steady_load_sends_its_rate_and_only_within_its_windows() {
        let load = load(0.0);
        assert_eq!(load.frame(), 1200);
        let mut pacer = Pacer::new(&load, 1);
        assert_eq!(pacer.take(Duration::from_secs(1)), 0);
        assert_eq!(pacer.take(Duration::from_secs(2)), 1000);
        assert_eq!(pacer.take(Duration::from_millis(3500)), 1000);
        assert_eq!(pacer.take(Duration::from_secs(60)), 1000);
    }

    #[test]
    fn the_wobble_stays_in_its_range_and_averages_out() {
        let load = Load { during: vec![(Duration::ZERO, Duration::from_secs(1000))], ..load(0.2) };
        let rates: Vec<f64> = (0..4000).map(|block| load.rate_at(load.period * block, 9)).collect();
        assert!(rates.iter().all(|rate| (7_680_000.0..=11_520_000.0).contains(rate)));
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        assert!((mean / 9_600_000.0 - 1.0).abs() < 0.01, "{mean}");
        assert_ne!(load.rate_at(Duration::ZERO, 9), load.rate_at(Duration::ZERO, 10));
    }

    proptest! {
        #[test]
        fn steps_do_not_change_the_total(steps in prop::collection::vec(1u64..200, 1..60), seed: u64) {
            let load = load(0.2);
            let mut pacer = Pacer::new(&load, seed);
            let mut now = Duration::ZERO;
            let mut total = 0;
            for step in steps {
                now += Duration::from_millis(step);
                total += pacer.take(now);
            }
            let at_once = Pacer::new(&load, seed).take(now);
            prop_assert!(total.abs_diff(at_once) <= 1, "{} {}", total, at_once);
        }
    }
}
