//! Kernel-bypass mechanism: stamps as close to the wire as the kernel and the card allow. It knows packets, not experiments.
//!
//! *How long does a packet wait in my own host, before it is on the wire and after it has come off it?* Three planes answer here:
//!
//! ```text
//!              driver            stack                 socket
//! request ──►  XDP program  ──►  SO_TIMESTAMPING  ──►  recvmsg
//!               │ stamp T2, T3    software stamp        user space
//! reply   ◄──── XDP_TX
//! ```
//!
//! - [`XdpReflector`] is a STAMP Session-Reflector (RFC 8762) that lives in the driver. It turns a request round in its own
//!   buffer; everything that is not UDP to its port and addresses passes untouched. The kernel takes it back with the process.
//! - [`xsk`] takes datagrams past the stack to this process and back, each with the stamps that the driver has for it.
//! - [`timestamping`] gets the kernel's software stamps for datagrams of an ordinary socket, in both directions.
//!
//! ```no_run
//! use pathlab_xdp::{Counter, XdpReflector, XdpReflectorConfig};
//!
//! let reflector = XdpReflector::attach("eth1", &XdpReflectorConfig::new(862))?;
//! println!("answering in {} mode", reflector.mode());
//! // … until it is dropped …
//! let counters = reflector.counters()?;
//! assert_eq!(counters[Counter::Received], counters[Counter::Replied] + counters.refused());
//! # Ok::<(), pathlab_xdp::Error>(())
//! ```
//!
//! # What must hold around it
//!
//! - A reply by XDP_TX leaves by the port on which the request came, to the Ethernet address that it came from. It follows no
//!   route, so it cannot be steered, and no firewall sees it.
//! - The checksum is updated, not computed: what was right stays right. A local sender across a veth must have transmit checksum
//!   offload off ([`offload`]), or it hands over unfinished sums and discards the replies.
//! - Both ends of a veth need an XDP program for native XDP_TX: [`XdpPass`] is one.
//! - VLAN tags that the card strips (`ethtool -k`: `rx-vlan-offload`) are not seen. Answering for the addresses of the interface
//!   itself, as is the default, keeps a VLAN's traffic out of it; to answer inside a VLAN, turn that offload off.
//! - T2 and T3 are one software reading of `CLOCK_TAI`, less the offset that the kernel knows: a residence of zero says that it is
//!   below what this plane can resolve. What the driver takes until it sends, microseconds, comes after any reading that a program
//!   can make. [`XdpReflector::update_clock`] follows the offset.
//!
//! It keeps an allowlist and rate limits, and does no authentication and no TLVs (they are reflected as they came): [`HandOver`] leaves such requests to
//! AF_XDP sockets ([`XdpReflector::add`]) or to the stack.

mod abi;
mod allow;
mod attach;
pub mod clock;
mod config;
mod device_bound;
mod entry;
mod error;
mod interface;
mod maps;
pub mod nic;
mod object;
pub mod offload;
pub mod pacing;
mod program;
mod rates;
mod sys;
pub mod timestamping;
pub mod xsk;

pub use abi::{Counter, Counters};
pub use attach::{AttachedMode, XdpMode};
pub use clock::{NicClock, tai_minus_utc};
pub use config::{HandOver, XdpQuirks, XdpReflectorConfig};
pub use error::Error;
pub use object::{Action, TestRunOutcome};
pub use program::{ReflectorProgram, XdpPass, XdpReflector};
pub use rates::{Limits, RateLimit};
