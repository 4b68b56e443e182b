//! The table: one row a family of cards, as their drivers in Linux 6.1 to 7.3-rc7 have it. Nothing here was measured on a card.

use serde::Serialize;

use super::facts::{KernelVersion, TsInfo};

/// Which packets a card stamps on their way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Receive {
    /// All of them, once `SIOCSHWTSTAMP` says so.
    All,
    /// PTP alone.
    PtpOnly,
    /// None at all.
    Nothing,
}

/// Since which kernel a driver can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Not in any kernel that was read.
    Never,
    /// Since this one.
    Kernel(u16, u16),
}

/// How many transmit stamps may be on their way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slots {
    /// The card stamps nothing on its way out.
    Nothing,
    /// So many registers, for the whole port.
    Few(u32),
    /// Each packet's completion carries its own.
    Many,
}

/// What a driver does that one would not expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quirk {
    /// The stamp of a PTP packet sits in a register that only the socket path empties: XDP must pass what looks like PTP, or the register
    /// is taken for a second or more and ptp4l on that port goes without.
    Latch,
    /// The card's 8 octets of stamp follow the frame, and XDP sees them: cut before a reply and counted. They are of the card's counter; what the
    /// driver adds to it to have the clock of `/dev/ptpN` (`timecounter_cyc2time`, changed by each `PTP_CLOCK_SETTIME`) it tells nobody, so that no
    /// stamp on that clock, or in UTC, can be made of them.
    Tail,
    /// Stamps UDP to and from port 319 alone.
    Port319,
    /// Stamping turns CQE compression off, which costs PCIe bandwidth.
    CqeCompression,
    /// The clock's rate changes with the link's speed.
    RateByLink,
}

impl Quirk {
    /// One sentence for a reader.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Latch => "PTP-looking packets are never consumed in XDP: their stamp would block the card's register",
            Self::Tail => {
                "the card appends 8 octets of stamp to every frame, of a counter that nothing ties to its clock: counted and cut before a reply, and B2 is the program's"
            }
            Self::Port319 => "stamps UDP port 319 alone: --ptp-shaped, between listed peers",
            Self::CqeCompression => "stamping turns CQE compression off",
            Self::RateByLink => "the card's clock changes its rate with the link's speed",
        }
    }
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DriverRule {
    /// The row's own name.
    pub id: &'static str,
    /// As `ethtool -i` names the driver.
    pub driver: &'static str,
    /// Which of its cards.
    pub cards: &'static str,
    /// Where one driver has several rows: this one is for cards that `ethtool -T` says to filter `all` (true) or not (false).
    #[serde(skip)]
    filters_all: Option<bool>,
    /// What the card stamps on its way in.
    pub receive: Receive,
    /// `bpf_xdp_metadata_rx_timestamp`.
    pub xdp_receive: Since,
    /// `xsk_tx_metadata_ops.tmo_fill_timestamp`.
    pub af_xdp_transmit: Since,
    /// Transmit stamps in flight.
    pub slots: Slots,
    /// XDP in the driver.
    pub native: Since,
    /// Zero-copy AF_XDP.
    pub zero_copy: Since,
    /// Surprises.
    pub quirks: &'static [Quirk],
    /// Where all this was read.
    pub source: &'static str,
}

const NEVER: Since = Since::Never;

const fn since(major: u16, minor: u16) -> Since {
    Since::Kernel(major, minor)
}

/// What a row has unless it says otherwise.
const PLAIN: DriverRule = DriverRule {
    id: "",
    driver: "",
    cards: "all",
    filters_all: None,
    receive: Receive::Nothing,
    xdp_receive: NEVER,
    af_xdp_transmit: NEVER,
    slots: Slots::Nothing,
    native: NEVER,
    zero_copy: NEVER,
    quirks: &[],
    source: "",
};

