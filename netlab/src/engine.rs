//! Plays a scenario; each way of playing has its own kind of truth.
//!
//! | engine | what it is | what its figures are |
//! |---|---|---|
//! | [`kernel`] | real packets through the qdiscs of this kernel | those of this machine at this moment |
//! | [`wire`] | real packets through a router of ours, with the virtual engine's queues | those of this machine at this moment, and how far to trust them |
//! | virtual | [`discrete`]: events in a heap, no packet and no clock | exact: the same from the same file and seed, anywhere |

pub mod discrete;
pub mod kernel;
pub mod line;
mod outcome;
pub mod wire;

pub use outcome::{BulkCount, LinkCount, Outcome, Probed};
