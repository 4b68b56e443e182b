//! What steering refuses to start on, and what makes it halt: each fault is built, and named in one sentence.

use std::time::Duration;

use pathlab_canary::{
    Experiment, Key, KeyFrom, Mode, Share,
    steer::{Error, Halt, Plan},
};
use pathlab_guard::{Family, in_netns, privilege::root_or_skip};
use pathlab_record::Arm;

use crate::{
    SEED, assigned, experiment,
    network::{Network, PORT, session, sh},
    options,
    process::within,
    share, start, try_start,
};

#[test]
fn a_plan_names_the_key_that_is_wrong() {
    let refused = |change: fn(&mut pathlab_canary::Experiment), says: &str| {
        let mut experiment = experiment("15%");
        change(&mut experiment);
        let error = Plan::new(&experiment, SEED).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    };
    refused(|e| e.experiment.share = share("0.5%"), "experiment.share = 0.5%: choose 1% to 50%");
    refused(|e| e.experiment.cap_share = share("10%"), "a share of 15% is above cap_share = 10%");
    refused(|e| e.experiment.name = "a b".into(), "experiment.name = a b: ");
    refused(|e| e.steer.lease = jiff::SignedDuration::from_millis(50), "steer.lease = 50ms: choose 100ms to 10s");
    refused(|e| (e.steer.canary.v4, e.steer.canary.v6) = (None, None), "steer.canary = {}: ");
    refused(|e| e.steer.canary.v6 = e.steer.canary.v4.clone(), "steer.canary.v6.via = 10.2.0.1: ");
    refused(|e| e.steer.include = vec!["10.0.0.1/8".into()], "steer.include = 10.0.0.1/8: ");
    refused(|e| e.steer.max_canary_sessions = 0, "steer.max_canary_sessions = 0: ");
    refused(|e| e.key.from = KeyFrom::Payload, "key.from = \"payload\": ");
    refused(|e| e.key.offset = Some(4), "key.offset = given: ");
    refused(|e| e.key = Key { from: KeyFrom::Payload, offset: Some(0), length: Some(33) }, "key.length = 33: ");
    refused(|e| (e.steer.mode, e.steer.server_port) = (Mode::Router, None), "steer.server_port = absent: ");
}

#[test]
fn the_plan_is_what_nft_lists() {
    if !root_or_skip("the_plan_is_what_nft_lists") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    for mode in [Mode::Host, Mode::Router] {
        let mut experiment = experiment("15%");
        experiment.steer.mode = mode;
        experiment.steer.include = vec!["198.18.0.0/15".into()];
        experiment.steer.max_canary_pps = Some(50_000);
        experiment.steer.exclude = vec!["198.18.9.0/24".into(), "2001:db8:c:9::/64".into()];
        let plan = Plan::new(&experiment, SEED).unwrap().to_string();
        let steering = start(&network, &experiment, &options(&dir));
        let listed = network.on_server("nft list ruleset");
        let rules =
            network.on_server("sh -c 'ip rule; ip -6 rule; ip route show table 222; ip -6 route show table 222'");
        steering.rollback().unwrap();
        let (commands, table) = plan.split_once("table inet").unwrap();
        let sysctls = if mode == Mode::Host { 2 } else { 0 };
        assert_eq!(commands.lines().count(), 4 + sysctls, "{commands}");
        assert_eq!(rules.matches("fwmark 0x10000/0xff0000 lookup 222 proto 222").count(), 2, "{rules}");
        assert_eq!(rules.matches("dev eth1 proto 222").count(), 2, "{rules}");
        for line in table.lines().skip(1).map(str::trim) {
            // What is left of a lease is listed beside it, and counters have counted.
            let line = line.strip_suffix("{ }").unwrap_or(line);
            let line = line.split(" timeout 500ms").next().unwrap();
            assert!(listed.contains(line), "`{line}` is not in {listed}");
        }
    }
}

