//! What was put on the host, and how it is taken back.
//!
//! Every rule, route, namespace, changed setting or process that pathlab puts on a machine is an [`Object`]. Before it is put
//! there it is written to a [`Journal`]; at the end, on Ctrl-C and on a panic the journal is undone in reverse order.
//! After `kill -9` a [`Guardian`], a small process that holds none of these objects, undoes it instead. Should both
//! die, what is left is inert and [`leftovers`] lists it.
//!
//! ```text
//!            record(object), fsync                     undo(), newest first
//! controller ───────────────────► journal on disk ◄──────────────────────── controller, on a normal end
//!     │ spawns first                    ▲
//!     ▼            pidfd: it died       │ undo()
//! guardian ─────────────────────────────┘
//! ```
//!
//! ```no_run
//! use pathlab_guard::{Family, Guardian, Journal, Rtnetlink, Rule};
//!
//! # fn main() -> pathlab_guard::Result<()> {
//! let mut journal = Journal::create("canary", "jp-evening-b")?;
//! let _guardian = Guardian::spawn(&journal, ["guardian".as_ref()])?;
//! let rule = Rule { netns: None, family: Family::V4, priority: 10_000, fwmark: 0x1_0000, mask: 0xff_0000,
//!     udp_source_port: None, to: None, table: 222
//! }; journal.record(rule.clone())?; rule.add(&mut Rtnetlink::open(None)?)?; journal.undo()?;
//! # Ok(())
//! # }
//! ```
//!
//! It decides nothing about what to create, and it does not watch for others who change the same objects. The way back
//! is in-process netlink and plain system calls: nothing is forked or executed, so it works when the process table or
//! memory is short.

mod beside;
mod changed;
mod error;
mod guardian;
mod hwtstamp;
mod journal;
mod netns;
mod object;
mod process;
mod rtnetlink;
mod setting;
mod sys;
mod sysctl;

pub mod capabilities;
pub mod ethtool;
pub mod genetlink;
pub mod privilege;

pub use beside::{Beside, port_irqs};
pub use changed::{Changed, Moment};
pub use error::{Error, Result};
pub use guardian::{Guardian, watch};
pub use hwtstamp::{Hwtstamp, HwtstampConfig};
pub use journal::{Journal, Leftover, Undone, all, leftovers, undo_dir};
pub use netns::{NETNS_DIR, in_netns, with_own_sysfs};
pub use object::{Family, Object, PROTOCOL, Route, Rule};
pub use process::Process;
pub use rtnetlink::Rtnetlink;
pub use setting::{Setting, even_table, qdiscs};
pub use sysctl::Sysctl;

/// What fuzz targets hold true of any octets.
#[cfg(fuzzing)]
pub mod fuzzed {
    /// Of an answer of ethtool netlink.
    pub fn ethtool(octets: &[u8]) {
        crate::ethtool::any_octets(octets);
    }

    /// Of an answer of rtnetlink.
    pub fn rtnetlink(octets: &[u8]) {
        crate::rtnetlink::any_octets(octets);
    }
}
