//! How test packets get in and out: loops and system calls, no rules.

mod af_xdp;
mod name;
mod receiver;
mod sender;
mod slots;
mod socket;
mod xdp;

pub use af_xdp::{AfXdpConfig, AfXdpReflector};
pub use receiver::{Datagram, Receiver};
pub use sender::{Outgoing, SendId, Sender, SentStamp, Undelivered};
pub use slots::{SlotCounts, TransmitSlots};
pub use socket::{SocketOptions, StampedSocket};
pub use xdp::DriverReflector;
