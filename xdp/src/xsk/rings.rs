//! The four rings and the UMEM together, without the socket: who has which frame.
//!
//! ```text
//!             refill                 receive                 send                   complete
//!  free ───► fill ring ═► kernel ═► rx ring ───► Frame ───► tx ring ═► kernel ═► completion ring ───► free
//! ```
//!
//! A frame that the kernel has is kept in `lent`, at its index. What the kernel returns must be there, and lent by the ring
//! that it now answers; anything else is counted as stray and not touched. So no two `Frame`s of one index can exist.

use super::{
    metadata::{self, BindMode, Record, TransmitStamp},
    ring::Descriptor,
    ring::{Address, Consumer, Producer},
    umem::{Frame, Umem},
};

/// Octets of a packet that are fetched before they are looked at: the headers and the base packet.
const FETCHED: usize = 128;

/// A packet that came, with what the XDP program knew of it.
#[derive(Debug)]
pub struct Received {
    /// The packet. Send it on, give it back with [`super::XskSocket::recycle`], or drop it.
    pub frame: Frame,
    /// `None` when no program of ours wrote one.
    pub record: Option<Record>,
}

/// A packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// What the caller gave to [`super::XskSocket::send`].
    pub cookie: u64,
    /// When it left; `None` when none was asked for or none was given.
    pub stamp: Option<TransmitStamp>,
}

#[derive(Debug)]
enum Lent {
    Here,
    Fill(Frame),
    Transmit { frame: Frame, cookie: u64, stamp: bool },
}

#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) fill: Producer<Address>,
    pub(crate) completion: Consumer<Address>,
    pub(crate) rx: Consumer<Descriptor>,
    pub(crate) tx: Producer<Descriptor>,
    pub(crate) umem: Umem,
    lent: Box<[Lent]>,
    /// Whether the kernel reads `struct xsk_tx_metadata` before each packet.
    tx_metadata: bool,
    strays: u64,
}

impl Rings {
    pub(crate) fn new(
        fill: Producer<Address>,
        completion: Consumer<Address>,
        rx: Consumer<Descriptor>,
        tx: Producer<Descriptor>,
        umem: Umem,
        tx_metadata: bool,
    ) -> Self {
        let lent = (0..umem.cut().frames).map(|_| Lent::Here).collect();
        Self { fill, completion, rx, tx, umem, lent, tx_metadata, strays: 0 }
    }

    /// Entries of the kernel's that named no frame it had.
    pub(crate) fn strays(&self) -> u64 {
        self.strays
    }

    pub(crate) fn tx_metadata(&self) -> bool {
        self.tx_metadata
    }

    /// Gives free frames to the kernel to receive into, until its fill ring is full.
    pub(crate) fn refill(&mut self) {
        let mut pushed = 0;
        for _ in 0..self.fill.free() {
            let Some(frame) = self.umem.take() else { break };
            // The ring has one writer, us, so what was free still is.
            if self.fill.push(frame.address()).is_err() {
                self.umem.put(frame);
                break;
            }
            let index = frame.index() as usize;
            self.lent[index] = Lent::Fill(frame);
            pushed += 1;
        }
        if pushed > 0 {
            self.fill.publish();
        }
    }

    /// Moves at most `limit` packets that came to the end of `batch`.
    pub(crate) fn receive(&mut self, batch: &mut Vec<Received>, limit: usize) -> usize {
        let mut popped = 0;
        let before = batch.len();
        while popped < limit
            && let Some(descriptor) = self.rx.pop()
        {
            popped += 1;
            let Some((mut frame, offset)) = self.take_filled(descriptor.address) else {
                self.strays += 1;
                continue;
            };
            if !frame.received(offset, descriptor.length) {
                self.strays += 1;
                self.umem.put(frame);
                continue;
            }
            // What another processor has just written takes long to come: all of it is asked for before any is read.
            frame.prefetch(FETCHED);
            batch.push(Received { frame, record: None });
        }
        if popped > 0 {
            self.rx.release();
        }
        for Received { frame, record } in &mut batch[before..] {
            *record = frame.record().and_then(Record::take);
        }
        batch.len() - before
    }

