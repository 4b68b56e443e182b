//! What each driver can stamp, and what we make of it: a table of facts read in driver source, and a plan from it for one port.
//!
//! ```text
//! facts (driver, ethtool -T, kernel) ─► rule (a row of the table) ─► plan: a plane for A1, A4, B2, B3; what is refused, and the remedy
//! ```
//!
//! Only a few drivers hand the card's stamps to XDP programs and AF_XDP sockets; most deliver them on the socket path alone. The plan
//! is a pure function, so that every driver's is tested without its card.

mod facts;
mod plan;
mod rules;

pub use crate::interface::interface_of;
pub use facts::{KernelVersion, NicFacts, PROFILE_VARIABLE, Rings, TsInfo, interfaces, queues, rings};
pub use plan::{Means, Plan, PlanOptions, Point, Refusal, Stamping};
pub use rules::{DriverRule, Quirk, RULES, Receive, Since, Slots};
