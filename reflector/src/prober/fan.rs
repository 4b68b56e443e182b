//! Sessions from a few options instead of a file: targets, source prefixes, ports and a count.

use std::net::{IpAddr, SocketAddr};

use pathlab_record::Labels;

use super::{ProbeError, schedule::MOST_SESSIONS, sessions::SessionSpec};
use crate::Prefix;

/// Sessions from a few options instead of a file.
#[derive(Clone, Debug)]
pub struct Fan {
    /// The Session-Reflectors.
    pub targets: Vec<SocketAddr>,
    /// Source addresses, at most one prefix a family. Without one the kernel chooses.
    pub sources: Vec<Prefix>,
    /// The first source port. Without one the kernel chooses.
    pub source_port: Option<u16>,
    /// Sessions to each target.
    pub count: usize,
    /// Source ports of each of these, from `source_port` on: paths that a router chooses by ports show as flows that differ.
    pub sweep: usize,
    /// Labels of all of them.
    pub labels: Labels,
}

impl Default for Fan {
    /// One session to no target yet, source and port left to the kernel.
    fn default() -> Self {
        Self { targets: Vec::new(), sources: Vec::new(), source_port: None, count: 1, sweep: 1, labels: Labels::new() }
    }
}

impl Fan {
    /// Every target with `count` sessions, each through `sweep` ports: through the addresses first, then through the ports.
    ///
    /// # Errors
    /// No session at all, too many, or a target's family has no prefix while the other has.
    pub fn sessions(&self) -> Result<Vec<SessionSpec>, ProbeError> {
        let total = self.count.saturating_mul(self.sweep).saturating_mul(self.targets.len());
        if !(1..=MOST_SESSIONS).contains(&total) {
            return Err(ProbeError::SessionCount { sessions: total, limit: MOST_SESSIONS });
        }
        let mut sessions = Vec::with_capacity(total);
        for &target in &self.targets {
            let prefix = self.sources.iter().find(|prefix| prefix.address().is_ipv4() == target.is_ipv4());
            if prefix.is_none() && !self.sources.is_empty() {
                return Err(ProbeError::NoSourceOfFamily { target });
            }
            for (index, port) in (0..self.count).flat_map(|index| (0..self.sweep).map(move |port| (index, port))) {
                let source = self.source(prefix, target, index, port)?;
                let session = SessionSpec { source, labels: self.labels.clone(), ..SessionSpec::new(target) };
                if let Some(what) = session.fault() {
                    return Err(ProbeError::Session { what });
                }
                sessions.push(session);
            }
        }
        Ok(sessions)
    }

    fn source(
        &self,
        prefix: Option<&Prefix>,
        target: SocketAddr,
        index: usize,
        port: usize,
    ) -> Result<Option<SocketAddr>, ProbeError> {
        let any = if target.is_ipv4() { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u16; 8]) };
        let (address, lap) = match prefix {
            Some(prefix) => {
                let (lap, remainder) = (index as u128 / hosts(prefix), index as u128 % hosts(prefix));
                (host(prefix, remainder), lap)
            }
            None => (None, index as u128),
        };
        let port = match self.source_port {
            Some(first) => u16::try_from(u128::from(first) + lap * self.sweep as u128 + port as u128)
                .map_err(|_| ProbeError::NoPortLeft { first, sessions: self.count.saturating_mul(self.sweep) })?,
            None => 0,
        };
        // Nothing was asked for: the kernel chooses all of it.
        let open = address.is_none() && port == 0;
        Ok((!open).then(|| SocketAddr::new(address.unwrap_or(any), port)))
    }
}

/// How many addresses of a prefix may be sources: an IPv4 subnet's first and last are left out, as is IPv6's first (the
/// subnet-router anycast address).
fn hosts(prefix: &Prefix) -> u128 {
    match (prefix.address(), host_bits(prefix)) {
        (_, 0) => 1,
        (_, 1) => 2,
        (IpAddr::V4(_), bits) => (1 << bits) - 2,
        (IpAddr::V6(_), 128) => u128::MAX,
        (IpAddr::V6(_), bits) => (1 << bits) - 1,
    }
}

/// The `index`-th of them, from 0; `None` beyond [`hosts`].
fn host(prefix: &Prefix, index: u128) -> Option<IpAddr> {
    if index >= hosts(prefix) {
        return None;
    }
    let index = if host_bits(prefix) > 1 { index + 1 } else { index };
    Some(match prefix.address() {
        IpAddr::V4(base) => IpAddr::V4((base.to_bits() + index as u32).into()),
        IpAddr::V6(base) => IpAddr::V6((base.to_bits() + index).into()),
    })
}

fn host_bits(prefix: &Prefix) -> u32 {
    let width = if prefix.address().is_ipv4() { 32 } else { 128 };
    width - u32::from(prefix.length())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leaves_out_what_is_no_host() {
        for (text, count, first) in [
            ("10.1.0.0/24", 254, "10.1.0.1"),
            ("10.1.0.4/31", 2, "10.1.0.4"),
            ("10.1.0.4", 1, "10.1.0.4"),
            ("0.0.0.0/0", (1 << 32) - 2, "0.0.0.1"),
            ("2001:db8::/120", 255, "2001:db8::1"),
            ("::/0", u128::MAX, "::1"),
        ] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(hosts(&prefix), count, "{text}");
            assert_eq!(host(&prefix, 0).unwrap().to_string(), first);
            assert!(host(&prefix, count - 1).is_some_and(|last| prefix.contains(last)), "{text}");
            assert_eq!(host(&prefix, count), None);
        }
    }

    #[test]
    fn a_fan_goes_through_the_addresses_then_the_ports() {
        let fan = Fan {
            targets: vec!["10.9.0.2:862".parse().unwrap()],
            sources: vec!["10.1.0.0/30".parse().unwrap()],
            source_port: Some(40_000),
            count: 3,
            ..Fan::default()
        };
        let sources: Vec<String> = fan.sessions().unwrap().iter().map(|s| s.source.unwrap().to_string()).collect();
        assert_eq!(sources, ["10.1.0.1:40000", "10.1.0.2:40000", "10.1.0.1:40001"]);
        let swept = Fan { count: 3, sweep: 2, ..fan.clone() };
        let sources: Vec<String> = swept.sessions().unwrap().iter().map(|s| s.source.unwrap().to_string()).collect();
        let each_once: std::collections::HashSet<_> = sources.iter().collect();
        assert_eq!((sources.len(), each_once.len(), sources[4].as_str()), (6, 6, "10.1.0.1:40002"));
        let other = Fan { targets: vec!["[2001:db8::2]:862".parse().unwrap()], ..fan.clone() };
        assert!(matches!(other.sessions(), Err(ProbeError::NoSourceOfFamily { .. })));
        let many = Fan { source_port: Some(65_535), ..fan.clone() };
        assert!(matches!(many.sessions(), Err(ProbeError::NoPortLeft { .. })));
        assert!(matches!(Fan { count: 0, ..fan }.sessions(), Err(ProbeError::SessionCount { .. })));
    }
}
