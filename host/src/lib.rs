//! Is this host tuned for latency? It reads what decides how long a packet waits, judges it by rules that name their source, and says how to
//! change it and how to take the change back.
//!
//! ```text
//! Source ──► Facts ──► rules 1..24 ──► Audit ──► text, JSON
//!   │ Live: procfs, sysfs, ethtool netlink, rtnetlink, sock_diag
//!   │ Tree: the same, captured as plain files on another host
//!   `─ Recording: writes down what is read, so that a capture is exactly what an audit looks at
//! ```
//!
//! Audit ──► Plan: what can be set, what cannot and why ──► pathlab_guard::Changed, one by one
//!
//! [`watch`] counts from inside the kernel, while the host works, what makes packets wait or loses them.
//!
//! Rules are pure functions of what a [`Source`] gives. What cannot be read is said, with the reason; nothing is guessed. An audit and a plan
//! change nothing; carrying a plan out is [`Plan::apply`]'s alone, over a journal.

mod audit;
mod capture;
mod change;
mod counters;
mod cpus;
mod facts;
mod live;
mod plan;
mod port;
mod processors;
mod qdisc;
mod rules;
mod source;
pub mod watch;
mod xdp_diag;

pub use audit::{Audit, Entry, Expectation, Seen, State};
pub use capture::{Capture, SCHEMA};
pub use change::{Change, Step};
pub use counters::{Counter, Meaning, meaning};
pub use cpus::Cpus;
pub use live::Live;
pub use plan::{Plan, Planned, Refused, Wish};
pub use source::{Recording, Source, Tree, Unread};

/// What fuzz targets hold true of any octets.
#[cfg(fuzzing)]
pub mod fuzzed {
    /// Of a dump of AF_XDP sockets.
    pub fn xdp_diag(octets: &[u8]) {
        crate::xdp_diag::any_octets(octets);
    }
}
