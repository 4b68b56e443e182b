//! Two arms, one verdict: is the other transit better, and can it be proven?

mod arm;
mod assignment;
mod experiment;

pub mod steer;

pub use arm::arm;
pub use assignment::{MAX_KEY, bucket, bucket_of_bytes};
pub use experiment::{
    Acceptance, Experiment, Hop, Identity, Key, KeyFrom, Mask, Mode, Paths, Policy, Share, Steer, Target, Windows,
};
