//! The loop of one queue: packets from its AF_XDP socket to the desk and back, until told to halt.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pathlab_record::{Interval, Realtime, Time};
use pathlab_xdp::xsk::{BindMode, Completed, Frame, Received, XskSocket};

use super::desk::{Account, Desk, Ready};
use crate::{
    Error, Stop,
    clock::{monotonic_now, realtime_now},
    places::Place,
    report::QueueReport,
    sys,
    wire::ErrorEstimate,
};

/// Packets of one turn: what the kernel sends with one call in copy mode.
const BATCH: usize = 32;

/// Turns when stopping: more than the rings hold, and yet an end, whatever keeps coming.
const TURNS_AT_STOP: usize = 4096;

/// How long the stamps of the last replies are waited for when stopping.
const LAST_STAMPS: Duration = Duration::from_secs(1);

/// What the thread in charge tells the workers.
pub(super) struct Shared {
    pub(super) halting: AtomicBool,
    pub(super) tai_minus_utc: AtomicI64,
    pub(super) error_estimate: AtomicU16,
    /// How often the workers have been asked to publish their account.
    pub(super) round: AtomicU64,
}

/// A worker's account as of its last round, for whoever reads along.
#[derive(Default)]
pub(super) struct Published(Mutex<Option<(QueueReport, Account)>>);

impl Published {
    /// Adds it to `account`; the queue's own part. `None` before the first round.
    pub(super) fn add_to(&self, account: &mut Account) -> Option<QueueReport> {
        let published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, counts) = published.as_ref()?;
        account.add(counts);
        Some(queue.clone())
    }
}

pub(super) struct Worker {
    socket: XskSocket,
    pub(super) desk: Desk,
    /// Look for packets without pause instead of waiting for them.
    busy: bool,
    delay_before_send: Option<Duration>,
    pub(super) cpu: Option<u32>,
    /// Replies that have not come back by the completion ring.
    in_flight: usize,
    received: Vec<Received>,
    ready: Vec<(Frame, Ready)>,
    completed: Vec<Completed>,
    round: u64,
    pub(super) published: Arc<Published>,
}

/// The interface is down, and may come up again; one that is gone is another error.
fn is_down(error: &Error) -> bool {
    matches!(error, Error::Xdp(pathlab_xdp::Error::Xsk { source, .. }) if source.raw_os_error() == Some(libc::ENETDOWN))
}

impl Worker {
    pub(super) fn new(socket: XskSocket, desk: Desk, busy: bool, delay_before_send: Option<Duration>) -> Self {
        let (received, ready, completed, published) = Default::default();
        Self {
            socket,
            desk,
            busy,
            delay_before_send,
            cpu: None,
            in_flight: 0,
            received,
            ready,
            completed,
            round: 0,
            published,
        }
    }

    pub(super) fn queue(&self) -> u32 {
        self.socket.queue()
    }

    pub(super) fn mode(&self) -> BindMode {
        self.socket.mode()
    }

    /// Answers until `shared.halting`, which `halt` tells of; what has arrived by then is answered.
    pub(super) fn run(&mut self, shared: &Shared, halt: &Stop) -> Result<(), Error> {
        loop {
            let halting = shared.halting.load(Ordering::Acquire);
            self.desk.tai_minus_utc = Interval::from_nanos(shared.tai_minus_utc.load(Ordering::Relaxed));
            let error_estimate = shared.error_estimate.load(Ordering::Relaxed);
            self.desk.session.set_error_estimate(ErrorEstimate::from_bits(error_estimate));
            self.publish(shared.round.load(Ordering::Relaxed))?;
            let (received, unsent) = match self.turn() {
                Err(error) if is_down(&error) => {
                    self.pause(halt)?;
                    (0, 1)
                }
                other => other?,
            };
            if halting {
                return self.finish();
            }
            if received == 0 && unsent == 0 && !self.busy {
                self.wait(halt)?;
            }
        }
    }

    /// Publishes its account where that has been asked for since the last time.
    fn publish(&mut self, round: u64) -> Result<(), Error> {
        if round == self.round {
            return Ok(());
        }
        self.round = round;
        let published = (self.report()?, self.desk.account.counts());
        *self.published.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(published);
        Ok(())
    }

