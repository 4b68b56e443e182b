//! A wire that can be made longer: a UDP relay of one session, which holds what it carries for a while in either direction.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use pathlab_netlab::netns::Namespace;

use super::realtime::{ALLOWED, PRIORITY};

/// How often an idle relay looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// A running relay; dropping it stops it.
pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Relay {
    /// On `host`, carries what comes to `listen` on to `onward`, each datagram `there` after it came, and the answers to whoever asked
    /// first, `back` after they came. Datagrams must be further apart than the delay.
    pub(crate) fn start(
        host: &Namespace,
        listen: SocketAddr,
        onward: SocketAddr,
        there: Duration,
        back: Duration,
    ) -> Self {
        let any = if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sockets = host.run(|| (UdpSocket::bind(listen), UdpSocket::bind(any))).expect("entered");
        let (near, far) = (sockets.0.expect("a free port"), sockets.1.expect("a free port"));
        far.connect(onward).expect("a route");
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(TICK)).expect("a timeout");
        }
        let (near, far) = (Arc::new(near), Arc::new(far));
        let asker = Arc::new(OnceLock::new());
        let stop = Arc::new(AtomicBool::new(false));
        let forward = {
            let (near, far, asker, stop) = (near.clone(), far.clone(), asker.clone(), stop.clone());
            thread::spawn(move || {
                carry(&near, there, &stop, |datagram, from| {
                    asker.get_or_init(|| from);
                    far.send(datagram)
                });
            })
        };
        let stopped = stop.clone();
        let backward = thread::spawn(move || {
            carry(&far, back, &stopped, |datagram, _| {
                near.send_to(datagram, asker.get().expect("an answer follows a question"))
            });
        });
        Self { stop, carriers: vec![forward, backward] }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            // What it could not carry is lost, and the probe's report tells of it.
            let _ = carrier.join();
        }
    }
}

fn carry(
    from: &UdpSocket,
    delay: Duration,
    stop: &AtomicBool,
    mut send: impl FnMut(&[u8], SocketAddr) -> io::Result<usize>,
) {
    hurry();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let (length, sender) = match from.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(idle) if matches!(idle.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) => panic!("relay: {error}"),
        };
        let due = Instant::now() + delay;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::sleep(left);
        }
        send(&buffer[..length], sender).expect("the next host is there");
    }
}

/// Gives this thread real-time priority where it is to be had.
fn hurry() {
    if !*ALLOWED {
        return;
    }
    // `PID/task/TID`
    let thread = fs::read_link("/proc/thread-self").expect("procfs");
    let thread = thread.file_name().expect("an id");
    let status = Command::new("chrt").args(["--fifo", "--pid", PRIORITY]).arg(thread).status();
    assert!(status.is_ok_and(|status| status.success()), "chrt did it before");
}
