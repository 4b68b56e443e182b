//! Two arms, one verdict: is the other transit better, and can it be proven?

mod experiment;

pub use experiment::{
    Acceptance, Experiment, Hop, Identity, Key, KeyFrom, Mask, Mode, Paths, Policy, Share, Steer, Target, Windows,
};
