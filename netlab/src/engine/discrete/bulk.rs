//! TCP connections of the scenario's bulks, between the network and their senders and receivers.

use std::time::Duration;

use super::{
    Event, Flight, Kind, Run, back,
    network::Tuple,
    tcp::{ACKNOWLEDGEMENT, Acknowledgement, PAYLOAD, Receiver, SEGMENT, Sender},
};
use crate::scenario::{Scenario, holds};

/// Where the receivers listen, and the senders' first port.
const PORTS: (u16, u16) = (5001, 20_000);

pub(super) struct Connection {
    /// Index into the scenario's bulks.
    pub(super) bulk: usize,
    pub(super) sender: Sender,
    receiver: Receiver,
    /// From sender to receiver.
    tuple: Tuple,
    pub(super) during: Vec<(Duration, Duration)>,
}

pub(super) fn connections(scenario: &Scenario) -> Vec<Connection> {
    let mut connections = Vec::new();
    for (index, bulk) in scenario.bulks.iter().enumerate() {
        for _ in 0..bulk.flows {
            let ports = (PORTS.1 + connections.len() as u16, PORTS.0);
            connections.push(Connection {
                bulk: index,
                sender: Sender::new(bulk.congestion),
                receiver: Receiver::default(),
                tuple: Tuple { from: bulk.from, to: bulk.to, ports },
                during: bulk.during.clone(),
            });
        }
    }
    connections
}

impl Run<'_> {
    /// Sends what the connection's window allows.
    pub(super) fn pump(&mut self, now: Duration, connection: usize) {
        let Connection { bulk, sender, tuple, during, .. } = &mut self.connections[connection];
        if !holds(during, now) {
            return;
        }
        let (tuple, timer) = (*tuple, sender.deadline);
        let node = self.network.node(&self.scenario.bulks[*bulk].node);
        let segments = sender.send(now);
        let deadline = sender.deadline;
        for segment in segments {
            let kind = Kind::Segment { connection, segment, sent: now };
            self.launch(now, node, Flight::new(kind, tuple, SEGMENT, 2 << 32 | connection as u64));
        }
        if let Some(at) = deadline.filter(|_| timer.is_none()) {
            self.schedule(at, Event::Timer(connection));
        }
    }

    /// The timer was set for now, and may have been set anew since.
    pub(super) fn timer(&mut self, now: Duration, connection: usize) {
        let Connection { sender, during, .. } = &mut self.connections[connection];
        match sender.deadline {
            Some(at) if at > now => self.schedule(at, Event::Timer(connection)),
            Some(_) if holds(during, now) => {
                sender.time_out(now);
                let next = sender.deadline;
                self.pump(now, connection);
                next.into_iter().for_each(|at| self.schedule(at, Event::Timer(connection)));
            }
            // Nothing on its way, or nothing more to send: the next pump sets it again.
            Some(_) => sender.deadline = None,
            None => {}
        }
    }

    pub(super) fn segment(&mut self, now: Duration, node: usize, connection: usize, segment: u64, sent: Duration) {
        let Connection { bulk, receiver, tuple, .. } = &mut self.connections[connection];
        let (word, in_order) = receiver.arrive(segment, sent);
        let (bulk, tuple) = (*bulk, back(*tuple));
        let count = self.outcome.bulks.entry(self.scenario.bulks[bulk].name.clone()).or_default();
        count.count(now, in_order * u64::from(PAYLOAD));
        let flow = 3 << 32 | connection as u64;
        self.launch(now, node, Flight::new(Kind::Word { connection, word }, tuple, ACKNOWLEDGEMENT, flow));
    }

    pub(super) fn word(&mut self, now: Duration, connection: usize, word: Acknowledgement) {
        let sender = &mut self.connections[connection].sender;
        let ran = sender.deadline.is_some();
        sender.acknowledge(now, word);
        // A timer that was not running has no event under way.
        if let Some(at) = sender.deadline.filter(|_| !ran) {
            self.schedule(at, Event::Timer(connection));
        }
        self.pump(now, connection);
    }
}
