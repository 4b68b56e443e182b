//! The wrong-arm proof tells by which path packets really left: it agrees with what the transits saw, and catches
//! steering that only looks right.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
};

use aya::{
    EbpfLoader,
    maps::{Array, MapData},
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr},
};
use pathlab_canary::{
    Experiment, Mode,
    steer::{Departures, Halt, Plan, Proof},
};
use pathlab_guard::{in_netns, privilege::root_or_skip};
use pathlab_record::Arm;

use crate::{
    SEED, assigned, experiment,
    network::{Network, PORT, Sessions, session, sh},
    options, share, start,
};

const N: u32 = 2_000;

fn attach(network: &Network, experiment: &Experiment) -> Proof {
    let plan = Plan::new(experiment, SEED).unwrap();
    let mut proof = in_netns(Some(&network.server), || Ok(Proof::attach(&plan).unwrap())).unwrap();
    assert_eq!(proof.devices(), ["eth0", "eth1"]);
    proof.begin_anew().unwrap();
    proof
}

fn on_canary(experiment: &Experiment, sessions: &Sessions) -> u64 {
    let is_canary = |session: &&SocketAddr| assigned(experiment, share("15%"), session) == Arm::Canary;
    sessions.iter().filter(is_canary).count() as u64
}

/// The rules that send marked packets by transit B, without us.
fn routes_by_hand(network: &Network) {
    for (family, via) in [("-4", "10.2.0.1"), ("-6", "2001:db8:2::1")] {
        sh(&format!(
            "ip {family} -n {0} rule add fwmark 0x10000/0xff0000 lookup 77 priority 77
             ip {family} -n {0} route add default via {via} table 77",
            network.server
        ));
    }
}

/// Where a mark steers and where it comes too late, by mode.
const HOOKS: [(Mode, [(&str, bool); 2]); 2] = [
    (Mode::Host, [("route hook output", false), ("filter hook output", true)]),
    (Mode::Router, [("filter hook prerouting", false), ("filter hook forward", true)]),
];

#[test]
fn a_mark_in_a_hook_after_routing_steers_nothing_and_is_caught() {
    if !root_or_skip("a_mark_in_a_hook_after_routing_steers_nothing_and_is_caught") {
        return;
    }
    let network = Network::new();
    routes_by_hand(&network);
    for (mode, hooks) in HOOKS {
        let mut experiment = experiment("15%");
        experiment.steer.mode = mode;
        let mut proof = attach(&network, &experiment);
        for (v6, table, header) in [(false, "ip", "ip"), (true, "ip6", "ip6")] {
            let sessions: Sessions = (0..N).map(|i| session(v6, i)).collect();
            let canary = on_canary(&experiment, &sessions);
            for (hook, caught) in hooks {
                network.on_server(&format!(
                    "nft 'table {table} byhand {{
                        map arms {{ type mark : mark; flags interval; elements = {{ 0-1499 : 0x10000, 1500-9999 : 0 }}; }}
                        counter marked {{ }}
                        chain out {{
                            type {hook} priority mangle; meta l4proto != udp return; udp sport != {PORT} return;
                            meta mark set jhash {header} daddr . udp dport mod 10000 seed {SEED:#x};
                            meta mark set meta mark map @arms; meta mark 0x10000 counter name marked;
                        }}
                    }}'"
                ));
                let before = proof.departures().unwrap();
                network.send(network.sender(mode), sessions.iter().copied(), |_| Vec::new());
                let marked = network.on_server(&format!("nft list counter {table} byhand marked"));
                assert!(
                    marked.contains(&format!("packets {canary} ")),
                    "{hook}, {table}: the rule itself sees nothing wrong with {canary}: {marked}"
                );
                let now = proof.departures().unwrap();
                let (_, b, _) = network.take();
                let astray = if caught { canary } else { 0 };
                assert_eq!(b.len() as u64, canary - astray, "{hook}, {table}");
                assert_eq!(now.canary_astray - before.canary_astray, astray, "{hook}, {table}");
                assert_eq!((now.control_astray, now.packets() - before.packets()), (0, N.into()), "{hook}, {table}");
                assert_eq!(proof.look().unwrap().is_some(), caught, "{hook}, {table}");
                network.on_server(&format!("nft delete table {table} byhand"));
            }
        }
    }
}

