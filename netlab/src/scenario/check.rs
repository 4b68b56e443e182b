//! From the file as written to a scenario that can be, with the place of whatever cannot.

use std::net::IpAddr;

use toml::Spanned;

use super::{
    Hop, Scenario, expect, faults,
    file::{File, Text, scenario_error},
    load, play, topology,
};
use crate::{
    cidr::{IpCidr, NotACidr},
    engine::wire::Tolerance,
    error::{Error, Result},
};

/// The file, for the line in an error.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn error<T>(&self, at: &Spanned<T>, problem: impl Into<String>) -> Error {
        self.error_at(at.span().start, problem)
    }

    pub(super) fn error_at(&self, place: usize, problem: impl Into<String>) -> Error {
        scenario_error(self.file, self.text, place, problem.into())
    }

    pub(super) fn prefix(&self, text: &Text) -> Result<IpCidr> {
        text.get_ref().parse().map_err(|wrong: NotACidr| self.error(text, wrong.to_string()))
    }

    pub(super) fn prefixes(&self, texts: &[Text]) -> Result<Vec<IpCidr>> {
        texts.iter().map(|text| self.prefix(text)).collect()
    }

    pub(super) fn address(&self, text: &Text) -> Result<IpAddr> {
        let address = text.get_ref();
        address.parse().map_err(|_| self.error(text, format!("{address:?} is no IP address")))
    }

    /// A next hop, of which `links` must know the interface and reach the gateway.
    pub(super) fn hop(&self, node: &str, via: &Text, dev: &Text, links: &[super::Link]) -> Result<Hop> {
        let address = self.address(via)?;
        let end = links.iter().flat_map(|link| &link.ends).find(|end| end.node == node && end.dev == *dev.get_ref());
        let Some(end) = end else {
            return Err(self.error(dev, format!("node {node} has no interface {}", dev.get_ref())));
        };
        let reachable = end.addresses.iter().any(|own| own.contains(address) && own.address() != address);
        if !reachable {
            let problem = format!("{address} is on no subnet of interface {} of node {node}", dev.get_ref());
            return Err(self.error(via, problem));
        }
        Ok(Hop { via: address, dev: dev.get_ref().clone() })
    }
}

pub(super) fn resolve(source: &Source<'_>, mut file: File, variant: Option<&str>) -> Result<Scenario> {
    if let Some(wanted) = variant {
        let known = file.variant.keys().cloned().collect::<Vec<_>>().join(", ");
        let missing = || Error::NoVariant { file: source.file.to_owned(), name: wanted.to_owned(), known };
        let chosen = file.variant.remove(wanted).ok_or_else(missing)?;
        file.summary = chosen.summary;
        replace(&mut file.load, chosen.load);
        replace(&mut file.game, chosen.game);
        replace(&mut file.bulk, chosen.bulk);
        replace(&mut file.fault, chosen.fault);
        replace(&mut file.shift, chosen.shift);
        replace(&mut file.expect, chosen.expect);
    }
    topology::names(source, &file.node)?;
    topology::needs(source, &file)?;
    topology::no_clash(source, &file.link, &file.node)?;
    let links = topology::links(source, file.link, &file.node)?;
    let nodes = topology::nodes(source, file.node, &links)?;
    let windows = play::windows(source, file.window)?;
    let isps = play::isps(source, file.isp)?;
    let loads =
        file.load.into_iter().map(|written| load::load(source, written, &nodes, &windows)).collect::<Result<_>>()?;
    let games =
        file.game.into_iter().map(|written| load::game(source, written, &nodes, &windows)).collect::<Result<_>>()?;
    let mut scenario = Scenario {
        probe: file.probe.map(|probe| play::probe(source, probe, &nodes, &isps)).transpose()?,
        arms: file.arms.map(|arms| play::arms(source, arms, &nodes, &links)).transpose()?,
        bulks: load::bulks(source, file.bulk, &nodes, &links, &windows)?,
        faults: faults::faults(source, file.fault, &links, &windows)?,
        shifts: faults::shifts(source, file.shift, &nodes, &links, &windows)?,
        expectations: Vec::new(),
        name: file.name,
        summary: file.summary,
        seed: file.seed,
        tolerance: file
            .tolerance
            .map_or_else(Tolerance::default, |span| Tolerance { release: span.0, ..Tolerance::default() }),
        needs: file.needs,
        hash_seed: file.hash_seed,
        nodes,
        links,
        isps,
        windows,
        loads,
        games,
    };
    scenario.expectations = file
        .expect
        .into_iter()
        .map(|written| expect::expectation(source, written, &scenario))
        .collect::<Result<_>>()?;
    Ok(scenario)
}