    /// Writes a packet to the tx ring, unpublished. Gives the frame back when the ring is full.
    ///
    /// # Panics
    /// When the frame is of another UMEM, or its packet is empty.
    pub(crate) fn send(&mut self, mut frame: Frame, cookie: u64, stamp: bool) -> Result<(), Frame> {
        assert!(self.umem.owns(&frame), "a frame of another socket's UMEM");
        assert!(!frame.packet().is_empty(), "an empty packet");
        let stamp = stamp && self.tx_metadata;
        if stamp {
            metadata::request_stamp(frame.tx_metadata());
        }
        let options = if stamp { libc::XDP_TX_METADATA } else { 0 };
        if self.tx.push(frame.descriptor(options)).is_err() {
            return Err(frame);
        }
        let index = frame.index() as usize;
        self.lent[index] = Lent::Transmit { frame, cookie, stamp };
        Ok(())
    }

    /// Takes at most `limit` sent frames back, and says of each when it left.
    pub(crate) fn complete(&mut self, mode: BindMode, batch: &mut Vec<Completed>, limit: usize) -> usize {
        let mut popped = 0;
        let before = batch.len();
        while popped < limit
            && let Some(address) = self.completion.pop()
        {
            popped += 1;
            let Some((mut frame, cookie, stamped)) = self.take_sent(address) else {
                self.strays += 1;
                continue;
            };
            let stamp = if stamped { metadata::take_stamp(frame.tx_metadata(), mode) } else { None };
            self.umem.put(frame);
            batch.push(Completed { cookie, stamp });
        }
        if popped > 0 {
            self.completion.release();
        }
        batch.len() - before
    }

    fn take_filled(&mut self, address: Address) -> Option<(Frame, u32)> {
        let (index, offset) = self.umem.locate(address)?;
        let slot = &mut self.lent[index as usize];
        match std::mem::replace(slot, Lent::Here) {
            Lent::Fill(frame) => Some((frame, offset)),
            other => {
                *slot = other;
                None
            }
        }
    }

