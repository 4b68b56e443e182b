//! A promotion moves everybody and loses nobody, outlives the experiment, and is taken back to the byte.

use pathlab_canary::{
    Mode,
    steer::{self, Error, Plan, promote, promotion, rollback, show},
};
use pathlab_guard::{in_netns, privilege::root_or_skip};

use crate::{
    SEED, experiment,
    network::{Network, PORT, session},
    options,
    process::{Steerer, Stream},
    try_start,
};

#[test]
fn a_promotion_takes_everybody_over_from_a_running_experiment_and_has_its_own_way_back() {
    if !root_or_skip("a_promotion_takes_everybody_over_from_a_running_experiment_and_has_its_own_way_back") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let options = options(&dir);
    let before = network.state();
    let all: Vec<_> = (0..1_000).flat_map(|i| [session(false, i), session(true, i)]).collect();
    for mode in [Mode::Host, Mode::Router] {
        let mut experiment = experiment("15%");
        experiment.steer.mode = mode;
        let from = network.sender(mode);
        let plan = Plan::new(&experiment, SEED).unwrap();
        let mut steerer = Steerer::unhurried(&network, mode, dir.path());
        let stream = Stream::start(&network, mode, false);
        stream.wait(1, 20);
        let done = in_netns(Some(&network.server), || Ok(promote(&plan, &options))).unwrap().unwrap();
        assert!(done.ended_experiment && steerer.child.wait().unwrap().success());
        eprintln!("{}", show(&done).join("\n"));
        stream.wait(1, 50);
        let [a, b] = stream.finish();
        assert!(a.is_empty() && b.len() > 70, "a canary session left its path");
        network.send(from, all.iter().copied(), |_| Vec::new());
        let (a, b, packets) = network.take();
        assert_eq!((a.len(), b.len(), packets), (0, all.len(), all.len()));
        assert!(!network.state().contains("pathlab_canary"));
        // Traffic that is not the game's stays where it was.
        let [v4, _] = network.sockets(from, PORT + 1);
        v4.send_to(b"", all[0]).unwrap();
        assert!(promotion("test", &options).unwrap().unwrap().kept);
        for again in [
            in_netns(Some(&network.server), || Ok(promote(&plan, &options))).unwrap().unwrap_err(),
            try_start(&network, &experiment, &options).unwrap_err(),
        ] {
            assert!(matches!(again, Error::Promoted { table: steer::PROMOTED_TABLE, .. }), "{again}");
        }
        assert_eq!(rollback("test", &options).unwrap().removed.len(), done.objects.len());
        assert_eq!(network.state(), before);
        assert!(promotion("test", &options).unwrap().is_none());
        assert!(matches!(rollback("test", &options), Err(Error::NotRunning { .. })));
    }
}

#[test]
fn a_promotion_leaves_out_whom_the_experiment_left_out() {
    if !root_or_skip("a_promotion_leaves_out_whom_the_experiment_left_out") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    let options = options(&dir);
    let before = network.state();
    let mut experiment = experiment("15%");
    experiment.steer.include = vec!["198.18.0.0/23".into(), "2001:db8:c::/112".into()];
    experiment.steer.exclude = vec!["198.18.1.0/24".into()];
    let plan = Plan::new(&experiment, SEED).unwrap();
    let done = in_netns(Some(&network.server), || Ok(promote(&plan, &options))).unwrap().unwrap();
    assert!(!done.ended_experiment);
    let all = (0..3_000).flat_map(|i| [session(false, i), session(true, i)]);
    network.send(&network.server, all, |_| Vec::new());
    let (a, b, _) = network.take();
    let outside = |session: &std::net::SocketAddr| match session.ip() {
        std::net::IpAddr::V4(address) => address.octets()[2] != 0,
        std::net::IpAddr::V6(_) => false,
    };
    assert!(!a.is_empty() && a.iter().all(outside) && !b.iter().any(outside));
    rollback("test", &options).unwrap();
    assert_eq!(network.state(), before);
}
