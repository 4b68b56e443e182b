//! How a socket is to be made, checked before the kernel is asked, because its only answer is `EINVAL`.

use super::{Error, umem::Cut};

/// `XDP_UMEM_MIN_CHUNK_SIZE` (`include/net/xdp_sock.h`).
const FRAME_SIZE_MIN: u32 = 2048;

/// Whether the card may read and write the frames itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Zero-copy where the driver has it, copy elsewhere; [`super::XskSocket::mode`] says which.
    #[default]
    Auto,
    /// `XDP_COPY`: works with every driver.
    Copy,
    /// `XDP_ZEROCOPY`: refused where the driver has none.
    ZeroCopy,
}

/// Lets the thread that reads the socket run the driver's receive side, instead of an interrupt.
///
/// It helps with `napi_defer_hard_irqs` and `gro_flush_timeout` of the interface set as well
/// (`Documentation/networking/napi.rst`); those are the host's to set, not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// `SO_BUSY_POLL`: microseconds that one call may look for packets.
    pub microseconds: u16,
    /// `SO_BUSY_POLL_BUDGET`: packets that one look may take.
    pub budget: u16,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { microseconds: 20, budget: 64 }
    }
}

/// How to make an [`super::XskSocket`].
///
/// A UMEM costs `frames * frame_size` bytes of locked memory. The default, 8 MiB, holds every frame that the fill and tx rings can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XskOptions {
    /// Frames in the UMEM.
    pub frames: u32,
    /// Bytes of one frame: a power of two from 2048 to the page size. A packet has 256 bytes and the headroom less.
    pub frame_size: u32,
    /// Bytes before the kernel's own 256, a multiple of 8. With the default, 32, the record before a packet begins a cache line: record, headers
    /// and STAMP base packet lie in two lines over IPv4, three without.
    pub headroom: u32,
    /// Take the UMEM from reserved 2 MiB pages (`vm.nr_hugepages`).
    pub huge_pages: bool,
    /// Entries of the fill ring, a power of two: frames that wait for packets.
    pub fill_ring: u32,
    /// Entries of the completion ring, a power of two.
    pub completion_ring: u32,
    /// Entries of the rx ring, a power of two. What does not fit is counted in [`super::Statistics::rx_ring_full`].
    pub rx_ring: u32,
    /// Entries of the tx ring, a power of two.
    pub tx_ring: u32,
    /// Copy or zero-copy.
    pub copy: CopyMode,
    /// `XDP_USE_NEED_WAKEUP`: no system call where the driver is awake anyhow. Without it each flush makes one.
    pub need_wakeup: bool,
    /// Busy polling; off when `None`.
    pub busy_poll: Option<BusyPoll>,
    /// Have the kernel read transmit metadata, which a transmit stamp needs. Kernels before 6.8 have none:
    /// [`super::XskSocket::tx_metadata`] says what came of it.
    pub tx_metadata: bool,
}

impl Default for XskOptions {
    fn default() -> Self {
        Self {
            frames: 4096,
            frame_size: 2048,
            headroom: 32,
            huge_pages: false,
            fill_ring: 2048,
            completion_ring: 2048,
            rx_ring: 2048,
            tx_ring: 2048,
            copy: CopyMode::Auto,
            need_wakeup: true,
            busy_poll: None,
            tx_metadata: true,
        }
    }
}

/// What deeper rings may take of memory, all sockets together: 128 MiB.
const DEEPENED: u64 = 128 << 20;

impl XskOptions {
    /// The same with deeper rings for packets that come, where the UMEMs of `sockets` such sockets together stay within 128 MiB: 8192 entries for up to 6
    /// sockets, 4096 for up to 10. For frames of 2048 bytes; fewer for longer ones.
    ///
    /// What waits there outlasts a reader that is held up: 8192 packets are 32 ms at 250,000 a second, 2048 are 8.
    #[must_use]
    pub fn deepened(self, sockets: u32) -> Self {
        let frames = DEEPENED / u64::from(sockets.max(1)) / u64::from(self.frame_size.max(1));
        let room = frames.saturating_sub(self.tx_ring.into());
        let deeper = |entries: &u32| *entries > self.rx_ring.max(self.fill_ring) && u64::from(*entries) <= room;
        match [8192, 4096].into_iter().find(deeper) {
            Some(entries) => Self { fill_ring: entries, rx_ring: entries, frames: entries + self.tx_ring, ..self },
            None => self,
        }
    }

