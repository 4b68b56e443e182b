//! The Session-Reflector in the driver: replies leave before the stack has seen the request. What remains for user space is to keep
//! its clock and addresses fresh, and to give its account in the common shape.

use std::collections::BTreeMap;

use pathlab_record::{Interval, Plane};
use pathlab_xdp::{AttachedMode, Counter, XdpReflector, XdpReflectorConfig, clock::SystemLook};

use crate::{
    Error, ReflectorReport, Stop,
    clock::{ClockQuality, StepWatch, monotonic_now, nothing_known},
    session::Reason,
    sys,
};

/// Between two looks at the interface's addresses.
const REFRESH: Interval = Interval::from_nanos(1_000_000_000);

/// A stateless Session-Reflector by XDP_TX, without sessions or keys. It answers from the moment it is attached until it is
/// dropped; [`run`](Self::run) keeps it true.
///
/// Both of its stamps are one reading on the XDP plane, software in the driver: a residence of zero says that it is below what this
/// plane can resolve. What driver and card take after it is part of the sender's `wire` and of no residence.
pub struct DriverReflector {
    reflector: XdpReflector,
    listen: String,
    clock: Option<ClockQuality>,
    steps: StepWatch,
}

impl DriverReflector {
    /// Puts the reflector on the interface; the Error Estimate of `config` is replaced by a measured one where the kernel has one.
    ///
    /// # Errors
    /// Those of [`XdpReflector::attach`]. Nothing is left behind then.
    pub fn attach(interface: &str, config: &XdpReflectorConfig) -> Result<Self, Error> {
        let clock = ClockQuality::measure().ok();
        let error_estimate = clock.map_or(config.error_estimate, |clock| clock.error_estimate().bits());
        let reflector = XdpReflector::attach(interface, &XdpReflectorConfig { error_estimate, ..config.clone() })?;
        Ok(Self { reflector, listen: format!("{interface}:{}", config.port), clock, steps: StepWatch::default() })
    }

    /// Whether the driver itself runs it, or the stack on its behalf.
    pub fn mode(&self) -> AttachedMode {
        self.reflector.mode()
    }

    /// Why native mode is not to be had; `None` in native mode, and where generic was asked for.
    pub fn native_refused(&self) -> Option<&pathlab_xdp::Error> {
        self.reflector.native_refused()
    }

    /// Whenever its last word no longer holds, measures the clock again; once a second, answers for the addresses that the interface then has. Returns when `stop`
    /// is raised; the reflector goes on answering until dropped.
    ///
    /// # Errors
    /// The kernel's maps or lists cannot be read or written; [`Error::Socket`] never.
    pub fn run(&mut self, stop: &Stop) -> Result<(), Error> {
        let mut addresses_due = monotonic_now() + REFRESH;
        loop {
            let mut polled = [sys::Polled::readable(stop)];
            let holds = self.clock.unwrap_or(ClockQuality::UNKNOWN).holds();
            sys::poll(&mut polled, (holds.as_nanos() / 1_000_000) as libc::c_int).map_err(Error::Wait)?;
            if polled[0].is_ready() {
                return Ok(());
            }
            self.steps.observe(SystemLook::take(), None);
            if let Ok(clock) = ClockQuality::measure() {
                self.clock = Some(clock);
                let doubt = self.steps.in_doubt(monotonic_now());
                let estimate = if doubt { nothing_known() } else { clock.error_estimate() };
                self.reflector.update_clock(estimate.bits())?;
            }
            if monotonic_now() < addresses_due {
                continue;
            }
            addresses_due = monotonic_now() + REFRESH;
            match self.reflector.update_addresses() {
                // Gone for a while; what it had is still answered, and no frame comes for it.
                Err(pathlab_xdp::Error::NoAddress { .. }) => {}
                other => other?,
            }
        }
    }

    /// The account so far. There is no histogram: the program keeps counters alone.
    ///
    /// # Errors
    /// [`pathlab_xdp::Error::Map`].
    pub fn report(&self) -> Result<ReflectorReport, Error> {
        let counters = self.reflector.counters()?;
        let mut refused: BTreeMap<_, _> = Reason::ALL.iter().map(|reason| (reason.name(), 0)).collect();
        refused.extend(
            counters.iter().filter(|(counter, _)| counter.is_reason()).map(|(counter, count)| (counter.name(), count)),
        );
        Ok(ReflectorReport {
            datapath: "xdp",
            listen: vec![self.listen.clone()],
            received: counters[Counter::Received],
            replied: counters[Counter::Replied],
            refused,
            kernel_drops: 0,
            received_on: [(Plane::Xdp, counters[Counter::Replied])].into(),
            sent_on: BTreeMap::new(),
            nic_received: 0,
            hw_coverage: Default::default(),
            follow_ups: Default::default(),
            clock_steps: 0,
            steps: self.steps.steps(),
            nic_void: None,
            undelivered: 0,
            residence: None,
            departure: None,
            clock: self.clock,
            card_clock: None,
            queues: Vec::new(),
            handed_to_stack: counters[Counter::HandedToStack],
            return_trace: None,
            places: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_driver_is_a_reason_here() {
        for counter in Counter::ALL.iter().filter(|counter| counter.is_reason()) {
            assert!(Reason::ALL.iter().any(|reason| reason.name() == counter.name()), "{}", counter.name());
        }
    }
}
