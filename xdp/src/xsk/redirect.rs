//! The XDP program that feeds the sockets: it picks our datagrams out of a queue and writes before each when it came.

use std::{fmt, net::IpAddr, os::fd::OwnedFd};

use aya::{
    EbpfLoader, include_bytes_aligned,
    maps::{MapData, PerCpuArray},
};

use super::XskSocket;
use crate::{
    AttachedMode, Error, XdpMode, XdpQuirks,
    attach::{self, Attachment},
    config::check_unicast,
    entry::{self, Entries, Put},
    interface::Interface,
    maps::{self, Addresses, Sockets},
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/afxdp.bpf.o"));

/// Whether to ask the card when a packet came (`bpf_xdp_metadata_rx_timestamp`, Linux 6.3 and a driver that has it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicStamps {
    /// Where kernel, driver and mode allow it; [`Redirect::nic_stamps_refused`] says why not.
    #[default]
    Auto,
    /// Refused where it is not to be had. That the driver is asked does not say that it answers: see [`super::Record::nic`].
    Require,
    /// Never.
    Off,
}

/// What to take off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectConfig {
    /// UDP destination port, not 0.
    pub port: u16,
    /// The addresses that are ours; empty takes those of the interface when the program is attached.
    pub local: Vec<IpAddr>,
    /// Native or generic XDP.
    pub mode: XdpMode,
    /// Whether to ask the card.
    pub nic_stamps: NicStamps,
    /// What the port's card does that the program must know of.
    pub quirks: XdpQuirks,
}

impl RedirectConfig {
    /// Datagrams to `port` and the interface's own addresses, in the best mode with the best stamps.
    pub fn new(port: u16) -> Self {
        Self {
            port,
            local: Vec::new(),
            mode: XdpMode::default(),
            nic_stamps: NicStamps::default(),
            quirks: XdpQuirks::default(),
        }
    }
}

/// `enum redirect_counter`: what became of packets since the program was attached, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedirectCounters {
    /// Not ours: left to the stack as they were.
    pub passed: u64,
    /// To the socket of their queue, with a record.
    pub redirected: u64,
    /// To the socket, without a record: the driver leaves no room for metadata.
    pub redirected_bare: u64,
    /// Ours, but no socket is bound to their queue: left to the stack.
    pub no_socket: u64,
}

/// `REDIRECT_COUNTERS`.
const COUNTERS: usize = 4;

impl RedirectCounters {
    fn sum<'a>(processors: impl IntoIterator<Item = &'a [u64; COUNTERS]>) -> Self {
        processors.into_iter().fold(Self::default(), |total, [passed, redirected, redirected_bare, no_socket]| Self {
            passed: total.passed.wrapping_add(*passed),
            redirected: total.redirected.wrapping_add(*redirected),
            redirected_bare: total.redirected_bare.wrapping_add(*redirected_bare),
            no_socket: total.no_socket.wrapping_add(*no_socket),
        })
    }
}

/// The program on an interface, at work until dropped. Without sockets it passes everything.
///
/// The kernel takes it off when the process ends in whatever way, kill -9 included.
pub struct Redirect {
    // Fields drop in order: off the interface first, then out of the kernel.
    attachment: Attachment,
    _program: OwnedFd,
    sockets: Sockets,
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    addresses: Addresses,
    interface: Interface,
    local: Vec<IpAddr>,
    nic_stamps: Result<(), Option<Error>>,
}

impl Redirect {
    /// Loads the program and puts it on the interface.
    ///
    /// # Errors
    /// [`Error::PortZero`], [`Error::NotUnicast`], [`Error::TooManyAddresses`] for the configuration; [`Error::NoInterface`],
    /// [`Error::NotEthernet`], [`Error::NoAddress`] for the interface; [`Error::AlreadyAttached`] when it runs another
    /// program, which is left alone; [`Error::NativeRefused`] and [`Error::DeviceBoundRefused`] when what was asked for
    /// explicitly is not to be had; [`Error::NotPermitted`], [`Error::Load`], [`Error::Map`], [`Error::Attach`].
    pub fn attach(interface: &str, config: &RedirectConfig) -> Result<Self, Error> {
        if config.port == 0 {
            return Err(Error::PortZero);
        }
        config.local.iter().try_for_each(|address| check_unicast(*address))?;
        let interface = Interface::find(interface)?;
        if !interface.ethernet {
            return Err(Error::NotEthernet { interface: interface.name });
        }
        attach::refuse_occupied(&interface)?;

        let mut ebpf = EbpfLoader::new()
            .override_global("PORT", &config.port.to_be(), true)
            .override_global("LEAVE_PTP", &u8::from(config.quirks.leave_ptp), true)
            .override_global("READ_TAIL", &u8::from(config.quirks.read_tail), true)
            .load(OBJECT)
            .map_err(|error| entry::refused("afxdp", error))?;
        let entries = Entries { object: OBJECT, plain: "afxdp", bound: "afxdp_bound" };
        let Put { program, attachment, nic_stamps } =
            entry::put(&mut ebpf, &entries, &interface, config.mode, config.nic_stamps)?;
        let mut redirect = Self {
            attachment,
            _program: program,
            sockets: Sockets::take(&mut ebpf)?,
            counters: maps::typed(&mut ebpf, "COUNTERS")?,
            addresses: Addresses::take(&mut ebpf)?,
            interface,
            local: config.local.clone(),
            nic_stamps,
        };
        redirect.update_addresses()?;
        redirect.announce();
        Ok(redirect)
    }

