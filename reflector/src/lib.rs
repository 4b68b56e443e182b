//! STAMP Session-Sender and Session-Reflector (RFC 8762): *is it the wire or the host?*
//!
//! A test packet is stamped wherever a place on its way will say when it passed, so that a round trip can be taken apart:
//!
//! ```text
//!   probe host                     path                     reflector host
//!
//!   A1 app ─► sched ─► kernel ───────────────────────► B2 kernel ─► app
//!                                                            │ residence = B3 - B2
//!   A4 app ◄─────────── kernel ◄───────────────────────────  B3 app ─► kernel
//!
//!   wire = (A4 - A1) - (B3 - B2): each bracket within one clock, so the hosts need not agree on the time
//! ```
//!
//! - [`wire`] is the packet codec: any bytes give a value or an error that names the field, never a panic.
//! - [`session`] is the reflector as a function: a datagram in, a reply or the one [`session::Reason`] for none out.
//! - [`datapath`] moves datagrams: [`datapath::StampedSocket`] with the kernel's stamps in both directions,
//!   [`datapath::AfXdpReflector`] past the stack with a worker a queue, and [`datapath::DriverReflector`], which answers by XDP before
//!   the stack has seen the request.
//! - [`prober`] is the Session-Sender: many sessions on an isochronous schedule, matched, sampled and split into the ledger.
//! - [`Metrics`] is the running account with the time in this host by place, and [`MetricsServer`] hands it out.
//! - [`Reflector`] puts rules and sockets together and keeps the account, a [`ReflectorReport`].
//!
//! ```
//! use std::{net::UdpSocket, thread};
//! use pathlab_reflector::{
//!     Reflector, ReflectorConfig, Stop, clock::realtime_now, datapath::SocketOptions,
//!     wire::{ErrorEstimate, ReflectedPacket, SenderPacket},
//! };
//! use zerocopy::IntoBytes;
//!
//! let mut reflector = Reflector::new(ReflectorConfig {
//!     listen: vec!["127.0.0.1:0".parse()?],
//!     socket: SocketOptions::stamped(),
//!     ..ReflectorConfig::default()
//! })?;
//! let (address, stop) = (reflector.local_addrs()[0], Stop::new()?);
//! thread::scope(|scope| {
//!     let running = scope.spawn(|| reflector.run(&stop));
//!
//!     let socket = UdpSocket::bind("127.0.0.1:0")?;
//!     let request = SenderPacket::new(0, realtime_now().into(), ErrorEstimate::from_nanos(1_000_000, false));
//!     socket.send_to(request.as_bytes(), address)?;
//!     let mut buffer = [0; 1500];
//!     let len = socket.recv(&mut buffer)?;
//!     let (reply, _) = ReflectedPacket::parse(&buffer[..len]).expect("44 octets");
//!     println!("received at {:?}, sent back at {:?}", reply.received_at(), reply.sent_at());
//!
//!     stop.request();
//!     running.join().expect("no panic")?;
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })?;
//! assert_eq!(reflector.report().replied, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a reflector promises
//!
//! STAMP has no magic number: any datagram of 44 octets or more to its port is a test packet. So a datagram under 44 octets gets no
//! reply; any other at most one, never longer than itself, never to the reflector's own port number, never to or from a broadcast or
//! multicast address. With keys ([`keys`]) what is not authentic gets none. Whatever arrives is counted under one reason: `received = replied + Σ refused + kernel_drops`, exactly.
//!
//! # What it does not do
//!
//! No encryption, and no memory of what was authentic before: a replayed packet is answered again. Location and Access Report TLVs go back
//! unanswered (flag U). Without a card that stamps, stamps are software; the card's are counted, and become B2 where its clock can be told in UTC ([`NicClock`](pathlab_xdp::NicClock)). Nothing here decides which path a packet takes, nor what its delay means.

pub mod clock;
pub mod datapath;
mod error;
pub mod keys;
mod metrics;
mod places;
pub mod prober;
mod reflect;
mod report;
pub mod session;
mod stop;
mod sys;
pub mod wire;

pub use error::Error;
pub use metrics::{Metrics, MetricsServer, Scrapes};
pub use pathlab_record::{Prefix, PrefixError};
pub use places::{BOUNDS, Bins, Place, Stages};
pub use reflect::{Reflector, ReflectorConfig};
pub use report::{FollowUps, HwCoverage, Quantiles, ReflectorReport};
pub use stop::Stop;
