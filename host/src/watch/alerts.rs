//! What in a window is over a threshold, so that nobody has to read every counter.

use serde::Serialize;

use super::{
    napi::{Napi, NapiReport},
    pressure::RingPressure,
    qdiscs::QdiscReport,
};
use crate::counters::Meaning;

/// From where on something is an alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Packets that one counter of a port lost, a second.
    pub losses: f64,
    /// Packets that wait in one qdisc at the end of a window.
    pub waiting: u32,
    /// Share of the polls of one receive queue that took all that they were allowed, 0 to 1.
    pub exhausted: f64,
}

/// Fewer such polls in a window are the budget doing its work.
const FEW: u64 = 10;

impl Default for Thresholds {
    /// One loss a second: a port that is well loses none, and a single one may be a cable. A hundred packets that wait: at 1 Gbit/s and 1,500 octets 1.2 ms,
    /// in the order of a millisecond that a game would notice. Every tenth poll: its ring is seldom emptied. All are ours, no standard's.
    fn default() -> Self {
        Self { losses: 1.0, waiting: 100, exhausted: 0.1 }
    }
}

/// Something that was at its threshold or over it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Alert {
    /// A port loses packets. Those that an XDP program drops are meant to be, and those of a counter that is not known are only listed.
    Losses {
        /// Which.
        interface: String,
        /// Its queue; absent of a counter of the whole port.
        queue: Option<u32>,
        /// As the driver calls it.
        counter: String,
        /// Why.
        meaning: Meaning,
        /// Packets a second over the window.
        rate: f64,
        /// [`Thresholds::losses`].
        threshold: f64,
    },
    /// A queue stands.
    Waiting {
        /// Which.
        interface: String,
        /// Kind of its qdisc.
        kind: String,
        /// And its handle, in tc's notation.
        handle: String,
        /// `root`, or the class that it hangs on.
        parent: String,
        /// Packets at the end of the window.
        packets: u32,
        /// [`Thresholds::waiting`].
        threshold: u32,
    },
    /// A receive ring fills faster than it is emptied.
    Exhausted {
        /// Whose.
        interface: String,
        /// Its NAPI.
        id: u32,
        /// Its receive queue; absent where that is not told.
        rx_queue: Option<u32>,
        /// Share of its polls that took all that they were allowed.
        share: f64,
        /// [`Thresholds::exhausted`].
        threshold: f64,
    },
}

/// Of a window, the losses first.
pub(crate) fn alerts(
    rings: &[RingPressure],
    qdiscs: &[QdiscReport],
    napi: Option<&NapiReport>,
    thresholds: &Thresholds,
) -> Vec<Alert> {
    let losses = rings.iter().flat_map(|port| port.losses.iter().map(move |loss| (port, loss)));
    let losses = losses.filter_map(|(port, loss)| {
        let meaning = loss.meaning.filter(|meaning| *meaning != Meaning::Program)?;
        (loss.rate >= thresholds.losses).then(|| Alert::Losses {
            interface: port.interface.clone(),
            queue: loss.queue,
            counter: loss.counter.clone(),
            meaning,
            rate: loss.rate,
            threshold: thresholds.losses,
        })
    });
    let standing = qdiscs.iter().filter(|qdisc| qdisc.waiting > 0 && qdisc.waiting >= thresholds.waiting);
    let waiting = standing.map(|qdisc| Alert::Waiting {
        interface: qdisc.interface.clone(),
        kind: qdisc.kind.clone(),
        handle: qdisc.handle.clone(),
        parent: qdisc.parent.clone(),
        packets: qdisc.waiting,
        threshold: thresholds.waiting,
    });
    let share = |napi: &Napi| napi.exhausted as f64 / napi.polls.max(1) as f64;
    let napis = napi.iter().flat_map(|napi| &napi.napis);
    let hurried = napis.filter(|napi| napi.exhausted >= FEW && share(napi) >= thresholds.exhausted);
    let exhausted = hurried.map(|napi| Alert::Exhausted {
        interface: napi.interface.clone(),
        id: napi.id,
        rx_queue: napi.rx_queue,
        share: share(napi),
        threshold: thresholds.exhausted,
    });
    losses.chain(waiting).chain(exhausted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::pressure::Loss;

    #[test]
    fn what_is_meant_or_unknown_or_below_alerts_nobody() {
        let loss =
            |counter: &str, meaning, rate| Loss { counter: counter.into(), queue: Some(3), meaning, packets: 1, rate };
        let losses = vec![
            loss("full", Some(Meaning::RingFull), 1.0),
            loss("xdp", Some(Meaning::Program), 1e6),
            loss("unknown", None, 1e6),
            loss("few", Some(Meaning::Wire), 0.9),
        ];
        let rings = RingPressure { interface: "eth0".into(), driver: None, rx_ring: Some(256), tx_ring: None, losses };
        let qdisc = |waiting| QdiscReport {
            interface: "eth0".into(),
            kind: "tbf".into(),
            handle: "1:".into(),
            parent: "root".into(),
            waiting,
            waiting_octets: 0,
            packets: 0,
            octets: 0,
            drops: 0,
            overlimits: 0,
            requeues: 0,
        };
        let napi = |id, exhausted| Napi {
            interface: "eth0".into(),
            id,
            rx_queue: Some(1),
            polls: 100,
            packets: 0,
            exhausted,
            by_packets: [0; 9],
        };
        let napi = NapiReport { napis: vec![napi(8, 9), napi(9, 50)], uncounted: 0 };
        let told = alerts(&[rings], &[qdisc(99), qdisc(100)], Some(&napi), &Thresholds::default());
        let losses = Alert::Losses {
            interface: "eth0".into(),
            queue: Some(3),
            counter: "full".into(),
            meaning: Meaning::RingFull,
            rate: 1.0,
            threshold: 1.0,
        };
        let waiting = Alert::Waiting {
            interface: "eth0".into(),
            kind: "tbf".into(),
            handle: "1:".into(),
            parent: "root".into(),
            packets: 100,
            threshold: 100,
        };
        let exhausted =
            Alert::Exhausted { interface: "eth0".into(), id: 9, rx_queue: Some(1), share: 0.5, threshold: 0.1 };
        assert_eq!(told, [losses, waiting, exhausted]);
        assert_eq!(alerts(&[], &[qdisc(0)], None, &Thresholds { losses: 0.0, waiting: 0, exhausted: 0.0 }), []);
    }
}
