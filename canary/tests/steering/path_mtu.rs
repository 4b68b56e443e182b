//! A narrow canary path does not narrow the control route of its clients, neither during the experiment nor after.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use pathlab_canary::Mode;
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::Arm;

use crate::{
    assigned, experiment,
    network::{DELIVERED, Network, OWN_V4, OWN_V6, PORT, session, sh},
    options, share, start,
};

/// Makes transit B pass on over a link with an MTU of 1300, instead of playing the clients.
fn narrow(network: &Network) {
    let Network { transit_b: ns, game, .. } = network;
    sh(&format!(
        "ip -n {ns} link add name narrow mtu 1300 type veth peer name wide netns {game}
         ip -n {ns} link set narrow up; ip -n {game} link set wide up
         nsenter --net=/run/netns/{ns} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
         ip -n {ns} route del local 198.18.0.0/15 table local; ip -n {ns} route add 198.18.0.0/15 dev narrow
         ip -n {ns} -6 route del local 2001:db8:c::/48 table local; ip -n {ns} -6 route add 2001:db8:c::/48 dev narrow
         ip -n {ns} route add {OWN_V4} via 10.2.0.2; ip -n {ns} -6 route add {OWN_V6} via 2001:db8:2::2
         ip -n {ns} route add 10.3.0.0/24 via 10.2.0.2; ip -n {ns} -6 route add 2001:db8:3::/64 via 2001:db8:2::2"
    ));
}

/// What the route of a host to a client says about its MTU, for packets with a mark.
fn route(host: &str, client: &SocketAddr, mark: u32) -> String {
    sh(&format!("nsenter --net=/run/netns/{host} ip route get {} mark {mark:#x}", client.ip()))
}

fn untouched(network: &Network, client: &SocketAddr) {
    let control = route(&network.server, client, 0);
    assert!(control.contains("dev eth0") && !control.contains("mtu"), "{control}");
}

#[test]
fn a_narrow_canary_path_leaves_the_control_route_alone() {
    if !root_or_skip("a_narrow_canary_path_leaves_the_control_route_alone") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    narrow(&network);
    let before = network.state();
    for mode in [Mode::Host, Mode::Router] {
        let mut experiment = experiment("50%");
        experiment.steer.mode = mode;
        experiment.steer.lease = jiff::SignedDuration::from_secs(10);
        let steering = start(&network, &experiment, &options(&dir));
        // Clients of its own for each mode: what is learnt outlives an experiment.
        let canary = |v6| {
            let address = session(v6, if mode == Mode::Host { 99 } else { 199 }).ip();
            let on_canary = |client: &SocketAddr| assigned(&experiment, share("50%"), client) == Arm::Canary;
            (DELIVERED..).map(|port| SocketAddr::new(address, port)).find(on_canary).unwrap()
        };
        // The server itself learns it for its canary route; a router passes it on to the host whose packet it was.
        let (learner, mark) = if mode == Mode::Host { (&network.server, 0x1_0000) } else { (&network.game, 0) };
        let sockets = network.sockets(network.sender(mode), PORT);
        for (socket, client) in sockets.iter().zip([canary(false), canary(true)]) {
            let deadline = Instant::now() + Duration::from_secs(5);
            // The first is refused by the narrow link; later ones by the sender itself, as it knows.
            while !route(learner, &client, mark).contains("mtu 1300") {
                drop(socket.send_to(&[0; 1_400], client));
                assert!(
                    Instant::now() < deadline,
                    "{mode:?}: nobody has learnt the MTU of the canary path to {client}"
                );
            }
            untouched(&network, &client);
        }
        steering.rollback().unwrap();
        assert_eq!(network.state(), before);
        [false, true].map(canary).iter().for_each(|client| untouched(&network, client));
    }
}
