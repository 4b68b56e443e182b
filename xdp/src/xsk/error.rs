//! temporary
use std::io;

/// An error of this crate. Which side is at fault stands in the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The interface does not exist in this network namespace.
    #[error("no interface {interface:?} in this network namespace; see `ip link`")]
    NoInterface {
        /// As given.
        interface: String,
    },
    /// A value of [`XskOptions`] outside its range.
    #[error("{option} = {value}: allowed is {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// As given.
        value: u32,
        /// The range.
        allowed: String,
    },
    /// The interface has fewer queues.
    #[error("{interface} queue {queue}: it has {queues} queues (0-{last}); see `ethtool -l {interface}`", last = queues.saturating_sub(1))]
    NoQueue {
        /// As given.
        interface: String,
        /// As given.
        queue: u32,
        /// What the driver has.
        queues: u32,
    },
    /// Another AF_XDP socket is bound to the queue.
    #[error("{interface} queue {queue}: another AF_XDP socket has it; see `ss --xdp -p`")]
    QueueTaken {
        /// As given.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Zero-copy was asked for, and the driver has none or not with these settings.
    #[error("{interface} queue {queue}: the driver refuses zero-copy AF_XDP; copy mode works with every driver")]
    ZeroCopyRefused {
        /// As given.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call on an AF_XDP socket failed.
    #[error("{interface} queue {queue}: {call} on an AF_XDP socket failed")]
    Xsk {
        /// As given.
        interface: String,
        /// The queue.
        queue: u32,
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}
