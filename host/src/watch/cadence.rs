//! Ticks and stalls of a game server, from when it looks at its sockets: what `bpf/cadence.bpf.c` counts. No symbol of the server is needed.
//!
//! A stall is a time between two receive calls of a thread on a socket that is longer than a stated number of periods. It is told of servers that
//! have a cadence: where at least half of the times from tick to tick, since the watch began, are within a quarter of the period. A server that receives whenever a packet
//! comes has its players' cadence, if any, and its silence is theirs.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::Btf;
use serde::Serialize;

use super::{
    Error, Result,
    btf::Types,
    histogram::{self, Histogram},
    object::{Filter, Object},
    process::thread_name,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cadence.bpf.o"));
/// `LAST_STALLS`.
const LAST: usize = 64;
/// `struct cadence`: the process with the number of stalls, two times, a counter, two histograms, and stalls of two words each.
const WORDS: usize = 4 + 2 * histogram::WORDS + 2 * LAST;
/// A shorter time without a receive call does not part two ticks.
const PAUSE: f64 = 0.25;
/// How far a regular tick may be from the period.
const REGULAR: f64 = 0.25;
/// Fewer say nothing about a cadence.
const FEWEST: u64 = 8;

/// What a server's cadence should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// Ticks a second, 0.5 to 10000.
    pub hertz: f64,
    /// A stall is a time without a receive call of more than so many periods, 1 to 2; [`Tick::STALL`] is usual.
    pub stall: f64,
    /// The UDP port of the server; absent: each that it has.
    pub port: Option<u16>,
}

impl Tick {
    /// One tick may be half a period late.
    pub const STALL: f64 = 1.5;

    /// Nanoseconds of so many periods; fits by the ranges of the fields.
    fn nanoseconds(&self, periods: f64) -> u32 {
        (periods * 1e9 / self.hertz).round() as u32
    }

    pub(crate) fn check(&self) -> Result<()> {
        if (0.5..=10_000.0).contains(&self.hertz) && (1.0..=2.0).contains(&self.stall) {
            return Ok(());
        }
        Err(Error::Tick { hertz: self.hertz, stall: self.stall })
    }
}

/// The programs.
#[derive(Debug)]
pub(crate) struct Cadences {
    object: Object,
    tick: Tick,
}

/// By thread and port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CadenceCounts {
    tick: Tick,
    servers: BTreeMap<(u32, u16), Server>,
    uncounted: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Server {
    process: u32,
    name: Option<String>,
    calls: u64,
    quiet: u64,
    ticks: Histogram,
    lengths: Histogram,
    /// With their numbers from 0 on.
    last: Vec<(u32, Stall)>,
}

/// Servers in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CadenceReport {
    /// Nanoseconds of a tick as it was asked for.
    pub period: u64,
    /// Nanoseconds without a receive call from which on it is a stall.
    pub threshold: u64,
    /// Threads that receive, by thread and port.
    pub servers: Vec<ServerReport>,
    /// Receive calls of threads beyond the 256 that have room.
    pub uncounted: u64,
}

/// A thread that receives from UDP sockets of one port, in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerReport {
    /// The process it belongs to.
    pub process: u32,
    /// Its number.
    pub thread: u32,
    /// Its name; absent where it has ended.
    pub name: Option<String>,
    /// The port it receives on; absent where the kernel has no tracepoint that tells it (before 6.3).
    pub port: Option<u16>,
    /// Receive calls.
    pub calls: u64,
    /// From the first receive call of a tick to that of the next, in nanoseconds.
    pub ticks: Histogram,
    /// Share of the ticks since the watch began that were within a quarter of the period; absent where there are fewer than 8.
    pub regular: Option<f64>,
    /// Absent where it has no cadence.
    pub stalls: Option<Stalls>,
    /// Nanoseconds since its last receive call.
    pub quiet: u64,
}

/// Stalls that ended in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stalls {
    /// How long it did not receive, in nanoseconds.
    pub length: Histogram,
    /// The last of them, 64 at most.
    pub last: Vec<Stall>,
}

/// A time in which a server did not look at its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stall {
    /// The last receive call before it: nanoseconds of `CLOCK_REALTIME`.
    pub began: u64,
    /// Nanoseconds until the next one.
    pub lasted: u64,
}

