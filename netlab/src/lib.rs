//! A network in namespaces, described by a file: reproduce a bad evening on a laptop.
//!
//! A scenario file names nodes, links, rates, queues, the clients of ISPs, background load and when it comes. A [`lab::Lab`] plays it with real
//! packets in the real kernel: one network namespace for each node, veth between them, the kernel's token bucket and tail-drop queue where a
//! link is slow, real UDP load that fills it.
//!
//! ```text
//! scenarios/demo.toml ──► Scenario ──► Lab                       undo journal
//!                          checked     ├─ namespaces  ◄──────── each noted first,
//!                          by line     ├─ veth, addresses,      taken back in reverse
//!                                      │  routes, tbf           by us, the guardian,
//!                                      └─ load generators       or `lab down`
//! ```
//!
//! ```no_run
//! use std::time::Instant;
//!
//! use pathlab_netlab::{lab::Lab, scenario::Scenario};
//!
//! # fn main() -> pathlab_netlab::Result<()> {
//! let demo = Scenario::load("demo", Some("worse"))?;
//! print!("{}", demo.show());
//! let lab = Lab::up(&demo, "friday", demo.seed)?;
//! let _loads = lab.start_loads(Instant::now())?;
//! let server = lab.namespace("server")?;
//! let socket = server.run(|| std::net::UdpSocket::bind("203.0.113.10:862"))?;
//! # drop(socket);
//! for (node, interface, queue) in lab.queues()? {
//!     println!("{node}:{interface} dropped {}", queue.drops);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The same file can be played without packets, by the [`engine`] of discrete events over the [`queue`] models: for queues and delays that a
//! kernel lacks, and for figures that are the same to the last bit on every machine.
//!
//! A link whose queue, delay or loss this machine's kernel does not have is played by a router of ours between two veth pairs ([`engine::wire`]), which says
//! how well it kept its times.
//!
//! A lab in namespaces measures nothing but its own links and load: a link without a rate is as fast as the machine. Rates count Ethernet frames.

pub mod cidr;
pub mod engine;
pub mod error;
pub mod expectation;
pub mod impairment;
pub mod lab;
pub mod link;
pub mod load;
pub mod netlink;
pub mod netns;
pub mod qdisc;
pub mod queue;
pub mod ring;
pub mod scenario;
mod seeded;
pub mod steal;
mod sys;
pub mod sysctl;
pub mod traffic;
pub mod truth;

pub use error::{Error, Result};