    /// Lets a socket receive what comes on its queue from now on.
    ///
    /// # Errors
    /// [`Error::OtherInterface`]; [`Error::Map`] when the queue is 1024 or above.
    pub fn add(&mut self, socket: &XskSocket) -> Result<(), Error> {
        self.sockets.add(socket, &self.interface)
    }

    /// The mode that it runs in.
    pub fn mode(&self) -> AttachedMode {
        self.attachment.mode
    }

    /// Why [`XdpMode::Auto`] became generic; `None` in native mode, and where generic was asked for.
    pub fn native_refused(&self) -> Option<&Error> {
        self.attachment.native_refused.as_ref()
    }

    /// Whether the driver is asked for each packet's stamp.
    pub fn asks_the_card(&self) -> bool {
        self.nic_stamps.is_ok()
    }

    /// Why [`NicStamps::Auto`] does not ask the card; `None` where it does, and where that was not wanted.
    pub fn nic_stamps_refused(&self) -> Option<&Error> {
        self.nic_stamps.as_ref().err().and_then(Option::as_ref)
    }

    /// What became of the packets.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<RedirectCounters, Error> {
        let processors = self.counters.get(&0, 0).map_err(|source| maps::failed("COUNTERS", source))?;
        Ok(RedirectCounters::sum(processors.iter()))
    }

    /// Reads the interface's addresses again, where they were not named. New ones are taken only after this.
    ///
    /// # Errors
    /// [`Error::NoAddress`], [`Error::TooManyAddresses`], [`Error::Netlink`], [`Error::Map`].
    pub fn update_addresses(&mut self) -> Result<(), Error> {
        let local = if self.local.is_empty() { self.interface.addresses()?.0 } else { self.local.clone() };
        if local.is_empty() {
            return Err(Error::NoAddress { interface: self.interface.name.clone() });
        }
        self.addresses.set(&local, &[])
    }
}

impl Redirect {
    fn announce(&self) {
        let (interface, mode) = (&self.interface.name, self.mode());
        tracing::debug!(interface, %mode, asks_the_card = self.asks_the_card(), "AF_XDP program attached");
        if let Some(why) = self.native_refused() {
            tracing::info!(interface, "not in native mode: {why}");
        }
        if let Some(why) = self.nic_stamps_refused() {
            tracing::info!(interface, "no NIC receive stamps: {why}");
        }
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect")
            .field("interface", &self.interface.name)
            .field("mode", &self.attachment.mode)
            .field("nic_stamps", &self.nic_stamps)
            .finish_non_exhaustive() // aya's maps have no Debug
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xsk::metadata::{MAGIC, NIC_TAIL, RECORD_LENGTH};

    const ABI_H: &str = include_str!("../../bpf/abi.h");

    #[test]
    fn counters_are_those_of_the_header_in_its_order() {
        let (_, rest) = ABI_H.split_once("enum redirect_counter {").expect("the enum");
        let (body, _) = rest.split_once('}').expect("its end");
        let names: Vec<&str> =
            body.lines().filter_map(|line| line.trim().split_once(',')).map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "REDIRECT_PASSED",
                "REDIRECT_REDIRECTED",
                "REDIRECT_REDIRECTED_BARE",
                "REDIRECT_NO_SOCKET",
                "REDIRECT_COUNTERS"
            ]
        );
        assert!(ABI_H.contains(&format!("sizeof(struct redirect_counters) == {}", size_of::<RedirectCounters>())));
        let total = RedirectCounters::sum(&[[1, 2, 3, 4], [10, 20, 30, 40]]);
        assert_eq!(total, RedirectCounters { passed: 11, redirected: 22, redirected_bare: 33, no_socket: 44 });
    }

    #[test]
    fn the_record_is_that_of_the_header() {
        assert!(ABI_H.contains(&format!("sizeof(struct xsk_record) == {RECORD_LENGTH}")));
        assert!(ABI_H.contains(&format!("#define XSK_NIC_TAIL {NIC_TAIL}\t")));
        assert!(ABI_H.contains(&format!("#define XSK_RECORD_MAGIC {MAGIC:#x}\n")));
    }

    #[test]
    fn port_zero_and_group_addresses_are_refused_before_the_kernel_is_asked() {
        assert!(matches!(Redirect::attach("lo", &RedirectConfig::new(0)), Err(Error::PortZero)));
        let group = RedirectConfig { local: vec!["224.0.0.1".parse().unwrap()], ..RedirectConfig::new(862) };
        assert!(matches!(Redirect::attach("lo", &group), Err(Error::NotUnicast { .. })));
    }
}
