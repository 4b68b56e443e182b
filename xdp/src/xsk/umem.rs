//! The packet memory of one socket, cut into frames that have exactly one owner at a time.
//!
//! ```text
//!  UMEM  │ frame 0          │ frame 1          │ …                          frame = XskOptions::frame_size bytes
//!        ╰──────────────────╯
//!  frame │ headroom │ 256 bytes of XDP headroom          │ packet … │ room  │
//!                               receive record (24) ─┤   ↑
//!                           transmit metadata (16) ─┤    Frame::packet
//! ```
//!
//! A [`Frame`] is the right to one frame: it cannot be copied, it keeps the memory mapped, and while the kernel has the
//! frame there is no `Frame` of it (see [`super::rings`]). So safe code can neither use a frame after the UMEM is gone, nor put
//! it into two rings, nor write to it while the card reads it. A dropped `Frame` goes back to its UMEM.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    metadata::{RECORD_LENGTH, Record, TX_METADATA_LENGTH},
    region::Region,
    ring::{Address, Descriptor},
    sys,
};

/// `XDP_PACKET_HEADROOM` (`include/uapi/linux/bpf.h`): what the kernel leaves before every received packet.
const XDP_PACKET_HEADROOM: u32 = 256;

/// The size and the cut of a UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) frames: u32,
    pub(crate) frame_size: u32,
    pub(crate) headroom: u32,
}

impl Cut {
    /// Where a packet starts in its frame, received or built here: before it is always room for both kinds of metadata.
    fn packet_offset(self) -> u32 {
        self.headroom + XDP_PACKET_HEADROOM
    }

    fn length(self) -> usize {
        self.frames as usize * self.frame_size as usize
    }
}

#[derive(Debug)]
struct Memory {
    region: Region,
    cut: Cut,
    /// Frames whose handle was dropped; never more than there are frames, which is its capacity.
    dropped: Mutex<Vec<u32>>,
}

impl Memory {
    /// A panic elsewhere cannot leave a list of numbers half-changed.
    fn dropped(&self) -> MutexGuard<'_, Vec<u32>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory, and the frames that nobody uses.
#[derive(Debug)]
pub(crate) struct Umem {
    memory: Arc<Memory>,
    free: Vec<Frame>,
}

impl Umem {
    /// Maps the memory; every frame is free.
    pub(crate) fn new(cut: Cut, huge_pages: bool) -> io::Result<Self> {
        let region = Region::anonymous(cut.length(), huge_pages)?;
        let dropped = Mutex::new(Vec::with_capacity(cut.frames as usize));
        let memory = Arc::new(Memory { region, cut, dropped });
        // From the last to the first, so that they are handed out from the first on.
        let free = (0..cut.frames).rev().map(|index| Frame::new(&memory, index)).collect();
        Ok(Self { memory, free })
    }

    /// `XDP_UMEM_REG`: lets the kernel write to those frames of which it is given the address.
    pub(crate) fn register(&self, socket: BorrowedFd<'_>, flags: u32, tx_metadata_len: u32) -> io::Result<()> {
        let Cut { frame_size, headroom, .. } = self.memory.cut;
        let registration = libc::xdp_umem_reg {
            addr: self.memory.region.base().addr().get() as u64,
            len: self.memory.cut.length() as u64,
            chunk_size: frame_size,
            headroom,
            flags,
            tx_metadata_len,
        };
        // SAFETY: the memory is ours alone, and nobody looks at a frame before it comes back: while the kernel has its address
        // its `Frame` is put away (`rings.rs`). The kernel pins the pages, so it never writes to memory that took their place.
        unsafe { sys::register_umem(socket, registration) }
    }

    pub(crate) fn cut(&self) -> Cut {
        self.memory.cut
    }

    /// A frame that nobody uses, holding an empty packet.
    pub(crate) fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            let mut dropped = self.memory.dropped();
            self.free.extend(dropped.drain(..).map(|index| Frame::new(&self.memory, index)));
        }
        self.free.pop()
    }

    /// Takes a frame back, without the lock that dropping it takes.
    ///
    /// # Panics
    /// When the frame is of another UMEM.
    pub(crate) fn put(&mut self, mut frame: Frame) {
        assert!(self.owns(&frame), "a frame of another socket's UMEM");
        frame.reset();
        self.free.push(frame);
    }

    pub(crate) fn owns(&self, frame: &Frame) -> bool {
        Arc::ptr_eq(&self.memory, &frame.memory)
    }

    /// The frame that an address of the kernel's lies in, and the place in it; `None` where there is no such frame.
    pub(crate) fn locate(&self, Address(address): Address) -> Option<(u32, u32)> {
        let Cut { frames, frame_size, .. } = self.memory.cut;
        let index = u32::try_from(address / u64::from(frame_size)).ok().filter(|index| *index < frames)?;
        Some((index, (address % u64::from(frame_size)) as u32))
    }
}

/// The only handle to one frame of a UMEM, and the packet in it.
///
/// It may be sent to another thread; dropping it gives the frame back to its socket.
pub struct Frame {
    memory: Arc<Memory>,
    index: u32,
    /// Where the packet starts, from the start of the frame. `offset + length <= frame_size`, always.
    offset: u32,
    length: u32,
}

