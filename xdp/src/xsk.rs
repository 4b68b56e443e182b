//! AF_XDP sockets: packets between the driver and this process without the stack, with what is known of when they came and left.
//!
//! ```text
//!             XDP program ── redirect ──► rx ring ──► receive ─┐
//!  queue ──►  (Redirect)                                       │ Frame: one owner at a time
//!             driver  ◄── tx ring ◄── flush ◄── send ◄─────────┘
//!                └────► completion ring ──► complete ──► when it left
//! ```
//!
//! ```no_run
//! use pathlab_xdp::xsk::{Received, XskOptions, XskSocket};
//!
//! let mut socket = XskSocket::bind("eth1", 0, &XskOptions::default())?;
//! let (mut received, mut completed) = (Vec::new(), Vec::new());
//! # let turn_round = |_: &mut [u8]| ();
//! loop {
//!     socket.wait(std::time::Duration::from_millis(100))?;
//!     socket.receive(&mut received, 64)?;
//!     for Received { mut frame, record } in received.drain(..) {
//!         turn_round(frame.packet_mut());
//!         let cookie = record.and_then(|record| record.nic).unwrap_or(0).cast_unsigned();
//!         drop(socket.send(frame, cookie, true)); // a full tx ring loses the reply
//!     }
//!     socket.flush()?;
//!     socket.complete(&mut completed, 64);
//!     for sent in completed.drain(..) {
//!         println!("{}: {:?}", sent.cookie, sent.stamp);
//!     }
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), pathlab_xdp::Error>(())
//! ```
//!
//! Packets of one frame only (no `XDP_USE_SG`): an interface whose MTU does not fit a frame loses the long ones, counted.
//! UMEMs are not shared between sockets: one socket, one queue, one thread.

pub(crate) mod metadata;
mod options;
mod redirect;
mod region;
mod ring;
mod rings;
mod socket;
pub(crate) mod sys;
mod umem;

use crate::Error;

pub use metadata::{BindMode, Record, TransmitStamp};
pub use options::{BusyPoll, CopyMode, XskOptions};
pub use redirect::{NicStamps, Redirect, RedirectConfig, RedirectCounters};
pub use rings::{Completed, Received};
pub use socket::{Statistics, XskSocket};
pub use umem::Frame;