#[test]
fn a_canary_path_that_cannot_work_is_refused_and_nothing_is_left() {
    if !root_or_skip("a_canary_path_that_cannot_work_is_refused_and_nothing_is_left") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let options = options(&dir);
    let refused = |change: fn(&mut pathlab_canary::Experiment)| {
        let mut experiment = experiment("15%");
        change(&mut experiment);
        let before = network.state();
        let error = try_start(&network, &experiment, &options).unwrap_err();
        assert_eq!(network.state(), before);
        eprintln!("{error}");
        error
    };
    let server = &network.server;
    assert!(matches!(refused(|e| e.steer.canary.v4.as_mut().unwrap().dev = "eth9".into()), Error::NoDevice { .. }));
    let silent = refused(|e| e.steer.canary.v4.as_mut().unwrap().via = "10.2.0.77".parse().ok());
    assert!(matches!(silent, Error::GatewaySilent { .. }));
    let silent = refused(|e| e.steer.canary.v6.as_mut().unwrap().via = "2001:db8:2::77".parse().ok());
    assert!(matches!(silent, Error::GatewaySilent { .. }));

    sh(&format!("ip -n {server} rule add from 203.0.113.1 lookup main priority 10000"));
    assert!(matches!(refused(|_| {}), Error::PriorityTaken { priority: 10_000, .. }));
    sh(&format!(
        "ip -n {server} rule del priority 10000; ip -n {server} -6 rule add fwmark 0x30000/0x30000 lookup main priority 9"
    ));
    assert!(matches!(refused(|_| {}), Error::MarkTaken { priority: 9, mark: 0x3_0000, .. }));
    sh(&format!(
        "ip -n {server} -6 rule del priority 9; ip -n {server} route add 203.0.113.0/24 via 10.2.0.1 table 222"
    ));
    assert!(matches!(refused(|_| {}), Error::TableTaken { table: 222, .. }));
    sh(&format!("ip -n {server} route flush table 222; ip -n {} link set s down", network.transit_b));
    assert!(matches!(refused(|_| {}), Error::DeviceDown { .. }));
}

/// Builds a fault with a command on the server, has the start refused, undoes the fault, and has the start accepted.
fn refused_while(network: &Network, experiment: &Experiment, fault: &str, cure: &str) -> Error {
    let dir = tempfile::tempdir().unwrap();
    sh(&format!("nsenter --net=/run/netns/{} sh -ec '{fault}'", network.server));
    let before = network.state();
    let error = try_start(network, experiment, &options(&dir)).unwrap_err();
    assert_eq!(network.state(), before, "{error}");
    eprintln!("{error}");
    sh(&format!("nsenter --net=/run/netns/{} sh -ec '{cure}'", network.server));
    start(network, experiment, &options(&dir)).rollback().unwrap();
    error
}

#[test]
fn a_canary_path_of_one_family_alone_is_refused_unless_the_other_takes_no_part() {
    if !root_or_skip("a_canary_path_of_one_family_alone_is_refused_unless_the_other_takes_no_part") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let mut experiment = experiment("15%");
    experiment.steer.canary.v6 = None;
    let error = try_start(&network, &experiment, &options(&dir)).unwrap_err();
    assert!(matches!(error, Error::NoPath { family: Family::V6 }), "{error}");
    assert!(error.to_string().contains("`exclude = [\"::/0\"]`"), "{error}");
    experiment.steer.exclude = vec!["::/0".into()];
    start(&network, &experiment, &options(&dir)).rollback().unwrap();
    experiment.steer.exclude.clear();
    let error = refused_while(&network, &experiment, "true", "ip -6 route del default");
    assert!(matches!(error, Error::NoPath { family: Family::V6 }), "{error}");
}

#[test]
fn a_canary_path_that_carries_less_is_refused_unless_nothing_longer_is_sent() {
    if !root_or_skip("a_canary_path_that_carries_less_is_refused_unless_nothing_longer_is_sent") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let mut experiment = experiment("15%");
    let narrow = "ip link set eth1 mtu 1400";
    let error = refused_while(&network, &experiment, narrow, "ip link set eth1 mtu 1500");
    let Error::MtuDiffers { mtu: 1_400, control_mtu: 1_500, dev, control, .. } = &error else { panic!("{error}") };
    assert_eq!((dev.as_str(), control.as_str()), ("eth1", "eth0"));
    network.on_server(narrow);
    experiment.steer.largest_packet = Some(1_401);
    assert!(matches!(try_start(&network, &experiment, &options(&dir)), Err(Error::MtuDiffers { .. })));
    experiment.steer.largest_packet = Some(1_400);
    start(&network, &experiment, &options(&dir)).rollback().unwrap();
    // A control route that is narrower itself is no reason.
    experiment.steer.largest_packet = None;
    network.on_server("ip route change default via 10.1.0.1 src 203.0.113.10 mtu 1400");
    network.on_server("ip -6 route change default via 2001:db8:1::1 src 2001:db8:f::10 mtu 1400");
    start(&network, &experiment, &options(&dir)).rollback().unwrap();
}

