//! One ring between this process and the kernel, cut into its two halves, so that each side can do only what is its part.
//!
//! ```text
//!            producer ──────────┐ index of the next entry to write; only the producer stores it
//!                               ▼
//!   ┌────┬────┬────┬────┬────┬────┬────┬────┐
//!   │    │    │ e7 │ e8 │ e9 │    │    │    │   entries, a power of two; index modulo size is the place
//!   └────┴────┴────┴────┴────┴────┴────┴────┘
//!                ▲
//!                └── consumer: index of the next entry to read; only the consumer stores it
//! ```
//!
//! Of an `AF_XDP` socket's four rings user space holds the producer of *fill* and *tx* and the consumer of *completion* and
//! *rx*; the kernel holds the others. [`pair`] gives both halves, which is how the rings are tested without a socket.
//!
//! # Ordering
//!
//! The argument is the kernel's own (`net/xdp/xsk_queue.h`):
//! 1. The producer writes entries, then stores its index with `Release`. The consumer loads it with `Acquire`, then reads
//!    entries: it sees every entry below the index, and everything that the producer wrote to the frames before.
//! 2. The consumer reads entries, then stores its index with `Release`. The producer loads it with `Acquire`, then overwrites:
//!    no entry is overwritten before it has been read.
//!
//! The entries themselves are relaxed atomics: on every machine that runs this the same instruction as a plain access, and
//! whatever the other side does, it can make us read wrong numbers but not make the program undefined.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use super::region::{Region, Window};

/// An entry of the fill and completion rings: a byte offset into the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u64);

/// An entry of the rx and tx rings: `struct xdp_desc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: Address,
    pub(crate) length: u32,
    /// `XDP_TX_METADATA`, `XDP_PKT_CONTD`.
    pub(crate) options: u32,
}

/// What a ring can carry.
pub(crate) trait Entry: Copy {
    /// Words of 64 bits that one entry takes.
    const WORDS: usize;
    fn store(self, slot: &[AtomicU64]);
    fn load(slot: &[AtomicU64]) -> Self;
}

impl Entry for Address {
    const WORDS: usize = 1;

    fn store(self, slot: &[AtomicU64]) {
        slot[0].store(self.0, Relaxed);
    }

    fn load(slot: &[AtomicU64]) -> Self {
        Self(slot[0].load(Relaxed))
    }
}

impl Entry for Descriptor {
    const WORDS: usize = 2;

    fn store(self, slot: &[AtomicU64]) {
        // struct xdp_desc { __u64 addr; __u32 len; __u32 options; }: the two halves in memory order
        let [l0, l1, l2, l3] = self.length.to_ne_bytes();
        let [o0, o1, o2, o3] = self.options.to_ne_bytes();
        self.address.store(slot);
        slot[1].store(u64::from_ne_bytes([l0, l1, l2, l3, o0, o1, o2, o3]), Relaxed);
    }

    fn load(slot: &[AtomicU64]) -> Self {
        let [l0, l1, l2, l3, o0, o1, o2, o3] = slot[1].load(Relaxed).to_ne_bytes();
        Self {
            address: Address::load(slot),
            length: u32::from_ne_bytes([l0, l1, l2, l3]),
            options: u32::from_ne_bytes([o0, o1, o2, o3]),
        }
    }
}

/// Where the kernel put the parts of a ring inside its mapping: `struct xdp_ring_offset`, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) flags: usize,
    pub(crate) entries: usize,
}

impl Layout {
    /// Bytes to map for a ring of `size` entries.
    pub(crate) fn length<T: Entry>(&self, size: u32) -> usize {
        self.entries + size as usize * T::WORDS * size_of::<u64>()
    }
}

/// A mapped ring, before it is said which half is ours.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    producer: Window<AtomicU32>,
    consumer: Window<AtomicU32>,
    flags: Window<AtomicU32>,
    entries: Window<AtomicU64>,
    size: u32,
    entry: PhantomData<T>,
}

impl<T: Entry> Ring<T> {
    /// `None` where the layout does not fit the region, or `size` is no power of two.
    pub(crate) fn new(region: &Arc<Region>, layout: Layout, size: u32) -> Option<Self> {
        size.is_power_of_two().then_some(())?;
        Some(Self {
            producer: region.window(layout.producer, 1)?,
            consumer: region.window(layout.consumer, 1)?,
            flags: region.window(layout.flags, 1)?,
            entries: region.window(layout.entries, size as usize * T::WORDS)?,
            size,
            entry: PhantomData,
        })
    }

