//! A scenario's games, bulks and path shifts with real packets: snapshots at each tick, TCP of the kernel's own, routes that are replaced when their time comes.
//!
//! Each is a plain thread with a socket of its namespace; it dies with the process.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use pathlab_xdp::pacing::{Claim, Class, Pace, Pacing};
use socket2::{Domain, Socket, Type};

use crate::{
    engine::BulkCount,
    error::{Error, Result},
    link::Route,
    netlink::Netlink,
    netns::Namespace,
    scenario::{Bulk, Game, Shift, holds},
    sys,
};

/// First port of a game's players.
pub(crate) const PLAYERS: u16 = 10_000;
/// Where the receivers of bulks listen, one port for each bulk.
const BULKS: u16 = 5001;
/// Between two looks at whether to end.
const LOOK: Duration = Duration::from_millis(20);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// As for loads: more than any queue of a scenario holds.
const SEND_BUFFER: libc::c_int = 16 << 20;

/// Threads that end together.
#[derive(Debug, Default)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    received: Vec<(String, Arc<Mutex<BulkCount>>)>,
    sent: Arc<Mutex<u64>>,
    failures: Arc<Mutex<Vec<String>>>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Brought {
    /// What each bulk's receivers got, by name.
    pub bulks: BTreeMap<String, BulkCount>,
    /// Packets that the games have sent.
    pub packets: u64,
    /// What did not happen as the scenario says, in words.
    pub failures: Vec<String>,
}

impl Traffic {
    /// Starts a game; the scenario's time zero is `start`.
    ///
    /// # Errors
    /// No socket to be had, or missing privilege.
    pub fn game(&mut self, namespace: &Namespace, game: &Game, start: Instant) -> Result<()> {
        let failed = |source| Error::Load { node: game.node.clone(), to: game.to, source };
        let any: SocketAddr = if game.to.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0, 0, 0, 0], 0).into() };
        let open = || {
            let socket = UdpSocket::bind(any)?;
            sys::force_send_buffer(socket.as_fd(), SEND_BUFFER)?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(failed)?;
        let (game, stop, sent) = (game.clone(), Arc::clone(&self.stop), Arc::clone(&self.sent));
        let failures = Arc::clone(&self.failures);
        self.spawn(format!("game-{}", game.node), move || {
            let Snapshots { sent: packets, late, ticks } = snapshots(&socket, &game, start, &stop);
            *held(&sent) += packets;
            if late * 100 > ticks {
                let problem =
                    format!("the game of {}: {late} of {ticks} ticks were late by half a tick or more", game.node);
                held(&failures).push(problem);
            }
        })
        .map_err(|source| Error::Load { node: namespace.name().to_owned(), to: any.ip(), source })
    }

    /// Starts a bulk's receiver in its own namespace and its senders in theirs; the scenario's time zero is `start`.
    ///
    /// # Errors
    /// No socket to be had, a kernel without that congestion control, or missing privilege.
    pub fn bulk(&mut self, sender: &Namespace, receiver: &Namespace, bulk: &Bulk, start: Instant) -> Result<()> {
        let failed = |source| Error::Load { node: bulk.node.clone(), to: bulk.to, source };
        let port = BULKS + u16::try_from(self.received.len()).unwrap_or_default();
        let to = SocketAddr::new(bulk.to, port);
        let listener = receiver.run(|| TcpListener::bind(to))?.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let count = Arc::new(Mutex::new(BulkCount::default()));
        self.received.push((bulk.name.clone(), Arc::clone(&count)));
        let stop = Arc::clone(&self.stop);
        self.spawn(format!("sink-{}", bulk.name), move || accept(&listener, &count, start, &stop)).map_err(failed)?;
        for _ in 0..bulk.flows {
            // Opened here, so that what cannot be is an error and not a silent thread; connected when its time comes.
            let socket = sender.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?.map_err(failed)?;
            socket.set_tcp_congestion(bulk.congestion.name().as_bytes()).map_err(failed)?;
            socket.bind(&SocketAddr::new(bulk.from, 0).into()).map_err(failed)?;
            let (bulk, stop, failures) = (bulk.clone(), Arc::clone(&self.stop), Arc::clone(&self.failures));
            self.spawn(format!("bulk-{}", bulk.name), move || {
                if let Err(error) = transfer(socket, to, &bulk, start, &stop) {
                    held(&failures).push(format!("bulk {} ended early: {error}", bulk.name));
                }
            })
            .map_err(failed)?;
        }
        Ok(())
    }

    /// Starts to watch over a path shift of a node whose route is `own` otherwise.
    ///
    /// # Errors
    /// Missing privilege.
    pub fn shift(&mut self, namespace: &Namespace, shift: &Shift, own: &Route, start: Instant) -> Result<()> {
        let mut netlink = Netlink::open(namespace)?;
        let failed = |source| Error::Load { node: shift.node.clone(), to: shift.via, source };
        let (own, stop, failures) = (own.clone(), Arc::clone(&self.stop), Arc::clone(&self.failures));
        let shifted = shift.clone();
        self.spawn(format!("shift-{}", shift.node), move || {
            let Shift { name, to, via, dev, during, .. } = &shifted;
            let other = Route::via(*to, *via, dev);
            for (begin, end) in during {
                for (at, route) in [(begin, &other), (end, &own)] {
                    if !wait(start, *at, &stop) {
                        return;
                    }
                    if let Err(error) = netlink.replace_route(route) {
                        held(&failures).push(format!("path shift {name}: {error}"));
                    }
                }
            }
        })
        .map_err(failed)
    }

    /// Ends all of it.
    pub fn stop(mut self) -> Brought {
        self.join();
        let counts = std::mem::take(&mut self.received).into_iter();
        Brought {
            bulks: counts.map(|(name, count)| (name, held(&count).clone())).collect(),
            packets: *held(&self.sent),
            failures: held(&self.failures).clone(),
        }
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        Ok(())
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.join();
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until the scenario's time is `at`; `false` when it is to end before that.
fn wait(start: Instant, at: Duration, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::Relaxed) {
        let left = at.saturating_sub(start.elapsed());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(LOOK));
    }
    false
}