#[test]
fn a_source_of_the_other_provider_is_refused_unless_it_is_accepted() {
    if !root_or_skip("a_source_of_the_other_provider_is_refused_unless_it_is_accepted") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let mut experiment = experiment("15%");
    // What an unbound socket gets from the route.
    let error = refused_while(
        &network,
        &experiment,
        "ip route change default via 10.1.0.1",
        "ip route change default via 10.1.0.1 src 203.0.113.10",
    );
    assert!(error.to_string().starts_with("packets from 10.1.0.2 (an address of eth0) would leave by eth1"), "{error}");
    // What a socket is bound to, in either family; sockets of other ports do not count.
    for (address, shown) in [("10.1.0.2", "10.1.0.2"), ("2001:db8:1::2", "2001:db8:1::2")] {
        let bind = |port| {
            let bound = in_netns(Some(&network.server), || Ok(std::net::UdpSocket::bind((address, port)).unwrap()));
            bound.unwrap()
        };
        let _other = bind(PORT + 1);
        let server = bind(PORT);
        let error = try_start(&network, &experiment, &options(&dir)).unwrap_err();
        let Error::WrongSource { source_address, .. } = &error else { panic!("{error}") };
        assert_eq!(source_address.to_string(), shown);
        experiment.steer.accepted_sources = vec!["10.1.0.0/24".into(), "2001:db8:1::/64".into()];
        start(&network, &experiment, &options(&dir)).rollback().unwrap();
        experiment.steer.accepted_sources.clear();
        drop(server);
        // A process that another test has just forked may hold it for a moment.
        within(Duration::from_secs(5), || match try_start(&network, &experiment, &options(&dir)) {
            Err(Error::WrongSource { .. }) => false,
            steering => steering.unwrap().rollback().is_ok(),
        });
    }
}

#[test]
fn strict_reverse_path_filters_are_refused() {
    if !root_or_skip("strict_reverse_path_filters_are_refused") {
        return;
    }
    let network = Network::new();
    let mut experiment = experiment("15%");
    let conf = "sysctl -qw net.ipv4.conf";
    for place in ["eth1", "all"] {
        let (fault, cure) = (format!("{conf}.{place}.rp_filter=1"), format!("{conf}.{place}.rp_filter=0"));
        let error = refused_while(&network, &experiment, &fault, &cure);
        assert!(matches!(&error, Error::StrictReversePath { dev } if dev == "eth1"), "{error}");
    }
    // In front of the game host: harmless until the mark counts.
    experiment.steer.mode = Mode::Router;
    network.on_server(&format!("{conf}.g.rp_filter=1"));
    let error = refused_while(
        &network,
        &experiment,
        &format!("{conf}.g.src_valid_mark=1"),
        &format!("{conf}.g.src_valid_mark=0"),
    );
    assert!(matches!(&error, Error::MarkCountsForSource { dev } if dev == "g"), "{error}");
}

#[test]
fn what_src_valid_mark_would_do_is_so() {
    if !root_or_skip("what_src_valid_mark_would_do_is_so") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let mut experiment = experiment("50%");
    experiment.steer.mode = Mode::Router;
    experiment.steer.lease = jiff::SignedDuration::from_secs(10);
    let steering = start(&network, &experiment, &options(&dir));
    let send = || {
        network.send(&network.game, (0..400).map(|i| session(false, i)), |_| Vec::new());
        let (a, b, _) = network.take();
        (a.len(), b.len())
    };
    network.on_server("sysctl -qw net.ipv4.conf.g.rp_filter=1");
    let (a, b) = send();
    assert!(a + b == 400 && b > 100);
    network.on_server("sysctl -qw net.ipv4.conf.g.src_valid_mark=1");
    assert_eq!(send(), (a, 0));
    drop(steering);
}

