//! A steerer in a process of its own, to be stopped and killed, and a stream of packets that tells when traffic moved.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Lines},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use pathlab_canary::{Mode, steer::Controller};
use pathlab_guard::{Process, in_netns};
use pathlab_record::Arm;
use pathlab_xdp::pacing::Claim;

use crate::{
    LEASE_MS, SEED, UNHURRIED, assigned, experiment,
    network::{DELIVERED, Network, PORT, listener, sh},
    options_in, share,
};

/// Not a test of its own: the guardian's entry point, as the hidden verb of the command is.
#[test]
#[ignore = "started by the other tests"]
fn guardian_entry() {
    let journal = std::env::args().next_back().unwrap();
    pathlab_guard::watch(Path::new(&journal)).unwrap();
}

/// Not a test of its own: a controller, as `pathlab canary start` is.
#[test]
#[ignore = "started by the other tests"]
fn controller_entry() {
    let options = options_in(&PathBuf::from(std::env::var("PLST_DIR").unwrap()));
    let netns = std::env::var("PLST_NETNS").unwrap();
    let mut experiment = experiment("15%");
    let lease = std::env::var("PLST_LEASE").unwrap().parse().unwrap();
    experiment.steer.lease = jiff::SignedDuration::from_millis(lease);
    experiment.steer.mode = if std::env::var("PLST_MODE").unwrap() == "router" { Mode::Router } else { Mode::Host };
    in_netns(Some(&netns), || {
        let controller = Controller::start(&experiment, SEED, &options).unwrap();
        println!("steering {}", controller.steering().guardian_pid());
        let stop = async {
            drop(tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await);
        };
        let _claim = Claim::scheduling();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(controller.run(stop, |_| {})).unwrap();
        println!("ended {}", ended.by_command);
        // The blocking read goes with the process.
        std::process::exit(0);
    })
    .unwrap()
}

/// A controller process on the server of a network. Its standard input ends it cleanly.
pub(crate) struct Steerer {
    pub(crate) child: Child,
    pub(crate) guardian: Process,
    /// Open, so that the controller's last words find a reader.
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Steerer {
    pub(crate) fn start(network: &Network, mode: Mode, dir: &Path) -> Self {
        Self::start_with(network, mode, dir, Duration::from_millis(LEASE_MS))
    }

    /// With a lease that has no part in what happens.
    pub(crate) fn unhurried(network: &Network, mode: Mode, dir: &Path) -> Self {
        Self::start_with(network, mode, dir, UNHURRIED)
    }

    fn start_with(network: &Network, mode: Mode, dir: &Path, lease: Duration) -> Self {
        let mode = if mode == Mode::Router { "router" } else { "host" };
        let mut child = Command::new("/proc/self/exe")
            .args(["--ignored", "--exact", "process::controller_entry", "--nocapture"])
            .envs([("PLST_NETNS", network.server.as_str()), ("PLST_DIR", dir.to_str().unwrap()), ("PLST_MODE", mode)])
            .env("PLST_LEASE", lease.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let guardian = lines.by_ref().find_map(|line| line.unwrap().strip_prefix("steering ")?.parse().ok()).unwrap();
        Self { child, guardian: Process::of(guardian).unwrap(), _lines: lines }
    }

    pub(crate) fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.child.id()));
    }

    /// SIGSTOP, in force: the kernel tells one thread, which tells the others when it next runs, and until then they go on.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
        let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        let threads = format!("/proc/{}/task", self.child.id());
        within(Duration::from_secs(5), || std::fs::read_dir(&threads).unwrap().all(stopped));
    }
}

impl Drop for Steerer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits for an event, up to a limit; returns how long it took.
pub(crate) fn within(limit: Duration, mut event: impl FnMut() -> bool) -> Duration {
    let limit = limit * crate::patience::patience();
    let start = Instant::now();
    while !event() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
    start.elapsed()
}

/// Half a millisecond apart: fine enough for limits of ten, and slow enough that no receive buffer overflows when a
/// core is busy elsewhere.
const PACE: Duration = Duration::from_micros(500);

/// Numbered packets to one canary session, and who received which, when.
pub(crate) struct Stream {
    running: Arc<AtomicBool>,
    arrived: [Arc<AtomicUsize>; 2],
    sender: JoinHandle<u32>,
    receivers: [JoinHandle<BTreeMap<u32, Instant>>; 2],
}

impl Stream {
    /// From the server, or from the game host behind it.
    pub(crate) fn start(network: &Network, mode: Mode, v6: bool) -> Self {
        let client = canary_session(v6);
        let running = Arc::new(AtomicBool::new(true));
        let arrived = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let transits = [(&network.transit_a, &arrived[0]), (&network.transit_b, &arrived[1])];
        let receivers = transits.map(|(ns, arrived)| {
            let socket = in_netns(Some(ns), || Ok(UdpSocket::bind(client).unwrap())).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let (running, arrived) = (running.clone(), arrived.clone());
            std::thread::spawn(move || receive(&socket, &running, &arrived))
        });
        let socket = network.socket(network.sender(mode), v6, PORT);
        let sender = {
            let running = running.clone();
            std::thread::spawn(move || {
                let mut sent = 0_u32;
                while running.load(Ordering::Relaxed) {
                    socket.send_to(&sent.to_be_bytes(), client).unwrap();
                    sent += 1;
                    std::thread::sleep(PACE);
                }
                sent
            })
        };
        Self { running, arrived, sender, receivers }
    }

    /// Waits until so many more packets have arrived over A (0) or B (1).
    pub(crate) fn wait(&self, transit: usize, packets: usize) {
        let arrived = || self.arrived[transit].load(Ordering::Relaxed);
        let enough = arrived() + packets;
        within(Duration::from_secs(20), || arrived() >= enough);
    }

    /// Ends the stream. Returns what arrived over A and over B, after checking that nothing was lost or doubled.
    pub(crate) fn finish(self) -> [BTreeMap<u32, Instant>; 2] {
        self.running.store(false, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        let [a, b] = self.receivers.map(|receiver| receiver.join().unwrap());
        assert_eq!(a.len() + b.len(), sent as usize, "packets were lost or doubled");
        assert!(a.keys().all(|number| !b.contains_key(number)));
        [a, b]
    }
}

fn receive(socket: &UdpSocket, running: &AtomicBool, arrived: &AtomicUsize) -> BTreeMap<u32, Instant> {
    let mut received = BTreeMap::new();
    let mut packet = [0; 4];
    loop {
        match socket.recv(&mut packet) {
            Ok(_) => {
                received.insert(u32::from_be_bytes(packet), Instant::now());
                arrived.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) if running.load(Ordering::Relaxed) => {}
            Err(_) => return received,
        }
    }
}

/// A session of the canary arm at 15 %, to a port that the transits deliver.
fn canary_session(v6: bool) -> SocketAddr {
    let address = listener(v6);
    let at = |port| SocketAddr::new(address, port);
    let is_canary = |session: &SocketAddr| assigned(&experiment("15%"), share("15%"), session) == Arm::Canary;
    (DELIVERED..).map(at).find(is_canary).unwrap()
}
