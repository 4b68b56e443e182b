//! Watching real packets, threads and sockets in a network namespace of the test's own.

mod cadence;
mod drops;
mod killed;
mod napi;
mod pressure;
mod qdiscs;
mod sched;
mod softirq;
mod sojourn;
mod support;
mod sys;
mod throttling;
