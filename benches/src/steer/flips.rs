//! How long until the first packet of a canary session leaves by the control path: after SIGKILL, a rollback, SIGSTOP.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pathlab_canary::steer;
use pathlab_record::Arm;

use super::{Mode, NAME, Network, Steerer, options, sessions};
use crate::{counting::wait_until, sys, turns::order};

/// Between two packets.
const PACE: Duration = Duration::from_micros(200);
/// A packet that is under way for longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What ends the steering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Kill,
    RollBack,
    Stop,
}

impl End {
    pub(super) const ALL: [Self; 3] = [Self::Kill, Self::RollBack, Self::Stop];
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flip {
    /// From the event to the first packet on the control path.
    pub(super) first: f64,
    /// Until the call returned and the host was as before; of a rollback.
    pub(super) call: f64,
    /// Packets that arrived nowhere.
    pub(super) lost: u32,
}

/// By [`End`] and round; modes and families in turn.
pub(super) fn measure(network: &Network, pathlab: &Path, rounds: usize) -> Result<[Vec<Flip>; 3]> {
    let mut flips = [(); 3].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds {
        let (mode, family) = (Mode::ALL[round % 2], round / 2 % 2);
        for at in order(End::ALL.len(), round) {
            flips[at].push(one(network, pathlab, mode, family, End::ALL[at])?);
        }
    }
    Ok(flips)
}

fn one(network: &Network, pathlab: &Path, mode: Mode, family: usize, end: End) -> Result<Flip> {
    let client = sessions(family, Arm::Canary, 1, true)[0];
    let sockets = [network.listen(0, client)?, network.listen(1, client)?];
    let from = network.socket(mode, family)?;
    let steerer = Steerer::start(network, pathlab, mode, 20_000)?;
    let (sending, over) = (AtomicBool::new(true), AtomicBool::new(false));
    let arrived = [AtomicU32::new(0), AtomicU32::new(0)];
    let first: Mutex<Option<Instant>> = Mutex::new(None);
    let sent = AtomicU32::new(0);
    thread::scope(|scope| {
        for (transit, socket) in sockets.iter().enumerate() {
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            let (arrived, first, over) = (&arrived, &first, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if socket.recv(&mut [0; 8]).is_ok() {
                        let now = Instant::now();
                        if transit == 0 {
                            first.lock().expect("no panic").get_or_insert(now);
                        }
                        arrived[transit].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let sender = scope.spawn(|| stream(&from, client, &sending, &sent));
        let all = || arrived[0].load(Ordering::Relaxed) + arrived[1].load(Ordering::Relaxed);
        let outcome = (|| {
            let on_canary = wait_until(PATIENCE, || Ok(arrived[1].load(Ordering::Relaxed) >= 50))?;
            ensure!(on_canary && arrived[0].load(Ordering::Relaxed) == 0, "the session is not on the canary path");
            let event = Instant::now();
            let call = match end {
                End::Kill => sys::signal(&steerer.child, libc::SIGKILL).map(|()| 0.0)?,
                End::Stop => sys::signal(&steerer.child, libc::SIGSTOP).map(|()| 0.0)?,
                End::RollBack => {
                    steer::rollback(NAME, &options())?;
                    event.elapsed().as_secs_f64() * 1e3
                }
            };
            ensure!(
                wait_until(PATIENCE, || Ok(arrived[0].load(Ordering::Relaxed) >= 20))?,
                "nothing came back to control"
            );
            let first = first.lock().expect("no panic").context("a first packet")?;
            Ok(Flip { first: first.saturating_duration_since(event).as_secs_f64() * 1e3, call, lost: 0 })
        })();
        sending.store(false, Ordering::Relaxed);
        sender.join().expect("no panic")?;
        let sent = sent.load(Ordering::Relaxed);
        wait_until(Duration::from_millis(500), || Ok(all() >= sent))?;
        over.store(true, Ordering::Relaxed);
        outcome.map(|flip| Flip { lost: sent - all(), ..flip })
    })
}

fn stream(from: &std::net::UdpSocket, to: SocketAddr, sending: &AtomicBool, sent: &AtomicU32) -> Result<()> {
    while sending.load(Ordering::Relaxed) {
        from.send_to(&[0; 8], to)?;
        sent.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PACE);
    }
    Ok(())
}
