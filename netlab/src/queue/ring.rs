//! A receive ring, because a burst that finds no free descriptor is lost in the card before any software has seen it.
//!
//! ```text
//!  wire, one packet every `gap` ──► [ ring of `descriptors` ] ──► host, one packet every `service`, once it has woken up
//!                     full: lost                    waits: added delay
//! ```
//!
//! A larger ring loses less and delays more: [`Burst::through`] says by how much, so that a size is a choice and not a superstition. A
//! descriptor is free again when the host has done with its packet, not when it starts on it.

use std::{collections::VecDeque, fmt, time::Duration};

/// A burst at line rate, and the host that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Packets of the burst.
    pub packets: u32,
    /// Between two packets on the wire.
    pub gap: Duration,
    /// What the host takes for one packet.
    pub service: Duration,
    /// From the first packet until the host starts: interrupt moderation, wake-up, a busy core.
    pub wake: Duration,
}

/// What came of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOutcome {
    /// Packets that found no descriptor.
    pub lost: u32,
    /// From a packet's arrival until the host was done with it, at worst.
    pub longest: Duration,
    /// Descriptors in use at once, at most.
    pub deepest: u32,
}

impl Burst {
    /// The burst through a ring of so many descriptors.
    pub fn through(&self, descriptors: u32) -> RingOutcome {
        let mut ring = Ring::new(descriptors, self.service);
        let mut outcome = RingOutcome { lost: 0, longest: Duration::ZERO, deepest: 0 };
        ring.asleep_until(self.wake);
        for number in 0..self.packets {
            let arrival = self.gap * number;
            match ring.arrive(arrival) {
                Some(done) => {
                    outcome.longest = outcome.longest.max(done - arrival);
                    outcome.deepest = outcome.deepest.max(ring.in_use() as u32);
                }
                None => outcome.lost += 1,
            }
        }
        outcome
    }

    /// The smallest ring that loses nothing of the burst.
    pub fn smallest_without_loss(&self) -> u32 {
        self.through(u32::MAX).deepest
    }

    /// Loss against delay over ring sizes.
    pub fn curve(&self, sizes: impl IntoIterator<Item = u32>) -> Vec<(u32, RingOutcome)> {
        sizes.into_iter().map(|descriptors| (descriptors, self.through(descriptors))).collect()
    }

    /// Which ring to set where a packet may wait for `budget` at most; sizes are powers of two, as drivers have them.
    pub fn advice(&self, budget: Duration) -> Advice {
        let without_loss = self.smallest_without_loss().next_power_of_two();
        let whole = self.through(without_loss);
        if whole.longest <= budget {
            return Advice::Holds { descriptors: without_loss, longest: whole.longest };
        }
        let sizes = (0..u32::BITS).map(|power| 1 << power).take_while(|descriptors| *descriptors < without_loss);
        let fits = self.curve(sizes).into_iter().rfind(|(_, outcome)| outcome.longest <= budget);
        Advice::HostTooSlow { fits, descriptors: without_loss, longest: whole.longest }
    }
}

/// What to do about a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// This ring holds the burst within the budget; a larger one gains nothing.
    Holds {
        /// Its size.
        descriptors: u32,
        /// What a packet then waits at worst.
        longest: Duration,
    },
    /// No ring both holds the burst and keeps the budget: the host has to wake sooner or take packets faster.
    HostTooSlow {
        /// The largest ring that keeps the budget, and what it loses; absent where none does.
        fits: Option<(u32, RingOutcome)>,
        /// The ring that would lose nothing.
        descriptors: u32,
        /// What a packet would then wait at worst.
        longest: Duration,
    },
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds { descriptors, longest } => {
                write!(f, "set {descriptors} descriptors: nothing is lost, and no packet waits longer than {longest:?}")
            }
            Self::HostTooSlow { fits, descriptors, longest } => {
                match fits {
                    Some((fits, outcome)) => {
                        write!(f, "{fits} descriptors keep the budget and lose {}; ", outcome.lost)?
                    }
                    None => f.write_str("no ring keeps the budget; ")?,
                }
                write!(
                    f,
                    "{descriptors} lose nothing and let packets wait for {longest:?}: wake the host sooner, or have it take packets faster"
                )
            }
        }
    }
}

/// A ring with a host that takes packets at a steady pace.
#[derive(Clone, Debug)]
pub struct Ring {
    descriptors: usize,
    service: Duration,
    free_at: Duration,
    /// When each packet in the ring will be done.
    done: VecDeque<Duration>,
}

impl Ring {
    /// An empty ring; the host takes `service` for each packet.
    pub fn new(descriptors: u32, service: Duration) -> Self {
        Self { descriptors: descriptors as usize, service, free_at: Duration::ZERO, done: VecDeque::new() }
    }