/// What the variant gives takes the place of what the file has for all.
fn replace<T>(whole: &mut Vec<T>, own: Option<Vec<T>>) {
    if let Some(own) = own {
        *whole = own;
    }
}

#[cfg(test)]
mod tests {
    use crate::scenario::Scenario;

    const DEMO: &str = include_str!("../../scenarios/demo.toml");

    /// The complaint about the demo with `from` replaced by `to`, without the file's name.
    fn complaint(from: &str, to: &str) -> String {
        assert!(DEMO.contains(from), "{from}");
        let text = DEMO.replacen(from, to, 1);
        let error = Scenario::parse("demo.toml", &text, None).expect_err(to).to_string();
        let line = 1 + DEMO.find(from).map_or(0, |at| DEMO[..at].matches('\n').count());
        let place = format!("demo.toml:{line}: ");
        error.strip_prefix(&place).unwrap_or_else(|| panic!("{error:?} should begin with {place:?}")).to_owned()
    }

    #[test]
    fn the_demo_and_its_variants_are_sound() {
        for variant in [None, Some("worse"), Some("same")] {
            let demo = Scenario::load("demo", variant).expect("sound");
            assert_eq!(demo.loads.len(), usize::from(variant != Some("same")));
        }
        let error = Scenario::load("demo", Some("better")).expect_err("unknown variant");
        assert_eq!(error.to_string(), "demo.toml has no variant better; it has same, worse");
        assert_eq!(
            Scenario::load("dmo", None).expect_err("unknown").to_string(),
            "no scenario dmo; shipped are demo, baseline, bufferbloat-pfifo, bufferbloat-codel, bufferbloat-fq-codel, microburst, small-ring, evening, asymmetric-transit, v6-fault, ecmp-fault, path-shift, lossy-last-mile, and a path with a `/` or `.toml` names a file"
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        assert!(
            complaint("forward = true", "fordward = true")
                .starts_with("fordward: unknown field `fordward`, expected one of")
        );
        assert!(complaint("rate = \"30mbit\", queue", "rat = \"30mbit\", queue").contains("rat: unknown field `rat`"));
        assert!(complaint("seed = 20", "sead = 20").starts_with("sead: unknown field `sead`"));
        assert!(complaint("[probe]", "[prob]").starts_with("prob: unknown field `prob`"));
        // A control character in a comment, with a letter of two octets before what looks like a key.
        assert!(complaint("seed = 20", "#µode = \u{1}").starts_with("ode: "));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_key() {
        assert_eq!(complaint("seed = 20", "seed = \"x\""), "seed: invalid type: string \"x\", expected u64");
        assert_eq!(
            complaint("rate = \"30mbit\"", "rate = \"30\""),
            "rate: \"30\" is no rate, such as \"500kbit\", \"27.5mbit\" or \"1gbit\""
        );
    }

    #[test]
    fn an_impossible_network_is_refused() {
        for (from, to, problem) in [
            ("{ node = \"server\", dev = \"a\"", "{ node = \"serve\", dev = \"a\"", "node: no node is called serve"),
            (
                "{ node = \"server\", dev = \"b\"",
                "{ node = \"server\", dev = \"a\"",
                "dev: node server has an interface a already",
            ),
            ("\"192.0.2.5/30\"", "\"192.0.2.1/30\"", "addresses: address 192.0.2.1 is given twice"),
            ("\"203.0.113.10/32\"", "\"192.0.2.1/32\"", "addresses: address 192.0.2.1 is given twice"),
            (
                "\"192.0.2.5/30\"",
                "\"192.0.2.65/30\"",
                "addresses: the other end of the link has no address in 192.0.2.64/30",
            ),
            ("\"198.19.0.0/16\"", "\"198.18.1.0/24\"", "any_address: 198.18.1.0/24 overlaps with 198.18.0.0/16"),
            ("\"198.18.0.0/16\"", "\"192.0.2.0/24\"", "any_address: 192.0.2.0/24 overlaps with 192.0.2.1/30"),
            (
                "via = \"192.0.2.2\", dev = \"a\"",
                "via = \"192.0.2.9\", dev = \"a\"",
                "via: 192.0.2.9 is on no subnet of interface a of node server",
            ),
            (
                "dev = \"a\" },\n  { to = \"::/0\"",
                "dev = \"c\" },\n  { to = \"::/0\"",
                "dev: node server has no interface c",
            ),
            (
                "queue = \"200 packets\"",
                "mtu = 1",
                "mtu: unknown field `mtu`, expected one of `node`, `dev`, `addresses`, `rate`, `queue`, `delay`, `loss`, `burst`, `reorder`, `hold`, `v4`, `v6`, `ring`",
            ),
            (", queue = \"200 packets\"", "", "rate: a rate needs a queue beside it, such as queue = \"100 packets\""),
            ("name = \"transit-b\"", "name = \"transit-a\"", "name: there are two nodes called transit-a"),
            (
                "name = \"transit-b\"",
                "name = \"transit b\"",
                "name: \"transit b\" cannot name a node: use 1 to 32 letters, digits or `-`",
            ),
        ] {
            if to.is_empty() {
                let error =
                    Scenario::parse("demo.toml", &DEMO.replacen(from, to, 1), None).expect_err(problem).to_string();
                assert!(error.ends_with(problem), "{error}");
            } else {
                assert_eq!(complaint(from, to), problem);
            }
        }
    }

    #[test]
    fn what_a_scenario_needs_is_listed() {
        let text = DEMO.replacen("needs = [\"tbf\"]", "needs = []", 1);
        let error = Scenario::parse("demo.toml", &text, None).expect_err("needs tbf").to_string();
        assert!(error.ends_with("rate: a rate takes the kernel's tbf; list it as needs = [\"tbf\"]"), "{error}");
    }

    #[test]
    fn a_play_without_sense_is_refused() {
        for (from, to, problem) in [
            ("start = \"6s\"", "start = \"4s\"", "start: window evening 1 begins before the one above has ended"),
            ("end = \"20s\"", "end = \"6s\"", "end: window evening 1 ends before it has begun"),
            ("during = [\"evening 1\"", "during = [\"evening 3\"", "during: no window is called evening 3"),
            ("payload = 1158", "payload = 8", "payload: a load's payload is 18 to 1452 bytes"),
            ("sessions = 650", "sessions = 300000", "sessions: 198.18.0.0/16 with 4 ports holds no 300000 sessions"),
            (
                "client_ports = [40000, 40003]",
                "client_ports = [40003, 40000]",
                "client_ports: the first port is above the last",
            ),
            ("to = [\"203.0.113.10\"", "to = [\"203.0.113.11\"", "to: no node has the address 203.0.113.11"),
            (
                "prefixes = [\"198.19.0.0/16\"",
                "prefixes = [\"198.18.128.0/17\"",
                "prefixes: 198.18.128.0/17 overlaps with 198.18.0.0/16 of aoba",
            ),
            (
                "v4 = { via = \"192.0.2.6\"",
                "v4 = { via = \"2001:db8:b1::2\"",
                "via: 2001:db8:b1::2 is not of the family of its key",
            ),
        ] {
            assert!(complaint(from, to).starts_with(problem), "{problem}: {}", complaint(from, to));
        }
    }
}
