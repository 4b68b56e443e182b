//! By which datapath, and with which rings, the reflector of a lab answers: what `lab compare` sets beside the links.

use anyhow::{Context, Result};
use pathlab_netlab::scenario::Scenario;

use crate::exit::Misuse;

/// As `reflect` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datapath {
    Socket,
    AfXdp,
    Xdp,
}

/// A reflector that a setting asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reflecting {
    datapath: Datapath,
    /// Entries, powers of two.
    rx_ring: Option<u32>,
    fill_ring: Option<u32>,
}

impl Reflecting {
    /// What a setting that says nothing of the reflector is held against one that does: the socket.
    pub(super) const PLAIN: Self = Self { datapath: Datapath::Socket, rx_ring: None, fill_ring: None };

    /// Takes `datapath=`, `rx-ring=` and `fill-ring=` out of a setting; what is left is the scenario's, empty where nothing is.
    pub(super) fn out_of(setting: &str) -> Result<(Option<Self>, String)> {
        let refused = |problem: String| Misuse(format!("setting {setting:?}: {problem}"));
        let (mut own, mut rest) = (None, Vec::new());
        for part in setting.split(',').map(str::trim) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if !["datapath", "rx-ring", "fill-ring"].contains(&key) {
                rest.push(part);
                continue;
            }
            let own = own.get_or_insert(Self::PLAIN);
            if key == "datapath" {
                own.datapath = match value {
                    "socket" => Datapath::Socket,
                    "afxdp" => Datapath::AfXdp,
                    "xdp" => Datapath::Xdp,
                    _ => return Err(refused(format!("{value:?} is no datapath: socket, afxdp or xdp")).into()),
                };
                continue;
            }
            let entries = value.parse().ok().filter(|entries: &u32| entries.is_power_of_two());
            let entries =
                entries.ok_or_else(|| refused(format!("{value:?} is no number of entries, a power of two")))?;
            *(if key == "rx-ring" { &mut own.rx_ring } else { &mut own.fill_ring }) = Some(entries);
        }
        match own {
            Some(Self { datapath: Datapath::Socket, rx_ring, fill_ring }) if rx_ring.or(fill_ring).is_some() => {
                Err(refused("a socket has no such rings: add datapath=afxdp or datapath=xdp".to_owned()).into())
            }
            own => Ok((own, rest.join(","))),
        }
    }

    /// The interface on which requests come to `server`, where the datapath takes one; it must be the only one.
    fn interface<'a>(&self, scenario: &'a Scenario, server: &str) -> Result<Option<&'a str>> {
        if self.datapath == Datapath::Socket {
            return Ok(None);
        }
        let mut own = scenario.links.iter().flat_map(|link| &link.ends).filter(|end| end.node == server);
        match (own.next(), own.next()) {
            (Some(end), None) => Ok(Some(&end.dev)),
            _ => Err(Misuse(format!(
                "scenario {}: the afxdp and xdp datapaths answer on one interface, and {server} has several",
                scenario.name
            ))
            .into()),
        }
    }

    /// Refuses what cannot answer in `scenario`, said before anything is made.
    pub(super) fn check(&self, scenario: &Scenario) -> Result<()> {
        let probe = scenario.probe.as_ref().context("checked: it has a probe")?;
        let server = server(scenario, probe.to.first().context("the scenario's probe has no target")?.ip())?;
        self.interface(scenario, server).map(drop)
    }

    /// Options of `reflect`.
    pub(super) fn options(&self, scenario: &Scenario, server: &str) -> Result<Vec<String>> {
        let mut options: Vec<String> = Vec::new();
        let mut add = |option: &str, value: &str| options.extend([option.to_owned(), value.to_owned()]);
        match self.datapath {
            Datapath::Socket => add("--datapath", "socket"),
            Datapath::AfXdp => add("--datapath", "afxdp"),
            // A veth's driver sends what XDP_TX returns only to a peer that polls; a lab's routers do not.
            Datapath::Xdp => {
                add("--datapath", "xdp");
                add("--xdp-mode", "generic");
            }
        }
        if let Some(interface) = self.interface(scenario, server)? {
            add("--iface", interface);
        }
        for (option, entries) in [("--rx-ring", self.rx_ring), ("--fill-ring", self.fill_ring)] {
            if let Some(entries) = entries {
                add(option, &entries.to_string());
            }
        }
        Ok(options)
    }
}

/// The node that has the probe's target.
pub(super) fn server(scenario: &Scenario, target: std::net::IpAddr) -> Result<&str> {
    let holds = |node: &&pathlab_netlab::scenario::Node| node.addresses.iter().any(|own| own.address() == target);
    Ok(&scenario.nodes.iter().find(holds).context("checked: some node has the target")?.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_parted_into_the_reflectors_and_the_links() {
        let (own, rest) = Reflecting::out_of("datapath=afxdp, a:b.rate=1mbit, rx-ring=64").expect("sound");
        assert_eq!(own, Some(Reflecting { datapath: Datapath::AfXdp, rx_ring: Some(64), fill_ring: None }));
        assert_eq!(rest, "a:b.rate=1mbit");
        assert_eq!(Reflecting::out_of("as-is").expect("sound"), (None, "as-is".to_owned()));
        for (setting, problem) in [
            ("datapath=fast", "\"fast\" is no datapath: socket, afxdp or xdp"),
            ("datapath=afxdp,rx-ring=100", "\"100\" is no number of entries, a power of two"),
            ("fill-ring=64", "a socket has no such rings: add datapath=afxdp or datapath=xdp"),
        ] {
            let error = Reflecting::out_of(setting).expect_err(setting).to_string();
            assert_eq!(error, format!("setting {setting:?}: {problem}"));
        }
    }
}
