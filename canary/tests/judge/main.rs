//! The judge on whole experiments: verdicts where the truth is known, replays, and how often chance misleads it.

mod acceptance;
mod chance;
mod coverage;
mod formats;
mod prometheus;
mod remarks;
mod replay;
mod schema;
mod simulator;
mod sizing;
mod verdicts;
