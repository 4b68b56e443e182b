//! What of a UDP packet is hashed to choose its receive queue, in ethtool's letters.

use std::io;

use serde::{Deserialize, Serialize};

use super::sys;

/// UDP over IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// `udp4`
    Udp4,
    /// `udp6`
    Udp6,
}

/// The letters in which ethtool writes `RXH_*`, by bit.
const LETTERS: [(u32, char); 8] = [(1, 'm'), (2, 'v'), (3, 't'), (4, 's'), (5, 'd'), (6, 'f'), (7, 'n'), (31, 'r')];

impl Flow {
    /// As on ethtool's command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }

    /// `UDP_V4_FLOW`, `UDP_V6_FLOW` of linux/ethtool.h.
    const fn number(self) -> u32 {
        match self {
            Self::Udp4 => 0x02,
            Self::Udp6 => 0x06,
        }
    }

    /// `ethtool -n IF rx-flow-hash FLOW`. Of a driver that does not know, nothing.
    ///
    /// # Errors
    /// As the kernel gave it: `EOPNOTSUPP` where the driver does not say, `ENODEV`.
    pub fn hash(self, interface: &str) -> io::Result<String> {
        let fields = sys::flow_hash(interface, self.number())?;
        Ok(LETTERS.iter().filter(|(bit, _)| fields >> bit & 1 == 1).map(|(_, letter)| letter).collect())
    }

    /// `ethtool -N IF rx-flow-hash FLOW LETTERS`.
    ///
    /// # Errors
    /// As the kernel gave it: `EINVAL` for letters that are none, or fields that the card cannot hash; `EOPNOTSUPP`, `EPERM`, `ENODEV`.
    pub fn set_hash(self, interface: &str, letters: &str) -> io::Result<()> {
        let mut fields = 0;
        for letter in letters.chars() {
            let known = LETTERS.iter().find(|(_, known)| *known == letter);
            fields |= 1_u64 << known.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?.0;
        }
        sys::set_flow_hash(interface, self.number(), fields)
    }
}
