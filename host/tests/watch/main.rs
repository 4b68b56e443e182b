//! Watching real packets, threads and sockets in a network namespace of the test's own.

mod drops;
mod killed;
mod pressure;
mod qdiscs;
mod softirq;
mod support;
mod throttling;
