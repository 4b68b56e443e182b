//! The Session-Reflector in the driver: loaded, told whom to answer for, attached, read, and gone when dropped.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
};

use aya::EbpfLoader;

use crate::{
    AttachedMode, Counters, Error, TestRunOutcome, XdpMode, XdpReflectorConfig,
    attach::{self, Attachment},
    clock::tai_minus_utc,
    config::{self, HandOver, XdpQuirks},
    entry::{self, Entries, Put},
    interface::Interface,
    maps::Maps,
    object::Object,
    rates,
    xsk::{NicStamps, XskSocket},
};

const REFLECTOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reflector.bpf.o"));
const ENTRIES: Entries = Entries { object: REFLECTOR, plain: "reflector", bound: "reflector_bound" };
const PASS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pass.bpf.o"));

/// Clocks that stand still, for vectors; in the default all run.
#[derive(Default)]
struct Fixed {
    /// T2 and T3 of every reply, 64-bit NTP timestamps; both 0 read the clock.
    t2: u64,
    t3: u64,
    /// The limits' clock is what is written to its map.
    rates: bool,
}

/// The reflector in the kernel, on no interface yet. Good for test runs: a frame in, a verdict and a frame out.
#[derive(Debug)]
pub struct ReflectorProgram {
    object: Object,
    maps: Maps,
}

impl ReflectorProgram {
    /// Loads the program; it answers for `config.local` alone.
    ///
    /// # Errors
    /// [`Error::PortZero`], [`Error::NotUnicast`], [`Error::ErrorEstimate`], [`Error::TooManyAddresses`] for the configuration;
    /// [`Error::NotPermitted`], [`Error::Load`], [`Error::Clock`] and [`Error::Map`] from the kernel.
    pub fn load(config: &XdpReflectorConfig) -> Result<Self, Error> {
        Self::load_with(config, &Fixed::default())
    }

    /// The same with a stopped clock: T2 and T3 of every reply are these 64-bit NTP timestamps. For byte vectors; if both are 0 the
    /// clock is read.
    ///
    /// # Errors
    /// As [`ReflectorProgram::load`].
    pub fn load_with_fixed_clock(config: &XdpReflectorConfig, t2: u64, t3: u64) -> Result<Self, Error> {
        Self::load_with(config, &Fixed { t2, t3, rates: false })
    }

    /// The same with a clock for [`XdpReflectorConfig::limits`] that stands at 0 until [`Self::set_rate_clock`]. For vectors.
    ///
    /// # Errors
    /// As [`ReflectorProgram::load`].
    pub fn load_with_fixed_rate_clock(config: &XdpReflectorConfig) -> Result<Self, Error> {
        Self::load_with(config, &Fixed { rates: true, ..Fixed::default() })
    }

    fn load_with(config: &XdpReflectorConfig, fixed: &Fixed) -> Result<Self, Error> {
        Self::with_maps(Self::object(config, fixed)?, config)
    }

    fn object(config: &XdpReflectorConfig, fixed: &Fixed) -> Result<Object, Error> {
        config.check()?;
        let mut loader = EbpfLoader::new();
        let (hand_over, allowlist) = (config.hand_over.number(), u8::from(!config.allow.is_empty()));
        let XdpQuirks { leave_ptp, read_tail } = config.quirks;
        let (leave_ptp, read_tail) = (u8::from(leave_ptp), u8::from(read_tail));
        // as it stands in a packet
        let port = config.port.to_be();
        let least: u16 = if config.authenticated { 112 } else { 44 };
        let fixed_clock = u8::from(fixed.t2 != 0 || fixed.t3 != 0);
        let rates = rates::Globals::new(&config.limits, fixed.rates);
        rates.apply(&mut loader);
        loader
            .override_global("LEAVE_PTP", &leave_ptp, true)
            .override_global("READ_TAIL", &read_tail, true)
            .override_global("PORT", &port, true)
            .override_global("HAND_OVER", &hand_over, true)
            .override_global("LEAST", &least, true)
            .override_global("ALLOWLIST", &allowlist, true)
            .override_global("FIXED_CLOCK", &fixed_clock, true)
            .override_global("FIXED_T2", &fixed.t2, true)
            .override_global("FIXED_T3", &fixed.t3, true);
        Object::load(&mut loader, REFLECTOR, ENTRIES.plain)
    }

