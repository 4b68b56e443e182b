//! What the kernel says of one port: the driver's name and what `ethtool -T` shows.

use std::{env, fs, io};

use serde::Serialize;

use crate::{
    Error,
    interface::{Interface, links},
    sys,
};

/// For tests on a port that is no card's: the name of a driver or of a row of the table to take the port for.
pub const PROFILE_VARIABLE: &str = "PATHLAB_TEST_DRIVER_PROFILE";

/// Major and minor number of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KernelVersion(pub u16, pub u16);

impl KernelVersion {
    /// The running one; 0.0 where `/proc` does not say.
    pub fn running() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::parse(&release).unwrap_or(Self(0, 0))
    }

    /// `6.18.5-cloud-amd64` and the like.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// `struct ethtool_ts_info`: what a port can stamp (`ethtool -T`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TsInfo {
    /// `SOF_TIMESTAMPING_*`.
    pub so_timestamping: u32,
    /// `/dev/ptpN`, where the card has a clock.
    pub phc: Option<u32>,
    /// A bit for each of `enum hwtstamp_tx_types`.
    pub tx_types: u32,
    /// A bit for each of `enum hwtstamp_rx_filters`.
    pub rx_filters: u32,
}

/// `HWTSTAMP_TX_ON`.
const TX_ON: u32 = 1;
/// `HWTSTAMP_FILTER_ALL`.
const FILTER_ALL: u32 = 1;

impl TsInfo {
    /// `ETHTOOL_GET_TS_INFO`, in the caller's network namespace; needs no privilege.
    ///
    /// # Errors
    /// As the kernel gave it: `ENODEV`, `EOPNOTSUPP`.
    pub fn read(interface: &str) -> io::Result<Self> {
        sys::ethtool_ts_info(interface)
    }

    /// Whether the card can be told to stamp every packet that comes in.
    pub fn filters_all(&self) -> bool {
        self.stamps_received() && self.rx_filters & (1 << FILTER_ALL) != 0
    }

    /// Whether it can be told to stamp anything that comes in.
    pub fn stamps_received(&self) -> bool {
        let needed = libc::SOF_TIMESTAMPING_RX_HARDWARE | libc::SOF_TIMESTAMPING_RAW_HARDWARE;
        self.so_timestamping & needed == needed && self.rx_filters > 1
    }

    /// Whether it can be told to stamp what leaves.
    pub fn stamps_sent(&self) -> bool {
        let needed = libc::SOF_TIMESTAMPING_TX_HARDWARE | libc::SOF_TIMESTAMPING_RAW_HARDWARE;
        self.so_timestamping & needed == needed && self.tx_types & (1 << TX_ON) != 0
    }
}

/// Everything that the plan for a port depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicFacts {
    /// Its name.
    pub interface: String,
    /// As `ethtool -i` has it; absent where the port has no driver to name (loopback).
    pub driver: Option<String>,
    /// The kernel.
    pub kernel: KernelVersion,
    /// `ethtool -T`; absent where the kernel does not answer.
    pub ts: Option<TsInfo>,
}

impl NicFacts {
    /// Asks the kernel, in the caller's network namespace.
    ///
    /// # Errors
    /// `ENODEV`: no such interface. What else the kernel does not say is absent.
    pub fn read(interface: &str) -> io::Result<Self> {
        let driver = unless_missing(sys::ethtool_driver(interface))?.filter(|name| !name.is_empty());
        let ts = unless_missing(TsInfo::read(interface))?;
        let driver = env::var(PROFILE_VARIABLE).ok().or(driver);
        Ok(Self { interface: interface.to_owned(), driver, kernel: KernelVersion::running(), ts })
    }
}

/// The names of the Ethernet-like ports of this network namespace, in order of their index; loopback is none.
///
/// # Errors
/// [`Error::Netlink`].
pub fn interfaces() -> Result<Vec<String>, Error> {
    let ethernet = |link: &Interface| link.ethernet && link.index != 1;
    Ok(links()?.into_iter().filter(ethernet).map(|link| link.name).collect())
}

/// How many receive queues a port has.
///
/// # Errors
/// [`Error::NoInterface`]; [`Error::Queues`] where the driver does not tell.
pub fn queues(interface: &str) -> Result<u32, Error> {
    Interface::find(interface)?.queues()
}

/// The card's rings: descriptors of each, and how many they could have (`ethtool -g`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // receive and transmit
pub struct Rings {
    pub rx: u32,
    pub rx_max: u32,
    pub tx: u32,
    pub tx_max: u32,
}

/// `None` where the driver does not tell, as those without rings of a card.
pub fn rings(interface: &str) -> Option<Rings> {
    sys::ethtool_rings(interface).ok()
}

/// What the kernel does not say is absent, but for a port that is not there.
fn unless_missing<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(error),
        other => Ok(other.ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read_and_ordered() {
        assert_eq!(KernelVersion::parse("6.18.5-cloud-amd64\n"), Some(KernelVersion(6, 18)));
        assert_eq!(KernelVersion::parse("7.3.0-rc7"), Some(KernelVersion(7, 3)));
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion(6, 9) < KernelVersion(6, 10));
        assert!(KernelVersion::running() >= KernelVersion(5, 0));
    }

    #[test]
    fn loopback_stamps_in_software_alone() {
        let facts = NicFacts::read("lo").expect("lo");
        let ts = facts.ts.expect("every port answers");
        assert!(ts.so_timestamping & libc::SOF_TIMESTAMPING_RX_SOFTWARE != 0);
        assert!(!ts.stamps_received() && !ts.stamps_sent() && !ts.filters_all());
        assert_eq!(ts.phc, None);
        assert_eq!(NicFacts::read("nowhere0").expect_err("not there").raw_os_error(), Some(libc::ENODEV));
    }
}
