//! Hosts for end-to-end tests: network namespaces in a row, gone with their values also when a test panics.

use pathlab_netlab::{
    link::{self, End},
    netlink::Netlink,
    netns::Namespace,
};

/// The interface towards the host before.
pub(crate) const LEFT: &str = "left";
/// The interface towards the host after.
pub(crate) const RIGHT: &str = "right";

/// `N` hosts, each joined to the next by a veth. On link `i`, counted from 0, the host before has `192.0.2.(4i + 1)` and `2001:db8:i::1`,
/// the host after `192.0.2.(4i + 2)` and `2001:db8:i::2`.
pub(crate) fn in_a_row<const N: usize>(test: &str) -> [Namespace; N] {
    let name = |place| format!("plt-{test}-{place}-{}", std::process::id());
    let hosts: [Namespace; N] = std::array::from_fn(|place| Namespace::create(&name(place)).expect("a free name"));
    for host in &hosts {
        Netlink::open(host).expect("netlink").up("lo").expect("lo");
    }
    for (link, pair) in hosts.windows(2).enumerate() {
        let end = |namespace, interface| End { namespace, interface, mac: None };
        link::veth(end(&pair[0], RIGHT), end(&pair[1], LEFT), 1500).expect("veth");
        for (place, (host, interface)) in pair.iter().zip([RIGHT, LEFT]).enumerate() {
            let mut netlink = Netlink::open(host).expect("netlink");
            let addresses =
                [format!("192.0.2.{}/30", 4 * link + place + 1), format!("2001:db8:{link}::{}/64", place + 1)];
            for address in addresses {
                netlink.add_address(interface, address.parse().expect("a prefix")).expect("an address");
            }
        }
    }
    hosts
}
