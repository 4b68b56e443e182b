//! On real packets in namespaces: the right sessions leave by the canary path, stay there, and come back.

mod assignment;
mod network;
mod passive;
mod path_mtu;
#[path = "../../../tests/support/patience.rs"]
mod patience;
mod process;
mod promotion;
mod refusals;
mod tunnel;
mod way_back;
mod wrong_arm;

use std::{net::SocketAddr, time::Duration};

use network::Network;
use pathlab_canary::{
    Experiment, Share, arm, bucket,
    steer::{Departures, Options, Plan, Result, Steering},
};
use pathlab_guard::in_netns;
use pathlab_record::{Arm, SessionKey};

const SEED: u32 = 0x5eed_0001;
const LEASE_MS: u64 = 500;
/// The longest lease, for what is not about leases: a machine that is emulated does not renew one in time.
const UNHURRIED: Duration = Duration::from_secs(10);

fn options(dir: &tempfile::TempDir) -> Options {
    options_in(dir.path())
}

fn options_in(dir: &std::path::Path) -> Options {
    Options {
        guardian: ["--ignored", "--exact", "process::guardian_entry", "--nocapture"].map(Into::into).into(),
        undo_dir: dir.join("undo"),
        run_dir: dir.join("run"),
    }
}

/// An experiment over transit B in both families.
fn experiment(share: &str) -> Experiment {
    toml::from_str(&format!(
        r#"
        [experiment]
        name = "test"
        seed_file = "/nowhere"
        share = "{share}"
        cap_share = "50%"
        [steer]
        mode = "host"
        lease = "{LEASE_MS}ms"
        mark_mask = "0x00ff0000"
        priority = 10000
        server_port = {port}
        [steer.canary]
        v4 = {{ via = "10.2.0.1", dev = "eth1" }}
        v6 = {{ via = "2001:db8:2::1", dev = "eth1" }}
        [windows]
        evening = "19:00-24:00"
        zone = "Asia/Tokyo"
        evenings = 2
        bin = "10min"
        [policy]
        metric = "rtt.p95"
        margin = "2ms"
        target = {{ isp = ["NTT"] }}
        "#,
        port = network::PORT
    ))
    .unwrap()
}

/// Starts on the server of `network`, with the guardian and the journal in `options`.
fn try_start(network: &Network, experiment: &Experiment, options: &Options) -> Result<Steering> {
    let plan = Plan::new(experiment, SEED)?;
    in_netns(Some(&network.server), || Ok(Steering::start(plan, options))).unwrap()
}

fn start(network: &Network, experiment: &Experiment, options: &Options) -> Steering {
    try_start(network, experiment, options).unwrap()
}

/// Where packets left, by the proof; `None` where the kernel cannot have one, which is then what steering says.
fn departures(network: &Network, steering: &Steering) -> Option<Departures> {
    let told = steering.departures().unwrap();
    told.map_err(|reason| without_proof(network, &reason)).ok()
}

/// Why nothing proves by which path packets leave: only for want of tcx.
fn without_proof(network: &Network, reason: &str) {
    assert_eq!(
        (network.has_tcx(), reason),
        (false, "the wrong-arm proof: cannot attach to eth0: the kernel has no tcx (Linux 6.6)")
    );
}

fn share(text: &str) -> Share {
    text.parse().unwrap()
}

/// What the analysis says, at a share.
fn assigned(experiment: &Experiment, at: Share, session: &SocketAddr) -> Arm {
    arm(bucket(SEED, &SessionKey(*session), experiment.key.from).unwrap(), at)
}
