//! Black holes, and what the routers say of them: a link that does not take the packet, with the answer that tells so, without it, and forbidden.

use serde_json::{Value, json};

use super::{
    diamond::{Diamond, TARGETS, flows, patience},
    isolation::isolated,
};

/// Octets of payload of a packet that the link with `MTU` does not take.
const SIZE: usize = 1_400;
const MTU: u32 = 1_300;

impl Diamond {
    pub(crate) fn mtu(&self, node: &str, dev: &str, mtu: u32) {
        let mut ip = self.lab.command(node, "ip").expect("a node");
        ip.args(["link", "set", "dev", dev, "mtu", &mtu.to_string()]);
        assert!(ip.status().expect("iproute2").success(), "{node}: {dev}");
    }

    /// What `trace` prints for reading.
    fn said(&self, args: &str) -> String {
        let mut command = self.lab.command("client", env!("CARGO_BIN_EXE_pathlab")).expect("a node");
        command.args(["trace", "--patience", &patience()]).args(args.split_whitespace()).current_dir(self.place.path());
        let output = command.env("PATHLAB_LOG", "warn").output().expect("pathlab was built");
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// A chain of rules in a router.
    fn rules(&self, router: &str, hook: &str, rules: &str) {
        let table =
            format!("table inet answers {{\nchain of {{\ntype filter hook {hook} priority 0\n{rules}\n}}\n}}\n");
        let mut nft = self.lab.command(router, "nft").expect("a node");
        assert!(nft.arg(table.as_str()).status().expect("nftables").success(), "{table}");
    }
}

/// Black holes behind the third hop of two flows to each target, one packet a round; the refusals of the first flow.
fn black_holes(diamond: &mut Diamond, size: usize) -> [Value; 2] {
    TARGETS.map(|target| {
        let args = format!("{target} --flows 2 --count 25 --interval 40ms --size {size}");
        let report = diamond.trace(&args);
        for flow in flows(&report) {
            let loss = &flow["destination"]["loss"];
            assert_eq!((&loss["sent"], &loss["lost"]), (&25.into(), &25.into()), "one a round: {flow:#}");
            assert_eq!(
                (&flow["verdict"]["kind"], &flow["verdict"]["after"]["hop"]),
                (&"black_hole".into(), &3.into()),
                "{flow:#}"
            );
        }
        flows(&report)[0]["refusals"].clone()
    })
}

#[test]
fn a_black_hole_is_explained_by_the_answers_that_came_or_said_to_be_silent() {
    if !isolated("mtu::a_black_hole_is_explained_by_the_answers_that_came_or_said_to_be_silent") {
        return;
    }
    let mut diamond = Diamond::up(false);
    diamond.mtu("r3", "server", MTU);
    let names = ["Fragmentation Needed", "Packet Too Big"];
    for (refusals, name) in black_holes(&mut diamond, SIZE).into_iter().zip(names) {
        let [refusal] = &refusals.as_array().expect("answers")[..] else { panic!("one router: {refusals:#}") };
        assert_eq!(
            (&refusal["hop"], &refusal["answer"], &refusal["mtu"]),
            (&json!(3), &json!(name), &json!(MTU)),
            "{refusal:#}"
        );
        assert!(refusal["times"].as_u64().is_some_and(|times| times >= 25), "{refusal:#}");
    }
    let args = |target: &str, size: usize| format!("{target} --flows 1 --count 25 --interval 40ms --size {size}");
    for (target, name) in TARGETS.into_iter().zip(names) {
        let said = diamond.said(&args(target, SIZE));
        assert!(said.starts_with("flow 1: nothing comes back from beyond hop 3 ("), "{said}");
        assert!(said.contains(&format!(") answers {name}, MTU {MTU}, to {SIZE} octets of payload (")), "{said}");
        assert!(diamond.said(&args(target, 44)).starts_with("flow 1: no loss: 0 % of 25 "), "shorter ones pass");
    }

    // The same without a word: filters of ICMP make it a black hole in earnest.
    diamond.rules("r3", "output", "icmp type destination-unreachable drop\nicmpv6 type packet-too-big drop");
    assert_eq!(black_holes(&mut diamond, SIZE), [json!([]), json!([])]);
    let said = diamond.said(&args(TARGETS[0], SIZE));
    assert!(said.contains("no ICMP answer says why (neither too big nor unreachable)"), "{said}");
    assert!(said.contains("--size 44 tells whether shorter ones pass"), "{said}");
}

#[test]
fn what_is_forbidden_is_told_from_what_is_too_long_here() {
    if !isolated("mtu::what_is_forbidden_is_told_from_what_is_too_long_here") {
        return;
    }
    let mut diamond = Diamond::up(false);
    diamond.rules("r3", "forward", "udp dport 862 reject with icmpx type admin-prohibited");
    let names = ["Communication Administratively Prohibited", "Administratively Prohibited"];
    for (refusals, name) in black_holes(&mut diamond, 44).into_iter().zip(names) {
        assert_eq!(
            (&refusals[0]["answer"], &refusals[0]["hop"], &refusals[0]["mtu"]),
            (&json!(name), &json!(3), &Value::Null)
        );
    }
    // This host's own link: nothing is sent, and nobody else is blamed.
    diamond.mtu("client", "r1", MTU);
    for target in TARGETS {
        let said = diamond.said(&format!("{target} --flows 1 --count 25 --interval 40ms --size {SIZE}"));
        let why =
            "flow 1: insufficient: this host sends no packets of that length: they are longer than its own link takes";
        assert!(said.starts_with(why) && said.contains("of 1400 octets of payload were not sent"), "{said}");
    }
}
