//! What was measured, in a form that another person can check: stamps, ledger, samples, session bins, run directory, evidence.
//!
//! The question that starts every incident is *is it the wire or the host?* The answer is a [`Ledger`]: the time of one round trip, split into
//! stages whose sum is exact. Stamps are taken at these points, each at whatever planes the hosts offer:
//!
//! ```text
//!          probe host                         wire                    reflector host
//!
//!  A0 slot ─► A1 app ─► qdisc ─► A1 nic ─────────────► B2 nic ─► xdp ─► stack ─► B2 app
//!     sched_late    probe_tx                  │                residence           │
//!             A4 app ◄─ stack ◄─ A4 nic ◄───────────── B3 nic ◄─ driver ◄─ qdisc ◄─ B3 app
//!                  probe_rx                  wire
//! ```
//!
//! ```
//! use pathlab_record::{ClockId, Interval, Ledger, Planes, Stamp, Stamps, Term};
//!
//! let at = |app, kernel| Planes {
//!     app: Stamp::new(app, ClockId::Realtime, 0),
//!     kernel: Stamp::new(kernel, ClockId::Realtime, 45),
//!     ..Planes::default()
//! };
//! let stamps = Stamps {
//!     a0: at(1_000_000, 0), // zero is absent
//!     a1: at(1_000_412, 1_009_532),
//!     b2: at(700_000_568, 700_000_000), // the reflector's clock may say what it likes
//!     b3: at(700_001_500, 700_002_210),
//!     a4: at(32_827_157, 32_812_154),
//! };
//! let ledger = Ledger::split(&stamps).expect("A0 and A4 are there");
//! assert_eq!(ledger.wire(), Some(Interval::from_nanos(31_800_412)));
//! assert_eq!(ledger.reflector_host(), Some(Interval::from_nanos(2_210)));
//! assert_eq!(ledger.term(Term::ProbeRx), Some(Interval::from_nanos(15_003)));
//! assert_eq!(ledger.total(), stamps.a4.app.unwrap().since(stamps.a0.app.unwrap()).unwrap());
//! ```
//!
//! From there on: a [`Sample`] is one slot with its stamps and ledger; a [`SessionBin`] is what a session saw in a bin of time, its
//! distributions as [`SparseHistogram`]s; a [`RunDirectory`] is where a run puts both, seals them, and hashes them into a chain
//! ([`evidence`]) that [`verify`] checks; [`RecordedRun`] reads them again. `docs/formats.md` shows every file.
//!
//! What it does not do: measure. Nothing here opens a socket, reads a clock or draws a random number; times, salts and host facts are
//! the caller's. It does not judge either: quantiles of a histogram, yes; intervals, tests and verdicts are above.

mod addresses;
mod asn;
mod clock;
pub mod csv;
mod digest;
mod directory;
mod error;
pub mod evidence;
mod histogram;
mod hlog;
mod ledger;
mod prefix;
mod pseudonym;
mod recorded;
mod run;
mod sample;
mod session;
mod stamp;

pub use addresses::{AddressKey, Met, Pseudonyms, hardware_address, hardware_text};
pub use asn::{AsnTable, AsnTableBuilder, Network};
pub use clock::{Clock, Interval, Monotonic, Reading, Realtime, Tai, Time};
pub use digest::Digest;
pub use directory::RunDirectory;
pub use error::Error;
pub use evidence::{Head, Remains, Unsealed, pseudonymised, pseudonymised_tree, verify};
pub use histogram::SparseHistogram;
pub use hlog::LogInterval;
pub use ledger::{Inner, Ledger, Stage, Term};
pub use prefix::{Prefix, PrefixError};
pub use pseudonym::Salt;
pub use recorded::{RecordedRun, read_sessions};
pub use run::{KeepSamples, Run, Schema};
pub use sample::{Arm, Labels, OneWayDelay, Outcome, Sample};
pub use session::{SessionBin, SessionKey, Window};
pub use stamp::{ClockId, Plane, Planes, Stamp, Stamps};
