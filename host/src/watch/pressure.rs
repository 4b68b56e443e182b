//! How hard the rings of the cards are pressed: what each driver counts as lost, by meaning and queue, beside the size of the rings.

use std::{collections::BTreeMap, time::Duration};

use netlink_packet_route::link::{LinkAttribute, LinkMessage, Stats64};
use pathlab_guard::ethtool::{Ethtool, Group, sys};
use serde::Serialize;

use super::reading::Names;
use crate::counters::{KERNELS_OWN, Meaning, meaning, queue, suspect};

/// By interface.
pub(crate) type Ports = BTreeMap<String, Port>;

/// What a port has lost since its counters began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Port {
    driver: Option<String>,
    /// Receive and transmit ring.
    rings: [Option<u32>; 2],
    /// The driver's counters that mean a loss, or sound like one, as it calls them.
    own: BTreeMap<String, u64>,
    /// The kernel's, which it keeps of every port.
    kernels: BTreeMap<String, u64>,
}

/// The rings of a port in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RingPressure {
    /// Whose.
    pub interface: String,
    /// Name of its driver; absent where there is none, as of `lo`.
    pub driver: Option<String>,
    /// Descriptors of each receive ring; absent where the driver does not tell.
    pub rx_ring: Option<u32>,
    /// Of each transmit ring.
    pub tx_ring: Option<u32>,
    /// Counters that grew, the most first.
    pub losses: Vec<Loss>,
}

/// A counter of losses that grew.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// As the driver calls it, or where no counter of its own has that meaning, the kernel (`struct rtnl_link_stats64`).
    pub counter: String,
    /// Its queue; absent of one of the whole port.
    pub queue: Option<u32>,
    /// Why packets were lost; absent of a counter that is not in the table of its driver, and may be of something else.
    pub meaning: Option<Meaning>,
    /// In the window.
    pub packets: u64,
    /// A second.
    pub rate: f64,
}

/// Reads every named link; what a driver does not tell is absent.
pub(crate) fn ports(links: &[LinkMessage], names: &Names, interfaces: &[u32]) -> Ports {
    let mut ethtool = Ethtool::open().ok();
    let watched = links.iter().filter(|link| interfaces.is_empty() || interfaces.contains(&link.header.index));
    let mut port = |link: &LinkMessage| {
        let name = names.of(link.header.index)?;
        let driver = sys::driver(&name).map(|[driver, ..]| driver).ok();
        let statistics = sys::statistics(&name).unwrap_or_default();
        let rings = ethtool.as_mut().and_then(|ethtool| ethtool.numbers(Group::Rings, &name).ok());
        let ring = |which| rings.as_ref().and_then(|rings| rings.value(which));
        let of_losses = |(counter, _): &(String, u64)| {
            driver.as_deref().is_some_and(|driver| meaning(driver, counter).is_some()) || suspect(counter)
        };
        let own = statistics.into_iter().filter(of_losses).collect();
        let port = Port { rings: [ring("rx"), ring("tx")], own, kernels: kernels(link), driver };
        Some((name, port))
    };
    watched.filter_map(&mut port).collect()
}

fn kernels(link: &LinkMessage) -> BTreeMap<String, u64> {
    let statistics = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(statistics) => Some(statistics),
        _ => None,
    });
    let value = |statistics: &Stats64, name| match name {
        "rx_missed_errors" => statistics.rx_missed_errors,
        "rx_fifo_errors" => statistics.rx_fifo_errors,
        "rx_crc_errors" => statistics.rx_crc_errors,
        _ => statistics.tx_dropped,
    };
    statistics
        .map(|statistics| KERNELS_OWN.map(|(name, _)| (name.to_owned(), value(statistics, name))).into())
        .unwrap_or_default()
}

/// Ports that tell their rings, or lost something in the window.
pub(crate) fn since(now: &Ports, earlier: &Ports, window: Duration) -> Vec<RingPressure> {
    let of = |(interface, now): (&String, &Port)| {
        let losses = now.since(earlier.get(interface).unwrap_or(&Port::default()), window);
        let [rx_ring, tx_ring] = now.rings;
        let told = rx_ring.is_some() || tx_ring.is_some() || !losses.is_empty();
        told.then(|| RingPressure {
            interface: interface.clone(),
            driver: now.driver.clone(),
            rx_ring,
            tx_ring,
            losses,
        })
    };
    now.iter().filter_map(of).collect()
}

impl Port {
    fn since(&self, earlier: &Self, window: Duration) -> Vec<Loss> {
        let loss = |counter: String, packets: u64, meaning| {
            let rate = packets as f64 / window.as_secs_f64().max(f64::MIN_POSITIVE);
            Loss { queue: queue(&counter), counter, meaning, packets, rate }
        };
        let driver = self.driver.as_deref().unwrap_or_default();
        let grown = super::reading::since(&self.own, &earlier.own);
        let mut losses: Vec<Loss> = grown
            .map(|(counter, packets)| {
                let meaning = meaning(driver, &counter);
                loss(counter, packets, meaning)
            })
            .collect();
        for (counter, packets) in super::reading::since(&self.kernels, &earlier.kernels) {
            let meaning = KERNELS_OWN.iter().find(|(name, _)| *name == counter).map(|(_, meaning)| *meaning);
            // The driver tells the same loss more exactly.
            if !losses.iter().any(|loss| loss.meaning == meaning) {
                losses.push(loss(counter, packets, meaning));
            }
        }
        losses.sort_by_key(|loss| std::cmp::Reverse(loss.packets));
        losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(own: [u64; 3], kernels: [u64; 2]) -> Ports {
        let names = ["[0]: rx_discards", "[1]: rx_discards", "rx_pause_drop_events"].map(str::to_owned);
        let port = Port {
            driver: Some("bnxt_en".into()),
            rings: [Some(511), Some(511)],
            own: names.into_iter().zip(own).collect(),
            kernels: ["rx_missed_errors", "tx_dropped"].map(str::to_owned).into_iter().zip(kernels).collect(),
        };
        [("eth0".to_owned(), port)].into()
    }

    #[test]
    fn losses_have_queue_meaning_and_rate_and_are_told_once() {
        let told = &since(&port([9, 5, 8], [20, 3]), &port([1, 5, 2], [10, 1]), Duration::from_secs(2))[0];
        assert_eq!((told.interface.as_str(), told.rx_ring), ("eth0", Some(511)));
        let loss = |counter: &str, queue, meaning, packets| Loss {
            counter: counter.into(),
            queue,
            meaning,
            packets,
            rate: packets as f64 / 2.0,
        };
        // the kernel's rx_missed_errors are the driver's discards
        let wanted = [
            loss("[0]: rx_discards", Some(0), Some(Meaning::RingFull), 8),
            loss("rx_pause_drop_events", None, None, 6),
            loss("tx_dropped", None, Some(Meaning::Transmit), 2),
        ];
        assert_eq!(told.losses, wanted);
    }

    #[test]
    fn a_port_that_tells_nothing_and_lost_nothing_is_left_out() {
        let quiet: Ports = [("lo".to_owned(), Port::default())].into();
        assert_eq!(since(&quiet, &quiet, Duration::from_secs(1)), []);
        let same = port([1, 1, 1], [0, 0]);
        assert_eq!(since(&same, &same, Duration::ZERO)[0].losses, []);
    }
}
