//! What was measured: stamps, clocks, the ledger of a round trip, samples, histograms, the run directory and its evidence.
//!
//! A leaf crate: every measuring crate writes these types and the judge reads them, so they live below all of them.
//!
//! ```text
//! A0 slot ─ A1 probe send ──────► B2 reflector receive
//!                                      │ residence
//! A4 probe receive ◄────────────── B3 reflector send
//! ```
//!
//! It does no measuring itself: nothing here opens a socket or reads a clock.

mod clock;
mod error;
mod histogram;
mod ledger;
mod sample;
mod session;
mod stamp;

pub use clock::{Clock, Interval, Monotonic, Realtime, Tai, Time};
pub use error::Error;
pub use histogram::SparseHistogram;
pub use ledger::{Ledger, Term};
pub use sample::{Arm, Labels, Outcome, Sample};
pub use session::{SessionBin, SessionKey, Window};
pub use stamp::{ClockId, Plane, Planes, Stamp, Stamps};