#[test]
fn filters_of_others_that_use_our_bits_are_refused_and_halt_a_running_experiment() {
    if !root_or_skip("filters_of_others_that_use_our_bits_are_refused_and_halt_a_running_experiment") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    for (mode, hook) in [(Mode::Host, "output"), (Mode::Router, "prerouting")] {
        let mut experiment = experiment("50%");
        experiment.steer.mode = mode;
        let chain = |rule: &str| {
            format!("nft \"table inet vpn {{ chain out {{ type filter hook {hook} priority 0; {rule}; }}; }}\"")
        };
        for (rule, bits) in [
            ("meta mark & 0x00ff0000 == 0x00080000 drop", 0x00ff_0000),
            ("meta mark set meta mark & 0xfff7ffff | 0x00080000", 0x0008_0000),
            ("meta mark set ct mark", u32::MAX),
        ] {
            let error = refused_while(&network, &experiment, &chain(rule), "nft delete table inet vpn");
            let Error::FilterUsesMark { table, chain, bits: found, .. } = &error else { panic!("{error}") };
            assert_eq!((table.as_str(), chain.as_str(), *found), ("vpn", "out", bits));
        }
        // Bits of its own are no reason.
        network.on_server(&chain("meta mark & 0xff == 0x7 meta mark set meta mark | 0x8"));
        let mut steering = start(&network, &experiment, &options(&dir));
        steering.check_others().unwrap();
        assert_eq!(steering.halted(), None);
        for (overlap, says) in [
            (chain("meta mark set 0x1"), "chain out of table vpn"),
            ("ip rule add fwmark 0x10000/0x10000 lookup main priority 9".to_owned(), "priority 9 uses mark"),
            ("ip -6 rule add fwmark 0x10000/0x10000 lookup main priority 9".to_owned(), "priority 9 uses mark"),
            ("ip rule add from 192.0.2.9 lookup main priority 10000".to_owned(), "rule with priority 10000 exists"),
        ] {
            sh(&format!("nsenter --net=/run/netns/{} sh -ec '{overlap}'", network.server));
            steering.check_others().unwrap();
            let Some(Halt::Overlap(reason)) = steering.halted() else { panic!("not halted by {overlap}") };
            assert!(reason.contains(says), "{reason}");
            all_by_control(&network, mode);
            drop(steering);
            network.on_server("nft delete table inet vpn");
            network.on_server(
                "sh -c 'ip rule del priority 9; ip -6 rule del priority 9; ip rule del from 192.0.2.9; true' 2>/dev/null",
            );
            network.on_server(&chain("accept"));
            steering = start(&network, &experiment, &options(&dir));
        }
        drop(steering);
        network.on_server("nft delete table inet vpn");
    }
}

/// Whoever sends, in either family.
fn all_by_control(network: &Network, mode: Mode) {
    network.take();
    let sessions = (0..100).flat_map(|i| [session(false, i), session(true, i)]);
    assert_eq!(network.send(network.sender(mode), sessions, |_| Vec::new()), 200);
    let (a, b, packets) = network.take();
    assert_eq!((a.len(), b.len(), packets), (200, 0, 200));
}

#[test]
fn a_second_steerer_is_refused_and_a_foreign_flush_changes_nothing() {
    if !root_or_skip("a_second_steerer_is_refused_and_a_foreign_flush_changes_nothing") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let options = options(&dir);
    for mode in [Mode::Host, Mode::Router] {
        let mut experiment = experiment("50%");
        experiment.steer.mode = mode;
        experiment.steer.lease = jiff::SignedDuration::from_secs(10);
        let mut steering = start(&network, &experiment, &options);
        let before = network.state();
        let mut other = experiment.clone();
        other.experiment.name = "other".into();
        let error = try_start(&network, &other, &options).unwrap_err();
        assert!(matches!(&error, Error::Running { name } if name == "test"), "{error}");
        assert!(error.to_string().contains("experiment `test` is steering already"), "{error}");
        let without_lease = |state: String| state.lines().filter(|line| !line.contains("expires")).collect::<String>();
        network.on_server("nft flush ruleset");
        assert_eq!(without_lease(network.state()), without_lease(before));
        // And the packets go where they went.
        let all: Vec<_> = (0..200).flat_map(|i| [session(false, i), session(true, i)]).collect();
        network.send(network.sender(mode), all.iter().copied(), |_| Vec::new());
        let (_, b, packets) = network.take();
        let on_canary = |session: &&_| assigned(&experiment, share("50%"), session) == Arm::Canary;
        assert_eq!((b, packets), (all.iter().filter(on_canary).copied().collect(), all.len()));
        steering.renew().unwrap();
    }
}