/// All rows.
pub const RULES: &[DriverRule] = &[
    DriverRule {
        id: "mlx5",
        driver: "mlx5_core",
        cards: "ConnectX-4 and later",
        receive: Receive::All,
        xdp_receive: since(6, 3),
        af_xdp_transmit: since(6, 8),
        slots: Slots::Many,
        native: since(4, 9),
        zero_copy: since(5, 3),
        quirks: &[Quirk::CqeCompression],
        source: "mlx5/core/en_main.c:4777-4869",
        ..PLAIN
    },
    DriverRule {
        id: "ixgbe-x550",
        driver: "ixgbe",
        cards: "X550, E610",
        filters_all: Some(true),
        receive: Receive::All,
        slots: Slots::Few(1),
        native: since(4, 12),
        zero_copy: since(4, 20),
        quirks: &[Quirk::Tail],
        source: "ixgbe_ptp.c:871-895,1037-1088; ixgbe_main.c:2527-2556",
        ..PLAIN
    },
    DriverRule {
        id: "ixgbe-82599",
        driver: "ixgbe",
        cards: "82599, X540",
        filters_all: Some(false),
        receive: Receive::PtpOnly,
        slots: Slots::Few(1),
        native: since(4, 12),
        zero_copy: since(4, 20),
        quirks: &[Quirk::Latch, Quirk::Port319, Quirk::RateByLink],
        source: "ixgbe_ptp.c:988 and ixgbe_ptp_rx_rgtstamp",
        ..PLAIN
    },
    DriverRule {
        id: "i40e",
        driver: "i40e",
        cards: "X710, XL710, XXV710",
        receive: Receive::PtpOnly,
        slots: Slots::Few(1),
        native: since(4, 13),
        zero_copy: since(4, 20),
        quirks: &[Quirk::Latch, Quirk::Port319],
        source: "i40e_ptp.c:621-700,809,1245; i40e_txrx.c:1855",
        ..PLAIN
    },
    DriverRule {
        id: "bnxt",
        driver: "bnxt_en",
        cards: "firmware stamps all packets",
        filters_all: Some(true),
        receive: Receive::All,
        slots: Slots::Few(4),
        native: since(4, 11),
        source: "bnxt.c:2296,2401,16203; BNXT_MAX_TX_TS",
        ..PLAIN
    },
    DriverRule {
        id: "bnxt-ptp",
        driver: "bnxt_en",
        cards: "firmware stamps PTP alone",
        filters_all: Some(false),
        receive: Receive::PtpOnly,
        slots: Slots::Few(4),
        native: since(4, 11),
        quirks: &[Quirk::Port319],
        source: "bnxt.c:2296,2401,16203; BNXT_MAX_TX_TS",
        ..PLAIN
    },
    DriverRule {
        id: "ice",
        driver: "ice",
        cards: "E810, E82x",
        receive: Receive::All,
        xdp_receive: since(6, 8),
        slots: Slots::Few(16),
        native: since(5, 5),
        zero_copy: since(5, 5),
        source: "ice_ptp.c; 64 stamps a port on E810, 16 on E82x",
        ..PLAIN
    },
    DriverRule {
        id: "igb",
        driver: "igb",
        cards: "82580, I350, I210",
        filters_all: Some(true),
        receive: Receive::All,
        slots: Slots::Few(1),
        native: since(5, 10),
        zero_copy: since(6, 14),
        source: "igb_ptp.c; the driver strips its 16-octet header before XDP",
        ..PLAIN
    },
    DriverRule {
        id: "igb-82576",
        driver: "igb",
        cards: "82576",
        filters_all: Some(false),
        receive: Receive::PtpOnly,
        slots: Slots::Few(1),
        native: since(5, 10),
        quirks: &[Quirk::Port319],
        source: "igb_ptp.c",
        ..PLAIN
    },
    DriverRule {
        id: "igc",
        driver: "igc",
        cards: "I225, I226",
        receive: Receive::All,
        xdp_receive: since(6, 5),
        af_xdp_transmit: since(6, 10),
        slots: Slots::Few(4),
        native: since(5, 13),
        zero_copy: since(5, 14),
        source: "commit d677266755c6; igc_main.c",
        ..PLAIN
    },
    DriverRule {
        id: "stmmac",
        driver: "st_gmac",
        cards: "DesignWare; what ethtool -T says of the variant",
        receive: Receive::All,
        xdp_receive: since(6, 12),
        af_xdp_transmit: since(6, 12),
        slots: Slots::Few(1),
        native: since(5, 13),
        zero_copy: since(5, 13),
        source: "stmmac_main.c; slots not read, one is safe",
        ..PLAIN
    },
    DriverRule {
        id: "idpf",
        driver: "idpf",
        cards: "IPU E2000",
        receive: Receive::All,
        xdp_receive: since(7, 2),
        slots: Slots::Few(1),
        native: since(7, 2),
        zero_copy: since(7, 2),
        source: "idpf in 7.2; slots not read, one is safe",
        ..PLAIN
    },
    DriverRule {
        id: "gve",
        driver: "gve",
        cards: "Google gVNIC",
        receive: Receive::All,
        xdp_receive: since(7, 2),
        native: since(6, 4),
        zero_copy: since(6, 4),
        source: "gve in 7.2: transmit stamping must be off",
        ..PLAIN
    },
    DriverRule {
        id: "ena",
        driver: "ena",
        cards: "Amazon ENA",
        native: since(5, 6),
        source: "mainline has a PHC (7.2) and no packet stamps; the out-of-tree driver has some (amzn-drivers #298)",
        ..PLAIN
    },
    DriverRule {
        id: "virtio",
        driver: "virtio_net",
        cards: "a virtual machine's",
        native: since(4, 10),
        zero_copy: since(6, 11),
        source: "virtio_net.h: no timestamp feature in 7.3",
        ..PLAIN
    },
    DriverRule {
        id: "veth",
        driver: "veth",
        cards: "a pair of virtual ports",
        native: since(4, 19),
        source: "veth.c: hands on a hardware stamp that nobody sets",
        ..PLAIN
    },
];