    /// Indices run over all of `u32` and wrap; the size divides 2^32, so the places stay in step.
    fn slot(&self, index: u32) -> &[AtomicU64] {
        let place = (index & (self.size - 1)) as usize * T::WORDS;
        &self.entries[place..place + T::WORDS]
    }
}

/// The half that writes entries.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// Index of the next entry to write; entries from the shared index up to here are written but not published.
    next: u32,
    /// The consumer's index when last looked at: never ahead of the true one.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// The producer, going on from the indices that the ring holds.
    pub(crate) fn new(ring: Ring<T>) -> Self {
        let next = ring.producer[0].load(Relaxed);
        let consumed = ring.consumer[0].load(Acquire);
        Self { ring, next, consumed }
    }

    /// Writes an entry, which the consumer sees after [`Self::publish`]. Gives it back when the ring is full.
    pub(crate) fn push(&mut self, entry: T) -> Result<(), T> {
        if self.next.wrapping_sub(self.consumed) >= self.ring.size {
            self.consumed = self.ring.consumer[0].load(Acquire);
            if self.next.wrapping_sub(self.consumed) >= self.ring.size {
                return Err(entry);
            }
        }
        entry.store(self.ring.slot(self.next));
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Shows the consumer every entry written so far.
    pub(crate) fn publish(&mut self) {
        self.ring.producer[0].store(self.next, Release);
    }

    /// Entries that the consumer has not taken yet, published or not.
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.consumed = self.ring.consumer[0].load(Acquire);
        self.next.wrapping_sub(self.consumed)
    }

    /// Entries that fit before the ring is full.
    pub(crate) fn free(&mut self) -> u32 {
        self.ring.size.saturating_sub(self.outstanding())
    }

    /// `XDP_RING_NEED_WAKEUP`: the kernel sleeps and wants a system call after [`Self::publish`].
    ///
    /// A hint: the kernel may fall asleep just after. Whoever has entries outstanding asks again, and `poll` wakes the kernel too.
    pub(crate) fn need_wakeup(&self) -> bool {
        self.ring.flags[0].load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The half that reads entries.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// Index of the next entry to read; entries from the shared index up to here are read but not released.
    next: u32,
    /// The producer's index when last looked at: never ahead of the true one.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    /// The consumer, going on from the indices that the ring holds.
    pub(crate) fn new(ring: Ring<T>) -> Self {
        let next = ring.consumer[0].load(Relaxed);
        Self { ring, next, produced: next }
    }

    /// Reads the next entry, whose place the producer may reuse after [`Self::release`].
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.producer[0].load(Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        let entry = T::load(self.ring.slot(self.next));
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the producer the places of every entry read so far.
    pub(crate) fn release(&mut self) {
        self.ring.consumer[0].store(self.next, Release);
    }
}

/// Both halves of a ring of `size` entries in this process, its indices starting at `start`.
///
/// # Errors
/// `InvalidInput` when `size` is no power of two; else as `mmap`.
#[cfg(test)]
pub(crate) fn pair<T: Entry>(size: u32, start: u32) -> std::io::Result<(Producer<T>, Consumer<T>)> {
    // A cache line each, as in the kernel's struct xdp_ring.
    let layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };
    let region = Arc::new(Region::anonymous(layout.length::<T>(size), false)?);
    for index in [layout.producer, layout.consumer] {
        region.window::<AtomicU32>(index, 1).expect("inside the region")[0].store(start, Release);
    }
    let half = || Ring::new(&region, layout, size).ok_or(std::io::ErrorKind::InvalidInput);
    Ok((Producer::new(half()?), Consumer::new(half()?)))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn descriptor(n: u32) -> Descriptor {
        Descriptor { address: Address(u64::from(n) << 11), length: n, options: !n }
    }

    #[test]
    fn nothing_is_seen_before_publish_nor_reused_before_release() {
        let (mut producer, mut consumer) = pair::<Address>(2, 0).unwrap();
        producer.push(Address(1)).unwrap();
        assert_eq!(consumer.pop(), None, "not published");
        producer.publish();
        producer.push(Address(2)).unwrap();
        assert_eq!(consumer.pop(), Some(Address(1)));
        assert_eq!(consumer.pop(), None, "the second is not published");
        assert_eq!(producer.push(Address(3)), Err(Address(3)), "the first is not released");
        consumer.release();
        producer.push(Address(3)).unwrap();
        assert_eq!((producer.outstanding(), producer.free()), (2, 0));
    }

    #[test]
    fn indices_wrap_around_at_32_bits() {
        let (mut producer, mut consumer) = pair::<Descriptor>(4, u32::MAX - 5).unwrap();
        for round in 0..16 {
            for n in 0..3 {
                producer.push(descriptor(round * 3 + n)).unwrap();
            }
            producer.publish();
            for n in 0..3 {
                assert_eq!(consumer.pop(), Some(descriptor(round * 3 + n)));
            }
            assert_eq!(consumer.pop(), None);
            consumer.release();
        }
    }

    #[test]
    fn a_descriptor_lies_in_memory_as_the_kernel_reads_it() {
        let slot = [AtomicU64::new(0), AtomicU64::new(0)];
        Descriptor { address: Address(0x1100), length: 64, options: libc::XDP_TX_METADATA }.store(&slot);
        let kernel = libc::xdp_desc { addr: 0x1100, len: 64, options: libc::XDP_TX_METADATA };
        assert_eq!(size_of::<libc::xdp_desc>(), size_of_val(&slot));
        let mut expected = kernel.addr.to_ne_bytes().to_vec();
        expected.extend(kernel.len.to_ne_bytes());
        expected.extend(kernel.options.to_ne_bytes());
        let stored: Vec<u8> = slot.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        assert_eq!(stored, expected);
    }

    #[test]
    fn a_size_that_is_no_power_of_two_is_refused() {
        assert_eq!(pair::<Address>(3, 0).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(pair::<Address>(0, 0).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_wakeup_flag_is_the_lowest_bit() {
        let (producer, _consumer) = pair::<Address>(2, 0).unwrap();
        assert!(!producer.need_wakeup());
        producer.ring.flags[0].store(libc::XDP_RING_NEED_WAKEUP, Relaxed);
        assert!(producer.need_wakeup());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push,
        Publish,
        Pop,
        Release,
    }

    proptest! {
        /// Against a queue that knows three borders: released | read | published | written.
        #[test]
        fn a_ring_is_a_bounded_queue_with_two_phases(
            exponent in 0_u32..5,
            start: u32,
            steps in vec(prop_oneof![Just(Step::Push), Just(Step::Publish), Just(Step::Pop), Just(Step::Release)], 0..400),
        ) {
            let size = 1 << exponent;
            let (mut producer, mut consumer) = pair::<Descriptor>(size, start).unwrap();
            let (mut written, mut published) = (VecDeque::new(), VecDeque::new());
            let mut read = 0;
            let mut n = 0;
            for step in steps {
                match step {
                    Step::Push => {
                        let full = written.len() + published.len() + read == size as usize;
                        prop_assert_eq!(producer.push(descriptor(n)).is_err(), full);
                        if !full {
                            written.push_back(n);
                        }
                        n += 1;
                    }
                    Step::Publish => {
                        producer.publish();
                        published.append(&mut written);
                    }
                    Step::Pop => {
                        let expected = published.pop_front();
                        prop_assert_eq!(consumer.pop(), expected.map(descriptor));
                        read += usize::from(expected.is_some());
                    }
                    Step::Release => {
                        consumer.release();
                        read = 0;
                    }
                }
                prop_assert_eq!(producer.outstanding() as usize, written.len() + published.len() + read);
            }
        }
    }

    #[test]
    fn two_threads_pass_every_entry_once_and_in_order() {
        const ENTRIES: u32 = 200_000;
        let (mut producer, mut consumer) = pair::<Descriptor>(64, u32::MAX - 1000).unwrap();
        let writer = std::thread::spawn(move || {
            let mut n = 0;
            while n < ENTRIES {
                // Batches of uneven length, so that both borders are met full and empty.
                for _ in 0..n % 7 + 1 {
                    if n < ENTRIES && producer.push(descriptor(n)).is_ok() {
                        n += 1;
                    }
                }
                producer.publish();
                if producer.free() == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < ENTRIES {
            let Some(entry) = consumer.pop() else {
                consumer.release();
                std::thread::yield_now();
                continue;
            };
            assert_eq!(entry, descriptor(expected));
            expected += 1;
            if expected % 5 == 0 {
                consumer.release();
            }
        }
        writer.join().unwrap();
        assert_eq!(consumer.pop(), None);
    }
}
