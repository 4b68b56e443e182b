//! What a card stamps, a setting of the whole port that others (ptp4l) may depend on, with the setting to go back to.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, in_netns, sys};

/// `struct hwtstamp_config` of `linux/net_tstamp.h`: which packets the card stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HwtstampConfig {
    /// `HWTSTAMP_FLAG_*`; 0 but on bonds.
    pub flags: i32,
    /// `enum hwtstamp_tx_types`: 0 off, 1 on, above that one-step.
    pub tx_type: i32,
    /// `enum hwtstamp_rx_filters`: 0 none, 1 all, above that kinds of PTP and NTP.
    pub rx_filter: i32,
}

impl HwtstampConfig {
    /// `SIOCGHWTSTAMP`, in the caller's network namespace.
    ///
    /// # Errors
    /// As the kernel gave it: `EOPNOTSUPP` where the driver stamps nothing (veth, virtio, loopback) or is too old to be asked, `ENODEV`.
    pub fn read(interface: &str) -> io::Result<Self> {
        sys::hwtstamp(interface, libc::SIOCGHWTSTAMP, Self { flags: 0, tx_type: 0, rx_filter: 0 })
    }

    /// `SIOCSHWTSTAMP`: what the driver made of it, which may be more than was asked for.
    ///
    /// # Errors
    /// As the kernel gave it: `ERANGE` for a filter that the card has not, `EPERM` without CAP_NET_ADMIN, `EOPNOTSUPP`, `ENODEV`.
    pub fn write(self, interface: &str) -> io::Result<Self> {
        sys::hwtstamp(interface, libc::SIOCSHWTSTAMP, self)
    }
}

/// A port whose setting we change, and what it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hwtstamp {
    /// Named network namespace; `None` is the one in which the journal was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The interface.
    pub interface: String,
    /// The setting to restore.
    pub was: HwtstampConfig,
    /// What the driver made of ours; absent while it has not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<HwtstampConfig>,
}

impl Hwtstamp {
    /// Writes the former setting. `false` when it holds already, when the port is gone, or when somebody else has set another since: then
    /// it is theirs.
    pub(crate) fn restore(&self) -> Result<bool> {
        let attempt = in_netns(self.netns.as_deref(), || {
            self.restore_by(|| HwtstampConfig::read(&self.interface), |config| config.write(&self.interface))
                .map_err(Error::call(format!("restore what the card of {} stamps", self.interface)))
        });
        match attempt {
            Err(Error::NoNetns { .. }) => Ok(false),
            other => other,
        }
    }

    fn restore_by(
        &self,
        read: impl FnOnce() -> io::Result<HwtstampConfig>,
        write: impl FnOnce(HwtstampConfig) -> io::Result<HwtstampConfig>,
    ) -> io::Result<bool> {
        let now = match read() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => return Ok(false),
            other => other?,
        };
        let ours = self.set.is_none_or(|set| set == now);
        if now == self.was || !ours {
            return Ok(false);
        }
        write(self.was).map(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const OFF: HwtstampConfig = HwtstampConfig { flags: 0, tx_type: 0, rx_filter: 0 };
    const ALL: HwtstampConfig = HwtstampConfig { flags: 0, tx_type: 1, rx_filter: 1 };
    const PTP: HwtstampConfig = HwtstampConfig { flags: 0, tx_type: 1, rx_filter: 12 };

    /// Restores a port that shows `now`; what it shows after.
    fn restored(set: Option<HwtstampConfig>, now: HwtstampConfig) -> (bool, HwtstampConfig) {
        let port = Cell::new(now);
        let object = Hwtstamp { netns: None, interface: "eth0".into(), was: OFF, set };
        let write = |config| {
            port.set(config);
            Ok(config)
        };
        (object.restore_by(|| Ok(port.get()), write).expect("a port that answers"), port.get())
    }

    #[test]
    fn what_was_comes_back_unless_somebody_else_has_set_another_since() {
        assert_eq!(restored(Some(ALL), ALL), (true, OFF));
        assert_eq!(restored(None, ALL), (true, OFF), "killed before the driver's answer was noted");
        assert_eq!(restored(Some(ALL), OFF), (false, OFF));
        assert_eq!(restored(Some(ALL), PTP), (false, PTP), "that is theirs");
    }

    #[test]
    fn a_port_that_is_gone_or_stamps_nothing_has_nothing_to_restore() {
        for errno in [libc::ENODEV, libc::EOPNOTSUPP] {
            let object = Hwtstamp { netns: None, interface: "eth0".into(), was: OFF, set: None };
            let gone = object.restore_by(|| Err(io::Error::from_raw_os_error(errno)), |_| panic!("must not write"));
            assert!(!gone.expect("no failure"));
        }
        let object = Hwtstamp { netns: None, interface: "lo".into(), was: OFF, set: Some(ALL) };
        assert!(!object.restore().expect("loopback stamps nothing"));
    }

    #[test]
    fn the_note_in_the_journal_reads_back() {
        let object = Hwtstamp { netns: None, interface: "eth0".into(), was: PTP, set: Some(ALL) };
        let text = serde_json::to_string(&object).expect("plain data");
        assert_eq!(
            text,
            r#"{"interface":"eth0","was":{"flags":0,"tx_type":1,"rx_filter":12},"set":{"flags":0,"tx_type":1,"rx_filter":1}}"#
        );
        assert_eq!(serde_json::from_str::<Hwtstamp>(&text).expect("as written"), object);
    }
}
