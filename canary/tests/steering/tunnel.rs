//! A canary arm that is a tunnel to another POP: made beforehand, narrower than the wire, in both modes and families.

use pathlab_canary::{
    Mode,
    steer::{Departures, Error},
};
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::Arm;

use crate::{
    assigned, departures, experiment,
    network::{Network, Sessions, session, sh},
    options, share, start, try_start,
};

/// VXLAN over transit B; what comes out of it is noted there as what comes over the wire.
fn tunnel(network: &Network) {
    let Network { server, transit_b, .. } = network;
    for (ns, own, other) in [(server, 2, 1), (transit_b, 1, 2)] {
        let underlay = if ns == server { "eth1" } else { "s" };
        sh(&format!(
            "ip -n {ns} link add name pop type vxlan id 7 local 10.2.0.{own} remote 10.2.0.{other} dev {underlay} dstport 4789
             ip -n {ns} addr add 10.9.0.{own}/24 dev pop; ip -n {ns} addr add 2001:db8:9::{own}/64 dev pop nodad
             ip -n {ns} link set pop up"
        ));
    }
}

#[test]
fn a_tunnel_carries_the_canary_arm_once_it_fits_and_leads_out() {
    if !root_or_skip("a_tunnel_carries_the_canary_arm_once_it_fits_and_leads_out") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    tunnel(&network);
    let sessions: Sessions = (0..1_000).flat_map(|i| [session(false, i), session(true, i)]).collect();
    for mode in [Mode::Host, Mode::Router] {
        let mut experiment = experiment("20%");
        experiment.steer.mode = mode;
        experiment.steer.lease = jiff::SignedDuration::from_secs(10);
        for (hop, via) in
            [(&mut experiment.steer.canary.v4, "10.9.0.1"), (&mut experiment.steer.canary.v6, "2001:db8:9::1")]
        {
            let hop = hop.as_mut().unwrap();
            (hop.via, hop.dev) = (Some(via.parse().unwrap()), "pop".to_owned());
        }
        let refused = try_start(&network, &experiment, &options(&dir)).unwrap_err();
        assert!(matches!(&refused, Error::MtuDiffers { mtu: 1_450, dev, .. } if dev == "pop"), "{refused}");
        experiment.steer.largest_packet = Some(1_400);
        // The kernel drops what would go into the tunnel again, and nothing but its own counter says so.
        let before = network.state();
        let refused = try_start(&network, &experiment, &options(&dir)).unwrap_err();
        assert!(matches!(&refused, Error::TunnelIntoItself { priority: 9_999, .. }), "{refused}");
        assert_eq!(network.state(), before);
        let told = refused.to_string();
        network.on_server(told.split('`').nth(1).unwrap());
        let before = network.state();
        let steering = start(&network, &experiment, &options(&dir));
        let on_canary = |session: &&_| assigned(&experiment, share("20%"), session) == Arm::Canary;
        let expected: Sessions = sessions.iter().filter(on_canary).copied().collect();
        // As long as may be: within the tunnel it still passes.
        network.send(network.sender(mode), sessions.iter().copied(), |_| vec![0; 1_400 - 48]);
        let (a, b, packets) = network.take();
        assert_eq!((a.len(), b.len(), packets), (sessions.len() - expected.len(), expected.len(), sessions.len()));
        assert!(b == expected);
        let by_b = b.len() as u64;
        let left = Departures { control: sessions.len() as u64 - by_b, canary: by_b, ..Departures::default() };
        assert!(departures(&network, &steering).is_none_or(|told| told == left), "{left:?}");
        steering.rollback().unwrap();
        assert_eq!(network.state(), before);
        network.on_server("ip rule del priority 9999");
    }
}

#[test]
fn a_device_without_a_gateway_is_a_canary_arm() {
    if !root_or_skip("a_device_without_a_gateway_is_a_canary_arm") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    tunnel(&network);
    let mut experiment = experiment("50%");
    experiment.steer.lease = jiff::SignedDuration::from_secs(10);
    experiment.steer.largest_packet = Some(1_400);
    let hop = experiment.steer.canary.v4.as_mut().unwrap();
    (hop.via, hop.dev) = (None, "pop".to_owned());
    experiment.steer.canary.v6 = None;
    experiment.steer.exclude = vec!["::/0".into()];
    let sessions: Sessions = (0..150).map(|i| session(false, i)).collect();
    network.on_server("ip rule add to 10.2.0.1 lookup main priority 9999");
    for mode in [Mode::Host, Mode::Router] {
        experiment.steer.mode = mode;
        let steering = start(&network, &experiment, &options(&dir));
        network.send(network.sender(mode), sessions.iter().copied(), |_| Vec::new());
        let on_canary = |session: &&_| assigned(&experiment, share("50%"), session) == Arm::Canary;
        let expected: Sessions = sessions.iter().filter(on_canary).copied().collect();
        let (mut a, mut b) = (Sessions::new(), Sessions::new());
        // The first packet to a neighbour waits until it has answered.
        crate::process::within(std::time::Duration::from_secs(5), || {
            let (more_a, more_b, _) = network.take();
            a.extend(more_a);
            b.extend(more_b);
            a.len() + b.len() == sessions.len()
        });
        assert!(b == expected);
        // The proof has seen them all: `::/0` leaves out no client of IPv4.
        if let Some(left) = departures(&network, &steering) {
            assert_eq!((left.packets(), left.canary, left.astray()), (150, expected.len() as u64, 0));
        }
        steering.rollback().unwrap();
    }
}
