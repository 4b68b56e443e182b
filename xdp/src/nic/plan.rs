//! From facts and a rule to what will be stamped where: a pure function, the same for `reflect`, `probe` and `doctor`.

use serde::Serialize;

use super::{
    facts::{NicFacts, TsInfo},
    rules::{DriverRule, Quirk, Receive, Slots},
};
use crate::timestamping::hwtstamp::Need;

/// A point of the path where the card could stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Point {
    /// Probe send.
    A1,
    /// Reflector receive.
    B2,
    /// Reflector send.
    B3,
    /// Probe receive.
    A4,
}

/// By which way a card's stamp reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// `SO_TIMESTAMPING` on a UDP socket.
    Socket,
    /// `bpf_xdp_metadata_rx_timestamp` in the XDP program; on a socket, too.
    Xdp,
    /// The transmit metadata of an AF_XDP socket; on a UDP socket, too.
    AfXdp,
    /// The 8 octets that the card appends to the frame, read by the XDP program; on a socket by the driver.
    Tail,
}

/// What is stamped at one point, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stamping {
    /// Where.
    pub point: Point,
    /// How the card's stamp comes; `None`: it does not, and the stamp is software.
    pub nic: Option<Means>,
    /// Only some packets are asked for: the card has few registers.
    pub sampled: bool,
    /// In a reader's words.
    pub why: String,
}

/// Something that will not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What.
    pub what: &'static str,
    /// Why.
    pub because: String,
    /// What would help.
    pub remedy: String,
}

/// What the user chose beside the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// UDP 319 to 319 with sequence numbers that make a test packet look like PTP (experimental).
    pub ptp_shaped: bool,
    /// ptp4l works on the port.
    pub ptp4l: bool,
}

/// What will be stamped on one port, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The row of the table; `None` for a driver that is not in it.
    pub rule: Option<&'static DriverRule>,
    /// `A1`, `B2`, `B3`, `A4`.
    pub stampings: [Stamping; 4],
    /// How many transmit stamps of the card may be asked for at once.
    pub slots: Slots,
    /// What the card's receive filter must cover; `None` where its stamps are not wanted or not to be had.
    pub filter: Option<Need>,
    /// XDP programs must pass what looks like PTP.
    pub leave_ptp: bool,
    /// XDP programs may read the card's stamp from behind the frame, and must cut it.
    pub read_tail: bool,
    /// What will not be had, and what would help.
    pub refusals: Vec<Refusal>,
}

impl Plan {
    /// The plan for a port.
    pub fn new(facts: &NicFacts, options: PlanOptions) -> Self {
        let ts = facts.ts.unwrap_or_default();
        let rule = facts.driver.as_deref().and_then(|driver| DriverRule::find(driver, facts.ts.as_ref()));
        let has = |quirk| rule.is_some_and(|rule| rule.has(quirk));
        let receive = receive(rule, &ts);
        let slots = slots(rule, &ts, options);
        let stamped = match receive {
            Receive::All => true,
            Receive::PtpOnly => options.ptp_shaped,
            Receive::Nothing => false,
        };
        let filter = match receive {
            _ if !stamped => None,
            Receive::All => Some(Need::AllPackets),
            _ => Some(Need::PtpOverUdp),
        };
        let mut refusals = Vec::new();
        refuse(&mut refusals, facts, rule, receive, slots, options);
        let socket_receive = || stamped.then_some(Means::Socket);
        let xdp_receive = || rule.is_some_and(|rule| rule.xdp_receive.is_in(facts.kernel)) && stamped;
        let read_tail = has(Quirk::Tail) && stamped;
        let reflector_receive = match () {
            () if xdp_receive() => Some(Means::Xdp),
            () if read_tail => Some(Means::Tail),
            () => socket_receive(),
        };
        // A card that stamps PTP alone stamps only what looks like it on the way out as well.
        let sent = slots != Slots::Nothing && (receive != Receive::PtpOnly || options.ptp_shaped);
        let af_xdp = rule.is_some_and(|rule| rule.af_xdp_transmit.is_in(facts.kernel));
        let reflector_send = sent.then_some(if af_xdp { Means::AfXdp } else { Means::Socket });
        let sampled = sent && matches!(slots, Slots::Few(_));
        let at = |point, nic: Option<Means>, sampled| Stamping { point, nic, sampled, why: why(nic, sampled, slots) };
        Self {
            rule,
            stampings: [
                at(Point::A1, sent.then_some(Means::Socket), sampled),
                at(Point::B2, reflector_receive, false),
                at(Point::B3, reflector_send, sampled),
                at(Point::A4, socket_receive(), false),
            ],
            slots,
            filter,
            leave_ptp: has(Quirk::Latch),
            read_tail,
            refusals,
        }
    }

