//! `--timestamps`: from a wish and a port to sockets that ask for the right stamps and a card that takes them.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use pathlab_guard::capabilities::Keep;
use pathlab_reflector::datapath::{SocketOptions, TransmitSlots};
use pathlab_xdp::{
    XdpQuirks,
    clock::{ClockDevice, ClockFacts, NicClock, Phc, PhcTracker},
    nic::{NicFacts, Plan, PlanOptions, interface_of},
    timestamping::{
        hwtstamp::{self, Claim},
        ptp4l,
    },
    xsk::NicStamps,
};
use tracing::{debug, info, warn};

use crate::{exit::Misuse, guardian};

/// The fit of a card's clock takes some two seconds.
const SETTLE: Duration = Duration::from_secs(3);

/// Whose stamps to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Timestamps {
    // the card's where it has them, beside the kernel's
    #[default]
    Auto,
    // the card's; refused where it has none
    Nic,
    // the kernel's alone; the card is left as it is
    Software,
}

impl Timestamps {
    /// For `run.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nic => "nic",
            Self::Software => "software",
        }
    }
}

/// A port that stamps, for as long as this lives: what was changed on it is taken back on drop, or by the guardian.
#[derive(Default)]
pub(crate) struct Arranged {
    plan: Option<Plan>,
    slots: Option<TransmitSlots>,
    clock: Option<Arc<PhcTracker>>,
    claim: Option<Claim>,
}

impl Arranged {
    /// Makes the card of `interface` stamp as far as wished and possible. Call it before any socket is opened.
    pub(crate) fn new(wish: Timestamps, interface: Option<&str>, options: PlanOptions, verb: &str) -> Result<Self> {
        let Some(interface) = interface.filter(|_| wish != Timestamps::Software) else {
            if wish == Timestamps::Nic {
                let why = "--timestamps nic: which card? Name its interface with --iface, or an address of it";
                return Err(Misuse(why.into()).into());
            }
            return Ok(Self::default());
        };
        match Self::on_card(wish, interface, options, verb) {
            Ok(arranged) => Ok(arranged),
            Err(error) if wish == Timestamps::Auto => {
                debug!("timestamps auto: the kernel's: {error}");
                Ok(Self::default())
            }
            Err(error) => Err(error),
        }
    }

    fn on_card(wish: Timestamps, interface: &str, options: PlanOptions, verb: &str) -> Result<Self> {
        let facts = NicFacts::read(interface).map_err(|error| Misuse(format!("interface {interface}: {error}")))?;
        let ptp4l = ptp4l::on(interface).is_some();
        let plan = Plan::new(&facts, PlanOptions { ptp4l, ..options });
        if !plan.any_nic() {
            // What would help is for those who ask for the card: `--timestamps nic`, or the doctor.
            let why = plan.refusals.first().map_or_else(String::new, |no| match wish {
                Timestamps::Nic => format!("{}; {}", no.because, no.remedy),
                _ => no.because.clone(),
            });
            return Err(anyhow!("no stamps by the card of {interface}: {why}"));
        }
        let verb_words = guardian::verb();
        let verb_words: Vec<&OsStr> = verb_words.iter().map(AsRef::as_ref).collect();
        let claim = match plan.filter {
            Some(need) => Some(hwtstamp::claim(interface, need, verb, &verb_words)?),
            None => None,
        };
        if let Some(claim) = &claim {
            let [found, now] = [claim.found, claim.now].map(|config| hwtstamp::filter_name(config.rx_filter));
            if claim.found == claim.now {
                info!("{interface}: the card stamps `{now}` already");
            } else {
                warn!("{interface}: the card stamps `{now}` now, `{found}` before; that comes back at the end");
            }
        }
        for refusal in &plan.refusals {
            info!("{interface}: no {}: {}; {}", refusal.what, refusal.because, refusal.remedy);
        }
        let slots = plan.transmit_limit().map(TransmitSlots::new);
        let clock = clock_of(interface);
        Ok(Self { plan: Some(plan), slots, clock, claim })
    }