    /// The host starts on nothing new before `time`.
    pub fn asleep_until(&mut self, time: Duration) {
        self.free_at = self.free_at.max(time);
    }

    /// A packet comes at `now`, which never goes back: when it will be done, or `None` where it is lost.
    pub fn arrive(&mut self, now: Duration) -> Option<Duration> {
        while self.done.front().is_some_and(|done| *done <= now) {
            self.done.pop_front();
        }
        if self.done.len() >= self.descriptors {
            return None;
        }
        self.free_at = self.free_at.max(now) + self.service;
        self.done.push_back(self.free_at);
        Some(self.free_at)
    }

    /// Descriptors in use at the last arrival.
    pub fn in_use(&self) -> usize {
        self.done.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 64 bytes at 10 Gbit/s are 67.2 ns on the wire.
    const LINE: Duration = Duration::from_nanos(67);

    #[test]
    fn a_burst_at_line_rate_loses_what_neither_ring_nor_host_takes() {
        // The host takes a packet in 500 ns: while 4,000 arrive in 268 µs it is done with 536.
        let burst = Burst { packets: 4000, gap: LINE, service: Duration::from_nanos(500), wake: Duration::ZERO };
        let outcome = burst.through(512);
        let taken = 3999 * 67 / 500 + 512;
        assert_eq!(outcome.lost, 4000 - taken);
        assert_eq!(outcome.deepest, 512);
        // Full ring: 511 before it and itself.
        assert!(outcome.longest <= 512 * burst.service && outcome.longest > 511 * burst.service);
        assert_eq!(burst.through(4096).lost, 0);
    }

    #[test]
    fn a_host_that_sleeps_needs_a_descriptor_for_each_packet_that_comes_meanwhile() {
        let burst = Burst {
            packets: 300,
            gap: Duration::from_micros(1),
            service: Duration::from_micros(1),
            wake: Duration::from_micros(200),
        };
        assert_eq!(burst.smallest_without_loss(), 201);
        assert_eq!(burst.through(201).lost, 0);
        // From then on one comes as one is done, so that a ring too small by 10 loses these 10 and no more.
        assert_eq!(burst.through(191).lost, 10);
    }

    #[test]
    fn advice_is_the_smallest_ring_or_a_faster_host() {
        let slow =
            Burst { packets: 256, gap: LINE, service: Duration::from_micros(2), wake: Duration::from_micros(50) };
        // All 256 come in 17 µs, before the host has woken.
        let patient = slow.advice(Duration::from_millis(1));
        assert_eq!(
            patient,
            Advice::Holds { descriptors: 256, longest: Duration::from_nanos(50_000 + 256 * 2000 - 255 * 67) }
        );
        // 64 descriptors are done with after 50 µs + 128 µs; 128 after 306 µs.
        let Advice::HostTooSlow { fits: Some((64, outcome)), descriptors: 256, .. } =
            slow.advice(Duration::from_micros(200))
        else {
            panic!("{:?}", slow.advice(Duration::from_micros(200)))
        };
        assert_eq!(outcome.lost, 192);
        let hurried = slow.advice(Duration::from_micros(40));
        assert!(matches!(hurried, Advice::HostTooSlow { fits: None, .. }), "{hurried:?}");
        assert_eq!(
            hurried.to_string(),
            "no ring keeps the budget; 256 lose nothing and let packets wait for 544.915µs: wake the host sooner, or have it take packets faster"
        );
    }

    proptest! {
        /// ring.rs's closed form: with the host awake, a packet is lost where the ring is full of packets not yet done.
        #[test]
        fn closed_form_of_a_full_ring(packets in 1..3000u32, ring in 1..500u32, gap in 1..200u64, factor in 1..20u64) {
            let service = gap * factor;
            let at = Duration::from_nanos;
            let burst = Burst { packets, gap: at(gap), service: at(service), wake: Duration::ZERO };
            // The first `ring` fit; then one more each time that the host is done with one, while packets still come.
            let span = u64::from(packets - 1) * gap;
            let taken = (u64::from(ring) + span / service).min(u64::from(packets));
            prop_assert_eq!(u64::from(burst.through(ring).lost), u64::from(packets) - taken);
        }

        #[test]
        fn a_larger_ring_loses_no_more_and_delays_no_less(
            packets in 1..500u32, gap in 0..100u64, service in 0..1000u64, wake in 0..50_000u64, ring in 1..300u32,
        ) {
            let at = Duration::from_nanos;
            let burst = Burst { packets, gap: at(gap), service: at(service), wake: at(wake) };
            let (smaller, larger) = (burst.through(ring), burst.through(ring + 1));
            prop_assert!(larger.lost <= smaller.lost && larger.longest >= smaller.longest);
            prop_assert_eq!(burst.through(burst.smallest_without_loss().max(1)).lost, 0);
        }
    }
}