/// What a game has done.
#[derive(Default)]
struct Snapshots {
    sent: u64,
    ticks: u64,
    /// Ticks whose packets were not all handed over within half a tick. One that is over before its turn comes is left out: sent behind the next, it would make
    /// a burst that no game makes.
    late: u64,
}

fn snapshots(socket: &UdpSocket, game: &Game, start: Instant, stop: &AtomicBool) -> Snapshots {
    let full = [0; 1500];
    let mut done = Snapshots::default();
    // A burst at line rate is one only while nobody else is let to run.
    let _claim = Claim::take(Pacing { pace: Pace::Auto, class: Class::Auto, cpu: None }, None);
    let end = game.during.last().map_or(Duration::ZERO, |(_, end)| *end);
    let mut tick = 0_u64;
    loop {
        let at = Duration::from_nanos((game.tick.as_nanos() * u128::from(tick)) as u64);
        if at >= end || !wait(start, at, stop) {
            return done;
        }
        if holds(&game.during, at) {
            done.ticks += 1;
            if start.elapsed() > at + game.tick {
                done.late += 1;
                tick += 1;
                continue;
            }
            let (packets, payload) = game.packets(tick);
            for player in 0..game.players {
                let to = SocketAddr::new(game.to, PLAYERS + player);
                for _ in 0..packets {
                    done.sent += u64::from(socket.send_to(&full[..usize::from(payload)], to).is_ok());
                }
            }
            done.late += u64::from(start.elapsed() > at + game.tick / 2);
        }
        tick += 1;
    }
}

fn accept(listener: &TcpListener, count: &Arc<Mutex<BulkCount>>, start: Instant, stop: &AtomicBool) {
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 1 << 18];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            streams.push(stream);
        }
        let mut idle = true;
        for stream in &mut streams {
            while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                idle = false;
                held(count).count(start.elapsed(), bytes as u64);
            }
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn transfer(socket: Socket, to: SocketAddr, bulk: &Bulk, start: Instant, stop: &AtomicBool) -> io::Result<()> {
    let Some((begin, _)) = bulk.during.first() else { return Ok(()) };
    if !wait(start, *begin, stop) {
        return Ok(());
    }
    socket.connect_timeout(&to.into(), CONNECT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(LOOK))?;
    let data = vec![0; 1 << 16];
    for (begin, end) in &bulk.during {
        if !wait(start, *begin, stop) {
            return Ok(());
        }
        while start.elapsed() < *end && !stop.load(Ordering::Relaxed) {
            match stream.write(&data) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