/// Not a test of its own: sends from within a cgroup.
#[test]
#[ignore = "started by the other tests"]
fn cgroup_sender_entry() {
    let var = |name| std::env::var(name).unwrap();
    fs::write(PathBuf::from(var("PLST_CGROUP")).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let v6 = var("PLST_V6") == "true";
    in_netns(Some(&var("PLST_NETNS")), || {
        let any = if v6 { "::" } else { "0.0.0.0" };
        let socket = UdpSocket::bind((any, PORT)).unwrap();
        for i in 0..N {
            socket.send_to(b"", session(v6, i)).unwrap();
        }
        Ok(())
    })
    .unwrap();
}

struct Cgroup(PathBuf);

impl Cgroup {
    /// In the unified hierarchy, wherever it is mounted. Tests run beside each other.
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line[2] == "cgroup2");
        let path =
            PathBuf::from(unified.expect("a cgroup2 mount")[1]).join(format!("plst{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

/// The programs of `late_mark.bpf.c`, at 15 %.
fn mistakes() -> aya::Ebpf {
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/late_mark.bpf.o"));
    let mut loader = EbpfLoader::new();
    loader.override_global("SEED", &SEED, true).override_global("MARK", &0x1_0000_u32, true);
    let port = u32::from(PORT);
    loader.override_global("SERVER_PORT", &port, true);
    let mut ebpf = loader.load(object).unwrap();
    let mut map = Array::<&mut MapData, u32>::try_from(ebpf.map_mut("SHARE").unwrap()).unwrap();
    map.set(0, 1_500, 0).unwrap();
    ebpf
}

fn send_from(cgroup: &Cgroup, network: &Network, v6: bool) {
    let sent = Command::new("/proc/self/exe")
        .args(["--ignored", "--exact", "wrong_arm::cgroup_sender_entry", "--nocapture"])
        .envs([("PLST_NETNS", network.server.as_str()), ("PLST_CGROUP", cgroup.0.to_str().unwrap())])
        .env("PLST_V6", v6.to_string())
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_mark_set_in_a_cgroup_after_routing_steers_nothing_and_is_caught() {
    if !root_or_skip("a_mark_set_in_a_cgroup_after_routing_steers_nothing_and_is_caught") {
        return;
    }
    let network = Network::new();
    let experiment = experiment("15%");
    routes_by_hand(&network);
    let mut proof = attach(&network, &experiment);
    let cgroup = Cgroup::new("routed");
    let mut ebpf = mistakes();
    let program: &mut CgroupSkb = ebpf.program_mut("routed_mark").unwrap().try_into().unwrap();
    program.load().unwrap();
    let file = fs::File::open(&cgroup.0).unwrap();
    program.attach(file, CgroupSkbAttachType::Egress, CgroupAttachMode::Single).unwrap();
    for v6 in [false, true] {
        proof.begin_anew().unwrap();
        let before = proof.departures().unwrap();
        send_from(&cgroup, &network, v6);
        let sessions: Sessions = (0..N).map(|i| session(v6, i)).collect();
        let canary = on_canary(&experiment, &sessions);
        let (_, b, packets) = network.take();
        assert_eq!((b.len(), packets), (0, N as usize));
        let expected = Departures { control: u64::from(N) - canary, canary_astray: canary, ..Departures::default() };
        assert_eq!(proof.departures().unwrap().since(&before), expected);
        assert_eq!(proof.look().unwrap(), Some(expected));
        eprintln!("{canary} canary packets, all of them by the control path");
    }
}

#[test]
fn a_mark_set_while_sending_goes_to_the_wrong_session_and_is_caught() {
    if !root_or_skip("a_mark_set_while_sending_goes_to_the_wrong_session_and_is_caught") {
        return;
    }
    let network = Network::new();
    let experiment = experiment("15%");
    routes_by_hand(&network);
    let mut proof = attach(&network, &experiment);
    let mut ebpf = mistakes();
    for (v6, name) in [(false, "late_mark4"), (true, "late_mark6")] {
        let cgroup = Cgroup::new(name);
        let program: &mut CgroupSockAddr = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(fs::File::open(&cgroup.0).unwrap(), CgroupAttachMode::Single).unwrap();
        proof.begin_anew().unwrap();
        send_from(&cgroup, &network, v6);

        let sessions: Sessions = (0..N).map(|i| session(v6, i)).collect();
        let canary = on_canary(&experiment, &sessions);
        let (_, b, packets) = network.take();
        assert_eq!(packets, N as usize);
        // The share looks right ...
        assert!((b.len() as i64 - canary as i64).abs() <= 1, "{} of {canary}", b.len());
        // ... and most of it are the wrong sessions.
        let right = on_canary(&experiment, &b);
        let by_b = b.len() as u64;
        let expected = Departures {
            control: u64::from(N) - canary - (by_b - right),
            control_astray: by_b - right,
            canary: right,
            canary_astray: canary - right,
        };
        assert!(expected.astray() > canary, "{expected:?}");
        assert_eq!(proof.look().unwrap(), Some(expected));
        eprintln!("{expected:?}");
    }
}

#[test]
fn a_mark_that_somebody_takes_away_halts_the_experiment() {
    if !root_or_skip("a_mark_that_somebody_takes_away_halts_the_experiment") {
        return;
    }
    let (dir, network) = (tempfile::tempdir().unwrap(), Network::new());
    for (mode, hook) in [(Mode::Host, "route hook output"), (Mode::Router, "filter hook prerouting")] {
        let mut experiment = experiment("15%");
        experiment.steer.mode = mode;
        experiment.steer.lease = jiff::SignedDuration::from_secs(10);
        let from = if mode == Mode::Host { &network.server } else { &network.game };
        let mut steering = start(&network, &experiment, &options(&dir));
        let send = || network.send(from, (0..N).flat_map(|i| [session(false, i), session(true, i)]), |_| Vec::new());
        send();
        steering.check().unwrap();
        assert_eq!(steering.halted(), None);
        let before = steering.departures().unwrap().unwrap();
        assert_eq!((before.astray(), before.packets()), (0, 2 * u64::from(N)));
        network.on_server(&format!(
            "nft 'table inet theirs {{ chain out {{ type {hook} priority 0; meta mark set 0; }}; }}'"
        ));
        send();
        steering.check().unwrap();
        let Some(Halt::WrongArm(astray)) = steering.halted() else { panic!("{:?}", steering.halted()) };
        assert_eq!((astray.canary, astray.canary_astray), (0, before.canary));
        network.take();
        send();
        let (_, b, packets) = network.take();
        assert_eq!((b.len(), packets), (0, 2 * N as usize));
        steering.rollback().unwrap();
        network.on_server("nft delete table inet theirs");
    }
}