impl Cadences {
    pub(crate) fn attach(types: &Types<'_>, btf: &Btf, filter: &Filter, tick: Tick) -> Result<Self> {
        tick.check()?;
        let has_place = types.arguments("sock_recv_length").is_some();
        let program = if has_place { ("received_from", "sock_recv_length") } else { ("receives", "sys_enter") };
        if let (false, Some(_)) = (has_place, tick.port) {
            return Err(Error::Kernel {
                why: "it does not tell the port of a receive call, which kernels do since 6.3: leave the port out",
            });
        }
        let call = |number: libc::c_long| number as u32;
        let constants = [
            ("PAUSE", tick.nanoseconds(PAUSE)),
            ("STALL", tick.nanoseconds(tick.stall)),
            ("PORT", tick.port.unwrap_or(0).into()),
            ("RECVFROM", call(libc::SYS_recvfrom)),
            ("RECVMSG", call(libc::SYS_recvmsg)),
            ("RECVMMSG", call(libc::SYS_recvmmsg)),
        ];
        let mut object = Object::attach(OBJECT, &[program], btf, filter, &constants)?;
        object.prepare_clock()?;
        Ok(Self { object, tick })
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn read(&self) -> Result<CadenceCounts> {
        let [uncounted] = self.object.counters("EVENTS_LEFT_OUT")?;
        let entries = self.object.shared::<8, WORDS>("SERVERS")?;
        // behind the entries: no call in them is of a later time
        let kernel = self.object.now()?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let clock = Clock { kernel, wall: wall.as_nanos() as u64 };
        let servers = entries.iter().map(|(key, words)| Server::of(key, words, clock)).collect();
        Ok(CadenceCounts { tick: self.tick, servers, uncounted })
    }
}

/// One moment on the clock of the programs and on `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug)]
struct Clock {
    kernel: u64,
    wall: u64,
}

impl Clock {
    fn age(self, kernel: u64) -> u64 {
        self.kernel.saturating_sub(kernel)
    }
}

impl Server {
    fn of(key: &[u8; 8], words: &[u64; WORDS], clock: Clock) -> ((u32, u16), Self) {
        let [first, called_at, _, calls] = *words.first_chunk().expect("longer");
        let half = |octets: &[u8]| u32::from_ne_bytes(octets.try_into().expect("four"));
        let (process, stalled) = (half(&first.to_ne_bytes()[..4]), half(&first.to_ne_bytes()[4..]));
        let (ticks, rest) = words[4..].split_at(histogram::WORDS);
        let (lengths, last) = rest.split_at(histogram::WORDS);
        let stall = |number: u32| {
            let place = number as usize % LAST * 2;
            (number, Stall { began: clock.wall.saturating_sub(clock.age(last[place])), lasted: last[place + 1] })
        };
        let (thread, port) = (half(&key[..4]), u16::from_ne_bytes([key[4], key[5]]));
        let server = Self {
            process,
            name: thread_name(process, thread),
            calls,
            quiet: clock.age(called_at),
            ticks: Histogram::of(ticks),
            lengths: Histogram::of(lengths),
            last: (stalled.saturating_sub(LAST as u32)..stalled).map(stall).collect(),
        };
        ((thread, port), server)
    }

