//! The router's loop: takes what came, lets the lines send, hands over what is due, and sleeps until something is due again.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pathlab_record::{Interval, SparseHistogram};
use pathlab_xdp::pacing::{Claim, ClaimError, Class, Pace, Pacing, Spin};

use super::{
    direction::Direction,
    grade::{DirectionGrade, WireGrade},
    port::Port,
    sys,
};
use crate::steal::Ticks;

/// Between two looks at what somebody may want of an idle router.
const IDLE: Duration = Duration::from_millis(50);
/// Frames taken from one port before the others have their turn.
const BATCH: usize = 64;
/// A packet may be due at any time: a quarter of a millisecond before it is looked at the clock at most.
const SPACING: Interval = Interval::from_nanos(500_000);
/// A thread that never sleeps lets the others of its processor run as often as this, for [`REST`]: the kernel would otherwise take 50 ms of every second for
/// them at once (sched_rt_runtime_us, or the fair server since Linux 6.12).
const RESTLESS: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_micros(50);
/// The clock is compared with one that does not jump as often as this.
const COMPARE: Duration = Duration::from_millis(100);
/// More than a clock can be slewed in [`COMPARE`], 500 ppm, with room for a thread that is held up between two readings.
const JUMP: Duration = Duration::from_millis(1);

/// One direction with its ports and how it kept its times.
pub(super) struct Path {
    pub(super) node: String,
    pub(super) dev: String,
    pub(super) direction: Direction,
    /// Index of the port from which it takes.
    pub(super) from: usize,
    /// Index of the port to which it sends.
    pub(super) to: usize,
    pub(super) grade: DirectionGrade,
}

/// All directions of all links that a router plays.
pub(super) struct Router {
    pub(super) ports: Vec<Port>,
    pub(super) paths: Vec<Path>,
}

/// The realtime clock, in which the kernel stamps, as a span since the epoch, and how far it has moved against one that does not jump.
struct Clock {
    started: (Instant, Duration),
    compared: Instant,
    offset: i128,
    jumps: u64,
}

/// What the host did meanwhile.
struct Conditions {
    steal: Option<f64>,
    jumps: u64,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Clock {
    fn new() -> Self {
        let started = (Instant::now(), now());
        Self { started, compared: started.0, offset: 0, jumps: 0 }
    }

    /// Notes a jump of the clock, now and then.
    fn compare(&mut self) {
        let (at, since) = self.started;
        let steady = Instant::now();
        if steady - self.compared < COMPARE {
            return;
        }
        self.compared = steady;
        // The second reading of the steady clock bounds how long the thread was held up between the two.
        let wall = now();
        if steady.elapsed() > JUMP / 2 {
            return;
        }
        let offset = (wall.as_nanos() as i128 - since.as_nanos() as i128) - (steady - at).as_nanos() as i128;
        if (offset - self.offset).unsigned_abs() > JUMP.as_nanos() {
            self.jumps += 1;
        }
        self.offset = offset;
    }
}

impl Router {
    /// Plays until `stop`, and says how well.
    pub(super) fn run(mut self, pacing: Pacing, stop: &AtomicBool) -> io::Result<WireGrade> {
        let claim = Claim::take(pacing, None).map_err(into_io)?;
        let mut spin = Spin::new(pacing.pace, SPACING);
        let mut clock = Clock::new();
        let before = Ticks::now().ok();
        let mut slept = Instant::now();
        let mut late = SparseHistogram::new();
        while !stop.load(Ordering::Relaxed) {
            let seen = now();
            let full = self.receive();
            for path in &mut self.paths {
                path.direction.advance(seen);
            }
            self.release()?;
            clock.compare();
            if full {
                if slept.elapsed() > RESTLESS {
                    std::thread::sleep(REST);
                    slept = Instant::now();
                }
                continue;
            }
            spin.renew();
            let next = self.paths.iter().filter_map(|path| path.direction.next()).min();
            let left = next.map(|next| next.saturating_sub(now()));
            let stretch = Duration::from_nanos(spin.length().as_nanos().max(0) as u64);
            let nap = left.map_or(IDLE, |left| left.saturating_sub(stretch)).min(IDLE);
            if nap.is_zero() {
                if slept.elapsed() > RESTLESS {
                    std::thread::sleep(REST);
                    slept = Instant::now();
                }
                std::hint::spin_loop();
                continue;
            }
            let before = Instant::now();
            let mut sockets: Vec<_> = self.ports.iter().map(|port| sys::readable(port.as_fd())).collect();
            sys::wait(&mut sockets, nap)?;
            slept = Instant::now();
            if sockets.iter().all(|socket| socket.revents == 0) {
                let over = Interval::from_nanos((slept - before).saturating_sub(nap).as_nanos() as i64);
                spin.overslept(over);
                late.record(over.as_nanos() as u64);
            }
        }
        let steal = before.zip(Ticks::now().ok()).map(|(before, now)| now.stolen_since(before));
        self.finish(&claim, &spin, late, Conditions { steal, jumps: clock.jumps })
    }

    /// Takes what came; whether more may be there.
    fn receive(&mut self) -> bool {
        let mut full = false;
        for path in &mut self.paths {
            let (direction, grade) = (&mut path.direction, &mut path.grade);
            let take = |stamp: Duration, bytes: &[u8], whole: bool| {
                if whole {
                    direction.arrive(stamp, bytes);
                } else {
                    grade.cut += 1;
                }
            };
            let mut take = take;
            let taken = (0..BATCH).map_while(|_| self.ports[path.from].receive(&mut take)).count();
            full |= taken == BATCH;
        }
        full
    }

    fn release(&mut self) -> io::Result<()> {
        for path in &mut self.paths {
            let port = &self.ports[path.to];
            let mut at = now();
            while let Some((due, sent)) = path.direction.release(at, |due, frame| (due, port.send(frame))) {
                at = now();
                match sent {
                    Ok(()) => path.grade.error.record(at.saturating_sub(due).as_nanos() as u64),
                    // No memory for a moment, or an end that is down: the frame is lost, and the run says so.
                    Err(_) => path.grade.refused += 1,
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, claim: &Claim, spin: &Spin, late: SparseHistogram, host: Conditions) -> io::Result<WireGrade> {
        let (scheduler, scheduler_why) = claim.scheduler();
        let mut directions = Vec::new();
        for path in self.paths {
            let missed = self.ports[path.from].drops()?;
            let count = path.direction.count();
            directions.push(DirectionGrade { node: path.node, dev: path.dev, count, missed, ..path.grade });
        }
        Ok(WireGrade {
            directions,
            overslept: late,
            spin: Duration::from_nanos(spin.reported()),
            scheduler,
            scheduler_why,
            steal: host.steal,
            clock_jumps: host.jumps,
        })
    }
}

fn into_io(error: ClaimError) -> io::Error {
    io::Error::other(error)
}

/// Real time where it is allowed, and a spin as long as sleeps end late.
pub(super) const PACING: Pacing = Pacing { pace: Pace::Auto, class: Class::Auto, cpu: None };
