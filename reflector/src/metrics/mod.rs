//! The running account of a reflector for a monitoring system: OpenMetrics text, and the small server that hands it out.
//!
//! The loops that answer packets publish their account once a second; a scrape reads what was published last and never waits for them,
//! nor they for it.

mod exposition;
mod server;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use pathlab_record::{Interval, Monotonic, Time};

pub use server::{MetricsServer, Scrapes};

use crate::ReflectorReport;

/// Where a reflector publishes its account ([`crate::ReflectorConfig::metrics`], [`crate::datapath::AfXdpConfig::metrics`]).
#[derive(Debug, Default)]
pub struct Metrics {
    published: Mutex<Option<Arc<ReflectorReport>>>,
    /// Nanoseconds of `CLOCK_MONOTONIC` from which on the next account is wanted.
    due: AtomicI64,
}

/// Between two accounts.
const EVERY: Interval = Interval::from_nanos(1_000_000_000);

impl Metrics {
    /// Nothing published yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether the last account is a second old; then the caller is to publish one.
    pub(crate) fn is_due(&self, now: Time<Monotonic>) -> bool {
        let due = now.as_nanos() >= self.due.load(Ordering::Relaxed);
        if due {
            self.due.store((now + EVERY).as_nanos(), Ordering::Relaxed);
        }
        due
    }

    pub(crate) fn publish(&self, report: ReflectorReport) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.into());
    }

    /// What was published last, as OpenMetrics 1.0 text; without a metric while nothing was.
    pub fn text(&self) -> String {
        let report = self.published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        exposition::text(report)
    }
}
