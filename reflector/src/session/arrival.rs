//! When a request arrived, at every place of this host that says so: what B2 is made of.

use pathlab_record::{ClockId, Plane, Planes, Reading, Realtime, Stamp, Time};
use pathlab_xdp::NicClock;

/// The stamps of one arrival, from the wire to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    planes: Planes,
    received: Time<Realtime>,
    plane: Plane,
}

impl Arrival {
    /// An arrival that user space saw at `app`, and other places as `outer` says; its `app` and `sched` are not looked at.
    ///
    /// A stamp may stand on any clock. B2 as the packet carries it is the outermost in UTC.
    pub fn new(app: impl Into<Reading<Realtime>>, outer: Planes) -> Self {
        let app = app.into();
        let told = |plane: Plane, stamp: Option<Stamp>| {
            stamp
                .filter(|stamp| stamp.clock() == ClockId::Realtime)
                .map(|stamp| (Time::from_nanos(stamp.nanos()), plane))
        };
        let outermost = told(Plane::Nic, outer.nic)
            .or_else(|| told(Plane::Xdp, outer.xdp))
            .or_else(|| told(Plane::Kernel, outer.kernel));
        let (received, plane) = outermost.unwrap_or((app.time, Plane::App));
        Self { planes: Planes { app: Some(app.into()), sched: None, ..outer }, received, plane }
    }

    /// B2 in UTC, on the outermost plane that can be told so.
    pub fn received(&self) -> Time<Realtime> {
        self.received
    }

    /// The plane of [`received`](Self::received).
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// Every stamp of the arrival.
    pub fn planes(&self) -> &Planes {
        &self.planes
    }
}

impl From<Time<Realtime>> for Arrival {
    /// An arrival that user space alone has seen.
    fn from(app: Time<Realtime>) -> Self {
        Self::new(app, Planes::default())
    }
}

/// A card's stamp in UTC where its clock can be told so, else on that clock itself; `None` where nobody knows which that is.
pub(crate) fn nic_stamp(nic: i64, clock: Option<&dyn NicClock>) -> Option<Stamp> {
    let clock = clock?;
    match clock.utc(nic) {
        Some(reading) => Some(reading.into()),
        None => Stamp::new(nic, ClockId::Phc(clock.phc()), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_is_the_outermost_stamp_in_utc() {
        let app = Time::from_nanos(40);
        let utc = |nanos| Stamp::new(nanos, ClockId::Realtime, 5);
        let mut outer = Planes { kernel: utc(30), xdp: utc(20), nic: utc(10), ..Planes::default() };
        let received = |outer| {
            let arrival = Arrival::new(app, outer);
            assert_eq!(arrival.planes().app.map(Stamp::nanos), Some(app.as_nanos()));
            (arrival.received().as_nanos(), arrival.plane())
        };
        assert_eq!(received(outer), (10, Plane::Nic));
        outer.nic = Stamp::new(7, ClockId::Phc(0), 0);
        assert_eq!(received(outer), (20, Plane::Xdp), "a card's own time is not UTC");
        outer.xdp = None;
        assert_eq!(received(outer), (30, Plane::Kernel));
        outer.kernel = None;
        assert_eq!(received(outer), (40, Plane::App));
        assert_eq!(Arrival::from(app).plane(), Plane::App);
    }
}
