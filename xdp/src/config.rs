//! What the reflector is told, and what of it is refused before the kernel is asked.

use std::net::{IpAddr, Ipv4Addr};

use pathlab_record::Prefix;

use crate::{Error, Limits, XdpMode, allow, nic::Plan, xsk::NicStamps};

/// Which of the requests that deserve a reply the driver leaves to others: to the AF_XDP socket of their queue
/// ([`crate::XdpReflector::add`]), or, where there is none, to the stack and so to a UDP socket.
///
/// What deserves none (too short, from our own port, from an address that no reply may go to) is dropped in the driver in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandOver {
    /// It answers all of them itself. What follows the base packet is reflected as it came; frames that go on after the datagram
    /// (a card's own stamp) pass.
    #[default]
    Nothing,
    /// It answers base packets of 44 octets; longer ones, which carry TLVs, and frames that go on after the datagram are handed over.
    Longer,
    /// It answers none: what an authenticated or stateful reflector needs.
    All,
}

impl HandOver {
    /// `enum hand_over`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Longer => 1,
            Self::All => 2,
        }
    }
}

/// How the reflector is to behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpReflectorConfig {
    /// The UDP port to answer on; 862 is STAMP's.
    pub port: u16,
    /// The addresses to answer for. Empty: those that the interface has when the reflector is attached.
    ///
    /// What is addressed elsewhere passes, also when it is routed through this host.
    pub local: Vec<IpAddr>,
    /// The sources that are answered; empty: all. Others are dropped and counted
    /// ([`crate::Counter::NotAllowed`]), whatever [`Self::hand_over`] says.
    pub allow: Vec<Prefix>,
    /// How many replies; for [`HandOver::Longer`] what is handed over counts as replied, whatever user space makes of it, and for
    /// [`HandOver::All`] these are not looked at: who makes all replies limits them.
    pub limits: Limits,
    /// Which mode to ask for.
    pub mode: XdpMode,
    /// The Error Estimate of every reply until [`crate::XdpReflector::update_clock`] says another: S, Z, Scale, Multiplier
    /// (RFC 8762, section 4.2.1) in host order. Z must be 0 and Multiplier must not.
    pub error_estimate: u16,
    /// What is not answered in the driver.
    pub hand_over: HandOver,
    /// Only authenticated packets are answered, by whom [`Self::hand_over`] hands them to: what has no room for an HMAC, under 112 octets, is dropped and
    /// counted ([`crate::Counter::Unauthenticated`]) before it takes a place in a ring. The HMAC itself is not looked at here.
    pub authenticated: bool,
    /// Whether to ask the card when a packet that is handed to AF_XDP came. Nothing else is stamped by the card here.
    pub nic_stamps: NicStamps,
    /// What the port's card does that the program must know of.
    pub quirks: XdpQuirks,
}

/// What some cards do that an XDP program must know of: [`crate::nic::Plan`] says for a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpQuirks {
    /// Pass UDP port 319 whatever is asked for: the stamps of PTP packets sit in registers that the socket path alone empties.
    pub leave_ptp: bool,
    /// The card appends 8 octets to each frame: read them as its stamp, and cut them off what does not go to the stack. Frames with
    /// anything else behind the datagram are as without.
    pub read_tail: bool,
}

impl From<&Plan> for XdpQuirks {
    fn from(plan: &Plan) -> Self {
        Self { leave_ptp: plan.leave_ptp, read_tail: plan.read_tail }
    }
}

impl XdpReflectorConfig {
    /// Unsynchronised, and wrong by up to 255 seconds: what a reflector that has not measured its clock may claim.
    pub const UNSYNCHRONISED: u16 = 0x20ff;

    /// Answers on `port` for all addresses of the interface.
    pub fn new(port: u16) -> Self {
        Self {
            port,
            local: Vec::new(),
            allow: Vec::new(),
            limits: Limits::default(),
            mode: XdpMode::Auto,
            error_estimate: Self::UNSYNCHRONISED,
            hand_over: HandOver::Nothing,
            authenticated: false,
            nic_stamps: NicStamps::Auto,
            quirks: XdpQuirks::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.port == 0 {
            return Err(Error::PortZero);
        }
        check_error_estimate(self.error_estimate)?;
        allow::check(&self.allow)?;
        self.local.iter().try_for_each(|address| check_unicast(*address))
    }
}

pub(crate) fn check_error_estimate(value: u16) -> Result<(), Error> {
    const Z: u16 = 1 << 14;
    const MULTIPLIER: u16 = 0xff;
    if value & Z != 0 || value & MULTIPLIER == 0 { Err(Error::ErrorEstimate { value }) } else { Ok(()) }
}

pub(crate) fn check_unicast(address: IpAddr) -> Result<(), Error> {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Error::NotUnicast { address });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_estimates_of_ptp_or_without_multiplier_are_refused() {
        for good in [0x0001, XdpReflectorConfig::UNSYNCHRONISED, 0x8b01, 0xbfff] {
            assert!(check_error_estimate(good).is_ok(), "{good:#06x}");
        }
        for bad in [0x0000, 0x4001, 0x8b00, 0xffff] {
            let error = check_error_estimate(bad).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("error estimate {bad:#06x}")), "{error}");
        }
    }

    #[test]
    fn hand_over_is_that_of_the_header() {
        let header = include_str!("../bpf/abi.h");
        for (hand_over, name) in [(HandOver::Nothing, "NOTHING"), (HandOver::Longer, "LONGER"), (HandOver::All, "ALL")]
        {
            assert!(header.contains(&format!("HAND_OVER_{name} = {},", hand_over.number())));
        }
    }

    #[test]
    fn no_port_and_no_single_host_are_refused() {
        assert!(matches!(XdpReflectorConfig::new(0).check(), Err(Error::PortZero)));
        for address in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
            let local = vec![address.parse().expect("an address")];
            let refused = XdpReflectorConfig { local, ..XdpReflectorConfig::new(862) }.check();
            assert!(matches!(refused, Err(Error::NotUnicast { .. })), "{address}");
        }
    }
}
