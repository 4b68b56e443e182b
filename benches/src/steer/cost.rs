//! Processor time of a packet, in the sender's system call: with steering and without, the same sessions within one round.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    thread,
};

use anyhow::Result;
use pathlab_record::Arm;

use super::{Mode, Network, Steerer, sessions};
use crate::{figures, sys, turns::order, wire::CLIENT_CPU};

/// Packets between two readings of the clock.
pub(super) const CHUNK: usize = 2_000;
/// Sessions of an arm that take turns.
pub(super) const SESSIONS: usize = 64;
pub(super) const ARMS: [Arm; 2] = [Arm::Control, Arm::Canary];

/// Nanoseconds a packet in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) without: f64,
    pub(super) with: f64,
}

/// By mode, family and arm, and then round.
pub(super) type Costs = Vec<((Mode, usize, Arm), Vec<Cost>)>;

pub(super) fn measure(network: &Network, pathlab: &Path, rounds: usize, chunks: usize) -> Result<Costs> {
    let cases: Vec<_> = Mode::ALL
        .into_iter()
        .flat_map(|mode| [0, 1].into_iter().flat_map(move |family| ARMS.map(|arm| (mode, family, arm))))
        .collect();
    let mut costs: Costs = cases.iter().map(|case| (*case, vec![Cost::default(); rounds])).collect();
    for round in 0..rounds {
        for mode in Mode::ALL {
            for steered in order(2, round).into_iter().map(|turn| turn == 1) {
                let steerer = if steered { Some(Steerer::start(network, pathlab, mode, 20_000)?) } else { None };
                for at in order(cases.len(), round).into_iter().filter(|at| cases[*at].0 == mode) {
                    let (_, family, arm) = cases[at];
                    let socket = network.socket(mode, family)?;
                    let figure = nanoseconds(&socket, &sessions(family, arm, SESSIONS, false), chunks)?;
                    let cost = &mut costs[at].1[round];
                    *(if steered { &mut cost.with } else { &mut cost.without }) = figure;
                }
                if let Some(steerer) = steerer {
                    steerer.roll_back()?;
                }
            }
        }
    }
    Ok(costs)
}

/// Processor time of one packet: the middle of many chunks, so that one that was disturbed does not count.
pub(super) fn nanoseconds(socket: &UdpSocket, to: &[SocketAddr], chunks: usize) -> Result<f64> {
    let payload = [0; 100];
    let send = || -> Result<Vec<f64>> {
        sys::pin_to(&[CLIENT_CPU])?;
        let mut targets = to.iter().cycle();
        let mut figures = Vec::with_capacity(chunks);
        for _ in 0..chunks {
            let before = sys::thread_time()?;
            for _ in 0..CHUNK {
                socket.send_to(&payload, targets.next().expect("an endless circle"))?;
            }
            figures.push((sys::thread_time()? - before).as_nanos() as f64 / CHUNK as f64);
        }
        Ok(figures)
    };
    // A thread of its own, so that what the bench starts is not pinned with it.
    let figures =
        thread::scope(|scope| scope.spawn(send).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(figures::quantile(&figures, 0.5).unwrap_or_default())
}
