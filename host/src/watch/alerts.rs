//! What in a window is over a threshold, so that nobody has to read every counter.

use serde::Serialize;

use super::{pressure::RingPressure, qdiscs::QdiscReport};
use crate::counters::Meaning;

/// From where on something is an alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Packets that one counter of a port lost, a second.
    pub losses: f64,
    /// Packets that wait in one qdisc at the end of a window.
    pub waiting: u32,
}

impl Default for Thresholds {
    /// One loss a second: a port that is well loses none, and a single one may be a cable. A hundred packets that wait: at 1 Gbit/s and 1,500 octets 1.2 ms,
    /// in the order of a millisecond that a game would notice. Both are ours, no standard's.
    fn default() -> Self {
        Self { losses: 1.0, waiting: 100 }
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
}

/// Of a window, the losses first.
pub(crate) fn alerts(rings: &[RingPressure], qdiscs: &[QdiscReport], thresholds: &Thresholds) -> Vec<Alert> {
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
    losses.chain(waiting).collect()
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
        let told = alerts(&[rings], &[qdisc(99), qdisc(100)], &Thresholds::default());
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
        assert_eq!(told, [losses, waiting]);
        assert_eq!(alerts(&[], &[qdisc(0)], &Thresholds { losses: 0.0, waiting: 0 }), []);
    }
}
