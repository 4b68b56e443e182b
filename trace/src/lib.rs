//! Which link loses the packets? UDP path tracing along the path that one flow really takes.
//!
//! Routers spread flows over parallel links by their addresses and ports. A tracer that varies a port draws a path that no packet of a session
//! takes, and blames the wrong router. Here every probe of a [`Flow`] has the same 5-tuple (and IPv6 flow label); several flows side by
//! side show the parallel links, each with its own loss.
//!
//! ```text
//!   TTL 1   ─► r1 ─X                          ICMP Time Exceeded from r1, quoting the probe
//!   TTL 2   ─► r1 ─► r2 ─X                                     from r2
//!   TTL 64  ─► r1 ─► r2 ─► r3 ─► reflector    a STAMP reply inside the same flow (else Port Unreachable)
//!                        └── a link is blamed when what is lost from here on is lost at the destination, too
//! ```
//!
//! - [`probe`] makes datagrams that are told apart by what every router quotes, [`icmp`] reads the quotations.
//! - [`Tracer`] is the run as a function: what to send when, and what each arrival means.
//! - [`blame`] weighs the counts: where loss that persists to the destination begins, and how sure that is.
//! - [`Network`] is the edge; [`socket::Sockets`] is the real one, [`simulation::Simulation`] one in memory, with faults.
//! - [`Report`] is the result, [`mtr`] the same in mtr's shape; [`foreign`] reads what other tools have seen.
//!
//! ```
//! use pathlab_trace::{Network, Plan, Report, simulation::{Fault, Simulation}, trace};
//!
//! let mut network = Simulation::chain(6, 1);
//! network.fault(Fault::forward(3, 0.3));
//! let plan = Plan { rounds: 200, ..Plan::default() };
//! let traced = trace(&mut network, &plan, &|| false)?;
//! let report = Report::new(&network.flows(), &plan, &traced);
//! assert_eq!(report.flows[0].verdict.link(), Some((2, 3)), "lost between the second and the third hop");
//! # Ok::<(), pathlab_trace::Error>(())
//! ```
//!
//! # What it does not do
//!
//! A router that answers only some of the probes has not lost the others: it may be told to answer seldom. Such hops say nothing, and
//! the blamed link becomes a stretch of links around them. Answers of routers come back their own way: loss on the return path
//! is told from loss on the way there only by a stateful reflector at the destination, and its link only by one that traces back ([`Plan::reverse`]). Paths are named by the addresses that routers give.

pub mod blame;
mod error;
mod flow;
pub mod foreign;
pub mod icmp;
mod legs;
pub mod mtr;
mod network;
pub mod probe;
mod reply;
mod report;
mod reverse;
mod run;
pub mod simulation;
pub mod socket;
mod sys;
mod tracer;
mod verdict;
mod way_back;
mod weighed;

pub use error::Error;
pub use flow::Flow;
pub use network::{Arrival, Departure, Network};
pub use report::{
    Destination, FlowReport, Hop, Network as HopNetwork, PathChange, PathReport, Refusal, Report, Rtt, Share,
};
pub use reverse::Reverse;
pub use run::trace;
pub use tracer::{Change, Plan, Traced, Tracer};
pub use verdict::{Direction, End, LEAST, Verdict};
pub use way_back::WayBack;
