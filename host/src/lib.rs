//! Is this host tuned for latency? It reads what decides how long a packet waits, judges it by rules that name their source, and says how to
//! change it and how to take the change back.
//!
//! ```text
//! Source ──► Facts ──► rules 1..23 ──► Audit ──► text, JSON
//!   │ Live: procfs, sysfs, ethtool netlink, rtnetlink, sock_diag
//!   │ Tree: the same, captured as plain files on another host
//!   `─ Recording: writes down what is read, so that a capture is exactly what an audit looks at
//! ```
//!
//! [`watch`] counts from inside the kernel, while the host works, what makes packets wait or loses them.
//!
//! Rules are pure functions of what a [`Source`] gives. What cannot be read is said, with the reason; nothing is guessed and nothing is
//! changed.

mod audit;
mod capture;
mod counters;
mod cpus;
mod ethtool;
mod facts;
mod live;
mod port;
mod qdisc;
mod rules;
mod source;
mod sys;
pub mod watch;
mod xdp_diag;

pub use audit::{Audit, Change, Entry, Expectation, Seen, State};
pub use capture::{Capture, SCHEMA};
pub use counters::{Counter, Meaning, meaning};
pub use cpus::Cpus;
pub use live::Live;
pub use source::{Recording, Source, Tree, Unread};

/// What fuzz targets hold true of any octets.
#[cfg(fuzzing)]
pub mod fuzzed {
    /// Of an answer of ethtool netlink.
    pub fn ethtool(octets: &[u8]) {
        crate::ethtool::any_octets(octets);
    }

    /// Of a dump of AF_XDP sockets.
    pub fn xdp_diag(octets: &[u8]) {
        crate::xdp_diag::any_octets(octets);
    }
}