impl Frame {
    /// Called once for each index at the start, and again only for an index whose `Frame` was dropped: hence the only one.
    fn new(memory: &Arc<Memory>, index: u32) -> Self {
        Self { memory: Arc::clone(memory), index, offset: memory.cut.packet_offset(), length: 0 }
    }

    /// The packet, from its Ethernet header on, without the frame check sequence.
    pub fn packet(&self) -> &[u8] {
        &self.bytes()[self.offset as usize..][..self.length as usize]
    }

    /// The packet, to be changed in place.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        let (offset, length) = (self.offset as usize, self.length as usize);
        &mut self.bytes_mut()[offset..][..length]
    }

    /// The most bytes that a packet in this frame may have.
    pub fn capacity(&self) -> usize {
        (self.memory.cut.frame_size - self.offset) as usize
    }

    /// Makes the packet `length` bytes long. Bytes that come into it are whatever was in the frame: write all of them.
    ///
    /// # Panics
    /// When `length` is over [`Self::capacity`].
    pub fn set_len(&mut self, length: usize) {
        assert!(length <= self.capacity(), "a packet of {length} bytes in a frame with room for {}", self.capacity());
        self.length = length as u32;
    }

    /// Replaces the packet by a copy of `packet`.
    ///
    /// # Panics
    /// When `packet` is longer than [`Self::capacity`].
    pub fn copy_from(&mut self, packet: &[u8]) {
        self.set_len(packet.len());
        self.packet_mut().copy_from_slice(packet);
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Readies the frame for the next use: an empty packet at the usual place.
    ///
    /// A packet that lay elsewhere may have left octets where a record is looked for; one at the usual place cannot reach there.
    pub(crate) fn reset(&mut self) {
        let usual = self.memory.cut.packet_offset();
        if self.offset != usual {
            self.offset = usual;
            Record::erase(self.before_packet());
        }
        self.length = 0;
    }

    /// Has the processor fetch, to be written, the record and at most `octets` of the packet.
    pub(crate) fn prefetch(&self, octets: usize) {
        const LINE: usize = 64;
        let offset = self.offset as usize;
        let (from, to) = (offset.saturating_sub(RECORD_LENGTH), offset + octets.min(self.length as usize));
        for line in (from..to).step_by(LINE).chain(to.checked_sub(1)) {
            fetch(self.start().wrapping_add(line));
        }
    }

    /// The kernel says where in this frame it put a packet. `false`, and no change, where that is outside.
    pub(crate) fn received(&mut self, offset: u32, length: u32) -> bool {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.memory.cut.frame_size);
        if fits {
            (self.offset, self.length) = (offset, length);
        }
        fits
    }

    /// What the fill ring carries. The kernel masks the offset off and adds its own.
    pub(crate) fn address(&self) -> Address {
        Address(u64::from(self.index) * u64::from(self.memory.cut.frame_size))
    }

    /// What the tx ring carries.
    pub(crate) fn descriptor(&self, options: u32) -> Descriptor {
        let Address(frame) = self.address();
        Descriptor { address: Address(frame + u64::from(self.offset)), length: self.length, options }
    }

    /// Where the XDP program writes its record, when the packet lies where the kernel puts it unless a program moved its start.
    pub(crate) fn record(&mut self) -> Option<&mut [u8; RECORD_LENGTH]> {
        (self.offset == self.memory.cut.packet_offset()).then(|| self.before_packet())
    }

    /// `struct xsk_tx_metadata` of this frame: the bytes just before the packet.
    pub(crate) fn tx_metadata(&mut self) -> &mut [u8; TX_METADATA_LENGTH] {
        self.before_packet()
    }

    /// # Panics
    /// When the packet starts nearer than `N` to the frame's start; the kernel never places it so (at least 256).
    fn before_packet<const N: usize>(&mut self) -> &mut [u8; N] {
        let offset = self.offset as usize;
        self.bytes_mut()[..offset].last_chunk_mut().expect("XDP headroom before the packet")
    }

    fn bytes(&self) -> &[u8] {
        let size = self.memory.cut.frame_size as usize;
        // SAFETY: `index < frames`, so the range lies in the region, which the `Arc` keeps mapped; it was zeroed by `mmap`, so
        // every byte is initialised. This is the only `Frame` of its index, and the kernel does not have the frame, so
        // nobody writes while the borrow of `self` lasts.
        unsafe { std::slice::from_raw_parts(self.start(), size) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let size = self.memory.cut.frame_size as usize;
        // SAFETY: as in `bytes`, and `&mut self` is the only access through the only `Frame`.
        unsafe { std::slice::from_raw_parts_mut(self.start(), size) }
    }

    fn start(&self) -> *mut u8 {
        let offset = self.index as usize * self.memory.cut.frame_size as usize;
        debug_assert!(offset < self.memory.region.length());
        // SAFETY: `index < frames`: the sum lies in the region.
        unsafe { self.memory.region.base().as_ptr().add(offset) }
    }
}

