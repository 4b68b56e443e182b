//! Real AF_XDP rings under a burst: what is lost where, by the kernel's own counters, beside the model of [`crate::queue::Burst`].
//!
//! ```text
//!  sender: AF_XDP, all at once ──► veth ──► XDP program ──► rx ring ──► host, one packet every `service`, once awake
//!                                              └─ a frame of the fill ring, or rx_fill_ring_empty_descs
//!                                                                 └─ a place, or rx_ring_full
//! ```

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Barrier, OnceLock},
    thread,
    time::{Duration, Instant},
};

use pathlab_xdp::{
    XdpMode,
    pacing::{Claim, Class, Pace, Pacing, allowed_cpus},
    xsk::{CopyMode, Redirect, RedirectConfig, XskOptions, XskSocket},
};

use crate::{
    error::{Error, Result},
    link::{self, End, MacAddress},
    netlink::Netlink,
    netns::Namespace,
    queue::{Burst, RingOutcome},
};

const PORT: u16 = 862;
const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const MACS: [MacAddress; 2] = [MacAddress([2, b'p', b'l', 0, 0, 1]), MacAddress([2, b'p', b'l', 0, 0, 2])];
/// The ring that is not the small one.
const AMPLE: u32 = 4096;
/// Most packets of a burst: what the sender's tx ring holds.
pub const MOST: u32 = 2048;

/// Whoever has not come so long after the burst does not come.
const SETTLED: Duration = Duration::from_secs(1);

/// Which ring is the small one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The rx ring: packets that wait for the host.
    Rx,
    /// The fill ring: frames that wait for packets.
    Fill,
}

/// What came of a burst through a real ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Packets that were sent.
    pub sent: u32,
    /// Packets that came to the host.
    pub received: u32,
    /// The kernel's count of packets that found the rx ring full.
    pub rx_ring_full: u64,
    /// The kernel's count of packets that found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Packets that never came to a ring: the veth between both holds 256 at most for a processor that does not get to them, before Linux 6.17.
    pub wire_dropped: u64,
    /// While packets came, the host took every one within this after it meant to; or so long after the burst the kernel still brought one.
    pub held_up: Duration,
    /// From the moment that the burst began until the last packet was in the ring.
    pub took: Duration,
    /// What the model says of a burst as this was: its real gap and length.
    pub model: RingOutcome,
}

impl Trial {
    /// Packets that one of both rings lost, by the kernel's counters.
    pub fn lost(&self) -> u64 {
        self.rx_ring_full + self.rx_fill_ring_empty_descs
    }
}

/// Two namespaces with a veth between them, of which one has an AF_XDP socket.
#[derive(Debug)]
pub struct Bench {
    sender: Namespace,
    receiver: Namespace,
}

impl Bench {
    /// Makes both, under names that begin with `name`; they go with it.
    ///
    /// # Errors
    /// Names that are taken, or missing privilege.
    pub fn new(name: &str) -> Result<Self> {
        let bench = Self {
            sender: Namespace::create(&format!("{name}-sender"))?,
            receiver: Namespace::create(&format!("{name}-receiver"))?,
        };
        let [left, right] = [(&bench.sender, MACS[0]), (&bench.receiver, MACS[1])];
        let end = |(namespace, mac)| End { namespace, interface: "ring", mac: Some(mac) };
        link::veth(end(left), end(right), 1500)?;
        for (namespace, address) in [(&bench.sender, SENDER), (&bench.receiver, RECEIVER)] {
            let own = crate::cidr::IpCidr::new(IpAddr::V4(address), 30).expect("a length of the family");
            Netlink::open(namespace)?.add_address("ring", own)?;
        }
        Ok(bench)
    }

