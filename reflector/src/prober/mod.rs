//! The Session-Sender: test packets on an isochronous schedule, and what became of each of them.
//!
//! ```text
//! schedule ──slot──► engine ──send──► world (sockets, clocks)
//!                      │ ◄─reply, stamp─┘
//!                   matching ──settled packet──► recorder ──► tallies ──► report
//!                                                        ├──► session bins
//!                                                        ├──► samples
//!                                                        ├──► one-way delays, pairs
//!                                                        └──► progress
//! ```
//!
//! One thread drives any number of sessions. The schedule never waits for a reply (no coordinated omission); a slot is sent, or
//! counted as skipped or refused; a packet that was sent is received, late or lost, once. [`Schedule`], [`Matching`] and
//! [`Engine`] know neither socket nor clock: [`World`] is their edge, and its in-memory twin runs whole conversations in a test.
//!
//! ```no_run
//! use std::{sync::atomic::AtomicBool, time::Duration};
//!
//! use pathlab_reflector::prober::{Fan, ProbeOptions, probe};
//!
//! let sessions = Fan {
//!     targets: vec!["192.0.2.1:862".parse()?],
//!     sources: vec!["198.51.100.0/24".parse()?],
//!     source_port: Some(40_000),
//!     count: 50,
//!     ..Fan::default()
//! }
//! .sessions()?;
//! let options = ProbeOptions { duration: Some(Duration::from_secs(10)), ..ProbeOptions::default() };
//! let report = probe(&sessions, &options, &AtomicBool::new(false), &mut ())?;
//! println!("p95 {:?} ns between {}", report.total.rtt.map(|rtt| rtt.p95), report.rtt_between);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It does not say where in the path a delay arose, beyond probe host, wire and reflector host; and a base packet does not tell
//! at which place of its host the reflector took its stamps, so that its socket's queue may count as wire.

mod alone;
mod background;
mod clocks;
mod engine;
mod error;
mod fan;
mod host;
mod hull;
mod inside;
mod legs;
mod matching;
mod offset;
mod one_way;
mod output;
mod pace;
mod packet;
mod pairs;
mod passage;
mod progress;
mod recorder;
mod run;
mod schedule;
mod services;
mod sessions;
mod summary;
mod sys;

#[cfg(test)]
mod simulation;

pub use background::Background;
pub use clocks::Clocks;
pub use engine::{End, Engine, Now, Ready, Strays, Terms, Until, Watch, World};
pub use error::ProbeError;
pub use fan::Fan;
pub use inside::{Earlier, FollowUp, Inside};
pub use matching::{Counts, Matching, Patience, Settled, Sink, TransmitStamp};
pub use offset::Segment;
pub use one_way::{MOST_SEGMENTS, OneWayQuantiles, OneWayRow};
pub use output::{Kept, Output, RunOutput};
pub use pace::PacingReport;
pub use packet::{Question, Shape};
pub use pairs::{Difference, PairRow};
pub use passage::{Departure, Epochs, Ipdv, Passage, Reply};
pub use pathlab_xdp::pacing::{Class, Pace, Pacing};
pub use progress::Progress;
pub use recorder::{MOST_HOSTS, Recorder, Recording};
pub use run::{ProbeOptions, probe};
pub use schedule::{Due, LONGEST_INTERVAL, MOST_SESSIONS, Schedule, Slot};
pub use services::{ClassCounts, ClassesSeen, DirectCounts, Services};
pub use sessions::{SessionSpec, SocketPlan, parse_sessions, read_sessions};
pub use summary::{GroupRow, ProbeReport, Punctuality, Quantiles, Row, SCHEMA, SessionRow, SilentTarget, Split};
