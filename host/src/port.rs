//! A port as ethtool tells it, in the form in which it is captured.

use serde::{Deserialize, Serialize};

/// `ethtool -i`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Driver {
    /// Name of the kernel module.
    pub(crate) driver: String,
    /// Its version; of drivers in the kernel's tree, the kernel's.
    #[serde(default)]
    pub(crate) version: String,
    /// Address on the bus, such as `0000:3b:00.0`.
    #[serde(default)]
    pub(crate) bus: String,
}

/// `ethtool -g`, in descriptors; absent where the driver does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rings {
    pub(crate) rx: Option<u32>,
    pub(crate) rx_max: Option<u32>,
    pub(crate) tx: Option<u32>,
    pub(crate) tx_max: Option<u32>,
}

/// `ethtool -l`, in queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Channels {
    pub(crate) rx: Option<u32>,
    pub(crate) rx_max: Option<u32>,
    pub(crate) tx: Option<u32>,
    pub(crate) tx_max: Option<u32>,
    pub(crate) combined: Option<u32>,
    pub(crate) combined_max: Option<u32>,
}

/// `ethtool -c`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Coalesce {
    /// Microseconds from a packet to its interrupt.
    pub(crate) rx_usecs: Option<u32>,
    pub(crate) rx_frames: Option<u32>,
    pub(crate) tx_usecs: Option<u32>,
    pub(crate) tx_frames: Option<u32>,
    /// The driver chooses by the rate of packets.
    pub(crate) adaptive_rx: Option<bool>,
    pub(crate) adaptive_tx: Option<bool>,
}

/// `ethtool -k`, by the kernel's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Features {
    pub(crate) active: Vec<String>,
    /// Can be neither switched on nor off.
    pub(crate) fixed: Vec<String>,
}

/// `ethtool -x`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rss {
    /// Receive queue of each entry.
    pub(crate) table: Vec<u32>,
}

/// `ethtool -n IF rx-flow-hash udp4` and `udp6`, in ethtool's letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowHash {
    pub(crate) udp4: String,
    pub(crate) udp6: String,
}

/// A queueing discipline, with the handle in tc's notation and the counters since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Qdisc {
    pub(crate) kind: String,
    pub(crate) handle: String,
    /// `root`, or the class that it hangs on.
    pub(crate) parent: String,
    #[serde(default)]
    pub(crate) drops: u32,
    /// Packets that wait.
    #[serde(default)]
    pub(crate) queued: u32,
    /// Octets that wait.
    #[serde(default)]
    pub(crate) backlog: u32,
    /// Times that it held a packet back, or refused one, for its limits.
    #[serde(default)]
    pub(crate) overlimits: u32,
    /// Packets that the driver gave back because its ring was full.
    #[serde(default)]
    pub(crate) requeues: u32,
    /// Packets that left it.
    #[serde(default)]
    pub(crate) packets: u32,
    /// Octets that left it.
    #[serde(default)]
    pub(crate) octets: u64,
}

/// An AF_XDP socket of any process, as `ss --xdp` knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct XdpSocket {
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
    /// In descriptors.
    pub(crate) rx_ring: Option<u32>,
    pub(crate) fill_ring: Option<u32>,
    pub(crate) zero_copy: Option<bool>,
    pub(crate) statistics: Option<XdpStatistics>,
}

/// `struct xdp_diag_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct XdpStatistics {
    pub(crate) rx_dropped: u64,
    pub(crate) rx_ring_full: u64,
    pub(crate) rx_fill_ring_empty: u64,
}