    /// Answers one batch. Returns how many packets came, and how many replies the kernel has not taken off the tx ring.
    fn turn(&mut self) -> Result<(usize, u32), Error> {
        self.desk.here = Place::here(Some(self.queue()));
        self.complete();
        let received = self.socket.receive(&mut self.received, BATCH)?;
        let (app, now) = (realtime_now(), monotonic_now());
        if let Some(card) = &self.desk.nic_clock {
            self.desk.session.set_assurance(card.assurance());
        }
        for Received { mut frame, record } in self.received.drain(..) {
            match self.desk.judge(frame.packet_mut(), record, app, now) {
                Some(ready) => {
                    frame.set_len(ready.length);
                    self.ready.push((frame, ready));
                }
                None => self.socket.recycle(frame),
            }
        }
        self.send_all();
        Ok((received, self.socket.flush()?))
    }

    /// One reading is the B3 of a batch: its replies leave together, by the call that follows, and a reading for each would tell no better
    /// when that is.
    fn send_all(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        if let Some(delay) = self.delay_before_send {
            thread::sleep(delay);
        }
        let sent = realtime_now();
        let mut ready = std::mem::take(&mut self.ready);
        for (frame, reply) in ready.drain(..) {
            self.send(frame, &reply, sent);
        }
        self.ready = ready;
    }

    fn send(&mut self, mut frame: Frame, ready: &Ready, sent: Time<Realtime>) {
        let cookie = self.desk.finish(ready, frame.packet_mut(), sent);
        let taken = match self.socket.send(frame, cookie, true) {
            Ok(()) => true,
            Err(frame) => {
                // The turn's own flush will say what is wrong.
                let _ = self.socket.flush();
                self.complete();
                self.socket.send(frame, cookie, true).is_ok()
            }
        };
        self.in_flight += usize::from(taken);
        self.desk.sent(cookie, ready, sent, taken);
    }

    fn complete(&mut self) {
        self.socket.complete(&mut self.completed, usize::MAX);
        for Completed { cookie, stamp } in self.completed.drain(..) {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.desk.departed(cookie, stamp);
        }
    }

    /// Until a packet comes, or the halt, or it is time to look for stamps.
    fn wait(&self, halt: &Stop) -> Result<(), Error> {
        let millis = if self.in_flight > 0 { 10 } else { 1000 };
        let mut polled = [sys::Polled::readable(&self.socket), sys::Polled::readable(halt)];
        sys::poll(&mut polled, millis).map_err(Error::Wait)
    }

    /// While the interface is down there is nothing to wait for but the halt.
    fn pause(&self, halt: &Stop) -> Result<(), Error> {
        sys::poll(&mut [sys::Polled::readable(halt)], 100).map_err(Error::Wait)
    }

    fn finish(&mut self) -> Result<(), Error> {
        for _ in 0..TURNS_AT_STOP {
            match self.turn() {
                Ok((0, 0)) => break,
                Err(error) if is_down(&error) => return Ok(()),
                other => drop(other?),
            }
        }
        let deadline = Instant::now() + LAST_STAMPS;
        while self.in_flight > 0 && Instant::now() < deadline {
            self.complete();
            thread::yield_now();
        }
        Ok(())
    }

    pub(super) fn report(&self) -> Result<QueueReport, Error> {
        let (statistics, account) = (self.socket.statistics()?, &self.desk.account);
        Ok(QueueReport {
            queue: self.queue(),
            cpu: self.cpu,
            bind_mode: match self.mode() {
                BindMode::Copy => "copy",
                BindMode::ZeroCopy => "zero_copy",
            },
            received: account.tally.received,
            replied: account.tally.replied,
            rx_dropped: statistics.rx_dropped,
            rx_ring_full: statistics.rx_ring_full,
            rx_fill_ring_empty: statistics.rx_fill_ring_empty_descs,
            tx_ring_empty: statistics.tx_ring_empty_descs,
            invalid_descriptors: statistics.rx_invalid_descs + statistics.tx_invalid_descs,
            strays: self.socket.strays(),
            residence: account.residence.quantiles(),
            departure: account.departure.quantiles(),
        })
    }
}
