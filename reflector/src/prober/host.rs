//! The real [`World`]: stamped UDP sockets behind one epoll, the host's clocks, a coarse sleep and a short spin.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use pathlab_record::{Interval, Monotonic, Time};
use pathlab_xdp::clock::SystemLook;
use pathlab_xdp::pacing::{Claim, Spin};

use super::{
    engine::{Now, Ready, Until, World},
    sys,
};
use crate::{
    HwCoverage,
    clock::{ClockQuality, monotonic_now, realtime_now},
    datapath::{Datagram, SendId, SentStamp, StampedSocket, Undelivered},
};

/// Sockets that one wait can report; the others are reported by the next.
const EVENTS: usize = 64;

/// What reading a few datagrams takes, and more: nearer to a slot than this nothing is read.
const READING: Interval = Interval::from_nanos(25_000);

/// Behind its schedule for so long, a thread will not catch up by its class.
const HOPELESS: Interval = Interval::from_nanos(200_000_000);

/// Waits in a row that may pass without a look at the sockets.
const BLIND: u32 = 16;

/// Sockets and clocks of this host.
pub(super) struct Host<'a> {
    sockets: Vec<StampedSocket>,
    epoll: OwnedFd,
    /// The last stretch before a slot is spent looking at the clock, because a sleep may end late.
    spin: Spin,
    claim: Claim,
    /// Since when it has been behind its schedule without a break.
    behind: Option<Time<Monotonic>>,
    stop: &'a AtomicBool,
    undelivered: HashMap<SocketAddr, Undelivered>,
    /// Datagrams that came, and those that the card stamped.
    received: HwCoverage,
    /// Test hook: reads each datagram so much later than it could.
    delay_before_read: Interval,
    /// Waits since the sockets were looked at.
    blind: u32,
    /// When each socket that is being held back may be read.
    held: Vec<Option<Time<Monotonic>>>,
}

impl<'a> Host<'a> {
    /// A world of these sockets.
    ///
    /// # Errors
    /// epoll as the kernel gave it.
    pub(super) fn new(
        sockets: Vec<StampedSocket>,
        spin: Spin,
        claim: Claim,
        delay_before_read: Duration,
        stop: &'a AtomicBool,
    ) -> io::Result<Self> {
        let epoll = sys::epoll()?;
        for (index, socket) in sockets.iter().enumerate() {
            sys::epoll_control(&epoll, libc::EPOLL_CTL_ADD, socket.as_fd(), libc::EPOLLIN as u32, index as u64)?;
        }
        let interval = |span: Duration| Interval::from_nanos(span.as_nanos() as i64);
        Ok(Self {
            blind: 0,
            held: vec![None; sockets.len()],
            sockets,
            epoll,
            spin,
            claim,
            behind: None,
            stop,
            undelivered: HashMap::new(),
            received: HwCoverage::default(),
            delay_before_read: interval(delay_before_read),
        })
    }

    /// What ICMP or this host said about packets to `target`, if the kernel passed it on.
    pub(super) fn undelivered(&self, target: SocketAddr) -> Option<Undelivered> {
        self.undelivered.get(&target).copied()
    }

    /// How many of the datagrams that came the card has stamped; all were asked for.
    pub(super) fn nic_received(&self) -> HwCoverage {
        HwCoverage { asked: self.received.packets, ..self.received }
    }

    /// Datagrams dropped at the sockets by the kernel.
    pub(super) fn kernel_drops(&self) -> u64 {
        self.sockets.iter().map(StampedSocket::kernel_drops).sum()
    }

    /// How the waits for slots went.
    pub(super) fn spin(&self) -> &Spin {
        &self.spin
    }

    /// What it takes of the host.
    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Real time that never sleeps would leave nothing to others, to those that carry its packets among them.
    fn keep_calm(&mut self, until: Time<Monotonic>, now: Time<Monotonic>) {
        let since = *self.behind.get_or_insert(now);
        if until > now {
            self.behind = None;
        } else if now - since > HOPELESS {
            self.claim.give_up_real_time("it could not keep its schedule, and real time would leave nothing to others");
        }
    }

    fn watch_datagrams(&self, socket: usize, on: bool) -> io::Result<()> {
        let events = if on { libc::EPOLLIN as u32 } else { 0 };
        sys::epoll_control(&self.epoll, libc::EPOLL_CTL_MOD, self.sockets[socket].as_fd(), events, socket as u64)
    }

    /// Takes one look at the sockets, `timeout` long at most.
    fn look(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.blind = 0;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let count = sys::epoll_wait(&self.epoll, &mut events, timeout)?;
        for event in &events[..count] {
            let (flags, socket) = (event.events as i32, event.u64 as usize);
            let mut datagrams = flags & libc::EPOLLIN != 0;
            if datagrams && self.delay_before_read > Interval::ZERO {
                self.held[socket] = Some(monotonic_now() + self.delay_before_read);
                self.watch_datagrams(socket, false)?;
                datagrams = false;
            }
            ready.push(Ready { socket, datagrams, stamps: flags & libc::EPOLLERR != 0 });
        }
        Ok(())
    }

    /// Releases the sockets that have been held back long enough; when the next one will be.
    fn release(&mut self, now: Time<Monotonic>, ready: &mut Vec<Ready>) -> io::Result<Option<Time<Monotonic>>> {
        if self.delay_before_read == Interval::ZERO {
            return Ok(None);
        }
        for socket in 0..self.held.len() {
            if self.held[socket].is_some_and(|until| until <= now) {
                self.held[socket] = None;
                self.watch_datagrams(socket, true)?;
                ready.push(Ready { socket, datagrams: true, stamps: false });
            }
        }
        Ok(self.held.iter().flatten().min().copied())
    }
}