    fn take_sent(&mut self, address: Address) -> Option<(Frame, u64, bool)> {
        let (index, _) = self.umem.locate(address)?;
        let slot = &mut self.lent[index as usize];
        match std::mem::replace(slot, Lent::Here) {
            Lent::Transmit { frame, cookie, stamp } => Some((frame, cookie, stamp)),
            other => {
                *slot = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::xsk::{
        metadata::RECORD_LENGTH,
        ring::pair,
        umem::{Cut, kernel::Access},
    };

    /// The other halves of the rings: the kernel, played in memory.
    struct Kernel {
        fill: Consumer<Address>,
        completion: Producer<Address>,
        rx: Producer<Descriptor>,
        tx: Consumer<Descriptor>,
        memory: Access,
    }

    const FRAMES: u32 = 16;

    fn twins(frames: u32, ring: u32, tx_metadata: bool) -> (Rings, Kernel) {
        let umem = Umem::new(Cut { frames, frame_size: 2048, headroom: 0 }, false).unwrap();
        let memory = Access::new(&umem);
        let (fill, kernel_fill) = pair(ring, u32::MAX - 3).unwrap();
        let (kernel_completion, completion) = pair(ring, u32::MAX - 3).unwrap();
        let (kernel_rx, rx) = pair(ring, u32::MAX - 3).unwrap();
        let (tx, kernel_tx) = pair(ring, u32::MAX - 3).unwrap();
        let kernel = Kernel { fill: kernel_fill, completion: kernel_completion, rx: kernel_rx, tx: kernel_tx, memory };
        (Rings::new(fill, completion, rx, tx, umem, tx_metadata), kernel)
    }

    impl Kernel {
        /// A packet comes in: `false` when there is no frame to put it into, or no place in the rx ring.
        fn deliver(&mut self, packet: &[u8]) -> bool {
            self.deliver_at(self.memory.cut().headroom + 256, packet)
        }

        /// The same, to that place in its frame.
        fn deliver_at(&mut self, offset: u32, packet: &[u8]) -> bool {
            if self.rx.free() == 0 {
                return false;
            }
            let Some(Address(frame)) = self.fill.pop() else { return false };
            self.fill.release();
            let address = Address(frame + u64::from(offset));
            self.memory.write(address, packet);
            self.rx.push(Descriptor { address, length: packet.len() as u32, options: 0 }).unwrap();
            self.rx.publish();
            true
        }

        /// Sends what is in the tx ring, stamping it with `clock`, and completes it at once.
        fn transmit(&mut self, clock: u64) -> Vec<Vec<u8>> {
            let mut sent = Vec::new();
            while let Some(Descriptor { address, length, options }) = self.tx.pop() {
                sent.push(self.memory.read(address, length as usize));
                if options & libc::XDP_TX_METADATA != 0 {
                    assert_eq!(self.memory.read(Address(address.0 - 16), 8), 1_u64.to_ne_bytes(), "the request");
                    self.memory.write(Address(address.0 - 8), &clock.to_ne_bytes());
                }
                self.completion.push(address).unwrap();
            }
            self.tx.release();
            self.completion.publish();
            sent
        }
    }

    #[test]
    fn packets_are_echoed_in_place_with_a_stamp() {
        let (mut rings, mut kernel) = twins(FRAMES, 8, true);
        let (mut received, mut completed) = (Vec::new(), Vec::new());
        for round in 0..1000_u64 {
            rings.refill();
            assert!(kernel.deliver(format!("packet {round}").as_bytes()));
            assert_eq!(rings.receive(&mut received, 64), 1);
            let Received { mut frame, record } = received.pop().unwrap();
            assert_eq!(record, None, "no program wrote one");
            frame.packet_mut()[0] = b'P';
            rings.send(frame, round, true).unwrap();
            assert!(kernel.transmit(1).is_empty(), "not published");
            rings.tx.publish();
            assert_eq!(kernel.transmit(round), [format!("Packet {round}").as_bytes()]);
            assert_eq!(rings.complete(BindMode::Copy, &mut completed, 64), 1);
            let stamp = (round != 0)
                .then(|| TransmitStamp::Software(pathlab_record::Time::from_nanos(i64::try_from(round).unwrap())));
            assert_eq!(completed.pop(), Some(Completed { cookie: round, stamp }), "and 0 is absent");
        }
        assert_eq!(rings.strays(), 0);
    }

    #[test]
    fn a_record_is_of_this_packet_or_absent() {
        let (mut rings, mut kernel) = twins(1, 2, true);
        let mut received = Vec::new();
        let mut record = [0; RECORD_LENGTH];
        record[22..].copy_from_slice(&0x7e5d_u16.to_ne_bytes());
        record[20..22].copy_from_slice(&3_u16.to_ne_bytes());

        rings.refill();
        kernel.memory.write(Address(256 - RECORD_LENGTH as u64), &record);
        kernel.deliver(b"with a record");
        rings.receive(&mut received, 1);
        let first = received.pop().unwrap();
        assert_eq!(first.record.map(|record| record.queue), Some(3));
        drop(first);

        // The same frame again, and this time the program found no room.
        rings.refill();
        kernel.deliver(b"without");
        rings.receive(&mut received, 1);
        assert_eq!(received[0].record, None);
        received.clear();

        // What a packet that lay elsewhere leaves at the record's place is not one either, nor is a stamp that looks like it.
        rings.refill();
        kernel.deliver_at(256 - RECORD_LENGTH as u32, &record);
        rings.receive(&mut received, 1);
        assert_eq!(received[0].frame.packet(), record);
        received.clear();
        rings.refill();
        kernel.deliver(b"without");
        rings.receive(&mut received, 1);
        let Received { frame, record } = received.pop().expect("a packet");
        assert_eq!(record, None);
        rings.send(frame, 0, true).expect("room");
        rings.tx.publish();
        kernel.transmit(0x7e5d << 48 | 5);
        assert_eq!(rings.complete(BindMode::ZeroCopy, &mut Vec::new(), 1), 1);
        rings.refill();
        kernel.deliver(b"without");
        rings.receive(&mut received, 1);
        assert_eq!(received[0].record, None);
    }

    #[test]
    fn without_tx_metadata_no_stamp_is_asked_for() {
        let (mut rings, mut kernel) = twins(FRAMES, 8, false);
        let mut frame = rings.umem.take().unwrap();
        frame.copy_from(b"packet");
        rings.send(frame, 1, true).unwrap();
        rings.tx.publish();
        assert_eq!(kernel.transmit(5).len(), 1);
        let mut completed = Vec::new();
        rings.complete(BindMode::Copy, &mut completed, 8);
        assert_eq!(completed, [Completed { cookie: 1, stamp: None }]);
    }

    #[test]
    fn a_full_tx_ring_gives_the_frame_back() {
        let (mut rings, _kernel) = twins(FRAMES, 2, true);
        for n in 0..3 {
            let mut frame = rings.umem.take().unwrap();
            frame.copy_from(&[n]);
            let refused = rings.send(frame, 0, true).err();
            assert_eq!(refused.map(|frame| frame.packet().to_vec()), (n == 2).then_some(vec![2]));
        }
    }

    #[test]
    fn what_the_kernel_did_not_have_is_counted_and_left_alone() {
        let (mut rings, mut kernel) = twins(FRAMES, 8, true);
        rings.refill();
        let held = rings.umem.take().unwrap();
        let held_address = held.address();
        let lent = kernel.fill.pop().unwrap();
        for address in [held_address, Address(u64::MAX), Address(u64::from(FRAMES) * 2048)] {
            kernel.rx.push(Descriptor { address, length: 1, options: 0 }).unwrap();
            kernel.completion.push(address).unwrap();
        }
        // A frame lent for receiving does not come back as sent, nor beyond its end, nor twice.
        kernel.completion.push(lent).unwrap();
        kernel.rx.push(Descriptor { address: lent, length: 2049, options: 0 }).unwrap();
        kernel.rx.push(Descriptor { address: lent, length: 1, options: 0 }).unwrap();
        kernel.rx.publish();
        kernel.completion.publish();
        let (mut received, mut completed) = (Vec::new(), Vec::new());
        assert_eq!(rings.receive(&mut received, 64), 0);
        assert_eq!(rings.complete(BindMode::Copy, &mut completed, 64), 0);
        assert_eq!(rings.strays(), 9);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Refill,
        Deliver,
        Receive(usize),
        Echo,
        Drop,
        Transmit,
        Complete(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Refill),
            Just(Step::Deliver),
            (0_usize..4).prop_map(Step::Receive),
            Just(Step::Echo),
            Just(Step::Drop),
            Just(Step::Transmit),
            (0_usize..4).prop_map(Step::Complete),
        ]
    }

    proptest! {
        /// In any order of doing, every packet comes out as it went in, and no frame is lost or doubled.
        #[test]
        fn frames_are_neither_lost_nor_doubled(ring in prop_oneof![Just(2_u32), Just(8), Just(32)], steps in vec(step(), 0..300)) {
            let (mut rings, mut kernel) = twins(FRAMES, ring, true);
            let (mut received, mut completed) = (Vec::<Received>::new(), Vec::new());
            let (mut delivered, mut seen, mut echoed) = (0_u64, 0_u64, std::collections::VecDeque::new());
            for step in steps {
                match step {
                    Step::Refill => rings.refill(),
                    Step::Deliver => delivered += u64::from(kernel.deliver(&delivered.to_ne_bytes())),
                    Step::Receive(limit) => {
                        let before = received.len();
                        prop_assert!(rings.receive(&mut received, limit) <= limit);
                        for packet in &received[before..] {
                            prop_assert_eq!(packet.frame.packet(), seen.to_ne_bytes());
                            seen += 1;
                        }
                    }
                    Step::Echo => {
                        let Some(packet) = received.pop() else { continue };
                        let content = packet.frame.packet().to_vec();
                        match rings.send(packet.frame, 0, false) {
                            Ok(()) => echoed.push_back(content),
                            Err(frame) => received.push(Received { frame, record: None }),
                        }
                    }
                    Step::Drop => drop(received.pop()),
                    Step::Transmit => {
                        // The kernel takes from the tx ring no more than the completion ring holds.
                        rings.complete(BindMode::Copy, &mut completed, usize::MAX);
                        rings.tx.publish();
                        for packet in kernel.transmit(0) {
                            prop_assert_eq!(Some(packet), echoed.pop_front());
                        }
                    }
                    Step::Complete(limit) => prop_assert!(rings.complete(BindMode::Copy, &mut completed, limit) <= limit),
                }
            }
            prop_assert_eq!(rings.strays(), 0);
            let lent = rings.lent.iter().filter(|lent| !matches!(lent, Lent::Here)).count();
            let here = received.len();
            let mut free = Vec::new();
            free.extend(std::iter::from_fn(|| rings.umem.take()));
            prop_assert_eq!(lent + here + free.len(), FRAMES as usize);
        }
    }
}
