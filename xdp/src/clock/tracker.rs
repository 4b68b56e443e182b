//! Keeps a card's clock and the system's compared while a process runs, so that everybody in it can have stamps told in UTC.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use pathlab_record::{Interval, Monotonic, Reading, Realtime, Time};
use serde::Serialize;

use super::{
    Assurance, ClockDevice, CrossStampMethod, FitFacts, NicClock, Observation, SystemLook, SystemWatch, Teller, Track,
    Vouch, Wander, sys, track::HORIZON,
};
use crate::Error;

/// Cross-stamps in a row where the first are too wide, such as when the bus is busy: some 100 µs each.
pub(super) const ATTEMPTS: usize = 16;

/// A thread that takes four cross-stamps a second or more, and what it has found out. Ends when it is dropped.
pub struct PhcTracker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    index: u32,
    method: CrossStampMethod,
    /// Held for a few nanoseconds by those who tell stamps; written as often as the clocks are compared.
    teller: RwLock<Teller>,
    /// Steps, then the last good cross-stamp: written in this order and read in the other, so that no stamp is confirmed by the next fit.
    steps: AtomicU64,
    confirmed: AtomicI64,
    /// Where the count of fits begins: elsewhere in every process.
    first_fit: u32,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stopping: bool,
    /// As of the last comparison.
    track: Track,
    /// When a cross-stamp was last taken.
    seen: Option<Time<Monotonic>>,
    cost: Interval,
    failure: Option<String>,
}

/// What `doctor` and `run.json` say of a card's clock.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClockFacts {
    /// N of `/dev/ptpN`.
    pub phc: u32,
    /// How it is compared with the system's clock.
    pub method: CrossStampMethod,
    /// The fit; `None` while nothing can be told.
    pub fit: Option<FitFacts>,
    /// How often one of the clocks has stepped since they are compared.
    pub steps: u64,
    /// What the last comparison took, with all its attempts.
    pub cost: Interval,
    /// Why the last comparison failed; `None` where it did not.
    pub failure: Option<String>,
}