    /// Tells the card's stamps in UTC; absent where its clock cannot be compared with this host's.
    pub(crate) fn nic_clock(&self) -> Option<Arc<dyn NicClock>> {
        self.clock.clone().map(|clock| clock as Arc<dyn NicClock>)
    }

    /// What is known of the card's clock by now.
    pub(crate) fn clock(&self) -> Option<ClockFacts> {
        self.clock.as_ref().map(|clock| clock.facts())
    }

    /// Gives the card's clock the time that it takes to be told in UTC, so that the first stamps are.
    pub(crate) fn settle(&self) {
        if let Some(clock) = &self.clock
            && !clock.wait(SETTLE)
        {
            info!("the card's clock is not yet told in UTC: its first stamps stay on its own clock");
        }
    }

    /// Has sockets ask for the card's stamps.
    pub(crate) fn apply(&self, socket: SocketOptions) -> SocketOptions {
        SocketOptions {
            nic_receive_stamps: self.plan.as_ref().is_some_and(|plan| plan.filter.is_some()),
            nic_transmit_stamps: self.slots.clone(),
            ..socket
        }
    }

    /// What must be kept to put the card back at the end.
    pub(crate) fn keep(&self) -> Keep {
        if self.claim.is_some() { Keep::NetAdmin } else { Keep::Nothing }
    }

    /// What stamps are taken, for one line of log.
    pub(crate) fn words(&self) -> &'static str {
        match self {
            Self { plan: None, .. } => "kernel timestamps",
            Self { slots: Some(_), .. } => "timestamps of the kernel and the card",
            Self { .. } => "timestamps of the kernel, and of the card for what arrives",
        }
    }

    /// What XDP programs are to do about the card: a stamp behind the frame they read by themselves.
    pub(crate) fn in_xdp(&self, wish: Timestamps) -> NicStamps {
        match wish {
            Timestamps::Software => NicStamps::Off,
            _ if self.plan.as_ref().is_some_and(|plan| plan.read_tail) => NicStamps::Off,
            Timestamps::Auto => NicStamps::Auto,
            Timestamps::Nic => NicStamps::Require,
        }
    }
}

/// What XDP programs must know of the card, whoever's stamps are wished for: another on this host may have it stamp, and be harmed.
pub(crate) fn quirks_of(interface: &str) -> XdpQuirks {
    NicFacts::read(interface).map_or_else(
        // No such interface is for whoever attaches to say.
        |_| XdpQuirks::default(),
        |facts| XdpQuirks::from(&Plan::new(&facts, PlanOptions::default())),
    )
}

/// Follows the clock of the card of `interface`; without it, the card's stamps stay on the card's own clock.
fn clock_of(interface: &str) -> Option<Arc<PhcTracker>> {
    let started = Phc::of(interface).and_then(|phc| {
        phc.map(|phc| {
            let words = format!("{} by {}", phc.name().unwrap_or("unnamed"), phc.method());
            PhcTracker::start(phc).map(|clock| (clock, words))
        })
        .transpose()
    });
    match started {
        Ok(Some((clock, words))) => {
            info!(
                "{interface}: the card's clock /dev/ptp{}, {words}, is told in UTC from some seconds on",
                clock.phc()
            );
            Some(Arc::new(clock))
        }
        Ok(None) => None,
        Err(error) => {
            warn!("{interface}: the card's stamps cannot be told in UTC: {error}");
            None
        }
    }
}

/// The port that has one of these addresses, if it is one port.
pub(crate) fn interface_with(addresses: &[SocketAddr]) -> Option<String> {
    let mut names = addresses.iter().map(|address| match address.ip() {
        ip if ip.is_unspecified() => None,
        ip => interface_of(ip).ok().flatten(),
    });
    let first = names.next()??;
    names.all(|name| name.as_ref() == Some(&first)).then_some(first)
}

/// The port by which this host would send to `target`, as the routing table has it now.
pub(crate) fn interface_towards(target: SocketAddr) -> Option<String> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a UDP socket sends nothing: it looks up the route.
    socket.connect(target).ok()?;
    interface_of(socket.local_addr().ok()?.ip()).ok().flatten()
}
