//! What a driver's counter of lost packets means, driver by driver: the names differ, the causes are few.

use serde::Serialize;

/// Why packets were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// No descriptor was free: the ring is too short for the burst, or its CPU too slow.
    RingFull,
    /// The card's own buffer overflowed: PCIe or memory took the packets too slowly.
    CardBuffer,
    /// The host had no memory for a buffer.
    Memory,
    /// Damaged on the wire: cable, optics, duplex.
    Wire,
    /// Dropped by an XDP program.
    Program,
    /// Over what the cloud provider allows.
    Allowance,
    /// The driver could not send.
    Transmit,
}

impl Meaning {
    /// In words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::RingFull => "no descriptor was free: the ring is too short for the burst, or its CPU too slow",
            Self::CardBuffer => "the card's buffer overflowed: PCIe or memory took packets too slowly",
            Self::Memory => "no memory for a buffer",
            Self::Wire => "damaged on the wire: cable, optics or duplex",
            Self::Program => "dropped by an XDP program",
            Self::Allowance => "over what the cloud provider allows",
            Self::Transmit => "could not be sent",
        }
    }
}

/// A counter that is not zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// As the driver calls it, queues summed under `*`.
    pub name: String,
    /// Absent for one that is not in the table of its driver.
    pub meaning: Option<Meaning>,
    /// Since the counter began.
    pub total: u64,
    /// Within the window; absent without an earlier reading.
    pub lately: Option<u64>,
}

/// Names by driver, queue numbers taken out ([`without_queue`]), from each driver's ethtool strings in Linux 6.12.
const TABLE: &[(&str, &str, Meaning)] = &[
    // drivers/net/ethernet/mellanox/mlx5/core/en_stats.c, Documentation/networking/device_drivers/ethernet/mellanox/mlx5/counters.rst
    ("mlx5_core", "rx_out_of_buffer", Meaning::RingFull),
    ("mlx5_core", "rx_discards_phy", Meaning::CardBuffer),
    ("mlx5_core", "rx_buff_alloc_err", Meaning::Memory),
    ("mlx5_core", "rx_crc_errors_phy", Meaning::Wire),
    ("mlx5_core", "rx_symbol_err_phy", Meaning::Wire),
    ("mlx5_core", "rx_xdp_drop", Meaning::Program),
    ("mlx5_core", "tx_queue_dropped", Meaning::Transmit),
    ("mlx5_core", "tx_discards_phy", Meaning::Transmit),
    // drivers/net/ethernet/intel/ixgbe/ixgbe_ethtool.c
    ("ixgbe", "rx_missed_errors", Meaning::RingFull),
    ("ixgbe", "rx_no_buffer_count", Meaning::RingFull),
    ("ixgbe", "rx_no_dma_resources", Meaning::RingFull),
    ("ixgbe", "alloc_rx_page_failed", Meaning::Memory),
    ("ixgbe", "alloc_rx_buff_failed", Meaning::Memory),
    ("ixgbe", "rx_crc_errors", Meaning::Wire),
    ("ixgbe", "tx_timeout_count", Meaning::Transmit),
    // drivers/net/ethernet/intel/i40e/i40e_ethtool.c
    ("i40e", "port.rx_dropped", Meaning::CardBuffer),
    ("i40e", "rx_dropped", Meaning::RingFull),
    ("i40e", "rx_missed_errors", Meaning::RingFull),
    ("i40e", "rx_alloc_fail", Meaning::Memory),
    ("i40e", "rx_pg_alloc_fail", Meaning::Memory),
    ("i40e", "port.rx_crc_errors", Meaning::Wire),
    ("i40e", "port.tx_dropped_link_down", Meaning::Transmit),
    // drivers/net/ethernet/intel/ice/ice_ethtool.c
    ("ice", "rx_dropped.nic", Meaning::CardBuffer),
    ("ice", "rx_dropped", Meaning::RingFull),
    ("ice", "rx_alloc_fail", Meaning::Memory),
    ("ice", "rx_pg_alloc_fail", Meaning::Memory),
    ("ice", "rx_crc_errors.nic", Meaning::Wire),
    ("ice", "tx_dropped_link_down.nic", Meaning::Transmit),
    // drivers/net/ethernet/intel/igb/igb_ethtool.c
    ("igb", "rx_missed_errors", Meaning::RingFull),
    ("igb", "rx_no_buffer_count", Meaning::RingFull),
    ("igb", "rx_queue_*_drops", Meaning::RingFull),
    ("igb", "rx_queue_*_alloc_failed", Meaning::Memory),
    ("igb", "rx_crc_errors", Meaning::Wire),
    // drivers/net/ethernet/broadcom/bnxt/bnxt_ethtool.c
    ("bnxt_en", "[*]: rx_discards", Meaning::RingFull),
    ("bnxt_en", "rx_total_ring_discards", Meaning::RingFull),
    ("bnxt_en", "rx_total_oom_discards", Meaning::Memory),
    ("bnxt_en", "rx_total_buf_errors", Meaning::CardBuffer),
    ("bnxt_en", "rx_fcs_err_frames", Meaning::Wire),
    ("bnxt_en", "tx_total_ring_discards", Meaning::Transmit),
    // drivers/net/ethernet/amazon/ena/ena_ethtool.c
    ("ena", "queue_*_rx_empty_rx_ring", Meaning::RingFull),
    ("ena", "queue_*_rx_page_alloc_fail", Meaning::Memory),
    ("ena", "queue_*_rx_skb_alloc_fail", Meaning::Memory),
    ("ena", "queue_*_rx_xdp_drop", Meaning::Program),
    ("ena", "bw_in_allowance_exceeded", Meaning::Allowance),
    ("ena", "bw_out_allowance_exceeded", Meaning::Allowance),
    ("ena", "pps_allowance_exceeded", Meaning::Allowance),
    ("ena", "conntrack_allowance_exceeded", Meaning::Allowance),
    // drivers/net/virtio_net.c
    ("virtio_net", "rx*_drops", Meaning::RingFull),
    ("virtio_net", "rx_queue_*_drops", Meaning::RingFull),
    ("virtio_net", "rx_queue_*_xdp_drops", Meaning::Program),
    ("virtio_net", "tx_queue_*_tx_timeouts", Meaning::Transmit),
    // drivers/net/veth.c
    ("veth", "rx_queue_*_drops", Meaning::RingFull),
    ("veth", "rx_queue_*_xdp_drops", Meaning::Program),
];