impl PhcTracker {
    /// Starts comparing. Stamps can be told some two seconds later: [`PhcTracker::wait`].
    ///
    /// # Errors
    /// [`Error::Phc`]: no thread to be had.
    pub fn start(device: impl ClockDevice + 'static) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            index: device.index(),
            method: device.method(),
            teller: RwLock::default(),
            steps: AtomicU64::new(0),
            confirmed: AtomicI64::new(UNCONFIRMED),
            first_fit: sys::clock_nanos(libc::CLOCK_REALTIME) as u32,
            state: Mutex::new(State {
                stopping: false,
                track: Track::new(Wander::default()),
                seen: None,
                cost: Interval::ZERO,
                failure: None,
            }),
            changed: Condvar::new(),
        });
        let clock = format!("/dev/ptp{}", shared.index);
        let follow = {
            let shared = shared.clone();
            move || shared.follow(device)
        };
        let thread = thread::Builder::new().name(format!("phc-{}", shared.index)).spawn(follow);
        let thread = thread.map_err(|source| Error::Phc { clock, call: "clone", source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until stamps can be told, at most so long; whether they can.
    pub fn wait(&self, longest: Duration) -> bool {
        let state = self.shared.state();
        let unknown = |state: &mut State| state.track.facts().is_none();
        let waited = self.shared.changed.wait_timeout_while(state, longest, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.track.facts().is_some()
    }

    /// What is known of the clock.
    pub fn facts(&self) -> ClockFacts {
        let Shared { index, method, .. } = *self.shared;
        let state = self.shared.state();
        ClockFacts {
            phc: index,
            method,
            fit: state.track.facts(),
            steps: state.track.steps(),
            cost: state.cost,
            failure: state.failure.clone(),
        }
    }
}

/// Stands for no cross-stamp: an instant at which no kernel was up.
const UNCONFIRMED: i64 = i64::MIN;

impl NicClock for PhcTracker {
    fn facts(&self) -> Option<ClockFacts> {
        Some(self.facts())
    }

    fn phc(&self) -> u32 {
        self.shared.index
    }

    fn utc(&self, nic: i64) -> Option<Reading<Realtime>> {
        self.shared.teller.read().unwrap_or_else(PoisonError::into_inner).tell(nic)
    }

    fn uncertainty(&self) -> Option<u64> {
        let seen = self.shared.state().seen?;
        let age = (monotonic_now() - seen).as_nanos();
        let teller = self.shared.teller.read().unwrap_or_else(PoisonError::into_inner);
        teller.uncertainty().filter(|_| age <= HORIZON)
    }

    fn vouch(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Vouch {
        self.shared.state().track.vouch(from, to)
    }

    fn assurance(&self) -> Assurance {
        let confirmed = self.shared.confirmed.load(Ordering::Acquire);
        let steps = self.shared.steps.load(Ordering::Acquire);
        Assurance {
            fit: self.shared.first_fit.wrapping_add(steps as u32),
            steps,
            confirmed: (confirmed != UNCONFIRMED).then(|| Time::from_nanos(confirmed)),
        }
    }
}

impl Drop for PhcTracker {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn monotonic_now() -> Time<Monotonic> {
    Time::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC))
}

impl Shared {
    /// A panic of the one thread leaves nothing half-written here that another could trip over.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, mut device: impl ClockDevice) {
        let (mut track, mut watch) = (Track::new(Wander::default()), SystemWatch::default());
        loop {
            let steps = track.steps();
            if let Some(step) = watch.observe(SystemLook::take()).filter(|step| step.by != Interval::ZERO) {
                tracing::info!(
                    phc = self.index,
                    by_ns = step.by.as_nanos(),
                    leap = step.is_leap_second(),
                    "system clock set"
                );
                track.clock_was_set(step.void.to);
            }
            let (began, failure) = (monotonic_now(), self.compare(&mut device, &mut track));
            let ended = monotonic_now();
            let told = track.teller().clone();
            let pause = told.due();
            *self.teller.write().unwrap_or_else(PoisonError::into_inner) = told;
            if track.steps() != steps {
                track.last_void_ended(monotonic_now());
            }
            let mut state = self.state();
            if failure.is_none() {
                (state.seen, state.cost) = (Some(ended), ended - began);
            } else if state.failure.is_none() {
                tracing::warn!(phc = self.index, failure, "clock cannot be compared");
            }
            state.failure = failure;
            state.track = track.clone();
            self.steps.store(track.steps(), Ordering::Release);
            let confirmed = track.confirmed_until().map_or(UNCONFIRMED, Time::as_nanos);
            self.confirmed.store(confirmed, Ordering::Release);
            self.changed.notify_all();
            let pause = Duration::from_nanos(pause.unsigned_abs());
            let running = |state: &mut State| !state.stopping;
            let waited = self.changed.wait_timeout_while(state, pause, running);
            if waited.unwrap_or_else(PoisonError::into_inner).0.stopping {
                return;
            }
        }
    }

    /// Takes one cross-stamp that says something; why not, where none can be had.
    fn compare(&self, device: &mut impl ClockDevice, track: &mut Track) -> Option<String> {
        for _ in 0..ATTEMPTS {
            let stamp = match device.cross_stamp() {
                Ok(stamp) => stamp,
                Err(error) => return Some(error.to_string()),
            };
            match track.observe(stamp) {
                Observation::Good => break,
                Observation::Wide => {}
                Observation::Step(void) => {
                    let span = (void.to - void.from).as_millis_f64();
                    tracing::info!(
                        phc = self.index,
                        void_ms = span,
                        "card's clock and system's have stepped against each other"
                    );
                    break;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicBool, AtomicI64, Ordering},
    };

    use super::*;
    use crate::clock::CrossStamp;

    /// A card's clock made of the system's: 7 s ahead and 50 ppm fast, until it is set or taken away.
    #[derive(Clone)]
    struct Card {
        ahead: Arc<AtomicI64>,
        gone: Arc<AtomicBool>,
    }

    impl Card {
        fn new() -> Self {
            Self { ahead: Arc::new(7_000_000_000.into()), gone: Arc::default() }
        }

        fn at(&self, realtime: i64) -> i64 {
            realtime + realtime % 1_000_000_000_000 / 20_000 + self.ahead.load(Ordering::SeqCst)
        }
    }

    impl ClockDevice for Card {
        fn index(&self) -> u32 {
            3
        }

        fn method(&self) -> CrossStampMethod {
            CrossStampMethod::Extended
        }

        fn cross_stamp(&mut self) -> io::Result<CrossStamp> {
            if self.gone.load(Ordering::SeqCst) {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            let began = monotonic_now();
            let realtime = sys::clock_nanos(libc::CLOCK_REALTIME);
            Ok(CrossStamp {
                phc: self.at(realtime),
                realtime: Time::from_nanos(realtime + 200),
                half_width: 250,
                began,
                ended: monotonic_now(),
            })
        }
    }

    const LONGEST: Duration = Duration::from_secs(60);

    /// Tells a stamp of this moment, which must come true.
    fn tell_now(tracker: &PhcTracker, card: &Card) -> u64 {
        let truth = sys::clock_nanos(libc::CLOCK_REALTIME);
        let told = tracker.utc(card.at(truth)).expect("a clock that is known");
        let off = (told.time.as_nanos() - truth).unsigned_abs();
        assert!(off <= told.uncertainty, "off by {off}, stated {}", told.uncertainty);
        told.uncertainty
    }

    #[test]
    fn stamps_are_told_until_the_card_goes_away() {
        let card = Card::new();
        let tracker = PhcTracker::start(card.clone()).expect("a thread");
        assert_eq!((tracker.phc(), tracker.utc(1)), (3, None));
        assert!(tracker.wait(LONGEST), "{:?}", tracker.facts());
        assert!(tell_now(&tracker, &card) >= 250);
        assert!(tracker.uncertainty() >= Some(250));
        let fit = tracker.facts().fit.expect("a fit");
        assert!((fit.rate_ppm + 50.0).abs() < 1.0, "{fit:?}");
        card.gone.store(true, Ordering::SeqCst);
        let failed = |state: &mut State| state.failure.is_none();
        let shared = &tracker.shared;
        drop(shared.changed.wait_timeout_while(shared.state(), LONGEST, failed).expect("no panic"));
        let failure = tracker.facts().failure.expect("a failure");
        assert!(failure.contains("No such device"), "{failure}");
    }

    #[test]
    fn a_step_voids_what_was_told_before_it_was_seen() {
        let card = Card::new();
        let tracker = PhcTracker::start(card.clone()).expect("a thread");
        assert!(tracker.wait(LONGEST), "{:?}", tracker.facts());
        card.ahead.fetch_add(1_000_000, Ordering::SeqCst);
        let stepped = monotonic_now();
        let before = tracker.assurance();
        assert!(!matches!(tracker.vouch(stepped, stepped), Vouch::True { .. }));
        let unseen = |state: &mut State| state.track.steps() == 0;
        let shared = &tracker.shared;
        drop(shared.changed.wait_timeout_while(shared.state(), LONGEST, unseen).expect("no panic"));
        assert_eq!(tracker.vouch(stepped, stepped), Vouch::Void);
        assert!(tracker.wait(LONGEST), "{:?}", tracker.facts());
        tell_now(&tracker, &card);
        let after = tracker.assurance();
        assert_eq!((after.fit, after.steps, tracker.facts().steps), (before.fit.wrapping_add(1), 1, 1));
        assert!(after.confirmed > before.confirmed);
    }

    #[test]
    fn stamps_are_confirmed_by_the_next_comparison() {
        let tracker = PhcTracker::start(Card::new()).expect("a thread");
        assert!(tracker.wait(LONGEST), "{:?}", tracker.facts());
        let now = monotonic_now();
        let waiting = |state: &mut State| state.track.vouch(now, now) == Vouch::NotYet;
        let shared = &tracker.shared;
        drop(shared.changed.wait_timeout_while(shared.state(), LONGEST, waiting).expect("no panic"));
        let Vouch::True { drift: Some(drift) } = tracker.vouch(now, now) else { panic!("{:?}", tracker.facts()) };
        // 50 ppm and the bound of 1000 ppm, over the time between two comparisons, which may be long on a busy host
        assert!(drift >= 40_000, "{drift} ns");
    }
}