    /// Takes the maps out of the object: from here on no other entry of it can be loaded.
    fn with_maps(mut object: Object, config: &XdpReflectorConfig) -> Result<Self, Error> {
        let mut maps = Maps::take(&mut object.ebpf)?;
        maps.set_clock(tai_minus_utc()?, config.error_estimate)?;
        maps.allow(&config.allow)?;
        maps.set_addresses(&config.local, &[])?;
        Ok(Self { object, maps })
    }

    /// Runs the program on one Ethernet frame of 14 to about 3,500 octets, without an interface (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// [`Error::TestRun`].
    pub fn test_run(&self, frame: &[u8]) -> Result<TestRunOutcome, Error> {
        self.object.test_run(frame)
    }

    /// The counters since the program was loaded.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<Counters, Error> {
        self.maps.counters()
    }

    /// Answers for `local` alone from now on, and never to `broadcast`, the broadcast addresses of our networks.
    ///
    /// # Errors
    /// [`Error::NotUnicast`], [`Error::TooManyAddresses`], [`Error::Map`].
    pub fn set_addresses(&mut self, local: &[IpAddr], broadcast: &[Ipv4Addr]) -> Result<(), Error> {
        local.iter().try_for_each(|address| config::check_unicast(*address))?;
        self.maps.set_addresses(local, broadcast)
    }

    /// [`XdpReflector::add`], for test runs, which take place on the loopback interface.
    ///
    /// # Errors
    /// As there.
    pub fn add(&mut self, socket: &XskSocket) -> Result<(), Error> {
        self.maps.add_socket(socket, &Interface::find("lo")?)
    }

    /// Sets the clock of [`Self::load_with_fixed_rate_clock`], in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_rate_clock(&mut self, nanos: i64) -> Result<(), Error> {
        self.maps.set_rate_clock(nanos)
    }

    /// Takes over the system's present TAI offset and a new Error Estimate.
    ///
    /// # Errors
    /// [`Error::Clock`], [`Error::ErrorEstimate`], [`Error::Map`].
    pub fn update_clock(&mut self, error_estimate: u16) -> Result<(), Error> {
        config::check_error_estimate(error_estimate)?;
        self.maps.set_clock(tai_minus_utc()?, error_estimate)
    }
}

/// A Session-Reflector in the driver, at work until dropped.
///
/// The kernel removes it when the process ends in whatever way, kill -9 included.
#[derive(Debug)]
pub struct XdpReflector {
    // Fields drop in order: off the interface first, then out of the kernel.
    attachment: Attachment,
    _entry: OwnedFd,
    program: ReflectorProgram,
    interface: Interface,
    config: XdpReflectorConfig,
    nic_stamps: Result<(), Option<Error>>,
}

impl XdpReflector {
    /// Loads the reflector and puts it on the interface.
    ///
    /// # Errors
    /// What [`ReflectorProgram::load`] gives; [`Error::NoInterface`], [`Error::NotEthernet`] and [`Error::NoAddress`] for the
    /// interface; [`Error::AlreadyAttached`] when it runs another program, which is left alone; [`Error::NativeRefused`] when
    /// native mode was asked for and is not to be had; [`Error::DeviceBoundRefused`] when the card's stamps were; [`Error::Attach`].
    pub fn attach(interface: &str, config: &XdpReflectorConfig) -> Result<Self, Error> {
        config.check()?;
        let interface = Interface::find(interface)?;
        if !interface.ethernet {
            return Err(Error::NotEthernet { interface: interface.name });
        }
        attach::refuse_occupied(&interface)?;
        let mut object = ReflectorProgram::object(config, &Fixed::default())?;
        // only what is handed over can carry a stamp of the card's
        let nic_stamps = if config.hand_over == HandOver::Nothing { NicStamps::Off } else { config.nic_stamps };
        // It passes everything until it has addresses.
        let Put { program: entry, attachment, nic_stamps } =
            entry::put(&mut object.ebpf, &ENTRIES, &interface, config.mode, nic_stamps)?;
        let mut program = ReflectorProgram::with_maps(object, config)?;
        apply_addresses(&mut program, &interface, config)?;
        announce(&interface, &attachment, "STAMP reflector");
        if interface.veth && attachment.mode == AttachedMode::Native {
            tracing::info!(
                interface = interface.name,
                "a veth: replies are lost unless its peer runs an XDP program too, and has `ethtool -K PEER tx off`"
            );
        }
        Ok(Self { attachment, _entry: entry, program, interface, config: config.clone(), nic_stamps })
    }