/// What the kernel counts of every port (`struct rtnl_link_stats64`). `rx_dropped` is not among them: it counts packets of protocols and VLANs that
/// nobody wants, too.
pub(crate) const KERNELS_OWN: [(&str, Meaning); 4] = [
    ("rx_missed_errors", Meaning::RingFull),
    ("rx_fifo_errors", Meaning::CardBuffer),
    ("rx_crc_errors", Meaning::Wire),
    ("tx_dropped", Meaning::Transmit),
];

/// Part of the name of a counter that may be of losses; what has one and is in no table is listed as unknown.
const SUSPECT: [&str; 9] =
    ["alloc_fail", "crc_err", "discard", "drop", "exceeded", "fifo_err", "missed_err", "no_buf", "overrun"];

/// What `name` of `driver` means; `None` for one that is not in the table.
pub fn meaning(driver: &str, name: &str) -> Option<Meaning> {
    let name = without_queue(name);
    TABLE.iter().find(|row| row.0 == driver && row.1 == name).map(|row| row.2)
}

/// Whether its name sounds like losses.
pub(crate) fn suspect(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SUSPECT.iter().any(|part| name.contains(part))
}

/// The name with the first run of digits that is a queue's number replaced by `*`.
pub(crate) fn without_queue(name: &str) -> String {
    parts(name).map_or_else(|| name.to_owned(), |(before, _, after)| format!("{before}*{after}"))
}

/// The number of its queue; absent of a counter of the whole port.
pub(crate) fn queue(name: &str) -> Option<u32> {
    parts(name)?.1.parse().ok()
}

/// What stands before the number of a queue, the number, and what stands behind.
fn parts(name: &str) -> Option<(&str, &str, &str)> {
    ["rx_queue_", "tx_queue_", "queue_", "[", "rx", "tx"].into_iter().find_map(|before| {
        let rest = name.strip_prefix(before)?;
        let after = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let ends = after.starts_with(['_', ']', '.']);
        (after.len() < rest.len() && ends).then(|| (before, &rest[..rest.len() - after.len()], after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_taken_out_and_nothing_else() {
        for (name, wanted) in [
            ("rx_queue_12_drops", "rx_queue_*_drops"),
            ("queue_3_rx_page_alloc_fail", "queue_*_rx_page_alloc_fail"),
            ("[7]: rx_discards", "[*]: rx_discards"),
            ("rx_65_to_127_byte_packets", "rx_65_to_127_byte_packets"),
            ("rx0_drops", "rx*_drops"),
            ("rx_missed_errors", "rx_missed_errors"),
        ] {
            assert_eq!(without_queue(name), wanted);
        }
        assert_eq!(
            [queue("[7]: rx_discards"), queue("rx0_drops"), queue("rx_missed_errors")],
            [Some(7), Some(0), None]
        );
        assert_eq!(meaning("bnxt_en", "[7]: rx_discards"), Some(Meaning::RingFull));
        assert_eq!(meaning("mlx5_core", "rx_packets"), None);
    }

    #[test]
    fn no_counter_stands_in_the_table_twice() {
        for (at, (driver, name, _)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..at].iter().any(|row| row.0 == *driver && row.1 == *name), "{driver} {name} twice");
        }
    }
}