    /// Whether the card's stamp comes at a point.
    pub fn nic_at(&self, point: Point) -> Option<Means> {
        self.stampings.iter().find(|stamping| stamping.point == point).and_then(|stamping| stamping.nic)
    }

    /// Whether any stamp of the card's is to be had.
    pub fn any_nic(&self) -> bool {
        self.stampings.iter().any(|stamping| stamping.nic.is_some())
    }

    /// How many transmit stamps may be asked for at once, as [`Slots`] counts them: `Some(None)` for any number, `None` for none.
    pub fn transmit_limit(&self) -> Option<Option<u32>> {
        match self.slots {
            _ if self.nic_at(Point::A1).is_none() => None,
            Slots::Nothing => None,
            Slots::Few(limit) => Some(Some(limit)),
            Slots::Many => Some(None),
        }
    }
}

/// The table and the port must agree: what `ethtool -T` does not offer is not to be had, whatever the table says.
fn receive(rule: Option<&DriverRule>, ts: &TsInfo) -> Receive {
    match rule {
        Some(rule) if rule.receive == Receive::Nothing => Receive::Nothing,
        _ if !ts.stamps_received() => Receive::Nothing,
        Some(rule) => rule.receive,
        None if ts.filters_all() => Receive::All,
        None => Receive::PtpOnly,
    }
}

fn slots(rule: Option<&DriverRule>, ts: &TsInfo, options: PlanOptions) -> Slots {
    match rule {
        _ if !ts.stamps_sent() => Slots::Nothing,
        // A register that we take is one that ptp4l cannot have: its clock would jump.
        Some(DriverRule { slots: Slots::Few(_), .. }) | None if options.ptp4l => Slots::Nothing,
        Some(rule) => rule.slots,
        // Unknown: one is what the poorest card has.
        None => Slots::Few(1),
    }
}

fn why(nic: Option<Means>, sampled: bool, slots: Slots) -> String {
    let how = match nic {
        None => return "software: the card gives none here".into(),
        Some(Means::Socket) => "nic, on UDP sockets",
        Some(Means::Xdp) => "nic, to XDP and AF_XDP and on UDP sockets",
        Some(Means::AfXdp) => "nic, with AF_XDP completions and on UDP sockets",
        Some(Means::Tail) => {
            "nic, on UDP sockets; to XDP and AF_XDP in the 8 octets behind the frame, on a counter that cannot be told in UTC"
        }
    };
    match slots {
        Slots::Few(1) if sampled => format!("{how}, one packet at a time"),
        Slots::Few(count) if sampled => format!("{how}, {count} packets at a time"),
        _ => how.into(),
    }
}

