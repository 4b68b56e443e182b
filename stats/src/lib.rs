//! Is the difference real? Statistics that hold up for skewed, clustered latency data.
//!
//! Sixty packets of one player are worth little more than one: they share a path, a queue and an evening. So the unit here is the
//! session, every session weighs the same, and whatever is resampled or re-assigned takes a session whole.
//!
//! ```text
//! sessions ──► Pool (sorted once) ──► quantile by session weights ──► difference of two arms
//!                                          ▲                               │
//!                  resample sessions ──────┤                               ├──► interval (bootstrap)
//!                  re-draw the assignment ─┘                               └──► p (randomisation)
//! ```
//!
//! ```
//! use pathlab_stats::{Level, Pool};
//!
//! let mut pool = Pool::new(3);
//! pool.add(0, [(10, 60)]);         // unit 0: sixty packets at 10 ns
//! pool.add(1, [(20, 2), (30, 2)]); // unit 1: four packets weigh just as much
//! pool.add_dead(2);                // unit 2 never heard back
//! let pool = pool.sorted();
//! assert_eq!(pool.quantile(Level::P50, &[1, 1, 1]), Some(20.0));
//! assert_eq!(pool.quantile(Level::P95, &[1, 1, 1]), Some(f64::INFINITY));
//! ```
//!
//! Everything is a function of its arguments: the same seed gives the same bytes on one core and on sixty-four. It reads no files, knows
//! no packets and decides nothing; the policy that decides is in the canary's crate.

mod bootstrap;
mod error;
mod evidence;
mod interval;
mod masses;
mod near;
mod paired;
mod power;
mod probit;
mod proportion;
mod quantile;
mod randomisation;
mod ratio;
mod sequential;
mod stream;

pub use bootstrap::{acceleration, resample, resample_lane, standard_error};
pub use error::Error;
pub use evidence::Evidence;
pub use interval::{Confidence, Interval};
pub use near::{LANES, Listener, Near, Sessions};
pub use paired::paired_median;
pub use power::smallest_detectable;
pub use probit::Probit;
pub use proportion::{Rate, binomial_tail, design_effect, rate_difference, wilson};
pub use quantile::{Distribution, Level, Pool, PoolBuilder, skewness};
pub use randomisation::{MaxT, Tail};
pub use ratio::{SampleRatio, sample_ratio};
pub use sequential::{conditional_power, nominal, obrien_fleming, pocock};
pub use stream::{Generator, Replicates, generator, replicate, replicate_together};