impl World for Host<'_> {
    fn now(&mut self) -> Now {
        Now { monotonic: monotonic_now(), realtime: realtime_now() }
    }

    fn look(&mut self) -> SystemLook {
        SystemLook::take()
    }

    fn clock_quality(&mut self) -> ClockQuality {
        ClockQuality::measure().unwrap_or(ClockQuality::UNKNOWN)
    }

    fn send(&mut self, socket: usize, to: SocketAddr, from: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId> {
        self.sockets[socket].send(to, from, payload)
    }

    fn receive(&mut self, socket: usize, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let received = &mut self.received;
        self.sockets[socket].receive(|datagram| {
            received.packets += 1;
            received.stamped += u64::from(datagram.nic.is_some());
            each(datagram);
        })
    }

    fn sent_stamps(&mut self, socket: usize, each: impl FnMut(SendId, SentStamp)) -> io::Result<usize> {
        let taken = self.sockets[socket].sent_stamps(each)?;
        // Bounded: the kernel reports only addresses that we have sent to.
        let (_, sender) = self.sockets[socket].halves();
        self.undelivered.extend(sender.undelivered().map(|report| (report.peer, report)));
        Ok(taken)
    }

    fn wait(&mut self, until: Until, ready: &mut Vec<Ready>) -> io::Result<()> {
        let now = monotonic_now();
        let held = self.release(now, ready)?;
        if !ready.is_empty() {
            return Ok(());
        }
        self.spin.renew();
        let (until, spin) = match until {
            Until::Slot(at) if held.is_none_or(|held| at <= held) => (at, self.spin.length()),
            until => (held.map_or(until.at(), |held| held.min(until.at())), Interval::ZERO),
        };
        self.keep_calm(until, now);
        // Behind its schedule, or with slots so dense that one is always near, a probe must still read: what it leaves to the sockets until they overflow
        // would pass for lost.
        if until <= now || self.blind >= BLIND {
            self.look(Duration::ZERO, ready)?;
            if until <= now || !ready.is_empty() {
                return Ok(());
            }
        }
        self.blind += 1;
        let wake = Interval::from_nanos((until - now).as_nanos().saturating_sub(spin.as_nanos()));
        if wake > Interval::ZERO {
            self.look(Duration::from_nanos(wake.as_nanos() as u64), ready)?;
            if !ready.is_empty() {
                return Ok(());
            }
            self.spin.overslept(monotonic_now() - (now + wake));
        }
        // What comes now is still read when it comes, unless the slot is so near that reading could make it late.
        loop {
            let left = until - monotonic_now();
            if left <= Interval::ZERO {
                return Ok(());
            }
            if left > READING {
                self.look(Duration::ZERO, ready)?;
                if !ready.is_empty() {
                    return Ok(());
                }
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn stop_requested(&mut self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use pathlab_xdp::pacing::{Class, Pace, Pacing};

    use super::*;
    use crate::datapath::SocketOptions;

    /// Waits until `ahead` of each moment, as often as it takes until a datagram that is there is found; how often that was.
    fn found(pace: Pace, ahead: Interval) -> u32 {
        let socket = StampedSocket::bind("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"a reply", socket.local_addr()).unwrap();
        let (stop, spin) = (AtomicBool::new(false), Spin::new(pace, Interval::from_nanos(20_000)));
        let mut host = Host::new(vec![socket], spin, Claim::default(), Duration::ZERO, &stop).unwrap();
        let mut ready = Vec::new();
        for waits in 1..100 {
            host.wait(Until::Slot(monotonic_now() + ahead), &mut ready).unwrap();
            if ready.iter().any(|ready| ready.datagrams) {
                return waits;
            }
        }
        panic!("it is never found");
    }

    #[test]
    fn what_is_there_is_found_by_one_that_is_behind_its_schedule_too() {
        assert_eq!(found(Pace::Auto, Interval::from_nanos(-1_000_000)), 1);
        assert_eq!(found(Pace::Spin, Interval::from_nanos(-1_000_000)), 1);
    }

    #[test]
    fn what_is_there_is_found_where_a_slot_is_always_near() {
        let near = READING - Interval::from_nanos(5_000);
        assert!(found(Pace::Spin, near) <= BLIND + 1);
    }

    #[test]
    fn real_time_that_is_behind_for_long_is_given_up() {
        let claim = Claim::take(Pacing { class: Class::Auto, ..Pacing::default() }, None).unwrap();
        let (stop, spin) = (AtomicBool::new(false), Spin::new(Pace::Auto, Interval::from_nanos(1_000_000)));
        let mut host = Host::new(Vec::new(), spin, claim, Duration::ZERO, &stop).unwrap();
        let at = |nanoseconds| Time::from_nanos(nanoseconds);
        let held = host.claim().scheduler();
        host.keep_calm(at(0), at(1));
        // A wait in time between: it was not behind without a break.
        host.keep_calm(at(250_000_000), at(200_000_000));
        host.keep_calm(at(0), at(300_000_000));
        assert_eq!(host.claim().scheduler(), held);
        host.keep_calm(at(0), at(500_000_001));
        let (scheduler, why) = host.claim().scheduler();
        assert_eq!(scheduler, "SCHED_OTHER");
        assert!(why.is_some_and(|why| held.1.is_some() || why.starts_with("it could not keep its schedule")));
    }
}