impl DriverRule {
    /// The row of a driver, or of a row's own name; `ts` picks among several rows of one driver.
    pub fn find(driver: &str, ts: Option<&TsInfo>) -> Option<&'static Self> {
        let all = ts.is_some_and(TsInfo::filters_all);
        RULES.iter().find(|rule| rule.id == driver && rule.driver != driver).or_else(|| {
            RULES.iter().find(|rule| rule.driver == driver && rule.filters_all.is_none_or(|wanted| wanted == all))
        })
    }

    /// Whether the driver is known for this.
    pub fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }
}

impl Since {
    /// Whether `kernel` is that far.
    pub fn is_in(self, kernel: KernelVersion) -> bool {
        match self {
            Self::Never => false,
            Self::Kernel(major, minor) => kernel >= KernelVersion(major, minor),
        }
    }
}

/// `6.3`, or nothing.
impl std::fmt::Display for Since {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("no"),
            Self::Kernel(major, minor) => write!(f, "Linux {major}.{minor}"),
        }
    }
}

impl Serialize for Since {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never => serializer.serialize_none(),
            Self::Kernel(major, minor) => serializer.collect_str(&format_args!("{major}.{minor}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_source() {
        let names: HashSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(names.len(), RULES.len());
        for rule in RULES {
            assert!(!rule.source.is_empty() && !rule.driver.is_empty() && !rule.cards.is_empty(), "{}", rule.id);
            assert_eq!(rule.has(Quirk::Port319), rule.receive == Receive::PtpOnly, "{}", rule.id);
            // The latch is a register of PTP cards, the tail one of cards that stamp all.
            assert!(!rule.has(Quirk::Latch) || rule.receive == Receive::PtpOnly, "{}", rule.id);
            assert!(!rule.has(Quirk::Tail) || rule.receive == Receive::All, "{}", rule.id);
            let several = RULES.iter().filter(|other| other.driver == rule.driver).count() > 1;
            assert_eq!(several, rule.filters_all.is_some(), "{}: rows of one driver must be told apart", rule.id);
        }
    }

    #[test]
    fn of_the_four_big_drivers_mlx5_alone_stamps_inside_xdp() {
        for driver in ["mlx5_core", "ixgbe", "i40e", "bnxt_en"] {
            for rule in RULES.iter().filter(|rule| rule.driver == driver) {
                assert_eq!(rule.xdp_receive.is_in(KernelVersion(7, 3)), driver == "mlx5_core");
                assert_eq!(rule.af_xdp_transmit.is_in(KernelVersion(7, 3)), driver == "mlx5_core");
            }
        }
        assert!(!Since::Kernel(6, 3).is_in(KernelVersion(6, 1)) && Since::Kernel(6, 3).is_in(KernelVersion(6, 3)));
    }
}
