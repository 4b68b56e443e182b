//! Two arms, one verdict: is the other transit better, and can it be proven?

mod arm;
mod assignment;
mod difference;
mod error;
mod experiment;
mod findings;
mod ingest;
mod judge;
mod metric;
mod policy;
mod stratum;
mod verdict;
mod window;

pub mod steer;

pub use arm::arm;
pub use assignment::{MAX_KEY, bucket, bucket_of_bytes};
pub use error::Error;
pub use experiment::{
    Acceptance, Experiment, Hop, Identity, Key, KeyFrom, Margin, Mask, Mode, Paths, Policy, Share, Steer, Target,
    Windows,
};
pub use findings::{Answer, Arms, Checks, Findings, IspFindings, Ratio, Scope, Unjudged, When};
pub use ingest::{Ingest, Ingested, Input, Remark, Remarks, SESSIONS};
pub use judge::judge;
pub use metric::{Metric, Series};
pub use policy::{Decision, Reason, Topic};
pub use stratum::{Cell, Family};
pub use verdict::{Given, SCHEMA, Verdict, plan_sha256};
pub use window::{Evenings, Place, Window};
