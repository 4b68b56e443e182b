//! Transmit checksum offload, because XDP reflects what is in the buffer, and a veth sender leaves the checksum to a card it does not have.
//!
//! With offload on, a local sender hands its datagrams over with the checksum unfinished. Across a veth nobody finishes it; a
//! socket at the far end is told so and does not mind, but a reply by XDP_TX carries the unfinished sum and the sender discards
//! it (`InCsumErrors`). On a wire between two cards the question does not arise.

use crate::{Error, sys};

/// `linux/ethtool.h`.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Whether the interface computes transmit checksums itself; `ethtool -k IF` shows it as `tx-checksumming`.
///
/// # Errors
/// [`Error::NoInterface`], or [`Error::Offload`] where the driver has no such setting.
pub fn tx_checksum(interface: &str) -> Result<bool, Error> {
    ethtool(interface, "read", ETHTOOL_GTXCSUM, 0).map(|value| value != 0)
}

/// Turns transmit checksum offload on or off; `ethtool -K IF tx off`. The setting stays when the process ends.
///
/// # Errors
/// [`Error::NoInterface`], [`Error::NotPermitted`] without CAP_NET_ADMIN, or [`Error::Offload`] where the driver refuses.
pub fn set_tx_checksum(interface: &str, on: bool) -> Result<(), Error> {
    ethtool(interface, "set", ETHTOOL_STXCSUM, on.into()).map(drop)
}

fn ethtool(interface: &str, action: &'static str, command: u32, value: u32) -> Result<u32, Error> {
    sys::ethtool_value(interface, command, value).map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => Error::NoInterface { interface: interface.to_owned() },
        Some(libc::EPERM) => Error::NotPermitted { action: "change transmit checksum offload" },
        _ => Error::Offload { interface: interface.to_owned(), action, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_the_setting_and_nowhere_has_no_interface() {
        assert!(tx_checksum("lo").expect("lo"));
        for name in ["nowhere0", "a-name-longer-than-the-kernel-takes"] {
            assert!(matches!(tx_checksum(name), Err(Error::NoInterface { .. })));
        }
    }
}