/// A hint, nothing where the processor has none.
fn fetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads and writes nothing that a program can see, and does not fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.reset();
        self.memory.dropped().push(self.index);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({}, {} bytes at {})", self.index, self.length, self.offset)
    }
}

#[cfg(test)]
pub(crate) mod kernel {
    //! What the kernel can do with a UMEM, for the in-memory twin of a socket.

    use super::*;

    /// Access to any byte of a UMEM, by address, as a network card has it.
    pub(crate) struct Access(Arc<Memory>);

    impl Access {
        pub(crate) fn new(umem: &Umem) -> Self {
            Self(Arc::clone(&umem.memory))
        }

        pub(crate) fn write(&self, Address(address): Address, bytes: &[u8]) {
            let at = usize::try_from(address).unwrap();
            assert!(at + bytes.len() <= self.0.cut.length());
            // SAFETY: in the region; the twin touches only frames that it took from a ring, which have no `Frame`.
            unsafe { self.0.region.base().as_ptr().add(at).copy_from(bytes.as_ptr(), bytes.len()) };
        }

        pub(crate) fn read(&self, Address(address): Address, length: usize) -> Vec<u8> {
            let at = usize::try_from(address).unwrap();
            assert!(at + length <= self.0.cut.length());
            // SAFETY: as in `write`.
            unsafe { std::slice::from_raw_parts(self.0.region.base().add(at).as_ptr(), length) }.to_vec()
        }

        pub(crate) fn cut(&self) -> Cut {
            self.0.cut
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const CUT: Cut = Cut { frames: 8, frame_size: 2048, headroom: 0 };

    #[test]
    fn frames_are_handed_out_once_until_they_come_back() {
        let mut umem = Umem::new(CUT, false).unwrap();
        let mut frames: Vec<_> = std::iter::from_fn(|| umem.take()).collect();
        let mut indices: Vec<_> = frames.iter().map(Frame::index).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..8).collect::<Vec<_>>());
        assert!(umem.take().is_none());

        let first = frames.remove(0);
        let first_index = first.index();
        umem.put(first);
        assert_eq!(umem.take().map(|frame| frame.index()), Some(first_index), "put back by hand, then dropped");
        drop(frames);
        assert_eq!(std::iter::from_fn(|| umem.take().map(std::mem::forget)).count(), 8, "dropped frames come back");
    }

    #[test]
    fn a_frame_outlives_the_umem_it_came_from() {
        let mut umem = Umem::new(CUT, false).unwrap();
        let mut frame = umem.take().unwrap();
        drop(umem);
        frame.copy_from(b"still mapped");
        assert_eq!(std::thread::spawn(move || frame.packet().to_vec()).join().unwrap(), b"still mapped");
    }

    #[test]
    #[should_panic(expected = "another socket")]
    fn a_frame_of_another_umem_is_refused() {
        let mut umem = Umem::new(CUT, false).unwrap();
        let frame = Umem::new(CUT, false).unwrap().take().unwrap();
        umem.put(frame);
    }

    #[test]
    #[should_panic(expected = "a packet of 1793 bytes in a frame with room for 1792")]
    fn a_packet_longer_than_the_frame_is_refused() {
        Umem::new(CUT, false).unwrap().take().unwrap().set_len(1793);
    }

    #[test]
    fn the_headroom_comes_before_the_kernels() {
        let mut umem = Umem::new(Cut { headroom: 64, ..CUT }, false).unwrap();
        let mut frame = umem.take().unwrap();
        frame.copy_from(&[1; 60]);
        assert_eq!(frame.descriptor(0).address, Address(64 + 256));
        assert_eq!(frame.capacity(), 2048 - 64 - 256);
    }

    proptest! {
        /// Whatever the kernel says, a packet never leaves its frame.
        #[test]
        fn a_received_packet_lies_in_its_frame_or_is_refused(offset: u32, length: u32) {
            let mut umem = Umem::new(CUT, false).unwrap();
            let mut frame = umem.take().unwrap();
            let fits = u64::from(offset) + u64::from(length) <= 2048;
            prop_assert_eq!(frame.received(offset, length), fits);
            prop_assert_eq!(frame.packet().len(), if fits { length as usize } else { 0 });
        }

        #[test]
        fn an_address_is_located_in_the_frame_that_covers_it(address: u64) {
            let umem = Umem::new(CUT, false).unwrap();
            let expected = (address < 8 * 2048).then_some(((address / 2048) as u32, (address % 2048) as u32));
            prop_assert_eq!(umem.locate(Address(address)), expected);
        }

        /// Packets written into all frames at once stay what they were.
        #[test]
        fn frames_do_not_overlap(packets in vec(vec(any::<u8>(), 0..1792), 8)) {
            let mut umem = Umem::new(CUT, false).unwrap();
            let mut frames: Vec<_> = std::iter::from_fn(|| umem.take()).collect();
            for (frame, packet) in frames.iter_mut().zip(&packets) {
                frame.tx_metadata().fill(0xff);
                frame.copy_from(packet);
            }
            for (frame, packet) in frames.iter().zip(&packets) {
                prop_assert_eq!(frame.packet(), packet);
            }
        }
    }
}