    /// Sends `burst.packets`, at most [`MOST`], as fast as it goes through a ring of so many descriptors, a power of two. The host wakes up `burst.wake` after
    /// the first was sent and takes one packet every `burst.service`. `burst.gap` is not asked for, but measured.
    ///
    /// # Errors
    /// An AF_XDP socket or program that is not to be had.
    pub fn trial(&self, which: Which, descriptors: u32, burst: Burst) -> Result<Trial> {
        let failed = |source: pathlab_xdp::Error| Error::Xdp { source: Box::new(source) };
        let plain = XskOptions { copy: CopyMode::Copy, tx_metadata: false, ..XskOptions::default() };
        let options = match which {
            Which::Rx => XskOptions { rx_ring: descriptors, fill_ring: AMPLE, frames: AMPLE, ..plain },
            // No more frames than places, so that a frame is given back only when the host is done with its packet.
            Which::Fill => XskOptions { rx_ring: AMPLE, fill_ring: descriptors, frames: descriptors, ..plain },
        };
        let receive = || -> std::result::Result<_, pathlab_xdp::Error> {
            let socket = XskSocket::bind("ring", 0, &options)?;
            let config = RedirectConfig { mode: XdpMode::Native, ..RedirectConfig::new(PORT) };
            let mut redirect = Redirect::attach("ring", &config)?;
            redirect.add(&socket)?;
            Ok((redirect, socket))
        };
        let (_redirect, mut host) = self.receiver.run(receive)?.map_err(failed)?;
        let mut mouth = self.sender.run(|| XskSocket::bind("ring", 0, &plain))?.map_err(failed)?;
        let packets = burst.packets.min(MOST);
        fill(&mut mouth, packets)?;
        let mut wire = Netlink::open(&self.sender)?;
        let dropped_before = wire.tx_dropped("ring")?;

        let (ready, sending) = (Barrier::new(2), Sending::default());
        let (received, held_up) = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let _claim = claim(0);
                ready.wait();
                let _ = sending.begun.set(Instant::now());
                let sent = (|| {
                    while mouth.flush()? > 0 {}
                    Ok::<_, pathlab_xdp::Error>(())
                })();
                let _ = sending.done.set(Instant::now());
                sent
            });
            let _claim = claim(1);
            ready.wait();
            let mut dropped = || wire.tx_dropped("ring").map(|now| now.saturating_sub(dropped_before));
            let drained = drain(&mut host, burst, packets, &sending, &mut dropped);
            sender.join().expect("it does not panic").map_err(failed)?;
            drained
        })?;
        let counted = host.statistics().map_err(failed)?;
        let took = sending.done.get().zip(sending.begun.get()).map_or(Duration::ZERO, |(done, begun)| *done - *begun);
        let model = Burst { packets, gap: took / packets.max(1), ..burst }.through(descriptors);
        Ok(Trial {
            sent: packets,
            received,
            rx_ring_full: counted.rx_ring_full,
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs,
            wire_dropped: wire.tx_dropped("ring")?.saturating_sub(dropped_before),
            held_up,
            took,
            model,
        })
    }
}

/// When the burst began, and when all of it was in the ring or lost.
#[derive(Default)]
struct Sending {
    begun: OnceLock<Instant>,
    done: OnceLock<Instant>,
}

/// A processor for this thread alone, before all that is not real time, as far as this host has and allows it.
fn claim(number: usize) -> Option<Claim> {
    let cpu = allowed_cpus().ok()?.get(number).copied();
    Claim::take(Pacing { pace: Pace::Auto, class: Class::Auto, cpu }, None).ok()
}

/// Puts the burst into the tx ring; it leaves with the next flush.
fn fill(mouth: &mut XskSocket, packets: u32) -> Result<()> {
    let datagram = datagram();
    for _ in 0..packets {
        let Some(mut frame) = mouth.frame() else { break };
        frame.copy_from(&datagram);
        if mouth.send(frame, 0, false).is_err() {
            break;
        }
    }
    Ok(())
}

/// Takes a packet whenever one is due until each of the burst has met its fate: how many, and how late at worst.
fn drain(
    host: &mut XskSocket,
    burst: Burst,
    packets: u32,
    sending: &Sending,
    wire_dropped: &mut dyn FnMut() -> Result<u64>,
) -> Result<(u32, Duration)> {
    let failed = |source: pathlab_xdp::Error| Error::Xdp { source: Box::new(source) };
    let start = loop {
        match sending.begun.get() {
            Some(begun) => break *begun,
            None => std::hint::spin_loop(),
        }
    };
    let (mut received, mut held_up) = (0, Duration::ZERO);
    let mut idle_since = None;
    let mut batch = Vec::new();
    for turn in 1.. {
        let due = start + burst.wake + burst.service * turn;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        // Before the look: what came until then is in the ring.
        let done = sending.done.get();
        // A host that slept through the burst was held up as well: what counts is when it meant to look.
        if done.is_none_or(|done| due < *done) {
            held_up = held_up.max(due.elapsed());
        }
        let taken = host.receive(&mut batch, 1).map_err(failed)?;
        batch.drain(..).for_each(|packet| host.recycle(packet.frame));
        received += taken as u32;
        let Some(done) = done else { continue };
        if taken > 0 {
            // The burst was over, the ring was empty, and yet one came: the kernel was held up on its way.
            held_up = held_up.max(idle_since.take().map_or(Duration::ZERO, |_| done.elapsed()));
            continue;
        }
        let counted = host.statistics().map_err(failed)?;
        let lost = counted.rx_ring_full + counted.rx_fill_ring_empty_descs + wire_dropped()?;
        if u64::from(received) + lost >= packets.into()
            || *idle_since.get_or_insert_with(Instant::now) + SETTLED < Instant::now()
        {
            break;
        }
    }
    Ok((received, held_up))
}

/// An Ethernet frame of 64 octets with a UDP datagram to the receiver's port; no checksum, which IPv4 allows.
fn datagram() -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..6].copy_from_slice(&MACS[1].0);
    frame[6..12].copy_from_slice(&MACS[0].0);
    frame[12..24].copy_from_slice(&[0x08, 0, 0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17]);
    frame[26..30].copy_from_slice(&SENDER.octets());
    frame[30..34].copy_from_slice(&RECEIVER.octets());
    let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame[34..36].copy_from_slice(&40_000_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&30_u16.to_be_bytes());
    frame
}
