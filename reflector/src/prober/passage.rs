//! The stamps of one round trip while they are still coming together, and the delays that they give.

use pathlab_record::{Interval, Planes, Reading, Realtime, Stamp, Stamps, Time};

/// A reply as the wire and the socket gave it, before anybody knows whether it belongs to a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The echoed Session-Sender Sequence Number.
    pub seq: u32,
    /// The Session-Reflector's own Sequence Number: a copy of `seq` from a stateless reflector, its own count from a stateful one.
    pub reflector_seq: u32,
    /// The echoed Session-Sender Timestamp, its 64 bits as they stand in the packet.
    pub echo: u64,
    /// Receive Timestamp of the Session-Reflector. The base packet does not say at which place in the host it was taken.
    pub b2: Option<Stamp>,
    /// Timestamp of the Session-Reflector's send.
    pub b3: Option<Stamp>,
    /// Sum of both ends' Error Estimates in nanoseconds, where both say that their clocks are synchronised.
    pub synchronised: Option<u64>,
    /// The Session-Reflector says by its Error Estimate that it knows nothing of its clocks: one of them has stepped lately.
    pub in_doubt: bool,
    /// When the probe's kernel got the reply.
    pub a4_kernel: Option<Time<Realtime>>,
    /// When the probe's card got it: in UTC where its clock can be told so, else on that clock.
    pub a4_nic: Option<Stamp>,
    /// When the probe read it.
    pub a4_app: Time<Realtime>,
}

/// What was noted when a test packet left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The slot.
    pub a0: Time<Realtime>,
    /// Just before the send call.
    pub a1_app: Time<Realtime>,
    /// Entry into the queueing discipline, from the error queue.
    pub a1_sched: Option<Time<Realtime>>,
    /// Hand-over to the driver, from the error queue.
    pub a1_kernel: Option<Time<Realtime>>,
    /// The wire, from the error queue: in UTC where the card's clock can be told so, else on that clock.
    pub a1_nic: Option<Stamp>,
    /// Of each software stamp of the probe, in nanoseconds: [`ClockQuality::reading_cost`](crate::clock::ClockQuality::reading_cost).
    pub uncertainty: u64,
}

/// A complete round trip: a departure and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// How it left.
    pub departure: Departure,
    /// How it came back.
    pub reply: Reply,
    /// How often `CLOCK_REALTIME` of each end had been set by then, from anywhere; only what has the same number may be subtracted.
    pub epochs: Epochs,
}

/// Which stretches without a step a round trip lies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Of the probe's clock.
    pub probe: u64,
    /// Of the reflector's clocks, where it tells.
    pub reflector: Option<u32>,
}

impl Departure {
    fn stamp(&self, time: Time<Realtime>) -> Stamp {
        Reading::new(time, self.uncertainty).into()
    }

    /// The stamps of a packet that did not come back.
    pub fn stamps(&self) -> Stamps {
        let at = |time: Option<Time<Realtime>>| time.map(|time| self.stamp(time));
        Stamps {
            a0: Planes { app: at(Some(self.a0)), ..Planes::default() },
            a1: Planes {
                app: at(Some(self.a1_app)),
                sched: at(self.a1_sched),
                kernel: at(self.a1_kernel),
                nic: self.a1_nic,
                ..Planes::default()
            },
            ..Stamps::default()
        }
    }
}

impl Passage {
    /// Every stamp of the round trip. `B2` and `B3` are filed under `app`, the least that a base packet lets one claim.
    pub fn stamps(&self) -> Stamps {
        let departure = self.departure.stamps();
        let (a1_nic, a4_nic) = self.nic().unzip();
        Stamps {
            a1: Planes { nic: a1_nic, ..departure.a1 },
            b2: Planes { app: self.reply.b2, ..Planes::default() },
            b3: Planes { app: self.reply.b3, ..Planes::default() },
            a4: Planes {
                app: Some(self.departure.stamp(self.reply.a4_app)),
                kernel: self.reply.a4_kernel.map(|time| self.departure.stamp(time)),
                nic: a4_nic,
                ..Planes::default()
            },
            ..departure
        }
    }

    /// The card's `A1` and `A4`, where both are there and on one clock. One alone is left out: told in UTC it would pair with the kernel's
    /// stamp at the other end, and half of this host would count as wire.
    pub fn nic(&self) -> Option<(Stamp, Stamp)> {
        self.departure.a1_nic.zip(self.reply.a4_nic).filter(|(a1, a4)| a1.clock() == a4.clock())
    }

    /// Round-trip time between the probe's outermost software stamps: `A4 - A1`, the residence in the reflector included. The card's stamps,
    /// which only some packets may have, part the ledger and stay out of here: a distribution over two planes would have two humps.
    pub fn rtt(&self) -> Interval {
        self.reply.a4_kernel.unwrap_or(self.reply.a4_app) - self.departure.a1_kernel.unwrap_or(self.departure.a1_app)
    }

    /// Round-trip time as the probe's user space saw it: `A4app - A1app`.
    pub fn rtt_app(&self) -> Interval {
        self.reply.a4_app - self.departure.a1_app
    }

    /// IP packet delay variation (RFC 3393) between two round trips of consecutive sequence numbers: magnitudes.
    ///
    /// One plane is used for both packets, the kernel's where both have it, so that a missing stamp is not taken for variation. `None`
    /// where the probe's clock was set between the two; where the reflector's was, there is none one way.
    pub fn ipdv(earlier: &Self, later: &Self) -> Option<Ipdv> {
        if earlier.epochs.probe != later.epochs.probe {
            return None;
        }
        let reflector_ran = earlier.epochs.reflector == later.epochs.reflector;
        let kernel_sent = earlier.departure.a1_kernel.zip(later.departure.a1_kernel);
        let (sent_earlier, sent_later) = kernel_sent.unwrap_or((earlier.departure.a1_app, later.departure.a1_app));
        let kernel_back = earlier.reply.a4_kernel.zip(later.reply.a4_kernel);
        let (back_earlier, back_later) = kernel_back.unwrap_or((earlier.reply.a4_app, later.reply.a4_app));

        // Delay variation one way is a difference of differences, each within one host's clock: no synchronisation is needed.
        let sent = sent_later - sent_earlier;
        let back = back_later - back_earlier;
        let spread = |earlier: Option<Stamp>, later: Option<Stamp>| later?.since(earlier?).filter(|_| reflector_ran);
        let magnitude = |span: Interval| span.as_nanos().unsigned_abs();
        Some(Ipdv {
            slot: later.departure.a0,
            forward: spread(earlier.reply.b2, later.reply.b2).map(|received| magnitude(received - sent)),
            back: spread(earlier.reply.b3, later.reply.b3).map(|reflected| magnitude(back - reflected)),
            round_trip: magnitude(back - sent),
        })
    }
}

/// Delay variation of one pair of consecutive packets, in nanoseconds, each a magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipdv {
    /// The slot of the later packet.
    pub slot: Time<Realtime>,
    /// From the probe to the reflector; absent without `B2`.
    pub forward: Option<u64>,
    /// From the reflector to the probe; absent without `B3`.
    pub back: Option<u64>,
    /// Of the round trip `A4 - A1`, the residence included.
    pub round_trip: u64,
}