#[test]
fn a_canary_device_that_vanishes_ends_in_control_and_a_halt() {
    if !root_or_skip("a_canary_device_that_vanishes_ends_in_control_and_a_halt") {
        return;
    }
    for mode in [Mode::Host, Mode::Router] {
        let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
        let mut experiment = experiment("50%");
        experiment.steer.mode = mode;
        let mut steering = start(&network, &experiment, &options(&dir));
        network.on_server("ip link del eth1");
        // Before anybody has looked, and after.
        all_by_control(&network, mode);
        steering.check().unwrap();
        assert_eq!(steering.halted(), Some(&Halt::PathGone));
        assert!(Halt::PathGone.to_string().contains("of the canary path is gone"));
        assert_eq!(steering.observe().unwrap().unwrap().lease_left, None);
        assert!(matches!(steering.renew(), Err(Error::Lapsed)));
        all_by_control(&network, mode);
        steering.rollback().unwrap();
        assert!(!network.state().contains("222"));
    }
}

/// Every mode with packets of either family.
const ARMS: [(Mode, bool); 4] = [(Mode::Host, false), (Mode::Host, true), (Mode::Router, false), (Mode::Router, true)];

/// Half of the sessions on the canary arm, for as long as a loaded machine may take to look at a cap.
fn capped(mode: Mode) -> Experiment {
    let mut experiment = experiment("50%");
    experiment.steer.mode = mode;
    experiment.steer.lease = jiff::SignedDuration::from_secs(10);
    experiment
}

#[test]
fn more_canary_sessions_than_allowed_halt_the_experiment() {
    if !root_or_skip("more_canary_sessions_than_allowed_halt_the_experiment") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    for (mode, v6) in ARMS {
        let mut experiment = capped(mode);
        experiment.steer.max_canary_sessions = 100;
        let mut steering = start(&network, &experiment, &options(&dir));
        let send = |sessions| network.send(network.sender(mode), (0..sessions).map(|i| session(v6, i)), |_| Vec::new());
        send(100);
        steering.check().unwrap();
        assert_eq!(steering.halted(), None);
        let counted = steering.observe().unwrap().unwrap();
        assert!((1..100).contains(&counted.canary_sessions) && counted.canary_sessions == counted.packets.canary);
        send(400);
        steering.check().unwrap();
        assert_eq!(steering.halted(), Some(&Halt::TooManySessions), "{mode:?}, IPv6 {v6}");
        network.take();
        // of the other family too: it is the experiment that has ended
        network.send(network.sender(mode), (0..400).map(|i| session(i % 2 == 0, i)), |_| Vec::new());
        let (a, b, _) = network.take();
        assert_eq!((a.len(), b.len()), (400, 0));
        steering.rollback().unwrap();
    }
}

#[test]
fn more_canary_packets_a_second_than_allowed_halt_the_experiment() {
    if !root_or_skip("more_canary_packets_a_second_than_allowed_halt_the_experiment") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    for (mode, v6) in ARMS {
        let mut experiment = capped(mode);
        experiment.steer.max_canary_pps = Some(100);
        let mut steering = start(&network, &experiment, &options(&dir));
        let send = |sessions| network.send(network.sender(mode), (0..sessions).map(|i| session(v6, i)), |_| Vec::new());
        // Ten may come in a burst.
        send(10);
        steering.check().unwrap();
        assert_eq!(steering.halted(), None);
        send(4_000);
        steering.check().unwrap();
        assert_eq!(steering.halted(), Some(&Halt::TooManyPackets), "{mode:?}, IPv6 {v6}");
        network.take();
        network.send(network.sender(mode), (0..400).map(|i| session(i % 2 == 0, i)), |_| Vec::new());
        let (a, b, _) = network.take();
        assert_eq!((a.len(), b.len()), (400, 0));
        steering.rollback().unwrap();
    }
}

#[test]
fn a_lapsed_lease_cannot_be_renewed() {
    if !root_or_skip("a_lapsed_lease_cannot_be_renewed") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let mut experiment = experiment("15%");
    experiment.steer.lease = jiff::SignedDuration::from_millis(100);
    let mut steering = start(&network, &experiment, &options(&dir));
    let observe = || in_netns(Some(&network.server), || Ok(pathlab_canary::steer::observe())).unwrap();
    within(Duration::from_secs(1), || observe().unwrap().unwrap().lease_left.is_none());
    assert!(matches!(steering.renew(), Err(Error::Lapsed)));
    assert_eq!(steering.halted(), Some(&Halt::Lapsed));
    assert!(matches!(steering.ramp(Share::from_buckets(2_000).unwrap()), Err(Error::Lapsed)));
    assert_eq!(observe().unwrap().unwrap().lease_left, None);
}