    /// Share of the ticks that are within a quarter of the period.
    fn regular(&self, tick: Tick) -> Option<f64> {
        let all = self.ticks.count();
        let (low, high) = (tick.nanoseconds(1.0 - REGULAR).into(), tick.nanoseconds(1.0 + REGULAR).into());
        let regular = self.ticks.buckets().filter(|(bucket, _)| (low..=high).contains(&bucket.middle()));
        (all >= FEWEST).then(|| regular.map(|(_, count)| count).sum::<u64>() as f64 / all as f64)
    }
}

impl CadenceCounts {
    pub(crate) fn since(&self, earlier: Option<&Self>) -> CadenceReport {
        let none = Server::default();
        let of = |((thread, port), now): (&(u32, u16), &Server)| {
            let before = earlier.and_then(|earlier| earlier.servers.get(&(*thread, *port))).unwrap_or(&none);
            let regular = now.regular(self.tick);
            let seen = before.last.last().map(|(number, _)| *number);
            let stalls = || Stalls {
                length: now.lengths.since(&before.lengths),
                last: now.last.iter().filter(|(number, _)| Some(*number) > seen).map(|(_, stall)| *stall).collect(),
            };
            ServerReport {
                process: now.process,
                thread: *thread,
                name: now.name.clone(),
                port: (*port != 0).then_some(*port),
                calls: now.calls.saturating_sub(before.calls),
                ticks: now.ticks.since(&before.ticks),
                regular,
                stalls: (regular >= Some(0.5)).then(stalls),
                quiet: now.quiet,
            }
        };
        CadenceReport {
            period: self.tick.nanoseconds(1.0).into(),
            threshold: self.tick.nanoseconds(self.tick.stall).into(),
            servers: self.servers.iter().map(of).collect(),
            uncounted: self.uncounted.saturating_sub(earlier.map_or(0, |earlier| earlier.uncounted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Tick = Tick { hertz: 60.0, stall: Tick::STALL, port: None };
    const CLOCK: Clock = Clock { kernel: 10_000_000_000, wall: 1_790_000_000_000_000_000 };

    fn words(stalled: u32, ticks: &[(u64, u64)]) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[0] = u64::from_ne_bytes([7_u32.to_ne_bytes(), stalled.to_ne_bytes()].concat().try_into().expect("eight"));
        words[1..4].copy_from_slice(&[9_999_000_000, 0, 1_000]);
        for (nanoseconds, count) in ticks {
            let one = histogram_of(*nanoseconds);
            words[4..4 + histogram::WORDS].iter_mut().zip(one).for_each(|(word, one)| *word += one * count);
        }
        for number in 0..stalled {
            let place = 4 + 2 * histogram::WORDS + number as usize % LAST * 2;
            words[place..place + 2].copy_from_slice(&[9_000_000_000 + u64::from(number), 30_000_000]);
            let one = histogram_of(30_000_000);
            let from = 4 + histogram::WORDS;
            words[from..from + histogram::WORDS].iter_mut().zip(one).for_each(|(word, one)| *word += one);
        }
        words
    }

    /// A `struct histogram` with one duration.
    fn histogram_of(nanoseconds: u64) -> [u64; histogram::WORDS] {
        let mut words = [0; histogram::WORDS];
        let place = (0..histogram::WORDS - 1).find(|place| {
            words[place + 1] = 1;
            let found = Histogram::of(&words).max() == Some(crate::watch::Bucket::holding(nanoseconds));
            words[place + 1] = 0;
            found
        });
        (words[0], words[1 + place.expect("a bucket")]) = (nanoseconds, 1);
        words
    }

    fn counts(words: &[u64; WORDS]) -> CadenceCounts {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&9_u32.to_ne_bytes());
        key[4..6].copy_from_slice(&27_015_u16.to_ne_bytes());
        CadenceCounts { tick: TICK, servers: [Server::of(&key, words, CLOCK)].into(), uncounted: 0 }
    }

    #[test]
    fn a_window_has_the_stalls_that_ended_in_it() {
        let period = TICK.nanoseconds(1.0).into();
        let (earlier, now) = (counts(&words(3, &[(period, 50)])), counts(&words(5, &[(period, 100)])));
        let report = now.since(Some(&earlier));
        assert_eq!((report.period, report.threshold), (16_666_667, 25_000_000));
        let server = &report.servers[0];
        assert_eq!((server.process, server.thread, server.port, server.quiet), (7, 9, Some(27_015), 1_000_000));
        assert_eq!((server.calls, server.ticks.count(), server.regular), (0, 50, Some(1.0)));
        let stalls = server.stalls.as_ref().expect("a cadence");
        let began = |number: u64| 1_790_000_000_000_000_000 - 1_000_000_000 + number;
        assert_eq!(stalls.last, [3, 4].map(|number| Stall { began: began(number), lasted: 30_000_000 }));
        assert_eq!(stalls.length.count(), 2);
        let all = now.since(None).servers[0].stalls.clone().expect("a cadence");
        assert_eq!((all.length.count(), all.last.len()), (5, 5));
    }

    #[test]
    fn more_stalls_than_have_room_are_counted_and_the_last_are_listed() {
        let report = counts(&words(70, &[(16_700_000, 100)])).since(None);
        let stalls = report.servers[0].stalls.as_ref().expect("a cadence");
        assert_eq!((stalls.length.count(), stalls.last.len()), (70, LAST));
        assert!(stalls.last.is_sorted_by(|stall, next| stall.began + 1 == next.began));
    }

    #[test]
    fn who_receives_whenever_something_comes_has_no_stalls() {
        let few = counts(&words(1, &[(16_700_000, 7)])).since(None);
        assert_eq!((few.servers[0].regular, few.servers[0].stalls.as_ref()), (None, None));
        let driven = counts(&words(1, &[(16_700_000, 49), (5_000_000, 30), (40_000_000, 21)])).since(None);
        assert_eq!((driven.servers[0].regular, driven.servers[0].stalls.as_ref()), (Some(0.49), None));
        assert!(counts(&words(1, &[(16_700_000, 50), (5_000_000, 50)])).since(None).servers[0].stalls.is_some());
    }

    #[test]
    fn rates_that_are_none_are_refused() {
        for (hertz, stall) in [(0.0, 1.5), (f64::NAN, 1.5), (20_000.0, 1.5), (60.0, 0.9), (60.0, 3.0)] {
            assert!(matches!(Tick { hertz, stall, port: None }.check(), Err(Error::Tick { .. })), "{hertz} {stall}");
        }
        let slowest = Tick { hertz: 0.5, stall: 2.0, port: None };
        slowest.check().expect("in range");
        assert_eq!(slowest.nanoseconds(slowest.stall), 4_000_000_000);
    }
}
