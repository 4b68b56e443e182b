//! Which sessions go where: as the analysis says, in the share that was asked for, and always the same.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use pathlab_canary::{
    Experiment, KeyFrom, Mode, Share, arm, bucket_of_bytes,
    steer::{self, Steering},
};
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::Arm;

use crate::{
    SEED, UNHURRIED, assigned, departures, experiment,
    network::{Network, Sessions, session},
    options,
    process::{Steerer, within},
    share, start, without_proof,
};

/// Sends one packet to each session and returns those that left by A and by B, every one by exactly one.
fn arms(
    network: &Network,
    from: &str,
    sessions: &Sessions,
    payload: impl Fn(&SocketAddr) -> Vec<u8>,
) -> (Sessions, Sessions) {
    let sent = network.send(from, sessions.iter().copied(), payload);
    let (a, b, packets) = network.take();
    assert_eq!(packets, sent);
    assert!(&a | &b == *sessions);
    assert!(a.is_disjoint(&b));
    (a, b)
}

/// The proof at the devices agrees with what the transits saw, where the kernel can have one.
fn proven(network: &Network, steering: &Steering, by_control: usize, by_canary: &Sessions) {
    if let Some(left) = departures(network, steering) {
        assert_eq!((left.control, left.canary, left.astray()), (by_control as u64, by_canary.len() as u64, 0));
    }
}

/// Renews the lease beside the work, however long a slow machine takes for it.
fn renewed(steering: &Mutex<Steering>, work: impl FnOnce()) {
    std::thread::scope(|scope| {
        // Gone when the work is done, or has panicked.
        let (working, done) = mpsc::channel::<()>();
        let lease = steering.lock().unwrap().lease();
        scope.spawn(move || {
            while done.recv_timeout(lease / 10) == Err(RecvTimeoutError::Timeout) {
                steering.lock().unwrap().renew().unwrap();
            }
        });
        work();
        drop(working);
    });
}

/// An experiment whose lease lasts over a test that sends once.
fn unhurried(share: &str) -> Experiment {
    let mut experiment = experiment(share);
    experiment.steer.lease = UNHURRIED.try_into().unwrap();
    experiment
}

fn nothing(_: &SocketAddr) -> Vec<u8> {
    Vec::new()
}

fn family(v6: bool, n: u32) -> Sessions {
    (0..n).map(|i| session(v6, i)).collect()
}

fn canary(experiment: &Experiment, at: Share, sessions: &Sessions) -> Sessions {
    sessions.iter().copied().filter(|session| assigned(experiment, at, session) == Arm::Canary).collect()
}

#[test]
fn the_kernel_and_the_analysis_agree_on_100_000_keys_of_each_family() {
    if !root_or_skip("the_kernel_and_the_analysis_agree_on_100_000_keys_of_each_family") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let mut experiment = unhurried("15%");
    experiment.steer.max_canary_sessions = 100_000;
    let steering = Mutex::new(start(&network, &experiment, &options(&dir)));
    renewed(&steering, || {
        for v6 in [false, true] {
            let sessions = family(v6, 100_000);
            network.send(&network.server, sessions.iter().copied(), nothing);
            let (a, b, packets) = network.take();
            assert_eq!((packets, a.len() + b.len()), (sessions.len(), sessions.len()));
            assert!(b == canary(&experiment, share("15%"), &sessions), "v6: {v6}");
        }
    });
    let observed = steering.lock().unwrap().observe().unwrap().unwrap();
    assert_eq!(observed.packets.control + observed.packets.canary, 200_000);
    assert_eq!(observed.packets.held, 0);
}

#[test]
fn the_share_is_met_and_a_ramp_only_adds() {
    if !root_or_skip("the_share_is_met_and_a_ramp_only_adds") {
        return;
    }
    const N: u32 = 10_000;
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let sessions = [false, true].map(|v6| family(v6, N));
    let mut met = [Sessions::new(), Sessions::new()];
    for mode in [Mode::Host, Mode::Router] {
        let from = network.sender(mode);
        let mut experiment = unhurried("10%");
        experiment.steer.mode = mode;
        let steering = Mutex::new(start(&network, &experiment, &options(&dir)));
        let mut last = [Sessions::new(), Sessions::new()];
        renewed(&steering, || {
            for percent in ["10%", "15%", "20%"] {
                steering.lock().unwrap().ramp(share(percent)).unwrap();
                for (sessions, last) in sessions.iter().zip(&mut last) {
                    let (_, b) = arms(&network, from, sessions, nothing);
                    let p = share(percent).fraction();
                    let (mean, deviation) = (f64::from(N) * p, (f64::from(N) * p * (1.0 - p)).sqrt());
                    let (low, high) = (mean - 2.576 * deviation, mean + 2.576 * deviation);
                    eprintln!("{mode:?} {percent}: {} of {N}, 99 % of draws within {low:.0} to {high:.0}", b.len());
                    assert!((low..=high).contains(&(b.len() as f64)));
                    assert!(last.is_subset(&b), "a ramp moved sessions to control");
                    *last = b;
                }
            }
        });
        steering.into_inner().unwrap().rollback().unwrap();
        let (a, b) = arms(&network, from, &sessions[0], nothing);
        assert_eq!((a.len(), b.len()), (N as usize, 0));
        if mode == Mode::Router {
            assert!(met == last, "a session is on another arm in the other mode");
        }
        met = last;
    }
}