    /// # Errors
    /// [`Error::Option`] for the first value outside its range.
    pub(crate) fn check(&self, page_size: u32) -> Result<Cut, Error> {
        let refuse = |option, value, allowed: String| Err(Error::Option { option, value, allowed });
        for (option, value) in [
            ("fill_ring", self.fill_ring),
            ("completion_ring", self.completion_ring),
            ("rx_ring", self.rx_ring),
            ("tx_ring", self.tx_ring),
        ] {
            if !value.is_power_of_two() {
                return refuse(option, value, "a power of two".into());
            }
        }
        if !self.frame_size.is_power_of_two() || !(FRAME_SIZE_MIN..=page_size).contains(&self.frame_size) {
            return refuse(
                "frame_size",
                self.frame_size,
                format!("a power of two from {FRAME_SIZE_MIN} to {page_size}"),
            );
        }
        if self.headroom > self.frame_size / 2 || !self.headroom.is_multiple_of(8) {
            return refuse("headroom", self.headroom, format!("a multiple of 8 up to {}", self.frame_size / 2));
        }
        if self.frames == 0 {
            return refuse("frames", self.frames, "at least 1".into());
        }
        Ok(Cut { frames: self.frames, frame_size: self.frame_size, headroom: self.headroom })
    }

    /// `sxdp_flags`.
    pub(crate) fn bind_flags(&self) -> u16 {
        let copy = match self.copy {
            CopyMode::Auto => 0,
            CopyMode::Copy => libc::XDP_COPY,
            CopyMode::ZeroCopy => libc::XDP_ZEROCOPY,
        };
        copy | if self.need_wakeup { libc::XDP_USE_NEED_WAKEUP } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_allowed() {
        let cut = XskOptions::default().check(4096).unwrap();
        assert_eq!((cut.frames, cut.frame_size, cut.headroom), (4096, 2048, 32));
    }

    #[test]
    fn rings_are_as_deep_as_memory_for_all_sockets_allows() {
        let sizes = |options: XskOptions| (options.fill_ring, options.rx_ring, options.frames, options.tx_ring);
        let default = XskOptions::default();
        assert_eq!(sizes(default.deepened(1)), (8192, 8192, 10_240, 2048));
        for (sockets, entries) in [(0, 8192), (6, 8192), (7, 4096), (10, 4096), (11, 2048), (u32::MAX, 2048)] {
            let deepened = default.deepened(sockets);
            assert_eq!((deepened.rx_ring, deepened.fill_ring), (entries, entries), "{sockets}");
            let memory = u64::from(sockets) * u64::from(deepened.frames) * u64::from(deepened.frame_size);
            assert!(entries == 2048 || memory <= DEEPENED, "{sockets}: {memory}");
            assert!(deepened.check(4096).is_ok());
        }
        let large = XskOptions { rx_ring: 16_384, ..default };
        assert_eq!(large.deepened(1), large, "what is larger stays");
        assert_eq!(XskOptions { frame_size: 4096, ..default }.deepened(4).rx_ring, 4096);
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_range() {
        let default = XskOptions::default();
        for (options, message) in [
            (XskOptions { rx_ring: 1000, ..default }, "rx_ring = 1000: allowed is a power of two"),
            (XskOptions { tx_ring: 0, ..default }, "tx_ring = 0: allowed is a power of two"),
            (
                XskOptions { frame_size: 1024, ..default },
                "frame_size = 1024: allowed is a power of two from 2048 to 4096",
            ),
            (
                XskOptions { frame_size: 8192, ..default },
                "frame_size = 8192: allowed is a power of two from 2048 to 4096",
            ),
            (XskOptions { headroom: 4, ..default }, "headroom = 4: allowed is a multiple of 8 up to 1024"),
            (XskOptions { headroom: 2048, ..default }, "headroom = 2048: allowed is a multiple of 8 up to 1024"),
            (XskOptions { frames: 0, ..default }, "frames = 0: allowed is at least 1"),
        ] {
            assert_eq!(options.check(4096).unwrap_err().to_string(), message);
        }
    }
}