    /// Lets an AF_XDP socket receive what is handed over on its queue ([`XdpReflectorConfig::hand_over`]) from now on, each packet
    /// with a [`crate::xsk::Record`]. The kernel takes a socket that is closed out again.
    ///
    /// # Errors
    /// [`Error::OtherInterface`]; [`Error::Map`] when the queue is 1024 or above.
    pub fn add(&mut self, socket: &XskSocket) -> Result<(), Error> {
        self.program.maps.add_socket(socket, &self.interface)
    }

    /// How many queues the interface has, as far as its driver tells: those that want a socket when packets are handed over.
    ///
    /// # Errors
    /// [`Error::Queues`].
    pub fn queues(&self) -> Result<u32, Error> {
        self.interface.queues()
    }

    /// Why [`NicStamps::Auto`] does not ask the card; `None` where it does, and where nothing is handed over.
    pub fn nic_stamps_refused(&self) -> Option<&Error> {
        self.nic_stamps.as_ref().err().and_then(Option::as_ref)
    }

    /// The mode that it runs in.
    pub fn mode(&self) -> AttachedMode {
        self.attachment.mode
    }

    /// Why [`XdpMode::Auto`] became generic; `None` in native mode, and where generic was asked for.
    pub fn native_refused(&self) -> Option<&Error> {
        self.attachment.native_refused.as_ref()
    }

    /// The counters since it was attached.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<Counters, Error> {
        self.program.counters()
    }

    /// Takes over the system's present TAI offset and a new Error Estimate (see [`XdpReflectorConfig::error_estimate`]).
    ///
    /// The stamps come from `CLOCK_TAI`; until this is called after a leap second, or after `chronyd` has set the offset for
    /// the first time, they are wrong by what it changed. Once a second is often enough.
    ///
    /// # Errors
    /// [`Error::Clock`], [`Error::ErrorEstimate`], [`Error::Map`].
    pub fn update_clock(&mut self, error_estimate: u16) -> Result<(), Error> {
        self.program.update_clock(error_estimate)
    }

    /// Reads the interface's addresses again. New ones are answered only after this.
    ///
    /// # Errors
    /// [`Error::NoAddress`], [`Error::TooManyAddresses`], [`Error::Netlink`], [`Error::Map`].
    pub fn update_addresses(&mut self) -> Result<(), Error> {
        apply_addresses(&mut self.program, &self.interface, &self.config)
    }
}

/// An XDP program that passes everything: what the far end of a veth needs so that XDP_TX can reach it.
#[derive(Debug)]
pub struct XdpPass {
    attachment: Attachment,
    _object: Object,
}

impl XdpPass {
    /// Puts the program on the interface; it goes when dropped.
    ///
    /// # Errors
    /// As [`XdpReflector::attach`]. [`Error::AlreadyAttached`] says that the veth end has what it needs.
    pub fn attach(interface: &str, mode: XdpMode) -> Result<Self, Error> {
        let interface = Interface::find(interface)?;
        attach::refuse_occupied(&interface)?;
        let object = Object::load(&mut EbpfLoader::new(), PASS, "pass")?;
        let attachment = Attachment::new(&interface, object.fd()?, mode)?;
        announce(&interface, &attachment, "pass-all program");
        Ok(Self { attachment, _object: object })
    }

    /// The mode that it runs in.
    pub fn mode(&self) -> AttachedMode {
        self.attachment.mode
    }
}

fn announce(interface: &Interface, attachment: &Attachment, what: &str) {
    let mode = attachment.mode;
    match &attachment.native_refused {
        None => tracing::info!(interface = interface.name, %mode, "{what} attached"),
        Some(why) => tracing::info!(interface = interface.name, %mode, "{what} attached; {why}"),
    }
}

fn apply_addresses(
    program: &mut ReflectorProgram,
    interface: &Interface,
    config: &XdpReflectorConfig,
) -> Result<(), Error> {
    let (own, broadcast) = interface.addresses()?;
    let local = if config.local.is_empty() { own } else { config.local.clone() };
    if local.is_empty() {
        return Err(Error::NoAddress { interface: interface.name.clone() });
    }
    program.maps.set_addresses(&local, &broadcast)
}