/// For so long sessions are looked at; the soak wants more than a minute.
fn steady() -> Duration {
    let seconds = std::env::var("PATHLAB_STEADY_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

#[test]
fn no_session_changes_its_arm_under_steady_traffic_reloads_and_restarts() {
    if !root_or_skip("no_session_changes_its_arm_under_steady_traffic_reloads_and_restarts") {
        return;
    }
    const N: u32 = 10_000;
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let sessions = &family(false, N) | &family(true, N);
    let expected = canary(&experiment("15%"), share("15%"), &sessions);
    let all: Vec<_> = sessions.iter().copied().collect();
    let mut packets = 0;
    for mode in [Mode::Host, Mode::Router] {
        let from = network.sender(mode);
        let mut steerer = Steerer::unhurried(&network, mode, dir.path());
        let begin = Instant::now();
        let mut rounds = 0;
        while begin.elapsed() < steady() / 2 || rounds < 4 {
            // While nothing is sent, so that each session has one arm to be on.
            if rounds == 2 {
                drop(steerer.child.stdin.take());
                assert!(steerer.child.wait().unwrap().success());
                steerer = Steerer::unhurried(&network, mode, dir.path());
            }
            for (i, part) in all.chunks(100).enumerate() {
                // Under way: our own map anew, everybody's tables flushed, and another table loaded.
                if i == 70 && rounds % 2 == 1 {
                    steer::ramp("test", share("15%"), &options(&dir)).unwrap();
                    network.on_server("nft flush ruleset");
                    network.on_server(
                        "nft 'table inet other { chain in { type filter hook input priority 0; accept; }; }'",
                    );
                }
                packets += network.send(from, part.iter().copied(), nothing);
            }
            rounds += 1;
        }
        let status = steer::status("test", &options(&dir)).unwrap();
        assert_eq!((status.halted, status.observed.packets.held), (None, 0));
        match status.departures {
            Some(left) => assert_eq!(left.astray(), 0),
            None => without_proof(&network, &status.unproven.unwrap()),
        }
        drop(steerer);
        network.on_server("nft delete table inet other");
        within(Duration::from_secs(1), || !dir.path().join("undo/canary-test.jsonl").exists());
    }
    // Who was seen where, over all that time.
    let (a, b, seen) = network.take();
    eprintln!("{packets} packets of {} sessions, {} on both arms", sessions.len(), (&a & &b).len());
    assert_eq!((seen, (&a & &b).len()), (packets, 0));
    assert!(b == expected && a.len() + b.len() == sessions.len());
}

#[test]
fn every_kind_of_key_is_hashed_as_the_analysis_does() {
    if !root_or_skip("every_kind_of_key_is_hashed_as_the_analysis_does") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let sessions = &family(false, 1_000) | &family(true, 1_000);
    let mut experiment = unhurried("50%");

    experiment.key.from = KeyFrom::ClientAddr;
    let steering = start(&network, &experiment, &options(&dir));
    let (a, b) = arms(&network, &network.server, &sessions, nothing);
    assert!(b == canary(&experiment, share("50%"), &sessions));
    proven(&network, &steering, a.len(), &b);
    steering.rollback().unwrap();

    experiment.key.from = KeyFrom::Payload;
    let modes = [Mode::Host, Mode::Router].into_iter();
    // A length that fills no register, and one of more than a hash block.
    for (mode, (offset, length)) in modes.flat_map(|mode| [(mode, (3, 6)), (mode, (0, 32))]) {
        experiment.steer.mode = mode;
        (experiment.key.offset, experiment.key.length) = (Some(offset), Some(length));
        let payload = |session: &SocketAddr| format!("{session:-<60}").into_bytes();
        let mut steering = start(&network, &experiment, &options(&dir));
        let (a, b) = arms(&network, network.sender(mode), &sessions, payload);
        proven(&network, &steering, a.len(), &b);
        // A packet that ends before its key is of no session: it stays on control and is counted on neither arm.
        let sent = network
            .send(network.sender(mode), sessions.iter().copied(), |_| vec![b'x'; usize::from(offset + length - 1)]);
        let (_, strays, packets) = network.take();
        assert_eq!((strays.len(), packets), (0, sent));
        let counted = steering.observe().unwrap().unwrap().packets;
        assert_eq!((counted.control, counted.canary, counted.held), (a.len() as u64, b.len() as u64, 0));
        steering.rollback().unwrap();
        let key = |session: &SocketAddr| payload(session)[usize::from(offset)..usize::from(offset + length)].to_vec();
        let on_canary = |session: &&SocketAddr| arm(bucket_of_bytes(SEED, &key(session)), share("50%")) == Arm::Canary;
        assert!(b == sessions.iter().filter(on_canary).copied().collect(), "{length} bytes at {offset}");
    }
}

#[test]
fn in_router_mode_forwarded_replies_are_steered() {
    if !root_or_skip("in_router_mode_forwarded_replies_are_steered") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let before = network.state();
    let sessions = &family(false, 1_000) | &family(true, 1_000);
    let mut experiment = unhurried("20%");
    experiment.steer.mode = Mode::Router;
    let steering = start(&network, &experiment, &options(&dir));
    let (a, b) = arms(&network, &network.game, &sessions, nothing);
    assert!(b == canary(&experiment, share("20%"), &sessions));
    proven(&network, &steering, a.len(), &b);
    steering.rollback().unwrap();
    assert_eq!(network.state(), before);
}

#[test]
fn no_connection_tracking_is_needed() {
    if !root_or_skip("no_connection_tracking_is_needed") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    network.on_server(
        "nft 'table inet untracked {
            chain out { type filter hook output priority raw; notrack; };
            chain through { type filter hook prerouting priority raw; notrack; };
        }'",
    );
    let sessions = &family(false, 1_000) | &family(true, 1_000);
    for (mode, from) in [(Mode::Host, &network.server), (Mode::Router, &network.game)] {
        let mut experiment = unhurried("20%");
        experiment.steer.mode = mode;
        let steering = start(&network, &experiment, &options(&dir));
        let (_, b) = arms(&network, from, &sessions, nothing);
        assert!(b == canary(&experiment, share("20%"), &sessions));
        steering.rollback().unwrap();
    }
}

#[test]
fn only_listed_clients_and_the_servers_port_take_part_and_other_marks_survive() {
    if !root_or_skip("only_listed_clients_and_the_servers_port_take_part_and_other_marks_survive") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let sessions = &family(false, 2_000) | &family(true, 2_000);
    let mut experiment = unhurried("50%");
    experiment.steer.include = vec!["198.18.0.0/23".into(), "2001:db8:c::/112".into()];
    experiment.steer.exclude = vec!["198.18.1.0/24".into(), "198.18.1.128/25".into(), "255.0.0.0/8".into()];
    // Somebody else's mark, seen again after ours was set.
    network.on_server(
        "nft 'table inet other {
            chain before { type filter hook output priority -200; meta mark set meta mark & 0xffff0000 | 0x7; };
        }'",
    );
    let steering = start(&network, &experiment, &options(&dir));
    network.on_server(
        "nft 'table inet other {
            counter kept { };
            chain after {
                type filter hook output priority 0;
                meta mark & 0x00ff00ff == 0x00010007 counter name kept;
            };
        }'",
    );
    let (_, b) = arms(&network, &network.server, &sessions, nothing);
    let listed = |session: &SocketAddr| match session.ip() {
        std::net::IpAddr::V4(address) => address.octets()[2] == 0,
        std::net::IpAddr::V6(_) => true,
    };
    let expected: Sessions = canary(&experiment, share("50%"), &sessions).into_iter().filter(&listed).collect();
    assert!(!expected.is_empty() && b == expected);
    let part = sessions.iter().filter(|session| listed(session)).count();
    proven(&network, &steering, part - b.len(), &b);
    let kept = network.on_server("nft list counter inet other kept");
    assert!(kept.contains(&format!("packets {} ", expected.len())), "{kept}");

    let [v4, _] = network.sockets(&network.server, 5_353);
    for session in sessions.iter().filter(|session| session.is_ipv4()) {
        v4.send_to(b"", session).unwrap();
    }
    drop(steering);
    let (_, b, _) = network.take();
    assert!(b.is_empty(), "another port was steered");
}
