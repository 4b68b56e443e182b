//! Two arms, one verdict: is the other transit better, and can it be proven?
//!
//! A share of the sessions takes the other path, every session stays on its arm, and at the end stands Promote, Hold or RollBack with reasons that
//! a sceptical provider can replay to the same bytes.
//!
//! ```text
//! canary.toml ─► steer: hash(seed, session) ─► arm ─► fwmark ─► table
//!                          │ the same function
//! sessions.jsonl ─► ingest ─► strata (ISP x family x evening) ─► judge ─► findings ─► policy ─► verdict.json
//! ```
//!
//! ```no_run
//! use std::path::Path;
//!
//! use pathlab_canary::{Experiment, Ingest, bucket, judge};
//!
//! let experiment = Experiment::from_toml("canary.toml", &std::fs::read_to_string("canary.toml")?)?;
//! let mut ingest = Ingest::new(&experiment)?;
//! for run in ["runs/prelude", "runs/evening-1", "runs/evening-2"] {
//!     ingest.run(Path::new(run))?;
//! }
//! let verdict = judge(&experiment, 0x5eed, &ingest.finish(), |seed, key| bucket(seed, key, experiment.key.from))?;
//! println!("{}", verdict.sentence);
//! std::fs::write("verdict.json", verdict.to_json())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it does not do: it measures nothing (the probe does), and it does not say why a path is better. Data without sessions may roll
//! back and never promote.

mod acceptance;
mod arm;
mod assignment;
mod described;
mod difference;
mod early;
mod error;
mod experiment;
mod findings;
mod ingest;
mod judge;
mod metric;
mod policy;
mod registration;
mod simulate;
mod stratum;
mod verdict;
mod window;

pub mod passive;
pub mod prometheus;
pub mod steer;

pub use acceptance::{Accepted, Held, Outcome, accept};
pub use arm::arm;
pub use assignment::{MAX_KEY, bucket, bucket_of_bytes};
pub use described::{Described, Description, PooledAnswer};
pub use early::{Early, Harm, Watched};
pub use error::Error;
pub use experiment::{
    Acceptance, Disclose, Experiment, Hop, Identity, Key, KeyFrom, Margin, Mask, Mode, Paths, Policy, Share, Steer,
    Target, Windows,
};
pub use findings::{Answer, Arms, Checks, Findings, IspFindings, Ratio, Scope, Unjudged, When};
pub use ingest::{Bucket, COHORTS, CohortBin, Ingest, Ingested, Input, Remark, Remarks, SESSIONS};
pub use judge::{judge, judge_if_near};
pub use metric::{Metric, Series};
pub use pathlab_stats::Interval;
pub use policy::{Decision, Reason, Topic};
pub use registration::{Direction, PLAN, Registered, Registration};
pub use simulate::{Alike, Controls, Effort, Sized, Wanted, alike, power};
pub use stratum::{Cell, Family, UNKNOWN};
pub use verdict::{Given, SCHEMA, Verdict, plan_sha256};
pub use window::{Evenings, Place, Window};
