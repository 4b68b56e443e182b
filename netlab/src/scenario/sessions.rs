//! The client sessions of a scenario: distinct addresses and ports, spread over ISPs and families, the same for the same seed.

use std::{collections::HashSet, net::SocketAddr};

use super::Scenario;
use crate::seeded::SplitMix64;

/// One client session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// The client's address and port.
    pub source: SocketAddr,
    /// The reflector that it asks.
    pub target: SocketAddr,
    /// Name of its ISP.
    pub isp: String,
    /// Autonomous system of its ISP.
    pub asn: u32,
}

impl Session {
    /// 4 or 6.
    pub fn family(&self) -> u8 {
        if self.source.is_ipv6() { 6 } else { 4 }
    }
}

impl Scenario {
    /// As many sessions of each ISP and family as the probe asks for, drawn from the ISP's prefixes without repetition.
    ///
    /// Sessions of different strata alternate, so that those who start them one after the other treat all strata alike. Empty
    /// without a probe.
    pub fn sessions(&self, seed: u64) -> Vec<Session> {
        let Some(probe) = &self.probe else { return Vec::new() };
        let mut strata = Vec::new();
        for (isp, target) in self.isps.iter().flat_map(|isp| probe.to.iter().map(move |target| (isp, *target))) {
            let prefixes: Vec<_> = isp.prefixes.iter().filter(|prefix| prefix.is_ipv6() == target.is_ipv6()).collect();
            if prefixes.is_empty() {
                continue;
            }
            let mut generator = SplitMix64(seed ^ (strata.len() as u64).rotate_left(32));
            let mut seen = HashSet::new();
            let mut stratum = Vec::with_capacity(probe.sessions);
            // Ends: parsing has made sure that each prefix holds that many.
            while stratum.len() < probe.sessions {
                let prefix = prefixes[stratum.len() % prefixes.len()];
                let address = prefix.nth(generator.below(prefix.size())).expect("below the size");
                let (first, last) = probe.client_ports;
                let port = first + generator.below(u64::from(last - first) + 1) as u16;
                let source = SocketAddr::new(address, port);
                if seen.insert(source) {
                    stratum.push(Session { source, target, isp: isp.name.clone(), asn: isp.asn });
                }
            }
            strata.push(stratum.into_iter());
        }
        let mut sessions = Vec::with_capacity(strata.len() * probe.sessions);
        for _ in 0..probe.sessions {
            sessions.extend(strata.iter_mut().filter_map(Iterator::next));
        }
        sessions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_650_distinct_sessions_in_each_of_four_strata() {
        let demo = Scenario::load("demo", None).expect("sound");
        let sessions = demo.sessions(1);
        assert_eq!(sessions.len(), 2600);
        assert_eq!(sessions.iter().map(|session| session.source).collect::<HashSet<_>>().len(), 2600);
        for isp in &demo.isps {
            for family in [4, 6] {
                let of_stratum: Vec<_> =
                    sessions.iter().filter(|session| session.isp == isp.name && session.family() == family).collect();
                assert_eq!(of_stratum.len(), 650);
                for session in of_stratum {
                    assert!(isp.prefixes.iter().any(|prefix| prefix.contains(session.source.ip())));
                    assert!((40000..=40003).contains(&session.source.port()));
                    assert_eq!(session.target.is_ipv6(), session.source.is_ipv6());
                }
            }
        }
    }

    #[test]
    fn a_seed_fixes_the_sessions_and_another_changes_them() {
        let demo = Scenario::load("demo", None).expect("sound");
        assert_eq!(demo.sessions(5), demo.sessions(5));
        assert_ne!(demo.sessions(5), demo.sessions(6));
    }
}