fn refuse(
    refusals: &mut Vec<Refusal>,
    facts: &NicFacts,
    rule: Option<&DriverRule>,
    receive: Receive,
    slots: Slots,
    options: PlanOptions,
) {
    let driver = facts.driver.as_deref().unwrap_or("a port without a driver");
    let mut refuse = |what, because: String, remedy: String| refusals.push(Refusal { what, because, remedy });
    match (receive, rule) {
        (Receive::Nothing, Some(rule)) if rule.receive == Receive::Nothing => refuse(
            "receive stamps by the card",
            format!("{driver} stamps no packet ({})", rule.source),
            "a card whose driver does: mlx5, ice, igc, ixgbe X550, bnxt".into(),
        ),
        (Receive::Nothing, _) => refuse(
            "receive stamps by the card",
            format!("`ethtool -T {}` offers no hardware-receive for {driver}", facts.interface),
            "a kernel with PTP support for this driver (CONFIG_PTP_1588_CLOCK), or another card".into(),
        ),
        (Receive::PtpOnly, _) if !options.ptp_shaped => refuse(
            "receive stamps by the card of ordinary packets",
            format!("{driver} stamps PTP alone"),
            "--ptp-shaped on UDP port 319 at both ends (experimental)".into(),
        ),
        _ => {}
    }
    if slots == Slots::Nothing && options.ptp4l && facts.ts.is_some_and(|ts| ts.stamps_sent()) {
        refuse(
            "transmit stamps by the card",
            format!("ptp4l works on {}, whose card has few registers for them", facts.interface),
            "stop ptp4l, or do without".into(),
        );
    } else if slots == Slots::Nothing {
        refuse(
            "transmit stamps by the card",
            format!("{driver} stamps nothing that leaves"),
            "the kernel's stamp at the hand-over to the driver is what there is".into(),
        );
    }
    let Some(rule) = rule else {
        if receive == Receive::Nothing && slots == Slots::Nothing {
            return;
        }
        refuse(
            "stamps of the card in XDP",
            format!("{driver} is not in the table of drivers: what it gives to XDP is not known"),
            "stamps on UDP sockets are tried, one transmit stamp at a time".into(),
        );
        return;
    };
    if receive == Receive::All && !rule.xdp_receive.is_in(facts.kernel) && !rule.has(Quirk::Tail) {
        let remedy = match rule.xdp_receive {
            super::Since::Never => "--datapath socket, where the card's stamps come".into(),
            since => format!("{since}, or --datapath socket"),
        };
        refuse("receive stamps by the card in XDP and AF_XDP", format!("{driver} gives none to XDP programs"), remedy);
    }
    if slots != Slots::Nothing && !rule.af_xdp_transmit.is_in(facts.kernel) {
        let remedy = match rule.af_xdp_transmit {
            super::Since::Never => "--datapath socket, where the card's stamps come".into(),
            since => format!("{since}, or --datapath socket"),
        };
        refuse("transmit stamps by the card over AF_XDP", format!("{driver} gives none with completions"), remedy);
    }
    if rule.has(Quirk::Latch) {
        refuse(
            "the in-driver and AF_XDP datapaths for what looks like PTP",
            Quirk::Latch.sentence().into(),
            "--datapath socket for --ptp-shaped".into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::facts::KernelVersion, *};

    const HARDWARE: u32 = libc::SOF_TIMESTAMPING_RX_HARDWARE
        | libc::SOF_TIMESTAMPING_TX_HARDWARE
        | libc::SOF_TIMESTAMPING_RAW_HARDWARE
        | libc::SOF_TIMESTAMPING_RX_SOFTWARE;
    /// As `ethtool -T` shows them: none and all; none, V1 L4 sync, V1 L4 delay, V2 event.
    const ALL: u32 = 0b11;
    const PTP: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 12;

    fn card(driver: &str, rx_filters: u32, kernel: (u16, u16)) -> NicFacts {
        NicFacts {
            interface: "eth0".into(),
            driver: Some(driver.into()),
            kernel: KernelVersion(kernel.0, kernel.1),
            ts: Some(TsInfo { so_timestamping: HARDWARE, phc: Some(0), tx_types: 0b11, rx_filters }),
        }
    }

    fn no_card(driver: &str) -> NicFacts {
        let ts = TsInfo { so_timestamping: libc::SOF_TIMESTAMPING_RX_SOFTWARE, ..TsInfo::default() };
        NicFacts { ts: Some(ts), ..card(driver, 0, (6, 18)) }
    }

    fn means(plan: &Plan) -> [Option<Means>; 4] {
        [Point::A1, Point::B2, Point::B3, Point::A4].map(|point| plan.nic_at(point))
    }

    fn refused(plan: &Plan, what: &str) -> bool {
        plan.refusals.iter().any(|refusal| refusal.what.contains(what))
    }

    const ORDINARY: PlanOptions = PlanOptions { ptp_shaped: false, ptp4l: false };
    const SHAPED: PlanOptions = PlanOptions { ptp_shaped: true, ptp4l: false };
    use Means::{AfXdp, Socket, Tail, Xdp};

    #[test]
    fn mlx5_stamps_everywhere_and_every_packet() {
        let plan = Plan::new(&card("mlx5_core", ALL, (6, 12)), ORDINARY);
        assert_eq!(means(&plan), [Some(Socket), Some(Xdp), Some(AfXdp), Some(Socket)]);
        assert_eq!((plan.transmit_limit(), plan.filter), (Some(None), Some(Need::AllPackets)));
        assert!(plan.refusals.is_empty() && !plan.leave_ptp && !plan.read_tail, "{plan:?}");
        assert!(plan.stampings.iter().all(|stamping| !stamping.sampled));

        let old = Plan::new(&card("mlx5_core", ALL, (6, 1)), ORDINARY);
        assert_eq!(means(&old), [Some(Socket); 4]);
        assert!(old.refusals.iter().any(|refusal| refusal.remedy.contains("Linux 6.3")), "{:?}", old.refusals);
    }

    #[test]
    fn ixgbe_x550_reads_the_tail_and_samples_what_leaves() {
        let plan = Plan::new(&card("ixgbe", ALL, (6, 12)), ORDINARY);
        assert_eq!(plan.rule.map(|rule| rule.id), Some("ixgbe-x550"));
        assert_eq!(means(&plan), [Some(Socket), Some(Tail), Some(Socket), Some(Socket)]);
        assert_eq!(plan.transmit_limit(), Some(Some(1)));
        assert!(plan.read_tail && !plan.leave_ptp);
        assert!(refused(&plan, "over AF_XDP") && !refused(&plan, "in XDP"));
    }

    #[test]
    fn ixgbe_82599_and_i40e_stamp_ptp_alone_and_xdp_leaves_it_be() {
        for (driver, row) in [("ixgbe", "ixgbe-82599"), ("i40e", "i40e")] {
            let plan = Plan::new(&card(driver, PTP, (6, 12)), ORDINARY);
            assert_eq!(plan.rule.map(|rule| rule.id), Some(row));
            assert_eq!((means(&plan), plan.filter, plan.transmit_limit()), ([None; 4], None, None), "{driver}");
            assert!(plan.leave_ptp && refused(&plan, "ordinary packets"));

            let shaped = Plan::new(&card(driver, PTP, (6, 12)), SHAPED);
            assert_eq!(means(&shaped), [Some(Socket); 4]);
            assert_eq!((shaped.filter, shaped.transmit_limit()), (Some(Need::PtpOverUdp), Some(Some(1))));
            assert!(shaped.leave_ptp && !shaped.read_tail);
        }
    }

    #[test]
    fn bnxt_depends_on_its_firmware_and_has_four_slots() {
        let plan = Plan::new(&card("bnxt_en", ALL, (6, 12)), ORDINARY);
        assert_eq!(means(&plan), [Some(Socket); 4]);
        assert_eq!(plan.transmit_limit(), Some(Some(4)));
        assert!(refused(&plan, "in XDP"));
        let ptp = Plan::new(&card("bnxt_en", PTP, (6, 12)), ORDINARY);
        assert_eq!((ptp.rule.map(|rule| rule.id), means(&ptp)), (Some("bnxt-ptp"), [None; 4]));
    }

    #[test]
    fn virtio_and_veth_have_no_card_and_the_plan_says_what_one_would_add() {
        for driver in ["virtio_net", "veth"] {
            let plan = Plan::new(&no_card(driver), SHAPED);
            assert_eq!((means(&plan), plan.filter), ([None; 4], None));
            assert!(!plan.any_nic() && plan.transmit_limit().is_none());
            assert!(refused(&plan, "receive stamps by the card") && refused(&plan, "transmit stamps by the card"));
            assert!(plan.refusals.iter().all(|refusal| !refusal.remedy.is_empty()));
        }
    }

    #[test]
    fn ptp4l_keeps_the_few_registers_to_itself() {
        let beside = PlanOptions { ptp4l: true, ..ORDINARY };
        let plan = Plan::new(&card("ixgbe", ALL, (6, 12)), beside);
        assert_eq!(means(&plan), [None, Some(Tail), None, Some(Socket)]);
        assert!(plan.refusals.iter().any(|refusal| refusal.because.contains("ptp4l")), "{:?}", plan.refusals);
        let plan = Plan::new(&card("mlx5_core", ALL, (6, 12)), beside);
        assert_eq!(means(&plan), [Some(Socket), Some(Xdp), Some(AfXdp), Some(Socket)], "it has enough for both");
    }

    #[test]
    fn the_port_has_the_last_word_and_an_unknown_driver_is_tried_with_care() {
        let stamping_off = NicFacts { ts: None, ..card("mlx5_core", ALL, (6, 12)) };
        assert!(!Plan::new(&stamping_off, ORDINARY).any_nic());
        let unknown = Plan::new(&card("lan743x", ALL, (6, 12)), ORDINARY);
        assert_eq!((means(&unknown), unknown.transmit_limit()), ([Some(Socket); 4], Some(Some(1))));
        assert!(refused(&unknown, "stamps of the card in XDP"));
    }
}
