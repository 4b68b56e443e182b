//! Steering: sessions of the canary arm leave by another path, and come back in milliseconds when anything goes wrong.
//!
//! ```text
//! Controller (holds the owner socket) ── renews the lease ──► nf_tables table, flags owner
//!     │ control socket: status, ramp, rollback                  bucket → arm → gate (leased) → mark
//!     │ undo journal                                            ip rule: mark → table 222, both families
//! Guardian (holds nothing)                                      table 222: the canary path
//! ```
//!
//! | event | traffic on control | host as it was |
//! |---|---|---|
//! | `rollback`, Ctrl-C | at once: the gate goes first | at once |
//! | `kill -9`, crash | at once: the kernel removes the owner's table | within a second, by the guardian |
//! | SIGSTOP, hang | within the lease, and it stays so | when the process ends |
//! | guardian killed too | at once | unmarked rules and routes are left, inert; the next `rollback` removes them |
//!
//! ```no_run
//! use pathlab_canary::{Experiment, steer::{Controller, Options, Plan, read_seed}};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let experiment: Experiment = toml::from_str(&std::fs::read_to_string("canary.toml")?)?;
//! let seed = read_seed(&experiment.experiment.seed_file)?;
//! println!("{}", Plan::new(&experiment, seed)?);
//! let options = Options::with_guardian(["guardian"]);
//! let controller = Controller::start(&experiment, seed, &options)?;
//! controller.run(async { drop(tokio::signal::ctrl_c().await) }, |event| println!("{event:?}")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything happens in the network namespace of the calling thread. In router mode, fragments after the first carry
//! no ports and stay on control, and a path MTU that the canary path reports goes on to the host behind, which has one
//! route to a client and learns it for both arms. Only the direction from server to client is steered.

mod change;
mod control;
mod controller;
mod error;
mod nfnetlink;
pub(crate) mod object;
mod plan;
mod prefix;
mod preflight;
mod promote;
mod proof;
mod rules;
mod ruleset;
mod steering;

pub use change::{Change, Operator};
pub use control::{RUN_DIR, RolledBack, Status, promotion, ramp, rollback, status};
pub use controller::{Controller, Ended, Event};
pub use error::{Error, Result};
pub use plan::{Plan, ROUTE_TABLE, read_seed};
pub use preflight::missing_devices;
pub use promote::{PROMOTED, PROMOTED_TABLE, Promoted, promote, show};
pub use proof::{Departures, Proof};
pub use steering::{Halt, Observed, Options, Packets, Steering, TakenBack, VERB, observe};

/// For the fuzz target: whatever nf_tables answers is read without a panic.
#[cfg(fuzzing)]
pub fn fuzzed_nfnetlink(octets: &[u8]) {
    nfnetlink::any_octets(octets);
}
