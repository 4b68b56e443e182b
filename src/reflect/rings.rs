//! What can be asked of the AF_XDP sockets: rings, frames, and who moves the packets when.

use clap::{Args, ValueEnum};
use pathlab_xdp::xsk::{BusyPoll, CopyMode, XskOptions};

/// Of the afxdp and xdp datapaths, for each queue.
#[derive(Args)]
#[command(next_help_heading = "AF_XDP sockets (afxdp and xdp datapaths)")]
pub(super) struct Rings {
    /// Whether the card itself reads and writes the packets' memory
    #[arg(long, value_enum, default_value_t = Bind::Auto)]
    copy: Bind,
    /// Entries of each ring, a power of two [default: 2048, and where no size is given up to 8192 for what comes, in 128 MiB for all queues]
    #[arg(long, value_name = "N")]
    ring: Option<u32>,
    /// Entries of the fill ring, if another number: frames that wait for packets
    #[arg(long, value_name = "N")]
    fill_ring: Option<u32>,
    /// Entries of the completion ring, if another number
    #[arg(long, value_name = "N")]
    completion_ring: Option<u32>,
    /// Entries of the rx ring, if another number
    #[arg(long, value_name = "N")]
    rx_ring: Option<u32>,
    /// Entries of the tx ring, if another number
    #[arg(long, value_name = "N")]
    tx_ring: Option<u32>,
    /// Frames of the UMEM; as many as the fill and tx rings hold if not given
    #[arg(long, value_name = "N")]
    frames: Option<u32>,
    /// Bytes of a frame, a power of two from 2048 to the page size
    #[arg(long, value_name = "BYTES", default_value_t = XskOptions::default().frame_size)]
    frame_size: u32,
    /// Wake the kernel with every batch instead of only when it asks to be woken
    #[arg(long)]
    no_need_wakeup: bool,
    /// Look for packets without pause instead of waiting for an interrupt: one CPU a queue
    #[arg(long)]
    busy_poll: bool,
    /// Microseconds of one look
    #[arg(long, value_name = "N", requires = "busy_poll", default_value_t = BusyPoll::default().microseconds)]
    busy_poll_time: u16,
    /// Packets that one look may take
    #[arg(long, value_name = "N", requires = "busy_poll", default_value_t = BusyPoll::default().budget)]
    busy_poll_budget: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bind {
    Auto,
    Copy,
    ZeroCopy,
}

impl Rings {
    /// Whether the size of what packets come into is left to us.
    pub(super) fn unsized_rings(&self) -> bool {
        [self.ring, self.fill_ring, self.rx_ring, self.frames].iter().all(Option::is_none)
    }

    pub(super) fn options(&self) -> XskOptions {
        let ring = self.ring.unwrap_or(XskOptions::default().rx_ring);
        let (fill_ring, tx_ring) = (self.fill_ring.unwrap_or(ring), self.tx_ring.unwrap_or(ring));
        XskOptions {
            frames: self.frames.unwrap_or(fill_ring.saturating_add(tx_ring)),
            frame_size: self.frame_size,
            fill_ring,
            completion_ring: self.completion_ring.unwrap_or(ring),
            rx_ring: self.rx_ring.unwrap_or(ring),
            tx_ring,
            copy: match self.copy {
                Bind::Auto => CopyMode::Auto,
                Bind::Copy => CopyMode::Copy,
                Bind::ZeroCopy => CopyMode::ZeroCopy,
            },
            need_wakeup: !self.no_need_wakeup,
            busy_poll: self
                .busy_poll
                .then_some(BusyPoll { microseconds: self.busy_poll_time, budget: self.busy_poll_budget }),
            ..XskOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Asked {
        #[command(flatten)]
        rings: Rings,
    }

    fn rings(args: &str) -> Rings {
        let args = std::iter::once("test").chain(args.split_whitespace());
        Asked::try_parse_from(args).expect("allowed").rings
    }

    fn asked(args: &str) -> XskOptions {
        rings(args).options()
    }

    #[test]
    fn what_is_not_said_is_the_default_and_may_be_deepened() {
        assert_eq!(asked(""), XskOptions::default());
        assert!(rings("").unsized_rings() && rings("--tx-ring 64 --busy-poll").unsized_rings());
        for size in ["--ring 2048", "--rx-ring 64", "--fill-ring 4096", "--frames 512"] {
            assert!(!rings(size).unsized_rings(), "{size}");
        }
    }

    #[test]
    fn every_ring_and_the_umem_can_be_sized() {
        let XskOptions { frames, fill_ring, completion_ring, rx_ring, tx_ring, .. } = asked("--ring 64 --rx-ring 128");
        assert_eq!((frames, fill_ring, completion_ring, rx_ring, tx_ring), (128, 64, 64, 128, 64));
        let asked = asked("--fill-ring 16 --completion-ring 32 --tx-ring 8 --frames 7 --frame-size 4096");
        let XskOptions { frames, frame_size, fill_ring, completion_ring, rx_ring, tx_ring, .. } = asked;
        assert_eq!((frames, frame_size, fill_ring, completion_ring, rx_ring, tx_ring), (7, 4096, 16, 32, 2048, 8));
    }

    #[test]
    fn waking_and_polling_can_be_chosen() {
        assert!(!asked("--no-need-wakeup").need_wakeup);
        let polled = |args| asked(args).busy_poll;
        assert_eq!(polled("--busy-poll"), Some(BusyPoll::default()));
        let wanted = BusyPoll { microseconds: 50, budget: 8 };
        assert_eq!(polled("--busy-poll --busy-poll-time 50 --busy-poll-budget 8"), Some(wanted));
        assert!(Asked::try_parse_from(["test", "--busy-poll-budget", "8"]).is_err(), "of no use without --busy-poll");
    }
}
